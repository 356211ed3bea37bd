"""What users type, turned into values; what cannot be is a usage error that says what was expected."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .. import jsontext
from ..errors import EventError
from ..event import Event

__all__ = ["Duration", "Moment", "event_of_arguments", "event_of_line", "seconds_of"]

if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
else:  # not generic before click 8.2
    _Seconds = click.ParamType

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)?", re.ASCII)
_KEYS = ("name", "data", "time", "id", "route")


def seconds_of(text: str) -> float | None:
    """Return `90`, `90s`, `15min`, `2h`, `3d` or `1w` as seconds; None when it is none of these."""
    match = _LENGTH.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2] or "s"] if match else None


class Duration(_Seconds):
    """A length of time, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        seconds = seconds_of(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no length of time; say 90s, 15min, 2h, 3d or 1w", param, ctx)
        return seconds


class Moment(_Seconds):
    """A point in time, in seconds since 1970: a date, a date and time (local, unless it has an offset), or how long
    ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds since 1970."""
        if isinstance(value, (int, float)):
            return float(value)
        ago = seconds_of(str(value)) if str(value).strip()[-1:].isalpha() else None
        if ago is not None:
            return time.time() - ago
        try:
            return _epoch(str(value).strip())
        except ValueError:
            self.fail(
                f"{value!r} is no time; say 2026-03-01, 2026-03-01T14:30, 2026-03-01T14:30Z, or 2h for two hours ago",
                param,
                ctx,
            )


def _epoch(text: str) -> float:
    """Return an ISO 8601 time as seconds since 1970; raises ValueError."""
    try:
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text).timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from None


def event_of_arguments(
    name: str, pairs: Sequence[str], data: str | None, time: float | None, id: str | None, route: str
) -> Event:
    """Return the event that `NAME key=value key:=json …` stands for.

    Raises:
        click.UsageError: a pair or the data cannot be understood.
        EventError: the event cannot be.
    """
    values: dict[str, Any] = {}
    if data is not None:
        try:
            given = jsontext.loads(data)
        except ValueError as error:
            raise click.UsageError(f"--data: no JSON ({error})") from None
        if not isinstance(given, dict):
            raise click.UsageError("--data: a JSON object is needed")
        values.update(given)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        is_json = key.endswith(":")
        key = key[:-1] if is_json else key
        if not equals or not key:
            raise click.UsageError(f"{pair!r}: key=text or key:=json is needed")
        if is_json:
            try:
                values[key] = jsontext.loads(text)
            except ValueError as error:
                raise click.UsageError(f"{pair!r}: no JSON after ':=' ({error})") from None
        else:
            values[key] = text
    jsontext.encode(values)  # before a queue is made for it
    return Event(name, values, time, id, route)


def event_of_line(line: bytes) -> Event:
    """Return the event that a line of JSON stands for; raises EventError that says what is wrong with it."""
    try:
        value = jsontext.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EventError(f"not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise EventError(f"no JSON ({error})") from None
    if not isinstance(value, dict):
        raise EventError(f"a JSON object is needed, not {_kind(value)}")
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        raise EventError(f"unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    if "name" not in value:
        raise EventError("'name' is missing")
    given = {key: each for key, each in value.items() if each is not None}
    data, when = given.get("data", {}), given.get("time")
    if not isinstance(data, Mapping):
        raise EventError(f"'data' is a JSON object, not {_kind(data)}")
    if isinstance(when, str):
        try:
            when = _epoch(when)
        except ValueError:
            raise EventError(f"'time' is seconds since 1970 or like 2026-03-01T14:30:00Z, not {when!r}") from None
    return Event(value["name"], data, when, given.get("id"), given.get("route", ""))


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")
