"""The streamer used as its users do, to track numbered readings: for the demo, the contract suite, the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .api import Streamer

__all__ = ["Device"]

_KEY = "reading"


class Device:
    """See `edgespool.vendors.common.Device`."""

    auth = "an-access-key"

    def __init__(self, url: str, **given: Any) -> None:
        self.streamer = Streamer(
            bucket_name="Device", bucket_key="device", access_key=self.auth, **{"url": url, **given}
        )

    def track(self, number: int) -> None:
        """Log one reading; it is on the disk once this returns.

        Raises:
            EdgespoolError: it could not be stored.
        """
        self.streamer.log(_KEY, number)
        if self.streamer.last_error is not None:
            raise self.streamer.last_error

    def close(self) -> None:
        """Close the streamer."""
        self.streamer.close()

    @staticmethod
    def number_of(event: Mapping[str, Any]) -> int | None:
        """Return the number in an event as the collector has decoded it; None when it is no reading."""
        value = event.get("value")
        return value if event.get("key") == _KEY and isinstance(value, int) and not isinstance(value, bool) else None

    @staticmethod
    def poison(number: int) -> Mapping[str, Any]:
        """Return the rule by which the collector refuses that reading."""
        return {"field": "value", "value": number}
