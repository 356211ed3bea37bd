"""Which file system a directory is on, and whether anybody can write there."""

from __future__ import annotations

import os

__all__ = ["mount_of", "read_only"]


def mount_of(directory: str) -> tuple[str, str, str] | None:
    """Return kind, options and mount point of the filesystem that holds a directory; None where nobody says (Linux)."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    path = os.path.realpath(directory)
    best: tuple[str, str, str] | None = None
    for _, raw, kind, options, *_ in lines:
        point = raw.replace("\\040", " ").replace("\\134", "\\")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best[2])):
            best = kind, options, point
    return best


def read_only(directory: str) -> bool:
    """Whether the file system is mounted so that nobody can write, or has become so after an error."""
    mount = mount_of(directory)
    if mount is not None and {"ro", "emergency_ro"} & set(mount[1].split(",")):
        return True
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):  # AttributeError: Windows
        return False
