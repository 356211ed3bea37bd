"""What `samsara_sdk.helpers` and `samsara_sdk.constants` offer: errors, defaults, the check of an event.

Source: the SDK's documentation, and the package samsara_sdk 0.5.5.0 for names. Times are milliseconds, as in all of
this API. This module must not know the client, the queue or the network.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ...errors import ConfigError, EventError
from .format import ENDPOINT, PUBLISHED_TIMESTAMP, fault

__all__ = [
    "API_PATH",
    "COMPRESSION",
    "DEFAULT_CONFIG",
    "PUBLISHED_TIMESTAMP_HEADER",
    "InvalidArguement",
    "InvalidConfiguration",
    "InvalidEvent",
    "RefusedEvents",
    "current_time_millis",
    "millis_to_seconds",
    "seconds_to_millis",
    "validate_events",
]

API_PATH: Final = ENDPOINT
PUBLISHED_TIMESTAMP_HEADER: Final = PUBLISHED_TIMESTAMP


class COMPRESSION:
    """The names of the compressions; None is as good as `NONE`."""

    GZIP = "gzip"
    NONE = "none"


#: What holds for the options that are not given. `url` has to be; `sourceId` only for events that name none.
DEFAULT_CONFIG: Final[Mapping[str, Any]] = {
    "start_publishing_thread": True,
    "publish_interval": 30_000,
    "max_buffer_size": 10_000,
    "min_buffer_size": 100,
    "send_timeout": 30_000,
    "compression": COMPRESSION.GZIP,
    "send_client_stats": False,
}


class InvalidEvent(EventError):
    """An event lacks what Samsara needs, or holds what JSON cannot say. Nothing was stored."""


class RefusedEvents(InvalidEvent):
    """The server refused events for good. They are in failed payload files, for `replay-failed`: do not send them anew.

    Attributes:
        count: how many of the events.
        directory: where the files are.
    """

    def __init__(self, count: int, directory: str) -> None:
        """Say how many events were refused, and where they are."""
        super().__init__(f"the server refused {count} event(s); they are in {directory}, for replay-failed")
        self.count = count
        self.directory = directory


class InvalidConfiguration(ConfigError):
    """An option is missing, unknown or out of range."""


class InvalidArguement(Exception):  # the original's spelling
    """Kept for programs that import it; nothing raises it."""


def current_time_millis() -> int:
    """Return the device's time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def seconds_to_millis(s: float) -> int:
    """Return seconds as whole milliseconds."""
    return int(s * 1000)


def millis_to_seconds(m: float) -> int:
    """Return milliseconds as whole seconds, rounded towards zero."""
    return int(m / 1000)


def validate_events(events: Any) -> Any:
    """Check an event, or each event of a list, tuple or other iterable, and return what was given.

    An iterator is read to its end; a list of its events is returned in its place.

    Raises:
        InvalidEvent: one of them is no mapping, or its sourceId, timestamp or eventName is missing or unusable.
    """
    if isinstance(events, Mapping):
        _check(events)
        return events
    if not isinstance(events, Iterable):
        raise InvalidEvent(f"Invalid event found: a mapping is needed, not {type(events).__name__}")
    found = events if isinstance(events, (list, tuple)) else list(events)
    for event in found:
        _check(event)
    return found


def _check(event: Any) -> None:
    wrong = fault(event)
    if wrong is not None:
        raise InvalidEvent(f"Invalid event found: {wrong}")
