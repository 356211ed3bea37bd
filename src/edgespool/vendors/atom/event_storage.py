"""The tracker's backlog as the original has it: an abstract class that users may implement. Knows nothing of queues.

Source: the README of ironsource-atom 1.5.1, "Abstract class for storing data at tracker backlog".
"""

from __future__ import annotations

import abc
from collections import deque
from typing import Any

from ... import forks

__all__ = ["Event", "EventStorage", "QueueEventStorage"]


class Event:
    """One event in a backlog.

    Args:
        stream: the stream's name.
        data: the event's text.
    """

    def __init__(self, stream: str, data: Any) -> None:
        self.stream = stream
        self.data = data


class EventStorage(abc.ABC):
    """Where events stand before the tracker takes them. Implementations must be safe for many threads."""

    def __init__(self) -> None:  # noqa: B027 - the original has one, and subclasses call it
        pass

    @abc.abstractmethod
    def add_event(self, event_object: Event) -> None:
        """Add an event; may wait for room."""

    @abc.abstractmethod
    def get_event(self, stream: str) -> Event | None:
        """Return the oldest event of a stream, and remove it; None when there is none."""

    @abc.abstractmethod
    def remove_event(self, stream: str) -> Any:
        """Remove the oldest event of a stream."""

    @abc.abstractmethod
    def is_empty(self) -> bool:
        """Return whether it holds no event of any stream."""


class QueueEventStorage(EventStorage):
    """A backlog in memory that holds `queue_size` events of each stream; `add_event` waits when it is full."""

    def __init__(self, queue_size: int) -> None:
        super().__init__()
        self._size = queue_size
        self._events: dict[str, deque[Event]] = {}
        self._changed = forks.condition()

    def add_event(self, event_object: Event) -> None:
        """Add an event; waits while its stream has no room."""
        with self._changed:
            events = self._events.setdefault(event_object.stream, deque())
            while len(events) >= self._size:
                self._changed.wait()
            events.append(event_object)

    def get_event(self, stream: str) -> Event | None:
        """Return the oldest event of a stream, and remove it; None when there is none."""
        with self._changed:
            events = self._events.get(stream)
            if not events:
                return None
            self._changed.notify_all()
            return events.popleft()

    def remove_event(self, stream: str) -> None:
        """Remove the oldest event of a stream, if there is one."""
        self.get_event(stream)

    def is_empty(self) -> bool:
        """Return whether it holds no event of any stream."""
        with self._changed:
            return not any(self._events.values())
