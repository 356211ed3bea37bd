"""PaltaBrain's wire: events as protobuf, in batches of one context (`sdk.proto`). Knows no queue, no SDK.

Source: the SDK paltabrain_sdk 0.7.2. An event is stored as the serialized Batch that would carry it alone, without a
batch id: the sender (`instance_id`), the context and the event, in this order. All that a resend needs is in it, and a
batch is made by joining the events' bytes behind the first one's sender and context; nothing is decoded. A Batch of one
event can also be posted by hand, from a failed payload file.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from ...config import Settings
from ...errors import ConfigError, EventError
from ...event import Batch, StoredEvent, id_text
from ...interfaces import Request
from ...outcome import Outcome, Reply, outcome_of_status
from . import sdk_pb2
from .service import BATCH_PATH, address, headers

__all__ = ["FORMAT", "LARGEST_BATCH", "LARGEST_TELEMETRY", "PaltaBrain", "batch_id", "split"]

LARGEST_BATCH = 512 * 1024  # bytes of a request's body
LARGEST_TELEMETRY = 4 * 1024
_BATCH_ID = 64  # bytes that the batch's id takes, and some to spare
_ROOM = LARGEST_BATCH - LARGEST_TELEMETRY - _BATCH_ID  # for the sender, the context and the events
_TEXT = re.compile(r"[\x21-\x7e]+")

_COMMON, _CONTEXT, _EVENTS, _TELEMETRY = 0x0A, 0x12, 0x1A, 0x22  # the tags of a Batch's fields
_KEYS = {"instance_id", "context", "header", "payload", "session_id", "session_event_seq_num"}


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, and where it ends; raises IndexError when it does not end."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _field(tag: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((tag,)) + bytes(length) + content


def split(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a stored event's BatchCommon, and as fields with their tags: the context (or nothing), and the event."""
    size, start = _varint(payload, 1)
    end = start + size
    common = payload[start:end]
    if payload[end] != _CONTEXT:
        return common, b"", payload[end:]
    size, start = _varint(payload, end + 1)
    return common, payload[end : start + size], payload[start + size :]


def batch_id(events: Sequence[StoredEvent]) -> str:
    """Return a UUIDv7 that is the same whenever the same events are sent together: a lost reply repeats it."""
    digest = hashlib.blake2b(b"\0".join(event.id.encode() for event in events), digest_size=10).digest()
    raw = bytearray((max(0, round(events[0].time * 1000)) & 0xFFFF_FFFF_FFFF).to_bytes(6, "big") + digest)
    raw[6] = raw[6] & 0x0F | 0x70
    raw[8] = raw[8] & 0x3F | 0x80
    return id_text(bytes(raw))


