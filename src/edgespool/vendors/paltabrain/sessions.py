"""Sessions and the numbers of their events, in a small file beside the queue: they go on after a restart.

A number is used once, by any number of processes and threads. After the death of the process the next one is exactly
the next. After a power cut it is a higher one: the numbers of a block are reserved on the disk before any of them is
given out, and the rest of the block is passed over. Knows files, no wire, no queue.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from ... import forks
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


def _read(fd: int, size: int, at: int) -> bytes:
    """Read at a place, in one step where the system can: no signal handler then moves the place in between."""
    if hasattr(os, "pread"):
        return os.pread(fd, size, at)
    os.lseek(fd, at, os.SEEK_SET)  # pragma: no cover
    return os.read(fd, size)  # pragma: no cover


def _written(fd: int, content: bytes, at: int) -> int:
    """Write at a place, as above; return how many bytes the disk took."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, content, at)
    os.lseek(fd, at, os.SEEK_SET)  # pragma: no cover
    return os.write(fd, content)  # pragma: no cover


class SessionNumbers:
    """The sessions of one queue.

    Args:
        directory: the queue's directory.
        boot_id: tells one boot from the next; None: the system's.
    """

    def __init__(self, directory: str, boot_id: str | None = None) -> None:
        self._path = os.path.join(directory, "paltabrain-sessions")
        self._boot = sha256((boot_id or SystemClock().boot_id).encode()).digest()[:8]
        self._given: dict[int, dict[int, object]] = {}  # session -> the last that were given out here; _take
        self._places: dict[int, int] = {}  # session -> where its slot was seen
        self._complained = False
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._guard = forks.Lock()  # reentrant: a signal handler may come in between, and shut the SDK down
        self._lock = WriteLock(self._path + ".lock")
        self._fd = -1
        self._busy = False  # the file is held, by the thread that has the guard
        self._late: list[int] = []  # sessions whose numbers a signal handler took meanwhile, to be written
        self._ending = False  # a signal handler has asked meanwhile to close the file

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
        self._given.setdefault(session, {})
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
        """Return the number of a session's next event, from 1. A signal handler may call it, too, in its midst."""
        try:
            with self._file() as alone:
                slot = self._find(session) or _Slot(session, 1, 1, self._boot, 0.0)
                number = self._take(session, slot.next if slot.boot == self._boot else max(slot.next, slot.reserved))
                if alone:
                    self._save(session)
                else:
                    self._late.append(session)
                return number
        except OSError as error:  # the event matters more than its number
            self._complain(error)
            with self._guard:
                return self._take(session, 1)

    def _last(self, session: int) -> int:
        """Return the last number that was given out here; 0: none was."""
        return max(list(self._given.get(session, ())), default=0)

    def _take(self, session: int, least: int) -> int:
        """Return a number that is higher than all that were given out here, and `least` or higher.

        A signal handler may do the same at any point of it, in this thread: a number is entered in one step, as whose
        it is, and counts only if none that is higher was entered meanwhile.
        """
        given = self._given.setdefault(session, {})
        mine = object()
        while True:
            number = max(least, self._last(session) + 1)
            if given.setdefault(number, mine) is mine and number == max(list(given)):
                break
        for other in list(given):
            if other < number:
                given.pop(other, None)
        return number

    def _save(self, session: int) -> None:
        """Write down which number of a session is the next, and reserve more when it is time to."""
        last = 0
        while last < self._last(session):  # again if a signal handler took one meanwhile
            last = self._last(session)
            slot = self._find(session) or _Slot(session, 1, 1, self._boot, 0.0)
            flush = last >= slot.reserved
            reserved = last + _BLOCK if flush else slot.reserved
            self._write(_Slot(session, last + 1, reserved, self._boot, time.time()), flush)

    def close(self) -> None:
        """Let go of the file; what was reserved and not used is given back.

        In a signal handler that interrupts one of the other calls it does so when that call ends: the file is in use.
        """
        try:
            with self._file() as alone:
                if not alone:
                    self._ending = True
                    return
                for session in list(self._given):
                    slot = self._find(session)
                    if slot is not None and slot.boot == self._boot:
                        self._write(slot._replace(reserved=slot.next), flush=True)
        except OSError as error:
            self._complain(error)
        with self._guard:
            self._lock.close()
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    @contextlib.contextmanager
    def _file(self) -> Iterator[bool]:
        """Hold the file open, for this thread alone; whether it is not held already, by what a signal interrupted.

        Who interrupts may read, and leaves it to the other to write.
        """
        with self._guard:
            if self._busy:
                self._be_open()
                yield False
                return
            try:
                self._busy = True
                self._lock.acquire()
                self._be_open()
                yield True
                while self._busy:
                    while self._late:
                        self._save(self._late.pop())
                    self._busy = False  # from here on a signal handler sees to it by itself; was one faster?
                    self._busy = bool(self._late)
            finally:
                self._busy = False
                self._late.clear()
                self._lock.release()
            if self._ending:
                self._ending = False
                self.close()

    def _be_open(self) -> None:
        if self._fd < 0:
            fd = self._open()
            if self._fd < 0:
                self._fd = fd
            else:  # a signal handler was faster
                os.close(fd)

    def _open(self) -> int:
        make_directory(os.path.dirname(self._path))
        fd = open_private(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            if os.fstat(fd).st_size < _SLOTS * _SIZE:
                os.lseek(fd, 0, os.SEEK_END)
                missing = bytes(_SLOTS * _SIZE - os.fstat(fd).st_size)
                while missing:  # now: later the disk may be full. One that is nearly full takes a part, then says so
                    missing = missing[os.write(fd, missing) :]
                sync_directory(os.path.dirname(self._path))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _slot(self, at: int) -> _Slot | None:
        return _unpacked(_read(self._fd, _SIZE, at * _SIZE))

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
        if _written(self._fd, slot.packed(), self._places[slot.session] * _SIZE) != _SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
