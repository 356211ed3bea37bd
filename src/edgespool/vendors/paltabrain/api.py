"""PaltaBrain's SDK (paltabrain_sdk 0.7.2) on the durable queue: the same names, arguments, defaults and attributes.

An event is on the disk before `track()` returns. What the documentation of the original says holds; where it loses
events (batches discarded after the retries, a full buffer at exit), this one keeps them. No SQL, no HTTP in here.
"""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Any, Generic, TypeVar

from ...errors import ConfigError, EventError, QueueClosed, QueueError
from ...event import id_text, new_id
from ...interfaces import Watch
from ...outcome import Outcome, Reply
from ..common import names_of, open_client
from .base import BaseContext, BaseEnum, BaseEvent, BaseSentinel
from .convert import set_proto
from .service import BATCH_PATH, SDK_VERSION, address

try:
    from . import telemetry
    from .format import PaltaBrain
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "google":
        raise
    raise ModuleNotFoundError(
        "PaltaBrain's SDK needs protobuf: pip install 'edgespool[paltabrain]'", name=error.name
    ) from None
from .sessions import SessionNumbers

__all__ = ["BaseContext", "BaseEnum", "BaseEvent", "BaseSentinel", "PaltabrainSdk", "RequestFailed", "set_proto"]

__version__ = SDK_VERSION

RequestFailed = telemetry.RequestFailed

C = TypeVar("C", bound=BaseContext)

_FLUSH_INTERVAL_MS = 5000


