"""The public interface of the ironSource Atom SDK 1.5.1: `IronSourceAtom` and `IronSourceAtomTracker`.

Source: the README of ironsource-atom 1.5.1. Every event that `track` has taken is on the disk; the sender's thread is
that of `edgespool.Client`. Knows no SQL and no HTTP, prints nothing, and takes over no signal.
"""

from __future__ import annotations

import base64
import inspect
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ... import event as events
from ... import forks
from ...errors import ConfigError, EdgespoolError, EventError, QueueError
from ...interfaces import Request, Watch
from ...outcome import Delivered, Outcome, Reject, Reply, TooLarge
from ...queue.view import QueueView
from .. import console
from ..common import names_of, open_client
from . import config
from .backlog import Mover, Room, Storage
from .backoff import AtomBackoff
from .direct import Response, Sender
from .event_storage import Event, EventStorage
from .format import HEADERS, AtomFormat, Tracked, body_of, text_of, texts
from .keys import Keys

if TYPE_CHECKING:
    import requests

__all__ = ["EventStorage", "IronSourceAtom", "IronSourceAtomTracker", "Response"]

_log = logging.getLogger("edgespool")

_STOP = 5.0  # seconds that `stop` tries to deliver what is left; the original's number
_NO_REPLY = 500  # the status that callbacks are told when there was no reply; the original's number
_LARGEST = 8 << 20  # bytes of one event; the limit of a batch does not apply to an event that is alone in it


class IronSourceAtom:
    """The low-level interface: sends at once, in the caller's thread, and returns the reply. It keeps nothing.

    What must survive an outage belongs into the tracker.

    Args:
        is_debug: log each call on the logger "edgespool", at level DEBUG.
        endpoint: Atom's address; its default can also be set by EDGESPOOL_URL.
        auth_key: the HMAC key of calls that give none; EDGESPOOL_AUTH otherwise.
        url: the same as `endpoint`.
        session: a `requests.Session` of your own.
        config_file, given: see `edgespool.Client`: `timeout`, `verify`, `cert`, `headers`, `keys`.

    Raises:
        ConfigError: a setting or the address cannot be used.
    """

    def __init__(
        self,
        is_debug: bool = False,
        endpoint: str = config.ATOM_ENDPOINT,
        auth_key: str = "",
        *,
        url: str | None = None,
        session: requests.Session | None = None,
        config_file: str | os.PathLike[str] | None = None,
        **given: Any,
    ) -> None:
        self._keys = Keys()
        given = {"auth": auth_key or None, **given}
        self._sender = Sender(self._keys, url or _chosen(endpoint), session, config_file, given)
        self.set_debug(is_debug)

    def set_debug(self, is_debug: bool) -> None:
        """Log each call, or no longer; what is no bool counts as False."""
        self._is_debug = is_debug is True

    def get_auth(self) -> str:
        """Return the HMAC key of calls that give none; empty when there is none."""
        return self._keys.default

    def put_event(self, stream: str, data: Any, method: str = "post", auth_key: str = "") -> Response:
        """Send one event.

        Args:
            stream: the stream's name.
            data: text, sent as it is, or anything that JSON can say; not empty.
            method: "post", or "get": the request then stands, in base64, in the address.
            auth_key: the HMAC key; empty: the default one, if there is one.

        Raises:
            EventError: the stream or the data is missing, or cannot be said in JSON; nothing was sent.
        """
        if not stream or not data:
            raise EventError("the stream, or the data, is missing")
        body = self._body(stream, data, auth_key, bulk=False)
        if method.lower() == "get":
            path = "?data=" + quote(base64.b64encode(body), safe="")
            return self._send(stream, Request(b"", HEADERS, "GET", path, compressible=False))
        return self._send(stream, Request(body, HEADERS, compressible=False))

    def put_events(self, stream: str, data: list[Any], auth_key: str = "") -> Response:
        """Send many events in one request.

        Args:
            stream: the stream's name.
            data: a list of events that is not empty; of texts, or of anything that JSON can say.
            auth_key: the HMAC key; empty: the default one, if there is one.

        Raises:
            EventError: `data` is no such list, the stream is missing, or something cannot be said in JSON.
        """
        if not isinstance(data, list) or not data:
            raise EventError("data: a list that is not empty is needed")
        if not stream:
            raise EventError("the stream is missing")
        body = self._body(stream, data, auth_key, bulk=True)
        return self._send(stream, Request(body, HEADERS, path="bulk", compressible=False))

    def _body(self, stream: str, data: Any, auth_key: str, *, bulk: bool) -> bytes:
        _checked_stream(stream)
        return body_of(stream, text_of(data), _checked_key(auth_key) or self._keys.get(stream), bulk=bulk)

    def _send(self, stream: str, request: Request) -> Response:
        response = self._sender.send(request)
        if self._is_debug:
            _log.debug("atom: stream %r: status %d, error %r", stream, response.status, response.error)
        return response


