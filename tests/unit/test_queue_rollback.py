"""A transaction that fails leaves nothing behind: neither rows nor numbers, nor what the queue thinks it knows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from unit_kit import MIB, check_ledger, drain, lease, record, records

from edgespool.errors import QueueError
from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock

OpenQueue = Callable[..., DiskQueue]


def deny(connection: sqlite3.Connection | None, what: str) -> None:
    """Let SQLite refuse every statement of a kind on this connection: "COMMIT", or an action on a table."""

    def judge(action: int, first: str | None, *rest: Any) -> int:
        return sqlite3.SQLITE_DENY if first == what else sqlite3.SQLITE_OK

    assert connection is not None
    connection.set_authorizer(judge)


@pytest.mark.parametrize("what", ["COMMIT", "ack_queue_default", "edgespool_session", "edgespool_route"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_append_that_fails_leaves_no_row_no_number_and_no_route(
    open_queue: OpenQueue, clock: FakeClock, what: str, count: int
) -> None:
    queue = open_queue()
    deny(queue._store.writer, what)
    with pytest.raises(QueueError):
        queue.append([record(n, "kitchen", clock=clock) for n in range(count)])
    assert queue.ledger().accepted == 0
    queue._store._drop()  # the disk is well again: a new connection
    queue.append([record("a", "hall", clock=clock), record("b", "kitchen", clock=clock), record("c", clock=clock)])
    check_ledger(queue)
    assert queue.ledger().accepted == 3
    assert {batch.route: batch.ids for batch in (lease(queue, 1) for _ in range(3))} == {
        "hall": ["a"], "kitchen": ["b"], "": ["c"],
    }  # fmt: skip
    clock.advance(100)
    assert queue.expire(50.0) == 3  # so the boot is known, too


@pytest.mark.parametrize(("count", "what"), [(1, "ack_queue_default"), (3, "ack_queue_default"), (200, "COMMIT")])
def test_an_append_that_fails_later_on_leaves_no_gap(queue: DiskQueue, count: int, what: str) -> None:
    queue.append(records("ab"))
    deny(queue._store.writer, what)
    with pytest.raises(QueueError):
        queue.append(records(range(count)))
    check_ledger(queue)
    queue._store._drop()
    queue.append(records("cd"))
    check_ledger(queue)
    assert queue.ledger().accepted == 4
    assert drain(queue) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("what", ["COMMIT", "edgespool_ledger"])
def test_an_acknowledgement_that_fails_counts_nothing_and_is_made_good(queue: DiskQueue, what: str) -> None:
    queue.append(records("abc"))
    deny(queue._store._reader, what)
    with pytest.raises(QueueError):
        queue.ack(lease(queue, 2))
    queue._store._drop()
    assert (queue.ledger().pending, queue.count_rows()) == (3, 3)
    assert lease(queue).ids == ["c"]
    queue.maintain(False)
    check_ledger(queue)
    assert queue.ledger().delivered == 2


def test_an_expiry_that_fails_drops_and_counts_nothing(open_queue: OpenQueue, clock: FakeClock) -> None:
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    clock.advance(100)
    deny(queue._store._reader, "COMMIT")
    with pytest.raises(QueueError):
        queue.expire(10.0)
    queue._store._drop()
    check_ledger(queue)
    assert queue.expire(10.0) == 1


def test_making_room_is_undone_when_the_append_fails(open_queue: OpenQueue) -> None:
    queue = open_queue(max_bytes=MIB, overflow="drop_oldest")
    while not queue.ledger().dropped:
        queue.append([record(size=60_000)])
    before = (queue.ledger(), queue.count_rows())
    deny(queue._store.writer, "COMMIT")
    with pytest.raises(QueueError):
        queue.append(records("xyz", size=60_000))
    queue._store._drop()
    assert (queue.ledger(), queue.count_rows()) == before
    queue.append(records("xyz", size=60_000))
    check_ledger(queue)
    assert drain(queue)[-3:] == ["x", "y", "z"]
