"""SamsaraClient: the interface of the package samsara_sdk, on a durable queue.

What changes for its users: an event is on the disk before `record_event` returns; it leaves it when the server has said
yes, when the server refused it for good (a failed payload file), or when `max_buffer_size` newer ones wait.

Source: the SDK's documentation, and samsara_sdk 0.5.5.0 for what that leaves open. Times are milliseconds. This module
must not know SQL, HTTP or the shape of a request.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ... import failed, forks
from ..._version import __version__
from ...client import Client, CloseReport
from ...errors import ConfigError, EventError, FailedFileError, QueueError
from ...event import Batch, Event
from ...interfaces import Request, Watch
from ...outcome import Hold, Outcome, Reply, Retry
from ...status import Stats
from ..common import open_client
from .format import endpoint, seconds
from .helpers import (
    API_PATH,
    COMPRESSION,
    DEFAULT_CONFIG,
    PUBLISHED_TIMESTAMP_HEADER,
    InvalidArguement,
    InvalidConfiguration,
    InvalidEvent,
    RefusedEvents,
    current_time_millis,
    validate_events,
)

__all__ = [
    "API_PATH",
    "COMPRESSION",
    "DEFAULT_CONFIG",
    "PUBLISHED_TIMESTAMP_HEADER",
    "InvalidArguement",
    "InvalidConfiguration",
    "InvalidEvent",
    "RefusedEvents",
    "SamsaraClient",
    "current_time_millis",
    "validate_events",
]

_log = logging.getLogger("edgespool")

STATS_EVENT = "samsara.client.stats"
_VENDOR = "samsara"
_GLANCE = 0.2  # seconds between looks whether an immediate delivery has failed


class SamsaraClient:
    """Records events for a Samsara ingestion API, on the disk first.

        client = SamsaraClient(url="https://samsara.example.com:9000/", sourceId="pi-kitchen")
        client.record_event(eventName="user.logged", color="blue", level=10)

    Args:
        url: the ingestion API, without its path `/v1/events`. Required, here or as `EDGESPOOL_URL`.
        sourceId, source_id: the source of events that name none; one option, two spellings. Also `EDGESPOOL_SOURCE`.
        start_publishing_thread: whether to send, from now on; default True. See `start_consuming`.
        publish_interval: milliseconds an event waits for others to be sent with; default 30,000.
        max_buffer_size: events that wait at most; the oldest give way to newer ones, and are counted in
            ``stats().dropped["overflow"]``; None: as many as the disk budget holds. Default 10,000.
        min_buffer_size: events that must wait before any are sent; default 100. Zero, and more than `max_buffer_size`,
            count as 1. `flush`, `close` and `publish_events` do not wait for them.
        send_timeout: milliseconds to wait for a connection, and again for the reply; default 30,000.
        compression: ``"gzip"`` (the default), ``"none"`` or None.
        send_client_stats: add an event `samsara.client.stats` at most once in a `publish_interval`, with what the
            client knows of its buffer; default False; needs a `sourceId`.
        config: keywords of `edgespool.Client` and its settings: `path`, `name`, `durability`, `max_bytes`, `headers`,
            `on_error`, `config_file` … Where one says the same as an option above, it wins.

    Raises:
        InvalidConfiguration: an option is missing, unknown or out of range.
        QueueUnavailable, QueueVersionError: the queue cannot be opened; see `edgespool.errors`.

    Attributes:
        config: the options in force: those given, the defaults, and `endpoint`, `publish_interval_secs` and
            `send_timeout_secs`.
    """

    def __init__(self, **config: Any) -> None:
        options = _options(config)
        own = {name: value for name, value in config.items() if name not in _OPTIONS}
        self._watching = own.pop("watch", None) or Watch()
        self._failures = 0  # exchanges that came to nothing; written by the sender's thread alone
        self._lock = forks.Lock()
        self._publishing = 0  # calls of publish_events that need the sender
        self._consuming = bool(options["start_publishing_thread"])
        self._stats_due = 0.0  # monotonic seconds
        stated, defaults = _settings(options, config)
        if options["sourceId"] is not None:
            stated["source"] = options["sourceId"]
        if own.get("start") is not None:
            self._consuming = bool(own["start"])
        own["start"] = False  # not before all of this object is there
        try:
            self._client: Client = open_client(
                _VENDOR,
                options.get("url") or "",
                options.get("url"),
                apart=options["sourceId"] or "",
                options=_OPTIONS,
                **{**stated, **own},
                defaults=defaults,
                watch=Watch(self._watching.on_request, self._replied),
            )
        except ConfigError as error:
            said = str(error)
            if said.startswith("url: where should"):
                said = f"Missing Samsara's ingestion api endpoint url. {said}"
            raise InvalidConfiguration(said) from None
        settings = self._client.settings
        self._source: str | None = settings.source
        if options["send_client_stats"] and self._source is None:
            self._client.close(0)
            raise InvalidConfiguration("send_client_stats: statistics say whose they are; give a sourceId, too")
        self.config: dict[str, Any] = {
            **options,
            "sourceId": self._source,
            "endpoint": endpoint(settings.url or ""),
            "publish_interval_secs": settings.flush_interval,
            "send_timeout_secs": settings.timeout[1],
        }
        self._interval = settings.flush_interval
        self._places = settings.max_events
        self._patience = settings.timeout[1]
        self._with_stats = bool(options["send_client_stats"])
        if self._consuming:
            self._client.start()

    # --- recording ------------------------------------------------------------------------------------------------

    def record_event(self, /, **event: Any) -> None:
        """Store an event durably; it is sent with others.

        Args:
            event: `eventName`; `sourceId` (or `source_id`), default the client's; `timestamp` in milliseconds since
                1970, default now; and keys of your own, whatever JSON can say.

        Raises:
            InvalidEvent: one of the three is missing or unusable, or JSON cannot say it; nothing was stored.
            QueueFull, QueueUnavailable, OutcomeUnknown, QueueClosed: see `edgespool.errors`.
        """
        if not event.get("sourceId"):
            given = event.pop("source_id", None)
            event["sourceId"] = given or self._source
            if event["sourceId"] is None:
                del event["sourceId"]
        own = event.get("timestamp") is None
        validate_events({**event, "timestamp": 0} if own else event)
        with _invalid():
            if own:
                event.pop("timestamp", None)
                self._client.record(_name(event), **event)
            else:
                self._client.record_event(_timed(event))
        self._maybe_stats()

    def publish_events(self, events: Iterable[Mapping[str, Any]]) -> bool:
        """Store events durably, in one transaction, and send them at once, whatever `min_buffer_size` says.

        What waits already is sent before them: events stay in order. The call returns when the server has taken them,
        when an attempt has failed, or after `send_timeout`.

        Args:
            events: each with `sourceId`, `timestamp` (milliseconds since 1970) and `eventName`.

        Returns:
            True: the server has them. False: not that one knows. They wait on the disk and are sent as soon as it can
            be done; do not publish them again.

        Raises:
            InvalidEvent: one of them is not valid; nothing was stored and nothing sent.
            RefusedEvents: the server refused some for good; they are in failed payload files.
            QueueFull: they are more than `max_buffer_size`, or the disk is full; nothing was stored.
            QueueUnavailable, OutcomeUnknown, QueueClosed: see `edgespool.errors`.
        """
        if isinstance(events, Mapping):
            raise InvalidEvent("Invalid event found: publish_events takes a list of events, not one event")
        valid = validate_events(events)
        if not valid:
            return True
        files = failed.FailedFiles(self._client.directory)
        known = set(files.paths())
        before = self._client.stats()
        with _invalid():
            ids = self._client.record_many([_timed(event) for event in valid])
        dropped = self._client.stats().dropped
        with self._sending():
            gone = self._flush_unless_it_fails()
        self._maybe_stats()
        if not gone:
            return False
        after = self._client.stats()
        if after.failed != before.failed:
            refused = _count_in_files([path for path in files.paths() if path not in known], set(ids))
            if refused:
                raise RefusedEvents(refused, files.directory)
        return after.dropped == dropped  # newer ones may have pushed them out of a small buffer

    def _flush_unless_it_fails(self) -> bool:
        """Send all there is; return whether it went, at once when an attempt came to nothing."""
        failures = self._failures
        deadline = time.monotonic() + self._patience
        while not self._client.flush(min(_GLANCE, max(0.0, deadline - time.monotonic()))):
            if self._failures != failures or time.monotonic() >= deadline or self._client.stats().state == "stopped":
                return False
        return True

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Have the client send, also where `start_consuming` was not called."""
        with self._lock:
            self._client.start()
            self._publishing += 1
        try:
            yield
        finally:
            with self._lock:
                self._publishing -= 1
                if not self._publishing and not self._consuming:
                    self._client.pause()

    # --- delivery -------------------------------------------------------------------------------------------------

    def start_consuming(self) -> None:
        """Send what waits from now on, every `publish_interval`. Does nothing when it is done already."""
        with self._lock:
            self._consuming = True
            self._client.start()

    def stop_consuming(self) -> None:
        """Send no more, but for a request that is under way. Returns at once.

        Events are recorded as before, and wait on the disk until `start_consuming`, or the program's next start.
        """
        with self._lock:
            self._consuming = False
            if not self._publishing:
                self._client.pause()

    @property
    def publisher(self) -> Publisher | None:
        """What sends, or None while nothing does."""
        return Publisher(self) if self._consuming else None

    def flush(self, timeout: float = 10.0) -> bool:
        """Send what waits, at once; return whether all of it left the queue within `timeout` seconds."""
        return self._client.flush(timeout)

    def stats(self) -> Stats:
        """Return the counts and the state; see `edgespool.Client.stats`."""
        return self._client.stats()

    def close(self, timeout: float = 5.0) -> CloseReport:
        """Send what is left, for `timeout` seconds at most, and let go of the queue. Idempotent.

        After `stop_consuming` nothing is sent. What is not sent goes out at the program's next start.
        """
        self._consuming = False
        return self._client.close(timeout)

    def __enter__(self) -> SamsaraClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SamsaraClient {failed.public_url(self.config['endpoint'])} at {self._client.directory}>"

    def _replied(self, batch: Batch, request: Request, reply: Reply | None, outcome: Outcome) -> None:
        if isinstance(outcome, (Retry, Hold)):
            self._failures += 1
        if self._watching.on_reply is not None:
            self._watching.on_reply(batch, request, reply, outcome)

    # --- statistics -----------------------------------------------------------------------------------------------

    def _maybe_stats(self) -> None:
        """Record an event on this client, if it is due. What goes wrong with it must not concern whoever records."""
        if not self._with_stats or time.monotonic() < self._stats_due:
            return
        with self._lock:
            now = time.monotonic()
            if now < self._stats_due:
                return
            self._stats_due = now + self._interval
        try:
            stats = self._client.stats()
            if self._places is not None and stats.pending >= self._places:
                return  # it would push a reading out
            self._client.record(STATS_EVENT, **self._told(stats))
        except QueueError as error:
            _log.debug("no statistics: %s", error)

    def _told(self, stats: Stats) -> dict[str, Any]:
        settings = self._client.settings
        return {
            "sourceId": self._source,
            "sdk": f"edgespool/{__version__}",
            "accepted": stats.accepted,
            "delivered": stats.delivered,
            "failed": stats.failed,
            "dropped": sum(stats.dropped.values()),
            "buffered": stats.pending,
            "oldestBufferedAge": None if stats.oldest_age is None else round(stats.oldest_age * 1000),
            "bufferBytes": stats.bytes_on_disk,
            "state": stats.state,
            "maxBufferSize": settings.max_events,
            "minBufferSize": settings.min_events,
            "publishInterval": round(settings.flush_interval * 1000),
            "sendTimeout": round(settings.timeout[1] * 1000),
            "compression": settings.compression,
        }


