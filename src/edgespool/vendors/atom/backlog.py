"""Before the disk: how events leave a backlog of the user's own, and when `track` waits for room.

Knows no client and no format: what stores an event, and what counts those that wait, is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ... import forks
from ...errors import QueueClosed
from .event_storage import Event

__all__ = ["Mover", "Room", "Storage"]

_LOOK_AGAIN = 0.5  # seconds; another process may be the one that sends, and cannot tell us


class Storage(Protocol):
    """What a backlog must be able to do; see `event_storage.EventStorage`."""

    def add_event(self, event_object: Event) -> object:
        """Add an event."""
        ...

    def get_event(self, stream: str) -> Event | None:
        """Return the oldest event of a stream, and remove it."""
        ...

    def remove_event(self, stream: str) -> object:
        """Remove the oldest event of a stream."""
        ...

    def is_empty(self) -> bool:
        """Return whether it holds no event."""
        ...


class Mover:
    """Moves events from a backlog to the disk, in order; what cannot be stored goes back.

    The original takes the events out with `get_event` alone, though by its documentation `remove_event` does that. Both
    kinds of backlog are served: one that shows the same object again had not removed it.
    """

    def __init__(self, backlog: Storage, store: Callable[[Event], object]) -> None:
        self._backlog = backlog
        self._store = store
        self._lock = forks.Lock()

    def move(self, streams: Iterable[str]) -> None:
        """Store what the backlog holds of these streams; raises what storing raises."""
        with self._lock:
            for stream in streams:
                self._move(stream)

    def _move(self, stream: str) -> None:
        stored = None
        while (event := self._backlog.get_event(stream)) is not None:
            if event is stored:
                self._backlog.remove_event(stream)
                stored = None
                continue
            try:
                self._store(event)
            except BaseException:
                self._put_back(stream, event)
                raise
            stored = event

    def _put_back(self, stream: str, event: Event) -> None:
        following = self._backlog.get_event(stream)
        if following is event:
            return  # it never left
        self._backlog.add_event(event)
        if following is not None:
            self._backlog.add_event(following)


class Room:
    """How many events of a stream may wait; more have to wait to be tracked.

    Args:
        size: events of one stream.
        pending: returns how many events of all streams wait on the disk.
    """

    def __init__(self, size: int, pending: Callable[[], int]) -> None:
        self._size = size
        self._pending = pending
        self._waiting: dict[str, set[str]] = {}
        self._changed = forks.condition()
        self._closed = False

    def enter(self, stream: str, id: str) -> None:
        """Count an event that is about to be stored, once there is room for it.

        Raises:
            QueueClosed: the tracker was stopped meanwhile; nothing was counted.
        """
        while True:
            with self._changed:
                waiting = self._waiting.setdefault(stream, set())
                if len(waiting) >= self._size and not self._closed:
                    self._changed.wait(_LOOK_AGAIN)
                if self._closed:
                    raise QueueClosed("the tracker was stopped while track() waited for room; nothing was stored")
                if len(waiting) < self._size:
                    waiting.add(id)
                    return
            # Not while the lock is held: the sender needs it, and we its queue.
            if self._pending() < self._size:
                with self._changed:
                    waiting.clear()

    def leave(self, stream: str, ids: Iterable[str]) -> None:
        """Take note that these no longer wait."""
        with self._changed:
            self._waiting.get(stream, set()).difference_update(ids)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake up whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
