"""Named events and their handlers. A leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Emitter"]

_Self = TypeVar("_Self", bound="Emitter")


class Emitter:
    """Something that fires events.

    Handlers of an event are called in the order in which they were set, in the thread that fires it; what a handler
    raises goes to whoever fired.
    """

    def __init__(self) -> None:
        self._events: dict[str, tuple[Callable[..., Any], ...]] = {}

    def on(self: _Self, name: str, fn: Callable[..., Any]) -> _Self:
        """Call `fn(data)` at each event `name`, or `fn(name, data)` at every event when `name` is ``"*"``.

        A handler that is set twice is called once. Returns the emitter itself.
        """
        if not callable(fn):
            raise TypeError(f"a handler for {name!r} must be callable, not {type(fn).__name__}")
        known = self._events.get(name, ())
        if fn not in known:
            self._events[name] = (*known, fn)  # a new tuple: another thread may be going through the old one
        return self

    def fire(self: _Self, name: str, data: Any) -> _Self:
        """Call the handlers of every event, then those of this one. Returns the emitter itself."""
        for fn in self._events.get("*", ()):
            fn(name, data)
        for fn in self._events.get(name, ()):
            fn(data)
        return self
