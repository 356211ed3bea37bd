"""A queue to be damaged, and the judgement of what became of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults_kit import EVERYTHING, PAGE, OpenQueue, record, records

from edgespool.queue import DiskQueue, schema
from edgespool.testing import FakeClock

FRAME = schema.FRAME_SIZE
HEADER = 32  # of a WAL
FILES = ("queue.db", "queue.db-wal", "queue.db-shm")


@dataclass
class Sample:
    """The files of a queue whose process died, and the truth about them."""

    files: dict[str, bytes]
    live: dict[str, tuple[int, bytes]]  # what waits: id -> row id, payload
    gone: set[str]  # ids that were acknowledged
    accepted: int
    pages: dict[str, set[int]] = field(default_factory=dict)  # id -> the pages that its row lies on
    newest: dict[int, int] = field(default_factory=dict)  # page -> the WAL frame (from 0) that holds it
    frames: list[int] = field(default_factory=list)  # the page in each frame of the WAL that counts
    flushed: int = 0  # frames that were flushed before another append was begun

    def copy(self, path: Path, **changed: bytes | bytearray | None) -> Path:
        """Write the files to a new directory, some of them changed (or, when None, left out)."""
        path.mkdir(mode=0o700)
        for name, content in self.files.items():
            content = changed.get(name.replace("queue.db-", ""), content) if "-" in name else changed.get("db", content)
            if content is not None:
                (path / name).write_bytes(content)
        return path


def make_sample(top: Path, *, durability: str = "power", clean: bool = False) -> Sample:
    """Make a queue of three routes, with large payloads, free pages, much of it in the WAL alone."""
    path = top / "made"
    queue = DiskQueue(path, clock=FakeClock(), durability=durability)
    gone: set[str] = set()
    try:
        queue.format_name = "cloudevents"
        for start in range(0, 480, 40):
            route = ("", "kitchen", "held")[start // 40 % 3]
            queue.append([record(f"a{n}", route, size=9_000 if n % 60 == 7 else 330) for n in range(start, start + 40)])
        for route in ("", "kitchen"):
            batch = queue.lease(70, EVERYTHING, route=route)
            assert batch is not None
            queue.ack(batch)
            gone |= set(batch.ids)
        queue._store.checkpoint()
        for start in range(480, 560, 8):
            queue.append(records((f"a{n}" for n in range(start, start + 8)), "" if start % 3 else "late", size=330))
            batch = queue.lease(3, EVERYTHING, {"held"})
            assert batch is not None
            queue.ack(batch)
            gone |= set(batch.ids)
        for number in range(560, 570):
            queue.append([record(f"a{number}", size=330)])
        rows = queue._store.read(
            lambda c: c.execute(f"SELECT event_id, _id, data FROM {schema.TABLE} ORDER BY _id").fetchall()
        )
        live = {name: (rowid, payload) for name, rowid, payload in rows}
        accepted = queue.ledger().accepted
        if clean:
            queue.close()
        files = {name: (path / name).read_bytes() for name in FILES if (path / name).exists()}
    finally:
        queue.close()
    assert not live.keys() & gone
    assert len(live) + len(gone) == accepted == 570
    sample = Sample(files, live, gone, accepted)
    _map_pages(top, sample)
    return sample


def _map_pages(top: Path, sample: Sample) -> None:
    """Find out which pages each row lies on, from the file as SQLite itself folds it."""
    folded = sample.copy(top / "folded") / "queue.db"
    with contextlib.closing(sqlite3.connect(folded)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    image = folded.read_bytes()
    shutil.rmtree(folded.parent)
    by_rowid = {rowid: name for name, (rowid, _) in sample.live.items()}
    for number in set(range(1, len(image) // PAGE + 1)) - free_pages(image):
        for rowid, pages in rows_on(image, number):
            if rowid in by_rowid:
                sample.pages[by_rowid[rowid]] = pages
    assert sample.pages.keys() == sample.live.keys()
    wal = sample.files.get("queue.db-wal", b"")
    salts = wal[16:24]
    marks = []
    for at in range(HEADER, len(wal) - FRAME + 1, FRAME):
        head = wal[at : at + 24]
        if head[8:16] != salts:
            break
        index = len(sample.frames)
        number = int.from_bytes(head[:4], "big")
        if head[4:8] != bytes(4) and index and wal[at : at + 8] == wal[at - FRAME : at - FRAME + 8]:
            marks.append(index)  # the commit is repeated up to the next sector: it was flushed
        sample.newest[number] = index
        sample.frames.append(number)
    sample.flushed = marks[-2] + 1 if len(marks) > 1 else 0


def free_pages(image: bytes) -> set[int]:
    """Return the pages on the freelist (SQLite file format, 1.5): they keep rows that were deleted."""
    found = set()
    trunk = int.from_bytes(image[32:36], "big")
    while trunk:
        at = (trunk - 1) * PAGE
        leaves = int.from_bytes(image[at + 4 : at + 8], "big")
        found |= {trunk, *struct.unpack(f">{leaves}I", image[at + 8 : at + 8 + 4 * leaves])}
        trunk = int.from_bytes(image[at : at + 4], "big")
    return found


def rows_on(image: bytes, number: int) -> Iterator[tuple[int, set[int]]]:
    """Yield each row of a table leaf with the pages that it lies on (SQLite file format, 1.6)."""

    def varint(at: int) -> tuple[int, int]:
        value = 0
        while True:
            value = value << 7 | image[at] & 0x7F
            at += 1
            if image[at - 1] < 0x80:
                return value, at

    page = (number - 1) * PAGE
    if number == 1 or image[page] != 0x0D:
        return
    for index in range(int.from_bytes(image[page + 3 : page + 5], "big")):
        pointer = page + 8 + 2 * index
        size, at = varint(page + int.from_bytes(image[pointer : pointer + 2], "big"))
        rowid, at = varint(at)
        pages = {number}
        if size > PAGE - 35:
            least = (PAGE - 12) * 32 // 255 - 23
            local = least + (size - least) % (PAGE - 4)
            at += least if local > PAGE - 35 else local
            following = int.from_bytes(image[at : at + 4], "big")
            while following:
                pages.add(following)
                at = (following - 1) * PAGE
                following = int.from_bytes(image[at : at + 4], "big")
        yield rowid, pages


@dataclass
class Verdict:
    """What became of a damaged queue."""

    seen: list[str]
    lost: set[str]
    back: set[str]  # acknowledged events that came back
    again: int  # how many the reports count as perhaps delivered before
    reports: list[dict[str, object]]


def judge(queue: DiskQueue, path: Path, sample: Sample) -> Verdict:
    """Record and deliver all there is; check what must hold whatever was damaged."""
    queue.append([record("after", size=100)])
    seen: list[str] = []
    for _ in range(2):
        while (batch := queue.lease(100, EVERYTHING)) is not None:
            for event in batch.events:
                if event.id in sample.live:
                    assert (event.rowid, event.payload) == sample.live[event.id]
                else:
                    assert event.id == "after" or event.id in sample.gone, "an event that was never recorded"
                seen.append(event.id)
            queue.ack(batch)
        queue.maintain(True)  # which looks for rows that no search has found
    assert "after" in seen
    assert len(seen) == len(set(seen))
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.pending == queue.count_rows() == 0
    reports = [json.loads(each.read_bytes()) for each in sorted(path.glob("damaged/*/report.json"))]
    back = set(seen) & sample.gone
    verdict = Verdict(seen, sample.live.keys() - set(seen), back, sum(each["again"] for each in reports), reports)
    assert len(back) <= verdict.again, "an acknowledged event came back uncounted"
    missing = ledger.dropped.get("damaged", 0) + ledger.dropped.get("ledger_lost", 0)
    assert len(verdict.lost) <= missing + verdict.again + (sample.accepted - ledger.accepted + 1), "lost uncounted"
    return verdict


def damaged(
    sample: Sample, top: Path, open_queue: OpenQueue, name: str, check: Callable[[DiskQueue], None] = lambda _: None,
    **changed: bytes | bytearray | None,
) -> Verdict:  # fmt: skip
    """Open a damaged copy of the sample and judge it; the copy is removed."""
    path = sample.copy(top / name, **changed)
    before = {each: (path / each).read_bytes() for each in FILES[:2] if (path / each).exists()}
    queue = open_queue(path)
    if queue.salvaged is not None:
        aside = Path(queue.salvaged.aside)
        assert {each: (aside / each).read_bytes() for each in before} == before, "not kept whole"
    check(queue)
    verdict = judge(queue, path, sample)
    queue.close()
    shutil.rmtree(path)
    return verdict
