"""The SDK as its users use it, for the demo, the contract suite and the benchmark; see `edgespool.vendors.common`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .api import SamsaraClient

__all__ = ["Device"]

_EVENT = "reading"


class Device:
    """A device that records readings, each a number."""

    auth: str | None = None

    def __init__(self, url: str, **given: Any) -> None:
        """Open the client on the collector at `url`; `given` are keywords of edgespool."""
        # A single reading is worth a request here, and soon: nobody would wait for a hundred in a demo.
        options = {"sourceId": "samsara-device", "min_buffer_size": 1, "publish_interval": 1000, **given}
        self._samsara = SamsaraClient(url=url, **options)
        self._client = self._samsara._client

    def track(self, number: int) -> None:
        """Record one reading; durable once it returns."""
        self._samsara.record_event(eventName=_EVENT, number=number)

    def close(self) -> None:
        """Close the client."""
        self._samsara.close()

    @staticmethod
    def number_of(event: Mapping[str, Any]) -> int | None:
        """Return the number in a decoded event; None when it is no reading."""
        number = event.get("number")
        return number if event.get("eventName") == _EVENT and isinstance(number, int) else None

    @staticmethod
    def poison(number: int) -> Mapping[str, Any]:
        """Return the fault rule by which the collector refuses that reading."""
        return {"field": "number", "value": number}