class IronSourceAtomTracker:
    """The high-level interface: events are on the disk when `track` returns, and are sent in batches later on.

    Options that are out of range are warned of, and the default is taken. Those that come from the original:

    Args:
        batch_worker_count: at least 1. One thread sends here, whatever the number; another than 1 is warned of.
        batch_pool_size: at least 1. Batches are made when they are sent; another than 1 is warned of.
        event_backlog: an `EventStorage` of your own, through which events pass on their way to the disk.
        backlog_size: events of one stream that may wait; at that number `track` waits. The default,
            `config.BACKLOG_SIZE`, leaves it to the disk budget (`max_bytes`). Of no use beside `event_backlog`.
        flush_interval: milliseconds that an event waits for others at most, at least 1000.
        retry_max_time: seconds between two tries at most, at least 120.
        retry_max_count: failures after which the waits begin anew, at least 1. Nothing is given up.
        batch_size: events in one request, 1 to 2000.
        batch_bytes_size: bytes of events in one request, 1 KiB to 512 KiB; a larger event goes alone.
        is_debug: see `set_debug`.
        endpoint: Atom's address; its default can also be set by EDGESPOOL_URL.
        auth_key: the HMAC key of streams for which `track` gives none; EDGESPOOL_AUTH otherwise.
        callback: called in the sender's thread with (unix_time, http_code, error_msg, sent_data) of each request that
            failed, and with the stream as a fifth argument if it takes five. `http_code` is 500 when there was no
            reply; `sent_data` is a list of the events' texts. While it runs nothing is sent: it must not wait for room.

    Those of edgespool, by keyword: `url` (the same as `endpoint`), `path`, `name`, `durability`, `max_bytes`, `keys`,
    `overflow` (here "block" by default), `timeout`, `config_file`, and the others of `edgespool.Client`.

    Raises:
        ConfigError: a setting of edgespool cannot be used.
        QueueUnavailable, QueueVersionError: the queue cannot be opened.
    """

    def __init__(
        self,
        batch_worker_count: int = config.BATCH_WORKER_COUNT,
        batch_pool_size: int = config.BATCH_POOL_SIZE,
        event_backlog: Storage | None = None,
        backlog_size: int = config.BACKLOG_SIZE,
        flush_interval: float = config.FLUSH_INTERVAL,
        retry_max_time: float = config.RETRY_MAX_TIME,
        retry_max_count: int = config.RETRY_MAX_COUNT,
        batch_size: int = config.BATCH_SIZE,
        batch_bytes_size: float = config.BATCH_BYTES_SIZE,
        is_debug: bool = False,
        endpoint: str = config.ATOM_ENDPOINT,
        auth_key: str = "",
        callback: Callable[..., object] | None = None,
        *,
        url: str | None = None,
        **given: Any,
    ) -> None:
        console.show()
        _single("batch_worker_count", _within("batch_worker_count", batch_worker_count, 1, config.BATCH_WORKER_COUNT))
        _single("batch_pool_size", _within("batch_pool_size", batch_pool_size, 1, config.BATCH_POOL_SIZE))
        backlog_size = _within("backlog_size", backlog_size, 1, config.BACKLOG_SIZE)
        interval = _within("flush_interval", flush_interval, 1000, config.FLUSH_INTERVAL, whole=False)
        backoff = AtomBackoff(
            cap=_within("retry_max_time", retry_max_time, 120, config.RETRY_MAX_TIME, whole=False),
            rounds=_within("retry_max_count", retry_max_count, 1, config.RETRY_MAX_COUNT),
        )
        size = _within("batch_size", batch_size, 1, config.BATCH_SIZE, 2000)
        form = AtomFormat()
        form.batch_bytes = _within(
            "batch_bytes_size", batch_bytes_size, 1024, config.BATCH_BYTES_SIZE, 512 * 1024, whole=False
        )
        self._callback, self._with_stream = _callback(callback)
        self._streams: set[str] = set()  # that this tracker has tracked
        self.set_debug(is_debug)
        _check_storage(event_backlog)
        start = given.pop("start", True)
        given = {"auth": _checked_key(auth_key) or None, "overflow": "block", "batch_bytes": _LARGEST, **given}
        address = url or _chosen(endpoint)
        self._client = open_client(
            "atom",
            f"{address or ''}\0{auth_key}",
            address,
            options=names_of(IronSourceAtomTracker),
            format=form,
            watch=Watch(self._before, self._after),
            backoff=backoff,
            batch_size=size,
            flush_interval=interval / 1000,
            start=False,
            **given,
        )
        self._mover = None if event_backlog is None else Mover(event_backlog, self._store)
        limited = event_backlog is None and backlog_size is not config.BACKLOG_SIZE
        self._room = Room(backlog_size, self._on_disk) if limited else None
        self._shared = _shared(self._client.directory)
        self._shared.join(self, form)
        if start:
            self._client.start()

    def track(self, stream: str, data: Any, auth_key: str = "") -> None:
        """Store one event; it is on the disk when this returns. Waits while the backlog, or the disk budget, is full.

        Args:
            stream: the stream's name.
            data: text, sent as it is, or anything that JSON can say.
            auth_key: the stream's HMAC key; empty: the one given before, or the tracker's. The last one given for a
                stream signs all that is sent to it from then on.

        Raises:
            EventError: the stream is missing, or the data cannot be said in JSON; nothing was stored.
            QueueFull: the event is larger than the whole disk budget, or the overflow policy is "reject".
            QueueClosed: the tracker was stopped; nothing was stored.
            QueueUnavailable, OutcomeUnknown: the disk failed; see `edgespool.errors`.
        """
        event = Event(_checked_stream(stream), text_of(data))
        key = _checked_key(auth_key)
        released = bool(key) and self._shared.keys.give(stream, key)
        self._streams.add(stream)
        if self._mover is None:
            self._store(event)
        else:
            self._mover.add(event)
        if self._is_debug:
            _log.debug("atom: stream %r: tracked %s", stream, event.data)
        if released:
            self._client.send_now()

    def flush(self) -> None:
        """Send what waits now, without waiting for the interval or a backoff; returns at once."""
        self._empty_backlog()
        self._client.send_now()

    def stop(self) -> None:
        """Try to deliver what is left, for 5 seconds at most, and stop. What is not sent waits on the disk. Idempotent.

        What the disk would not take of an `event_backlog` stays there, or goes back, and is warned of; so is what has
        no room there either: it is lost when the program ends.
        """
        deadline = time.monotonic() + _STOP
        if self._room is not None:
            self._room.close()
        last = threading.Thread(target=self._last_move, name="edgespool-atom-stop", daemon=True)
        if self._mover is not None:  # in a thread of its own: a full disk may keep it waiting
            last.start()
            last.join(_STOP)
            self._mover.close()
        self._client.close(max(0.0, deadline - time.monotonic()))
        if self._mover is not None:
            last.join(1.0)  # if it was waiting, the close has woken it
            homeless = self._mover.give_back(1.0)
            if homeless:
                _log.error("atom: at stop() %d event(s) have no room on the disk or in the event_backlog", homeless)
        self._shared.leave(self)

    def set_debug(self, is_debug: bool) -> None:
        """Log each event and each request on the logger "edgespool" at level DEBUG; what is no bool counts as False."""
        self._is_debug = is_debug is True

    def graceful_kill(self, sig: int, frame: Any) -> None:
        """Stop, as a signal handler. The original installs it itself; here it is yours to install."""
        self.stop()

    # --- on the way to the disk -------------------------------------------------------------------------------------

    def _store(self, event: Event) -> None:
        stream = _checked_stream(event.stream)
        tracked = Tracked(text_of(event.data), bool(self._shared.keys.get(stream)))
        if self._room is None:
            self._client.record_event(events.Event("event", tracked, route=stream))
            return
        identity = events.id_text(events.new_id())
        self._room.enter(stream, identity)
        try:
            self._client.record_event(events.Event("event", tracked, id=identity, route=stream))
        except BaseException:
            self._room.leave(stream, [identity])
            raise
        self._room.stored(identity)

    def _on_disk(self, stream: str) -> set[str] | None:
        try:
            with QueueView(self._client.directory, timeout=1.0) as view:
                return {event.id for _, event in view.events(stream)}
        except QueueError:
            return None

    def _empty_backlog(self) -> None:
        if self._mover is not None and not self._mover.empty:
            self._mover.move(sorted(self._streams))

    def _last_move(self) -> None:
        try:
            self._empty_backlog()
        except EdgespoolError as error:
            _log.warning("atom: at stop() the event_backlog keeps what could not be stored: %s", error)

    # --- in the sender's thread -------------------------------------------------------------------------------------

    def _before(self, batch: events.Batch, request: Request) -> None:
        if self._is_debug:
            _log.debug("atom: stream %r: sending %d event(s)", batch.route, len(batch))

    def _after(self, batch: events.Batch, request: Request, reply: Reply | None, outcome: Outcome) -> None:
        if self._is_debug:
            _log.debug("atom: stream %r: %s", batch.route, getattr(outcome, "reason", "delivered"))
        for tracker in self._shared.trackers():
            tracker._told(batch, reply, outcome)

    def _told(self, batch: events.Batch, reply: Reply | None, outcome: Outcome) -> None:
        refused = isinstance(outcome, (Reject, TooLarge))
        if refused and len(batch) > 1:
            return  # it is halved until the culprits stand alone: only they have failed
        if self._room is not None and (refused or isinstance(outcome, Delivered)):
            self._room.leave(batch.route, batch.ids)
        if self._callback is None or isinstance(outcome, Delivered) or not self._shared.concerns(self, batch.route):
            return
        status = _NO_REPLY if reply is None else reply.status
        told = (time.time(), status, outcome.reason, texts(batch), *([batch.route] if self._with_stream else []))
        try:
            self._callback(*told)
        except Exception as error:  # noqa: BLE001 - it is the user's code, and another tracker's may come after it
            _log.warning("the tracker's callback raised %s: %s", type(error).__name__, error)


