"""A device that tracks numbered readings through Panoply's SDK; see `edgespool.vendors.common.Device`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from .api import SDK

__all__ = ["Device"]

# Invented. The secret holds a "+" and a "/", which a form must percent-encode.
_KEY = "demo/5up3r"
_SECRET = base64.b64encode(b"x9y8z7/0~f>>c0de-0000-4000-8000-00000000beef/123456789012/us-east-1").decode()


class Device:
    """Writes readings into the table `readings` of the collector at `url`; `given` are our own keywords."""

    auth = f"{_KEY}:{_SECRET}"

    def __init__(self, url: str, **given: Any) -> None:
        self._sdk = SDK(_KEY, _SECRET, url=url, **given)
        self._client = self._sdk._client

    def track(self, number: int) -> None:
        """Write one reading; durable once this returns."""
        self._sdk.write("readings", {"number": number})

    def close(self) -> None:
        """Close the SDK."""
        self._sdk.close()

    @staticmethod
    def number_of(event: Mapping[str, Any]) -> int | None:
        """Return the number in an event as the collector decoded it; None when it is no reading."""
        number = event.get("number")
        return number if event.get("__table") == "readings" and type(number) is int else None

    @staticmethod
    def poison(number: int) -> Mapping[str, Any]:
        """Return the rule by which the collector refuses that reading."""
        return {"field": "number", "value": number}
