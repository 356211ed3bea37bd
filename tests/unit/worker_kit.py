"""A worker that is driven by hand: a queue in memory, a destination without a network, a clock that is told to move."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from unit_kit import record

from edgespool.errors import FailedFileError
from edgespool.event import Batch
from edgespool.outcome import Decision, Outcome
from edgespool.testing import FakeClock, FakeDestination, MemoryQueue
from edgespool.worker import Policy, State, Worker


class Rig:
    """A worker and all that is around it. `policy` takes the fields of `Policy`, the rest goes to `Worker`."""

    def __init__(
        self,
        answer: Outcome | Callable[[Batch], Outcome] | None = None,
        script: Iterable[Outcome | Exception] = (),
        *,
        policy: dict[str, Any] | None = None,
        fraction: Callable[[], float] = lambda: 0.5,
        most: int | None = None,
        queue: Any = None,
        clock: FakeClock | None = None,
        **worker: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.queue = queue or MemoryQueue(clock=self.clock)
        self.destination = FakeDestination(script, answer=answer, most=most)
        self.sent_at: list[float] = []  # boot clock's seconds of each sending
        self.given_up: list[tuple[Batch, Decision, int]] = []
        self.refuse_files = False
        self.delivered: list[Batch] = []
        self.errors: list[tuple[Exception, Batch]] = []
        self.states: list[State] = []
        hooks: dict[str, Any] = {
            "on_delivery": self.delivered.append,
            "on_error": lambda error, batch: self.errors.append((error, batch)),
            "on_state": self.states.append,
            **worker,
        }
        send = self.destination.send

        def noted(batch: Batch) -> Outcome:
            self.sent_at.append(self.clock.monotonic())
            return send(batch)

        self.destination.send = noted  # type: ignore[method-assign]
        self.worker = Worker(
            self.queue, self.destination, self.clock, give_up=self.give_up, policy=Policy(**(policy or {})),
            fraction=fraction, **hooks,
        )  # fmt: skip
        self.queue.on_append = self.worker.notify

    def give_up(self, batch: Batch, decision: Decision, attempts: int) -> str:
        if self.refuse_files:
            raise FailedFileError("no room for the file")
        self.given_up.append((batch, decision, attempts))
        return f"file {len(self.given_up)}"

    def add(self, *names: object, route: str = "", size: int = 0) -> None:
        """Append an event for each name, in one go."""
        self.queue.append([record(name, route, size=size, clock=self.clock) for name in names])

    def step(self) -> float:
        """Do one step, and let the time pass until the next is due; return how long that was."""
        pause = self.worker.step()
        assert pause >= 0
        self.clock.advance(pause)
        return pause

    def run(self, seconds: float) -> None:
        """Do steps for so many seconds of the clock."""
        end = self.clock.monotonic() + seconds
        for _ in range(200_000):
            if self.clock.monotonic() >= end:
                return
            self.step()
        raise AssertionError("the worker turns without the time passing")

    def drain(self, requests: int = 10_000) -> None:
        """Do steps until nothing is pending; fail after so many requests."""
        while self.queue.ledger().pending:
            self.step()
            assert len(self.destination.batches) <= requests, "too many requests"

    @property
    def sent(self) -> list[list[str]]:
        """The ids of each batch that was sent."""
        return [batch.ids for batch in self.destination.batches]

    @property
    def failed_ids(self) -> list[str]:
        """The ids of what was given up, in order."""
        return [id for batch, _, _ in self.given_up for id in batch.ids]

    def check(self) -> None:
        """Nothing is lost, and nothing is counted twice."""
        ledger = self.queue.ledger()
        assert ledger.balanced
        assert ledger.pending == self.queue.count_rows()
        assert ledger.failed == len(self.failed_ids)
