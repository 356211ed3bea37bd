"""Reading what strace wrote, and what is expected after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash.expect import Expectation
from crash.strace import Unmodelled, read
from crash_kit import both, call


def hexed(text: str) -> str:
    """Return text as strace prints it under -xx."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def trace(tmp_path: Path, *lines: str) -> list[tuple[str, str, str]]:
    """Return kind, path and phase of what is read from lines; names in braces are paths below the root."""
    text = "".join(f"{line}\n" for line in lines)
    for part in text.split("{")[1:]:
        name = part.split("}")[0]
        text = text.replace(f"{{{name}}}", hexed(f"/root{name}"))
    (tmp_path / "trace").write_text(text)
    return [(each.kind, each.path, phase) for each, phase in read(str(tmp_path / "trace"), "/root")]


def test_calls_on_files_below_the_root_are_read_in_order(tmp_path: Path) -> None:
    assert trace(
        tmp_path,
        '7 1.0 mkdir("{/d}", 0700) = 0',
        '7 1.1 openat(AT_FDCWD<\\x2f>, "{/d/f}", O_RDWR|O_CREAT, 0600) = 3<{/d/f}>',
        '7 1.2 pwrite64(3<{/d/f}>, "\\x61\\x62", 2, 10) = 2',
        "7 1.3 fdatasync(3<{/d/f}>) = 0",
        '7 1.4 rename("{/d/f}", "{/d/g}") = 0',
        '7 1.5 unlink("{/d/g}") = 0',
    ) == [
        ("mkdir", "d", "both"),
        ("create", "d/f", "both"),
        ("write", "d/f", "both"),
        ("sync", "d/f", "both"),
        ("rename", "d/f", "both"),
        ("remove", "d/g", "both"),
    ]


def test_calls_that_failed_or_are_elsewhere_are_passed_over(tmp_path: Path) -> None:
    assert (
        trace(
            tmp_path,
            '7 1.0 mkdir("{/d}", 0700) = -1 EEXIST (File exists)',
            f'7 1.1 pwrite64(3<{hexed("/elsewhere/f")}>, "\\x61", 1, 0) = 1',
            '7 1.2 pwrite64(4<{/queue.db-shm}>, "\\x61", 1, 0) = 1',
            "7 1.3 fdatasync(3<{/f}>(deleted)) = 0",
            "7 1.4 +++ killed by SIGKILL +++",
        )
        == []
    )


def test_a_call_that_strace_split_begins_and_ends_where_it_did(tmp_path: Path) -> None:
    assert trace(
        tmp_path,
        "7 1.0 fdatasync(3<{/f}> <unfinished ...>",
        '8 1.1 pwrite64(3<{/f}>, "\\x61", 1, 0) = 1',
        "7 1.2 <... fdatasync resumed>) = 0",
    ) == [("sync", "f", "begin"), ("write", "f", "both"), ("sync", "f", "end")]


def test_a_call_that_never_returned_was_not_made(tmp_path: Path) -> None:
    assert trace(tmp_path, '7 1.0 pwrite64(3<{/f}>, "\\x61", 1, 0) = ?', "7 1.1 fsync(3<{/f}> <unfinished ...>") == []


def test_plain_writes_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    lines = (
        f'7 1.0 openat(AT_FDCWD<\\x2f>, "{hexed("/root/f")}", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 3<{hexed("/root/f")}>',
        f'7 1.1 write(3<{hexed("/root/f")}>, "\\x61\\x62", 2) = 2',
        f'7 1.2 write(3<{hexed("/root/f")}>, "\\x63\\x64", 2) = 1',
        f'7 1.3 write(3<{hexed("/root/f")}>, "\\x64", 1) = 1',
    )
    (tmp_path / "trace").write_text("\n".join(lines) + "\n")
    writes = [each for each, _ in read(str(tmp_path / "trace"), "/root") if each.kind == "write"]
    assert [(each.offset, each.data) for each in writes] == [(0, b"ab"), (2, b"c"), (3, b"d")]


def test_marks_are_read(tmp_path: Path) -> None:
    message = hexed('/MARK/["receipt",1,["id"]]')
    line = f'7 1.0 newfstatat(AT_FDCWD<\\x2f>, "{message}", 0x7ffe, 0) = -1 ENOENT (No such file or directory)'
    assert trace(tmp_path, line) == [("mark", '["receipt",1,["id"]]', "both")]


@pytest.mark.parametrize(
    "line",
    [
        "7 1.0 pwritev(3<{/f}>, [{...}], 1, 0) = 4",
        "7 1.0 fallocate(3<{/f}>, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 4096) = 0",
        '7 1.0 openat(AT_FDCWD<\\x2f>, "{/f}", O_WRONLY|O_APPEND) = 3<{/f}>',
        '7 1.0 truncate("{/f}", 0) = 0',
        "7 1.0 copy_file_range(4<{/g}>, NULL, 3<{/f}>, NULL, 100, 0) = 100",
    ],
)
def test_what_the_model_does_not_know_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(Unmodelled):
        trace(tmp_path, line.replace("{...}", "..."))


# What is expected


def learned(durability: str, *messages: str) -> Expectation:
    """Return what is expected after marks; "sync" stands for a flush of the WAL."""
    expectation = Expectation(durability)
    for each in messages:
        what = call("sync", "var/queue.db-wal") if each == "sync" else call("mark", each)
        expectation.learn(both(what)[0])
    return expectation


INTENT, RECEIPT = '["intent",1,1,[10,10],"","main"]', '["receipt",1,["a","b"]]'


def test_a_receipted_event_is_required() -> None:
    assert learned("power", INTENT).required == set()
    assert learned("power", INTENT).in_doubt == {1, 2}
    assert learned("power", INTENT, RECEIPT).required == {1, 2}
    assert learned("power", INTENT, RECEIPT).in_doubt == set()


def test_at_durability_process_only_what_was_flushed_since_is() -> None:
    assert learned("process", INTENT, RECEIPT).required == set()
    assert learned("process", INTENT, RECEIPT).window == {1, 2}
    assert learned("process", INTENT, "sync", RECEIPT).required == set()
    assert learned("process", INTENT, RECEIPT, "sync").required == {1, 2}
    assert learned("process", INTENT, RECEIPT, "sync").window == set()


def test_a_flush_that_began_before_a_receipt_does_not_cover_it() -> None:
    expectation = learned("process", INTENT)
    flush = call("sync", "queue.db-wal")
    expectation.learn((flush, "begin"))
    expectation.learn((call("mark", RECEIPT), "both"))
    expectation.learn((flush, "end"))
    assert expectation.window == {1, 2}


def test_what_the_first_crash_left_must_stay_and_what_it_took_cannot_come_back() -> None:
    known = learned("process", INTENT, RECEIPT).after_crash({1})
    assert known.required == {1}
    known.learn(both(call("sync", "queue.db-wal"))[0])
    assert known.required == {1}
