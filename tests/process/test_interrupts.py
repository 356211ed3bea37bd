"""Ctrl-C at any moment: the program ends, or goes on, and what record() returned for is stored either way."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from process_kit import Program, check_ledger, check_nothing_lost, deliver_all

from edgespool.queue import DiskQueue
from edgespool.testing import Collector

Run = Callable[..., Program]
CLOSING = 5.0  # seconds: the default of close(), at the end of the with statement
SIGNALS = 350
GRANTED = 3.0  # seconds more, for a machine that is busy with other tests


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_interrupt_ends_the_program_and_loses_nothing(
    run: Run, queue_path: Path, collector: Collector, durability: str, threads: int
) -> None:
    dice = random.Random(f"{durability}{threads}")
    paths = [Path(f"{queue_path}-{n}") for n in range(3)]
    given = {"way": "once", "durability": durability, "threads": threads, "pause": 0.0005}
    programs = [run("interrupted.py", path=str(path), **given) for path in paths]
    for path, program in zip(paths, programs, strict=True):
        program.wait_for("recorded", 20)
        time.sleep(dice.uniform(0.0, 0.05))
        began = time.monotonic()
        os.kill(program.pid, signal.SIGINT)
        assert program.process.wait(30) == -signal.SIGINT
        assert time.monotonic() - began < CLOSING + GRANTED
        assert "KeyboardInterrupt" in program.errors
        deliver_all(path, collector)
        assert told(program) <= set(collector.ids())
        check_ledger(path)
    assert collector.repeats() == 0


def told(program: Program) -> set[str]:
    return {line[-1] for line in program.lines if line[0] in ("stored", "recorded")}


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_program_that_goes_on_after_interrupts_meets_no_deadlock(
    run: Run, queue_path: Path, collector: Collector, durability: str, threads: int
) -> None:
    dice = random.Random(threads)
    program = run("interrupted.py", way="often", durability=durability, threads=threads, batch_size=2000, pause=0.002)
    program.wait_for("ready")
    for _ in range(SIGNALS):
        time.sleep(dice.uniform(0.0, 0.006))
        os.kill(program.pid, signal.SIGINT)
    time.sleep(0.05)
    assert program.process.stdin is not None
    program.process.stdin.close()
    program.wait_for("survived", timeout=90)
    assert program.process.wait(30) == 0
    assert program.errors == ""
    assert len(program.said("interrupted")) > SIGNALS / 10
    accepted = int(program.said("accepted")[0][0])
    deliver_all(queue_path, collector)
    assert told(program) <= set(collector.ids())
    assert (collector.count(), collector.repeats()) == (accepted, 0)
    check_ledger(queue_path, delivered=accepted)


def test_a_killed_program_and_an_interrupted_one_leave_the_same(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("interrupted.py", way="once", start=False)
    program.wait_for("recorded", 50)
    os.kill(program.pid, signal.SIGINT)
    program.process.wait(30)
    deliver_all(queue_path, collector)
    check_nothing_lost([program], collector)
    check_ledger(queue_path)


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_signal_handler_that_records_stores_its_event_or_is_told_that_it_cannot(
    run: Run, queue_path: Path, durability: str, threads: int
) -> None:
    """It cannot when it has interrupted the very commit that its own would have to wait for; it never hangs."""
    program = run("handler.py", durability=durability, threads=threads, signals=150, start=False)
    assert program.process.wait(60) == 0, program.errors
    (counts,) = [line for line in program.lines if line[0] == "counts"]
    began, stored, refused = map(int, counts[1:])
    assert began == stored + refused == 150
    assert refused or threads, "a single thread is interrupted in the midst of a commit now and then"
    with closing(DiskQueue(queue_path)) as queue:
        assert queue.ledger().pending == queue.count_rows() > stored


def test_a_signal_handler_may_close_the_client_that_another_signals_is_closing(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    collector.set_fault(latency=20)
    program = run("closer.py")
    assert program.process.wait(60) == 0, program.errors
    assert [line[-1] for line in program.lines] == ["False", "True", "True"]
