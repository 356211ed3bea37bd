"""What the classes of a generated config module are made of. Knows no protobuf, no queue.

The contract is that of modules generated for paltabrain_sdk 0.6 and later: setters write into `_context[group]` and
`_header[group]`, a constructor puts a dict into `_payload`, and the serializers go over `items()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

__all__ = ["BaseContext", "BaseEnum", "BaseEvent", "BaseSentinel"]


class _Properties(dict[str, Any]):
    """Properties that one thread may change while another one serializes them."""

    def items(self) -> Any:
        """Return the pairs as they are now: a live view would fail when a setter adds a key in the midst."""
        return list(super().items())


class _Groups(defaultdict[str, _Properties]):
    """Groups of properties; one that is asked for is there."""

    def __init__(self) -> None:
        super().__init__(_Properties)

    def items(self) -> Any:
        """Return the pairs as they are now, as above."""
        return list(super().items())


def _set(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that will be sent: one that is None is not set."""
    return {name: value for name, value in properties.items() if value is not None}


def _set_groups(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    made = {name: _set(properties) for name, properties in groups.items()}
    return {name: properties for name, properties in made.items() if properties}


class BaseEnum(IntEnum):
    """The base of the enums of a config module; sent as a number."""


class BaseSentinel:
    """What a setter's argument is when it was not given, so that None can mean "unset this". It is falsy."""

    def __bool__(self) -> bool:
        return False

    @classmethod
    def filter(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that were given."""
        return {name: value for name, value in params.items() if not isinstance(value, cls)}


class BaseContext(ABC):
    """The base of a config module's `Context`: what is true of every event until it is changed.

    Setters update: what is not mentioned stays, None unsets. Not kept over a restart: set it anew at each start.
    """

    def __init__(self) -> None:
        self._context = _Groups()

    @abstractmethod
    def serialize_context(self) -> bytes:
        """Return the context as it is sent."""

    def asdict(self) -> dict[str, Any]:
        """Return a copy of what is set: ``{group: {property: value}}``."""
        return dict(_set_groups(self._context))


class BaseEvent(ABC):
    """The base of a config module's events: the header, shared by all kinds, and the payload of this kind."""

    event_type_id = 0

    def __init__(self) -> None:
        self._header = _Groups()
        self._payload: dict[str, Any] = {}

    @abstractmethod
    def serialize_header(self) -> bytes:
        """Return the header as it is sent."""

    @abstractmethod
    def serialize_payload(self) -> bytes:
        """Return the payload as it is sent."""

    def asdict(self) -> dict[str, Any]:
        """Return a copy of what is set: ``{"header": {group: {property: value}}, "payload": {property: value}}``."""
        return {"header": _set_groups(self._header), "payload": _set(self._payload)}
