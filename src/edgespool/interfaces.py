"""The seams of the package: what the worker, the client and the replay know of each other. A leaf but for values.

A new transport is a new class with `send` and `close` (Destination); a new service is a new Format. Both can be
registered by a third party through the entry point groups `edgespool.destinations` and `edgespool.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .event import Batch, Record, StoredEvent
from .outcome import Outcome, Reply

__all__ = [
    "CanBeAsked", "Clock", "Destination", "EncodesMany", "Format", "Ledger", "Queue", "Request", "Unready", "Watch",
]  # fmt: skip


class Clock(Protocol):
    """The device's clocks; see `edgespool.clock`."""

    boot_id: str

    def time(self) -> float:
        """Return the wall clock, seconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back and do not follow the wall clock's jumps."""
        ...

    def synchronized(self) -> bool:
        """Return whether the wall clock is known to be right."""
        ...


@dataclass(frozen=True)
class Request:
    """What a format wants sent. `path` is appended to the destination's URL as it stands."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = ""
    compressible: bool = True  # whether a Content-Encoding may be applied


@runtime_checkable
class Format(Protocol):
    """How events become a request, and what the reply means. Holds no secret and no state of delivery."""

    name: str

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return an event as it will stand in a request. Called once, in the caller's thread.

        Args:
            name, data: what the user recorded.
            id: the event's id.
            time: seconds since 1970; the format must be able to put another time in later (see `render`).

        Raises:
            EventError: the event cannot be encoded; the message names the field.
        """
        ...

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the leading events (at least 1) fit into one request."""
        ...

    def request(self, batch: Batch) -> Request:
        """Return the request for a batch."""
        ...

    def render(self, event: StoredEvent) -> bytes:
        """Return one event as it stands in a request: its payload, but for a time that was put right since."""
        ...

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from a decoded `render`, for replay; a missing id or time is taken from the value.

        Raises:
            ValueError: the value is no event of this format.
        """
        ...

    def outcome(self, reply: Reply) -> Outcome:
        """Return what a server's reply means for this service."""
        ...


@runtime_checkable
class EncodesMany(Protocol):
    """A format that encodes events recorded together for less than one by one."""

    def encode_many(
        self, names: Sequence[str], data: Sequence[Mapping[str, Any]], ids: Sequence[str], time: float
    ) -> list[bytes]:
        """Return what `Format.encode` would return for each of these events, all of one time.

        Raises:
            EventError, ValueError, TypeError, RecursionError: one of them cannot be encoded; `encode` says which.
        """
        ...


class Unready(Exception):
    """Raised by `Format.request` when nothing of a route can be sent until somebody gives what is missing: a key.

    The route is held, and the others go on. The text says what is missing, and what to do.
    """


@dataclass(frozen=True)
class Watch:
    """Told of each exchange with the server, in the sender's thread; what these raise is logged and hurts nobody.

    `on_request` before a request goes out; `on_reply` after it, with the reply (None when there was none) and what
    it was taken for.
    """

    on_request: Callable[[Batch, Request], None] | None = None
    on_reply: Callable[[Batch, Request, Reply | None, Outcome], None] | None = None


@runtime_checkable
class Destination(Protocol):
    """Where batches go. Used by one thread at a time."""

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the leading events (at least 1) can be sent at once."""
        ...

    def send(self, batch: Batch) -> Outcome:
        """Send the batch and return what came of it; raises nothing."""
        ...

    def close(self) -> None:
        """Let go of connections; a later `send` makes new ones."""
        ...


@runtime_checkable
class CanBeAsked(Protocol):
    """A destination that can find out whether anybody is there, without sending an event: `doctor --live` does."""

    def reach(self) -> Outcome | int:
        """Return the status of a reply, or why there was none; sends no credentials, raises nothing."""
        ...


@dataclass(frozen=True)
class Ledger:
    """Counts since the store was made: `accepted = delivered + failed + sum(dropped) + pending`, at every moment."""

    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0

    @property
    def balanced(self) -> bool:
        """Whether the equation holds."""
        return self.accepted == self.delivered + self.failed + sum(self.dropped.values()) + self.pending


class Queue(Protocol):
    """A queue of encoded events in which routes are independent and in order. Safe to use from any thread."""

    def append(self, records: Sequence[Record]) -> None:
        """Store the records durably, all or none, before returning.

        Raises:
            QueueFull, QueueClosed, QueueUnavailable, OutcomeUnknown: see `edgespool.errors`.
        """
        ...

    def lease(
        self, limit: int, max_bytes: int, exclude: Set[str] = frozenset(), route: str | None = None
    ) -> Batch | None:
        """Return the next events of one route that is not excluded, and set them aside; None when there are none.

        Args:
            limit: at most so many events.
            max_bytes: at most so many payload bytes, but always at least one event.
            exclude: routes to pass over.
            route: only this route, when given.
        """
        ...

    def ack(self, batch: Batch, ledger: str = "delivered") -> int:
        """Remove leased events for good and count them as delivered, failed or ``dropped:REASON``; return how many."""
        ...

    def requeue(self, batch: Batch) -> None:
        """Put leased events back at their old place."""
        ...

    def expire(self, max_age: float, limit: int = 1000) -> int:
        """Drop up to `limit` events that are older than `max_age` seconds for certain; return how many."""
        ...

    def ledger(self) -> Ledger:
        """Return the counts."""
        ...

    def oldest_sequence(self, exclude: Set[str] = frozenset()) -> int | None:
        """Return the number, in the order of acceptance, of the oldest event there is, leased or not; None: there is
        none. Events are numbered from 1; `Ledger.accepted` is the number of the newest.

        Args:
            exclude: routes to pass over.
        """
        ...

    def maintain(self, idle: bool) -> None:
        """Do a bounded piece of housekeeping; `idle` when no event is waiting to be sent.

        Raises:
            QueueUnavailable: the disk takes no writes, so that nothing could be acknowledged: nothing should be sent
                until this succeeds.
            QueueFull: nor while there is no room for the acknowledgements that are owed.
        """
        ...

    def close(self) -> None:
        """Flush and let go of the disk. Idempotent."""
        ...

