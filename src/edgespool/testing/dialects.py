"""What a request to the collector says: its events, and the reply its sender expects.

A dialect reads one request and names the events in it. Two are built in, `cloudevents` and `json`; a vendor
adds one by putting a module `dialect` with an attribute `DIALECT` into its own package, and changes nothing here.

This module must not know sockets, SQLite or fault settings. A dialect sees the store only through `State`.
"""

from __future__ import annotations

import http
import importlib
import importlib.util
import json
import pkgutil
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = [
    "BODILESS",
    "JSON_TYPE",
    "Arrival",
    "BareJson",
    "CloudEvents",
    "Dialect",
    "Headers",
    "Refused",
    "Reply",
    "Request",
    "State",
    "Taken",
    "decode_content",
    "decode_objects",
    "find_dialects",
    "json_reply",
    "refuse",
]

JSON_TYPE = "application/json"
# Replies that HTTP forbids a body.
BODILESS = frozenset({204, 304})


class Headers(Mapping[str, str]):
    """Read-only HTTP headers whose names compare without case. Repeated headers are joined with `", "`."""

    __slots__ = ("_items",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        """Take (name, value) pairs in the order they arrived; the first spelling of a name is kept."""
        items: dict[str, tuple[str, str]] = {}
        for name, value in pairs:
            seen = items.get(name.lower())
            items[name.lower()] = (name, value) if seen is None else (seen[0], f"{seen[1]}, {value}")
        self._items = items

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


@dataclass(frozen=True)
class Request:
    """One request as a dialect sees it: `body` is whole and no longer compressed; `query` is the raw text after `?`."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes

    @property
    def media_type(self) -> str:
        """The content type in lower case without its parameters; empty when there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Reply:
    """A reply: status, extra headers and body. `Content-Length`, `Date` and `Connection` are added when it is sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def head(self, *, length: int, date: str, close: bool) -> bytes:
        """Return the status line and headers as they go over the wire.

        `length` is the Content-Length to claim, in bytes; `date` an HTTP date; `close` says that the connection
        ends with this reply. A header of the reply's own wins over an added one of that name.
        """
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:  # a status nobody registered is a fair thing to test with
            phrase = "Unregistered"
        own = {name.lower() for name in self.headers}
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in self.headers.items())]
        if "date" not in own:
            lines.append(f"Date: {date}")
        if "content-length" not in own and self.status not in BODILESS:
            lines.append(f"Content-Length: {length}")
        if close and "connection" not in own:
            lines.append("Connection: close")
        return "\r\n".join((*lines, "", "")).encode("latin-1")


def json_reply(status: int, content: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply whose body is `content` as JSON, with `headers` beside the content type."""
    return Reply(status, {"Content-Type": JSON_TYPE, **(headers or {})}, json.dumps(content).encode())


class Refused(Exception):
    """The request is answered with `reply` and nothing of it is stored."""

    def __init__(self, reply: Reply) -> None:
        """Carry the reply to send."""
        super().__init__(f"refused with {reply.status}")
        self.reply = reply


def refuse(status: int, error: str, headers: Mapping[str, str] | None = None) -> Refused:
    """Return the exception that answers `status` with `{"error": error}`."""
    return Refused(json_reply(status, {"error": error}, headers))


class Arrival(NamedTuple):
    """One event as a dialect read it.

    `identity` is what a repeat is known by, within the dialect; None says that the event is new whatever it holds.
    `id` is what `Collector.ids()` lists; None stands for the identity. `text` is the event's own JSON as it
    arrived, where the dialect has it; else `event` is encoded. `extra` holds what stood outside the event, such as
    a bucket named in a header. `data`, `event` and `extra` are JSON values.
    """

    name: str
    data: Any
    event: dict[str, Any]
    identity: str | None = None
    id: str | None = None
    text: str | None = None
    extra: Mapping[str, Any] | None = None


class Taken(NamedTuple):
    """What the store did with a request's events: how many were new, how many repeats."""

    new: int
    repeats: int


class State(Protocol):
    """A dialect's own key-value table. Values are JSON values.

    Writes are part of the request's transaction: a refused request leaves no trace here either.
    """

    def get(self, key: str) -> Any:
        """Return the value at `key`, or None."""

    def set(self, key: str, value: Any) -> None:
        """Keep `value` at `key`."""

    def keys(self) -> list[str]:
        """Return the keys in order."""


class Dialect(Protocol):
    """How one kind of sender talks. An instance serves many threads, one request at a time."""

    @property
    def name(self) -> str:
        """The dialect's name, unique among dialects; it stands beside every event that it read."""

    def matches(self, request: Request) -> bool:
        """Say whether the request is of this dialect, by method, path and headers. The first that says yes has it."""

    def decode(self, request: Request, state: State) -> Sequence[Arrival]:
        """Return the request's events in order; none at all is fine for a request that carries none.

        Raises ValueError for a malformed request (answered 400) and Refused for a reply of the dialect's own.
        """

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Return the reply to a request whose events are stored, and committed once this returns."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_SPACE = re.compile(r"[ \t\n\r]*")


def decode_objects(body: bytes) -> list[tuple[dict[str, Any], str]]:
    """Return each object of a JSON array, or the one object that is the body, with its text as it arrived.

    Raises ValueError for what is not UTF-8, not JSON (NaN is not), or holds something other than objects.
    """
    # The text of each element is cut from the body rather than encoded again: less work, and exact.
    text = body.decode("utf-8")
    skip = _SPACE.match
    found: list[tuple[dict[str, Any], str]] = []

    def after_space(at: int) -> int:
        match = skip(text, at)
        return at if match is None else match.end()

    start = after_space(0)
    many = text.startswith("[", start)
    at = after_space(start + 1) if many else start
    ended = many and text.startswith("]", at)
    try:
        while not ended:
            value, end = _DECODER.raw_decode(text, at)
            if not isinstance(value, dict):
                raise ValueError(f"element {len(found)} is not an object")
            found.append((value, text[at:end]))
            at = after_space(end)
            ended = not many or text.startswith("]", at)
            if not ended:
                if not text.startswith(",", at):
                    raise ValueError(f"expected ',' or ']' at character {at}")
                at = after_space(at + 1)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if many:
        at = after_space(at + 1)
    if at != len(text):
        raise ValueError(f"more text after the end at character {at}")
    return found


def _taken_reply(taken: Taken) -> Reply:
    return json_reply(200, {"new": taken.new, "repeats": taken.repeats})


class CloudEvents:
    """CloudEvents 1.0 in structured mode, one or a batch. An equal (source, id) is a repeat."""

    name = "cloudevents"
    _batch = "application/cloudevents-batch+json"
    _single = "application/cloudevents+json"

    def matches(self, request: Request) -> bool:
        """Match a POST of either CloudEvents JSON type, at any path."""
        return request.method == "POST" and request.media_type in (self._batch, self._single)

    def decode(self, request: Request, state: State) -> list[Arrival]:
        """Read the events; ValueError when one misses an attribute that the specification requires."""
        is_array = request.body.lstrip(b" \t\r\n").startswith(b"[")
        if is_array != (request.media_type == self._batch):
            raise ValueError(f"a body of type {request.media_type} is {'one object' if is_array else 'an array'}")
        arrivals = []
        for index, (event, text) in enumerate(decode_objects(request.body)):
            for key in ("source", "id", "type"):
                if not isinstance(event.get(key), str) or not event[key]:
                    raise ValueError(f"event {index}: {key} is missing, empty or no string")
            source, id_, type_ = event["source"], event["id"], event["type"]
            if event.get("specversion") != "1.0":
                raise ValueError(f"event {index}: specversion is not 1.0")
            # The specification allows a source no control characters, so the first newline parts the two without doubt.
            if "\n" in source:
                raise ValueError(f"event {index}: a control character in the source")
            data = event["data"] if "data" in event else event.get("data_base64")
            arrivals.append(Arrival(type_, data, event, f"{source}\n{id_}", id_, text))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer 200 with the counts of new events and repeats."""
        return _taken_reply(taken)


class BareJson:
    """A bare JSON array of objects, or one object. With an Idempotency-Key an equal (key, index) is a repeat."""

    name = "json"

    def matches(self, request: Request) -> bool:
        """Match a POST of `application/json`, at any path."""
        return request.method == "POST" and request.media_type == JSON_TYPE

    def decode(self, request: Request, state: State) -> list[Arrival]:
        """Read the events: the data is the whole object, the name its member `name` or `type` where that is text."""
        key = request.headers.get("Idempotency-Key")
        arrivals = []
        for index, (event, text) in enumerate(decode_objects(request.body)):
            names = (event.get("name"), event.get("type"))
            name = next((value for value in names if isinstance(value, str)), "")
            id_ = event.get("id")
            identity = None if key is None else f"{key}/{index}"
            arrivals.append(Arrival(name, event, event, identity, id_ if isinstance(id_, str) else None, text))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer 200 with the counts of new events and repeats."""
        return _taken_reply(taken)


def find_dialects(package: str = "edgespool.vendors") -> list[Dialect]:
    """Return the dialects of `package`'s subpackages, by subpackage name, then the built-in ones.

    A vendor whose dialect needs a library that is not installed is left out; any other import error is raised, and
    TypeError for a `dialect` module without `DIALECT`.
    """
    found: list[Dialect] = []
    spec = importlib.util.find_spec(package)
    places = sorted(
        pkgutil.iter_modules(spec.submodule_search_locations if spec and spec.submodule_search_locations else []),
        key=lambda place: place.name,
    )
    root = package.partition(".")[0]
    for place in places:
        if not place.ispkg:
            continue
        name = f"{package}.{place.name}.dialect"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing != name and missing.partition(".")[0] == root:
                raise  # one of the package's own modules: a mistake, not an absent extra
            continue
        dialect: Dialect | None = getattr(module, "DIALECT", None)
        if dialect is None:
            raise TypeError(f"{name} has no DIALECT")
        found.append(dialect)
    # Vendors come first: what they match is narrower than "any JSON at any path".
    return [*found, CloudEvents(), BareJson()]


def decode_content(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo the Content-Encoding `encoding` (`gzip`, `identity` or empty), to at most `limit` bytes.

    Raises Refused: 415 for another encoding, 413 past the limit, 400 for what is not gzip.
    """
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise refuse(415, f"content encoding {coding} is not supported", {"Accept-Encoding": "gzip, identity"})
    parts: list[bytes] = []
    room = limit
    rest = body
    try:
        while rest or not parts:
            member = zlib.decompressobj(31)
            # One byte more than there is room for tells "just fits" from "too much".
            part = member.decompress(rest, room + 1)
            room -= len(part)
            if room < 0:
                raise refuse(413, f"the body is larger than {limit} bytes once decompressed")
            if not member.eof:
                raise refuse(400, "the gzip body ends too early")
            parts.append(part)
            rest = member.unused_data
    except zlib.error as error:
        raise refuse(400, f"the body is not gzip: {error}") from error
    return b"".join(parts)
