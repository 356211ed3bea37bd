"""Reading a database file beside SQLite, in the same process, without taking its locks away. Knows files, no SQLite.

When a process closes any descriptor of a file, the kernel drops all locks that the process holds on that file, those of
SQLite too; another process would then take itself for the last user, and delete a WAL that is in use
(https://www.sqlite.org/howtocorrupt.html, 2.2). So a descriptor is closed only once no store of this process has the
file open.
"""

from __future__ import annotations

import contextlib
import os
import threading

from ..files import open_plain

__all__ = ["allocate", "close", "done", "in_use", "open_", "using"]

Identity = tuple[int, int]

_mutex = threading.Lock()
_users: dict[Identity, int] = {}
_kept: dict[Identity, list[int]] = {}


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def using(path: str) -> Identity:
    """Say that this process is about to open the file by SQLite; raises OSError. Goes with `done`."""
    identity = _identity(os.stat(path))
    with _mutex:
        _users[identity] = _users.get(identity, 0) + 1
    return identity


def done(identity: Identity) -> None:
    """Say that SQLite has closed the file again."""
    with _mutex:
        left = _users.get(identity, 0) - 1
        if left > 0:
            _users[identity] = left
            return
        _users.pop(identity, None)
        for fd in _kept.pop(identity, ()):
            with contextlib.suppress(OSError):
                os.close(fd)


def in_use(path: str) -> bool:
    """Whether a store of this process has the file open."""
    try:
        return _identity(os.stat(path)) in _users
    except OSError:
        return False


def open_(path: str) -> int:
    """Return a descriptor to read the file with, for `close` to be called on; raises OSError."""
    return open_plain(path)


def allocate(path: str, size: int, user: Identity) -> None:
    """Give the shared-memory file of an open database its place on the disk, whole pages of it.

    SQLite allocates one byte in 4096. On a file system with smaller blocks the rest of the page is a hole, and the
    first access to a hole on a full disk kills the process (SIGBUS).
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with contextlib.suppress(OSError):
        if os.statvfs(path).f_frsize >= 4096:
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            with _mutex:
                _kept.setdefault(user, []).append(fd)


def close(fd: int) -> None:
    """Close the descriptor, at once or as soon as it does no harm."""
    identity = _identity(os.fstat(fd))
    with _mutex:
        if identity in _users:
            _kept.setdefault(identity, []).append(fd)
            return
    os.close(fd)
