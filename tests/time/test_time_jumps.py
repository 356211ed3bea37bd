"""The wall clock jumps by years at any step of an event's way: order, waits, ages and retries take no notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from time_kit import DAY, JUMPS, NOW, PATIENT, YEAR, Device, moment

from edgespool.outcome import Delivered, Hold, Reject, Retry
from edgespool.testing import FakeClock

MakeDevice = Callable[..., Device]
pytestmark = pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS.keys())


@pytest.fixture
def patient(make_device: MakeDevice) -> MakeDevice:
    """Make a device that waits 32 seconds after a failure."""

    def make(*script: object, **settings: object) -> Device:
        device = make_device(*script, **settings)
        device.worker._policy = replace(device.worker._policy, backoff=PATIENT)
        return device

    return make


def test_events_keep_the_order_in_which_they_were_recorded(device: Device, clock: FakeClock, jump: float) -> None:
    device.record(1)
    clock.jump_wall(jump)
    device.record(2)
    clock.jump_wall(-2 * jump)
    device.record(3)
    device.drain()
    clock.jump_wall(jump)
    device.record(4)
    device.drain()
    assert device.server.numbers == [1, 2, 3, 4]


def test_a_jump_between_lease_and_reply_neither_loses_nor_repeats(
    device: Device, clock: FakeClock, jump: float
) -> None:
    device.record(1, 2, 3)
    device.server.before = lambda: clock.jump_wall(jump)
    device.drain()
    device.record(4)
    device.drain()
    assert device.server.numbers == [1, 2, 3, 4]
    assert device.queue.ledger().delivered == 4


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (Retry("down", everywhere=True), 32.0),
        (Retry("busy"), 32.0),
        (Retry("busy", after=600.0), 600.0 + 32.0),
        (Retry("busy", after=600.0, everywhere=True), 600.0 + 32.0),
        (Hold("wrong key"), 32.0),
        (Hold("wrong key", everywhere=True), 32.0),
    ],
    ids=["backoff", "backoff of a route", "Retry-After of a route", "Retry-After", "held route", "held"],
)
def test_a_wait_lasts_as_long_as_it_would_have(
    patient: MakeDevice, clock: FakeClock, jump: float, failure: Retry | Hold, seconds: float
) -> None:
    device = patient(failure)
    device.record(1)
    device.step(2)
    assert device.held_back == seconds
    clock.jump_wall(jump)
    device.step(3)
    assert device.held_back == seconds
    clock.advance(seconds - 0.1)
    assert 0 < device.step() <= 0.1 + 1e-6
    assert device.server.numbers == []
    clock.jump_wall(-2 * jump)
    device.step()
    assert device.server.numbers == []
    clock.advance(0.1)
    device.drain()
    assert device.server.numbers == [1]
    assert len(device.server.batches) == 2


def test_the_second_wait_follows_from_the_first_and_not_from_the_clock(
    make_device: MakeDevice, clock: FakeClock, jump: float
) -> None:
    device = make_device(*[Retry("down", everywhere=True)] * 6)
    device.record(1)
    waits = []
    for _ in range(6):
        device.step()
        device.step()
        waits.append(device.held_back)
        clock.jump_wall(jump if len(waits) % 2 else -jump)
        clock.advance(device.held_back)
    assert waits == [0.5, 1, 2, 4, 8, 16]


def test_an_event_waits_for_others_as_long_as_it_would_have(
    make_device: MakeDevice, clock: FakeClock, jump: float
) -> None:
    device = make_device(flush_interval=10.0)
    device.drain()
    device.record(1)
    clock.jump_wall(jump)
    assert device.step() == 1.0  # at most: something else may happen
    clock.advance(9.9)
    device.step()
    assert device.server.numbers == []
    clock.advance(0.1)
    device.drain()
    assert device.server.numbers == [1]


def test_the_rate_is_kept_to(make_device: MakeDevice, clock: FakeClock, jump: float) -> None:
    device = make_device(max_rate=2.0, batch_size=2)
    device.record(1, 2, 3, 4)
    device.step()
    clock.jump_wall(jump)
    assert device.step() == 1.0
    assert device.server.numbers == [1, 2]
    clock.advance(1.0)
    device.step()
    assert device.server.numbers == [1, 2, 3, 4]


def test_no_event_is_too_old_because_of_a_jump(make_device: MakeDevice, clock: FakeClock, jump: float) -> None:
    device = make_device(*[Retry("down", everywhere=True)] * 50, max_age=7 * DAY)
    device.record(1)
    clock.jump_wall(jump)
    device.record(2)
    for _ in range(10):
        device.step()
        clock.jump_wall(-2 * jump)
        clock.advance(0.6 * DAY)
        jump = -jump
    device.step()
    assert device.queue.ledger().pending == 2
    clock.advance(1.0 * DAY - 2)
    device.step()
    assert device.queue.ledger().pending == 2, "not a moment too early"
    clock.advance(3)
    device.step()
    ledger = device.queue.ledger()
    assert (ledger.pending, ledger.dropped) == (0, {"max_age": 2}), "and not kept for ever"


def test_no_event_of_another_boot_is_too_old_because_of_a_jump(
    make_device: MakeDevice, clock: FakeClock, jump: float
) -> None:
    device = make_device(max_age=7 * DAY)
    device.record(1)
    device.pull_the_plug()
    clock.jump_wall(jump)
    device.boot()
    device.record(2)
    clock.advance(6.9 * DAY)
    assert device.queue.expire(7 * DAY) == 0
    clock.advance(0.2 * DAY)
    assert device.queue.expire(7 * DAY) == 2


def test_a_failed_payload_file_is_written_and_found_whatever_the_time(
    make_device: MakeDevice, clock: FakeClock, jump: float, tmp_path: Path
) -> None:
    device = make_device(Reject("HTTP 422", 422), Reject("HTTP 422", 422), Delivered())
    device.record(1, 2)
    clock.jump_wall(jump)
    device.drain()
    assert device.server.numbers == [2]
    (path,) = device.client._failed.paths()
    written = json.loads(Path(path).read_text())
    assert [event["data"]["n"] for event in written["events"]] == [1]
    assert moment(written["failed_at"]) == pytest.approx(NOW + jump)
    assert moment(written["events"][0]["time"]) == pytest.approx(NOW)


@pytest.mark.parametrize("synchronized", [False, True])
def test_closing_in_mid_jump_keeps_what_is_pending(
    make_device: MakeDevice, clock: FakeClock, jump: float, synchronized: bool
) -> None:
    device = make_device(Retry("down", everywhere=True))
    device.record(1)
    device.step()
    clock.jump_wall(jump)
    clock.is_synchronized = synchronized and jump > 0
    device.close()
    clock.jump_wall(-jump)
    device.boot()
    device.record(2)
    device.drain()
    assert device.server.numbers == [1, 2]
    assert device.queue.ledger().balanced


def test_the_age_of_the_oldest_event_is_never_negative(device: Device, clock: FakeClock, jump: float) -> None:
    device.record(1)
    clock.jump_wall(jump)
    clock.advance(50)
    assert device.client.stats().oldest_age == pytest.approx(50), "within a boot it is the boot clock's"
    device.pull_the_plug()
    device.boot()
    clock.jump_wall(-1.0 * YEAR)
    age = device.client.stats().oldest_age
    assert age is not None
    assert age >= 0


STEPS = ("record", "lease", "backoff", "expire", "maintain", "stats", "close")


@pytest.mark.parametrize("at", STEPS)
def test_a_clock_that_jumps_at_every_step_of_one_kind_changes_nothing(
    make_device: MakeDevice, clock: FakeClock, jump: float, at: str
) -> None:
    def life(device: Device, jump: float) -> list[object]:
        told: list[object] = []
        for number, step in product(range(4), STEPS):
            if step == at:
                clock.jump_wall(jump if number % 2 else -jump)
            if step == "record":
                device.record(number)
            elif step == "lease":
                told.append(device.step())
            elif step == "backoff":
                told.append(device.step())
                clock.advance(40.0)
            elif step == "expire":
                told.append(device.queue.expire(100.0))
            elif step == "maintain":
                device.queue.maintain(True)
            elif step == "stats":
                stats = device.client.stats()
                told.append((stats.ledger, stats.next_attempt, stats.oldest_age))
            else:
                device.close()
                device.boot()
        device.drain()
        return [*told, device.server.numbers, device.queue.ledger()]

    failures = [Retry("down", after=20.0, everywhere=True), Delivered(), Retry("busy"), Delivered()]
    quiet = make_device(*failures)
    expected = life(quiet, 0.0)
    quiet.pull_the_plug()
    jumpy = make_device(*failures)
    jumpy.close()
    jumpy.path = jumpy.path.with_name("jumpy")
    jumpy.boot()
    assert _rounded(life(jumpy, jump)) == _rounded(expected)


def _rounded(value: object) -> object:
    """Return a value with its numbers to a tenth of a millisecond."""
    if isinstance(value, float):
        return round(value, 4)
    return list(map(_rounded, value)) if isinstance(value, (list, tuple)) else value
