"""Python values as the fields of protobuf messages: the "data types mapping" of PaltaBrain's documentation.

    boolean    bool      bool                      array<T>   repeated T        list (or tuple)
    decimal    Decimal   string                    map<T>     map<string, T>    dict with str keys
    enum       IntEnum   sint64
    integer    int       sint64
    string     str       string
    timestamp  datetime  sint64, milliseconds since 1970 in UTC

Whatever a field does not take raises what protobuf raises (TypeError, ValueError, AttributeError). Knows no queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

__all__ = ["milliseconds", "set_proto"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DIGITS = 100  # far past what NUMBER(x, y) holds; written out, 1E+1000000 would fill a small memory


def milliseconds(moment: datetime) -> int:
    """Return a datetime as milliseconds since 1970, rounded down. A naive one is UTC; any other is converted to it."""
    aware = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return (aware - _EPOCH) // timedelta(milliseconds=1)


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError(f"{value} is not a decimal number that can be stored")
    return format(value, "f") if abs(value.adjusted()) < _DIGITS else str(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, datetime):
        return milliseconds(value)
    if isinstance(value, IntEnum):
        return int(value)
    return value


def set_proto(message: Any, properties: Mapping[str, Any]) -> None:
    """Write properties into the fields of a protobuf message that are called the same.

    Args:
        message: a protobuf message.
        properties: field name -> value; None is passed over, a dict fills a map, a list or tuple a repeated field.

    Raises:
        AttributeError: the message has no such field.
        TypeError, ValueError: a field does not take the value; the message of the error names the field.
    """
    for name, value in properties.items():
        if value is None:
            continue
        try:
            if isinstance(value, Mapping):
                field = getattr(message, name)
                for key, each in value.items():
                    field[key] = _scalar(each)
            elif isinstance(value, (list, tuple)):
                getattr(message, name).extend([_scalar(each) for each in value])
            else:
                setattr(message, name, _scalar(value))
        except (TypeError, ValueError) as error:
            # UnicodeEncodeError, a ValueError, cannot be made anew from a text.
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name}: {error}") from error
