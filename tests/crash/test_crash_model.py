"""What a crash may leave of files and names, by the model alone."""

from __future__ import annotations

import pytest
from crash.model import SECTOR
from crash.states import Frontier
from crash_kit import both, call, contents, disk_after, states

OLD, NEW = b"o" * SECTOR, b"n" * SECTOR


# Contents


def test_a_write_may_arrive_in_any_part_sector_by_sector() -> None:
    disk = disk_after(both(call("write", "f", data=NEW * 3)), {"f": OLD * 3})
    arrived = {tuple(content[at : at + 1] for at in (0, 512, 1024)) for content in contents(disk, "f") if content}
    assert arrived == {(a, b, c) for a in (b"o", b"n") for b in (b"o", b"n") for c in (b"o", b"n")}


def test_a_sector_arrives_whole_or_not_at_all() -> None:
    disk = disk_after(both(call("write", "f", data=NEW)), {"f": OLD})
    assert contents(disk, "f") == {OLD, NEW}


def test_a_write_that_begins_within_a_sector_leaves_what_stands_before_it() -> None:
    disk = disk_after(both(call("write", "f", data=b"n" * 100, offset=500)), {"f": OLD * 2})
    assert contents(disk, "f") == {
        OLD * 2,
        b"o" * 500 + b"n" * 100 + b"o" * 424,
        b"o" * 500 + b"n" * 12 + b"o" * 512,
        b"o" * 512 + b"n" * 88 + b"o" * 424,
    }


def test_writes_over_each_other_may_arrive_the_other_way_round() -> None:
    disk = disk_after(both(call("write", "f", data=b"1" * 512), call("write", "f", data=b"2" * 512)), {"f": OLD})
    assert contents(disk, "f") == {OLD, b"1" * 512, b"2" * 512}


def test_what_grew_reads_as_zeros_where_nothing_arrived() -> None:
    disk = disk_after(both(call("write", "f", data=NEW, offset=512)), {"f": OLD})
    assert contents(disk, "f") == {OLD, OLD + NEW, OLD + bytes(512)}


def test_the_size_may_lag_behind_the_writes() -> None:
    first, second = call("write", "f", data=NEW), call("write", "f", data=NEW, offset=512)
    assert contents(disk_after(both(first, second), {"f": b""}), "f") >= {b"", NEW, NEW * 2, bytes(512) + NEW}


def test_a_flush_settles_a_file() -> None:
    moments = both(call("write", "f", data=NEW * 2), call("sync", "f"))
    assert contents(disk_after(moments, {"f": OLD}), "f") == {NEW * 2}


def test_a_flush_settles_one_file_only() -> None:
    moments = both(call("write", "f", data=NEW), call("write", "g", data=NEW), call("sync", "f"))
    disk = disk_after(moments, {"f": OLD, "g": OLD})
    assert contents(disk, "f") == {NEW}
    assert contents(disk, "g") == {OLD, NEW}


def test_a_write_under_way_when_a_flush_begins_is_not_settled_by_it() -> None:
    write, flush = call("write", "f", data=NEW), call("sync", "f")
    overlapping = [(write, "begin"), (flush, "begin"), (write, "end"), (flush, "end")]
    assert contents(disk_after(overlapping, {"f": OLD}), "f") == {OLD, NEW}
    earlier = [(write, "begin"), (write, "end"), (flush, "begin"), (flush, "end")]
    assert contents(disk_after(earlier, {"f": OLD}), "f") == {NEW}


def test_a_flush_under_way_has_settled_nothing_yet() -> None:
    write, flush = call("write", "f", data=NEW), call("sync", "f")
    assert contents(disk_after([(write, "both"), (flush, "begin")], {"f": OLD}), "f") == {OLD, NEW}


def test_a_cut_may_not_have_arrived_though_later_writes_have() -> None:
    moments = both(call("truncate", "f", size=0), call("write", "f", data=NEW))
    found = contents(disk_after(moments, {"f": OLD * 2}), "f")
    assert {OLD * 2, b"", NEW, NEW + OLD, bytes(512)} <= found


def test_what_was_cut_off_does_not_come_back_when_the_file_grows_again() -> None:
    moments = both(call("truncate", "f", size=0), call("extend", "f", size=1024), call("sync", "f"))
    assert contents(disk_after(moments, {"f": OLD * 2}), "f") == {bytes(1024)}


def test_a_write_of_what_stands_there_already_makes_no_other_state() -> None:
    disk = disk_after(both(call("write", "f", data=OLD * 100)), {"f": OLD * 100})
    assert Frontier(disk, "seed").possible == 1


# Names


def test_a_new_file_may_be_gone_until_its_directory_is_flushed() -> None:
    made = both(call("create", "d/f"), call("write", "d/f", data=NEW), call("sync", "d/f"))
    assert contents(disk_after(made, {"d": None}), "d/f") == {None, NEW}
    assert contents(disk_after([*made, *both(call("sync", "d"))], {"d": None}), "d/f") == {NEW}


def test_all_below_a_directory_whose_name_was_not_flushed_may_be_gone() -> None:
    moments = both(
        call("mkdir", "d"),
        call("create", "d/f"),
        call("write", "d/f", data=NEW),
        call("sync", "d/f"),
        call("sync", "d"),
    )
    assert {"d/f" in files for files in states(disk_after(moments))} == {True, False}
    assert all("d/f" in files for files in states(disk_after([*moments, *both(call("sync", ""))])))


def test_a_rename_never_loses_both_names() -> None:
    moments = both(call("create", "tmp"), call("write", "tmp", data=NEW), call("sync", "tmp"), call("sync", ""))
    moments += both(call("rename", "tmp", target="f"))
    found = {(files.get("tmp"), files.get("f")) for files in states(disk_after(moments))}
    assert found == {(NEW, None), (NEW, NEW), (None, NEW)}


