"""Initial State's events API on the wire: buckets and events as JSON, the access key and the bucket key as headers.

Sources: the published client ISStreamer 2.0.0, and the API's public description (initialstate/public-api-docs).

    POST <base>/api/buckets   {"bucketKey": …, "bucketName": …}                  201 made, 204 there already
    POST <base>/api/events    [{"key": …, "value": …, "epoch": seconds}, …]      204

A route is a bucket key. The making of a bucket is an event of its own in the bucket's route, ahead of the events: since
a route keeps its order, a bucket is made before its first event, in every life of the program. It travels alone.

Must not know the queue, files, or how often something is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ... import jsontext
from ...config import Settings
from ...errors import ConfigError, EventError
from ...event import Batch, StoredEvent, id_text, new_id
from ...interfaces import Request, Unready
from ...outcome import Hold, Outcome, Reply, one_line, outcome_of_status
from .configutil import BASE
from .version import __version__

__all__ = ["FORMAT", "InitialState", "fits_header", "making"]

_API_VERSION = "<=0.0.4"
_BUCKET = b'{"bucketKey":'  # how the making of a bucket begins, and no event does
_FAR = 1e15  # seconds; no calendar goes so far. Python and JSON write such numbers alike
_EPOCH = b',"epoch":'  # stands last in an event, so that another time can be put in without decoding it
# Printable Latin-1: what an HTTP header can hold in one piece (RFC 9110, section 5.5).
_HEADER = re.compile(r"[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?")


def fits_header(text: str) -> bool:
    """Return whether a text can be a header's value, and arrives as it is."""
    return _HEADER.fullmatch(text) is not None


