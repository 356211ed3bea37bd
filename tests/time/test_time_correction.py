"""Events recorded while the clock was wrong are sent with the right time, once it is known, and say so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from time_kit import DAY, NOW, YEAR, Device, moment

from edgespool import Client, Event
from edgespool.outcome import Reject, Retry
from edgespool.queue.view import QueueView
from edgespool.testing import Collector, FakeClock, FakeDestination

MakeDevice = Callable[..., Device]
STALE = -37 * DAY  # by how much a board without a clock chip may be behind: it starts with the time it last wrote down


def ntp(clock: FakeClock, by: float) -> None:
    """A time server is heard: the clock steps, and from now on the kernel says that it is kept."""
    clock.jump_wall(by)
    clock.is_synchronized = True


def times(device: Device) -> dict[int, tuple[float, bool]]:
    """Return the time of each event that the server got, and whether it says that it was put right."""
    return {
        event["data"]["n"]: (round(moment(event["time"]), 3), event.get("timecorrected", False))
        for event in device.server.got
    }


def test_a_board_without_a_clock_chip_sends_right_times(device: Device, clock: FakeClock) -> None:
    clock.jump_wall(STALE)
    device.record(1)
    clock.advance(20)
    device.record(2)
    clock.advance(10)
    ntp(clock, -STALE)
    clock.advance(5)
    device.record(3)
    device.drain()
    assert times(device) == {1: (NOW, True), 2: (NOW + 20, True), 3: (NOW + 35, False)}


def test_a_clock_in_1970_or_before_or_in_the_future_is_corrected_as_well(device: Device, clock: FakeClock) -> None:
    numbers = range(4)
    for number, wrong in zip(numbers, (-NOW, -NOW - 3 * YEAR, 10 * YEAR, 3.0), strict=True):
        clock.jump_wall(wrong)
        device.record(number)
        clock.jump_wall(-wrong)
        clock.advance(1)
    ntp(clock, 0)
    device.drain()
    assert times(device) == {number: (NOW + number, True) for number in numbers}
    assert device.server.numbers == list(numbers)


@pytest.mark.parametrize("wrong", [-NOW, STALE, -2.0, 2.0, 3.0, 10 * YEAR])
@pytest.mark.parametrize("every", [0.0, 10.0])
@pytest.mark.parametrize("which", [range(5), [2]])
def test_however_far_the_clock_was_off_and_for_however_many_events(
    device: Device, clock: FakeClock, wrong: float, every: float, which: Sequence[int]
) -> None:
    for number in range(5):
        by = wrong if number in which else 0.0
        clock.jump_wall(by)
        device.record(number)
        clock.jump_wall(-by)
        clock.advance(every)
    ntp(clock, 0)
    device.drain()
    assert times(device) == {number: (NOW + number * every, number in which) for number in range(5)}


def test_what_was_sent_before_is_sent_as_it_was_and_what_is_sent_again_is_right(
    make_device: MakeDevice, clock: FakeClock
) -> None:
    device = make_device(Retry("down", everywhere=True))
    clock.jump_wall(STALE)
    device.record(1)
    device.step()
    ntp(clock, -STALE)
    clock.advance(600)
    device.drain()
    assert times(device) == {1: (NOW, True)}
    assert len({event.id for batch in device.server.batches for event in batch.events}) == 1, "the id never changes"


def test_a_time_that_the_user_gave_is_never_touched(device: Device, clock: FakeClock) -> None:
    clock.jump_wall(STALE)
    device.client.record_event(Event("reading", {"n": 1}, time=123.5))
    device.client.record_event(Event("reading", {"n": 2}))
    ntp(clock, -STALE)
    device.drain()
    assert times(device) == {1: (123.5, False), 2: (NOW, True)}


def test_the_attribute_is_named_as_the_specification_asks_and_stands_only_where_it_is_true(
    device: Device, clock: FakeClock
) -> None:
    clock.jump_wall(STALE)
    device.record(1)
    ntp(clock, -STALE)
    device.record(2)
    device.drain()
    first, second = device.server.got
    assert first["timecorrected"] is True
    assert "timecorrected" not in second
    assert {*first} - {*second} == {"timecorrected"}
    assert re.fullmatch("[a-z0-9]{1,20}", "timecorrected"), "CloudEvents 1.0, naming conventions"


def test_without_a_time_server_nothing_is_corrected(device: Device, clock: FakeClock) -> None:
    clock.jump_wall(STALE)
    device.record(1)
    clock.jump_wall(-STALE)  # somebody set the clock by hand: who knows whether it is right now
    device.record(2)
    device.drain()
    assert times(device) == {1: (NOW + STALE, False), 2: (NOW, False)}


def test_times_of_a_boot_that_never_knew_better_stay_as_they_are(device: Device, clock: FakeClock) -> None:
    clock.jump_wall(STALE)
    device.record(1)
    device.pull_the_plug()
    ntp(clock, -STALE + 100)
    device.boot()
    device.record(2)
    device.drain()
    assert times(device) == {1: (NOW + STALE, False), 2: (NOW + 100, False)}


@pytest.mark.parametrize("end", ["power cut", "close", "close and power cut"])
def test_what_a_boot_came_to_know_outlives_it(device: Device, clock: FakeClock, end: str) -> None:
    clock.jump_wall(STALE)
    device.worker._down_due = float("inf")  # the network is there for a moment, long enough for the time alone
    device.record(1)
    device.step()
    clock.advance(10)
    ntp(clock, -STALE)
    if end == "power cut":
        device.step()  # no second, let alone a minute, has passed
    else:
        device.close()
    if end != "close":
        device.pull_the_plug()
    else:
        clock.reboot(5.0)
        clock.is_synchronized = False
    clock.advance(1 * DAY)
    clock.jump_wall(STALE)  # wrong again, as at every boot
    device.boot()
    device.record(2)
    device.drain()
    assert times(device) == {1: (NOW, True), 2: (round(clock.time(), 3), False)}


def test_a_program_that_only_records_keeps_what_it_knows_when_it_ends(
    tmp_path: Path, device: Device, clock: FakeClock
) -> None:
    clock.jump_wall(STALE)
    device.record(1)  # and no sender ever runs in this boot: a script of cron's, start=False
    ntp(clock, -STALE)
    device.close()
    clock.reboot(5.0)
    clock.is_synchronized = False
    clock.jump_wall(STALE)
    device.boot()
    device.drain()
    assert times(device) == {1: (NOW, True)}


def test_the_boots_keep_their_corrections_apart(device: Device, clock: FakeClock) -> None:
    wrong = {1: -100 * DAY, 2: -50 * DAY, 3: -25 * DAY}
    device.worker._down_due = float("inf")
    for boot, offset in wrong.items():
        clock.jump_wall(offset)
        device.record(boot)
        if boot != 2:
            ntp(clock, -offset)
            device.step()
        else:
            clock.jump_wall(-offset)
        device.pull_the_plug()
        clock.advance(1000)
        device.boot()
        device.worker._down_due = float("inf") if boot < 3 else 0.0
    device.drain()
    assert times(device) == {1: (NOW, True), 2: (NOW + 1000 - 50 * DAY, False), 3: (NOW + 2000, True)}


def test_after_losing_the_time_server_the_last_right_time_holds(device: Device, clock: FakeClock) -> None:
    ntp(clock, 0)
    device.record(1)
    device.queue.maintain(False)
    clock.is_synchronized = False  # the kernel ends that state when somebody sets the clock
    clock.jump_wall(-5 * YEAR)
    clock.advance(60)
    device.record(2)
    device.drain()
    assert times(device) == {1: (NOW, False), 2: (NOW + 60, True)}


def test_a_clock_that_is_kept_and_slewed_marks_nothing(device: Device, clock: FakeClock) -> None:
    ntp(clock, 0)
    for number in range(20):
        device.record(number)
        clock.jump_wall(0.05 if number < 10 else -0.05)
        clock.advance(3600)
    device.drain()
    assert [corrected for _, corrected in times(device).values()] == [False] * 20


@pytest.mark.parametrize("direction", [-1.0, 1.0], ids=["a second more", "a second less"])
def test_a_leap_second_marks_nothing_and_keeps_the_order(
    make_device: MakeDevice, clock: FakeClock, direction: float
) -> None:
    device = make_device(flush_interval=3.0)
    device.drain()
    ntp(clock, 0)
    for number in range(10):  # a reading each 200 ms, across the second that comes twice, or not at all
        if number == 5:
            clock.jump_wall(direction)
        device.record(number)
        clock.advance(0.2)
    assert device.step() == pytest.approx(1.0)
    clock.advance(1.0)
    device.drain()
    assert device.server.numbers == list(range(10))
    assert [corrected for _, corrected in times(device).values()] == [False] * 10


def test_a_thread_that_is_held_up_between_the_clocks_does_not_spoil_the_correction(
    device: Device, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ntp(clock, 0)
    device.record(1)
    device.client.record_many([("reading", {"n": 2})])
    wall = clock.time
    stops = [30.0, 10.0]

    def slow() -> float:
        now = wall()
        if stops:
            clock.advance(stops.pop())  # the machine was put to sleep, or the process stopped, at this very place
        return now

    monkeypatch.setattr(clock, "time", slow)
    device.drain()
    assert stops == []
    assert times(device) == {1: (NOW, False), 2: (NOW, False)}


def test_encoding_that_takes_long_does_not_look_like_a_wrong_clock(device: Device, clock: FakeClock) -> None:
    ntp(clock, 0)
    encode = device.client._encode

    def slowly(*given: object) -> bytes:
        clock.advance(30)
        return encode(*given)  # type: ignore[arg-type]

    device.client._encode = slowly
    device.record(1)
    device.drain()
    assert times(device) == {1: (NOW, False)}


def test_a_refused_event_is_filed_with_the_right_time(make_device: MakeDevice, clock: FakeClock) -> None:
    device = make_device(Reject("HTTP 422", 422))
    clock.jump_wall(STALE)
    device.record(1)
    ntp(clock, -STALE)
    device.drain()
    (path,) = device.client._failed.paths()
    written = json.loads(Path(path).read_text())
    assert written["times"] == [pytest.approx(NOW)]
    (event,) = written["events"]
    assert (moment(event["time"]), event["timecorrected"]) == (pytest.approx(NOW), True)
    assert Path(path).name.startswith("20260921T141320")


def test_a_look_at_the_queue_shows_the_times_that_will_be_sent(device: Device, clock: FakeClock) -> None:
    clock.jump_wall(STALE)
    device.record(1)
    device.client.record_event(Event("reading", {"n": 2}, time=5.0))
    ntp(clock, -STALE)
    with QueueView(str(device.path), clock) as view:
        assert [(round(event.time, 3), event.corrected) for _, event in view.events()] == [(NOW, True), (5.0, False)]


def test_a_correction_that_no_calendar_can_show_is_none(device: Device, clock: FakeClock) -> None:
    """The table of sessions has no checksum: what a damaged one says of the time must not stop the sending."""
    device.record(1, 2, 3)
    offset = iter([(1 << 63) - 1, -(1 << 62), "soon"])
    for _ in range(3):
        value = next(offset)
        device.queue._store.write(
            "append", lambda c, v=value: c.execute("UPDATE edgespool_session SET wall_offset = ?", (v,))
        )
        device.close()
        with QueueView(str(device.path), clock) as view:
            assert [event.corrected for _, event in view.events()] == [False] * 3
        device.boot()
        batch = device.queue.lease(10, 1 << 20)
        assert batch is not None
        assert [(event.time, event.corrected) for event in batch.events] == [(NOW, False)] * 3
        device.queue.requeue(batch)


@pytest.mark.parametrize("format", ["cloudevents", "json"])
def test_from_a_real_client_to_a_real_server(tmp_path: Path, clock: FakeClock, format: str) -> None:
    clock.jump_wall(STALE)
    with Collector(keep_bodies=True) as collector:
        with Client(
            collector.url, path=tmp_path / "queue", source="pi", clock=clock, format=format, start=False, name="a"
        ) as client:
            client.record("reading", n=1)
            ntp(clock, -STALE)
            client.record("reading", n=2)
            client.start()
            assert client.flush(20)
        sent = [event for body in (r.body for r in collector.requests()) for event in json.loads(body or b"[]")]
    if format == "json":
        assert sent == [{"n": 1}, {"n": 2}], "a format without times has none to correct"
    else:
        assert [(moment(e["time"]), e.get("timecorrected")) for e in sent] == [(NOW, True), (NOW, None)]


def test_the_ids_need_no_right_clock(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: set[str] = set()
    with Client(path=tmp_path / "queue", destination=FakeDestination(), clock=clock, start=False) as client:
        for wrong in (-1.0, -3e9, 0.0, 4e9, 1e15, 0.0):
            monkeypatch.setattr("edgespool.event.time.time_ns", lambda wrong=wrong: int(wrong * 1e9))
            new = {client.record("reading"), *client.record_many([("reading", {})] * 3)}
            assert len(new) == 4
            assert not new & ids
            ids |= new
    assert all(id[14] == "7" for id in ids)
