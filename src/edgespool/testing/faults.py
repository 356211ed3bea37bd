"""What the collector is told to do wrong, and the pure decision what that means for one request.

`Faults` is one frozen set of settings, `FaultBox` holds the set in force and counts it down. The functions
`refusal`, `poisoned` and `sending` turn settings and facts into values; only the collector acts on them.

This module must not know sockets, threads of the server, or the store.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .dialects import BODILESS, JSON_TYPE, Arrival, Headers, Reply, refuse

__all__ = ["FaultBox", "Faults", "Poison", "Sending", "poisoned", "refusal", "sending"]

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Poison:
    """Which event spoils its whole batch: every one named `name`, or whose `field` holds `value`.

    `field` is a dotted path into the decoded event (`data.reading.0`); a number is an index where a list stands.
    Raises ValueError unless exactly one of `name` and `field` is given.
    """

    name: str | None = None
    field: str | None = None
    value: Any = None

    def __post_init__(self) -> None:
        """Check the rule."""
        for given in (self.name, self.field):
            if given is not None and not isinstance(given, str):
                raise ValueError("a poison rule's name and field are text")
        if (self.name is None) == (self.field is None):
            raise ValueError("a poison rule has either a name or a field")

    def spoils(self, arrival: Arrival) -> bool:
        """Say whether `arrival` is such an event."""
        if self.field is None:
            return arrival.name == self.name
        at: Any = arrival.event
        for step in self.field.split("."):
            if isinstance(at, dict) and step in at:
                at = at[step]
            elif isinstance(at, list) and step.isdecimal() and int(step) < len(at):
                at = at[int(step)]
            else:
                return False
        # JSON keeps true and 1 apart; Python's == does not.
        return bool(at == self.value) and isinstance(at, bool) == isinstance(self.value, bool)


@dataclass(frozen=True)
class Faults:
    """One set of faults. The defaults are a healthy server.

    `status`        answer this status (200–599) and store nothing; `headers` and `body` (text) go with it
    `failure_rate`  only this share of requests, 0 to 1, gets `status` (503 unless set); `seed` makes it repeatable
    `redirect`      answer with this `Location`, status 307 unless `status` says otherwise
    `latency`       wait this many seconds before the reply, after the commit
    `lost_reply`    commit, then close the connection without a reply
    `reset`         `"before"`: reset the connection before the body is read; `"midway"`: after half of the reply
    `max_bytes`     answer 413 to a body of more bytes than this, as it came over the wire
    `poison`        answer 400 to a batch that holds a poisonous event, and store nothing of it
    `refuse_gzip`   answer 415 to a gzip body
    `huge_reply`    pad the reply's body with spaces to this many bytes
    `trickle`       send the reply a byte at a time, this many seconds apart
    `wrong_length`  claim this many bytes more (or, negative, fewer) than the reply's body has, then close
    `path`          leave requests alone whose path does not begin with this
    `times`         be healthy again after this many requests; None means until healed

    Raises ValueError for a value out of range, or one that would do nothing.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    failure_rate: float | None = None
    seed: int | None = None
    redirect: str | None = None
    latency: float = 0.0
    lost_reply: bool = False
    reset: Literal["", "before", "midway"] = ""
    max_bytes: int | None = None
    poison: Poison | None = None
    refuse_gzip: bool = False
    huge_reply: int = 0
    trickle: float = 0.0
    wrong_length: int = 0
    path: str = ""
    times: int | None = None

    def __post_init__(self) -> None:
        """Check every value; settings also come over HTTP, so types are checked as well as ranges."""
        _number("status", self.status, 200, 599, whole=True)
        _number("failure_rate", self.failure_rate, 0, 1)
        _number("seed", self.seed, whole=True)
        _number("latency", self.latency, 0, 3600)
        _number("max_bytes", self.max_bytes, 0, whole=True)
        _number("huge_reply", self.huge_reply, 0, whole=True)
        _number("trickle", self.trickle, 0, 3600)
        _number("wrong_length", self.wrong_length, whole=True)
        _number("times", self.times, 1, whole=True)
        for name in ("latency", "huge_reply", "trickle", "wrong_length"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is not a number")
        for name in ("lost_reply", "refuse_gzip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is neither true nor false")
        if self.reset not in ("", "before", "midway"):
            raise ValueError('reset is "before" or "midway"')
        for name in ("body", "path"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is not text")
        if not isinstance(self.headers, Mapping):
            raise ValueError("headers is not an object")
        for name, value in (*self.headers.items(), ("Location", "" if self.redirect is None else self.redirect)):
            _header(name, value)
        if isinstance(self.poison, Mapping):
            object.__setattr__(self, "poison", _fields(Poison, self.poison))
        if self.poison is not None and not isinstance(self.poison, Poison):
            raise ValueError("poison is not a rule")
        if self.failing is None and (self.headers or self.body):
            raise ValueError("headers and body need a status, a failure_rate or a redirect to go with")
        if self.seed is not None and self.failure_rate is None:
            raise ValueError("seed needs a failure_rate")

    @property
    def failing(self) -> int | None:
        """The status to fail with, or None when requests are not failed."""
        if self.status is not None:
            return self.status
        if self.redirect is not None:
            return 307
        return None if self.failure_rate is None else 503

    @property
    def replies(self) -> bool:
        """Whether a client gets a whole reply of the right length."""
        return not (self.lost_reply or self.reset)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that differ from a healthy server's, as JSON values."""
        healthy = _HEALTHY
        changed = {
            part.name: getattr(self, part.name)
            for part in dataclasses.fields(self)
            if getattr(self, part.name) != getattr(healthy, part.name)
        }
        if self.poison is not None:
            rule = {"name": self.poison.name} if self.poison.field is None else dataclasses.asdict(self.poison)
            changed["poison"] = {key: value for key, value in rule.items() if key != "name" or value is not None}
        if self.headers:
            changed["headers"] = dict(self.headers)
        return changed


def _number(
    name: str, value: object, low: float | None = None, high: float | None = None, *, whole: bool = False
) -> None:
    """Raise ValueError unless `value` is None or a number from `low` to `high`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ValueError(f"{name} is not a {'whole ' if whole else ''}number")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise ValueError(f"{name} is out of range")


def _header(name: object, value: object) -> None:
    """Raise ValueError unless the pair can stand in a reply's head."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise ValueError("headers are pairs of text")
    if not name or any(mark in name + value for mark in "\r\n\0") or not (name + value).isascii():
        raise ValueError(f"{name!r} cannot be sent as a header")


def _fields(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """Build a `kind` from `given`; ValueError names what it does not know."""
    unknown = sorted(set(given) - {part.name for part in dataclasses.fields(kind)})
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    return kind(**given)


_HEALTHY = Faults()


class FaultBox:
    """The faults in force. Safe for many threads."""

    def __init__(self, rng: random.Random | None = None) -> None:
        """Start healthy. `rng` decides which requests a failure rate hits."""
        self._lock = threading.Lock()
        self._rng = rng or random.Random()  # noqa: S311 - it picks failures, not secrets
        self._faults = _HEALTHY
        self._left: int | None = None

    def set(self, faults: Faults | None = None, /, **fields: Any) -> Faults:
        """Put `faults`, or a set made of `fields`, in the place of what was set before, and return it.

        `poison` may be a mapping. Raises ValueError for an unknown or bad field.
        """
        if faults is not None and fields:
            raise ValueError("give a Faults or its fields, not both")
        made: Faults = faults if faults is not None else _fields(Faults, fields)
        with self._lock:
            self._faults, self._left = made, made.times
            if made.seed is not None:
                self._rng.seed(made.seed)
        return made

    def heal(self) -> None:
        """Be a healthy server again, from the next request on."""
        self.set(_HEALTHY)

    @property
    def current(self) -> Faults:
        """The settings that the next request on a path they apply to meets."""
        with self._lock:
            return self._faults

    def take(self, path: str) -> tuple[Faults, float]:
        """Return the settings for one request to `path` and a throw of the dice, 0 to 1; count the request."""
        with self._lock:
            faults = self._faults
            if not path.startswith(faults.path):
                return _HEALTHY, 1.0
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self._faults, self._left = _HEALTHY, None
            # No throw without need: a seeded run then depends on nothing but the requests it is about.
            return faults, self._rng.random() if faults.failure_rate is not None else 1.0


def refusal(faults: Faults, headers: Headers, size: int, roll: float) -> Reply | None:
    """Return the reply that the settings give a request before it is decoded, or None to go on.

    `size` is the body's bytes on the wire, `roll` the throw of the dice from `FaultBox.take`.
    """
    status = faults.failing
    if status is not None and (faults.failure_rate is None or roll < faults.failure_rate):
        own = dict(faults.headers)
        if faults.redirect is not None:
            own.setdefault("Location", faults.redirect)
        if not any(name.lower() == "content-type" for name in own):
            own["Content-Type"] = JSON_TYPE
        return Reply(status, own, (faults.body or f'{{"error": "told to answer {status}"}}').encode())
    if faults.refuse_gzip and headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip"):
        return refuse(415, "told to refuse gzip", {"Accept-Encoding": "identity"}).reply
    if faults.max_bytes is not None and size > faults.max_bytes:
        return refuse(413, f"told to refuse more than {faults.max_bytes} bytes").reply
    return None


def poisoned(faults: Faults, arrivals: Sequence[Arrival]) -> Reply | None:
    """Return the 400 for a batch that holds a poisonous event, or None."""
    rule = faults.poison
    if rule is None or not any(rule.spoils(arrival) for arrival in arrivals):
        return None
    return refuse(400, "told to refuse a batch that holds such an event").reply


class Sending(NamedTuple):
    """How a reply leaves: each of `pieces` is one write, `pause` seconds apart, and then `end`."""

    pieces: Iterable[bytes]
    pause: float
    end: Literal["keep", "close", "reset"]


def sending(faults: Faults, reply: Reply, *, date: str, close: bool, head_only: bool = False) -> Sending:
    """Return how `reply` goes over the wire under the settings.

    `date` is an HTTP date, `close` says that the connection ends anyway, `head_only` that the request was a HEAD.
    """
    if faults.lost_reply:
        return Sending((), 0.0, "close")
    body = b"" if reply.status in BODILESS else reply.body
    padding = max(0, faults.huge_reply - len(body)) if reply.status not in BODILESS else 0
    size = len(body) + padding
    close = close or faults.wrong_length != 0
    head = reply.head(length=max(0, size + faults.wrong_length), date=date, close=close)
    end: Literal["keep", "close"] = "close" if close else "keep"
    if head_only:
        body, padding = b"", 0
    # Head and body leave in one write: two cost 40 ms on loopback, by Nagle's algorithm and delayed acknowledgement.
    pieces: Iterable[bytes] = (head + body,)
    if padding:
        pieces = _padded(head + body, padding)
    if faults.reset == "midway":
        whole = b"".join(pieces)
        return Sending((whole[: len(whole) // 2],), 0.0, "reset")
    if faults.trickle:
        pieces = (bytes((byte,)) for piece in pieces for byte in piece)
    return Sending(pieces, faults.trickle, end)


def _padded(start: bytes, padding: int) -> Iterator[bytes]:
    """Yield `start`, then `padding` spaces, in pieces that need little memory. JSON stays JSON."""
    yield start
    filler = b" " * _CHUNK
    for _ in range(padding // _CHUNK):
        yield filler
    yield filler[: padding % _CHUNK]
