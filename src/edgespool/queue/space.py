"""How much room the queue may take, and what is set aside for a full disk. Knows files and page counts, no events."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from ..errors import QueueFull
from ..files import open_private
from .schema import PAGE_SIZE

__all__ = ["NOTHING", "Ballast", "Budget", "available", "disk_full"]

MEBIBYTE = 1 << 20
NOTHING = 64 * 1024  # bytes free on a disk: with less, SQLite cannot even open a file


def available(directory: str) -> int:
    """Return the bytes that this process may still write to a directory's disk; where nobody can tell, a lot."""
    try:
        status = os.statvfs(directory)
    except (OSError, AttributeError):  # Windows has no such call
        return 1 << 60
    if not status.f_blocks:  # a filesystem without a size of its own
        return 1 << 60
    if os.geteuid():
        return status.f_bavail * status.f_frsize
    # Root may use what is reserved for root, but not what ext4 keeps for itself, which is counted as free as well.
    return max(status.f_bavail, status.f_bfree - min(status.f_blocks // 50, 4096)) * status.f_frsize


def disk_full(directory: str) -> QueueFull:
    """Return the error for a disk without room."""
    return QueueFull(f"the disk that holds {directory} is full; nothing was stored: make room there")


class Budget:
    """`max_bytes`, divided: the database itself, the WAL beside it, and the ballast.

    Counted are the pages that hold something; those that acknowledgements have emptied are room again.
    """

    SMALLEST = MEBIBYTE

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.wal_limit = min(max(max_bytes // 8, 128 * 1024), 8 * MEBIBYTE)
        self.ballast = self.wal_limit
        self._pages = (max_bytes - self.wal_limit - self.ballast) // PAGE_SIZE

    def room(self, connection: sqlite3.Connection) -> int:
        """Return the bytes that are free for events; at or below zero when the budget is used up."""
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        return int(self._pages - used) * PAGE_SIZE + self.emptied(connection)

    @staticmethod
    def emptied(connection: sqlite3.Connection) -> int:
        """Return the bytes of pages within the file that hold nothing: room that needs none on the disk."""
        return int(connection.execute("PRAGMA freelist_count").fetchone()[0]) * PAGE_SIZE

    @staticmethod
    def cost(payload_bytes: int, rows: int) -> int:
        """Return the bytes of pages that so many rows of so many payload bytes may come to need."""
        return payload_bytes + payload_bytes // 8 + 72 * rows + PAGE_SIZE


class Ballast:
    """A file that is given up when the disk is full, so that acknowledgements can still be written.

    Deleting a row writes a page before it frees one. On a full disk a queue without this would go on delivering and
    could acknowledge nothing. Its room goes to the database file, which must be able to take what is in the WAL: once
    it has, the WAL is written from its beginning again, and acknowledgements need no more room for good. So the ballast
    is as large as the WAL may become, and while it is not there nothing may be appended.

    Args:
        directory: the queue's directory.
        most: its size where the disk has plenty; on a small one, or one that is nearly full, it takes a quarter of what
            is free.
    """

    LEAST = 128 * 1024  # so much the WAL may take for one large acknowledgement

    def __init__(self, directory: str, most: int) -> None:
        self._directory = directory
        self._path = os.path.join(directory, "ballast")
        self._most = most
        self.size = 0  # bytes; 0 while it is given up

    def look(self) -> int:
        """Return its size, which another process may have changed."""
        try:
            self.size = os.stat(self._path).st_size
        except OSError:
            self.size = 0
        return self.size

    def put_back(self, most: int | None = None) -> bool:
        """Make the file, or make it larger, as far as the disk has room; return whether it is there.

        Args:
            most: bytes that it may become at most this time.
        """
        most = self._most if most is None else min(most, self._most)
        if self.look() >= most > 0:
            return True
        least = min(self._most, self.LEAST)
        room = available(self._directory) + self.size
        wanted = min(most, max(room // 4, least))
        if wanted <= self.size or wanted < least or room < 2 * least:
            return self.size >= least
        try:
            fd = open_private(self._path, os.O_WRONLY)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, wanted)
                else:  # pragma: no cover - macOS, Windows
                    os.write(fd, bytes(wanted))
            finally:
                os.close(fd)
        except OSError:
            self.give_up()  # a part of it would be taken for the whole
            return False
        self.size = wanted
        return True

    def give_up(self) -> bool:
        """Delete the file; return whether that freed anything."""
        self.size = 0
        with contextlib.suppress(OSError):
            os.unlink(self._path)
            return True
        return False
