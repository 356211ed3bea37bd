"""Sessions and the numbers of their events, in a small file beside the queue: they go on after a restart.

A number is used once, by any number of processes and threads. After the death of the process the next one is exactly
the next. After a power cut it is a higher one: the numbers of a block are reserved on the disk before any of them is
given out, and the rest of the block is passed over. Knows files, no wire, no queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from ...clock import SystemClock
from ...files import make_directory, open_private, sync_directory
from ...queue.locks import WriteLock

__all__ = ["SessionNumbers"]

_log = logging.getLogger("edgespool")

_SLOTS = 64  # sessions that are remembered; a new one takes the place of the one that was used the longest ago
_SIZE = 64  # bytes a slot: it lies within one sector, so that it is written whole or not at all
_BLOCK = 256  # numbers reserved at once, and passed over at most by a power cut
_FIELDS = struct.Struct("<qqq8sd")
_CHECK = struct.Struct("<I")


class _Slot(NamedTuple):
    session: int
    next: int  # the next number to give out
    reserved: int  # as the disk knows for certain, none from here on was given out
    boot: bytes  # in which this was written: of another boot, `next` may be older than what was given out
    used: float  # seconds since 1970

    def packed(self) -> bytes:
        content = _FIELDS.pack(*self)
        return (content + _CHECK.pack(zlib.crc32(content))).ljust(_SIZE, b"\0")


def _unpacked(raw: bytes) -> _Slot | None:
    content, check = raw[: _FIELDS.size], raw[_FIELDS.size : _FIELDS.size + _CHECK.size]
    if len(check) < _CHECK.size or _CHECK.unpack(check)[0] != zlib.crc32(content):
        return None
    slot = _Slot(*_FIELDS.unpack(content))
    return slot if slot.boot != bytes(8) else None


class SessionNumbers:
    """The sessions of one queue.

    Args:
        directory: the queue's directory.
        boot_id: tells one boot from the next; None: the system's.
    """

    def __init__(self, directory: str, boot_id: str | None = None) -> None:
        self._path = os.path.join(directory, "paltabrain-sessions")
        self._boot = sha256((boot_id or SystemClock().boot_id).encode()).digest()[:8]
        self._given: dict[int, int] = {}  # session -> the last number that was given out here
        self._places: dict[int, int] = {}  # session -> where its slot was seen
        self._complained = False
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._lock = WriteLock(self._path + ".lock")
        self._fd = -1

    def begin(self) -> int:
        """Start a session and return its id: milliseconds since 1970, and one that this queue does not know yet."""
        session = time.time_ns() // 1_000_000
        try:
            with self._file():
                known = {slot.session for slot in self._slots() if slot is not None}
                while session in known or session in self._given:
                    session += 1
                self._find(session)
                self._write(_Slot(session, 1, 1, self._boot, time.time()), flush=False)
        except OSError as error:
            self._complain(error)
        self._given.setdefault(session, 0)
        return session

    def last(self) -> int | None:
        """Return the session that was used last; None when there is none."""
        try:
            with self._file():
                known = [slot for slot in self._slots() if slot is not None]
        except OSError as error:
            self._complain(error)
            return None
        return max(known, key=lambda slot: slot.used).session if known else None

    def next(self, session: int) -> int:
        """Return the number of a session's next event, from 1."""
        try:
            with self._file():
                slot = self._find(session) or _Slot(session, 1, 1, self._boot, 0.0)
                number = slot.next if slot.boot == self._boot else max(slot.next, slot.reserved)
                number = max(number, self._given.get(session, 0) + 1)
                flush = number >= slot.reserved
                reserved = number + _BLOCK if flush else slot.reserved
                self._given[session] = number
                self._write(_Slot(session, number + 1, reserved, self._boot, time.time()), flush)
                return number
        except OSError as error:  # the event matters more than its number
            self._complain(error)
            with self._guard:
                number = self._given[session] = self._given.get(session, 0) + 1
                return number

    def close(self) -> None:
        """Let go of the file; what was reserved and not used is given back."""
        try:
            with self._file():
                for session in self._given:
                    slot = self._find(session)
                    if slot is not None and slot.boot == self._boot:
                        self._write(slot._replace(reserved=slot.next), flush=True)
        except OSError as error:
            self._complain(error)
        with self._guard:
            self._lock.close()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @contextlib.contextmanager
    def _file(self) -> Iterator[None]:
        """Hold the file open, for this thread alone."""
        with self._guard:
            self._lock.acquire()
            try:
                if self._fd < 0:
                    self._fd = self._open()
                yield
            finally:
                self._lock.release()

    def _open(self) -> int:
        make_directory(os.path.dirname(self._path))
        fd = open_private(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            if os.fstat(fd).st_size < _SLOTS * _SIZE:
                os.lseek(fd, 0, os.SEEK_END)
                os.write(fd, bytes(_SLOTS * _SIZE - os.fstat(fd).st_size))  # now: later the disk may be full
                sync_directory(os.path.dirname(self._path))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _slot(self, at: int) -> _Slot | None:
        os.lseek(self._fd, at * _SIZE, os.SEEK_SET)
        return _unpacked(os.read(self._fd, _SIZE))

    def _slots(self) -> list[_Slot | None]:
        return [self._slot(at) for at in range(_SLOTS)]

    def _find(self, session: int) -> _Slot | None:
        """Return a session's slot, and remember where it is: another process may have given the place away."""
        at = self._places.get(session)
        slot = self._slot(at) if at is not None else None
        if slot is None or slot.session != session:
            slots = self._slots()
            at = next((n for n, each in enumerate(slots) if each is not None and each.session == session), None)
            if at is None:  # a place where nothing is, else that of the session that was used the longest ago
                at = min(range(_SLOTS), key=lambda n: -1.0 if (each := slots[n]) is None else each.used)
                slot = None
            else:
                slot = slots[at]
            self._places[session] = at
        return slot

    def _write(self, slot: _Slot, flush: bool) -> None:
        """Write the slot of a session that `_find` was asked for."""
        os.lseek(self._fd, self._places[slot.session] * _SIZE, os.SEEK_SET)
        os.write(self._fd, slot.packed())
        if flush:
            os.fsync(self._fd)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("the numbers of a session's events cannot be kept over a restart: %s", error)


_all: weakref.WeakSet[SessionNumbers] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_all):
        # The copies of the descriptors are closed, not unlocked: an unlock would reach the parent's lock.
        with contextlib.suppress(OSError):
            each._lock.close()
            if each._fd >= 0:
                os.close(each._fd)
        each._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
