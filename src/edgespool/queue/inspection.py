"""A look at a queue's files before SQLite sees them, for what SQLite would destroy without a word. Changes nothing.

SQLite, when it opens a file,

* deletes the WAL beside an empty one, with all events in it;
* ends its reading of the WAL at the first broken frame, and then writes over what stands behind;
* turns the database of another program, or of a newer version, to its own settings.

What is found here has therefore not been touched when it is set aside.
"""

from __future__ import annotations

import os

from ..errors import QueueVersionError
from . import rawfile, salvage, schema
from .pages import MAGIC, Pages

__all__ = ["damage"]

_FARTHEST = 1 << 16  # a schema version beyond is no version but a damaged number
_NO_TABLES = b"\x0d\0\0\0\0"  # how the page of an empty schema begins


def damage(directory: str) -> str | None:
    """Return what is wrong with a queue's file or its WAL, None when SQLite may open them. Write lock held.

    Raises:
        QueueVersionError: a newer edgespool wrote the file.
        OSError: it cannot be read.
    """
    path = os.path.join(directory, schema.FILE_NAME)
    if not os.path.isfile(path) and os.path.exists(path):
        return None  # no file at all; `Store` says so
    if os.path.exists(path + "-journal"):
        return None  # the very first start was cut short: SQLite undoes it
    if rawfile.in_use(path):
        return None  # looked at before
    with salvage.newest(path) as pages:
        if not pages.file_bytes:
            return _of_nothing(directory, pages)
        first = pages.page(1)
        if len(first) < pages.size or not first.startswith(MAGIC):
            return "it is no SQLite database"
        version, owner = int.from_bytes(first[60:64], "big"), int.from_bytes(first[68:72], "big")
        if owner != schema.APPLICATION_ID or not 0 < version < _FARTHEST:
            fresh = owner == version == 0 and first[100:105] == _NO_TABLES
            return None if fresh else "it is a database, but no edgespool queue"
        if version > schema.VERSION:
            raise QueueVersionError(
                f"the queue file in {directory} has schema version {version}, this edgespool knows up to "
                f"{schema.VERSION}: upgrade edgespool, or give it another directory; the file is left as it is"
            )
        if int.from_bytes(first[16:18], "big") != pages.size:
            return "its page size is wrong"
        wal = pages.wal
        if wal.damaged:
            return f"frame {wal.committed + 1} of its WAL is broken, though {wal.proven} had been flushed"
    return None


def _of_nothing(directory: str, pages: Pages) -> str | None:
    if pages.wal.proven and salvage.holds_events(pages):
        return "it is empty or missing, but its WAL holds events"
    if os.path.exists(os.path.join(directory, schema.FILE_NAME)) and os.path.exists(os.path.join(directory, "ballast")):
        return "it is empty"  # the ballast is only made once there are tables
    return None
