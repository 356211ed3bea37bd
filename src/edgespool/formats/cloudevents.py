"""CloudEvents 1.0, JSON format, batched content mode over HTTP.

Sources: CloudEvents specification 1.0.2, JSON event format 1.0.2 (section 4, JSON batch format) and HTTP protocol
binding 1.0.2 (section 3.3, batched content mode). A receiver may treat an equal (source, id) as a repeat.

An event is stored as the JSON object that is sent, so that a batch is the stored bytes joined. Its time stands at the
front, always as wide, where it can be put right without decoding the rest (a board without a clock chip).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote

from .. import jsontext
from ..errors import ConfigError
from ..event import Batch, StoredEvent
from ..interfaces import Request
from ..outcome import Outcome, Reply, outcome_of_status

__all__ = ["CloudEvents", "idempotency_key", "parse_time", "rfc3339"]

_MIDDLES = 256  # names of events whose middle is kept ready; a program has few

_join, _quote = jsontext.join, jsontext.quote
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@lru_cache(16)  # events come in bursts
def _second(seconds: int) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)  # not fromtimestamp: it knows no time before 1970 on some systems
    return moment.isoformat()[:19]


def rfc3339(time: float) -> str:
    """Return seconds since 1970 as an RFC 3339 timestamp in UTC, to the microsecond."""
    seconds, microseconds = divmod(round(time * 1e6), 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


def parse_time(text: str) -> float:
    """Return an RFC 3339 timestamp as seconds since 1970; raises ValueError when it is none."""
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return (moment - _EPOCH) / timedelta(seconds=1)


def idempotency_key(batch: Batch) -> str:
    """Return a key that is equal for equal batches, for the `Idempotency-Key` header."""
    ids = batch.columns.raw_ids
    try:
        text = b"\n".join(cast("list[bytes]", ids))  # all of our own making
    except TypeError:
        text = b"\n".join([raw if isinstance(raw, bytes) else raw.encode("utf-8") for raw in ids])
    return hashlib.blake2b(text, digest_size=16).hexdigest()


_TIME_END = len('{"time":"2026-11-22T10:00:00.000000Z')


def _front(time: float) -> str:
    """Return the beginning of an event's JSON object: its time, and the id's name."""
    seconds, microseconds = divmod(round(time * 1e6), 1_000_000)  # as in rfc3339, without the call
    return f'{{"time":"{_second(seconds)}.{microseconds:06d}Z","id":'


class CloudEvents:
    """The default format. `source` says which device the events come from, e.g. ``"pi-kitchen"`` or a URI."""

    name = "cloudevents"

    def __init__(self, source: str) -> None:
        if not source:
            raise ConfigError("source: CloudEvents need a non-empty source")
        # `source` must be a URI reference; what a URI cannot hold is percent-encoded.
        self.source = quote(source, safe="/:?#[]@!$&'()*+,;=%-._~")
        self._middle = f'"specversion":"1.0","source":{jsontext.quote(self.source)},"type":'
        self._middles: dict[str, str] = {}  # name -> all between the id and the data

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return the event's JSON object."""
        middle = self._middles.get(name) or self._middle_of(name)
        try:
            return _join(f"{_front(time)}{_quote(id)}{middle}", data, "}")
        except (RecursionError, TypeError, ValueError) as error:
            raise jsontext.fault(error, data) from None

    def encode_many(
        self, names: Sequence[str], data: Sequence[Mapping[str, Any]], ids: Sequence[str], time: float
    ) -> list[bytes]:
        """Return the JSON objects of events of one time; see `edgespool.interfaces.EncodesMany`."""
        front = _front(time)
        middles = {name: self._middles.get(name) or self._middle_of(name) for name in set(names)}
        return [
            f"{front}{_quote(id)}{middles[name]}{text}}}".encode()
            for id, name, text in zip(ids, names, jsontext.texts(data), strict=True)
        ]

    def _middle_of(self, name: str) -> str:
        middle = f',{self._middle}{jsontext.encode(name, "name").decode()},"data":'
        if len(self._middles) < _MIDDLES:
            self._middles[name] = middle
        return middle

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Any number of events fits into one request."""
        return len(events)

    def render(self, event: StoredEvent) -> bytes:
        """Return the event's JSON object; one whose time was put right says so by the attribute `timecorrected`."""
        if not event.corrected:
            return event.payload
        # An extension attribute is named in lower-case letters and digits (CloudEvents 1.0, "Naming conventions").
        return b'{"timecorrected":true,"time":"' + rfc3339(event.time).encode() + event.payload[_TIME_END:]

    def request(self, batch: Batch) -> Request:
        """Return the batch as one JSON array."""
        columns = batch.columns
        payloads = map(self.render, batch.events) if True in columns.corrected else columns.payloads
        body = jsontext.array(payloads)
        headers = {
            "Content-Type": "application/cloudevents-batch+json; charset=utf-8",
            "Idempotency-Key": idempotency_key(batch),
        }
        return Request(body, headers)

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from its JSON object."""
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise ValueError("no CloudEvent: it lacks a type")
        rest = dict(value)
        own_id, own_time = rest.pop("id", None), rest.pop("time", None)
        corrected = bool(rest.pop("timecorrected", False))
        identity = own_id if isinstance(own_id, str) and own_id else id
        if not identity:
            raise ValueError("no CloudEvent: it lacks an id")
        moment = parse_time(own_time) if isinstance(own_time, str) else time
        if moment is None:
            raise ValueError("no CloudEvent: it lacks a time")
        rest.setdefault("specversion", "1.0")
        rest.setdefault("source", self.source)
        head = f"{_front(moment)}{jsontext.quote(identity)}".encode()
        payload = head + (b"," + jsontext.encode(rest)[1:] if rest else b"}")
        return StoredEvent(0, payload, moment, identity, corrected)

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says."""
        return outcome_of_status(reply)
