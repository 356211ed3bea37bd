"""PaltaBrain's SDK as a device uses it, with the example config module: for demo, contract suite and benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .api import PaltabrainSdk
from .example import Context, EventReading

__all__ = ["Device"]


class Device:
    """Tracks numbered readings; see `edgespool.vendors.common.Device`."""

    auth = "example-key"

    def __init__(self, url: str, **given: Any) -> None:
        self.sdk = PaltabrainSdk[Context](
            hostname=url, api_key=given.pop("api_key", self.auth), context=Context(), **given
        )
        self.sdk.context.set_application(app_id="device", app_version="1.0")

    def track(self, number: int) -> None:
        """Track one reading; durable once it returns."""
        self.sdk.track(EventReading(number=number))

    def close(self) -> None:
        """Close as the SDK's users would."""
        self.sdk.shutdown()

    @staticmethod
    def number_of(event: Mapping[str, Any]) -> int | None:
        """Return the number in an event as the collector has decoded it; None when it is no reading."""
        reading = event.get("payload", {}).get("event_4")
        number = reading.get("number") if isinstance(reading, dict) else None
        return number if isinstance(number, int) else None

    @staticmethod
    def poison(number: int) -> Mapping[str, Any]:
        """Return the fault rule by which the collector refuses that reading."""
        return {"field": "payload.event_4.number", "value": number}
