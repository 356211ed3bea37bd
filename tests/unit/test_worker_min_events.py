"""The worker that waits for a number of events before it sends, and the one that is paused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit_kit import MIB, record, records
from worker_kit import Rig

from edgespool import Client
from edgespool.event import Batch
from edgespool.outcome import Delivered, Outcome, Retry
from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock, FakeDestination


def waiting(least: int, *args: Any, **given: Any) -> Rig:
    """Return a rig whose worker begins to send once so many events wait."""
    rig = Rig(*args, **given, ready=lambda: rig.queue.ledger().pending >= least)
    return rig


def test_too_few_events_wait_for_more_however_long() -> None:
    rig = waiting(3, policy={"flush_interval": 5.0})
    rig.add("a", "b")
    rig.run(3600)
    assert (rig.sent, rig.worker.state.name) == ([], "idle")
    rig.add("c")
    rig.run(5.1)
    assert rig.sent == [["a", "b", "c"]]
    rig.add("d")
    rig.run(600)
    assert len(rig.sent) == 1


def test_once_begun_all_of_it_goes() -> None:
    rig = waiting(5, policy={"batch_size": 4})
    rig.add(*range(10))
    rig.run(60)
    assert [len(ids) for ids in rig.sent] == [4, 4, 2]
    rig.add("a")
    rig.add(*"bcd")  # a full batch, but too few
    rig.run(60)
    assert len(rig.sent) == 3


def test_what_came_meanwhile_begins_anew_though_it_is_a_full_batch() -> None:
    def answer(batch: Batch) -> Outcome:
        if len(rig.sent) == 1:
            rig.add(*"abcd")
        return Delivered()

    rig = waiting(8, answer, policy={"batch_size": 4})
    rig.add(*range(8))
    rig.run(60)
    assert [len(ids) for ids in rig.sent] == [4, 4]
    rig.add(*"efgh")
    rig.run(60)
    assert [len(ids) for ids in rig.sent] == [4, 4, 4, 4]


def test_a_route_that_failed_is_tried_again_though_few_wait() -> None:
    rig = waiting(5, script=[Delivered(), Retry("HTTP 503", 503, after=5.0)], policy={"batch_size": 4})
    rig.add(*range(4), route="x")
    rig.add(*range(2), route="y")
    rig.run(600)
    assert rig.queue.ledger().pending == 0


def test_a_failure_does_not_make_it_wait_for_more() -> None:
    rig = waiting(5, script=[Delivered(), Retry("down"), Retry("down")], policy={"batch_size": 4})
    rig.add(*range(6))
    rig.run(600)
    assert rig.queue.ledger().pending == 0


def test_a_flush_does_not_wait() -> None:
    rig = waiting(5)
    rig.add("a")
    rig.run(10)
    rig.worker.hurry()
    rig.run(1)
    assert rig.sent == [["a"]]


def test_waiting_without_an_interval_is_no_hot_loop() -> None:
    rig = waiting(5, policy={"flush_interval": 0.0})
    rig.add("a")
    steps = 0
    end = rig.clock.monotonic() + 60
    while rig.clock.monotonic() < end:
        rig.step()
        steps += 1
    assert steps <= 130


def test_a_paused_worker_sends_nothing_and_one_that_goes_on_sends_all() -> None:
    rig = Rig()
    rig.add("a")
    rig.worker.pause()
    rig.worker.hurry()
    rig.run(600)
    assert (rig.sent, rig.worker.state.name, rig.worker._hurry) == ([], "paused", False)
    rig.worker.resume()
    rig.run(1)
    assert rig.sent == [["a"]]


def test_what_is_recorded_after_a_pause_is_not_sent_by_a_step_that_began_before() -> None:
    rig = Rig()
    lease = rig.queue.lease

    def slow(*args: Any, **given: Any) -> Any:
        if not rig.worker.paused:
            rig.worker.pause()
            rig.add("late")
        return lease(*args, **given)

    rig.queue.lease = slow
    rig.run(60)
    assert rig.sent == []
    rig.queue.lease = lease
    rig.worker.resume()
    rig.run(60)
    assert rig.sent == [["late"]]


def test_a_paused_worker_lets_another_process_send() -> None:
    class Lock:
        held = False

        def acquire(self) -> bool:
            self.held = True
            return True

        def release(self) -> None:
            self.held = False

    lock = Lock()
    rig = Rig(election=lock)
    rig.run(2)
    assert lock.held
    rig.worker.pause()
    rig.run(2)
    assert (lock.held, rig.worker.sending) == (False, False)
    rig.worker.resume()
    rig.run(2)
    assert lock.held


# The queue that runs full does not wait


def test_a_queue_is_crowded_at_either_limit(open_queue: Callable[..., DiskQueue]) -> None:
    queue = open_queue(max_events=3)
    queue.append(records("ab"))
    assert not queue.crowded()
    queue.append(records("c"))
    assert queue.crowded()
    queue.close()
    queue = open_queue(max_bytes=MIB, overflow="drop_oldest")
    for number in range(60):
        queue.append([record(number, size=16_384)])
    assert queue.crowded()


# The client


@pytest.fixture
def client(tmp_path: Path, _nothing_is_left_behind: None) -> Any:
    made = Client(
        path=tmp_path / "queue", source="pi", destination=FakeDestination(), flush_interval=0.01, min_events=3
    )
    yield made
    made.close(20)


def test_a_client_can_be_paused_and_goes_on(client: Client) -> None:
    client.record("a")
    client.pause()
    assert client.flush(3600) is False  # at once
    client.record("b")
    assert client.stats().pending == 2
    client.start()
    assert client.flush(20)
    assert client.stats().delivered == 2


def test_a_queue_that_runs_full_does_not_wait_for_more_than_it_holds(tmp_path: Path) -> None:
    client = Client(
        path=tmp_path / "queue", source="pi", destination=FakeDestination(), flush_interval=0.01, min_events=3,
        max_events=2, overflow="block",
    )  # fmt: skip
    for number in range(6):
        client.record("a", number=number)  # would wait for ever
    assert client.close(20).pending == 0


def test_closing_a_paused_client_sends_nothing(client: Client) -> None:
    client.pause()
    client.record("a")
    assert client.close(5).pending == 1


def test_closing_sends_what_is_too_few(client: Client) -> None:
    client.record("a")
    assert client.close(20).pending == 0


@pytest.mark.usefixtures("_nothing_is_left_behind")
def test_drains_of_a_client_that_do_not_wait_share_a_request(tmp_path: Path) -> None:
    clock, destination = FakeClock(), FakeDestination()
    client = Client(path=tmp_path / "queue", source="pi", destination=destination, flush_interval=3600, clock=clock)

    def wait_for(batches: int) -> None:
        worker = client._worker
        for _ in range(400):
            if len(destination.batches) >= batches and worker._drain_due is None and worker._goal is None:
                return
            worker.wait_for_progress(0.05)

    client.record("a")
    clock.advance(1.0)
    client.drain()
    wait_for(1)
    for name in "bcd":
        client.record(name)
        client.drain()
        client._worker.wait_for_progress(0.1)
    assert len(destination.batches) == 1, "the clock stands still"
    clock.advance(0.2)
    wait_for(2)
    assert [len(batch) for batch in destination.batches] == [1, 3]
    assert client.close(20).pending == 0
