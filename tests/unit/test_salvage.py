"""A damaged queue file: the start succeeds, what was damaged is kept whole, every readable row comes back."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from unit_kit import copy_files, drain, lease, record, table

from edgespool.errors import QueueError
from edgespool.queue import DiskQueue, salvage, schema
from edgespool.testing import FakeClock

OpenQueue = Callable[..., DiskQueue]
PAGE = schema.PAGE_SIZE
ROUTES = ["", "kitchen", "", "held"]


@dataclass(repr=False)
class Sample:
    """The files of a queue with several routes, small and large payloads, and some events gone already."""

    database: bytes
    wal: bytes
    rows: dict[int, tuple[Any, ...]]  # what waits, by row id
    gone: int  # what was delivered or failed before
    accepted: int
    pages: dict[int, set[int]] = field(default_factory=dict)  # leaf page -> row ids on it

    def write(self, path: Path, database: bytes | None = None, wal: bytes | None = None) -> None:
        path.mkdir(mode=0o700)
        (path / "queue.db").write_bytes(self.database if database is None else database)
        if self.wal or wal:
            (path / "queue.db-wal").write_bytes(self.wal if wal is None else wal)


def make_sample(top: Path, *, clean: bool) -> Sample:
    queue = DiskQueue(top / "sample", clock=FakeClock())
    try:
        queue.format_name = "json"
        for start in range(0, 240, 40):
            queue.append([
                record(number, ROUTES[number % 4], size=6_000 + 100 * number if number % 40 == 7 else 150)
                for number in range(start, start + 40)
            ])  # fmt: skip
        queue.ack(lease(queue, 30), "delivered")
        queue.ack(lease(queue, 5), "failed")
        queue.append([record(number, size=150) for number in range(240, 300)])
        ledger = queue.ledger()
        rows = {row[0]: row for row in table(queue)}
        if clean:
            queue.close()
        left = copy_files(top / "sample", top / "left")
    finally:
        queue.close()
    wal = left / "queue.db-wal"
    sample = Sample(
        (left / "queue.db").read_bytes(), wal.read_bytes() if wal.exists() else b"", rows, 35, ledger.accepted
    )
    for number in range(1, len(sample.database) // PAGE + 1):
        sample.pages[number] = {rowid for rowid in leaf_row_ids(sample.database, number) if rowid in rows}
    return sample


def leaf_row_ids(database: bytes, number: int) -> set[int]:
    """Return the row ids on a page of a sound file, if it is a leaf of a table (SQLite file format, section 1.6)."""

    def varint(at: int) -> tuple[int, int]:
        value = 0
        while True:
            value = value << 7 | database[at] & 0x7F
            at += 1
            if database[at - 1] < 0x80:
                return value, at

    page = (number - 1) * PAGE
    head = page + (100 if number == 1 else 0)
    if database[head] != 0x0D:
        return set()
    found = set()
    for index in range(int.from_bytes(database[head + 3 : head + 5], "big")):
        pointer = head + 8 + 2 * index
        _, at = varint(page + int.from_bytes(database[pointer : pointer + 2], "big"))
        found.add(varint(at)[0])
    return found


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("closed"), clean=True)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("crashed"), clean=False)


def check(queue: DiskQueue, sample: Sample, path: Path) -> set[int]:
    """See that a queue opened on damaged files is sound; return the row ids that are lost."""
    queue.append([record("after")])
    rows = {row[0]: row for row in table(queue)}
    report = queue.salvaged
    ids = drain(queue)
    if report is None:
        report = queue.salvaged  # it showed only now
        rows = {rowid: row for rowid, row in sample.rows.items() if row[3] in ids}
    ledger = queue.ledger()
    assert ledger.balanced
    assert queue.count_rows() == ledger.pending == 0
    assert "after" in ids
    known = {row[3]: rowid for rowid, row in sample.rows.items()}
    assert len(ids) == len(set(ids))
    for rowid, row in rows.items():
        if row[3] in known:
            assert rowid == known[row[3]]
            assert row[1] == sample.rows[rowid][1]
    if report is not None:
        (aside,) = {each.parent for each in path.glob("damaged/*/queue.db")}
        assert str(aside) == report.aside
        assert report.lost == ledger.dropped.get("damaged", 0)
        assert report.lost >= 0
    return {rowid for rowid, row in sample.rows.items() if row[3] not in ids}


def test_the_sample_is_worth_damaging(closed: Sample, crashed: Sample) -> None:
    assert len(closed.rows) == len(crashed.rows) == 265
    assert sum(bool(rows) for rows in closed.pages.values()) > 10
    assert len(closed.wal) == 0 < len(crashed.wal)


def test_a_sound_file_is_left_alone(crashed: Sample, open_queue: OpenQueue, tmp_path: Path) -> None:
    crashed.write(tmp_path / "queue")
    queue = open_queue()
    assert check(queue, crashed, tmp_path / "queue") == set()
    assert queue.salvaged is None
    assert not (tmp_path / "queue" / "damaged").exists()


@pytest.mark.parametrize("damage", ["zeros", "noise"])
def test_with_any_one_page_spoilt_all_other_rows_come_back(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path, damage: str
) -> None:
    salvaged = 0
    rng = random.Random(7)
    for number in range(1, len(closed.database) // PAGE + 1):
        database = bytearray(closed.database)
        database[(number - 1) * PAGE : number * PAGE] = bytes(PAGE) if damage == "zeros" else rng.randbytes(PAGE)
        path = tmp_path / f"queue{number}"
        closed.write(path, database)
        queue = open_queue(path)
        at_start = queue.salvaged
        lost = check(queue, closed, path)
        on_page = closed.pages[number]
        large = {rowid for rowid, row in closed.rows.items() if len(row[1]) > 4_000}
        assert lost <= on_page or (len(lost) == 1 and lost <= large), number
        if on_page:
            assert queue.salvaged is not None
        if at_start is not None:
            (kept,) = path.glob("damaged/*/queue.db")
            assert kept.read_bytes() == database
            assert at_start.kept + at_start.lost <= closed.accepted
        salvaged += queue.salvaged is not None
        queue.close()
    assert salvaged > 20


def test_events_that_are_gone_do_not_come_back_unless_the_damage_hides_that(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path
) -> None:
    """A page of events is damaged, the ledger is not: the counts go on where they were."""
    number = max(closed.pages, key=lambda page: len(closed.pages[page] & closed.rows.keys()))
    database = bytearray(closed.database)
    database[(number - 1) * PAGE : (number - 1) * PAGE + 8] = b"\xff" * 8
    closed.write(tmp_path / "queue", database)
    queue = open_queue()
    lost = check(queue, closed, tmp_path / "queue")
    ledger = queue.ledger()
    assert lost
    assert (ledger.accepted, ledger.failed) == (closed.accepted + 1, 5)
    assert ledger.dropped == {"damaged": len(lost)}
    assert ledger.delivered == 30 + len(closed.rows) - len(lost) + 1
    assert queue.format_name == "json"


@pytest.mark.parametrize("spoilt", ["the header", "all but the WAL", "the end"])
def test_a_crash_and_damage_together_are_survived(
    crashed: Sample, open_queue: OpenQueue, tmp_path: Path, spoilt: str
) -> None:
    database = bytearray(crashed.database)
    if spoilt == "the header":
        database[:100] = b"?" * 100
    elif spoilt == "all but the WAL":
        database[:] = bytes(len(database))
    else:
        del database[len(database) // 2 :]
    crashed.write(tmp_path / "queue", database)
    assert check(open_queue(), crashed, tmp_path / "queue") == set()  # the WAL has it all


def test_random_damage_never_stops_the_start_nor_forges_an_event(
    closed: Sample, crashed: Sample, open_queue: OpenQueue, tmp_path: Path
) -> None:
    rng = random.Random(2024)
    for turn in range(60):
        sample = (closed, crashed)[turn % 2]
        files = [bytearray(sample.database), bytearray(sample.wal)]
        for _ in range(rng.randrange(1, 6)):
            content = files[rng.randrange(2)] or files[0]
            at, size = rng.randrange(len(content)), rng.choice([1, 8, 512, PAGE])
            end = min(at + size, len(content))
            content[at:end] = rng.choice([bytes(end - at), rng.randbytes(end - at), b"\xff" * (end - at)])
        path = tmp_path / f"queue{turn}"
        sample.write(path, *files)
        queue = open_queue(path)
        known = {row[3]: row[1] for row in sample.rows.values()}
        seen = []
        queue.append([record("after")])
        while (batch := queue.lease(100, 1 << 30)) is not None:
            for event in batch.events:
                seen.append(event.id)
                if event.id in known:
                    assert event.payload == known[event.id]
                elif event.id != "after":
                    assert int(event.id) < 300  # one that was delivered before
            queue.ack(batch)
        assert "after" in seen
        assert queue.ledger().balanced
        queue.close()


# A crash in mid-salvage


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_crash_between_any_two_steps_of_a_salvage_loses_nothing(
    crashed: Sample, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {row[3] for row in crashed.rows.values()}
    left = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **kwargs)

        return step

    for steps in range(100):
        path = tmp_path / f"queue{steps}"
        crashed.write(path)
        left = steps
        with monkeypatch.context() as patch:
            for name in ("mkdir", "rename", "unlink", "fsync"):
                patch.setattr(os, name, dying(getattr(os, name)))
            patch.setattr(salvage.sqlite3, "connect", dying(salvage.sqlite3.connect))
            with contextlib.suppress(Killed):
                salvage.salvage(str(path), RuntimeError("for the test"))
        finished = left >= 0
        moved = not (path / "queue.db").exists()
        queue = open_queue(path)
        queue.append([record("after")])
        assert set(drain(queue)) == everything | {"after"}, steps
        assert queue.ledger().balanced
        if moved or finished:
            assert [each.read_bytes() for each in path.glob("damaged/*/queue.db")] == [crashed.database]
            assert [each.read_bytes() for each in path.glob("damaged/*/queue.db-wal")] == [crashed.wal]
        assert not (path / "queue.db.salvaged").exists()
        queue.close()
        if finished:
            break
    assert 8 < steps < 99


def test_a_salvage_that_the_disk_refuses_moves_nothing_and_is_tried_again(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = bytearray(closed.database)
    database[:PAGE] = bytes(PAGE)
    closed.write(tmp_path / "queue", database)

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(QueueError):
            open_queue()
    assert (tmp_path / "queue" / "queue.db").read_bytes() == database
    assert check(open_queue(), closed, tmp_path / "queue") == set()
