"""Waiting until a queue is empty, and saying what keeps it: what every command that delivers ends with."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..client import Client
from ..status import StatusFile
from .exits import Exit
from .output import count, warn

__all__ = ["Result", "say_refused", "say_undelivered", "sender", "wait"]

_SLICE = 1.0  # seconds between looks at how the delivery fares


@dataclass(frozen=True)
class Result:
    """How the waiting ended."""

    empty: bool
    state: str  # the sender's, this process's or another's
    last_error: str | None

    @property
    def code(self) -> Exit:
        """The exit code that says so."""
        if self.empty:
            return Exit.OK
        return Exit.SERVER if self.state in ("held", "backing off") else Exit.ATTENTION


def wait(client: Client, seconds: float, *, as_it_goes: bool = False) -> Result:
    """Wait until all that was recorded has left the queue, or is held and waits for a person.

    Args:
        client: one that sends, or whose queue another process sends.
        seconds: to wait at most.
        as_it_goes: whether they count from the last event that left, not from the beginning.

    Raises:
        QueueError: the queue does not work.
    """
    deadline = time.monotonic() + seconds
    gone = -1
    while not client.flush(max(0.0, min(_SLICE, deadline - time.monotonic()))):
        stats = client.stats()
        if as_it_goes and stats.accepted - stats.pending != gone:
            gone = stats.accepted - stats.pending
            deadline = time.monotonic() + seconds
        state, why = sender(client)
        if state == "held" or time.monotonic() >= deadline:
            return Result(False, state, why)
    return Result(True, *sender(client))


def sender(client: Client) -> tuple[str, str | None]:
    """Return how the sender fares, this process or another, and its last error."""
    stats = client.stats()
    if stats.state == "standby":
        other = StatusFile(client.directory).read()
        return (other.state, other.last_error) if other is not None else ("standby", None)
    return stats.state, stats.last_error


def say_undelivered(result: Result, waiting: int, noun: str = "event", when: str = "later") -> None:
    """Say on standard error why it was not delivered, and how many of what are left."""
    why = result.last_error or "the time was too short"
    warn(f"not delivered: {why}; {count(waiting, noun)} on disk, to be sent {when}")


def say_refused(client: Client, refused: int, noun: str = "event") -> None:
    """Say on standard error how many were refused, and where they are."""
    warn(f"{count(refused, noun)} refused, kept in {client.directory}/failed (see `replay-failed`)")
