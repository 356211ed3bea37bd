"""What the limits that a user chose may drop, and what they may not: budget and age, held against both queues."""

from __future__ import annotations

from typing import Any

import pytest
from unit_kit import MIB, MakeQueue, check_ledger, drain, lease, record, records

from edgespool.errors import QueueFull
from edgespool.testing import FakeClock


@pytest.fixture
def queue(make_queue: MakeQueue) -> Any:
    """Once on disk and once in memory."""
    return make_queue()


# Overflow


def fill(queue: Any, size: int = 16_384, limit: int = 1000) -> int:
    """Append until the ledger shows that something gave way, or QueueFull; return how many were tried."""
    for number in range(limit):
        try:
            queue.append([record(number, size=size)])
        except QueueFull:
            return number
        if queue.ledger().dropped:
            return number + 1
    raise AssertionError("it never filled")


def test_at_reject_a_full_queue_refuses_and_takes_again_once_there_is_room(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB, overflow="reject")
    taken = fill(queue)
    assert taken > 20
    ledger = queue.ledger()
    assert (ledger.accepted, ledger.pending, ledger.dropped) == (taken, taken, {})
    queue.ack(lease(queue, 4))
    queue.append([record("late", size=16_384)])
    check_ledger(queue)
    assert drain(queue)[-1] == "late"


def test_at_drop_oldest_the_oldest_give_way_and_are_counted(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB, overflow="drop_oldest")
    tried = fill(queue)
    for number in range(tried, tried + 20):
        queue.append([record(number, size=16_384)])
        check_ledger(queue)
    ledger = queue.ledger()
    assert ledger.accepted == tried + 20
    assert set(ledger.dropped) == {"overflow"}
    left = drain(queue)
    assert left == [str(n) for n in range(ledger.dropped["overflow"], tried + 20)]


def test_at_drop_oldest_the_order_of_recording_counts_across_routes(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB, overflow="drop_oldest")
    total = 150
    for number in range(total):
        queue.append([record(number, f"r{number % 3}", size=16_384)])
    dropped = queue.ledger().dropped["overflow"]
    check_ledger(queue)
    assert sorted(map(int, drain(queue))) == list(range(dropped, total))


def test_at_drop_oldest_what_could_never_fit_drops_nothing(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB, overflow="drop_oldest")
    queue.append(records("abc"))
    with pytest.raises(QueueFull):
        queue.append([record("huge", size=4 * MIB)])
    check_ledger(queue)
    assert drain(queue) == ["a", "b", "c"]


def test_at_drop_oldest_an_event_that_was_leased_and_dropped_is_counted_once(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB, overflow="drop_oldest")
    queue.append(records(range(3), size=16_384))
    batch = lease(queue, 2)
    fill(queue)
    for number in range(20):
        queue.append([record(number, size=16_384)])
    assert queue.ack(batch) == 0
    check_ledger(queue)


def test_at_drop_newest_the_new_give_way_and_are_counted(make_queue: MakeQueue) -> None:
    queue = make_queue(max_bytes=MIB, overflow="drop_newest")
    tried = fill(queue)
    queue.append(records(range(3), size=16_384))
    ledger = queue.ledger()
    check_ledger(queue)
    assert (ledger.accepted, ledger.dropped) == (tried + 3, {"overflow": 4})
    left = drain(queue)
    assert left == [str(n) for n in range(tried - 1)]
    queue.append([record("room again")])
    assert drain(queue) == ["room again"]


# Age


def test_only_what_is_older_for_certain_expires(queue: Any, clock: FakeClock) -> None:
    queue.append([record("old", clock=clock), record("old too", "x", clock=clock)])
    clock.advance(10)
    queue.append([record("young", clock=clock)])
    assert queue.expire(10.0) == 0
    clock.advance(1)
    assert queue.expire(10.0) == 2
    check_ledger(queue)
    assert queue.ledger().dropped == {"max_age": 2}
    assert drain(queue) == ["young"]


def test_at_most_the_limit_expires_at_once(queue: Any, clock: FakeClock) -> None:
    queue.append([record(n, f"r{n % 2}", clock=clock) for n in range(10)])
    clock.advance(100)
    assert [queue.expire(1.0, limit=4) for _ in range(4)] == [4, 4, 2, 0]
    check_ledger(queue)


@pytest.mark.parametrize("jump", [-1e9, -3600.0, 3600.0, 1e9])
def test_a_jump_of_the_wall_clock_expires_nothing(queue: Any, clock: FakeClock, jump: float) -> None:
    queue.append([record("a", clock=clock)])
    clock.jump_wall(jump)
    assert queue.expire(60.0) == 0
    clock.advance(59)
    queue.append([record("b", clock=clock)])
    assert queue.expire(60.0) == 0
    clock.advance(2)
    assert queue.expire(60.0) == 1
    assert drain(queue) == ["b"]


# Time


def test_a_time_taken_with_a_wrong_clock_is_put_right_once_the_clock_is(queue: Any, clock: FakeClock) -> None:
    queue.append([record("a", clock=clock), record("given", clock=clock, time=5.0)])
    taken = clock.time()
    clock.advance(30)
    clock.jump_wall(1e8)
    clock.is_synchronized = True
    a, given = lease(queue).events
    assert a.time == pytest.approx(taken + 1e8, abs=1e-3)
    assert (a.corrected, given.time, given.corrected) == (True, 5.0, False)


def test_a_jump_of_a_clock_that_nobody_keeps_corrects_nothing(queue: Any, clock: FakeClock) -> None:
    queue.append([record("a", clock=clock)])
    taken = clock.time()
    clock.jump_wall(1e8)
    (a,) = lease(queue).events
    assert (a.time, a.corrected) == (taken, False)


def test_a_time_that_was_right_stays_as_it_is(queue: Any, clock: FakeClock) -> None:
    clock.is_synchronized = True
    queue.append([record("a", clock=clock)])
    taken = clock.time()
    clock.advance(1000)
    clock.jump_wall(0.9)  # what a clock that is kept may be off by
    (a,) = lease(queue).events
    assert (a.time, a.corrected) == (taken, False)
