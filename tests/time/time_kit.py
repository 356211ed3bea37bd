"""What the tests of time share: a device whose clocks the test holds, and what its server got."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edgespool import Client
from edgespool.event import Batch
from edgespool.outcome import Backoff, Delivered, Outcome
from edgespool.queue import schema
from edgespool.testing import FakeClock, FakeDestination

DAY = 86_400.0
YEAR = 365.25 * DAY
TEN_YEARS = 10 * YEAR
NOW = 1_790_000_000.0  # September 2026: what the time truly is when a test begins
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# What may happen to the wall clock: seconds by which it jumps.
JUMPS = {
    "ten years ahead": TEN_YEARS,
    "ten years back": -TEN_YEARS,
    "to 1970": -NOW,
    "to before 1970": -NOW - 3 * YEAR,
}


def moment(text: str) -> float:
    """Return an RFC 3339 timestamp as seconds since 1970."""
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH) / timedelta(seconds=1)


class Server(FakeDestination):
    """A destination that keeps the CloudEvents as they stood in the requests that were taken."""

    def __init__(self, *script: Outcome | Exception, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(script)
        self.got: list[dict[str, Any]] = []
        self.before = before  # called in the midst of each sending
        self.format: Any = None

    def send(self, batch: Batch) -> Outcome:
        body = self.format.request(batch).body
        self.before()
        outcome = super().send(batch)
        if isinstance(outcome, Delivered):
            self.got += json.loads(body)
        return outcome

    @property
    def numbers(self) -> list[int]:
        return [event["data"]["n"] for event in self.got]


class Device:
    """A board with a queue on its disk, whose sender the test turns by hand: no thread runs, no time passes."""

    def __init__(self, path: Path, clock: FakeClock, server: Server, **settings: Any) -> None:
        self.path, self.clock, self.server = path, clock, server
        self._settings: dict[str, Any] = {"source": "pi", "flush_interval": 0.0, **settings}
        self.boot()

    def boot(self) -> None:
        """Start the program."""
        self.client = Client(
            "http://127.0.0.1:9", path=self.path, clock=self.clock, destination=self.server, start=False,
            **self._settings,
        )  # fmt: skip
        self.server.format = self.client._format
        self.worker = self.client._worker
        self.worker._fraction = lambda: 0.5  # no chance in the waits
        self.queue = self.client._queue

    def record(self, *numbers: int) -> None:
        """Record events one by one."""
        for number in numbers:
            self.client.record("reading", n=number)

    def step(self, times: int = 1) -> float:
        """Let the sender do something, and return the seconds that it would wait then."""
        for _ in range(times):
            wait = self.worker.step()
        return wait

    def drain(self) -> None:
        """Let the sender work until nothing is left to do at this moment."""
        for _ in range(100):
            if self.worker.step() > 0:
                return
        raise AssertionError("the sender does not come to rest")

    def close(self) -> None:
        """End the program."""
        self.worker._destination.close()
        if self.client._election.held:
            self.client._election.release()
        self.client.close(0)

    def pull_the_plug(self) -> None:
        """Lose the power: what stands on the disk is all there is, and the boot clock starts over."""
        left = self.path.with_name(self.path.name + "+")
        left.mkdir(mode=0o700)
        for name in (schema.FILE_NAME, schema.FILE_NAME + "-wal"):
            if (self.path / name).exists():
                (left / name).write_bytes((self.path / name).read_bytes())
        self.close()
        self.path = left
        self.clock.reboot(monotonic=5.0)
        self.clock.is_synchronized = False

    @property
    def held_back(self) -> float:
        """Seconds until the next attempt, by the boot clock."""
        due = self.worker.state.next_attempt
        assert due is not None
        return due - self.clock.monotonic()


PATIENT = Backoff(base=64.0, cap=64.0)  # with a fraction of one half: waits of 32 seconds
