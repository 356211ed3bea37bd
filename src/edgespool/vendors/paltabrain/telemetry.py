"""What each batch says of its sender (BatchTelemetry), and the counters of the SDK. Knows no SQL, no HTTP.

The original left the telemetry empty; it asks for just what a durable queue knows:

    events_dropped          events that a limit chosen by the user has dropped since this was last reported
    prev_connection_speed   bytes of body a second, of the last request that was answered
    prev_request_time       milliseconds from that request to its answer
    events_reporting_speed  events a second, between the last two deliveries
    serialization_errors    events that were skipped since the last delivery, and why
    storage_errors          events that the disk did not take since then, and why; and that a damaged queue was salvaged
    storage_used            bytes that the queue takes on the disk
    trigger_type            BUFFER_SIZE, INTERVAL, FLUSH, SHUTDOWN, or RETRY when this batch has failed before
    time_since_last_batch   milliseconds since the last delivery

Speeds and times are of this process, and are left out while nothing is known.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ... import forks
from ...errors import EdgespoolError, QueueError
from ...event import Batch
from ...files import read_bounded, write_whole
from ...interfaces import Request
from ...outcome import Delivered, Hold, Outcome, Reject, Reply, TooLarge
from ...status import Stats
from . import sdk_pb2
from .format import batch_id

__all__ = ["Counters", "RequestFailed", "Telemetry"]

# The logger of the original: its users look there for how each batch fared.
_log = logging.getLogger("paltabrain_sdk")

_TEXTS = 10  # errors of a kind in one batch; of more, the latest
_TEXT_BYTES = 150


class RequestFailed(EdgespoolError):
    """A batch was not taken. Nothing is lost: it is sent again, or was written to a failed payload file.

    Attributes:
        status: the HTTP status of the answer; None when there was none.
    """

    def __init__(self, reason: str, status: int | None) -> None:
        super().__init__(reason)
        self.status = status


def _short(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_TEXT_BYTES]
    return text.decode("utf-8", "ignore")


@dataclass
class _Report:
    """What a batch on its way reports, to be forgotten once it has arrived."""

    events_dropped: int = 0
    serialization_errors: list[str] = field(default_factory=list)
    storage_errors: list[str] = field(default_factory=list)


class Telemetry:
    """What is known of one SDK's sending.

    Args:
        directory: the queue's directory; there it is remembered which drops were reported.
        stats: returns the client's counts.
        batch_size: events that make a batch full.
        monotonic: seconds, for tests.
    """

    def __init__(
        self,
        directory: str,
        stats: Callable[[], Stats],
        batch_size: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = os.path.join(directory, "paltabrain-reported")
        self._stats = stats
        self._batch_size = batch_size
        self._monotonic = monotonic
        self._lock = forks.Lock()
        self._serialization: deque[str] = deque(maxlen=_TEXTS)
        self._storage: deque[str] = deque(maxlen=_TEXTS)
        self._asked: str | None = None
        self._salvage_told = False
        self._report = _Report()
        self._started = 0.0
        self._failed_id: str | None = None
        self._request_time: float | None = None
        self._request_bytes = 0
        self._delivered: tuple[float, int] | None = None  # when, and how many events
        self._speed: float | None = None
        self._dropped_reported = 0
        with contextlib.suppress(OSError, ValueError):
            self._dropped_reported = int(read_bounded(self._path, 30))

    # --- from any thread --------------------------------------------------------------------------------------------

    def serialization_error(self, error: BaseException) -> None:
        """An event was skipped."""
        with self._lock:
            self._serialization.append(_short(error))

    def storage_error(self, error: BaseException) -> None:
        """An event was not stored."""
        with self._lock:
            self._storage.append(_short(error))

    def asked(self, trigger: str) -> None:
        """The user asked for what waits to be sent."""
        self._asked = trigger

    # --- from the sender's thread -----------------------------------------------------------------------------------

    def __call__(self, batch: Batch) -> bytes:
        """Return the serialized BatchTelemetry that goes with a batch."""
        told = sdk_pb2.BatchTelemetry()
        with self._lock:
            report = self._report = _Report(0, list(self._serialization), list(self._storage))
        with contextlib.suppress(QueueError, OSError):  # the events go out, whatever can be said of them
            stats = self._stats()
            report.events_dropped = max(0, sum(stats.dropped.values()) - self._dropped_reported)
            told.storage_used = str(stats.bytes_on_disk)
            told.events_dropped = report.events_dropped
            if stats.salvaged and not self._salvage_told:
                counts = ", ".join(f"{count} {what}" for what, count in stats.salvaged.items())
                told.storage_errors.append(f"a damaged queue was salvaged: {counts}")
        told.serialization_errors.extend(report.serialization_errors)
        told.storage_errors.extend(report.storage_errors)
        told.trigger_type = self._trigger(batch)
        if self._request_time is not None:
            told.prev_request_time = round(self._request_time * 1000)
            told.prev_connection_speed = str(round(self._request_bytes / max(self._request_time, 1e-6)))
        if self._speed is not None:
            told.events_reporting_speed = f"{self._speed:.2f}"
        if self._delivered is not None:
            told.time_since_last_batch = round((self._monotonic() - self._delivered[0]) * 1000)
        return bytes(told.SerializeToString(deterministic=True))

    def _trigger(self, batch: Batch) -> str:
        if self._failed_id is not None and self._failed_id == batch_id(batch.events):
            return "RETRY"
        if self._asked is not None:
            return self._asked
        return "BUFFER_SIZE" if len(batch) >= self._batch_size else "INTERVAL"

    def on_request(self, batch: Batch, request: Request) -> None:
        """A request goes out."""
        self._started = self._monotonic()

    def on_reply(self, batch: Batch, request: Request, reply: Reply | None, outcome: Outcome) -> None:
        """It was answered, or was not."""
        now = self._monotonic()
        if reply is not None:
            self._request_time, self._request_bytes = now - self._started, len(request.body)
        if not isinstance(outcome, Delivered):
            self._failed_id = batch_id(batch.events)
            return
        self._failed_id = None
        if self._delivered is not None:
            self._speed = len(batch) / max(now - self._delivered[0], 1e-3)
        self._delivered = now, len(batch)
        self._salvage_told = True
        if len(batch) < self._batch_size:
            self._asked = None
        with self._lock:
            _forget(self._serialization, self._report.serialization_errors)
            _forget(self._storage, self._report.storage_errors)
        if self._report.events_dropped:
            self._dropped_reported += self._report.events_dropped
            with contextlib.suppress(OSError):  # then they are reported once more after a restart
                write_whole(self._path, str(self._dropped_reported).encode())


def _forget(errors: deque[str], told: list[str]) -> None:
    for text in told:
        if errors and errors[0] == text:  # else newer ones have pushed it out
            errors.popleft()


class Counters:
    """How batches fared, as the SDK's `batch_counters` says, and the last error.

    A batch that was not taken counts as the original counted one that it gave up: at the `max_tries`-th failure in a
    row (and each `max_tries` more), or at once when the answer will not change by trying again. Its events stay.
    """

    SUCCESS, REJECT, EXCEPTION = "SUCCESS", "REJECT", "EXCEPTION"

    def __init__(self, max_tries: int) -> None:
        self.counts = {self.SUCCESS: 0, self.REJECT: 0, self.EXCEPTION: 0}
        self.last_error: Exception | None = None
        self._max_tries = max(1, max_tries)
        self._failures = 0
        self._held = False

    def on_reply(self, batch: Batch, request: Request, reply: Reply | None, outcome: Outcome) -> None:
        """A request was answered, or was not; called in the sender's thread."""
        name = f"batch {batch_id(batch.events)} of {len(batch)} event(s)"
        if isinstance(outcome, Delivered):
            self._failures, self._held = 0, False
            self.counts[self.SUCCESS] += 1
            _log.info("%s: %s", name, self.SUCCESS)
            return
        reason: Any = getattr(outcome, "reason", outcome)
        self.last_error = RequestFailed(str(reason), reply.status if reply is not None else None)
        kind = self.REJECT if reply is not None else self.EXCEPTION
        if self._counts(outcome, len(batch)):
            self.counts[kind] += 1
        _log.info("%s: not taken, kept (%s)", name, reason)

    def _counts(self, outcome: Outcome, size: int) -> bool:
        if isinstance(outcome, (Reject, TooLarge)):
            return size == 1  # a larger one is halved and sent again
        if isinstance(outcome, Hold):
            first, self._held = not self._held, True
            return first
        self._failures += 1
        return self._failures % self._max_tries == 0
