"""A disk that fails for a while or for good, by system calls that return an error: nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_kit import environment

from edgespool import Client
from edgespool.queue import DiskQueue
from edgespool.testing import Collector

PROGRAM = Path(__file__).parent / "programs" / "recorder.py"
DEADLINE = 40.0
FLUSHES = "fdatasync,fsync:error=EIO"
WRITES = "pwrite64,write,ftruncate,fallocate:error=EROFS"


class Recorder:
    """A program that records without end, and whose disk can be made to fail."""

    def __init__(self, path: Path, url: str, **given: Any) -> None:
        settings = {"url": url, "path": str(path), "flush_interval": 0.05, "pause": 0.02, **given}
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(settings)], env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.stored: dict[int, str] = {}
        self.unknown: list[int] = []
        self.refused: list[int] = []
        self._states: list[Any] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, *rest = line.split(maxsplit=2)
            if what == "stored":
                self.stored[int(rest[0])] = rest[1].strip()
            elif what == "state":
                self._states.append(json.loads(" ".join(rest)))
            elif what in ("unknown", "refused"):
                getattr(self, what).append(int(rest[0]))

    @property
    def failures(self) -> int:
        """How often record() has raised."""
        return len(self.unknown) + len(self.refused)

    def state(self) -> tuple[str, str | None, float]:
        """Ask for its state, its last error, and the seconds of CPU it has used."""
        known = len(self._states)
        assert self.process.stdin is not None
        self.process.stdin.write("state\n")
        self.process.stdin.flush()
        until(lambda: len(self._states) > known)
        found: tuple[str, str | None, float] = tuple(self._states[-1])
        return found

    @contextlib.contextmanager
    def fault(self, inject: str) -> Iterator[None]:
        """Have these calls fail, in all threads, for as long as the block lasts; files outside the queue as well."""
        names = inject.split(":")[0]
        strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={names}", "-e", f"inject={inject}",
             "-P", str(self.path / "queue.db"), "-P", str(self.path / "queue.db-wal"),
             "-P", str(self.path / "ballast"), "-p", str(self.process.pid)],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)  # it lets go of the program, which runs on
            strace.communicate(timeout=20)

    def end(self) -> None:
        """End it in order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(DEADLINE) == 0
        self._reader.join(DEADLINE)
        assert self.process.stderr is not None
        assert "Traceback" not in self.process.stderr.read()

    def kill(self) -> None:
        """Make sure that nothing of it is left."""
        self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture
def run(tmp_path: Path, collector: Collector) -> Iterator[Callable[..., Recorder]]:
    """Start the program and wait for its first events; skip where no program can be traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    started: list[Recorder] = []

    def start(**given: Any) -> Recorder:
        started.append(Recorder(tmp_path / "queue", collector.url, **given))
        until(lambda: len(started[-1].stored) > 4)
        return started[-1]

    yield start
    for each in started:
        each.kill()


def check(recorder: Recorder, collector: Collector) -> None:
    """What was said to be stored arrives, what was said not to be does not, and nothing arrives under two ids."""
    with Client(collector.url, path=recorder.path) as client:
        assert client.flush(20)
        assert client.stats().salvaged is None
    arrived = {event["data"]["number"]: event["id"] for event in collector.events()}
    assert set(Counter(event["data"]["number"] for event in collector.events()).values()) == {1}
    assert recorder.stored.items() <= arrived.items()
    assert set(arrived) <= {*recorder.stored, *recorder.unknown}
    queue = DiskQueue(recorder.path)
    try:
        ledger = queue.ledger()
        assert (ledger.balanced, ledger.pending, queue.count_rows()) == (True, 0, 0)
    finally:
        queue.close()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_flushes_that_fail_for_a_while_are_said_and_mended_without_a_restart(
    run: Callable[..., Recorder], collector: Collector, durability: str
) -> None:
    recorder = run(durability=durability, sync_interval=0.1)
    with recorder.fault(FLUSHES):
        until(lambda: recorder.failures > 20)
        stored = len(recorder.stored)
        began = recorder.state()
        until(lambda: recorder.failures > 60)
        state = recorder.state()
        assert len(recorder.stored) == stored, "nothing is called durable that may not be"
        assert state[0] == "unavailable"
        assert state[1] is not None
        assert "flush" in state[1]
        assert state[2] - began[2] < 1.0, "it does not spin"
    until(lambda: len(recorder.stored) > stored + 5)
    assert recorder.state()[0] != "unavailable"
    recorder.end()
    assert len(recorder.unknown) <= 5, "once it is known that the disk fails nothing is tried on it"
    check(recorder, collector)


def test_a_disk_that_fails_for_good_keeps_what_was_stored_before(
    run: Callable[..., Recorder], collector: Collector
) -> None:
    collector.set_fault(status=503)
    recorder = run()
    with recorder.fault(FLUSHES):
        until(lambda: recorder.failures > 20)
        recorder.process.kill()
        recorder.process.wait()
    recorder.kill()
    collector.heal()
    check(recorder, collector)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_file_that_cannot_be_written_for_a_while_is_used_again(
    run: Callable[..., Recorder], collector: Collector, durability: str
) -> None:
    recorder = run(durability=durability)
    with recorder.fault(WRITES):
        until(lambda: recorder.failures > 20)
        stored = len(recorder.stored)
        until(lambda: recorder.failures > 60)
        assert len(recorder.stored) == stored
        assert recorder.state()[0] == "unavailable"
    until(lambda: len(recorder.stored) > stored + 5)
    assert recorder.state()[0] != "unavailable"
    recorder.end()
    check(recorder, collector)
