"""Many appends in a row: at durability "process" a snapshot is held between them, and the flush runs beside them."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import persistqueue
import persistqueue.serializers.json
import pytest
from unit_kit import check_ledger, drain, records, table

from edgespool.errors import OutcomeUnknown
from edgespool.queue import DiskQueue, flushing, schema, store

OpenQueue = Callable[..., DiskQueue]


@pytest.fixture(autouse=True)
def _every_append_is_of_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BURST", 3600.0)


@pytest.fixture
def queue(open_queue: OpenQueue) -> DiskQueue:
    """A queue in the midst of a burst, whose syncer keeps still."""
    queue = open_queue(durability="process", sync_interval=3600.0)
    for name in "ab":
        queue.append(records(name))
    queue.append(records("c"))
    assert queue._store._snapshot is not None
    return queue


def test_at_durability_power_no_snapshot_is_held(open_queue: OpenQueue) -> None:
    queue = open_queue()
    for name in "abc":
        queue.append(records(name))
    assert queue._store._snapshot is None


@pytest.mark.parametrize("what", ["ack", "sync", "checkpoint", "maintain", "expire", "close", "many routes"])
def test_the_snapshot_is_let_go_of_before_anybody_else_writes_or_flushes(queue: DiskQueue, what: str) -> None:
    if what == "ack":
        assert drain(queue) == ["a", "b", "c"]
    elif what == "sync":
        queue.sync()
    elif what == "checkpoint":
        queue._store.checkpoint()
    elif what == "maintain":
        queue._store.pages_written = 1 << 20
        queue.maintain(True)
    elif what == "expire":
        queue.expire(1e9)
    elif what == "close":
        queue.close()
    else:
        queue.append(records("d", "kitchen"))
    assert queue._store._snapshot is None


def test_after_it_was_let_go_of_the_burst_goes_on(queue: DiskQueue) -> None:
    assert drain(queue) == ["a", "b", "c"]
    for name in "defg":
        queue.append(records(name))
    assert drain(queue) == ["d", "e", "f", "g"]
    check_ledger(queue)


def test_two_writers_in_a_burst_lose_nothing_and_number_each_event_once(
    queue: DiskQueue, open_queue: OpenQueue
) -> None:
    other = open_queue(durability="process", sync_interval=3600.0)
    for number in range(20):
        queue.append(records([f"ours-{number}"]))
        if number % 3 == 0:
            other.append(records([f"theirs-{number}", f"and-{number}"]))
    rowids = [row[0] for row in table(queue)]
    assert rowids == list(range(1, 3 + 20 + 14 + 1))
    check_ledger(queue)
    assert len(drain(other)) == 37


@pytest.mark.parametrize("count", [1, 3, 60, 230], ids=str)
def test_what_plain_persist_queue_puts_in_during_a_burst_harms_none_of_ours(
    queue: DiskQueue, tmp_path: Path, count: int
) -> None:
    with contextlib.closing(
        persistqueue.SQLiteAckQueue(
            str(tmp_path / "queue"), db_file_name="queue.db", serializer=persistqueue.serializers.json
        )
    ) as theirs:
        theirs.put({"not": "ours"})
    queue.append(records(range(count)))
    assert drain(queue)[-count:] == [str(number) for number in range(count)]


@pytest.mark.parametrize("durability", ["power", "process"])
def test_events_of_named_routes_are_counted_each_time_whoever_writes_between(
    open_queue: OpenQueue, tmp_path: Path, durability: str
) -> None:
    queue = open_queue(durability=durability, sync_interval=3600.0)
    for number, route in enumerate(["hall", "attic", "hall", "", "attic", "hall"]):  # from the third on without a look
        queue.append(records([number], route))
        check_ledger(queue)
    with contextlib.closing(sqlite3.connect(tmp_path / "queue" / "queue.db")) as other, other:
        other.execute("INSERT INTO edgespool_meta VALUES ('note', 'of another program')")
    queue.append([*records(["6"], "hall"), *records(["7"]), *records(["8"], "attic")])
    check_ledger(queue)
    sequences = sorted(row[0] & schema.SEQUENCE_MASK for row in table(queue))
    assert sequences == list(range(1, 10))
    assert sorted(drain(queue)) == [str(number) for number in range(9)]
    assert open_queue().ledger().accepted == 9


def test_the_wal_stays_bounded_in_a_long_burst_without_a_worker(open_queue: OpenQueue) -> None:
    queue = open_queue(durability="process", sync_interval=3600.0, max_bytes=8 << 20)
    for number in range(3000):
        queue.append(records([number], size=200))
    assert queue._store.wal_bytes() < 2 << 20


def test_the_wal_stays_bounded_when_events_go_to_a_named_route(open_queue: OpenQueue) -> None:
    queue = open_queue(max_bytes=8 << 20)
    for number in range(800):
        queue.append(records([number], "kitchen", size=200))
    assert queue._store.wal_bytes() <= queue._store._wal_limit


def test_the_syncer_lets_go_of_the_snapshot_within_the_interval(open_queue: OpenQueue) -> None:
    queue = open_queue(durability="process", sync_interval=0.01)
    for name in "abcd":
        queue.append(records(name))
    for _ in range(1000):
        if queue._store._snapshot is None:
            return
        time.sleep(0.01)
    raise AssertionError("it is still held")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_in_a_burst_leaves_the_snapshot_alone(queue: DiskQueue) -> None:
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        code = 1
        with contextlib.suppress(BaseException):
            queue.append(records(["child"]))
            queue.append(records(["child again"]))
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    queue.append(records("d"))
    assert sorted(drain(queue)) == ["a", "b", "c", "child", "child again", "d"]
    check_ledger(queue)


# The flush beside the appends


class Gate:
    """A flush that waits until it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.count = 0
        self.error = error
        monkeypatch.setattr(flushing, "_fdatasync", self._flush)

    def _flush(self, fd: int) -> None:
        self.count += 1
        self.entered.set()
        assert self.open.wait(30)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        os.fdatasync(fd)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def _aside(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_appends_go_on_while_the_disk_flushes(queue: DiskQueue, gate: Gate) -> None:
    thread = _aside(queue.sync)
    assert gate.entered.wait(30)
    queue.append(records("d"))  # would wait for ever
    assert queue._store.unsynced
    gate.open.set()
    thread.join(30)
    assert queue._store.unsynced, "what came during the flush is still to be flushed"
    queue.sync()
    assert not queue._store.unsynced
    assert gate.count == 2


def test_a_flush_that_is_asked_for_during_another_is_not_taken_for_done(queue: DiskQueue, gate: Gate) -> None:
    first = _aside(queue.sync)
    assert gate.entered.wait(30)
    second = _aside(queue.sync)
    second.join(0.05)
    assert second.is_alive()
    gate.open.set()
    first.join(30)
    second.join(30)
    assert not second.is_alive()


def test_a_flush_beside_appends_that_fails_is_made_good_or_said(
    queue: DiskQueue, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.error = OSError(errno.EIO, "Input/output error")
    gate.open.set()
    queue.sync()  # the WAL was written again, and flushed
    assert queue._store.flush_failed is None

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(flushing, "_fdatasync", fails)
    queue.append(records("d"))
    with pytest.raises(OutcomeUnknown):
        queue.sync()
    assert queue._store.flush_failed


def test_when_much_comes_fast_it_is_flushed_before_the_interval(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = threading.Event()

    def flush(fd: int) -> None:
        flushed.set()
        os.fdatasync(fd)

    queue = open_queue(durability="process", sync_interval=3600.0)
    queue.append(records("a"))
    monkeypatch.setattr(flushing, "_fdatasync", flush)
    for number in range(300):  # a page of the WAL each
        queue.append(records([number]))
    assert flushed.wait(30)


# Many at once


@pytest.mark.parametrize("count", [2, 49, 50, 51, 99, 100, 101, 149, 150, 151, 230, 1000, 1001])
def test_any_number_of_events_is_appended_whole_and_in_order(open_queue: OpenQueue, count: int) -> None:
    queue = open_queue()
    queue.append(records(["first"]))
    queue.append(records(range(count)))
    assert [row[0] for row in table(queue)] == list(range(1, count + 2))
    assert drain(queue) == ["first", *map(str, range(count))]
    check_ledger(queue)


def test_what_may_outgrow_the_wal_goes_the_long_way(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = open_queue(max_bytes=64 << 20)
    queue.append(records("a"))
    inserted = []
    monkeypatch.setattr(queue._store, "insert", lambda rows: inserted.append(len(rows)))
    queue.append(records(range(40), size=400_000))
    assert not inserted
    assert queue.count_rows() == 41


def test_a_connection_keeps_few_statements_whatever_the_sizes(queue: DiskQueue) -> None:
    sizes = {count for count in range(1, 1001) if schema.by_one_statement(count)}
    assert len(sizes) <= 51
