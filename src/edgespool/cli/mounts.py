"""Which filesystem holds a directory, and whether it can be written. Knows Linux; elsewhere nobody says."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Mount", "mount_of", "read_only"]

# What Linux says of a filesystem that takes no writes: mounted so, or after an error that ended its writing.
_NO_WRITES = {"ro", "emergency_ro", "shutdown"}


class Mount(NamedTuple):
    """A filesystem: its kind, its options, and where it is mounted."""

    kind: str
    options: str
    point: str

    @property
    def read_only(self) -> bool:
        """Whether it takes no writes."""
        return not _NO_WRITES.isdisjoint(self.options.split(","))


def mount_of(directory: str) -> Mount | None:
    """Return the filesystem that holds a directory; None where nobody says."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    path = os.path.realpath(directory)
    best: Mount | None = None
    for _, raw, kind, options, *_ in lines:
        point = raw.replace("\\040", " ").replace("\\134", "\\")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            best = Mount(kind, options, point)
    return best


def read_only(directory: str) -> bool:
    """Whether the filesystem that holds a directory takes no writes, as far as anybody says."""
    mount = mount_of(directory)
    if mount is not None and mount.read_only:
        return True
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):  # AttributeError: Windows
        return False
