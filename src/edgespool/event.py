"""What the program records and what the queue holds. A leaf: knows no disk, no network, no format.

An event's id is a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits, so that ids made on one
device sort roughly by time and never collide across a fleet. It is made once, at record time, and never changes, which
is what lets a receiver drop the repeats after a lost reply.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple, overload

from .errors import EventError

__all__ = ["Batch", "Columns", "Event", "Record", "StoredEvent", "id_text", "new_id", "new_ids", "next_id"]

# A generator of our own: a program that calls random.seed(42) must not make the same ids at every start.
_random = random.Random()  # noqa: S311 - ids need uniqueness, not secrecy

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_TIME_LIMIT = 1 << 48


def new_id() -> bytes:
    """Return a fresh UUIDv7 as its 16 bytes."""
    milliseconds = time.time_ns() // 1_000_000
    if not 0 <= milliseconds < _TIME_LIMIT:  # a clock before 1970 or past the year 10889
        milliseconds = 0
    bits = _random.getrandbits(74)
    number = (milliseconds << 80) | _VERSION_AND_VARIANT | ((bits >> 62) << 64) | (bits & 0x3FFF_FFFF_FFFF_FFFF)
    return number.to_bytes(16, "big")


def _series() -> tuple[bytes, str, int]:
    """Draw an id, and return what those after it begin with, as bytes and as text, and the first of the rest.

    The rest is 48 bits, of which the highest is 0: room to count. Counting up within a millisecond is what RFC 9562,
    section 6.2, calls monotonic random.
    """
    first = new_id()
    return first[:10], id_text(first)[:24], int.from_bytes(first[10:], "big") >> 1


_NO_SERIES: tuple[int, bytes, str, Iterator[int]] = (-1, b"", "", iter(()))
_current = _NO_SERIES  # the millisecond, and the ids within it


def next_id() -> tuple[bytes, str]:
    """Return a fresh UUIDv7, as bytes and as text; within a millisecond the next number, which costs half as much."""
    global _current
    now = time.time_ns() // 1_000_000
    known, prefix, text, numbers = _current
    if known != now:
        prefix, text, low = _series()
        numbers = itertools.count(low)
        _current = now, prefix, text, numbers
    low = next(numbers)  # one step, so that two threads never get the same
    return prefix + low.to_bytes(6, "big"), f"{text}{low:012x}"


def _begin_anew() -> None:
    global _current
    _random.seed()
    _current = _NO_SERIES


if hasattr(os, "register_at_fork"):
    # A forked child would otherwise continue its parent's sequence.
    os.register_at_fork(after_in_child=_begin_anew)


def new_ids(count: int) -> tuple[list[bytes], list[str]]:
    """Return so many fresh UUIDv7, as bytes and as text: one that is drawn, then the numbers after it."""
    prefix, text, low = _series()
    numbers = range(low, low + count)
    text += "%012x"
    return [prefix + number.to_bytes(6, "big") for number in numbers], [text % number for number in numbers]


def id_text(raw: bytes | str) -> str:
    """Return an event id as text: 16 bytes become the usual UUID form, text stays as it is."""
    if isinstance(raw, str):
        return raw
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


@dataclass(frozen=True)
class Event:
    """One event for :meth:`edgespool.Client.record_event`.

    Args:
        name: what happened, e.g. ``"temperature"``; becomes the CloudEvents ``type``. Not empty.
        data: the values, anything JSON can say, plus datetime, date, Decimal, UUID, Enum, dataclasses, numpy scalars.
        time: when it happened: seconds since 1970 (UTC), or a datetime (a naive one is local time). None: now.
        id: an id of your own, a non-empty string that is unique for this device. None: a fresh UUIDv7.
        route: events of one route stay in order and never wait for another route. Empty: the default route.

    Raises:
        EventError: an argument has the wrong type or is empty.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    time: float | datetime | None = None
    id: str | None = None
    route: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise EventError(f"event name: a non-empty string is needed, not {self.name!r}")
        if type(self.data) is not dict and not isinstance(self.data, Mapping):  # the first is what costs nothing
            raise EventError(f"event data: a mapping is needed, not {type(self.data).__name__}")
        if self.id is not None and (not isinstance(self.id, str) or not self.id):
            raise EventError(f"event id: a non-empty string is needed, not {self.id!r}")
        if not isinstance(self.route, str):
            raise EventError(f"event route: a string is needed, not {type(self.route).__name__}")
        if not (self.name.isascii() and self.route.isascii() and self.id is None):
            for what, text in (("name", self.name), ("id", self.id or ""), ("route", self.route)):
                check_text(what, text)
        if self.time is not None:
            self.epoch()

    def epoch(self) -> float | None:
        """Return the event's time in seconds since 1970, or None for "now".

        Raises:
            EventError: the time is no finite number of seconds that a calendar can show, and no datetime.
        """
        when = self.time
        if when is None:
            return None
        if isinstance(when, datetime):
            when = when.timestamp()
        if isinstance(when, bool) or not isinstance(when, (int, float)):
            raise EventError(f"event time: seconds since 1970 or a datetime is needed, not {type(when).__name__}")
        try:
            datetime.fromtimestamp(when, timezone.utc)
        except (ValueError, OverflowError, OSError) as error:
            raise EventError(f"event time: {when!r} is not a time a calendar can show (seconds since 1970?)") from error
        return float(when) + 0.0  # -0.0 would come back from the disk as 0.0, and not fit its checksum


