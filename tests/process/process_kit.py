"""What the process tests share: real processes that can be killed, and what became of the events they recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import edgespool
from edgespool import Client
from edgespool.queue import DiskQueue, SenderLock
from edgespool.testing import Collector

DEADLINE = 40.0  # seconds after which a test gives up waiting; nothing here should take a tenth of it
PROGRAMS = Path(__file__).parent / "programs"


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's is found, and this very edgespool is."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("EDGESPOOL_") and not k.lower().endswith("_proxy")}
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        mine[name] = str(home)
    source = str(Path(edgespool.__file__).parents[1])
    mine["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    mine["PYTHONUNBUFFERED"] = "1"
    return mine


class Program:
    """A process that runs one of the programs, or any command, in a session of its own.

    What it prints goes to files, so that it is there after a SIGKILL too.
    """

    def __init__(self, directory: Path, command: str | list[str], settings: dict[str, Any] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = command if isinstance(command, str) else command[0]
        if isinstance(command, str):
            command = [sys.executable, str(PROGRAMS / command), json.dumps(settings or {})]
        number = sum(1 for _ in directory.glob("*.out"))
        self._out, self._err = directory / f"{number}.out", directory / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment(directory),
                cwd=directory,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def lines(self) -> list[list[str]]:
        """The whole lines that the process has printed, each cut into words."""
        text = self._out.read_text()
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def errors(self) -> str:
        """What the process has said on stderr."""
        return self._err.read_text()

    def said(self, word: str) -> list[list[str]]:
        """Return what came after `word` in the lines that begin with it."""
        return [line[1:] for line in self.lines if line[0] == word]

    def wait_for(self, word: str, count: int = 1, timeout: float = DEADLINE) -> list[list[str]]:
        """Wait until so many lines begin with `word`, and return what came after it."""

        def there() -> bool:
            return len(self.said(word)) >= count or self.process.poll() is not None

        try:
            wait_until(there, f"{word!r} from {self.name}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.stacks()}") from None
        assert len(self.said(word)) >= count, f"{self.name} ended with {self.process.returncode}: {self.errors}"
        return self.said(word)

    def stacks(self) -> str:
        """Return what all threads of the program and of its children are doing."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGUSR1)
            time.sleep(0.5)
        return self.errors

    def tell(self, line: str) -> None:
        """Give the process a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, for this process alone; wait for its end."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def end(self, timeout: float = DEADLINE) -> int:
        """Close the process's stdin, wait for its end, and return its exit code."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        return self.process.wait(timeout)

    def clean_up(self) -> None:
        """Kill the process with all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()


def recorded(programs: Iterable[Program]) -> dict[str, list[str]]:
    """Return the ids that the programs have printed, in order, by who recorded them; who counts from 0 without gaps."""
    found: dict[str, list[str]] = defaultdict(list)
    for program in programs:
        for who, number, *ids in program.said("recorded"):
            assert int(number) == len(found[who]), f"{program.name} counts wrongly"
            found[who] += ids
    return dict(found)


def arrived(collector: Collector) -> dict[str, list[str]]:
    """Return the ids that arrived, in order, by who recorded them; their numbers are checked to run on from 0."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in collector.arrived():
        who = event.data["who"]
        assert event.data["n"] == len(found[who]), f"event {event.data} arrived out of its order"
        found[who].append(event.id)
    return dict(found)


def check_nothing_lost(
    programs: Iterable[Program], collector: Collector, in_flight: Callable[[str], int] = lambda who: 1
) -> int:
    """Every id that was printed has arrived, in order, and nothing that nobody recorded; return how many events came.

    `in_flight`: how many events a writer hands over in one call. When it is killed in the midst of it, they may have
    been stored although it could not say so any more: all of them, or none.
    """
    told, came = recorded(programs), arrived(collector)
    for who, ids in told.items():
        assert came.get(who, [])[: len(ids)] == ids, f"{who} lost events"
    for who, ids in came.items():
        more = len(ids) - len(told.get(who, []))
        assert more in (0, in_flight(who)), f"{who}: {more} events came that it never recorded"
    return sum(map(len, came.values()))


def deliver_all(path: Path, collector: Collector, **settings: Any) -> None:
    """Deliver what waits in the queue, from this process."""
    with Client(collector.url, path=path, source="pi", **settings) as client:
        assert client.flush(DEADLINE)


def check_ledger(path: Path, *, delivered: int | None = None) -> None:
    """The queue is empty and sound, and its ledger is balanced."""
    queue = DiskQueue(path)
    try:
        ledger = queue.ledger()
        assert ledger.balanced
        assert (ledger.pending, queue.count_rows(), ledger.failed, dict(ledger.dropped)) == (0, 0, 0, {})
        assert queue.salvaged is None
        assert not (path / "damaged").exists()
        assert not (path / "quarantine").exists()
        if delivered is not None:
            assert ledger.accepted == ledger.delivered == delivered
    finally:
        queue.close()


def sender_is_taken(path: Path) -> bool:
    """Return whether some process is the sender of the queue."""
    lock = SenderLock(str(path / "sender.lock"))
    free = lock.acquire()
    lock.release()
    return not free