class InitialState:
    """The format `initialstate`. `source` is not sent: Initial State knows an event by its bucket, key and epoch."""

    name = "initialstate"

    def __init__(self, source: str = "") -> None:
        self.source = source
        self._access_key = ""

    # --- the service ------------------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> Settings:
        """Take the access key from `auth`; the address is the service's own unless one is set.

        Raises:
            ConfigError: the access key is no text, or holds what no HTTP header can hold.
        """
        auth = settings.auth
        if isinstance(auth, tuple) and all(isinstance(part, str) for part in auth):
            auth = ":".join(auth)  # the settings take a colon for the mark of a user and a password
        if auth is not None and (not isinstance(auth, str) or not fits_header(auth)):
            raise ConfigError("auth: the access key is no text that an HTTP header can hold; a line break at its end?")
        self._access_key = auth or ""
        return replace(settings, url=(settings.url or BASE).rstrip("/"), auth=None)

    def secrets(self) -> Iterable[str]:
        """Return the access key."""
        return [self._access_key] if self._access_key else []

    # --- events -----------------------------------------------------------------------------------------------------

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return an event, or the making of a bucket, as JSON.

        Args:
            name: the event's key, unless `data` says one.
            data: `value`, and perhaps `key`; or `bucketKey` and `bucketName`.
            id: not sent: the API has no place for it.
            time: the epoch, seconds since 1970.

        Raises:
            EventError: `data` holds something else, or what JSON cannot say.
        """
        if "bucketKey" in data:
            if data.keys() != {"bucketKey", "bucketName"}:
                raise EventError("data: a bucket has a bucketKey and a bucketName, and nothing else")
            return making(data["bucketKey"], data["bucketName"])
        if "value" not in data or not data.keys() <= {"key", "value"}:
            raise EventError("data: an event of Initial State has one value, named 'value'")
        return _event(data.get("key", name), data["value"], {}, time)

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return 1 for the making of a bucket, else how many events come before the next one."""
        if events[0].payload.startswith(_BUCKET):
            return 1
        for number, event in enumerate(events):
            if event.payload.startswith(_BUCKET):
                return number
        return len(events)

    def request(self, batch: Batch) -> Request:
        """Return the request for events of one bucket, or for the making of it.

        Raises:
            Unready: there is no access key, or no bucket key.
        """
        if not self._access_key:
            raise Unready("there is no access key: give Streamer(access_key=…), or set EDGESPOOL_AUTH")
        if not fits_header(batch.route):
            raise Unready(
                f"the bucket key {one_line(batch.route, 60)!r} cannot be sent: it is the route of the events, for "
                "replay-failed given by --route"
            )
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"PyStreamer v{__version__}",
            "Accept-Version": _API_VERSION,
            "X-IS-AccessKey": self._access_key,
            "X-IS-BucketKey": batch.route,
        }
        first = batch.events[0]
        if first.payload.startswith(_BUCKET):
            return Request(first.payload, headers, path="/api/buckets", compressible=False)
        body = jsontext.array([e.payload if not e.corrected else self.render(e) for e in batch.events])
        return Request(body, headers, path="/api/events", compressible=False)

    def render(self, event: StoredEvent) -> bytes:
        """Return the event's JSON, with the right epoch if it was recorded with a wrong one."""
        payload = event.payload
        if not event.corrected or payload.startswith(_BUCKET):
            return payload
        return payload.rpartition(_EPOCH)[0] + _EPOCH + _seconds(event.time) + b"}"

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event, or the making of a bucket, made from its JSON object.

        Members that the streamer does not write are kept: the API takes an `iso8601` in place of the epoch.
        """
        if not isinstance(value, dict):
            raise ValueError(f"no event: a JSON object is needed, not {type(value).__name__}")
        identity, moment = id or id_text(new_id()), time or 0.0
        if "bucketKey" in value:
            return StoredEvent(0, making(value["bucketKey"], value.get("bucketName", "")), moment, identity, False)
        if "key" not in value or "value" not in value:
            raise ValueError("no event of Initial State: it lacks a key or a value")
        rest = {name: each for name, each in value.items() if name not in ("key", "value", "epoch")}
        epoch = value.get("epoch")
        stated: float | None = moment
        if isinstance(epoch, (int, float)) and not isinstance(epoch, bool):
            stated = moment = float(epoch)
        elif "iso8601" in rest:
            stated = None
        return StoredEvent(0, _event(value["key"], value["value"], rest, stated), moment, identity, False)

    # --- replies ----------------------------------------------------------------------------------------------------

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says; of a bucket that was removed, nothing is taken until somebody brings it back."""
        if reply.status == 400:
            removed = _removed(reply.body)
            if removed is not None:
                return Hold(one_line(f"HTTP 400: the bucket was removed: {removed}"), 400)
        return outcome_of_status(reply)


def _text(value: Any) -> str:
    """Return a key or name as the text that the API asks for."""
    return value if isinstance(value, str) else str(value)


def making(key: Any, name: Any) -> bytes:
    """Return the making of a bucket as JSON; raises EventError."""
    return (
        _BUCKET + jsontext.encode(_text(key), "bucketKey") + b',"bucketName":'
        + jsontext.encode(_text(name), "bucketName") + b"}"
    )  # fmt: skip


def _event(key: Any, value: Any, rest: Mapping[str, Any], time: float | None) -> bytes:
    if not rest and type(time) is float and -_FAR < time < _FAR:
        try:  # in one go, as nearly all can be
            return jsontext.join(f'{{"key":{jsontext.quote(_text(key))},"value":', value, f',"epoch":{time!r}}}')
        except (ValueError, TypeError, RecursionError):
            pass  # what is wrong with it is found below
    payload = b'{"key":' + jsontext.encode(_text(key), "key") + b',"value":' + jsontext.encode(value, "value")
    if rest:
        payload += b"," + jsontext.encode(dict(rest))[1:-1]
    return payload + (_EPOCH + _seconds(time) if time is not None else b"") + b"}"


def _seconds(time: float) -> bytes:
    return jsontext.encode(time, "epoch")


def _removed(body: bytes) -> str | None:
    """Return what the server says of a bucket that was removed; None when it says something else."""
    try:
        error = jsontext.loads(body)["message"]["error"]
        return str(error.get("message", "")) if error["type"] == "BUCKET_REMOVED" else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


FORMAT = InitialState
