"""The tracker, used as its users would: the demo, the contract suite and the benchmark drive it through this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .api import IronSourceAtomTracker

__all__ = ["Device"]

_STREAM = "edgespool.readings"


class Device:
    """See `edgespool.vendors.common.Device`."""

    auth = "a key of the device"

    def __init__(self, url: str, **given: Any) -> None:
        seconds = given.pop("flush_interval", 1.0)  # the tracker's own are milliseconds, and at least a second
        self._tracker = IronSourceAtomTracker(
            endpoint=f"{url}/", auth_key=self.auth, flush_interval=max(1000, round(seconds * 1000)), **given
        )
        self._client = self._tracker._client

    def track(self, number: int) -> None:
        """Track one reading; durable once it returns."""
        self._tracker.track(_STREAM, {"event_name": "reading", "number": number})

    def close(self) -> None:
        """Stop the tracker."""
        self._tracker.stop()

    @staticmethod
    def number_of(event: Mapping[str, Any]) -> int | None:
        """Return the number in an event as the collector has decoded it; None when it is no reading."""
        data = event.get("data")
        number = data.get("number") if isinstance(data, Mapping) and event.get("table") == _STREAM else None
        return number if isinstance(number, int) else None

    @staticmethod
    def poison(number: int) -> Mapping[str, Any]:
        """Return the fault rule by which the collector refuses that reading."""
        return {"field": "data.number", "value": number}
