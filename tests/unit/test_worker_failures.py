"""The worker in an outage: it keeps everything, waits longer and longer, says so once, and comes back by itself."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from worker_kit import Rig

from edgespool.errors import QueueError, QueueFull, QueueUnavailable
from edgespool.event import Batch
from edgespool.outcome import Backoff, Delivered, Hold, Outcome, Retry
from edgespool.testing import MemoryQueue

DOWN = Retry("no connection: refused", everywhere=True)
BUSY = Retry("HTTP 503: busy", 503)
WRONG_KEY = Hold("HTTP 401: who are you?", 401)


def gaps(rig: Rig) -> list[float]:
    return [after - before for before, after in pairwise(rig.sent_at)]


# Backoff


@pytest.mark.parametrize("outcome", [DOWN, BUSY])
def test_a_long_outage_loses_nothing_and_is_met_with_patience(outcome: Outcome) -> None:
    rig = Rig(outcome)
    rig.add(*range(50))
    rig.run(12 * 3600)
    assert rig.queue.ledger().pending == 50
    assert rig.given_up == []
    assert [round(gap, 6) for gap in gaps(rig)[:11]] == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150]
    assert max(gaps(rig)) == pytest.approx(150)
    rig.destination.answer = Delivered()
    rig.drain()
    assert rig.destination.delivered_ids == [str(n) for n in range(50)]
    rig.check()


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=20, max_size=20))
def test_every_wait_is_drawn_below_its_ceiling(fractions: list[float]) -> None:
    draws: Iterator[float] = itertools.cycle(fractions)
    drawn: list[float] = []

    def fraction() -> float:
        drawn.append(next(draws))
        return drawn[-1]

    rig = Rig(DOWN, fraction=fraction)
    rig.add("a")
    while len(rig.sent_at) < 15:
        rig.step()
    expected = [min(300.0, 2.0**n) * share for n, share in enumerate(drawn)]
    assert gaps(rig) == pytest.approx(expected[:14], abs=1e-6)


def test_a_success_ends_the_backoff() -> None:
    rig = Rig(script=[DOWN] * 6 + [Delivered()] + [DOWN] * 3)
    rig.add("a")
    rig.drain()
    rig.add("b")
    before = len(rig.sent_at)
    rig.drain()
    assert gaps(rig)[before:][:2] == [0.5, 1.0]


def test_what_the_server_asks_for_is_kept_to() -> None:
    rig = Rig(script=[Retry("HTTP 429", 429, after=120.0), Retry("HTTP 503", 503, after=1e9)])
    rig.add("a")
    rig.drain()
    assert gaps(rig)[0] == pytest.approx(120.5)
    assert 3600 <= gaps(rig)[1] <= 4500


@pytest.mark.parametrize("jump", [-1e9, 1e9])
@pytest.mark.parametrize("outcome", [DOWN, BUSY, WRONG_KEY])
def test_a_jump_of_the_wall_clock_changes_no_wait(outcome: Outcome, jump: float) -> None:
    rig = Rig(outcome)
    rig.add("a")
    for _ in range(60):
        rig.step()
        rig.clock.jump_wall(jump)
    assert [round(gap, 6) for gap in gaps(rig)[:5]] == [0.5, 1, 2, 4, 8]


def test_after_two_failures_one_event_finds_out_whether_the_server_is_back() -> None:
    rig = Rig(script=[DOWN] * 4)
    rig.add(*range(10))
    rig.drain()
    assert [len(ids) for ids in rig.sent] == [10, 10, 1, 1, 1, 9]
    assert rig.destination.delivered_ids == [str(n) for n in range(10)]


def test_a_hurry_ends_the_wait_of_an_outage() -> None:
    rig = Rig(script=[DOWN] * 8)
    rig.add("a")
    while len(rig.sent_at) < 8:
        rig.step()
    rig.worker.hurry()
    now = rig.clock.monotonic()
    rig.drain()
    assert rig.clock.monotonic() == now


def test_a_new_way_out_of_this_machine_is_tried_at_once() -> None:
    ways = frozenset({"4 wlan0 gateway"})
    rig = Rig(script=[DOWN] * 9, network=lambda: ways)
    rig.add("a")
    while len(rig.sent_at) < 9:
        rig.step()
    ways = frozenset()
    rig.run(5)
    assert len(rig.sent_at) == 9
    ways = frozenset({"4 wlan0 gateway"})
    now = rig.clock.monotonic()
    rig.drain()
    assert rig.clock.monotonic() - now <= 2.0


@pytest.mark.parametrize("odd", [None, "fine", 200, object()])
def test_an_outcome_nobody_foresaw_keeps_the_events(odd: Any) -> None:
    rig = Rig(script=[odd, odd])
    rig.add(*"ab")
    rig.drain()
    assert rig.destination.delivered_ids == ["a", "b"]
    assert "unknown outcome" in str(rig.errors[0][0])
    assert gaps(rig)[0] > 0
    rig.check()


# Routes


def refusing(route: str, outcome: Outcome) -> Any:
    return lambda batch: outcome if batch.route == route else Delivered()


@pytest.mark.parametrize("outcome", [BUSY, WRONG_KEY])
def test_a_route_in_trouble_with_a_long_backlog_blocks_no_other(outcome: Outcome) -> None:
    rig = Rig(refusing("bad", outcome), policy={"batch_size": 10, "flush_interval": 1.0})
    rig.add(*range(3000), route="bad")
    for number in range(30):
        rig.add(f"good{number}", route="good")
        rig.add(f"plain{number}")
        rig.run(3)
    assert rig.queue.ledger().delivered >= 58
    assert rig.queue.ledger().pending <= 3002
    attempts = [batch for batch in rig.destination.batches if batch.route == "bad"]
    assert len(attempts) < 12
    rig.destination.answer = Delivered()
    rig.drain()
    bad = [id for batch in rig.destination.delivered if batch.route == "bad" for id in batch.ids]
    assert bad == [str(n) for n in range(3000)]
    rig.check()


def test_when_nothing_gets_through_every_route_waits() -> None:
    rig = Rig(DOWN, policy={"flush_interval": 0.0})
    for number in range(20):
        rig.add(number, route=f"r{number}")
    rig.run(60)
    assert len(rig.sent_at) <= 8


# Hold


def test_a_hold_pauses_says_so_and_goes_on_once_it_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(WRONG_KEY)
    rig.add(*range(10))
    rig.run(6 * 3600)
    assert rig.queue.ledger().pending == 10
    assert (rig.worker.state.name, rig.worker.state.held) == ("held", ("",))
    assert rig.worker.state.last_error == WRONG_KEY.reason
    assert 100 < len(rig.sent) < 500  # it probes, now and then
    assert {len(ids) for ids in rig.sent[3:]} == {1}
    assert "Nothing is lost" in caplog.text
    rig.destination.answer = Delivered()
    rig.run(400)
    assert rig.queue.ledger().delivered == 10
    assert (rig.worker.state.name, rig.worker.state.held, rig.worker.state.last_error) == ("idle", (), None)


def test_a_hold_of_everything_pauses_every_route() -> None:
    rig = Rig(Hold("the request cannot be made", everywhere=True))
    rig.add("a", route="x")
    rig.add("b", route="y")
    rig.run(100)
    assert rig.worker.state.name == "held"
    assert len(rig.sent) <= 9


def test_the_routes_that_wait_for_a_person_are_named() -> None:
    rig = Rig(lambda batch: WRONG_KEY if batch.route in ("x", "z") else Delivered())
    for route in "zyx":
        rig.add(route, route=route)
    rig.run(10)
    assert rig.worker.state.held == ("x", "z")
    assert rig.worker.state.next_attempt is not None


# What is told


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_fault_that_goes_on_is_logged_once_and_then_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(DOWN)
    rig.add(*"ab")
    rig.run(3000)
    assert len(warnings(caplog)) == 1
    assert "will be tried again: no connection: refused" in warnings(caplog)[0]
    rig.run(10 * 3600)
    assert 9 <= len(warnings(caplog)) <= 11


def test_a_server_that_says_something_else_each_time_is_not_logged_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = itertools.count()
    rig = Rig(lambda batch: Retry(f"HTTP 503: request {next(numbers)}", 503))
    rig.add("a")
    rig.run(3000)
    assert len(rig.sent_at) > 20
    assert len(warnings(caplog)) == 1
    assert len(rig.errors) == 1
    assert rig.worker.state.last_error == f"HTTP 503: request {next(numbers) - 1}"


def test_each_change_of_the_fault_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgespool")
    rig = Rig(script=[DOWN, BUSY, WRONG_KEY, Delivered(), DOWN])
    rig.add("a")
    rig.drain()
    rig.add("b")
    rig.drain()
    said = [each.getMessage() for each in caplog.records]
    assert [next(word for word in ("refused", "503", "401", "goes on") if word in text) for text in said] == [
        "refused", "503", "401", "goes on", "refused", "goes on",
    ]  # fmt: skip


def test_on_error_is_called_when_a_fault_begins(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(script=[DOWN] * 5 + [BUSY] * 3 + [Delivered()] + [DOWN] * 2)
    rig.add("a")
    rig.drain()
    rig.add("b")
    rig.drain()
    assert [(str(error), batch.ids) for error, batch in rig.errors] == [
        (DOWN.reason, ["a"]), (BUSY.reason, ["a"]), (DOWN.reason, ["b"]),
    ]  # fmt: skip


def test_the_state_tells_what_is_going_on() -> None:
    rig = Rig(script=[DOWN])
    rig.run(1)
    rig.add("a")
    rig.drain()
    rig.run(3)
    # "sending" twice: with the old error, and once it has gone through without one.
    assert [state.name for state in rig.states][-5:] == ["sending", "backing off", "sending", "sending", "idle"]
    assert [state.last_error for state in rig.states][-3:] == [DOWN.reason, None, None]
    waiting = next(state for state in rig.states if state.name == "backing off")
    assert waiting.last_error == DOWN.reason
    assert waiting.next_attempt is not None


# Limits on attempts


def test_a_limit_on_attempts_is_kept_to_and_what_is_given_up_is_in_a_file() -> None:
    rig = Rig(lambda batch: BUSY if "b" in batch.ids else Delivered(), policy={"max_attempts": 3, "batch_size": 2})
    rig.add(*"abcd")
    rig.drain()
    assert rig.sent == [["a", "b"], ["a", "b"], ["a", "b"], ["c", "d"]]
    ((batch, decision, attempts),) = rig.given_up
    assert (batch.ids, decision.reason, decision.status, attempts) == (["a", "b"], BUSY.reason, 503, 3)
    assert rig.queue.ledger().failed == 2
    assert "they are in file 1" in str(rig.errors[-1][0])
    rig.check()


def test_a_limit_on_attempts_counts_for_each_batch_anew() -> None:
    rig = Rig(DOWN, policy={"max_attempts": 2, "batch_size": 1})
    rig.add(*"ab")
    rig.drain()
    assert rig.sent == [["a"], ["a"], ["b"], ["b"]]
    assert rig.failed_ids == ["a", "b"]


def test_a_limit_on_attempts_never_gives_up_what_is_on_hold() -> None:
    rig = Rig(WRONG_KEY, policy={"max_attempts": 2})
    rig.add(*"ab")
    rig.run(5000)
    assert rig.given_up == []
    assert rig.queue.ledger().pending == 2


def test_a_file_that_cannot_be_written_keeps_the_events_in_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(BUSY, policy={"max_attempts": 2})
    rig.refuse_files = True
    rig.add(*"ab")
    rig.run(1000)
    assert (rig.given_up, rig.queue.ledger().pending) == ([], 2)
    assert sum("no room for the file" in text for text in warnings(caplog)) == 1
    rig.refuse_files = False
    rig.run(1000)
    assert (rig.failed_ids, rig.queue.ledger().failed) == (["a", "b"], 2)
    rig.check()


def test_an_unexpected_failure_to_write_the_file_keeps_the_events_too() -> None:
    faults: list[Exception] = [ValueError("cannot render")]

    def give_up(batch: Batch, decision: Any, attempts: int) -> str:
        if faults:
            raise faults.pop()
        return "file"

    rig = Rig(BUSY, policy={"max_attempts": 1})
    rig.worker._give_up = give_up
    rig.add("a")
    rig.add("b", route="other")
    rig.run(60)
    assert rig.queue.ledger().failed == 2


def test_the_first_wait_of_the_usual_backoff_is_at_most_a_second() -> None:
    assert Backoff().wait(1, 0.999) < 1.0


# A disk that takes no writes


class Unwritable(MemoryQueue):
    """A queue whose disk takes nothing, or does again."""

    broken = True
    error: QueueError = QueueUnavailable("read-only")

    def maintain(self, idle: bool) -> None:
        if self.broken:
            raise self.error
        super().maintain(idle)


def sent(rig: Rig) -> list[str]:
    return [event for batch in rig.destination.batches for event in batch.ids]


def stand_aside(rig: Rig) -> None:
    """Do a step that the disk fails, and what the thread then does."""
    with pytest.raises((QueueUnavailable, QueueFull)) as caught:
        rig.worker.step()
    rig.worker._stand_aside(caught.value, 60.0)


@pytest.mark.parametrize("error", [QueueUnavailable("read-only"), QueueFull("no room for what is owed")])
def test_while_the_disk_takes_no_acknowledgements_nothing_is_sent(error: QueueError) -> None:
    queue = Unwritable()
    queue.error = error
    rig = Rig(queue=queue, policy={"batch_size": 1})
    rig.add("a")
    rig.add("b")
    stand_aside(rig)  # it shows at the first acknowledgement
    assert sent(rig) == ["a"]
    for _ in range(5):
        stand_aside(rig)
    assert sent(rig) == ["a"]
    assert rig.worker.state.name == "unavailable"
    rig.queue.broken = False
    rig.run(1)
    assert sent(rig) == ["a", "b"]
    assert rig.worker.state.name == "idle"


def test_who_hurries_does_not_have_the_disk_tried_without_a_pause() -> None:
    rig = Rig(queue=Unwritable())
    rig.add("a")
    rig.worker.hurry()
    stand_aside(rig)
    assert not rig.worker._hurry
    rig.queue.broken = False
    rig.run(1)
    assert sent(rig) == ["a"]


def test_the_thread_ends_in_order_though_the_disk_fails_at_its_end() -> None:
    rig = Rig(queue=Unwritable())
    assert rig.worker.stop(0)
    rig.worker.run()
    assert rig.worker.state.name == "stopped"


def test_an_event_that_is_stored_wakes_a_worker_that_waits_for_the_disk() -> None:
    rig = Rig(queue=Unwritable(), policy={"flush_interval": 3600.0})
    rig.add("a")
    stand_aside(rig)
    rig.add("b")
    rig.worker._poked = False
    rig.add("c")
    assert rig.worker._poked, "the disk has taken one: it works"
    rig.queue.broken = False
    rig.step()
    rig.add("d")
    rig.worker._poked = False
    rig.add("e")
    assert not rig.worker._poked, "which is no reason to wake it at each event"


class Elected:
    """An election that is won, and counts how often it was given up."""

    released = 0

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        self.released += 1


def test_on_a_full_disk_the_sender_stays_the_sender_and_looks_for_room_at_its_own_pace() -> None:
    """Another would send again what could not be acknowledged; and a full disk may take events in place of old ones."""
    for error, released in ((QueueFull("no room for what is owed"), 0), (QueueUnavailable("read-only"), 1)):
        queue, election = Unwritable(), Elected()
        queue.error = error
        rig = Rig(queue=queue, policy={"flush_interval": 3600.0}, election=election)
        rig.add("a")
        rig.worker.drain()
        stand_aside(rig)
        assert election.released == released
        rig.add("b")
        rig.worker._poked = False
        rig.add("c")
        assert rig.worker._poked is bool(released)


def test_on_a_full_disk_the_pauses_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Unwritable()
    queue.error = QueueFull("no room for what is owed")
    rig = Rig(queue=queue)
    pauses: list[float] = []

    def wait(pause: float) -> bool:
        pauses.append(pause)
        rig.worker._stop = len(pauses) == 8
        return True

    monkeypatch.setattr(rig.worker._wake, "wait", wait)
    rig.add("a")
    rig.worker._poked = False
    rig.worker.run()
    assert sent(rig) == ["a"]
    assert min(pauses) > 0.5
    assert max(pauses) <= 2.0