class PaltabrainSdk(Generic[C]):
    """Tracks events and delivers them in batches.

        with PaltabrainSdk[Context](hostname=..., api_key=..., context=Context()) as sdk:
            sdk.context.set_user(user_id="123")
            sdk.track(EventPageOpen(page_id="abc"))

    Args:
        hostname: the host of the account's API; with a scheme (``http://127.0.0.1:8080``) for a collector of your own.
        api_key: the account's key. In memory only.
        context: a `Context` of the config module; what is true of the events. Serialized at each `track`.
        instance_id: None: a fresh UUIDv7.
        session_id: a number, or text: of a UUIDv7 its milliseconds are sent, of another UUID its first 63 bits, since
            the wire has a 64-bit number.
        start_session: start a new session, unless `session_id` is given.
        flush_buffer_size: events in a batch, at most; so many that wait are sent at once.
        flush_interval_ms: milliseconds that an event waits for others to be sent with.
        flush_max_retries: attempts after which a batch is counted as REJECT or EXCEPTION. It is kept, and sent on.
        resume_session: go on with the last session of this queue, if there is one, and no `session_id` is given.
        keywords: of `edgespool.Client`: `path`, `name`, `durability`, `max_bytes`, `flush_interval` (seconds), …

    Raises:
        ConfigError (a ValueError): an argument cannot be used.
        QueueError: the queue cannot be opened; see `edgespool.errors`.
    """

    BATCH_STATUS_SUCCESS = telemetry.Counters.SUCCESS
    BATCH_STATUS_REJECT = telemetry.Counters.REJECT
    BATCH_STATUS_EXCEPTION = telemetry.Counters.EXCEPTION

    def __init__(
        self,
        hostname: str,
        api_key: str,
        context: C,
        instance_id: str | None = None,
        session_id: str | int | None = None,
        start_session: bool = False,
        flush_buffer_size: int = 100,
        flush_interval_ms: int = _FLUSH_INTERVAL_MS,
        flush_max_retries: int = 5,
        *,
        resume_session: bool = False,
        watch: Watch | None = None,
        **keywords: Any,
    ) -> None:
        if not isinstance(hostname, str) or not hostname:
            raise ConfigError("hostname: a host such as telemetry.example.com is needed")
        if not isinstance(api_key, str) or not api_key:
            raise ConfigError("api_key: the account's key is needed")
        if isinstance(context, type) or not callable(getattr(context, "serialize_context", None)):
            raise ConfigError("context: a Context object of the config module is needed")
        _whole("flush_buffer_size", flush_buffer_size, 1)
        _whole("flush_interval_ms", flush_interval_ms, 0)
        _whole("flush_max_retries", flush_max_retries, 0)
        wire_session = _session_number(session_id) if session_id else None
        self.hostname = hostname
        self.context: C = context
        self.instance_id = _instance(instance_id)
        self.flush_buffer_size = flush_buffer_size
        self.flush_interval_ms = flush_interval_ms
        self.flush_max_retries = flush_max_retries
        self.last_serialization_error: Exception | None = None
        self.logger = telemetry._log
        self._counters = telemetry.Counters(flush_max_retries)
        self._told = watch or Watch()
        keywords.setdefault("batch_size", flush_buffer_size)
        if flush_interval_ms != _FLUSH_INTERVAL_MS:  # else it is edgespool's default, too, or what the environment says
            keywords.setdefault("flush_interval", flush_interval_ms / 1000)
        url = keywords.pop("url", None) or address(hostname, BATCH_PATH)
        wire = PaltaBrain()
        begin = keywords.pop("start", True)
        self._client = open_client(
            "paltabrain",
            f"{hostname}\0{api_key}",
            url,
            options=names_of(PaltabrainSdk),
            auth=api_key,
            format=wire,
            watch=Watch(self._on_request, self._on_reply),
            start=False,  # not before what it reports to is there
            **keywords,
        )
        self._reporting = wire.telemetry = telemetry.Telemetry(
            self._client.directory, self._client.stats, self._client.settings.batch_size
        )
        self._sessions = SessionNumbers(self._client.directory)
        self._closed = False
        #: As given, or the milliseconds at which the session was started; None: there is no session.
        self.session_id = session_id or None
        if wire_session is None and resume_session:
            self.session_id = wire_session = self._sessions.last()
        if wire_session is None and start_session:
            self.session_id = wire_session = self._sessions.begin()
        self._wire_session = wire_session
        if begin:
            self._client.start()

    # --- tracking ---------------------------------------------------------------------------------------------------

    def track(self, event: BaseEvent, context: BaseContext | None = None) -> None:
        """Store an event durably.

        An event that cannot be serialized, or is too large, is skipped: a warning is logged (`paltabrain_sdk`), and
        `last_serialization_error` holds the reason.

        Args:
            event: an event of the config module.
            context: what is true of this event; None: `self.context`.

        Raises:
            QueueFull, QueueClosed, QueueUnavailable, OutcomeUnknown: the event was not stored; see `edgespool.errors`.
        """
        if self._closed:
            raise QueueClosed("the SDK was shut down; the event was not stored")
        try:
            data: dict[str, Any] = {
                "instance_id": self.instance_id,
                "context": (self.context if context is None else context).serialize_context(),
                "header": event.serialize_header(),
                "payload": event.serialize_payload(),
            }
        except Exception as error:  # noqa: BLE001 - generated code and the user's values: the program must go on
            self._skip(event, error)
            return
        if self._wire_session is not None:
            data["session_id"] = self._wire_session
            data["session_event_seq_num"] = self._sessions.next(self._wire_session)
        try:
            self._client.record(type(event).__name__, **data)
        except EventError as error:
            self._skip(event, error)
        except QueueError as error:
            self._reporting.storage_error(error)
            raise

    def _skip(self, event: object, error: Exception) -> None:
        self.last_serialization_error = error
        self._reporting.serialization_error(error)
        self.logger.warning(
            "%s cannot be serialized and is skipped: %s: %s", type(event).__name__, type(error).__name__, error
        )

    # --- delivery ---------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 0.0) -> bool:
        """Send what waits, at once.

        Args:
            timeout: seconds to wait for it; 0, as with the original, does not wait.

        Returns: whether all of it has left the queue.
        """
        if self._client.stats().pending:
            self._reporting.asked("FLUSH")
        self._client.send_now()
        return self._client.flush(timeout)

    def shutdown(self, timeout: float = 5.0) -> None:
        """Send what is left, for `timeout` seconds at most, and stop. The rest is sent after the next start.

        Idempotent. Afterwards `track` raises QueueClosed.
        """
        self._closed = True
        self._reporting.asked("SHUTDOWN")
        self._client.close(timeout)
        self._sessions.close()

    def __enter__(self) -> PaltabrainSdk[C]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def batch_counters(self) -> dict[str, int]:
        """Counts of batches: SUCCESS, and those that were not taken, by an answer (REJECT) or for want of one
        (EXCEPTION); the events of these are kept. See `telemetry.Counters`."""
        return dict(self._counters.counts)

    @property
    def last_request_error(self) -> Exception | None:
        """Why the last batch that failed was not taken (a `RequestFailed`); None: none has failed."""
        return self._counters.last_error

    def __repr__(self) -> str:
        return f"<PaltabrainSdk {self.instance_id} {self._client!r}>"

    def _on_request(self, batch: Any, request: Any) -> None:
        self._reporting.on_request(batch, request)
        if self._told.on_request is not None:
            self._told.on_request(batch, request)

    def _on_reply(self, batch: Any, request: Any, reply: Reply | None, outcome: Outcome) -> None:
        self._counters.on_reply(batch, request, reply, outcome)
        self._reporting.on_reply(batch, request, reply, outcome)
        if self._told.on_reply is not None:
            self._told.on_reply(batch, request, reply, outcome)


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name}: a whole number from {low} is needed, not {value!r}")


def _instance(given: object) -> str:
    if given is None or given == "":
        return id_text(new_id())
    if isinstance(given, uuid.UUID):
        return str(given)
    if not isinstance(given, str) or len(given) > 1000:
        raise ConfigError(f"instance_id: text is needed, not {type(given).__name__}")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ConfigError("instance_id: text that is valid Unicode is needed") from None
    return given


def _session_number(given: object) -> int:
    """Return a session's id as the 64-bit number that the wire has."""
    number: int | None = None
    if isinstance(given, int) and not isinstance(given, bool):
        number = given
    elif isinstance(given, (str, uuid.UUID)):
        text = str(given).strip()
        try:
            number = int(text) if text.isascii() and text.lstrip("-").isdigit() else None
            if number is None:
                parsed = uuid.UUID(text)
                number = parsed.int >> 80 if parsed.version == 7 else parsed.int >> 65
        except ValueError:
            number = None
    if number is None or not -(1 << 63) <= number < 1 << 63:
        raise ConfigError(f"session_id: a UUID or a 64-bit number is needed, not {given!r}")
    return number
