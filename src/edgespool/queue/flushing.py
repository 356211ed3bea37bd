"""Flushing a WAL by hand, and what to do after a flush that failed. Knows files, no SQLite."""

from __future__ import annotations

import os

__all__ = ["flush", "write_again"]

_BLOCK = 1 << 20


def flush(path: str) -> None:
    """Flush a file's content; one that is not there has nothing to flush. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
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
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
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
