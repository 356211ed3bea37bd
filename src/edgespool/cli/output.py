"""What commands say and how: text for people, JSON for machines, nothing of either in the other's way."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any
from unicodedata import category

import click

from .. import jsontext
from ..event import StoredEvent
from ..interfaces import Format

__all__ = [
    "as_value",
    "bytes_text",
    "count",
    "drop_stdout",
    "fill_standard_files",
    "json_bytes",
    "json_line",
    "moment",
    "say",
    "seconds_text",
    "table",
    "terminal",
    "visible",
    "warn",
]

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats such as a change of direction, line ends


def warn(text: str) -> None:
    """Say something on standard error."""
    click.echo(visible(text), err=True)


def say(text: str) -> None:
    """Write text for people to standard output."""
    click.echo(visible(text))


def visible(text: str) -> str:
    """Return text whose control characters can do nothing to a terminal: names, ids and reasons come from anywhere."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    kept = (c if c in "\n\t" or category(c) not in _UNSEEN else c.encode("unicode_escape").decode() for c in text)
    return "".join(kept)


def json_line(value: Any, *, indent: int | None = None) -> None:
    """Write a value to standard output as one JSON document, UTF-8 whatever the locale says, and flush it."""
    click.echo(json.dumps(value, indent=indent).encode("ascii"))


def json_bytes(value: Any) -> bytes:
    """Return a value as one line of JSON in UTF-8, with its line feed."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate: JSON can only say it escaped
        return json.dumps(value).encode() + b"\n"


def drop_stdout() -> None:
    """Let standard output lead nowhere, once its reader has gone: what is in its buffer must not fail at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def fill_standard_files() -> None:
    """Put /dev/null where standard input, output or error was closed by the caller (`>&-`).

    The streams in `sys` stay None. But the next file to be opened would get that number, and what a library or another
    process writes to standard output or error would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def terminal(err: bool = False) -> bool:
    """Whether standard output (or error) is a terminal that can be drawn on."""
    stream = sys.stderr if err else sys.stdout
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def count(number: int, noun: str) -> str:
    """Return `1 event`, `2 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bytes_text(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """Return a length of time for people, in its two largest units."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def moment(seconds: float) -> str:
    """Return seconds since 1970 as local time with its offset, for people."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # a clock that was far off
        return f"{seconds:.0f} s after 1970"


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Return pairs as aligned lines, without colour: it is also read over slow lines and in logs."""
    pairs = [(name, str(value)) for name, value in rows]
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in pairs)


def as_value(route: str, event: StoredEvent, format: Format) -> dict[str, Any]:
    """Return a waiting event as a JSON value: its id, time, route, and `event`, which is what will be sent."""
    rendered = format.render(event)
    try:
        value = jsontext.loads(rendered)
    except ValueError:
        import base64

        value = {"base64": base64.b64encode(rendered).decode("ascii")}
    return {"id": event.id, "time": event.time, "route": route, "event": value}
