"""Samsara's ingestion API on the wire: a JSON array of events to `<url>/v1/events`. Knows no client and no queue.

Source: the SDK's documentation and samsara_sdk 0.5.5.0. An event is a JSON object with `sourceId` (text), `timestamp`
(whole milliseconds since 1970, not negative), `eventName` (text) and any other members. The request carries the time of
sending, by the device's own clock, so that the server can tell how wrong that clock is. Success is 202; 400 refuses a
batch in which any event is invalid.

An event is stored as the JSON object that is sent. A timestamp of ours stands at its front, where it can be put right
without decoding the rest; one that the user gave stands behind the `sourceId`, and is never touched.
"""

from __future__ import annotations

import contextlib
import time as _time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ... import jsontext
from ...config import Settings
from ...errors import EventError
from ...event import Batch, StoredEvent, id_text, new_id
from ...interfaces import Request
from ...outcome import Outcome, Reply, Retry, outcome_of_status

__all__ = ["ENDPOINT", "FORMAT", "PUBLISHED_TIMESTAMP", "SamsaraEvents", "endpoint", "fault", "seconds"]

ENDPOINT = "/v1/events"
PUBLISHED_TIMESTAMP = "X-Samsara-publishedTimestamp"

_OWN_TIME = b'{"timestamp":'
_LATEST = 253_402_300_799_000  # milliseconds from 1970 to the last second that calendars, and the queue, can show


def endpoint(url: str) -> str:
    """Return the address that events are posted to: the server's, with the API's path unless it has it already."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(ENDPOINT) + ENDPOINT
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def fault(event: Any) -> str | None:
    """Return what makes a value no Samsara event, or None when it is one."""
    if not isinstance(event, Mapping):
        return f"a mapping is needed, not {type(event).__name__}"
    for key in ("sourceId", "eventName"):
        value = event.get(key)
        if not isinstance(value, str):
            return f"{key}: text is needed, {_instead(event, key)}"
    stamp = event.get("timestamp")
    if isinstance(stamp, bool) or not isinstance(stamp, int) or stamp < 0:
        return f"timestamp: a whole number of milliseconds since 1970 is needed, {_instead(event, 'timestamp')}"
    return None


def _instead(event: Mapping[str, Any], key: str) -> str:
    if key not in event:
        return "and it is missing"
    value = event[key]
    if isinstance(value, (float, int, bool, type(None))):
        with contextlib.suppress(Exception):  # a number may have too many digits for Python
            return f"not {value!r}"
    return f"not {type(value).__name__}"


def seconds(timestamp: int) -> float:
    """Return a timestamp in seconds since 1970, as near as the queue can keep it; the event itself keeps it exactly."""
    return min(timestamp, _LATEST) / 1000


class SamsaraEvents:
    """The format. `source` is the `sourceId` of events that name none."""

    name = "samsara"

    def __init__(self, source: str) -> None:
        self.source = source

    def configure(self, settings: Settings) -> Settings:
        """Return the settings with the API's path added to the URL. Samsara itself has no credentials; `auth` and
        `headers` are for what may stand before it, and go out as they are."""
        try:
            return replace(settings, url=endpoint(settings.url)) if settings.url else settings
        except ValueError:
            return settings  # no address at all; whoever opens it says so, without what may be secret in it

    def secrets(self) -> Iterable[str]:
        """Return nothing: there are no credentials in this protocol."""
        return ()

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return the event's JSON object. The data's own eventName, sourceId and timestamp win over ours."""
        own = "timestamp" not in data
        event = {"timestamp": max(0, round(time * 1000))} if own else {}
        event["sourceId"] = data.get("sourceId", self.source)
        if not own:
            event["timestamp"] = data["timestamp"]
        event["eventName"] = data.get("eventName", name)
        wrong = fault(event)
        if wrong is not None:
            raise EventError(wrong)
        event.update(data)
        return jsontext.encode(event, "event")

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Any number of events fits into one request."""
        return len(events)

    def render(self, event: StoredEvent) -> bytes:
        """Return the event's JSON object; a time of ours that was put right since is the right one."""
        if not event.corrected or not event.payload.startswith(_OWN_TIME):
            return event.payload
        rest = event.payload[event.payload.index(b",") :]
        return _OWN_TIME + str(max(0, round(event.time * 1000))).encode() + rest

    def request(self, batch: Batch) -> Request:
        """Return the batch as one JSON array, with the present time."""
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "Content-Encoding": "identity",  # whoever compresses the body says so in its place
            PUBLISHED_TIMESTAMP: str(_time.time_ns() // 1_000_000),
        }
        return Request(jsontext.array(map(self.render, batch.events)), headers)

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from its JSON object; a missing sourceId is the settings' source."""
        if not isinstance(value, dict):
            raise ValueError(f"no Samsara event: a JSON object is needed, not {type(value).__name__}")
        event = dict(value)
        event.setdefault("sourceId", self.source)
        if "timestamp" not in event and time is not None:
            event["timestamp"] = max(0, round(time * 1000))
        wrong = fault(event)
        if wrong is not None:
            raise ValueError(f"no Samsara event: {wrong}")
        return StoredEvent(0, jsontext.encode(event), seconds(event["timestamp"]), id or id_text(new_id()), False)

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says; a 400 is the fault of at least one event, the others go on without it.

        A web page is no success, whatever its status: the API answers 202 and no page, a hotel's Wi-Fi 200 and one.
        """
        if 200 <= reply.status < 300 and reply.headers.get("content-type", "").lower().startswith("text/html"):
            return Retry(f"HTTP {reply.status} with a web page: is this Samsara, or a captive portal?", reply.status)
        return outcome_of_status(reply)


FORMAT = SamsaraEvents
