"""Files that survive a power cut: directories whose names are flushed, documents whole or not at all. A leaf."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys

__all__ = [
    "make_directory", "open_plain", "open_private", "read_bounded", "sync_directory", "temporary_path", "write_whole",
    "writer_of",
]  # fmt: skip

if sys.platform == "win32":  # pragma: no cover

    def sync_directory(path: str) -> None:
        """Windows has no such call; names there are flushed with the file."""
else:

    def sync_directory(path: str) -> None:
        """Flush the names in a directory to the disk; raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_flushed: set[tuple[str, int, int]] = set()  # directories whose names this process has flushed: path, device, inode


def make_directory(path: str) -> None:
    """Make a directory of mode 0700 with its parents, each name flushed to the disk; raises OSError.

    A database in a directory whose own name was never flushed is gone after a power cut. That goes for one that stands
    there already, too: whoever made it may have been killed before the flush.
    """
    path = os.path.abspath(path)
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # before any of its parents is made
            raise
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    _flush_name(path, os.path.dirname(path))
    for path in reversed(missing):
        _make(path)


def _make(path: str) -> None:
    """Make a directory whose parent is there."""
    parent = os.path.dirname(path)
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # whatever the umask took away
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    sync_directory(parent)
    _flushed.add(_mark(path))


def _flush_name(path: str, parent: str) -> None:
    """Flush the name of a directory that stands there already, once a process."""
    mark = _mark(path)
    if mark not in _flushed:
        with contextlib.suppress(PermissionError):  # then it was made by somebody who may write there: an administrator
            sync_directory(parent)
        _flushed.add(mark)


def _mark(path: str) -> tuple[str, int, int]:
    info = os.stat(path)
    return path, info.st_dev, info.st_ino


def open_private(path: str, flags: int) -> int:
    """Open a file and return its descriptor; one that is missing is made with mode 0600, whatever the umask.

    Never through a symbolic link, nor anything but a plain file: a name in a directory that others can write to may
    lead anywhere. Raises OSError.
    """
    flags |= os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags, 0o600)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a plain file", path)
        if mode & 0o600 != 0o600:  # the umask took away even the owner's rights
            with contextlib.suppress(OSError, AttributeError):  # a filesystem without modes, or Windows
                os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_plain(path: str) -> int:
    """Open a plain file to read, and return its descriptor; raises OSError.

    What pretends to be a file, such as a pipe or a device, could make the reader wait, or read, for ever.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", path)
    except BaseException:
        os.close(fd)  # fdopen would refuse a directory and leave it open
        raise
    return fd


def read_bounded(path: str, limit: int) -> bytes:
    """Return a plain file's content, or the first `limit` + 1 bytes of a longer one; raises OSError."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(limit + 1)


def temporary_path(path: str) -> str:
    """Return where this process writes what is to take the place of `path`."""
    return f"{path}.{os.getpid()}.tmp"


def writer_of(name: str) -> int | None:
    """Return the id of the process that a temporary file is or was written by; None when it is no temporary file."""
    found = re.fullmatch(r".*\.(\d+)\.tmp", name)
    return int(found[1]) if found else None


def write_whole(path: str, content: bytes) -> None:
    """Write a file of mode 0600 so that it is there whole or not at all, also after a power cut; raises OSError.

    Temporary file, fsync, rename, fsync of the directory. A file that stands at `path` already is replaced.
    """
    directory = os.path.dirname(path)
    make_directory(directory)
    temporary = temporary_path(path)
    try:
        fd = open_private(temporary, os.O_WRONLY | os.O_TRUNC)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view):]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)
