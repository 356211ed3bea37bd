"""Locks between processes, and what a fork must not inherit. Knows files, no SQLite.

* `WriteLock` is held around every write and every checkpoint. The WAL-reset bug of SQLite 3.7.0 to 3.51.2 needs two
  connections that write or checkpoint at the same moment; this lock never lets them. It is taken for each commit, so
  it keeps its file open: one system call to lock, one to unlock. (A lock library opens and closes the file each time,
  which costs as much as the rest of a commit.)
* `SenderLock` says which process sends. It is held for as long as a process lives, and the kernel frees it at death.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

from ..files import open_private

__all__ = ["SenderLock", "WriteLock", "abandon"]

# The three calls of each commit go to the system without a function of ours between, where there are such calls.
if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    LOCK_EX, LOCK_UN = 1, 0

    def flock(fd: int, how: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        if how == LOCK_UN:
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
            return
        while True:
            try:
                msvcrt.locking(fd, msvcrt.LK_LOCK, 1)  # tries for ten seconds, then raises
                return
            except OSError:
                continue

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False

    def pread(fd: int, size: int, at: int) -> bytes:
        os.lseek(fd, at, os.SEEK_SET)
        return os.read(fd, size)

    def pwrite(fd: int, content: bytes, at: int) -> int:
        os.lseek(fd, at, os.SEEK_SET)
        return os.write(fd, content)
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
    from os import pread, pwrite

    def _try_lock(fd: int) -> bool:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            return True
        except BlockingIOError:
            return False


def abandon(thing: Any) -> None:
    """Make an object immortal, so that it is never finalized.

    After a fork the child holds copies of the parent's SQLite connections and locks. Closing a copy would unlock, or
    checkpoint and delete, files that the parent still works on (https://www.sqlite.org/howtocorrupt.html, 2.6); the
    only safe thing to do with them is nothing, not even at interpreter exit.
    """
    import ctypes

    with contextlib.suppress(AttributeError):  # an interpreter without reference counts keeps what we cannot pin
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_UNKNOWN = b"?"  # not what any file of ours holds, also not an empty one


class WriteLock:
    """An exclusive lock between processes on one file, cheap to take. Not for two threads: guard it by a thread lock.

    The file holds 16 bytes that everybody reads when they take the lock: the generation of the queue file, raised by
    whoever puts another file in its place, and the mark of who wrote last. Nothing rests on their surviving a crash: at
    worst somebody looks again at what has not changed. (They are read and not mapped: to touch a mapping of a file that
    somebody has emptied kills the process.)
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._mark = os.urandom(8)
        self._expected = _UNKNOWN

    def acquire(self) -> bool:
        """Wait until no other process holds the lock, and take it.

        Return whether nobody else has written, or replaced the queue file, since this object held it last. Raises
        OSError.
        """
        if self._fd < 0:
            self._fd = open_private(self._path, os.O_RDWR)
            self._expected = _UNKNOWN
        fd = self._fd
        flock(fd, LOCK_EX)
        state = pread(fd, 16, 0)
        if state == self._expected:
            return True
        self._leave_mark(state[:8])
        return False

    def _leave_mark(self, generation: bytes) -> None:
        state = generation.ljust(8, b"\0") + self._mark
        try:
            pwrite(self._fd, state, 0)
            self._expected = state
        except OSError:  # a full disk, and a file that was emptied: nobody can be told, so we look again next time
            self._expected = _UNKNOWN

    @property
    def generation(self) -> bytes:
        """The generation of the queue file; lock held."""
        return pread(self._fd, 16, 0)[:8].ljust(8, b"\0")

    def next_generation(self) -> None:
        """Tell everybody that another file stands in the queue's place; lock held."""
        number = int.from_bytes(self.generation, "little") + 1 & 0xFFFF_FFFF_FFFF_FFFF
        self._leave_mark(number.to_bytes(8, "little"))

    def release(self) -> None:
        """Let the next process in."""
        if self._fd >= 0:
            flock(self._fd, LOCK_UN)

    def close(self) -> None:
        """Close the file, which also unlocks it. In a forked child this leaves the parent's lock alone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._mark = os.urandom(8)  # a forked child is somebody else


# Held while a sender's lock file is opened and locked: a child that is forked in the midst of that would hold the lock,
# and nobody there would know.
_taking = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_taking.acquire, after_in_parent=_taking.release, after_in_child=_taking.release)


class SenderLock:
    """Which of the processes (and clients in one process) that share a queue is the sender.

    By hand rather than by a lock library: one that guards its own state around forks fails, or ends, the forks of
    programs that have nothing to do with it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._pid = 0

    def acquire(self) -> bool:
        """Try to become the sender, without waiting, or to stay it; return whether we are. Raises OSError."""
        if self.held:
            # Had somebody deleted our file, others would lock the next one.
            if self._identity() in (None, _identity(os.fstat(self._fd))):
                return True
            self.release()
        with _taking:
            fd = open_private(self._path, os.O_RDWR)
            try:
                if not _try_lock(fd) or self._identity() != _identity(os.fstat(fd)):
                    return False
                self._fd, self._pid, fd = fd, os.getpid(), -1
                return True
            finally:
                if fd >= 0:
                    os.close(fd)

    def _identity(self) -> tuple[int, int] | None:
        try:
            return _identity(os.stat(self._path))
        except OSError:
            return None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock in this process."""
        return self._fd >= 0 and self._pid == os.getpid()

    def release(self) -> None:
        """Stop being the sender."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self._pid == os.getpid():
                flock(fd, LOCK_UN)
            os.close(fd)

    def after_fork(self) -> None:
        """Forget, in the child, the lock that belongs to the parent.

        The child's copy of the descriptor is closed, else the parent's lock would outlive the parent; it is not
        unlocked, because an unlock would reach the parent's lock through the shared file description.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
