"""The wire of ironSource Atom: many events of one stream as one bulk request. Knows no queue and no transport.

Source: the requests that the original client (1.5.1) makes. A request is a JSON object:

    {"table": STREAM, "data": TEXT, "auth": HEX, "bulk": true}

TEXT is itself JSON text: of a list of strings, each of which is the text of an event. HEX is the HMAC-SHA256 of TEXT
under the stream's key; it is absent when there is no key. An event carries neither an id nor a time.

An event is stored as `{"signed":FLAG,"data":STRING}`, STRING being as it stands in TEXT, so that TEXT is stored bytes
joined. FLAG says whether a key was in use when it was recorded: true means that it may only go out signed, and waits
until the key is known (no key is ever on the disk); false, that it goes out without; null, that nobody said so, and
that it is signed if a key is known. A route is a stream.

What is signed is always ASCII, as the original's is: no doubt about encodings can make a signature wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ... import jsontext
from ...config import Settings
from ...errors import ConfigError
from ...event import Batch, StoredEvent, check_text, id_text, new_id
from ...interfaces import Request, Unready
from ...outcome import Outcome, Reply, outcome_of_status
from . import config
from .keys import Keys, signature

__all__ = ["FORMAT", "HEADERS", "AtomFormat", "Tracked", "body_of", "text_of", "texts"]

HEADERS: Mapping[str, str] = {
    "Content-Type": "application/json",
    "x-ironsource-atom-sdk-type": config.SDK_TYPE,
    "x-ironsource-atom-sdk-version": config.SDK_VERSION,
}

# How a stored event begins, by its flag.
_HEADS: Mapping[bool | None, bytes] = {
    True: b'{"signed":true,"data":',
    False: b'{"signed":false,"data":',
    None: b'{"signed":null,"data":',
}
_BEYOND_ASCII = re.compile("[^\x00-\x7f]")


class Tracked(dict[str, Any]):
    """What `track` hands to `encode`: an event's text, and whether it is to be signed."""

    def __init__(self, text: str, signed: bool) -> None:
        super().__init__(data=text, signed=signed)
        self.text = text
        self.signed = signed


def text_of(data: Any) -> str:
    """Return the text that stands for an event: text is taken as it is, everything else becomes JSON text, in ASCII.

    Raises:
        EventError: it cannot be said in JSON; the message names the field.
    """
    if isinstance(data, str):
        check_text("data", data)
        return data
    text = jsontext.encode(data).decode()
    # Beyond ASCII JSON text has nothing but what stands within strings.
    return text if text.isascii() else _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def body_of(stream: str, data: str, key: str, *, bulk: bool) -> bytes:
    """Return a request's body; `data` is JSON text, signed unless the key is empty."""
    members: dict[str, Any] = {"table": stream, "data": data}
    if key:
        members["auth"] = signature(key, data)
    if bulk:
        members["bulk"] = True
    return json.dumps(members, separators=(",", ":")).encode()


def _split(event: StoredEvent) -> tuple[bool | None, bytes]:
    """Return a stored event's flag and its text as a JSON string; raises ValueError when it is none of ours."""
    for flag, head in _HEADS.items():
        if event.payload.startswith(head):
            return flag, event.payload[len(head) : -1]
    raise ValueError("no stored Atom event")


class AtomFormat:
    """Atom's bulk requests. `source` is taken for the sake of one signature for all formats; it is not sent.

    `keys` are the streams' HMAC keys; `batch_bytes` the bytes of events in one request, unless one alone has more.
    """

    name = "atom"

    def __init__(self, source: str = "") -> None:
        self.source = source
        self.keys = Keys()
        self.batch_bytes: float = config.BATCH_BYTES_SIZE

    # --- a Format ---------------------------------------------------------------------------------------------------

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return an event as it is stored. The wire has no place for its name, id and time: put them into the data."""
        if isinstance(data, Tracked):
            text, flag = data.text, data.signed
        else:
            text, flag = text_of(data), None
        return _HEADS[flag] + json.dumps(text).encode() + b"}"

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many go into one request: those with the first one's flag, up to `batch_bytes`."""
        first, text = _split(events[0])
        size = len(text)
        for count, event in enumerate(events[1:], 1):
            flag, text = _split(event)
            size += len(text)
            if flag is not first or size > self.batch_bytes:
                return count
        return len(events)

    def request(self, batch: Batch) -> Request:
        """Return the bulk request for a batch, whose events have one flag.

        Raises:
            Unready: the stream's key is not known, or the batch has no stream.
        """
        stream = batch.route
        if not stream:
            raise Unready("the events have no stream: an event's route is its stream; a replay can be given one")
        split = [_split(event) for event in batch.events]
        signed = split[0][0]
        if any(flag is not signed for flag, _ in split):
            raise ValueError("signed and unsigned events cannot share a request")
        key = ""
        if signed:
            key = self.keys.need(stream)
            if not key:
                raise Unready(
                    f"the auth key of stream {stream!r} is not known to this program: give it to track(), to the "
                    "tracker, or as a setting (auth, or keys)"
                )
        elif signed is None:
            key = self.keys.get(stream)
        data = jsontext.array([text for _, text in split]).decode()
        return Request(body_of(stream, data, key, bulk=True), HEADERS, path="bulk", compressible=False)

    def render(self, event: StoredEvent) -> bytes:
        """Return the event as it is stored; it has no time that could be put right."""
        return event.payload

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from a decoded `render`, or from an event's text or data as other programs keep it."""
        flag: bool | None = None
        if isinstance(value, dict) and value.keys() == {"signed", "data"} and isinstance(value["data"], str):
            if value["signed"] is not None and not isinstance(value["signed"], bool):
                raise ValueError("no Atom event: 'signed' is neither true, false nor null")
            flag, text = value["signed"], text_of(value["data"])
        elif isinstance(value, bytes):
            raise ValueError("no Atom event: it is binary")
        else:
            text = text_of(value)
        payload = _HEADS[flag] + json.dumps(text).encode() + b"}"
        return StoredEvent(0, payload, time or 0.0, id or id_text(new_id()), False)

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says. Unlike the original: 429 is waited for, and a redirect is no success."""
        return outcome_of_status(reply)

    # --- a Service --------------------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> Settings:
        """Take the keys: `auth` is the key of all streams that have none of their own in `keys`."""
        auth = settings.auth
        if isinstance(auth, tuple):
            auth = ":".join(auth)  # a key may hold a colon
        if auth is not None and not isinstance(auth, str):
            raise ConfigError("auth: Atom's auth key is a text")
        if auth:
            self.keys.set_default(auth)
        for stream, key in (settings.keys or {}).items():
            self.keys.give(stream, key)
        url = settings.url or config.ATOM_ENDPOINT
        # Bulk requests go to the endpoint's address with "bulk" appended.
        return replace(settings, url=url if url.endswith("/") else url + "/", auth=None, keys=None)

    def secrets(self) -> Iterable[str]:
        """Return all keys."""
        return self.keys.all()


def texts(batch: Batch) -> list[str]:
    """Return the events of a batch as the texts that were tracked."""
    return [json.loads(_split(event)[1]) for event in batch.events]


FORMAT = AtomFormat