class PaltaBrain:
    """One account's wire.

    Args:
        source: taken for the sake of one signature for all formats; events say their `instance_id`.

    `telemetry`, when it is set, is asked for the serialized BatchTelemetry of each batch, of at most LARGEST_TELEMETRY
    bytes; a replay has none.
    """

    name = "paltabrain"

    def __init__(self, source: str = "") -> None:
        self.telemetry: Callable[[Batch], bytes] | None = None
        self._api_key = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    # --- Service ----------------------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> Settings:
        """Take the API key from the settings (`auth`), and complete the address: ``https://<hostname>/v2/paltabrain``.

        Raises:
            ConfigError: there is no API key, or one that no header can hold; or the address is none.
        """
        auth = settings.auth
        if isinstance(auth, tuple):  # the key held a colon
            auth = ":".join(auth)
        if auth is None:
            raise ConfigError("auth: PaltaBrain's API key is missing: give `api_key`, or EDGESPOOL_AUTH")
        if not isinstance(auth, str) or not _TEXT.fullmatch(auth):
            raise ConfigError("auth: PaltaBrain's API key is plain text without spaces; a line break at its end?")
        self._api_key = auth
        url = address(settings.url, BATCH_PATH) if settings.url else settings.url
        return replace(settings, auth=None, url=url)

    def secrets(self) -> Iterable[str]:
        """Return the API key."""
        return [self._api_key] if self._api_key else []

    # --- Format -----------------------------------------------------------------------------------------------------

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return an event as a Batch of its own.

        Args:
            name: the event's class; not sent.
            data: `instance_id` (text), `context`, `header` and `payload` (bytes of the customer's own messages), and
                where there is a session `session_id` and `session_event_seq_num` (int).
            id: not sent either; the batch's id is made of its events'.
            time: seconds since 1970, sent as `event_ts` in milliseconds.

        Raises:
            EventError: something is missing or of the wrong type, or the event is larger than a batch may be.
        """
        if unknown := data.keys() - _KEYS:
            raise EventError(f"data.{min(unknown)}: a PaltaBrain event has no such part")
        for part in ("context", "header", "payload"):
            if not isinstance(data.get(part, b""), bytes):
                raise EventError(f"data.{part}: bytes are needed, not {type(data[part]).__name__}")
        batch = sdk_pb2.Batch()
        event = batch.events.add()
        try:
            batch.common.instance_id = data["instance_id"]
            batch.context = data.get("context", b"")
            event.common.event_ts = round(time * 1000)
            if data.get("session_id") is not None:
                event.common.session_id = data["session_id"]
            if data.get("session_event_seq_num") is not None:
                event.common.session_event_seq_num = data["session_event_seq_num"]
            event.header = data.get("header", b"")
            event.payload = data["payload"]
        except KeyError as error:
            raise EventError(f"data.{error.args[0]}: missing from a PaltaBrain event") from None
        except (TypeError, ValueError) as error:
            raise EventError(f"data: {error}") from None
        if not data["instance_id"]:
            raise EventError("data.instance_id: empty")
        payload = bytes(batch.SerializeToString(deterministic=True))
        if len(payload) > _ROOM:
            raise EventError(f"{len(payload)} bytes encoded, more than PaltaBrain takes in a batch ({_ROOM})")
        return payload

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the leading events are of one sender and context and fit into a batch of 512 KiB."""
        common, context, event = split(events[0].payload)
        head = _field(_COMMON, common) + context
        size = len(head) + len(event)
        for count, (_, payload, _, _, corrected) in enumerate(events[1:], 1):
            # A field of the same sender and context ends where theirs do, and an event follows.
            if not payload.startswith(head) or payload[len(head)] != _EVENTS:
                return count
            size += len(payload) - len(head) + (10 if corrected else 0)  # a time put right may take more bytes
            if size > _ROOM:
                return count
        return len(events)

    def render(self, event: StoredEvent) -> bytes:
        """Return an event as a Batch of its own, its time put right where it was wrong."""
        if not event.corrected:
            return event.payload
        batch = sdk_pb2.Batch.FromString(event.payload)
        batch.events[0].common.event_ts = round(event.time * 1000)
        return bytes(batch.SerializeToString(deterministic=True))

    def request(self, batch: Batch) -> Request:
        """Return the POST of a Batch: the stored bytes joined, with a batch id and what is known of the sender."""
        common, context, _ = split(batch.events[0].payload)
        common += _field(0x12, batch_id(batch.events).encode())  # BatchCommon.batch_id
        parts = [_field(_COMMON, common), context]
        parts += [split(event.payload if not event.corrected else self.render(event))[2] for event in batch.events]
        if self.telemetry is not None:
            parts.append(_field(_TELEMETRY, self.telemetry(batch)))
        upload = {"X-SDK-Client-Upload-TS": str(time.time_ns() // 1_000_000)}
        return Request(b"".join(parts), {**headers(self._api_key), **upload}, compressible=False)

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from the bytes of `render`."""
        if not isinstance(value, bytes):
            raise ValueError(f"no PaltaBrain event: base64 is needed, not {type(value).__name__}")
        try:
            batch = sdk_pb2.Batch.FromString(value)
        except DecodeError as error:
            raise ValueError(f"no PaltaBrain event: {error}") from None
        if len(batch.events) != 1 or not batch.common.instance_id:
            raise ValueError("no PaltaBrain event: a Batch of one event, with its instance_id, is needed")
        if not id:
            raise ValueError("no PaltaBrain event: it lacks an id")
        moment = time if time is not None else batch.events[0].common.event_ts / 1000
        batch.common.ClearField("batch_id")
        batch.ClearField("telemetry")
        return StoredEvent(0, bytes(batch.SerializeToString(deterministic=True)), moment, id, False)

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says."""
        return outcome_of_status(reply)


FORMAT = PaltaBrain
