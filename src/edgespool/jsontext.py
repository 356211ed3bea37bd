"""JSON text, strictly: what cannot be said in JSON is an EventError that names the field. A leaf.

The fast path is the C encoder; only when it fails is the value walked in Python to find out which field is to blame.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from enum import Enum
from typing import Any

from .errors import EventError

__all__ = ["array", "encode", "fault", "join", "loads", "quote", "texts"]


def _is(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class, whose module is not imported for it: who has a value of it has done so."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _foreign(value: Any) -> Any:
    """Return a JSON-able stand-in for a value that the JSON encoder does not know, or raise TypeError."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if _is(value, "decimal", "Decimal"):
        if not value.is_finite():
            raise ValueError(f"{value} is not a finite number")
        return str(value)  # as text: a float would lose digits
    if _is(value, "uuid", "UUID"):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    # numpy scalars and zero-dimensional arrays, found by their method: numpy itself is never imported.
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        plain = item()
        if type(plain) is not type(value):
            return plain
    raise TypeError(f"{type(value).__name__} cannot be said in JSON")


def _make_encoder() -> Callable[[Any], str]:
    """Return a function from a value to compact JSON."""
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_foreign)
    try:
        # What JSONEncoder.encode makes anew at each call, made once: that saves a third of the time of record(). It
        # keeps no list of the containers it is in; a cycle ends in a RecursionError instead.
        fast = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, _foreign, json.encoder.encode_basestring, None, ":", ",", False, False, False
        )
        if "".join(fast({"a": [1, 2.5, "é", None]}, 0)) == plain.encode({"a": [1, 2.5, "é", None]}):
            join = "".join
            return lambda value: join(fast(value, 0))
    except (AttributeError, TypeError):  # an interpreter that does without it
        pass
    return plain.encode


_text = _make_encoder()

#: Stands between values that are encoded together. Nobody outside this process knows it, so that no value holds it.
_FENCE = os.urandom(16).hex()
_AT_ONCE = 100  # values, so that a large batch is not held in memory once more as a whole


def texts(values: Sequence[Any]) -> list[str]:
    """Return each value as compact JSON text, by one call of the encoder for many: a quarter faster.

    Raises:
        ValueError, TypeError, RecursionError: one of them cannot be encoded; `encode` tells which, and why.
    """
    made: list[str] = []
    for start in range(0, len(values), _AT_ONCE):
        chunk = values[start : start + _AT_ONCE]
        fenced = [_FENCE] * (2 * len(chunk) - 1)
        fenced[::2] = chunk
        made += _text(fenced)[1:-1].split(f',"{_FENCE}",')
    return made


def join(before: str, value: Any, behind: str) -> bytes:
    """Return a value as compact UTF-8 JSON between two pieces of valid Unicode text.

    For those who encode many thousand a second: what it raises, `fault` explains.

    Raises:
        ValueError, TypeError, RecursionError: the value cannot be encoded.
    """
    return f"{before}{_text(value)}{behind}".encode()


def encode(value: Any, what: str = "data") -> bytes:
    """Return `value` as compact UTF-8 JSON.

    Args:
        value: anything JSON can say, plus datetime, date, time, Decimal (as text), UUID, Enum, dataclasses, mappings
            and numpy scalars.
        what: how to call the value in an error.

    Raises:
        EventError: something in it cannot be said in JSON (NaN, a set, a cycle …); the message names the field.
    """
    try:
        return _text(value).encode()
    except (RecursionError, TypeError, ValueError) as error:
        raise fault(error, value, what) from None


def fault(error: Exception, value: Any, what: str = "data") -> EventError:
    """Return the error that says which field of a value `join` could not encode."""
    said = "nested too deeply to encode" if isinstance(error, RecursionError) else str(error)
    return EventError(_find(value, what, set()) or f"{what}: {said}")


#: Returns a text as a JSON string, quotes included; it must be valid Unicode.
quote: Callable[[str], str] = json.encoder.encode_basestring


def _find(value: Any, path: str, above: set[int]) -> str | None:
    """Return a sentence on the first field below `value` that cannot be encoded, or None."""
    if len(above) > 200:
        return f"{path}: nested too deeply to encode"
    if value is None or isinstance(value, (bool, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path}: {value} is not a number that JSON can say"
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return f"{path}: {value!r} holds a lone surrogate, which is not valid Unicode text"
        return None
    if id(value) in above:
        return f"{path}: a value contains itself"
    above = above | {id(value)}
    if isinstance(value, dict):
        for key, below in value.items():
            if not (key is None or isinstance(key, (str, int, float, bool))):
                return f"{path}: a key of type {type(key).__name__} ({key!r}); JSON keys are strings"
            found = _find(key, f"{path}, key {key!r}", above) or _find(below, f"{path}.{key}", above)
            if found:
                return found
        return None
    if isinstance(value, (list, tuple)):
        for number, below in enumerate(value):
            found = _find(below, f"{path}[{number}]", above)
            if found:
                return found
        return None
    try:
        return _find(_foreign(value), path, above)
    except (TypeError, ValueError) as error:
        return f"{path}: {error}"


def loads(text: bytes | str) -> Any:
    """Return the value of a JSON text; raises ValueError when it is none (also for text nested too deeply)."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def array(parts: Iterable[bytes]) -> bytes:
    """Return a JSON array of elements that are encoded already."""
    pieces = list(parts)
    if not pieces:
        return b"[]"
    # The brackets go to the outermost elements: put around the whole, they would copy it twice more.
    pieces[0] = b"[" + pieces[0]
    pieces[-1] += b"]"
    return b",".join(pieces)