class Publisher:
    """What `SamsaraClient.publisher` gives: the sender, as far as the original shows its thread."""

    def __init__(self, client: SamsaraClient) -> None:
        self._client = client
        #: Seconds between publications.
        self.interval: float = client.config["publish_interval_secs"]

    def is_alive(self) -> bool:
        """Return whether it sends."""
        return self._client.publisher is not None

    def stop(self) -> None:
        """Do as `SamsaraClient.stop_consuming`."""
        self._client.stop_consuming()


# --- events -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _invalid() -> Iterator[None]:
    """Say in the words of this API that an event cannot be encoded."""
    try:
        yield
    except EventError as error:
        raise InvalidEvent(f"Invalid event found: {error}") from None


def _name(event: Mapping[str, Any]) -> str:
    return event["eventName"] or "event"  # the queue's own name of it; what is sent is the event's


def _timed(event: Mapping[str, Any]) -> Event:
    return Event(_name(event), event, time=seconds(event["timestamp"]))


def _count_in_files(paths: Iterable[str], ids: set[str]) -> int:
    """Return how many of the events with these ids are in failed payload files."""
    found: set[str] = set()
    for path in paths:
        with contextlib.suppress(FailedFileError):  # somebody has moved it meanwhile
            found |= ids & set(failed.read(path).ids)
    return len(found)


