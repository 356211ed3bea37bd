"""Before the disk: how events leave a backlog of the user's own, and when `track` waits for room.

Knows no client and no format: what stores an event, and what waits on the disk, is handed in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from ... import forks
from ...errors import EventError, QueueClosed, QueueFull
from .event_storage import Event

__all__ = ["Mover", "Room", "Storage"]

_log = logging.getLogger("edgespool")

_LOOK_AGAIN = 0.5  # seconds; another process may be the one that sends, and cannot tell us
_MARGIN = 4  # equal events that the program may add beside the tracker while it finds out what get_event does
_MANY = 1000  # equal events in a row that are taken for one which is shown again, where nobody knows how many there are


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


class _Added:
    """An event that `Mover.add` is about, and why it can never be stored, once somebody found out."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.error: Exception | None = None


class Mover:
    """Moves events from a backlog to the disk, in order.

    The original takes the events out with `get_event` alone, though by its documentation `remove_event` does that. Both
    kinds of backlog are served; which kind it is turns out when the first event is taken, by calling get_event again:

    - it gives none, or another event: it removes;
    - it gives an equal one: that may be another event, the same one, or a copy of it, as a backlog in a file makes them
      anew each time. It shows if it does so more often than there can be events: than `add` was called since the stream
      was seen empty, and a few more; in a stream that was never seen empty, 1000 times.

    What get_event removed and could not be stored is kept here, and is stored before anything else of its stream. It
    is not put back before `close`: whoever waits in add_event would be kept waiting by it.

    Args:
        backlog: the user's.
        store: stores an event; raises when it could not.
    """

    def __init__(self, backlog: Storage, store: Callable[[Event], object]) -> None:
        self._backlog = backlog
        self._store = store
        self._lock = forks.Lock()  # one thread at a time moves; never held while add_event waits
        self._left = forks.condition()  # guards what `add` counts
        self._removes: bool | None = None  # whether get_event does; None: not known yet
        self._closed = self._over = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._kept: dict[str, deque[Event]] = {}  # what get_event has removed and the disk did not take
        self._adding: dict[str, list[_Added]] = {}  # calls of `add` under way
        self._possible: dict[str, int] = {}  # events that a stream can hold at most, once it was seen empty

    def _own(self) -> None:
        """In a forked child, leave to the parent what it keeps."""
        if self._pid != os.getpid():
            self._begin()

    @property
    def empty(self) -> bool:
        """Whether neither the backlog nor this object holds an event."""
        return not any(self._kept.values()) and self._backlog.is_empty()

    def add(self, event: Event) -> None:
        """Add an event to the backlog, and store what that holds of its stream.

        Raises:
            EventError, QueueFull: the event can never be stored; it is in the backlog no more.
            QueueClosed: `close` was called; nothing was added.
            What storing raises: the event is in the backlog, or kept here.
        """
        stream = event.stream
        self.move([stream])  # what an earlier call could not store, before this one waits for its room
        with self._left:
            if self._closed:
                raise QueueClosed("the tracker was stopped; nothing was stored")
            added = _Added(event)
            self._adding.setdefault(stream, []).append(added)
            if stream in self._possible:
                self._possible[stream] += 1
        try:
            self._backlog.add_event(event)
            try:
                self.move([stream])
            except BaseException:
                self._make_way(stream)
                raise
            if added.error is not None:
                raise added.error
        finally:
            with self._left:
                with contextlib.suppress(KeyError, ValueError):  # a forked child has begun anew
                    self._adding[stream].remove(added)
                self._left.notify_all()

    def move(self, streams: Iterable[str]) -> None:
        """Store what the backlog holds of these streams; raises what storing raises.

        An event that can never be stored is dropped: the call of `add` that brought it raises; was there none, it is
        logged.
        """
        with self._lock:
            self._own()
            if self._over:
                raise QueueClosed("the tracker was stopped; nothing was stored")
            for stream in streams:
                self._move(stream)

    def _move(self, stream: str) -> None:
        kept = self._kept.setdefault(stream, deque())
        while True:
            while kept:
                self._store_one(stream, kept[0], lambda event: _forget(kept, event))
            if self._removes is None:
                self._learn(stream, kept)
                if self._removes is None:
                    self._seen_empty(stream)
                    return
                continue
            event = self._backlog.get_event(stream)
            if event is None:
                return
            if self._removes:
                kept.append(event)  # before it is stored: whatever comes in between, it is not lost
            else:
                self._store_one(stream, event, lambda _: self._backlog.remove_event(stream))

    def _store_one(self, stream: str, event: Event, remove: Callable[[Event], object]) -> None:
        try:
            self._store(event)
        except (EventError, QueueFull) as error:
            if isinstance(error, QueueFull) and not getattr(error, "hopeless", False):
                raise
            with self._left:
                waiting = [each for each in self._adding.get(stream, ()) if each.error is None]
                whose = next((each for each in waiting if _equal(each.event, event)), None)
                if whose is not None:
                    whose.error = error
            if whose is None:
                _log.error("atom: an event of the event_backlog, of stream %r, is dropped: %s", stream, error)
        remove(event)  # also what can never be stored: it would stand before all others of its stream for ever

    def _learn(self, stream: str, kept: deque[Event]) -> None:
        """Find out whether get_event removes, unless there is no event; if it does, those that it gave are kept."""
        with self._left:
            most = self._possible[stream] + _MARGIN if stream in self._possible else _MANY
        first = event = self._backlog.get_event(stream)
        if first is None:
            return
        kept.append(first)
        for _ in range(most):
            event = self._backlog.get_event(stream)
            if event is None or not _equal(event, first):
                self._removes = True
                if event is not None:
                    kept.append(event)
                return
            kept.append(event)
        self._removes = False
        kept.clear()

    def _seen_empty(self, stream: str) -> None:
        with self._left:
            self._possible[stream] = len(self._adding.get(stream, ()))

    def _make_way(self, stream: str) -> None:
        """After an event was added and could not be stored: take one out, for others may wait for its place."""
        with self._lock:
            if self._removes and not self._over:
                event = self._backlog.get_event(stream)
                if event is not None:
                    self._kept.setdefault(stream, deque()).append(event)

    def close(self) -> None:
        """Let nobody add any more; calls that are under way come to their end."""
        with self._left:
            self._closed = True

    def give_back(self, timeout: float) -> int:
        """After `close`, put what is kept back into the backlog, in order; return how many events have no room there.

        Args:
            timeout: seconds. As long as somebody is about to add, nothing is put back: it would take up the room.
        """
        deadline = time.monotonic() + timeout
        with self._left:
            idle = self._left.wait_for(lambda: not any(self._adding.values()), timeout)
        if idle and not self._over and any(self._kept.values()):
            with self._lock:
                self._over = True
            work = threading.Thread(target=self._give_back, name="edgespool-atom-stop", daemon=True)
            work.start()  # in a thread of its own: add_event may wait for ever
            work.join(max(0.0, deadline - time.monotonic()))
        return sum(map(len, list(self._kept.values())))

    def _give_back(self) -> None:
        for stream, kept in list(self._kept.items()):
            try:
                while kept and (event := self._backlog.get_event(stream)) is not None:
                    kept.append(event)  # what is there is younger
                while kept:
                    self._backlog.add_event(kept[0])
                    kept.popleft()
            except Exception as error:  # noqa: BLE001 - it is the user's code; what is left is counted
                _log.warning("atom: the event_backlog raised %s: %s", type(error).__name__, error)


