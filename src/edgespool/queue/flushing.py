"""Flushing a WAL by hand, and what to do after a flush that failed. Knows files, no SQLite."""

from __future__ import annotations

import os

__all__ = ["flush", "flush_and_close", "opened", "write_again"]

_BLOCK = 1 << 20


def flush(path: str) -> None:
    """Flush a file's content; one that is not there has nothing to flush. Raises OSError."""
    flush_and_close(opened(path))


def opened(path: str) -> int | None:
    """Open a file to flush it, and return its descriptor; None when it is not there. Raises OSError."""
    try:
        return os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None


def flush_and_close(fd: int | None) -> None:
    """Flush the content of what `opened` returned; raises OSError."""
    if fd is None:
        return
    try:
        _fdatasync(fd)
    finally:
        os.close(fd)


def write_again(path: str) -> None:
    """Write a file's content over itself, and flush it; raises OSError. Nobody may write to the file meanwhile.

    After a flush that failed the kernel takes what it could not write for written: a second flush alone would say yes
    without having done anything (https://lwn.net/Articles/752063/).
    """
    fd = opened(path)
    if fd is None:
        return
    try:
        at = 0
        while block := os.pread(fd, _BLOCK, at):
            at += os.pwrite(fd, block, at)
        _fdatasync(fd)
    finally:
        os.close(fd)


def _fdatasync(fd: int) -> None:
    getattr(os, "fdatasync", os.fsync)(fd)
