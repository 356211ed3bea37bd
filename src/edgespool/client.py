"""Client: puts the parts together, hands on what it is asked, closes in order. No SQL, no status codes, no formats."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from . import config, destinations
from .clock import SystemClock
from .config import Settings
from .errors import ConfigError, EdgespoolError, EventError, QueueClosed, QueueError, QueueUnavailable
from .event import Batch, Event, Record, new_ids, next_id
from .failed import FailedFiles, public_url
from .formats import create as create_format
from .interfaces import EncodesMany
from .network import routes_fingerprint
from .outcome import Backoff, Decision
from .queue import DiskQueue, SenderLock
from .status import SenderStatus, Stats, StatusFile
from .worker import Policy, State, Worker

if TYPE_CHECKING:
    import requests

    from .interfaces import Clock, Destination, Format, Ledger, Watch

__all__ = ["Client", "CloseReport"]

_log = logging.getLogger("edgespool")
_MICROSECONDS = 1_000_000
_AT_EXIT = 1.0  # seconds that the end of the program may be held up for a last delivery
_POLL = 0.05


@dataclass(frozen=True)
class CloseReport:
    """What `Client.close()` leaves behind."""

    delivered: int  # events this client delivered while it was open
    pending: int  # events that wait on the disk for the next start


class Client:
    """Records events on the disk and delivers them in the background.

        with Client("https://ingest.example.com/v1/events", source="pi-kitchen") as client:
            client.record("temperature", value=21.5)

    Every setting of `docs/configuration.md` is a keyword; each can come from `EDGESPOOL_<NAME>` or a TOML file instead.

    Args:
        url: where events are posted.
        on_delivery: called with each `Batch` that was delivered, in the sender's thread.
        on_error: called with an exception and the `Batch` when delivery begins to fail, is held, or is given up; also
            in the sender's thread. A hook that records into a full queue gets QueueFull also at overflow "block".
        session: a `requests.Session` of your own.
        start: whether to send; False only records, until `start()` is called.
        config_file: the TOML file to read; None: `$EDGESPOOL_CONFIG`, else the user's, if there is one.
        defaults: settings that hold where neither a keyword nor the environment nor the file says otherwise; for SDKs.
        destination, format: parts of your own, in place of what the settings say.
        clock: the clocks; for tests.
        watch: is told of each exchange with the server, in the sender's thread.
        backoff: how long to wait after failures, for a service that says so; None: see `edgespool.outcome.Backoff`.
        settings: see `edgespool.config.Settings`.

    Raises:
        ConfigError: a setting cannot be used.
        QueueUnavailable, QueueVersionError: the queue cannot be opened.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        on_delivery: Callable[[Batch], None] | None = None,
        on_error: Callable[[Exception, Batch], None] | None = None,
        session: requests.Session | None = None,
        start: bool = True,
        config_file: str | os.PathLike[str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        destination: Destination | None = None,
        format: Format | str | None = None,
        clock: Clock | None = None,
        watch: Watch | None = None,
        backoff: Backoff | None = None,
        **settings: Any,
    ) -> None:
        by_name = format if isinstance(format, str) else None
        self.settings: Settings = config.load({"url": url, "format": by_name, **settings}, config_file, defaults)
        self._clock: Clock = clock or SystemClock()
        self._format: Format = (
            create_format(self.settings.format, self.settings.event_source)
            if format is None or isinstance(format, str)
            else format
        )
        self._destination: Destination = destination or destinations.create(
            self.settings, self._format, session, watch
        )
        self._directory = self.settings.directory
        self._place = os.path.realpath(self._directory)  # through a symbolic link it is the same queue
        self._endpoint = public_url(getattr(self._destination, "url", None) or self.settings.url or "")
        self._claim()
        self._queue = DiskQueue(
            self._directory,
            durability=self.settings.durability,
            sync_interval=self.settings.sync_interval,
            max_bytes=self.settings.max_bytes,
            max_events=self.settings.max_events,
            overflow=self.settings.overflow,
            clock=self._clock,
        )
        try:
            self._same_format()
        except BaseException:
            self._queue.close()
            raise
        self._failed = FailedFiles(self._directory)
        self._election = SenderLock(os.path.join(self._directory, "sender.lock"))
        self._status = StatusFile(self._directory)
        self._worker = Worker(
            self._queue,
            self._destination,
            self._clock,
            give_up=self._give_up,
            election=self._election,
            policy=Policy(
                self.settings.batch_size,
                self.settings.batch_bytes,
                self.settings.flush_interval,
                self.settings.max_attempts,
                self.settings.max_age,
                self.settings.max_rate,
                backoff or Backoff(),
            ),
            on_delivery=on_delivery,
            on_error=on_error,
            network=routes_fingerprint,
            on_state=self._publish,
            ready=self._enough if self.settings.min_events > 1 else None,
            refusal=lambda: self._queue.refusal,
        )
        self._queue.on_append = self._appended
        self._queue.may_wait = self._may_wait
        self._encode = self._format.encode
        self._encode_many = self._format.encode_many if isinstance(self._format, EncodesMany) else None
        self._largest = self.settings.batch_bytes
        self._wanted = start
        self._closing = threading.RLock()  # reentrant: a signal handler may close what is being closed
        self._winding = False
        self._report: CloseReport | None = None
        self._counts: Ledger | None = None  # as last read
        _clients.add(self)
        if start:
            self._worker.start()

    # --- recording ------------------------------------------------------------------------------------------------

    def record(self, name: str, /, **data: Any) -> str:
        """Store an event durably and return its id.

        Args:
            name: what happened, e.g. ``"temperature"``.
            data: the values: what JSON can say, and datetime, Decimal, UUID, Enum, dataclasses, numpy scalars.

        Raises:
            EventError: the event cannot be encoded or is too large; nothing was stored.
            QueueFull: there is no room (overflow policy "reject"); nothing was stored.
            QueueClosed: the client was closed; nothing was stored.
            QueueUnavailable, OutcomeUnknown: the disk failed; see `edgespool.errors`.
        """
        if not isinstance(name, str) or not name:
            raise EventError(f"event name: a non-empty string is needed, not {name!r}")
        raw, text = next_id()
        clock = self._clock
        # Both clocks at once: what lies between the readings would be taken for an error of the wall clock.
        now, mono = clock.time(), int(clock.monotonic() * _MICROSECONDS)
        payload = self._encode(name, data, text, now)
        if len(payload) > self._largest:
            raise self._too_large(payload)
        self._queue.append((cast("Record", (payload, raw, now, mono, "", False)),))  # half as dear as a Record
        return text

    def record_event(self, event: Event) -> str:
        """Store an event with a time, id or route of your own, durably, and return its id; raises as `record`."""
        if not isinstance(event, Event):
            return self.record_many((event,))[0]
        raw: bytes | str
        raw, text = next_id()
        if event.id is not None:
            raw = text = event.id
        clock = self._clock
        now, mono = clock.time(), int(clock.monotonic() * _MICROSECONDS)
        self._queue.append((cast("Record", self._made(event, raw, text, now, mono)),))
        return text

    def _made(
        self, event: Event, raw: bytes | str, text: str, now: float, mono: int
    ) -> tuple[bytes, bytes | str, float, int, str, bool]:
        """Return the fields of an event's Record; a plain tuple is a third faster to make. Raises EventError."""
        when = event.epoch()
        moment = now if when is None else when
        payload = self._encode(event.name, event.data, text, moment)
        if len(payload) > self._largest:
            raise self._too_large(payload)
        return payload, raw, moment, mono, event.route, when is not None

    def record_many(self, events: Iterable[Event | tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Store events in one transaction, all or none, and return their ids.

        Args:
            events: `Event` objects, or pairs of a name and a mapping of data.

        Raises:
            EventError: one of them cannot be encoded; the message says which. Nothing was stored.
            QueueFull, QueueClosed, QueueUnavailable, OutcomeUnknown: as `record`.
        """
        checked = events if isinstance(events, list) else list(events)
        raws, texts = new_ids(len(checked))
        now = self._clock.time()
        mono = int(self._clock.monotonic() * _MICROSECONDS)
        payloads = self._encoded(checked, texts, now)
        if payloads:
            rows = zip(payloads, raws, repeat(now), repeat(mono), repeat(""), repeat(False))
            self._queue.append(cast("list[Record]", list(rows)))
            return texts
        encode, largest = self._encode, self._largest
        records: list[tuple[bytes, bytes | str, float, int, str, bool]] = []
        try:
            for event, raw, text in zip(checked, raws, texts, strict=True):
                if type(event) is tuple and len(event) == 2:
                    name, data = event
                    if type(name) is not str or not name or type(data) is not dict:
                        Event(name, data)
                    payload = encode(name, data, text, now)
                    if len(payload) > largest:
                        raise self._too_large(payload)
                    records.append((payload, raw, now, mono, "", False))
                elif isinstance(event, Event):
                    if event.id is not None:
                        text = texts[len(records)] = event.id
                    records.append(self._made(event, event.id or raw, text, now, mono))
                else:
                    raise EventError(f"an Event or (name, data) is needed, not {type(event).__name__}")
        except EventError as error:
            if len(checked) == 1:
                raise
            raise EventError(f"event {len(records) + 1} of {len(checked)}: {error}") from None
        if records:
            self._queue.append(cast("list[Record]", records))
        return texts

    def _encoded(self, events: list[Any], ids: Sequence[str], time: float) -> list[bytes] | None:
        """Return the payloads of plain pairs, in the short way that a format may have; None: go the long way.

        The long way, event by event, also finds out which of them cannot be encoded.
        """
        if self._encode_many is None or set(map(type, events)) != {tuple} or set(map(len, events)) != {2}:
            return None
        names, data = zip(*events, strict=True)
        # As Event(name, data) would check, without its cost: this is how sensors are read out in bulk.
        if set(map(type, names)) != {str} or "" in names or set(map(type, data)) != {dict}:
            return None
        try:
            payloads = self._encode_many(names, data, ids, time)
        except (EventError, ValueError, TypeError, RecursionError):
            return None
        return payloads if max(map(len, payloads)) <= self._largest else None

    def _too_large(self, payload: bytes) -> EventError:
        return EventError(f"{len(payload)} bytes encoded, more than batch_bytes ({self._largest}) allows")

    def _appended(self, count: int) -> None:
        worker = self._worker
        if worker._thread is None and self._wanted:  # the first event in a forked child
            worker.start()
        worker.notify(count)

    def _may_wait(self) -> bool:
        """Whether this thread may wait for room: the one that makes it must not. Another client's may be that one."""
        return not any(each._worker.is_current for each in list(_clients) if each._place == self._place)

    # --- delivery ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send, after ``start=False``."""
        if self._report is not None:
            raise QueueClosed("the client is closed")
        self._wanted = True
        self._worker.resume()
        self._worker.start()

    def pause(self) -> None:
        """Send no more after the request that is under way, until `start()`. Events are recorded as before."""
        self._wanted = False
        self._worker.pause()

    def _enough(self) -> bool:
        """Whether as many events wait as `min_events` asks for, or there is no room to wait for so many."""
        return self._queue.crowded() or self._queue.ledger().pending >= self.settings.min_events

    def send_now(self) -> None:
        """Send what waits without waiting for an interval or a backoff; returns at once."""
        for client in list(_clients):  # another of this program on the same queue may be the one that sends
            if client._place == self._place:
                client._worker.hurry()

    def flush(self, timeout: float = 10.0) -> bool:
        """Send what was recorded before this call, at once; return whether all of it left the queue in time.

        While the client is paused it sends nothing; while the disk cannot be used, nothing can be known to have left.

        Args:
            timeout: seconds to wait at most.

        Raises:
            QueueClosed: the client is closed.
        """
        target: int | None = None
        deadline = time.monotonic() + timeout
        if self._wanted:
            self._worker.start()
        asked = 0.0
        while True:
            with contextlib.suppress(QueueUnavailable):  # it may pass in time
                if target is None:
                    target = self._queue.ledger().accepted
                oldest = self._queue.oldest_sequence()
                if oldest is None or oldest > target:
                    return True
            now = time.monotonic()
            if now >= deadline or not self._worker.running or self._worker.paused or self._worker.is_current:
                return False
            if now >= asked:  # again now and then: a failure in between ends the hurry
                self.send_now()
                asked = now + 1.0
            self._worker.wait_for_progress(min(_POLL, deadline - now))

    def drain(self, timeout: float = 0.0) -> bool:
        """Send what waits without waiting for an interval; return whether all that was recorded before has left.

        Unlike `flush` it neither cuts a backoff short, nor a wait that the server asked for, and it waits only while
        delivery works: a program may call it after every reading, in an outage as well.

        Args:
            timeout: seconds to wait at most; 0: not at all, and calls that come fast share a request, ten a second.

        Raises:
            QueueClosed: the client is closed.
        """
        if self._report is not None:
            raise QueueClosed("the client is closed")
        try:
            target = self._queue.ledger().accepted if timeout > 0 else 0
        except QueueUnavailable:
            timeout = target = 0
        deadline = time.monotonic() + timeout
        if self._wanted:
            self._worker.start()
        workers = [client._worker for client in list(_clients) if client._place == self._place]
        for worker in workers:
            worker.drain(awaited=timeout > 0)
        while timeout > 0:
            try:
                oldest = self._queue.oldest_sequence()
            except QueueUnavailable:
                return False
            if oldest is None or oldest > target:
                return True
            # Another client of this program may be the one that sends.
            sender = next((worker for worker in workers if worker.sending), self._worker)
            left = deadline - time.monotonic()
            if left <= 0 or not sender.running or sender.state.name not in ("idle", "sending"):
                return False
            sender.wait_for_progress(min(_POLL, left))
        return False

    def close(self, timeout: float = 5.0) -> CloseReport:
        """Try to deliver what is left, for `timeout` seconds at most, stop, and return the counts. Idempotent.

        While delivery fails or is on hold it does not wait: what is not sent is on the disk, and goes out at the next
        start. Nor does it wait in a hook, which the sender itself waits for, or in a signal handler that has
        interrupted another `close`: the sender ends, and the queue is closed, after the hook or the other `close`.

        Args:
            timeout: seconds; `float("inf")`: as long as it takes.

        Raises:
            ValueError: `timeout` is no number; nothing was done, and the client is as it was.
        """
        try:
            timeout = float(timeout)
        except (TypeError, ValueError, OverflowError):
            timeout = math.nan
        if timeout != timeout:
            raise ValueError("timeout: a number of seconds is needed; float('inf') waits as long as it takes")
        with self._closing:
            if self._report is not None:
                return self._report
            if self._winding:
                counts = self._look() or self._counts
                return CloseReport(self._worker.delivered, counts.pending if counts is not None else 0)
            self._winding = True
            try:
                return self._close(timeout)
            finally:
                self._winding = False

    def _close(self, timeout: float) -> CloseReport:
        ended = self._wind_up(timeout)
        counts = self._counts
        try:
            counts = self._queue.ledger()
        except QueueError as error:
            _log.warning("closing: %s", error)
            counts = self._look() or counts
        try:
            if not ended:
                # In the middle of a request. Its thread closes the queue when it is done, so that a yes that is
                # under way is still acknowledged; should the program end first, the events are sent again.
                self._worker.on_end = self._queue.close
            if ended or not self._worker.running:
                self._queue.close()
        except QueueError as error:
            _log.warning("closing: %s", error)
        self._report = CloseReport(self._worker.delivered, counts.pending if counts is not None else 0)
        _clients.discard(self)
        return self._report

    shutdown = close

    def _leave(self, timeout: float) -> None:
        """At the end of the program: deliver what can be delivered in time, stop sending, and flush the disk.

        The queue stays open: daemon threads and exit hooks may still record. What they do waits for the next start.
        """
        with self._closing:
            if self._report is None and not self._winding:
                self._wind_up(timeout)
                self._queue.sync()

    def _wind_up(self, timeout: float) -> bool:
        """Stop the worker after a last try, within `timeout` seconds; return whether it has ended."""
        deadline = time.monotonic() + timeout
        worker = self._worker
        waits = worker.running and not worker.paused and not worker.is_current and timeout > 0
        if waits and worker.state.name in ("idle", "sending"):
            self._last_flush(deadline)
        return worker.stop(max(0.0, deadline - time.monotonic()))

    def _last_flush(self, deadline: float) -> None:
        with contextlib.suppress(QueueError):
            target = self._queue.ledger().accepted
            self._worker.hurry()
            while time.monotonic() < deadline:
                oldest = self._queue.oldest_sequence()
                if oldest is None or oldest > target or self._worker.state.name not in ("idle", "sending"):
                    return
                self._worker.wait_for_progress(_POLL)

    def stats(self) -> Stats:
        """Return the counts and the state.

        While the disk takes no events the state is "unavailable"; while it cannot even be read the counts are the last
        known ones.

        Raises:
            QueueError: the queue cannot be read and was not before, or the client is closed.
        """
        state: State = self._worker.state
        oldest = None
        try:
            ledger = self._counts = self._queue.ledger()
            oldest = self._queue.oldest()
        except QueueError as error:
            known = None if isinstance(error, QueueClosed) else self._look() or self._counts
            if known is None:
                raise
            ledger = self._counts = known
            state = replace(state, name="unavailable", last_error=str(error))
        else:
            if (refusal := self._queue.refusal) is not None:
                state = replace(state, name="unavailable", last_error=refusal)
        age: float | None = None
        if oldest is not None:
            when, since = oldest
            age = max(0.0, since if since is not None else self._clock.time() - when)
        salvaged = self._queue.salvaged
        return Stats(
            ledger.accepted,
            ledger.delivered,
            ledger.failed,
            ledger.dropped,
            ledger.pending,
            age,
            self._queue.disk_bytes(),
            state.name if self._worker.running or state.name == "unavailable" else "stopped",
            state.held,
            state.last_error or self._queue.trouble,
            max(0.0, state.next_attempt - self._clock.monotonic()) if state.next_attempt is not None else None,
            {
                "kept": salvaged.kept, "lost": salvaged.lost, "again": salvaged.again, "unknown": salvaged.unknown
            } if salvaged else None,
        )

    def _look(self) -> Ledger | None:
        """Return the counts of a queue that cannot be opened, as on a read-only disk; None if not even that can be."""
        from .queue.view import QueueView

        try:
            with QueueView(self._directory, self._clock, timeout=1.0) as view:
                return view.ledger()
        except QueueError:
            return None

    @property
    def directory(self) -> str:
        """The queue's directory, absolute."""
        return self._directory

    @property
    def endpoint(self) -> str:
        """Where events go, without what may be secret in it; empty for a destination that has no address."""
        return self._endpoint

    @property
    def closed(self) -> bool:
        """Whether `close` was called, and has come to its end."""
        return self._report is not None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<edgespool.Client {self._endpoint or type(self._destination).__name__} at {self._directory}>"

    # --- parts ------------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Refuse a second client of this program on the same queue with another address: one sender serves one."""
        for other in list(_clients):
            if other._place == self._place and other.settings.url != self.settings.url:
                raise ConfigError(
                    f"the queue {self._directory} is in use for {other._endpoint}: give this client a `name` of its own"
                )

    def _same_format(self) -> None:
        """Refuse a queue that holds events in another format: they would be sent as what they are not."""
        known = self._queue.format_name
        if known == self._format.name:
            return
        pending = self._queue.ledger().pending
        if known is not None and pending:
            raise ConfigError(
                f"format: the queue {self._directory} holds {pending} event(s) in format {known!r}, not "
                f"{self._format.name!r}: deliver them first, or give this client another name"
            )
        self._queue.format_name = self._format.name

    def _give_up(self, batch: Batch, decision: Decision, attempts: int) -> str:
        return self._failed.write(
            batch,
            self._format.render,
            format=self._format.name,
            endpoint=self._endpoint,
            reason=decision.reason,
            status=decision.status,
            attempts=attempts,
            now=self._clock.time(),
        )

    def _publish(self, state: State) -> None:
        """Tell other processes how the sender fares; sending and idle alternate too often to be worth the wear."""
        if state.name in ("standby", "paused") or not self._worker.sending:
            return
        if state.name == "sending" and state.last_error is not None:
            return  # a probe: until it has an answer, what was said of the trouble holds
        name = "ok" if state.name in ("idle", "sending") else state.name
        due = state.next_attempt
        now, mono = self._clock.time(), self._clock.monotonic()
        told = (os.getpid(), name, state.last_error, state.held, due)
        if told == self._told:
            return
        if told[:2] != self._told[:2]:
            self._since = now
        self._told = told
        attempt = now + due - mono if due is not None else None
        self._status.write(
            SenderStatus(os.getpid(), name, self._since, state.last_error, attempt, state.held, self._endpoint)
        )

    _told: tuple[object, ...] = ()
    _since = 0.0

    def _after_fork_in_child(self) -> None:
        self._closing = threading.RLock()
        self._winding = False
        self._election.after_fork()
        self._worker.reset()
        forget = getattr(self._destination, "after_fork_in_child", None)
        if forget is not None:
            forget()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _at_exit() -> None:
    deadline = time.monotonic() + _AT_EXIT
    for client in list(_clients):
        with contextlib.suppress(EdgespoolError):
            client._leave(max(0.0, deadline - time.monotonic()))


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork_in_child()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
