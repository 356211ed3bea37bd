"""An example config module, as the service generates one for each customer: the collector and the tests use it.

The collector hands it out with the import of `paltabrain_sdk` in the place of ours. `config_v2.proto` is its schema.
"""

from __future__ import annotations

from abc import ABC
from datetime import datetime
from decimal import Decimal
from typing import Any

from ..api import BaseContext, BaseEnum, BaseEvent, BaseSentinel, set_proto
from .config_v2_pb2 import Context as ContextMessage
from .config_v2_pb2 import EventHeader as EventHeaderMessage
from .config_v2_pb2 import EventPayload as EventPayloadMessage

UNDEFINED: Any = BaseSentinel()


class EnumResult(BaseEnum):
    """How something went."""

    UNKNOWN = 0
    RESULT_SUCCESS = 1
    RESULT_SKIP = 2
    RESULT_ERROR = 3


class Context(BaseContext):
    """What is true of every event until it is changed."""

    def set_application(
        self,
        *,
        app_id: str | None = UNDEFINED,
        app_version: str | None = UNDEFINED,
        app_platform: str | None = UNDEFINED,
    ) -> Context:
        """Set what is known of the application."""
        given = {"app_id": app_id, "app_version": app_version, "app_platform": app_platform}
        self._context["application"].update(BaseSentinel.filter(given))
        return self

    def set_os(self, *, os_name: str | None = UNDEFINED, os_version: str | None = UNDEFINED) -> Context:
        """Set what is known of the operating system."""
        self._context["os"].update(BaseSentinel.filter({"os_name": os_name, "os_version": os_version}))
        return self

    def set_user(
        self,
        *,
        user_id: str | None = UNDEFINED,
        country_code: str | None = UNDEFINED,
        is_trial: bool | None = UNDEFINED,
        is_paying: bool | None = UNDEFINED,
        labels: dict[str, str] | None = UNDEFINED,
    ) -> Context:
        """Set what is known of the user."""
        given = {
            "user_id": user_id,
            "country_code": country_code,
            "is_trial": is_trial,
            "is_paying": is_paying,
            "labels": labels,
        }
        self._context["user"].update(BaseSentinel.filter(given))
        return self

    def serialize_context(self) -> bytes:
        """Return the context as it is sent."""
        message = ContextMessage()
        for group, properties in self._context.items():
            set_proto(getattr(message, group), properties)
        return bytes(message.SerializeToString(deterministic=True))


class Event(BaseEvent, ABC):
    """What all events have: the header."""

    def set_parent(self, *, parent_elements: list[str] | None = UNDEFINED) -> Event:
        """Set where on the page it happened."""
        self._header["parent"].update(BaseSentinel.filter({"parent_elements": parent_elements}))
        return self

    def set_onboarding(
        self, *, onboarding_id: int | None = UNDEFINED, onboarding_version: str | None = UNDEFINED
    ) -> Event:
        """Set which onboarding it happened in."""
        given = {"onboarding_id": onboarding_id, "onboarding_version": onboarding_version}
        self._header["onboarding"].update(BaseSentinel.filter(given))
        return self

    def serialize_header(self) -> bytes:
        """Return the header as it is sent."""
        if not self._header:
            return b""
        message = EventHeaderMessage()
        for group, properties in self._header.items():
            set_proto(getattr(message, group), properties)
        return bytes(message.SerializeToString())

    def serialize_payload(self) -> bytes:
        """Return the payload as it is sent."""
        message = EventPayloadMessage()
        payload = getattr(message, f"event_{self.event_type_id}")
        payload.SetInParent()
        set_proto(payload, self._payload)
        return bytes(message.SerializeToString())


class EventSessionStart(Event):
    """A session has begun."""

    event_type_id = 1


class EventPageOpen(Event):
    """A page was opened."""

    event_type_id = 2

    def __init__(self, *, page_id: str | None = None) -> None:
        super().__init__()
        self._payload = {"page_id": page_id}


class EventPermissionsRequest(Event):
    """The user was asked for a permission."""

    event_type_id = 3

    def __init__(self, *, is_granted: bool | None = None, type: str | None = None) -> None:
        super().__init__()
        self._payload = {"is_granted": is_granted, "type": type}


class EventReading(Event):
    """A sensor was read."""

    event_type_id = 4

    def __init__(self, *, number: int | None = None, value: Decimal | None = None) -> None:
        super().__init__()
        self._payload = {"number": number, "value": value}


class EventEveryType(Event):
    """Every type there is, plain, in an array and in a map."""

    event_type_id = 5

    def __init__(
        self,
        *,
        prop_boolean: bool | None = None,
        prop_decimal: Decimal | None = None,
        prop_enum: EnumResult | None = None,
        prop_integer: int | None = None,
        prop_string: str | None = None,
        prop_timestamp: datetime | None = None,
        prop_boolean_array: list[bool] | None = None,
        prop_decimal_array: list[Decimal] | None = None,
        prop_enum_array: list[EnumResult] | None = None,
        prop_integer_array: list[int] | None = None,
        prop_string_array: list[str] | None = None,
        prop_timestamp_array: list[datetime] | None = None,
        prop_boolean_map: dict[str, bool] | None = None,
        prop_decimal_map: dict[str, Decimal] | None = None,
        prop_enum_map: dict[str, EnumResult] | None = None,
        prop_integer_map: dict[str, int] | None = None,
        prop_string_map: dict[str, str] | None = None,
        prop_timestamp_map: dict[str, datetime] | None = None,
    ) -> None:
        super().__init__()
        self._payload = {
            "prop_boolean": prop_boolean,
            "prop_decimal": prop_decimal,
            "prop_enum": prop_enum,
            "prop_integer": prop_integer,
            "prop_string": prop_string,
            "prop_timestamp": prop_timestamp,
            "prop_boolean_array": prop_boolean_array,
            "prop_decimal_array": prop_decimal_array,
            "prop_enum_array": prop_enum_array,
            "prop_integer_array": prop_integer_array,
            "prop_string_array": prop_string_array,
            "prop_timestamp_array": prop_timestamp_array,
            "prop_boolean_map": prop_boolean_map,
            "prop_decimal_map": prop_decimal_map,
            "prop_enum_map": prop_enum_map,
            "prop_integer_map": prop_integer_map,
            "prop_string_map": prop_string_map,
            "prop_timestamp_map": prop_timestamp_map,
        }