def _forget(kept: deque[Event], event: Event) -> None:
    if kept and kept[0] is event:  # else a signal handler, which may come in between, has stored it, too
        kept.popleft()


def _equal(one: Event, other: Event) -> bool:
    return bool(one.stream == other.stream and one.data == other.data)


class Room:
    """How many events of a stream may wait; more have to wait to be tracked.

    Args:
        size: events of one stream.
        on_disk: returns the ids of a stream's events that wait on the disk; None when it cannot be read.
    """

    def __init__(self, size: int, on_disk: Callable[[str], Collection[str] | None]) -> None:
        self._size = size
        self._on_disk = on_disk
        self._waiting: dict[str, set[str]] = {}
        self._storing: dict[str, int] = {}  # of these, those that are not on the disk yet; by which process
        self._changed = forks.condition()
        self._closed = False

    def enter(self, stream: str, id: str) -> None:
        """Count an event that is about to be stored, once there is room for it; say `stored` afterwards, or `leave`.

        Raises:
            QueueClosed: the tracker was stopped meanwhile; nothing was counted.
        """
        pause = _LOOK_AGAIN
        while True:
            with self._changed:
                waiting = self._waiting.setdefault(stream, set())
                in_vain = len(waiting) >= self._size and not self._closed and not self._changed.wait(pause)
                if self._closed:
                    raise QueueClosed("the tracker was stopped while track() waited for room; nothing was stored")
                if len(waiting) < self._size:
                    self._storing[id] = os.getpid()
                    waiting.add(id)
                    return
                mine = os.getpid()  # what the threads of a parent were storing they do not finish here
                known = {each for each in waiting if self._storing.get(each) != mine}
            if in_vain:  # nothing was heard: others may have sent some. Not while the lock is held: the sender needs it
                began = time.monotonic()
                there = self._on_disk(stream)
                pause = max(_LOOK_AGAIN, 10 * (time.monotonic() - began))
                if there is not None:
                    self.leave(stream, known.difference(there))

    def stored(self, id: str) -> None:
        """Take note that an event is on the disk."""
        self._storing.pop(id, None)

    def leave(self, stream: str, ids: Iterable[str]) -> None:
        """Take note that these no longer wait, or never did."""
        ids = list(ids)
        with self._changed:
            for each in ids:
                self._storing.pop(each, None)
            self._waiting.get(stream, set()).difference_update(ids)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake up whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
