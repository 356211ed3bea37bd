"""edgespool: events that survive crashes, power cuts and outages, from small devices to HTTP.

    from edgespool import Client

    with Client("https://ingest.example.com/v1/events", source="pi-kitchen") as client:
        client.record("temperature", value=21.5)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    ConfigError,
    EdgespoolError,
    EventError,
    FailedFileError,
    OutcomeUnknown,
    QueueClosed,
    QueueDamaged,
    QueueError,
    QueueFull,
    QueueUnavailable,
    QueueVersionError,
)
from .event import Batch, Event, StoredEvent

if TYPE_CHECKING:
    from .aio import AsyncClient
    from .client import Client, CloseReport
    from .status import Stats

__all__ = [
    "AsyncClient",
    "Batch",
    "Client",
    "CloseReport",
    "ConfigError",
    "EdgespoolError",
    "Event",
    "EventError",
    "FailedFileError",
    "OutcomeUnknown",
    "QueueClosed",
    "QueueDamaged",
    "QueueError",
    "QueueFull",
    "QueueUnavailable",
    "QueueVersionError",
    "Stats",
    "StoredEvent",
    "__version__",
]

# A library does not decide where log lines go.
logging.getLogger("edgespool").addHandler(logging.NullHandler())

# Loaded when first asked for: a program that only catches our errors pays for neither SQLite nor threads.
_LAZY = {"AsyncClient": "aio", "Client": "client", "CloseReport": "client", "Stats": "status"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
