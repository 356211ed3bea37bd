"""Damage in the WAL, which SQLite takes for its end: what had been flushed behind it comes back all the same.

And the other way round: what a crash leaves at the end of a WAL, and what failed transactions leave, is not damage and
must not be read back.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from damage_kit import FRAME, HEADER, Sample, damaged, judge, make_sample
from faults_kit import PAGE, OpenQueue, record, records
from hypothesis import given
from hypothesis import strategies as st

from edgespool.queue import DiskQueue, salvage
from edgespool.queue import wal as module
from edgespool.queue.pages import Pages
from edgespool.queue.wal import Wal

Spoil = Callable[[bytearray, int, random.Random], None]


def scramble(content: bytearray, at: int, rng: random.Random) -> None:
    end = min(at + PAGE, len(content))
    content[at:end] = rng.randbytes(end - at)


def zero(content: bytearray, at: int, rng: random.Random) -> None:
    end = min(at + PAGE, len(content))
    content[at:end] = bytes(end - at)


def flip_one(content: bytearray, at: int, rng: random.Random) -> None:
    content[min(at + rng.randrange(PAGE), len(content) - 1)] ^= 1 << rng.randrange(8)


def marks(sample: Sample) -> list[int]:
    """Return the frames that repeat the one before: the ends of flushed commits."""
    wal = sample.files["queue.db-wal"]
    found = []
    for index in range(1, len(sample.frames)):
        at = HEADER + index * FRAME
        if wal[at : at + 8] == wal[at - FRAME : at - FRAME + 8] and wal[at + 4 : at + 8] != bytes(4):
            found.append(index)
    return found


@pytest.mark.parametrize("spoil", [scramble, zero, flip_one])
def test_with_any_part_of_the_wal_damaged_what_was_flushed_behind_it_comes_back(
    crashed: Sample, open_queue: OpenQueue, quick_path: Path, spoil: Spoil
) -> None:
    rng = random.Random(spoil.__name__)
    flushed = marks(crashed)
    whole = crashed.files["queue.db-wal"]
    newest_two = {"a568", "a569"}
    proven = 0
    for at in range(HEADER, HEADER + len(crashed.frames) * FRAME, 5 * PAGE // 2):
        content = bytearray(whole)
        spoil(content, at, rng)
        first, last = (at - HEADER) // FRAME, min((at + PAGE - 1 - HEADER) // FRAME, len(crashed.frames) - 1)
        broken = set(range(first, last + 1))
        verdict = damaged(crashed, quick_path, open_queue, f"at{at}", wal=content)
        hurt = {
            name
            for name, pages in crashed.pages.items()
            if any(crashed.newest.get(page) in broken for page in pages)
        }
        if last < flushed[-2] - 1:
            assert verdict.lost <= hurt, f"frames {broken}"
            assert "of its WAL is broken" in str(verdict.reports[0]["why"])
            proven += 1
        else:
            # Too near the end to be told from the tail of a crash.
            assert verdict.lost <= hurt | newest_two, f"frames {broken}"
    assert proven > 15


def test_a_wal_whose_header_is_damaged_is_read_back(
    crashed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    for name, header in (("zeroed", bytes(HEADER)), ("scrambled", random.Random(1).randbytes(HEADER))):
        content = header + crashed.files["queue.db-wal"][HEADER:]
        verdict = damaged(crashed, quick_path, open_queue, name, wal=content)
        assert verdict.reports
        assert not verdict.lost


def test_a_header_that_breaks_when_a_wal_starts_over_is_no_damage(open_queue: OpenQueue, tmp_path: Path) -> None:
    """By then the file holds all that the WAL does."""
    queue = open_queue()
    for number in range(20):
        queue.append([record(number)])
    queue._store.checkpoint()
    files = {name: (tmp_path / "queue" / name).read_bytes() for name in ("queue.db", "queue.db-wal")}
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "queue.db").write_bytes(files["queue.db"])
    (copy / "queue.db-wal").write_bytes(bytes(HEADER) + files["queue.db-wal"][HEADER:])
    again = open_queue(copy)
    assert again.salvaged is None
    assert again.count_rows() == 20
    again.append([record("after")])
    assert again.count_rows() == 21


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_header_that_breaks_leaves_no_frames_of_rounds_before_the_last_in_force(
    open_queue: OpenQueue, tmp_path: Path, acknowledged: bool
) -> None:
    """What is left of them is older than the file. Nothing in the frames themselves says so."""
    queue = open_queue()
    for number in range(20):
        queue.append([record(number)])
    queue._store.checkpoint()
    if acknowledged:
        batch = queue.lease(5, 1 << 20)
        assert batch is not None
        queue.ack(batch)
    else:
        queue.append([record("last")])  # a short round, over the first frames of the one before
    queue._store.checkpoint()
    files = {name: (tmp_path / "queue" / name).read_bytes() for name in ("queue.db", "queue.db-wal")}
    before = queue.ledger(), queue.count_rows()
    for spoilt in range(HEADER, HEADER + 6 * FRAME, PAGE):  # the next round was being begun
        copy = tmp_path / f"copy{spoilt}"
        copy.mkdir()
        (copy / "queue.db").write_bytes(files["queue.db"])
        (copy / "queue.db-wal").write_bytes(bytes(spoilt) + files["queue.db-wal"][spoilt:])
        again = open_queue(copy)
        assert again.salvaged is None
        assert (again.ledger(), again.count_rows()) == before
        again.close()
    # Nor when the file has to be salvaged for another reason.
    copy = tmp_path / "copy"
    copy.mkdir()
    content = bytearray(files["queue.db"])
    content[:100] = bytes(100)
    (copy / "queue.db").write_bytes(content)
    (copy / "queue.db-wal").write_bytes(bytes(2 * FRAME) + files["queue.db-wal"][2 * FRAME :])
    again = open_queue(copy)
    assert again.salvaged is not None
    assert (again.salvaged.kept, again.salvaged.lost) == (before[1], 0)


Work = Callable[[DiskQueue], None]
_numbers = itertools.count()


def _nothing(queue: DiskQueue) -> None:
    pass


def _append(queue: DiskQueue) -> None:
    queue.append([record(f"{next(_numbers):05}", size=600)])  # all of a size: a page half written over can be read


def _append_to_route(queue: DiskQueue) -> None:
    queue.append([record(f"{next(_numbers):05}", "named", size=600)])


def _acknowledge(queue: DiskQueue) -> None:
    batch = queue.lease(2, 1 << 20)
    assert batch is not None
    queue.ack(batch)


@pytest.mark.parametrize("start", [1, 3, 5])
@pytest.mark.parametrize("last", [_append, _append_to_route, _acknowledge])
@pytest.mark.parametrize("before", [_nothing, _append, _append_to_route, _acknowledge])
def test_whatever_arrived_of_a_round_that_was_being_begun_nothing_older_counts(
    open_queue: OpenQueue, tmp_path: Path, quick_path: Path, before: Work, last: Work, start: int
) -> None:
    """A power cut while a WAL starts over: its first blocks are destroyed, behind them are sectors of three rounds."""
    names = ("queue.db", "queue.db-wal")
    queue = open_queue()
    for work in [_append] * start:
        work(queue)
    queue._store.checkpoint()
    for work in (*[_append, _append_to_route] * 4, _acknowledge, *[_append] * 6, _append_to_route, _append):
        work(queue)
    queue._store.checkpoint()
    before(queue)
    queue._store.checkpoint()
    at_first = set(_waiting(queue))
    file, old = ((tmp_path / "queue" / name).read_bytes() for name in names)
    last(queue)
    at_last = set(_waiting(queue))
    new = (tmp_path / "queue" / "queue.db-wal").read_bytes()
    written = max(at for at in range(0, len(old), 512) if new[at : at + 512] != old[at : at + 512]) + 512
    dice = random.Random(f"{before.__name__} {last.__name__} {start}")
    for state in range(30):
        content = bytearray(old + new[len(old) :])
        share = dice.choice((0.0, 0.3, 0.7, 1.0))
        for at in range(0, written, 512):
            if dice.random() < share:
                content[at : at + 512] = new[at : at + 512]
        broken = PAGE * dice.choice((1, 1, 2, 3))
        content[:broken] = bytes(broken)
        copy = quick_path / f"state{state}"
        copy.mkdir()
        for name, made in zip(names, (file, content), strict=True):
            (copy / name).write_bytes(made)
        again = open_queue(copy)
        found = set(_waiting(again))
        counted = again.salvaged.again if again.salvaged is not None else 0
        assert at_first & at_last <= found, "lost"
        assert len(found - at_first - at_last) <= counted, "brought back, and not counted"
        assert again.ledger().balanced
        again.close()


@pytest.mark.parametrize("work", [_append, _acknowledge])
def test_a_frame_that_is_half_written_over_proves_nothing(open_queue: OpenQueue, tmp_path: Path, work: Work) -> None:
    """Its head is of an old round, its page of one that was never flushed: with more events, or a newer ledger."""
    names = ("queue.db", "queue.db-wal")
    second = HEADER + FRAME
    tried = 0
    for start in range(1, 16):
        queue = open_queue(tmp_path / f"queue{start}")
        for _ in range(start):
            _append(queue)
        queue._store.checkpoint()
        for each in (work, *[_append] * 13):
            each(queue)
        queue._store.checkpoint()
        before = set(_waiting(queue))
        file, old = ((tmp_path / f"queue{start}" / name).read_bytes() for name in names)
        work(queue)
        after = set(_waiting(queue))
        new = (tmp_path / f"queue{start}" / "queue.db-wal").read_bytes()
        frames = range(HEADER, len(old) - FRAME + 1, FRAME)
        of_round = [at for at in frames if old[at + 8 : at + 16] == old[second + 8 : second + 16]]
        if any(old[at : at + 4] == old[second : second + 4] for at in of_round if at > second):
            continue  # there is a later copy of that page
        written = [at for at in frames if new[at : at + FRAME] != old[at : at + FRAME]]
        like = [at for at in written if new[at : at + 4] == old[second : second + 4]] or written
        body = like[-1] + FRAME - PAGE
        head = bytes(second) + old[second : second + FRAME - PAGE]
        copy = tmp_path / f"copy{start}"
        copy.mkdir()
        (copy / "queue.db").write_bytes(file)
        (copy / "queue.db-wal").write_bytes(head + new[body : body + PAGE] + old[second + FRAME :])
        again = open_queue(copy)
        assert before & after <= set(_waiting(again))
        assert again.salvaged is None
        tried += 1
    assert tried


def test_a_wal_without_its_header_gives_back_what_the_file_has_lost(open_queue: OpenQueue, tmp_path: Path) -> None:
    """They are of one age, and the WAL has a page that is damaged in the file."""
    queue = open_queue()
    for _ in range(20):
        _append(queue)
    queue._store.checkpoint()
    file, log = ((tmp_path / "queue" / name).read_bytes() for name in ("queue.db", "queue.db-wal"))
    page = next(at for at in range(3 * PAGE, len(file), PAGE) if b'"n":"' in file[at : at + PAGE])  # not the newest
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "queue.db").write_bytes(file[:page] + bytes(PAGE) + file[page + PAGE :])
    (copy / "queue.db-wal").write_bytes(bytes(HEADER) + log[HEADER:])
    again = open_queue(copy)
    assert _waiting(again) == _waiting(queue)


@pytest.mark.parametrize(
    ("in_file", "in_log", "older"),
    [((5, 2), (4, 2), True), ((5, 2), (5, 1), True), ((5, 2), (5, 3), False), ((5, 2), (6, 2), False),
     ((5, 2), (4, 3), False), ((5, 2), (6, 1), False)],
)  # fmt: skip
def test_a_wal_is_older_only_when_nothing_says_otherwise(
    open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    in_file: tuple[int, int], in_log: tuple[int, int], older: bool,
) -> None:  # fmt: skip
    open_queue().append([record()])
    said = iter([in_file, in_log])
    monkeypatch.setattr(salvage, "_progress", lambda *given: next(said))
    path = str(tmp_path / "queue" / "queue.db")
    with Pages(path, PAGE) as pages, Pages(path, PAGE, wal=False) as alone:
        monkeypatch.setattr(pages, "folded", lambda: False)
        assert salvage._is_older(pages, alone) is older


def _waiting(queue: DiskQueue) -> list[int]:
    rows = queue._store.read(lambda connection: connection.execute("SELECT _id FROM ack_queue_default").fetchall())
    return [row[0] for row in rows]


def test_a_wal_that_was_cut_is_read_as_far_as_it_goes(
    crashed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    """Nobody can know that there was more. What is left is whole transactions."""
    for index, size in enumerate((0, 20, HEADER, HEADER + FRAME // 2, HEADER + 40 * FRAME + 100, HEADER + 90 * FRAME)):
        path = crashed.copy(quick_path / f"cut{index}", wal=crashed.files["queue.db-wal"][:size])
        queue = open_queue(path)
        assert queue.salvaged is None
        ledger = queue.ledger()
        assert ledger.balanced
        assert ledger.pending == queue.count_rows() > 0
        queue.append([record("after")])
        queue.close()


# What a crash leaves


def test_a_batch_that_was_being_written_comes_back_whole_or_not_at_all(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    for number in range(6):
        queue.append([record(f"before{number}")])
    start = (tmp_path / "queue" / "queue.db-wal").stat().st_size
    queue.append(records((f"batch{n}" for n in range(60)), size=500))
    files = {name: (tmp_path / "queue" / name).read_bytes() for name in ("queue.db", "queue.db-wal")}
    frames = (len(files["queue.db-wal"]) - start) // FRAME
    assert frames > 8
    for frame in range(frames):
        content = bytearray(files["queue.db-wal"])
        at = start + frame * FRAME + 1000
        content[at : at + 512] = bytes(each ^ 0xA5 for each in content[at : at + 512])  # a sector of something older
        path = tmp_path / f"torn{frame}"
        path.mkdir()
        (path / "queue.db").write_bytes(files["queue.db"])
        (path / "queue.db-wal").write_bytes(content)
        again = open_queue(path)
        assert again.salvaged is None
        batch = again.lease(100, 1 << 20)
        assert batch is not None
        assert len(batch) in (6, 66)
        assert len(batch) == 6 or frame == frames - 1  # only the repeated last frame can be missed
        again.close()


def test_what_a_dead_process_left_in_the_wal_is_flushed_before_anything_is_written_behind_it(
    crashed: Sample, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two commits behind a broken frame would prove nothing: neither may have been flushed."""
    path = crashed.copy(tmp_path / "queue")
    flushed: list[str] = []
    flush = os.fdatasync

    def noted(fd: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", noted)
    open_queue(path)
    assert flushed == [str(path / "queue.db-wal")]


# What is told from what, frame by frame


def build(path: Path, transactions: Sequence[tuple[str, int]], broken: Sequence[int] = ()) -> Wal:
    """Write a WAL of these transactions, break some frames, and read it.

    A transaction is its kind and how many frames it has. "flushed" repeats its last frame, "kept" (an acknowledgement)
    does not. "failed" is like flushed, "open" has no commit; the next is written over either.
    """
    salts = struct.pack(">2I", 7, 99)
    head = struct.pack(">4I", module._MAGIC, 3007000, PAGE, 0) + salts
    sums = [module._checksum(head, False)]  # after each frame that stands
    frames: list[bytes] = []
    number = 0
    for kind, count in transactions:
        stand = len(sums) - 1
        bodies = []
        for index in range(count):
            number += 1
            commit = 50 if kind != "open" and index == count - 1 else 0
            bodies.append((struct.pack(">2I", number % 40 + 1, commit), number.to_bytes(4, "big") * (PAGE // 4)))
        if kind in ("flushed", "failed"):
            bodies.append(bodies[-1])
        running = sums[:]
        for start, body in bodies:
            running.append(module._checksum(start + body, False, *running[-1]))
            frames[len(running) - 2 : len(running) - 1] = [start + salts + struct.pack(">2I", *running[-1]) + body]
        if kind in ("flushed", "kept"):
            sums = running
        assert len(frames) >= stand
    for index in broken:
        frames[index] = frames[index][:100] + b"\xff\xee" + frames[index][102:]
    path.write_bytes(head + struct.pack(">2I", *sums[0]) + b"".join(frames))
    wal = Wal(str(path), PAGE)
    wal.close()
    return wal


def test_two_flushed_commits_behind_a_broken_frame_are_damage(tmp_path: Path) -> None:
    wal = build(tmp_path / "w", [("flushed", 2), ("flushed", 1), ("kept", 2), ("flushed", 1), ("flushed", 3)], [3])
    assert wal.damaged
    assert (wal.committed, wal.proven) == (3, 13)


def test_less_than_that_may_be_the_tail_of_a_crash(tmp_path: Path) -> None:
    for broken in (6, 8, 9):
        wal = build(tmp_path / "w", [("flushed", 3), ("kept", 2), ("kept", 2), ("kept", 1), ("flushed", 1)], [broken])
        assert not wal.damaged, broken
    # Two that are not in one unbroken run prove nothing either.
    wal = build(tmp_path / "w", [("flushed", 2), ("flushed", 1), ("flushed", 1), ("kept", 3), ("flushed", 1)], [3, 8])
    assert not wal.damaged


def test_what_failed_transactions_left_does_not_count(tmp_path: Path) -> None:
    # Twice a commit failed on a full disk, each time a shorter one was written over it, and at last one stood.
    wal = build(tmp_path / "w", [("flushed", 2), ("failed", 8), ("failed", 4), ("flushed", 1)])
    assert not wal.damaged
    assert wal.committed == wal.proven == 5
    assert max(wal.newest()[0].values()) < 5
    wal = build(tmp_path / "w", [("flushed", 2), ("open", 9)])
    assert wal.committed == wal.proven == 3


@given(data=st.binary(min_size=1, max_size=40), big=st.booleans(), seed=st.integers(0, 1000))
def test_all_frames_at_once_give_the_same_sums_as_one_by_one(data: bytes, big: bool, seed: int) -> None:
    rng = random.Random(seed)
    step = 24 + 512
    count = len(data)
    content = rng.randbytes(step * count)
    starts = [(rng.getrandbits(32), rng.getrandbits(32)) for _ in range(count)]
    one_by_one = [
        module._checksum(content[at : at + 8] + content[at + 24 : at + step], big, *start)
        for at, start in zip(range(0, len(content), step), starts, strict=True)
    ]
    assert module._checksums(content, step, starts, big) == one_by_one


def test_at_durability_process_damage_cannot_be_told_and_the_rest_is_whole(
    open_queue: OpenQueue, tmp_path: Path
) -> None:
    """As `docs/guarantees.md` says: nothing there was flushed commit by commit."""
    sample = make_sample(tmp_path, durability="process")
    content = bytearray(sample.files["queue.db-wal"])
    content[HEADER + 30 * FRAME + 500] ^= 1
    queue = open_queue(sample.copy(tmp_path / "queue", wal=content), durability="process")
    assert queue.salvaged is None
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.pending == queue.count_rows()


def test_the_sample_is_what_it_should_be(crashed: Sample, open_queue: OpenQueue, tmp_path: Path) -> None:
    assert len(marks(crashed)) > 15
    path = crashed.copy(tmp_path / "queue")
    queue = open_queue(path)
    assert queue.salvaged is None
    verdict = judge(queue, path, crashed)
    assert not verdict.lost | verdict.back
