"""A disk without room: a typed error, acknowledgements that go on, recovery without a restart. Simulated by SQLite."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit_kit import MIB, check_ledger, drain, lease, record, records

from edgespool.errors import QueueClosed, QueueFull
from edgespool.queue import DiskQueue
from edgespool.queue.commit import Job
from edgespool.queue.space import Ballast
from edgespool.testing import FakeClock

OpenQueue = Callable[..., DiskQueue]


def allow_pages(queue: DiskQueue, more: int) -> None:
    """Let the database grow by so many pages and no further: SQLite then says that the disk is full."""
    for connection in (queue._store.writer, queue._store._reader):
        assert connection is not None
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + more}")


def lift(queue: DiskQueue) -> None:
    allow_pages(queue, 1 << 20)


def fill(queue: DiskQueue, many: bool = False) -> int:
    """Append until the disk is full; return how many were stored."""
    stored = 0
    for _ in range(1000):
        batch = records(range(3), size=3_000) if many else [record(size=3_000)]
        try:
            queue.append(batch)
        except QueueFull:
            break
        stored += len(batch)
    with pytest.raises(QueueFull, match=r"the disk that holds .* is full; nothing was stored"):
        queue.append(batch)
    return stored


@pytest.mark.parametrize("many", [False, True])
def test_append_says_full_and_takes_again_once_there_is_room(queue: DiskQueue, many: bool) -> None:
    queue.append(records("ab"))
    allow_pages(queue, 10)
    stored = fill(queue, many)
    assert stored
    check_ledger(queue)
    assert queue.ledger().accepted == stored + 2
    assert queue.ack(lease(queue, stored)) == stored
    queue.append([record("again", size=3_000)])
    check_ledger(queue)
    assert drain(queue)[-1] == "again"


@pytest.mark.parametrize("route", ["", "kitchen"])
def test_what_a_refused_append_began_is_not_taken_for_done(
    open_queue: OpenQueue, clock: FakeClock, route: str
) -> None:
    queue = open_queue()
    allow_pages(queue, 0)
    with pytest.raises(QueueFull):  # the first of all: it would have made the boot's row and the route's name
        queue.append([record(n, route, size=9_000, clock=clock) for n in range(100)])
    lift(queue)
    queue.append([record("a", "hall", clock=clock), record("b", route, clock=clock)])
    check_ledger(queue)
    assert queue.ledger().accepted == 2
    assert {batch.route: batch.ids for batch in (lease(queue, 1), lease(queue, 1))} == {"hall": ["a"], route: ["b"]}
    clock.advance(100)
    assert queue.expire(50.0) == 2


def test_acknowledgements_go_on_while_the_disk_is_full(queue: DiskQueue) -> None:
    queue.append(records(range(200), size=200))
    allow_pages(queue, 0)
    with pytest.raises(QueueFull):
        queue.append(records(range(200), size=200))
    assert len(drain(queue, 10)) == 200
    check_ledger(queue)
    queue.append(records("a"))


# The other policies


@pytest.mark.parametrize("count", [1, 5])
def test_at_drop_newest_what_the_disk_refuses_is_dropped_and_counted_later(open_queue: OpenQueue, count: int) -> None:
    queue = open_queue(overflow="drop_newest")
    queue.append(records("ab"))
    allow_pages(queue, 0)
    for _ in range(3):
        queue.append(records(range(count), size=9_000))
    assert queue.ledger().balanced
    lift(queue)
    queue.append(records("c"))
    check_ledger(queue)
    ledger = queue.ledger()
    assert (ledger.accepted, ledger.dropped) == (3 + 3 * count, {"overflow": 3 * count})
    assert drain(queue) == ["a", "b", "c"]


@pytest.mark.parametrize("count", [1, 5])
def test_at_drop_oldest_the_oldest_make_room(open_queue: OpenQueue, tmp_path: Path, count: int) -> None:
    queue = open_queue(overflow="drop_oldest")
    queue.append(records(range(30), size=3_000))
    allow_pages(queue, 0)
    queue.append(records(["new"] * count, size=3_000))
    assert not (tmp_path / "queue" / "ballast").exists()
    check_ledger(queue)
    dropped = queue.ledger().dropped["overflow"]
    assert 0 < dropped < 30
    assert drain(queue) == [str(n) for n in range(dropped, 30)] + ["new"] * count


def test_at_block_the_call_waits_until_there_is_room(open_queue: OpenQueue) -> None:
    queue = open_queue(overflow="block", max_bytes=MIB)
    number = 0
    while True:
        try:
            queue._commit.submit([record(number, size=50_000)])
        except QueueFull:
            break
        number += 1
    done = threading.Event()

    def append() -> None:
        queue.append([record("late", size=50_000)])
        done.set()

    thread = threading.Thread(target=append, daemon=True)
    thread.start()
    assert not done.wait(0.05)
    queue.ack(lease(queue, 3))
    assert done.wait(20)
    thread.join(20)
    assert drain(queue)[-1] == "late"


def test_at_block_closing_ends_the_wait(open_queue: OpenQueue) -> None:
    queue = open_queue(overflow="block")
    queue.append(records("a"))
    allow_pages(queue, 0)
    caught: list[BaseException] = []

    def append() -> None:
        try:
            queue.append([record(size=50_000)])
        except QueueClosed as error:
            caught.append(error)

    thread = threading.Thread(target=append, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    queue.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_at_block_what_could_never_fit_is_refused_at_once(open_queue: OpenQueue) -> None:
    queue = open_queue(overflow="block", max_bytes=MIB)
    with pytest.raises(QueueFull):
        queue.append([record(size=2 * MIB)])


# The ballast


def refuse_acks(queue: DiskQueue, monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool]) -> None:
    """Let the disk take no acknowledgement until a condition holds."""
    write = queue._store.write

    def write_or_not(which: Any, work: Any) -> Any:
        if which == "ack" and not until():
            raise QueueFull("the disk is full")
        return write(which, work)

    monkeypatch.setattr(queue._store, "write", write_or_not)


def test_the_ballast_is_given_up_so_that_an_acknowledgement_fits(
    queue: DiskQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = tmp_path / "queue" / "ballast"
    assert ballast.stat().st_blocks * 512 >= MIB
    queue.append(records("ab"))
    refuse_acks(queue, monkeypatch, lambda: not ballast.exists())
    assert queue.ack(lease(queue, 1)) == 1
    assert not ballast.exists()
    queue._last_touch -= 61
    queue.maintain(True)
    assert ballast.exists()


def test_an_acknowledgement_the_disk_refuses_is_remembered_and_written_later(
    queue: DiskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.append(records("abc"))
    full = True
    refuse_acks(queue, monkeypatch, lambda: not full)
    with pytest.raises(QueueFull):
        queue.ack(lease(queue, 1))
    with pytest.raises(QueueFull):
        queue.ack(lease(queue, 1), "failed")
    with pytest.raises(QueueFull):
        queue.maintain(False)
    assert lease(queue).ids == ["c"]  # a and b are not handed out again
    assert queue.ledger().pending == 3
    full = False
    queue.maintain(False)
    check_ledger(queue)
    ledger = queue.ledger()
    assert (ledger.delivered, ledger.failed, ledger.pending) == (1, 1, 1)


@pytest.mark.parametrize("rival", ["maintain", "append"])
def test_nobody_takes_the_ballast_s_room_before_the_wal_is_folded(
    queue: DiskQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    """The housekeeping would make a ballast of it again, a write a larger WAL; then nothing could be folded."""
    queue.append(records("ab"))
    give_up = queue._ballast.give_up
    acted = threading.Event()
    seen: list[bool] = []

    def act() -> None:
        if rival == "maintain":
            queue.maintain(False)
        else:
            queue.append(records("c"))
        acted.set()

    thread = threading.Thread(target=act)

    def given_up() -> bool:
        done = give_up()
        thread.start()
        seen.append(acted.wait(0.2))
        return done

    with monkeypatch.context() as patch:
        patch.setattr(queue._ballast, "give_up", given_up)
        queue._find_room()
    thread.join(20)
    assert acted.is_set()
    assert seen == [False]
    assert (tmp_path / "queue" / "ballast").exists()


def allow_changes(queue: DiskQueue, monkeypatch: pytest.MonkeyPatch, most: int, which: str = "ack") -> list[int]:
    """Let the disk have room in the WAL for so many changed rows a transaction; return the numbers of those it took."""
    write = queue._store.write
    taken: list[int] = []

    def write_or_not(kind: Any, work: Callable[[Any], Any]) -> Any:
        def checked(connection: Any) -> Any:
            before = connection.total_changes
            result = work(connection)
            changes = connection.total_changes - before
            if changes > most:
                raise sqlite3.OperationalError("database or disk is full")
            taken.append(changes)
            return result

        return write(kind, checked if kind == which else work)

    monkeypatch.setattr(queue._store, "write", write_or_not)
    return taken


@pytest.mark.parametrize("route", ["", "kitchen"])
def test_an_acknowledgement_that_finds_room_only_in_pieces_is_written_in_pieces(
    queue: DiskQueue, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    queue.append(records(range(200), route))
    taken = allow_changes(queue, monkeypatch, 20)
    assert queue.ack(lease(queue, 150)) == 150
    assert 150 // 18 <= len(taken) <= 20
    check_ledger(queue)
    ledger = queue.ledger()
    assert (ledger.delivered, ledger.pending) == (150, 50)
    assert lease(queue).ids == [str(n) for n in range(150, 200)]


def test_what_many_batches_owe_needs_no_more_room_than_each_of_them(
    queue: DiskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one transaction it would need more at each try, for the more is owed; once it did not fit it never would."""
    queue.append(records(range(200)))
    with monkeypatch.context() as patch:
        refuse_acks(queue, patch, lambda: False)
        for ledger in ("delivered", "failed") * 10:
            with pytest.raises(QueueFull):
                queue.ack(lease(queue, 10), ledger)
    taken = allow_changes(queue, monkeypatch, 15)
    queue.maintain(False)
    assert 20 <= len(taken) < 25  # the first was tried in pieces
    check_ledger(queue)
    ledger = queue.ledger()
    assert (ledger.delivered, ledger.failed, ledger.pending) == (100, 100, 0)


