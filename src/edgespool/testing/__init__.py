"""What tests of code that uses edgespool need: fakes, and a real collector on loopback.

    FakeClock         a clock that moves only when told to
    FakeDestination   takes batches without a network, and answers as told
    MemoryQueue       the queue without its disk
    Collector         an HTTP server on loopback that takes events and misbehaves when told to
    FaultProxy        a TCP proxy on loopback that does to connections what bad networks do
    NetworkFaults     what it is to do

Nothing here needs a test framework. Each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collector import Collector
    from .fakes import FakeClock, FakeDestination, MemoryQueue
    from .proxy import FaultProxy
    from .weather import NetworkFaults

__all__ = ["Collector", "FakeClock", "FakeDestination", "FaultProxy", "MemoryQueue", "NetworkFaults"]

_HOMES = {
    "Collector": "collector",
    "FakeClock": "fakes",
    "FakeDestination": "fakes",
    "FaultProxy": "proxy",
    "MemoryQueue": "fakes",
    "NetworkFaults": "weather",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