class _Shared:
    """What the trackers of one queue have in common, whichever of them sends: the keys, and whom to tell."""

    def __init__(self) -> None:
        self.keys = Keys()
        self._lock = forks.Lock()
        self._trackers: tuple[IronSourceAtomTracker, ...] = ()

    def join(self, tracker: IronSourceAtomTracker, form: AtomFormat) -> None:
        """Add a tracker, which has sent nothing yet, and let its format sign with the keys of all."""
        if form.keys.default:
            self.keys.set_default(form.keys.default)
        for stream, key in form.keys.own().items():
            self.keys.give(stream, key)
        form.keys = self.keys
        with self._lock:
            self._trackers = (*self._trackers, tracker)

    def leave(self, tracker: IronSourceAtomTracker) -> None:
        """Take a tracker out."""
        with self._lock:
            self._trackers = tuple(each for each in self._trackers if each is not tracker)

    def trackers(self) -> Iterable[IronSourceAtomTracker]:
        """Return the trackers."""
        return self._trackers

    def concerns(self, tracker: IronSourceAtomTracker, stream: str) -> bool:
        """Say whether a stream is a tracker's business: it has tracked it, or none has since the program's start."""
        return stream in tracker._streams or not any(stream in each._streams for each in self.trackers())


_lock = forks.Lock()
_by_directory: weakref.WeakValueDictionary[str, _Shared] = weakref.WeakValueDictionary()