# --- options ----------------------------------------------------------------------------------------------------------

_OPTIONS = frozenset({*DEFAULT_CONFIG, "url", "sourceId", "source_id"})


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options, checked, with defaults for those that are not given."""
    options = {**DEFAULT_CONFIG, **{name: value for name, value in config.items() if name in _OPTIONS}}
    source = options.pop("source_id", None)
    options.setdefault("sourceId", source)
    if options["sourceId"] is None:
        options["sourceId"] = source
    if source is not None and source != options["sourceId"]:
        raise InvalidConfiguration("sourceId and source_id are one option, and say different things")
    for name in ("url", "sourceId"):
        value = options.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise InvalidConfiguration(f"{name}: a non-empty text is needed, not {type(value).__name__}")
    for name in ("start_publishing_thread", "send_client_stats"):
        if not isinstance(options[name], bool):
            raise InvalidConfiguration(f"{name}: True or False is needed, not {options[name]!r}")
    for name, what in (("publish_interval", "Publish interval"), ("send_timeout", "Send timeout")):
        value = options[name] = options[name] or DEFAULT_CONFIG[name]  # 0 and None stand for the default
        if not _is_number(value) or value < 0:
            raise InvalidConfiguration(f"{what} needs to be above 0, not {value!r} ({name}, in milliseconds)")
    most, least = options["max_buffer_size"], options["min_buffer_size"]
    if most is not None and (not _is_whole(most) or most < 1):
        raise InvalidConfiguration(f"max_buffer_size: a number of events, at least 1, is needed, not {most!r}")
    if not _is_whole(least):
        raise InvalidConfiguration(f"min_buffer_size: a number of events is needed, not {least!r}")
    if least < 1 or (most is not None and least > most):
        options["min_buffer_size"] = 1
    if options["compression"] not in (COMPRESSION.GZIP, COMPRESSION.NONE, None):
        raise InvalidConfiguration(
            f"Specified compression, {options['compression']!r}, must be in ('gzip', 'none', None)"
        )
    return options


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _settings(options: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options as settings of the client: those that were given, and those that hold as defaults.

    The second kind gives way to the environment and the configuration file.
    """
    stated: dict[str, Any] = {}
    defaults: dict[str, Any] = {"overflow": "drop_oldest"}
    for option, name, value in (
        ("publish_interval", "flush_interval", options["publish_interval"] / 1000),
        ("send_timeout", "timeout", options["send_timeout"] / 1000),
        ("max_buffer_size", "max_events", options["max_buffer_size"] or "none"),
        ("min_buffer_size", "min_events", options["min_buffer_size"]),
        ("compression", "compression", options["compression"] or COMPRESSION.NONE),
    ):
        (stated if option in config else defaults)[name] = value
    return stated, defaults