def test_what_was_acknowledged_in_pieces_stays_so_when_the_room_ends(
    queue: DiskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.append(records(range(100)))
    batch = lease(queue, 64)
    with monkeypatch.context() as patch:
        taken = allow_changes(queue, patch, 12)
        write = queue._store.write

        def write_some(kind: Any, work: Any) -> Any:
            if len(taken) >= 3:
                raise QueueFull("the disk is full")
            return write(kind, work)

        patch.setattr(queue._store, "write", write_some)
        with pytest.raises(QueueFull):
            queue.ack(batch)
        with pytest.raises(QueueFull):
            queue.maintain(False)
    assert queue.ledger().delivered == 24
    check_ledger(queue)
    assert lease(queue).ids == [str(n) for n in range(64, 100)], "what is owed is not handed out again"
    queue.maintain(False)
    assert not queue._owed
    assert queue.ledger().delivered == 64
    check_ledger(queue)


def test_housekeeping_that_finds_no_room_stops_nothing(
    queue: DiskQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue.append(records("ab"))
    refuse_acks(queue, monkeypatch, lambda: False)
    for _ in range(3):
        queue._last_touch -= 61
        queue.maintain(True)
    assert len([each for each in caplog.records if "the disk is full" in each.getMessage()]) == 1


@pytest.mark.parametrize("fits", [True, False])
def test_at_drop_oldest_a_group_of_calls_that_finds_no_room_is_stored_call_by_call(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    queue = open_queue(overflow="drop_oldest")
    queue.append(records(range(60), size=3_000))
    allow_pages(queue, 0)
    jobs = [Job(records([f"new{n}"], size=3_000)) for n in range(4)]
    if not fits:
        jobs[1] = Job(records(["big"] * 15, size=3_000))
    allow_changes(queue, monkeypatch, 12, "append")
    queue._commit_jobs(jobs)
    assert [type(job.error) for job in jobs] == [type(None), type(None) if fits else QueueFull, *[type(None)] * 2]
    check_ledger(queue)
    ledger = queue.ledger()
    new = ["new0", "new1", "new2", "new3"] if fits else ["new0", "new2", "new3"]
    assert ledger.accepted == 60 + len(new)
    dropped = ledger.dropped["overflow"]
    assert 0 < dropped < 50
    assert drain(queue) == [str(n) for n in range(dropped, 60)] + new


def test_closing_writes_what_is_owed_or_says_that_it_could_not(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for full_to_the_end in (False, True):
        queue = open_queue()
        queue.append(records("a"))
        full = True
        with monkeypatch.context() as patch:
            refuse_acks(queue, patch, lambda: not full)  # noqa: B023 - it is called in this turn
            with pytest.raises(QueueFull):
                queue.ack(lease(queue, 1))
            full = full_to_the_end
            queue.close()
        assert ("will be sent again" in caplog.text) is full_to_the_end
        assert drain(open_queue()) == (["a"] if full_to_the_end else [])


def test_a_disk_without_room_for_the_ballast_keeps_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = Ballast(str(tmp_path), 5000)

    def refuse(fd: int, offset: int, size: int) -> None:
        os.write(fd, b"part")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse, raising=False)
        assert not ballast.put_back()
    assert not (tmp_path / "ballast").exists()
    assert ballast.put_back()
    assert ballast.put_back()
    assert ballast.give_up()
    assert not ballast.give_up()


# A limit that the kernel sets

_LIMITED = """
import resource, sys
from edgespool.errors import QueueError
from edgespool.queue import DiskQueue
from unit_kit import drain, record

queue = DiskQueue(sys.argv[1], max_bytes=64 << 20)
queue.append([record("first")])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
stored, refused = ["first"], 0
for number in range(90):
    try:
        queue.append([record(number, size=60_000)])
        stored.append(str(number))
    except QueueError:
        refused += 1
assert refused > 10 and len(stored) > 10, (refused, len(stored))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
queue.append([record("last")])
stored.append("last")
assert queue.ledger().balanced
ids = drain(queue)
assert [id for id in ids if id in set(stored)] == stored, "an event that was stored is missing"
queue.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_limit_on_the_files_size_is_a_typed_error_and_passes(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "queue")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
