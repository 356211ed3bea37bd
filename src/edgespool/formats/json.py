"""A bare JSON array of the data objects, for servers that know nothing of envelopes.

The event's name, id and time are not sent; the `Idempotency-Key` header is the only mark by which a receiver can tell
a repeat. Record what the server needs to know in the data itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import jsontext
from ..event import Batch, StoredEvent, id_text, new_id
from ..interfaces import Request
from ..outcome import Outcome, Reply, outcome_of_status
from .cloudevents import idempotency_key

__all__ = ["PlainJson"]


class PlainJson:
    """The data objects as they are. `source` is taken for the sake of one signature for all formats; it is not sent."""

    name = "json"

    def __init__(self, source: str = "") -> None:
        self.source = source

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return the event's data as a JSON object."""
        return jsontext.encode(data)

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Any number of events fits into one request."""
        return len(events)

    def render(self, event: StoredEvent) -> bytes:
        """Return the stored JSON object."""
        return event.payload

    def request(self, batch: Batch) -> Request:
        """Return the batch as one JSON array."""
        body = jsontext.array(batch.columns.payloads)
        return Request(body, {"Content-Type": "application/json", "Idempotency-Key": idempotency_key(batch)})

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from its JSON object; one without an id gets a fresh one."""
        if not isinstance(value, dict):
            raise ValueError(f"no event: a JSON object is needed, not {type(value).__name__}")
        return StoredEvent(0, jsontext.encode(value), time or 0.0, id or id_text(new_id()), False)

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says."""
        return outcome_of_status(reply)
