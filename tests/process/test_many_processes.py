"""Several processes share a queue: any number of writers, exactly one sender, and another as soon as it dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from process_kit import Program, arrived, check_ledger, check_nothing_lost, recorded, sender_is_taken, wait_until

from edgespool import Client
from edgespool.status import StatusFile
from edgespool.testing import Collector

Run = Callable[..., Program]
PROMISED = 2.0  # seconds from the sender's death to the next delivery
GRANTED = 2.0  # seconds more, for a machine that is busy with other tests


def senders(collector: Collector) -> list[int]:
    """Return the processes that sent, in turn; one that sent, then another, then the first again stands there twice."""
    return [pid for pid, _ in groupby(int(request.headers["X-Pid"]) for request in collector.requests())]


@pytest.mark.parametrize("count", [2, 8])
def test_any_number_of_processes_record_and_exactly_one_sends(
    run: Run, queue_path: Path, collector: Collector, count: int
) -> None:
    programs = [run("writer.py", who=str(n), mode="route", count=150, pause=0.001) for n in range(count)]
    for program in programs:
        program.wait_for("wrote")
    total = 150 * count
    assert collector.wait_for(total, 30)
    wait_until(lambda: sender_is_taken(queue_path), "a sender")
    (sender,) = senders(collector)
    assert sender in {program.pid for program in programs}
    assert collector.connections == 1
    status = StatusFile(str(queue_path)).read()
    assert status is not None
    assert status.pid == sender
    for program in programs:
        assert program.end() == 0
        assert program.errors == ""
    assert not sender_is_taken(queue_path)
    assert check_nothing_lost(programs, collector) == total
    assert arrived(collector) == recorded(programs)
    assert collector.repeats() == 0
    check_ledger(queue_path, delivered=total)


def test_another_process_takes_over_within_two_seconds_of_the_senders_death(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    moments: list[tuple[float, int]] = []
    collector._on_request = lambda record: moments.append((time.monotonic(), int(record.headers["X-Pid"])))
    programs = {program.pid: program for program in (run("writer.py", who=str(n), pause=0.02) for n in range(4))}
    for program in programs.values():
        program.wait_for("recorded")
    dead: list[int] = []
    for _ in range(3):
        wait_until(lambda: moments and moments[-1][1] not in dead, "a delivery")
        sender = moments[-1][1]
        programs[sender].kill()
        died = time.monotonic()
        dead.append(sender)
        wait_until(lambda: any(pid not in dead for _, pid in moments), "another sender", 15)
        took = next(at for at, pid in moments if pid not in dead) - died
        assert took <= PROMISED + GRANTED, f"it took {took:.1f} s"
    (last,) = [program for pid, program in programs.items() if pid not in dead]
    assert last.end() == 0
    assert senders(collector) == [*dead, last.pid]
    check_nothing_lost(programs.values(), collector)
    assert collector.repeats() <= 3 * 500
    check_ledger(queue_path)


def test_a_sender_that_closes_hands_over(run: Run, collector: Collector, queue_path: Path) -> None:
    first = run("writer.py", who="a", count=20)
    first.wait_for("wrote")
    assert collector.wait_for(20, 30)
    second = run("writer.py", who="b", count=20)
    second.wait_for("wrote")
    assert collector.wait_for(40, 30)
    assert senders(collector) == [first.pid]
    assert first.end() == 0
    second.tell("record")
    second.wait_for("extra")
    assert collector.wait_for(41, PROMISED + GRANTED)
    assert senders(collector) == [first.pid, second.pid]


def test_an_idle_sender_notices_the_events_of_another_process(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    sender = run("writer.py", count=0)
    sender.wait_for("wrote")
    wait_until(lambda: sender_is_taken(queue_path), "the sender")
    with Client(collector.url, path=queue_path, source="pi", start=False) as client:
        ids = client.record_many([("reading", {"n": n}) for n in range(30)])
        assert collector.wait_for(30, 10)
        assert collector.ids() == ids
        # Also one that only asks whether all has gone.
        client.record("last")
        client.start()
        assert client.flush(10)
        assert client.stats().state == "standby"
    assert senders(collector) == [sender.pid]


def test_a_flush_in_a_process_that_does_not_send_waits_for_the_one_that_does(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    sender = run("writer.py", count=0, flush_interval=0.5)
    sender.wait_for("wrote")
    wait_until(lambda: sender_is_taken(queue_path), "the sender")
    with Client(collector.url, path=queue_path, source="pi") as client:
        event = client.record("reading")
        assert client.flush(20)
        assert collector.ids() == [event]
