"""What `edgespool.interfaces.Queue` promises, held against the disk queue and the queue in memory."""

from __future__ import annotations

from typing import Any

import pytest
from unit_kit import EVERYTHING, MIB, MakeQueue, check_ledger, drain, lease, record, records

from edgespool.errors import QueueClosed, QueueFull
from edgespool.event import Batch, Record, id_text, new_id
from edgespool.interfaces import Queue
from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock, MemoryQueue


@pytest.fixture
def queue(make_queue: MakeQueue) -> Any:
    """Once on disk and once in memory."""
    return make_queue()


# Order


def test_events_of_a_route_come_in_the_order_in_which_they_were_appended(queue: Any) -> None:
    queue.append(records("abc"))
    for name in "def":
        queue.append([record(name)])
    assert drain(queue, 4) == list("abcdef")
    assert queue.lease(1, EVERYTHING) is None


def test_payload_id_and_time_come_back_as_they_went_in(queue: Any, clock: FakeClock) -> None:
    raw = new_id()
    given = [
        Record(b"", raw, clock.time(), 5, ""),
        Record(b"\x00\xff" * 5000, "né ’", -1.5, -7, "", True),
        Record(b"{}", "x" * 1000, 1e10, 1 << 40, "", True),
    ]
    queue.append(given)
    batch = lease(queue)
    assert [(e.payload, e.raw_id, e.time, e.corrected) for e in batch.events] == [(*r[:3], False) for r in given]
    assert batch.ids == [id_text(raw), "né ’", "x" * 1000]
    assert batch.payload_bytes == 10_002


def test_a_batch_holds_events_of_one_route_only(queue: Any) -> None:
    for name, route in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "")):
        queue.append([record(name, route)])
    batches = [lease(queue) for _ in range(3)]
    assert [(batch.route, batch.ids) for batch in batches] == [("x", ["a", "c"]), ("y", ["b"]), ("", ["d"])]


def test_the_oldest_event_is_told_of_all_routes_or_of_some(queue: Any) -> None:
    assert queue.oldest_sequence() is None
    queue.append([record(n, route) for n, route in enumerate(("x", "x", "", "y"))])
    batch = lease(queue, 1)
    assert queue.oldest_sequence() == 1, "leased, it is still there"
    assert [queue.oldest_sequence(exclude) for exclude in ({"x"}, {"x", ""}, {"x", "", "y"})] == [3, 4, None]
    queue.ack(batch)
    assert (queue.oldest_sequence(), queue.oldest_sequence({"nobody's"})) == (2, 2)


def test_the_route_whose_next_event_is_oldest_comes_first(queue: Any) -> None:
    queue.append([record(n, route) for n, route in enumerate(("z", "a", "", "z", "a", ""))])
    assert [lease(queue, 1).ids[0] for _ in range(6)] == list("012345")


@pytest.mark.parametrize("route", ["", "r", "ü/'\"; --", "0" * 500, "\0"])
def test_any_text_can_be_a_route(queue: Any, route: str) -> None:
    queue.append([record("a", route), record("b", "other")])
    assert lease(queue, route=route).ids == ["a"]
    assert lease(queue).ids == ["b"]


def test_a_route_with_a_long_backlog_that_is_held_blocks_nobody(queue: Any) -> None:
    queue.append(records(range(3000), "held"))
    queue.append(records("ab", "free"))
    queue.append(records("c"))
    assert lease(queue, exclude={"held"}).ids == ["a", "b"]
    assert lease(queue, exclude={"held"}).ids == ["c"]
    assert queue.lease(500, EVERYTHING, {"held"}) is None
    assert lease(queue, 1).ids == ["0"]


def test_only_the_route_that_was_asked_for_is_leased(queue: Any) -> None:
    queue.append([record("a"), record("b", "x"), record("c", "x")])
    assert lease(queue, route="x").ids == ["b", "c"]
    assert queue.lease(1, EVERYTHING, route="x") is None
    assert queue.lease(1, EVERYTHING, route="never seen") is None
    assert queue.lease(1, EVERYTHING, {""}, route="") is None
    assert lease(queue, route="").ids == ["a"]


# Limits of a lease


def test_a_lease_keeps_to_the_limit_by_count(queue: Any) -> None:
    queue.append(records(range(10)))
    assert [len(lease(queue, 4)) for _ in range(3)] == [4, 4, 2]


def test_a_lease_keeps_to_the_limit_by_bytes(queue: Any) -> None:
    queue.append(records(range(10), size=100))
    assert len(lease(queue, 500, 350)) == 3
    assert len(lease(queue, 500, 300)) == 3
    assert len(lease(queue, 500, 299)) == 2


def test_a_lease_holds_at_least_one_event_however_large_it_is(queue: Any) -> None:
    queue.append([record("big", size=5000), record("small")])
    assert lease(queue, 500, 100).ids == ["big"]
    assert lease(queue, 500, 1).ids == ["small"]


def test_what_is_leased_is_not_leased_again(queue: Any) -> None:
    queue.append(records("ab"))
    first = lease(queue, 1)
    assert lease(queue).ids == ["b"]
    assert queue.lease(1, EVERYTHING) is None
    queue.append([record("c")])
    assert lease(queue).ids == ["c"]
    queue.requeue(first)
    assert lease(queue).ids == ["a"]


# Requeue and ack