def test_a_rename_over_another_file_leaves_the_one_or_the_other() -> None:
    moments = both(call("create", "tmp"), call("write", "tmp", data=NEW), call("sync", "tmp"))
    moments += both(call("rename", "tmp", target="f"))
    assert contents(disk_after(moments, {"f": OLD}), "f") == {OLD, NEW}
    assert contents(disk_after([*moments, *both(call("sync", ""))], {"f": OLD}), "f") == {NEW}


def test_a_file_renamed_before_its_flush_may_be_torn_under_its_new_name() -> None:
    moments = both(call("create", "tmp"), call("write", "tmp", data=NEW * 2), call("rename", "tmp", target="f"))
    moments += both(call("sync", ""))
    assert contents(disk_after(moments), "f") > {NEW * 2, b"", NEW + bytes(512)}


def test_flushing_the_old_directory_of_a_rename_makes_the_new_name_durable_first() -> None:
    files = {"a/f": NEW, "b": None}
    moments = both(call("rename", "a/f", target="b/f"), call("sync", "a"))
    found = {(each.get("a/f"), each.get("b/f")) for each in states(disk_after(moments, files))}
    assert found == {(None, NEW)}


def test_flushing_the_new_directory_of_a_rename_may_leave_the_old_name() -> None:
    moments = both(call("rename", "a/f", target="b/f"), call("sync", "b"))
    found = {(each.get("a/f"), each.get("b/f")) for each in states(disk_after(moments, {"a/f": NEW, "b": None}))}
    assert found == {(None, NEW), (NEW, NEW)}


def test_a_file_that_was_removed_may_be_there_still() -> None:
    disk = disk_after(both(call("remove", "f")), {"f": OLD})
    assert contents(disk, "f") == {OLD, None}
    disk = disk_after(both(call("remove", "f"), call("sync", "")), {"f": OLD})
    assert contents(disk, "f") == {None}


def test_a_file_made_anew_under_the_name_of_one_that_was_removed() -> None:
    moments = both(call("remove", "f"), call("create", "f"), call("write", "f", data=NEW))
    assert contents(disk_after(moments, {"f": OLD}), "f") == {OLD, None, b"", bytes(512), NEW}


# Controls and damage


def test_without_flushes_nothing_is_ever_durable() -> None:
    moments = both(call("write", "f", data=NEW), call("sync", "f"))
    assert contents(disk_after(moments, {"f": OLD}, flushes="none"), "f") == {OLD, NEW}


def test_without_flushes_of_directories_names_are_not() -> None:
    moments = both(call("create", "f"), call("write", "f", data=NEW), call("sync", "f"), call("sync", ""))
    assert contents(disk_after(moments, flushes="files"), "f") == {None, NEW}


def test_a_torn_block_takes_its_durable_neighbours_along() -> None:
    disk = disk_after(both(call("write", "f", data=NEW, offset=4096 + 512)), {"f": OLD * 24})
    torn = [content for content in contents(disk, "f", block=4096) if content not in (None, OLD * 24)]
    assert any(content is not None and content[4096:4608] != OLD for content in torn)
    for content in torn:
        assert content is not None
        assert content[:4096] == OLD * 8
        assert content[8192:] == OLD * 8


def test_a_block_without_a_write_in_flight_is_not_torn() -> None:
    moments = both(call("write", "f", data=NEW), call("sync", "f"))
    assert contents(disk_after(moments, {"f": OLD * 24}), "f", block=4096) == {NEW + OLD * 23}


# Which states are made


def test_few_states_are_all_made_by_the_plan() -> None:
    disk = disk_after(both(call("write", "f", data=NEW * 7)), {"f": OLD * 7})
    frontier = Frontier(disk, "seed")
    assert frontier.possible == 2**7
    assert len({frontier.build(frontier.choice(n))["f"] for n in range(frontier.planned)}) == 2**7


@pytest.mark.parametrize("number", [0, 1, 5, 40, 1000])
def test_a_number_always_names_the_same_state(number: int) -> None:
    writes = [call("write", "f", data=NEW * 9, offset=512 * place) for place in range(20)]
    one, other = (Frontier(disk_after(both(*writes), {"f": b""}), "seed") for _ in range(2))
    assert one.build(one.choice(number)) == other.build(other.choice(number))
    assert one.choice(number) == other.choice(number)


def test_the_plan_tears_each_write_and_leaves_each_out() -> None:
    writes = [call("write", "f", data=bytes([65 + place]) * 1024, offset=1024 * place) for place in range(10)]
    frontier = Frontier(disk_after(both(*writes), {"f": b""}), "seed")
    made = {frontier.build(frontier.choice(n))["f"] for n in range(frontier.planned)}
    whole = b"".join(each.data for each in writes)
    for place in range(10):
        gap = whole[: 1024 * place] + bytes(1024) + whole[1024 * (place + 1) :]
        half = whole[: 1024 * place] + bytes(512) + whole[1024 * place + 512 :]
        assert gap in made
        assert half in made


def test_a_state_is_described_by_what_did_not_arrive() -> None:
    moments = both(call("create", "d/f"), call("write", "d/g", data=NEW * 2))
    frontier = Frontier(disk_after(moments, {"d/g": OLD * 2}), "seed")
    words = "\n".join(frontier.describe(frontier.choice(0)))
    assert "'f'" in words
    assert "d/g: 0 of 2 sectors" in words
    assert frontier.describe(frontier.choice(1)) == ["everything that was written has arrived"]