def _shared(directory: str) -> _Shared:
    with _lock:
        found = _by_directory.get(directory)
        if found is None:
            found = _by_directory[directory] = _Shared()
        return found


def _chosen(endpoint: str) -> str | None:
    """Return an address that was chosen; None for the default one, in whose place the settings may put another."""
    return None if not endpoint or endpoint == config.ATOM_ENDPOINT else endpoint


def _checked_stream(stream: Any) -> str:
    if not isinstance(stream, str) or not stream:
        # No more of it: a number may have too many digits for Python to say it.
        raise EventError(f"stream: a name is needed, not {'an empty one' if stream == '' else type(stream).__name__}")
    events.check_text("stream", stream)
    return stream


def _checked_key(key: Any) -> str:
    if key is not None and not isinstance(key, str):
        raise EventError(f"auth_key: a text is needed, not {type(key).__name__}")
    return key or ""


def _within(name: str, value: Any, low: int, default: Any, high: int | None = None, *, whole: bool = True) -> Any:
    """Return an option's value, or warn and return the default if it is no number in the range."""
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and value >= low and (high is None or value <= high):
        return value
    limits = f"at least {low}" + (f" and at most {high}" if high is not None else "")
    _log.warning("atom: %s must be %s, not %r; the default, %s, is taken", name, limits, value, default)
    return default


def _single(name: str, value: int) -> None:
    if value != 1:
        _log.warning("atom: %s=%d changes nothing: one thread sends, batch by batch", name, value)


def _check_storage(backlog: object) -> None:
    for name in ("add_event", "get_event", "remove_event", "is_empty"):
        if backlog is not None and not callable(getattr(backlog, name, None)):
            raise ConfigError(f"event_backlog: an EventStorage is needed; {type(backlog).__name__} has no {name}()")


def _callback(callback: Any) -> tuple[Callable[..., object] | None, bool]:
    """Return the callback, and whether it takes the stream as a fifth argument; None for what cannot be called so."""
    if callback is None:
        return None, False
    if not callable(callback):
        _log.warning("atom: callback must be callable, not %s; there is none now", type(callback).__name__)
        return None, False
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some built-in ones do not say
        return callback, False
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = 5 if sum(each.kind in named for each in signature.parameters.values()) >= 5 else 4
    try:
        signature.bind(*range(count))
    except TypeError as error:
        _log.warning("atom: callback takes neither four arguments nor five (%s); there is none now", error)
        return None, False
    return callback, count == 5
