"""A month without a network, in seconds: an injected clock, a restart every day, and what the wait costs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgespool.event import Batch, Record
from edgespool.outcome import Decision, Delivered, Outcome, Retry
from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock, FakeDestination
from edgespool.worker import Policy, Worker

HOUR, DAY = 3600.0, 86400.0
CAP = 300.0  # the longest wait between two attempts
NO_NETWORK = Retry("no connection", everywhere=True)


def _no_giving_up(batch: Batch, decision: Decision, attempts: int) -> str:
    raise AssertionError(f"{len(batch)} event(s) given up: {decision}")


class Device:
    """A queue and a sender on one directory, which can be switched off and on."""

    def __init__(self, directory: Path, destination: FakeDestination, seed: int = 1) -> None:
        self.clock = FakeClock()
        self.destination = destination
        self._directory = directory
        self._dice = random.Random(seed)
        self.recorded: list[str] = []
        self.longest_wait = 0.0
        self.switch_on()

    def switch_on(self) -> None:
        self.queue = DiskQueue(self._directory, clock=self.clock)
        self.worker = Worker(
            self.queue, self.destination, self.clock,
            give_up=_no_giving_up, policy=Policy(), fraction=self._dice.random,
        )  # fmt: skip
        self.queue.on_append = self.worker.notify

    def switch_off(self) -> None:
        self.queue.close()

    def record(self, count: int) -> None:
        names = [f"{len(self.recorded) + n}" for n in range(count)]
        now, mono = self.clock.time(), int(self.clock.monotonic() * 1_000_000)
        self.queue.append([Record(b'{"n":"%b"}' % name.encode(), name, now, mono) for name in names])
        self.recorded += names

    def live(self, seconds: float) -> None:
        """Let time pass, and the sender do what it does."""
        end = self.clock.monotonic() + seconds
        while (now := self.clock.monotonic()) < end:
            pause = self.worker.step()
            due = self.worker.state.next_attempt
            if due is not None and due > now:
                self.longest_wait = max(self.longest_wait, due - now)
                pause = due - now  # the steps between would only find that it is not yet time
            elif self.worker.state.name == "idle" and self.queue.oldest_sequence() is None:
                pause = end - now  # nor is there anything to do while nothing is recorded
            self.clock.advance(min(max(pause, 0.001), end - now))

    def writes(self) -> int:
        """Return how many rows were ever written or deleted by these connections."""
        store = self.queue._store
        assert store.writer is not None
        assert store._reader is not None
        return store.writer.total_changes + store._reader.total_changes


@pytest.fixture
def destination() -> FakeDestination:
    return FakeDestination(answer=NO_NETWORK)


@pytest.fixture
def device(tmp_path: Path, destination: FakeDestination) -> Iterator[Device]:
    made = Device(tmp_path / "queue", destination)
    yield made
    made.switch_off()


def test_thirty_days_without_a_network_and_a_restart_every_day(
    device: Device, destination: FakeDestination, tmp_path: Path
) -> None:
    for day in range(30):
        for _ in range(24):
            device.record(2)
            device.live(HOUR)
        device.switch_off()
        if day % 2:
            device.clock.reboot()
        device.switch_on()
    assert device.queue.ledger().pending == 30 * 24 * 2
    assert destination.delivered == []
    # Half the longest wait on average, once it has doubled that far; a dozen more while it doubles, at each start.
    attempts = len(destination.batches)
    assert attempts <= 30 * (1.1 * DAY / (CAP / 2) + 12)
    assert attempts >= 30 * 0.9 * DAY / (CAP / 2)  # nor does it sleep through the end of the outage
    assert device.longest_wait <= CAP
    # A start sends the first two times what there is; from then on one event is enough to ask.
    assert sum(len(batch) > 1 for batch in destination.batches) <= 30 * 2 + 2

    destination.answer = Delivered()
    before = len(destination.batches)
    device.live(CAP + 60)
    assert destination.delivered_ids == device.recorded
    ledger = device.queue.ledger()
    assert (ledger.delivered, ledger.pending, ledger.balanced) == (1440, 0, True)
    assert len(destination.batches) - before <= 1 + 1440 / 500 + 1
    assert (tmp_path / "queue" / "queue.db").stat().st_size < 1 << 20


def test_an_attempt_that_fails_writes_nothing_to_the_card(device: Device, destination: FakeDestination) -> None:
    device.record(10)
    device.live(60)
    before, attempts = device.writes(), len(destination.batches)
    device.live(DAY)
    assert len(destination.batches) - attempts > 400
    assert device.writes() - before <= 1  # the mark of the running boot, once a minute of real time


def test_an_outage_costs_one_event_of_traffic_an_attempt(device: Device, destination: FakeDestination) -> None:
    device.record(10_000)
    device.live(DAY)
    assert [len(batch) for batch in destination.batches[:2]] == [500, 500]
    assert {len(batch) for batch in destination.batches[2:]} == {1}


def test_restarts_keep_the_order_when_the_network_comes_for_a_moment(
    device: Device, destination: FakeDestination
) -> None:
    dice = random.Random(11)
    up = False

    def answer(batch: Batch) -> Outcome:
        return Delivered() if up else NO_NETWORK

    destination.answer = answer
    for _ in range(20):
        for _ in range(4):
            device.record(dice.randrange(1, 40))
            up = dice.random() < 0.15
            device.live(dice.uniform(1.0, HOUR))
            up = False
            device.live(6 * HOUR)
        device.switch_off()
        device.switch_on()
    up = True
    device.live(CAP + 60)
    assert destination.delivered_ids == device.recorded
    assert device.longest_wait <= CAP


def test_a_network_too_slow_for_a_whole_batch_is_sent_smaller_ones(
    device: Device, destination: FakeDestination
) -> None:
    # One event goes through, five hundred do not: with whole batches only, every third request would bring one event.
    device.record(4000)
    most = sum(len(event.payload) for event in device.queue.lease(60, 1 << 20).events)  # type: ignore[union-attr]
    device.switch_off()
    device.switch_on()
    destination.answer = lambda batch: Delivered() if batch.payload_bytes <= most else NO_NETWORK
    device.live(4 * HOUR)
    assert destination.delivered_ids == device.recorded
    assert len(destination.batches) < 300


def test_after_an_ordinary_outage_whole_batches_are_sent(device: Device, destination: FakeDestination) -> None:
    device.record(1001)
    device.live(HOUR)
    destination.answer = Delivered()
    device.live(CAP)
    assert [len(batch) for batch in destination.delivered] == [1, 500, 500]
