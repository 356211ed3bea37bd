"""A web server that loads the application before it forks its workers: every event of every request arrives."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from process_kit import DEADLINE, PROGRAMS, Program, check_ledger, deliver_all, sender_is_taken, wait_until

from edgespool.testing import Collector

pytest.importorskip("gunicorn")


class Site:
    """A running gunicorn, and the events that its answers told of."""

    def __init__(self, program: Program) -> None:
        self.program = program
        wait_until(lambda: self._address() is not None, f"the server: {program.errors}")
        self.url = self._address()
        self.told: list[str] = []

    def _address(self) -> str | None:
        found = re.search(r"Listening at: (http://\S+)", self.program.errors)
        return found[1] if found else None

    def ask(self, count: int) -> set[int]:
        """Make so many requests, each on a connection of its own; return the workers that answered.

        A request that a dying worker took along is made again, as any browser would.
        """
        workers = set()
        for _ in range(count):
            for attempt in range(20):
                try:
                    answer = requests.post(f"{self.url}/things", timeout=10)
                    break
                except requests.ConnectionError:
                    assert attempt < 19
            assert answer.status_code == 200
            self.told.append(answer.headers["X-Event"])
            workers.add(int(answer.headers["X-Pid"]))
        return workers


@pytest.fixture
def site(
    tmp_path: Path, queue_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    monkeypatch.setenv("COLLECTOR", collector.url)
    monkeypatch.setenv("QUEUE", str(queue_path))
    monkeypatch.setenv("NO_PROXY", "*")
    started: list[Program] = []

    def start(workers: int, *more: str) -> Site:
        command = f"-m gunicorn --preload --workers {workers} --bind 127.0.0.1:0 --graceful-timeout 5"
        where = ["--chdir", str(PROGRAMS)]
        started.append(Program(tmp_path / "web", [sys.executable, *command.split(), *where, *more, "web:app"]))
        return Site(started[-1])

    yield start
    for program in started:
        program.clean_up()


def stop(site: Site) -> None:
    site.program.process.terminate()
    assert site.program.process.wait(DEADLINE) == 0
    assert "Traceback" not in site.program.errors


@pytest.mark.parametrize("kind", [(), ("--worker-class", "gthread", "--threads", "4")], ids=["sync", "threads"])
def test_workers_of_a_preloaded_application_record_while_they_are_killed_and_renewed(
    site: Callable[..., Site], queue_path: Path, collector: Collector, kind: tuple[str, ...]
) -> None:
    running = site(2, *kind)
    workers = running.ask(15)
    assert sender_is_taken(queue_path)
    for _ in range(3):
        victim = workers.pop()
        os.kill(victim, signal.SIGKILL)
        workers = running.ask(10) - {victim}
    os.kill(running.program.pid, signal.SIGHUP)
    wait_until(lambda: not running.ask(2) & workers, "new workers")
    running.ask(10)
    known = set(running.told)
    wait_until(lambda: known <= set(collector.ids()), "every event that an answer told of")
    stop(running)
    deliver_all(queue_path, collector)
    assert known <= set(collector.ids())
    # A request that a dying worker could not answer may have been recorded; one was made for each kill and reload.
    assert collector.count() - len(known) <= 1 + 10
    assert collector.repeats() == 0
    check_ledger(queue_path, delivered=collector.count())


def test_what_was_recorded_before_the_master_was_killed_is_delivered_by_a_worker(
    site: Callable[..., Site], queue_path: Path, collector: Collector
) -> None:
    running = site(2)
    running.ask(5)
    wait_until(lambda: set(running.told) <= set(collector.ids()), "the first events")
    collector.set_fault(status=503)
    running.ask(5)
    running.program.kill()  # the sender; its workers notice only after a second, and end
    collector.heal()
    wait_until(lambda: not sender_is_taken(queue_path), "the end of the workers")
    deliver_all(queue_path, collector)
    assert set(running.told) <= set(collector.ids())
    check_ledger(queue_path)
