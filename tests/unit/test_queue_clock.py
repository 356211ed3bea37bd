"""Time in the disk queue across restarts and reboots: wrong times are put right, ages are never overstated."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from unit_kit import drain, lease, record, table

from edgespool import clock as clock_module
from edgespool.clock import SystemClock
from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock

OpenQueue = Callable[..., DiskQueue]
YEARS = 50 * 365 * 86_400.0


def times(queue: DiskQueue) -> list[tuple[float, bool]]:
    batch = lease(queue)
    queue.requeue(batch)
    return [(event.time, event.corrected) for event in batch.events]


# Right times


def test_after_a_restart_in_the_same_boot_times_are_still_put_right(open_queue: OpenQueue, clock: FakeClock) -> None:
    clock.jump_wall(-YEARS)  # a board that wakes up in 1973
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    taken = clock.time()
    queue.close()
    clock.advance(60)
    clock.jump_wall(YEARS)
    clock.is_synchronized = True
    ((when, corrected),) = times(open_queue())
    assert corrected
    assert when == pytest.approx(taken + YEARS, abs=0.01)


@pytest.mark.parametrize("closed", [True, False])
def test_after_a_reboot_times_are_put_right_if_the_clock_was_right_before(
    open_queue: OpenQueue, clock: FakeClock, closed: bool
) -> None:
    clock.jump_wall(-YEARS)
    queue = open_queue()
    queue.append([record("a", clock=clock), record("given", clock=clock, time=5.0)])
    taken = clock.time()
    clock.advance(30)
    clock.jump_wall(YEARS)
    clock.is_synchronized = True
    if closed:
        queue.close()
    else:
        queue.maintain(True)
    clock.reboot()
    clock.is_synchronized = False
    clock.jump_wall(-YEARS)
    a, given = times(open_queue())
    assert a == (pytest.approx(taken + YEARS, abs=0.01), True)
    assert given == (5.0, False)


def test_after_a_reboot_a_time_that_nobody_knew_stays_as_it_was_noted(open_queue: OpenQueue, clock: FakeClock) -> None:
    clock.jump_wall(-YEARS)
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    taken = clock.time()
    queue.close()
    clock.reboot()
    clock.jump_wall(YEARS)
    clock.is_synchronized = True
    assert times(open_queue()) == [(taken, False)]


def test_putting_a_time_right_changes_nothing_in_the_table(open_queue: OpenQueue, clock: FakeClock) -> None:
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    before = table(queue)
    clock.jump_wall(YEARS)
    clock.is_synchronized = True
    assert times(queue)[0][1]
    assert table(queue) == before


def test_a_clock_that_goes_wrong_again_takes_nothing_back(open_queue: OpenQueue, clock: FakeClock) -> None:
    clock.is_synchronized = True
    queue = open_queue()
    queue.append([record("right", clock=clock)])
    right = clock.time()
    queue.maintain(True)
    clock.is_synchronized = False
    clock.jump_wall(-YEARS)
    queue.append([record("wrong", clock=clock)])
    (first, second) = times(queue)
    assert first == (right, False)
    assert second == (pytest.approx(right, abs=0.01), True)


# Ages


def test_time_switched_off_is_not_counted_but_what_later_boots_lasted_is(
    open_queue: OpenQueue, clock: FakeClock
) -> None:
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    queue.close()
    for _ in range(3):  # three boots of a hundred seconds
        clock.reboot()
        queue = open_queue()
        queue.append([record(clock=clock)])
        clock.advance(100)
        queue._last_touch -= 61
        queue.maintain(True)
        queue.close()
    clock.reboot()
    clock.jump_wall(YEARS)  # and who knows how long without power
    queue = open_queue()
    queue.append([record(clock=clock)])
    assert queue.expire(301.0) == 0
    assert queue.expire(299.0) == 2  # a, and the one of the boot after it
    assert queue.expire(201.0) == 0
    assert queue.expire(199.0) == 1
    assert len(drain(queue)) == 2


@pytest.mark.parametrize("jump", [-YEARS, YEARS])
def test_a_jump_of_the_wall_clock_purges_nothing_after_a_restart_either(
    open_queue: OpenQueue, clock: FakeClock, jump: float
) -> None:
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    queue.close()
    clock.jump_wall(jump)
    clock.is_synchronized = True
    queue = open_queue()
    assert queue.expire(1.0) == 0
    assert drain(queue) == ["a"]


def test_a_boot_clock_that_starts_over_expires_nothing(open_queue: OpenQueue, clock: FakeClock) -> None:
    clock.advance(1e6)
    queue = open_queue()
    queue.append([record("a", clock=clock)])
    queue.close()
    clock.reboot(monotonic=0.0)
    queue = open_queue()
    queue.append([record("b", clock=clock)])
    clock.advance(5)
    assert queue.expire(10.0) == 0


def test_the_age_of_the_oldest_event_is_told_if_it_is_of_this_boot(open_queue: OpenQueue, clock: FakeClock) -> None:
    queue = open_queue()
    assert queue.oldest() is None
    queue.append([record("a", "x", clock=clock)])
    taken = clock.time()
    clock.advance(70)
    clock.jump_wall(YEARS)
    queue.append([record("b", clock=clock)])
    assert queue.oldest() == (taken, 70.0)
    queue.close()
    clock.reboot()
    assert open_queue().oldest() == (taken, None)


# The real clocks


def test_the_systems_clocks_read_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    assert abs(clock.time() - time.time()) < 5
    first = clock.monotonic()
    assert 0 <= clock.monotonic() - first < 5
    assert isinstance(clock.synchronized(), bool)
    assert clock.boot_id == SystemClock().boot_id != ""
    monkeypatch.setattr(clock_module, "_BOOT_ID_FILE", "/nonexistent")
    assert SystemClock().boot_id != clock.boot_id
