"""The fakes that ship with the package keep the contracts they stand in for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from unit_kit import MIB, check_ledger, drain, lease, record, records, stored

import edgespool
from edgespool.errors import QueueFull
from edgespool.interfaces import Clock, Destination, Queue
from edgespool.outcome import Delivered, Reject, Retry
from edgespool.testing import FakeClock, FakeDestination, MemoryQueue

# FakeClock


def test_a_fake_clock_moves_only_when_told_to(clock: FakeClock) -> None:
    checked: Clock = clock
    wall, mono, boot = checked.time(), checked.monotonic(), checked.boot_id
    assert (clock.time(), clock.monotonic(), clock.boot_id) == (wall, mono, boot)
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (wall + 2.5, mono + 2.5)
    clock.jump_wall(-1e6)
    assert (clock.time(), clock.monotonic(), clock.boot_id) == (wall + 2.5 - 1e6, mono + 2.5, boot)
    clock.reboot(monotonic=3.0)
    assert (clock.time(), clock.monotonic()) == (wall + 2.5 - 1e6, 3.0)
    assert clock.boot_id not in ("", boot)
    with pytest.raises(ValueError, match="does not run backwards"):
        clock.advance(-1)


def test_a_fake_clock_says_whether_it_is_right() -> None:
    assert not FakeClock().synchronized()
    clock = FakeClock(time=5.0, monotonic=7.0, synchronized=True)
    assert (clock.synchronized(), clock.time(), clock.monotonic()) == (True, 5.0, 7.0)
    clock.is_synchronized = False
    assert not clock.synchronized()


# FakeDestination


def test_a_fake_destination_takes_everything_and_remembers_it() -> None:
    destination = FakeDestination()
    checked: Destination = destination
    first, second = stored("ab"), stored("c")
    assert isinstance(destination, Destination)
    assert checked.take(first.events) == 2
    assert checked.send(first) == checked.send(second) == Delivered()
    checked.close()
    assert destination.batches == destination.delivered == [first, second]
    assert (destination.delivered_ids, destination.closed) == (["a", "b", "c"], 1)


def test_a_fake_destination_follows_its_script_then_its_answer() -> None:
    down, bad = Retry("down"), Reject("bad")
    destination = FakeDestination([down, ValueError("broken")], answer=bad, most=1)
    batch = stored("ab")
    assert destination.take(batch.events) == 1
    assert destination.send(batch) == down
    with pytest.raises(ValueError, match="broken"):
        destination.send(batch)
    assert destination.send(batch) == bad
    destination.script.append(Delivered())
    assert destination.send(batch) == Delivered()
    destination.answer = lambda batch: Retry(f"{len(batch)} events")
    assert destination.send(batch) == Retry("2 events")
    assert len(destination.batches) == 5
    assert destination.outcomes == [down, bad, Delivered(), Retry("2 events")]
    assert destination.delivered == [batch]


def test_a_client_can_be_tested_without_a_server(tmp_path: Path) -> None:
    """The example in the module's documentation."""
    destination = FakeDestination()
    with edgespool.Client(path=tmp_path / "queue", destination=destination) as client:
        ids = [client.record("temperature", value=21.5), client.record("temperature", value=22.0)]
        assert client.flush(20)
    assert destination.delivered_ids == ids


# MemoryQueue, beside what test_queue_contract holds it to


def test_a_memory_queue_takes_the_policies_it_says() -> None:
    with pytest.raises(ValueError, match="not 'block'"):
        MemoryQueue(overflow="block")


def test_a_memory_queue_counts_a_budget_of_payloads_and_overhead() -> None:
    queue = MemoryQueue(max_bytes=3 * (100 + MemoryQueue.OVERHEAD))
    queue.append(records("abc", size=100))
    with pytest.raises(QueueFull):
        queue.append(records("d"))
    queue.ack(lease(queue, 1))
    queue.append(records("d", size=100))
    check_ledger(queue)
    assert drain(queue) == ["b", "c", "d"]


def test_a_memory_queue_knows_the_ages_of_events_of_earlier_boots_as_far_as_they_are_certain(clock: FakeClock) -> None:
    queue = MemoryQueue(clock=clock)
    queue.append([record("a", clock=clock)])
    clock.reboot()
    queue.append([record("b", clock=clock)])
    clock.advance(50)
    assert queue.expire(60.0) == 0
    clock.advance(11)
    assert queue.expire(60.0) == 2
    check_ledger(queue)


def test_a_memory_queue_serves_many_threads() -> None:
    queue: Queue = MemoryQueue(max_bytes=64 * MIB)
    taken: list[str] = []

    def append(name: str) -> None:
        for number in range(200):
            queue.append(records([f"{name}{number}"], name))

    def take() -> None:
        while len(taken) < 800:
            batch = queue.lease(7, MIB)
            if batch is not None:
                queue.ack(batch)
                taken.extend(batch.ids)

    threads = [threading.Thread(target=append, args=(name,), daemon=True) for name in "abcd"]
    threads += [threading.Thread(target=take, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(set(taken)) == len(taken) == 800
    assert queue.ledger().delivered == 800