def test_requeued_events_come_back_at_their_old_place(queue: Any) -> None:
    queue.append(records("abcdef"))
    one, two, three = (lease(queue, 2) for _ in range(3))
    queue.requeue(two)
    queue.ack(three)
    queue.append([record("g")])
    assert lease(queue).ids == ["c", "d", "g"]
    queue.requeue(one)
    assert lease(queue).ids == ["a", "b"]


def test_batches_that_are_requeued_in_any_order_come_back_in_order(queue: Any) -> None:
    queue.append(records("abcdef"))
    batches = [lease(queue, 2) for _ in range(3)]
    for batch in (batches[1], batches[2], batches[0]):
        queue.requeue(batch)
    assert drain(queue) == list("abcdef")


def test_a_part_of_a_batch_can_be_requeued_and_the_rest_acknowledged(queue: Any) -> None:
    queue.append(records("abcd"))
    kept, rest = lease(queue).cut(1)
    queue.requeue(rest)
    assert lease(queue, 2).ids == ["b", "c"]
    assert queue.ack(kept) == 1
    check_ledger(queue)
    assert lease(queue).ids == ["d"]


def test_an_ack_removes_exactly_the_batch(queue: Any) -> None:
    queue.append([record(n, route) for n, route in enumerate(("", "x", "", "x", "", "x"))])
    first, other = lease(queue, 2, route=""), lease(queue, 1, route="x")
    assert queue.ack(first) == 2
    check_ledger(queue)
    assert queue.ack(other) == 1
    check_ledger(queue)
    assert drain(queue) == ["3", "5", "4"]


def test_an_ack_of_a_batch_with_a_gap_leaves_the_gap(queue: Any) -> None:
    queue.append(records("abcde"))
    batch = lease(queue)
    queue.requeue(Batch("", [batch.events[2]]))
    assert queue.ack(Batch("", [batch.events[i] for i in (0, 1, 3, 4)])) == 4
    assert drain(queue) == ["c"]


@pytest.mark.parametrize("order", [(0, 4, 2), (4, 3), (2, 0), (0, 0, 2), (3, 3)])
def test_an_ack_removes_no_more_than_it_names_in_whatever_order(queue: Any, order: tuple[int, ...]) -> None:
    queue.append(records(range(5)))
    batch = lease(queue)
    assert queue.ack(Batch("", [batch.events[i] for i in order])) == len(set(order))
    queue.requeue(batch)
    check_ledger(queue)
    assert drain(queue) == [str(i) for i in range(5) if i not in order]


def test_an_ack_of_what_is_not_leased_does_nothing(queue: Any) -> None:
    queue.append(records("ab"))
    batch = lease(queue, 1)
    queue.requeue(batch)
    assert queue.ack(batch) == 0
    batch = lease(queue, 1)
    assert (queue.ack(batch), queue.ack(batch)) == (1, 0)
    queue.requeue(batch)  # it is gone: nothing comes back
    check_ledger(queue)
    assert drain(queue) == ["b"]


# Ledger


def test_the_ledger_counts_every_way_out(queue: Any) -> None:
    queue.append(records(range(10)))
    for limit, name in ((4, "delivered"), (3, "failed"), (1, "dropped:purged"), (1, "dropped:damaged")):
        assert queue.ack(lease(queue, limit), name) == limit
        check_ledger(queue)
    ledger = queue.ledger()
    assert (ledger.accepted, ledger.delivered, ledger.failed, ledger.pending) == (10, 4, 3, 1)
    assert ledger.dropped == {"purged": 1, "damaged": 1}


def test_what_is_leased_still_counts_as_pending(queue: Any) -> None:
    queue.append(records("ab"))
    lease(queue)
    assert queue.ledger().pending == 2


def test_row_ids_never_repeat_after_the_queue_was_emptied(queue: Any) -> None:
    seen: list[int] = []
    for turn in range(4):
        for route in ("", "x"):
            queue.append(records(range(3), route))
        while (batch := queue.lease(100, EVERYTHING)) is not None:
            seen += [event.rowid for event in batch.events]
            queue.ack(batch)
        assert queue.ledger().accepted == 6 * (turn + 1)
    assert len(set(seen)) == len(seen) == 24


# Append


def test_an_append_that_does_not_fit_stores_nothing(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB)
    queue.append([record("a")])
    with pytest.raises(QueueFull):
        queue.append([record("b"), record("big", size=2 * MIB)])
    check_ledger(queue)
    assert drain(queue) == ["a"]


def test_appending_nothing_changes_nothing(queue: Any) -> None:
    queue.append([])
    assert queue.ledger().accepted == 0


def test_whoever_listens_is_told_of_every_append(queue: Any) -> None:
    heard: list[int] = []
    queue.on_append = heard.append
    queue.append(records("abc"))
    queue.append([record("d")])
    assert heard == [3, 1]


def test_a_closed_queue_says_so(queue: Any) -> None:
    queue.append(records("ab"))
    batch = lease(queue, 1)
    queue.close()
    queue.close()
    for call in (
        lambda: queue.append([record("c")]),
        lambda: queue.lease(1, EVERYTHING),
        lambda: queue.ack(batch),
        lambda: queue.expire(1.0),
        queue.ledger,
    ):
        with pytest.raises(QueueClosed):
            call()


def test_the_disk_queue_and_the_queue_in_memory_are_queues(make_queue: MakeQueue) -> None:
    def takes_a_queue(queue: Queue) -> None:
        assert isinstance(queue, (DiskQueue, MemoryQueue))

    takes_a_queue(make_queue())
