"""The streamer's offline mode: readings go to a CSV file, a row each, and nowhere else. Knows no queue and no network.

A row is `epoch, key, value`. Rows are appended: what an earlier run wrote stays.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable
from typing import IO, Any

from ... import forks
from ...errors import ConfigError, EventError, QueueUnavailable

__all__ = ["OfflineFile", "rows_of"]


class OfflineFile:
    """A CSV file that rows are appended to. Safe for many threads.

    Args:
        path: the file; it is made if it does not exist.
        flush_to_device: whether rows are flushed to the device before `append` returns, or to the kernel only.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: str, flush_to_device: bool = True) -> None:
        self.path = os.path.abspath(path)
        self._flush_to_device = flush_to_device
        self._lock = forks.Lock()
        self._file: IO[bytes] | None = None
        self._pid = 0  # of the process that opened it
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"offline_file: {self.path} cannot be opened: {error.strerror or error}") from None

    def append(self, rows: Iterable[tuple[float, Any, Any]]) -> None:
        """Write the rows in one go, before returning; opens the file again after `close`.

        Raises:
            EventError: a value holds a lone surrogate, which no file in UTF-8 can hold; nothing was written.
            QueueUnavailable: the file cannot be written.
        """
        content = rows_of(rows)
        with self._lock:
            try:
                if self._pid != os.getpid():  # the position of a parent's file moves when the parent writes
                    self._drop()
                file = self._file or self._open()
                _write(file.fileno(), content)  # unbuffered: it is in the kernel's hands now
                if self._flush_to_device:
                    os.fsync(file.fileno())
            except OSError as error:
                self._drop()  # opening it again sees whether the last row is torn
                raise QueueUnavailable(f"{self.path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _open(self) -> IO[bytes]:
        file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 - closed by `close`
        try:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    _write(file.fileno(), b"\r\n")  # a power cut tore the last row; it must not run into the next
        except BaseException:
            file.close()
            raise
        self._file, self._pid = file, os.getpid()
        return file


def rows_of(rows: Iterable[tuple[float, Any, Any]]) -> bytes:
    """Return rows as they are written; raises EventError as `OfflineFile.append`, and what the values raise."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    try:
        return text.getvalue().encode()
    except UnicodeEncodeError:
        raise EventError("a key or value holds a lone surrogate, which is not valid Unicode text") from None


def _write(fd: int, content: bytes) -> None:
    """Append all of it, or nothing: a disk that is nearly full takes a part, and says so only when it gets the rest."""
    done = os.write(fd, content)
    if done == len(content):
        return
    begin = os.lseek(fd, 0, os.SEEK_CUR) - done
    try:
        while done < len(content):
            done += os.write(fd, content[done:])
    except OSError:
        if os.fstat(fd).st_size == begin + done:  # else another process has written behind it
            os.ftruncate(fd, begin)
        raise
