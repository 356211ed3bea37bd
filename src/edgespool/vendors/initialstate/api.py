"""The public interface of Initial State's streamer (ISStreamer 2.0.0), on the durable queue. No SQL, no HTTP.

    from edgespool.vendors.initialstate.api import Streamer

    streamer = Streamer(bucket_name="Kitchen", bucket_key="kitchen", access_key="…")
    streamer.log("temperature", 21.5)
    streamer.close()

Names, signatures, defaults and units are those of the original's documentation. An event is on the disk before `log`
returns; what the network does is no concern of the caller's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import numbers
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from ... import config, forks, jsontext
from ...client import Client
from ...errors import ConfigError, EdgespoolError, EventError, QueueClosed
from ...event import Event
from ...failed import public_url
from ...outcome import one_line
from .. import console
from ..common import names_of, open_client
from .configutil import BASE, getConfig
from .format import fits_header, making
from .offline import OfflineFile, rows_of

__all__ = ["Streamer"]

#: The streamer's own logger; a child, so that its level can be changed without touching the rest of edgespool.
_log = logging.getLogger("edgespool.initialstate")

_TELL_AGAIN = 3600.0  # seconds after which an error that goes on is logged again
_RAISE_FROM = 2  # the debug level at which errors of logging are raised
_ABSENT = object()
_AROUND = 64  # bytes of an event beside its key and value, at most
_PLAIN = (str, numbers.Real, Decimal, type(None))  # what an attribute must be to be taken for a reading

_EVENT, _BUCKET = "event", "bucket"  # names of our events; neither is sent


class Streamer:
    """Sends readings to a bucket of Initial State.

    Args:
        bucket_name: the bucket's name; empty: `default_bucket` of the ini file.
        bucket_key: which bucket; empty: a new one, with a uuid4 as its key.
        access_key: the account's key; empty: the setting `auth` (`EDGESPOOL_AUTH`), else `access_key` of the ini file.
        ini_file_location: the ini file; None: `isstreamer.ini` in the home directory, else in the current one.
        debug_level: 1 shows each reading in the console, 2 and 3 show more; from 2 on errors of logging are raised.
        buffer_size: a number of events at which they are sent without waiting for `flush_interval`.
        offline: True writes to `<offline_file>.csv` instead of sending; None: `offline_mode` of the ini file.
        use_async: False has `log` and `set_bucket` wait for the sending of a full buffer, for 5 seconds at most.
        edgespool: keywords of `edgespool.Client`: `path`, `name`, `url`, `durability`, `flush_interval`, `max_bytes` …

    Attributes:
        refused: how many readings could not be stored since the start; each was logged, or raised (`debug_level`).
        last_error: why the last call could not store its readings; None when it could.

    Raises:
        ConfigError: a setting or a key cannot be used, the ini file is missing or broken, or the CSV file cannot be
            opened.
        QueueUnavailable, QueueVersionError: the queue cannot be opened.
    """

    BucketName = ""
    AccessKey = ""
    Channel = ""
    BufferSize = 10
    StreamApiBase = ""
    LogQueue = None  # what waits is on the disk: `edgespool status` and `edgespool peek` show it
    DebugLevel = 0
    BucketKey = ""
    IsClosed = True
    Offline = False
    Async = True
    LocalFile: OfflineFile | None = None
    ApiVersion = "<=0.0.4"
    MissedEvents = None  # what the server refuses is in failed payload files

    def __init__(
        self,
        bucket_name: str = "",
        bucket_key: str = "",
        access_key: str = "",
        ini_file_location: str | os.PathLike[str] | None = None,
        debug_level: int = 0,
        buffer_size: int = 10,
        offline: bool | None = None,
        use_async: bool = True,
        **edgespool: Any,
    ) -> None:
        self._client: Client | None = None
        self._lock = forks.Lock()
        self._waiting = 0  # events since the buffer was last full; threads may miscount it, the interval makes it good
        self._unmade: list[Event] = []  # the making of buckets, until it is stored
        self._told: tuple[str, float, int] = ("", 0.0, 0)  # the last error that was logged, when, how often since
        self.refused = 0
        self.last_error: EdgespoolError | None = None
        ini = getConfig(ini_file_location)
        if not isinstance(buffer_size, numbers.Real):
            raise ConfigError(f"buffer_size: a number is needed, not {type(buffer_size).__name__}")
        self.BufferSize = buffer_size
        self.DebugLevel = debug_level
        self.Async = use_async
        self.Offline = _is_true(ini["offline_mode"]) if offline is None else bool(offline)
        if debug_level >= 1:
            console.show(logging.DEBUG)
            if _log.level == logging.NOTSET:
                _log.setLevel(logging.DEBUG)
        if self.Offline:
            # The settings are checked as they would be online; of them only the durability means something here.
            settings = config.load(
                {name: value for name, value in edgespool.items() if name not in _CLIENT_ONLY},
                edgespool.get("config_file"),
            )
            self.LocalFile = OfflineFile(f"{ini['offline_file']}.csv", settings.durability == "power")
            self.AccessKey = access_key or ini["access_key"]
        else:
            self._open(access_key, ini, edgespool)
        self.IsClosed = False
        self.set_bucket(bucket_name or ini["bucket"], bucket_key)
        self.console_message(f"stream_api_base: {public_url(self.StreamApiBase)}")

    def _open(self, access_key: str, ini: Mapping[str, str], given: dict[str, Any]) -> None:
        """Open the client. The environment and our TOML file beat the ini file, as they beat any file."""
        named = {name: given[name] for name in ("path", "name", "url", "auth") if given.get(name) is not None}
        settings = config.load(named, given.get("config_file"))
        auth = settings.auth
        if isinstance(auth, tuple):
            auth = ":".join(auth)  # the settings take a colon for the mark of a user and a password
        key = access_key or auth or ini["access_key"]
        if not isinstance(key, str):
            raise ConfigError(f"access_key: text is needed, not {type(key).__name__}")
        self.AccessKey = key
        base = ini["stream_api_base"]
        self.StreamApiBase = (settings.url or base).rstrip("/")
        rest = {name: value for name, value in given.items() if name not in ("url", "auth")}
        # Kept to open it again, for whoever logs after `close`.
        # The service's own address is not given: a client's own table in the TOML file may name another.
        url = settings.url or (base if base != BASE else None)
        self._opening: dict[str, Any] = {**rest, "url": url, "auth": key or None}
        self._client = open_client("initialstate", key, options=names_of(Streamer), **self._opening)

    # --- logging ----------------------------------------------------------------------------------------------------

    def log(self, key: str, value: Any, epoch: float | None = None) -> None:
        """Store one reading durably; it is sent in the background.

        Args:
            key: the stream that the reading belongs to.
            value: text, a boolean, a number, or whatever else JSON can say.
            epoch: when it was, seconds since 1970; None, or what is no time: now.

        Raises:
            EventError, QueueFull, QueueUnavailable: it could not be stored, and `debug_level` is 2 or more. Below that
                the error is logged and counted (`refused`, `last_error`).
        """
        self._store([(key, value)], epoch)

    def log_object(self, obj: Any, key_prefix: str | None = None, epoch: float | None = None) -> None:
        """Store the values of a list, a dict or an object as readings of one moment, durably, all at once.

        Args:
            obj: a list or tuple (keys `list_0`, `list_1` …), a mapping (`dict_key`), or an object: its properties, the
                fields of a named tuple, and public attributes that are text, booleans or numbers (`Type_attribute`).
            key_prefix: in place of the type's name; "" for none.
            epoch: as in `log`.

        Raises:
            EventError, QueueFull, QueueUnavailable: as `log`; below debug level 2 only the values that cannot be
                stored are left out.
        """
        prefix = f"{type(obj).__name__ if key_prefix is None else key_prefix}_" if key_prefix != "" else ""
        readings = list(_values(obj))
        if readings:
            self._store(readings, epoch, prefix)
        else:
            self.console_message(f"log_object: nothing to log in {type(obj).__name__}")

    def flush(self, timeout: float = 5.0) -> None:
        """Send what waits, now, and wait for it while delivery works; in an outage it returns at once.

        Args:
            timeout: seconds to wait at most. What is not sent by then is on the disk, and is sent later.
        """
        if self.Offline:
            self.console_message("flush: no need, in offline mode", level=2)
            return
        self._waiting = 0
        client = self._client
        if client is not None:
            with contextlib.suppress(QueueClosed):  # then there is nothing that `close` has not tried to send
                sent = self._attempt(lambda: client.drain(timeout))
                self.console_message(f"flush: {'all is sent' if sent else 'what waits is on the disk'}", level=2)

    def close(self, timeout: float = 5.0) -> None:
        """Try to send what waits, for `timeout` seconds at most; the rest is sent at the next start. Idempotent.

        A reading logged later opens the streamer again.
        """
        self.IsClosed = True
        if self.LocalFile is not None:
            self.console_message("closing local file handler", level=2)
            self.LocalFile.close()
        if self._client is not None:
            report = self._client.close(timeout)
            self.console_message(f"close: {report.pending} event(s) wait for the next start", level=2)

    def __del__(self) -> None:
        """Close it, as `close`; at the end of the interpreter the client has seen to that by itself."""
        try:
            if not self.IsClosed and not sys.is_finalizing():
                self.close()
        except Exception as error:  # noqa: BLE001 - there is nobody to raise it to; the events are on the disk
            _log.warning("closing: %s", error)

    # --- buckets ----------------------------------------------------------------------------------------------------

    def set_bucket(self, bucket_name: str = "", bucket_key: str | None = "", retries: int = 3) -> None:
        """Make a bucket, or take one that exists, for the readings that follow.

        What was logged before still goes to the bucket that was set then.

        Args:
            bucket_name: its name.
            bucket_key: its key, text or a number; empty or None: a new uuid4.
            retries: not needed: it is tried until the server answers.

        Raises:
            ConfigError: the bucket key cannot be sent: it is no printable Latin-1 text; or the name cannot. The bucket
                that was set before stays.
            EventError, QueueFull, QueueUnavailable: as `log`. Where nothing is raised the bucket is made before the
                next reading.
        """
        key: Any = bucket_key
        if isinstance(key, (int, float)) and not isinstance(key, bool):
            with contextlib.suppress(Exception):  # more digits than Python turns into text; then it is refused below
                key = str(key)
        key = key or str(uuid.uuid4())
        if not isinstance(key, str) or not fits_header(key):
            raise ConfigError(
                f"bucket_key: printable Latin-1 text without blanks at its ends is needed, not {_shown(key, repr)}"
            )
        before = self.BucketKey, self.BucketName
        if self.Offline:
            self.BucketKey, self.BucketName = key, bucket_name
            self.console_message("Working in offline mode.", level=0)
            return
        try:
            size = len(making(key, bucket_name or ""))
        except Exception as error:  # noqa: BLE001 - a name's own __str__ may raise anything
            raise ConfigError(f"bucket_name: {_shown(error)}") from None
        if self._client is not None and size > self._client.settings.batch_bytes:
            raise ConfigError(f"bucket_name: {size} bytes are more than batch_bytes allows")
        with self._lock:
            # First this, then the key: who logs to the new bucket meanwhile finds that it is to be made.
            self._unmade.append(Event(_BUCKET, {"bucketKey": key, "bucketName": bucket_name or ""}, route=key))
            self.BucketKey, self.BucketName = key, bucket_name
        self.last_error = None
        try:
            stored = self._attempt(lambda: self._record([]))
        except ConfigError:
            self.BucketKey, self.BucketName = before
            raise
        if stored:
            self._send()

    # --- what programs written for the original may also use ----------------------------------------------------------

    def console_message(self, message: str, level: int = 1) -> None:
        """Say something if `DebugLevel` is at least `level`, through the logger `edgespool.initialstate`."""
        if self.DebugLevel >= level:
            _log.log(logging.INFO if level <= 1 else logging.DEBUG, "%s", one_line(message, 1000))

    def ship_messages(self, messages: Iterable[Mapping[str, Any]], retries: int = 3) -> None:
        """Store readings given as `{"key": …, "value": …, "epoch": …}`, durably; raises as `log`."""
        for message in messages:
            self.log(message["key"], message["value"], message.get("epoch"))

    def ship_to_api(self, resource: str, contents: Any) -> None:
        """Store what the original would have posted to "/api/events" or "/api/buckets".

        Raises:
            ValueError: it is another resource.
        """
        if resource == "/api/events":
            self.ship_messages(contents)
        elif resource == "/api/buckets":
            self.set_bucket(contents.get("bucketName", ""), contents["bucketKey"])
        else:
            raise ValueError(f"resource: /api/events or /api/buckets is needed, not {resource!r}")

    # --- storing ----------------------------------------------------------------------------------------------------

    def _store(self, readings: list[tuple[Any, Any]], epoch: Any, prefix: str = "") -> None:
        moment = _moment(epoch)
        if moment is None and epoch is not None:
            self.console_message(f"epoch {_shown(epoch, repr)} is no time; the current one is taken")
        self.last_error = None
        if prefix:
            readings = [each for key, value in readings if (each := self._named(prefix, key, value)) is not None]
        if self.DebugLevel >= 1:
            for key, value in readings:
                self.console_message(f"{_local(moment)}: {_shown(key)} {_shown(value)}")
        if self.DebugLevel < _RAISE_FROM and len(readings) > 1:
            readings = [each for each in readings if self._can_be_said(*each)]
        if self.LocalFile is not None:
            given = int(epoch) if moment is not None and isinstance(epoch, numbers.Integral) else moment
            self._store_offline(self.LocalFile, readings, given)
            return
        route = self.BucketKey

        def store() -> bool:
            return self._record([Event(_EVENT, {"key": k, "value": v}, moment, route=route) for k, v in readings])

        if not self._attempt(store, len(readings)):
            return
        self._waiting += len(readings)
        if self._waiting >= self.BufferSize:
            self._waiting = 0
            self._send()

    def _named(self, prefix: str, key: Any, value: Any) -> tuple[str, Any] | None:
        """Return a reading under its full name; None if that cannot be said, which is logged."""
        named: list[tuple[str, Any]] = []

        def name() -> bool:
            named.append((f"{prefix}{key}", value))
            return True

        return named[0] if self._attempt(name, 1) else None

    def _store_offline(self, file: OfflineFile, readings: list[tuple[Any, Any]], moment: float | None) -> None:
        now = time.time() if moment is None else moment

        def store() -> bool:
            file.append((now, key, value) for key, value in readings)
            self.IsClosed = False
            return True

        self._attempt(store, len(readings))

    def _can_be_said(self, key: Any, value: Any) -> bool:
        """Return whether a reading can be stored, so that it does not spoil others; if not, log why."""

        def check() -> bool:
            if self.LocalFile is not None:
                return bool(rows_of([(0.0, key, value)]))
            size = len(jsontext.encode(str(key), "key")) + len(jsontext.encode(value, f"value of {key!r}"))
            if self._client is not None and size + _AROUND > self._client.settings.batch_bytes:
                raise EventError(f"value of {key!r}: {size} bytes are more than batch_bytes allows")
            return True

        return self._attempt(check, 1)

    def _record(self, events: list[Event]) -> bool:
        """Store events, and ahead of them the making of buckets that could not be stored before; return True."""
        if self._unmade:
            with self._lock:
                while self._unmade:
                    first = self._unmade[0]
                    try:
                        self._append([first])
                    except EventError as error:
                        self._unmade.remove(first)  # what cannot be sent must not stand in the way for ever
                        raise ConfigError(f"bucket_name: {error}") from None
                    with contextlib.suppress(ValueError):  # a signal handler may have been faster
                        self._unmade.remove(first)
        if events:
            self._append(events)
        return True

    def _append(self, events: list[Event]) -> None:
        client = self._client
        assert client is not None
        try:
            if len(events) == 1:
                client.record_event(events[0])
            else:
                client.record_many(events)
        except QueueClosed:
            # The original took readings after `close`, too, and programs close at the end of a round.
            with _reopening:
                if self._client is client:
                    self._client = open_client("initialstate", self.AccessKey, **self._opening)
                    self.IsClosed = False
                client = self._client or client
            client.record_many(events)

    def _send(self) -> None:
        """Have what waits sent; with `use_async=False`, wait for it."""
        client = self._client
        if client is not None:
            with contextlib.suppress(QueueClosed):
                self._attempt(lambda: client.drain(0.0 if self.Async else 5.0))

    def _attempt(self, work: Callable[[], bool], readings: int = 0) -> bool:
        """Do the work and return what it returns. An error is raised from debug level 2 on, else logged: False then.

        Args:
            work: stores or sends something.
            readings: how many are lost to us if it fails.
        """
        try:
            return work()
        except (QueueClosed, ConfigError):
            raise
        except EdgespoolError as error:
            self.refused += readings
            self.last_error = error
            if self.DebugLevel >= _RAISE_FROM:
                raise
            self._tell(error, f"{readings} reading(s) not stored" if readings else "trouble")
            return False
        except Exception as error:  # what the user's values raise when they are to be said
            if not readings:
                raise
            said = EventError(f"a reading cannot be said: {type(error).__name__}: {_shown(error)}")
            self.refused += readings
            self.last_error = said
            if self.DebugLevel >= _RAISE_FROM:
                raise said from error
            self._tell(said, f"{readings} reading(s) not stored")
            return False

    def _tell(self, error: EdgespoolError, what: str) -> None:
        """Log an error once, and then once an hour for as long as it goes on: the log is on the disk that is full."""
        kind, since, count = self._told
        now = time.monotonic()
        if kind == type(error).__name__ and now - since < _TELL_AGAIN:
            self._told = (kind, since, count + 1)
            return
        self._told = (type(error).__name__, now, 0)
        console.show()
        _log.error("%s: %s%s", what, error, f" ({count} more since the last such line)" if count else "")


_reopening = forks.Lock()  # one client at a time is opened again

_CLIENT_ONLY = frozenset({
    "on_delivery", "on_error", "session", "start", "config_file", "destination", "format", "clock", "watch",
})  # fmt: skip


def _shown(value: Any, say: Callable[[Any], str] = str) -> str:
    """Return a value as text, whatever its own methods raise: a number may have too many digits for Python."""
    try:
        return say(value)
    except Exception:  # noqa: BLE001 - see above
        return f"<{type(value).__name__}>"


def _is_true(text: str) -> bool:
    return text.strip().lower() not in ("false", "no", "off", "0", "")


def _moment(epoch: Any) -> float | None:
    """Return a time in seconds since 1970; None for none, and for what is no time of a calendar."""
    if epoch is None or not isinstance(epoch, (float, int, numbers.Real, Decimal)):
        return None
    try:
        return Event(_EVENT, {}, float(epoch)).epoch()
    except Exception:  # noqa: BLE001 - a number of the user's own may raise anything
        return None


def _local(moment: float | None) -> str:
    """Return a time, or the current one, as the device's owner reads it."""
    seconds = time.time() if moment is None else moment
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S.%f")  # noqa: DTZ006 - local on purpose
    except (ValueError, OverflowError, OSError):  # at the ends of the calendar
        return f"{seconds:f}"


def _values(obj: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what `log_object` logs of a list, a dict or an object: names, or numbers, and values."""
    if isinstance(obj, Mapping):
        yield from obj.items()
    elif isinstance(obj, (list, tuple)) and not hasattr(obj, "_fields"):
        yield from enumerate(obj)
    else:
        yield from _attributes(obj)


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield an object's properties and fields, whatever they hold, and its plain public attributes, by name."""
    fields = set(getattr(obj, "_fields", ()))  # of a named tuple; its own names, not ours to doubt
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields |= {each.name for each in dataclasses.fields(obj) if not each.name.startswith("_")}
    own = set(getattr(obj, "__dict__", ()))
    for kind in type(obj).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        own |= {slots} if isinstance(slots, str) else set(slots)
    for name in sorted({*dir(obj), *fields}):
        if isinstance(getattr(type(obj), name, None), property) or name in fields:
            yield name, getattr(obj, name)
        elif name in own and not name.startswith("_"):
            value = getattr(obj, name, _ABSENT)  # a slot may be empty
            if isinstance(value, _PLAIN):
                yield name, value