def check_text(what: str, text: str) -> None:
    """Raise EventError unless the text can be written as UTF-8 (a lone surrogate cannot)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EventError(f"event {what}: {text!r} holds a lone surrogate, which is not valid Unicode text") from error


class Record(NamedTuple):
    """An encoded event on its way into the queue."""

    payload: bytes  # the event as it will be sent
    id: bytes | str  # 16 bytes of UUIDv7, or the user's own text
    time: float  # seconds since 1970 by the device's clock
    mono: int  # microseconds of the boot clock
    route: str = ""
    time_given: bool = False  # the user gave the time: it is never corrected


class StoredEvent(NamedTuple):
    """An event as the queue hands it out."""

    rowid: int  # the queue's own key; increases along a route
    payload: bytes
    time: float
    raw_id: bytes | str
    corrected: bool  # the time was put right after it was taken with a wrong clock

    @property
    def id(self) -> str:
        """The event's id as text."""
        return id_text(self.raw_id)


class Columns(Sequence[StoredEvent]):
    """Events as the queue reads them, column by column. Each is made only for who asks for it: most never are.

    The lists belong together, and are not to be changed.
    """

    __slots__ = ("corrected", "payloads", "raw_ids", "rowids", "times")

    def __init__(
        self, rowids: Sequence[int] = (), payloads: Sequence[bytes] = (), times: Sequence[float] = (),
        raw_ids: Sequence[bytes | str] = (), corrected: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        self.rowids = list(rowids)
        self.payloads = list(payloads)
        self.times = list(times)
        self.raw_ids = list(raw_ids)
        self.corrected = list(corrected)

    def __len__(self) -> int:
        return len(self.rowids)

    @overload
    def __getitem__(self, index: int) -> StoredEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Columns: ...
    def __getitem__(self, index: int | slice) -> StoredEvent | Columns:
        if isinstance(index, slice):
            return Columns(
                self.rowids[index], self.payloads[index], self.times[index], self.raw_ids[index], self.corrected[index]
            )
        return StoredEvent(
            self.rowids[index], self.payloads[index], self.times[index], self.raw_ids[index], self.corrected[index]
        )

    def __iter__(self) -> Iterator[StoredEvent]:
        columns = zip(self.rowids, self.payloads, self.times, self.raw_ids, self.corrected, strict=True)
        return map(StoredEvent._make, columns)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Columns], tuple[list[Any], ...]]:
        # Pickle's old protocols, 0 and 1, do not know what to do with __slots__.
        return Columns, (self.rowids, self.payloads, self.times, self.raw_ids, self.corrected)

    def __repr__(self) -> str:
        return repr(list(self))

    def append(self, event: StoredEvent) -> None:
        """Put an event to the end."""
        for column, value in zip(
            (self.rowids, self.payloads, self.times, self.raw_ids, self.corrected), event, strict=True
        ):
            column.append(value)  # type: ignore[attr-defined]

    def extend(
        self, rowids: Sequence[int], payloads: Sequence[bytes], times: Sequence[float], raw_ids: Sequence[bytes | str]
    ) -> None:
        """Put events to the end whose times are as they were recorded."""
        self.rowids += rowids
        self.payloads += payloads
        self.times += times
        self.raw_ids += raw_ids
        self.corrected += [False] * len(rowids)


class Batch(NamedTuple):
    """Events of one route, in order, leased to one sender."""

    route: str
    events: Sequence[StoredEvent]

    def __len__(self) -> int:
        return len(self.events)

    @property
    def columns(self) -> Columns:
        """The events column by column: what is needed of all of them is there at once."""
        events = self.events
        return events if isinstance(events, Columns) else Columns(*zip(*events, strict=True))

    @property
    def ids(self) -> list[str]:
        """The events' ids as text, in order."""
        return list(map(id_text, self.columns.raw_ids))

    @property
    def payload_bytes(self) -> int:
        """The sum of the payloads' sizes in bytes."""
        return sum(map(len, self.columns.payloads))

    def cut(self, count: int) -> tuple[Batch, Batch]:
        """Return the first `count` events and the rest."""
        return Batch(self.route, self.events[:count]), Batch(self.route, self.events[count:])


def _batch_of(cls: type[Batch], fields: Iterable[Any]) -> Batch:
    """Make a batch from its fields; `_replace` uses it, too."""
    return cls(*fields)


# NamedTuple's own asks for the len() of what it has made, which is the number of events here. It may not be replaced in
# the class's body.
Batch._make = classmethod(_batch_of)  # type: ignore[assignment]
