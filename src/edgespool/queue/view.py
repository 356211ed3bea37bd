"""QueueView: a look at a queue's file that changes nothing, also while other processes work on it.

For `status`, `peek`, `export` and `doctor`. It never makes a queue, never salvages one, takes no lock of ours, and
keeps no statement open between two reads, for an open reader stops checkpoints.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from zlib import crc32

from ..clock import SystemClock
from ..errors import QueueUnavailable
from ..event import StoredEvent
from ..interfaces import Clock, Ledger
from . import schema
from .locks import SenderLock

__all__ = ["SQLITE_NEEDED", "SQLITE_VERSION", "Check", "QueueView", "disk_bytes", "sender_alive"]

SQLITE_VERSION = sqlite3.sqlite_version_info
SQLITE_NEEDED = (3, 24, 0)  # for "ON CONFLICT DO UPDATE"

T = TypeVar("T")
_MICROSECONDS = 1_000_000
_CLOCK_STEP = 1_500_000  # microseconds a recorded time must be off to be put right: more than a leap second
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_800  # seconds from 1970 to where calendars begin and end
_PAGE = 500  # rows read at a time


@dataclass(frozen=True)
class Check:
    """What a look at every page and row found. `problems` is what SQLite itself says; empty when the file is sound."""

    problems: list[str]
    rows: int
    damaged: int  # rows whose checksum does not fit
    ledger: Ledger
    wal_bytes: int


class QueueView:
    """Reads a queue's file. Use it as a context manager; for one thread.

    Args:
        directory: the queue's directory.
        clock: the clocks; for tests.
        timeout: seconds to wait for a lock.

    Raises:
        QueueUnavailable: there is no queue, or it cannot be read.
        QueueVersionError: a newer edgespool wrote it.
        QueueDamaged: it is not a healthy queue file.
    """

    def __init__(self, directory: str, clock: Clock | None = None, timeout: float = 10.0) -> None:
        self.directory = os.path.abspath(directory)
        self.damaged = 0  # rows that `events` passed over because their checksum does not fit
        self._clock: Clock = clock or SystemClock()
        path = os.path.join(self.directory, schema.FILE_NAME)
        try:
            plain = stat.S_ISREG(os.lstat(path).st_mode)
        except FileNotFoundError:
            if os.path.exists(f"{path}.salvaged"):
                raise QueueUnavailable(
                    f"a repair of the queue in {self.directory} was cut short; it is completed when a program opens it"
                ) from None
            raise QueueUnavailable(f"there is no queue in {self.directory}") from None
        except OSError as error:
            raise QueueUnavailable(f"the queue in {self.directory} cannot be read: {error}") from error
        if not plain:
            raise QueueUnavailable(f"{path} is not a plain file")
        uri = f"{schema.uri_of(path)}?mode=ro"
        if not os.path.exists(path + "-wal") and not os.access(self.directory, os.W_OK):
            # Nobody can write there, so nobody does, and a WAL could not even be made to be found empty.
            uri += "&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)
            self._connection.text_factory = schema.text
            try:
                schema.version_of(self._connection)
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise schema.translate(error, self.directory) from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> QueueView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one state of the file; raises QueueError."""
        connection = self._connection
        try:
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise schema.translate(error, self.directory) from error

    def ledger(self) -> Ledger:
        """Return the counts."""
        return self._read(_ledger)

    @property
    def format_name(self) -> str | None:
        """The name of the format in which the events are stored; None while nobody said."""
        row = self._read(lambda connection: connection.execute(schema.FORMAT).fetchone())
        return row[0] if row else None

    def oldest_age(self) -> float | None:
        """Return the age of the oldest waiting event in seconds, by the boot clock if it can; None: nothing waits."""

        def work(connection: sqlite3.Connection) -> float | None:
            heads = _heads(connection)
            if not heads:
                return None
            rowid = min(heads.values(), key=lambda each: each & schema.SEQUENCE_MASK)
            row: tuple[Any, ...] = connection.execute(schema.LEASE, (rowid - 1, rowid + 1, 1)).fetchone()
            when, session, mono = row[2], row[4], row[5]
            if type(when) is not float or type(session) is not int or type(mono) is not int:
                return None  # damaged: whoever sends will set it aside
            boots = {sid: boot for sid, boot, *_ in schema.sessions(connection)}
            if boots.get(abs(session)) == self._clock.boot_id:  # negative when the user gave the time
                return max(0.0, self._clock.monotonic() - mono / _MICROSECONDS)
            return max(0.0, self._clock.time() - when)

        return self._read(work)

    def events(self, route: str | None = None) -> Iterator[tuple[str, StoredEvent]]:
        """Yield the waiting events with their routes, in the order of acceptance, times put right as at a sending.

        What is delivered meanwhile may be missing, what is recorded meanwhile may be there. Rows that do not fit their
        checksum are passed over and counted in `damaged`.
        """

        def work(connection: sqlite3.Connection) -> tuple[dict[int, str], dict[int, int]]:
            heads = _heads(connection)
            names = {rid: _route_name(connection, rid) for rid in heads}
            return {rid: name for rid, name in names.items() if route is None or name == route}, self._offsets(
                connection
            )

        names, offsets = self._read(work)
        page = max(10, _PAGE // max(1, len(names)))  # all routes' pages are in memory at once
        return heapq.merge(
            *(self._of_route(rid, name, offsets, page) for rid, name in names.items()),
            key=lambda each: each[1].rowid & schema.SEQUENCE_MASK,
        )

    def _of_route(
        self, rid: int, name: str, offsets: dict[int, int], page: int
    ) -> Iterator[tuple[str, StoredEvent]]:
        last = max((rid << schema.SEQUENCE_BITS) - 1, 0)
        end = rid << schema.SEQUENCE_BITS | schema.SEQUENCE_MASK
        while True:
            for row in (rows := self._page(last, end, page)):
                if not _sound(row):
                    self.damaged += 1
                    continue
                rowid, payload, when, raw_id, session, mono, _ = row
                offset = offsets.get(session)
                right = -1 if offset is None else mono + offset
                near = -_CLOCK_STEP < right - when * _MICROSECONDS < _CLOCK_STEP
                if near or not 0 <= right < _LATEST * _MICROSECONDS:
                    yield name, StoredEvent(rowid, payload, when, raw_id, False)
                else:  # taken while the clock was wrong
                    yield name, StoredEvent(rowid, payload, right / _MICROSECONDS, raw_id, True)
            if len(rows) < page:
                return
            last = rows[-1][0]

    def _page(self, last: int, end: int, count: int) -> list[tuple[Any, ...]]:
        return self._read(lambda connection: connection.execute(schema.LEASE, (last, end, count)).fetchall())

    def _offsets(self, connection: sqlite3.Connection) -> dict[int, int]:
        """Return what to add to each boot's clock to get the true time, where that is known."""
        found: dict[int, int] = {}
        for sid, boot, _, _, offset in schema.sessions(connection):
            if boot == self._clock.boot_id and self._clock.synchronized():
                found[sid] = int((self._clock.time() - self._clock.monotonic()) * _MICROSECONDS)
            elif type(offset) is int:
                found[sid] = offset
        return found

    def check(self) -> Check:
        """Look at every page and every row; takes a second for some hundred megabytes.

        Raises:
            QueueDamaged: the damage is such that the rows cannot be walked.
        """

        def pages(connection: sqlite3.Connection) -> list[str]:
            said = [row[0] for row in connection.execute("PRAGMA quick_check(20)").fetchall()]
            return [] if said == ["ok"] else said

        def counted(connection: sqlite3.Connection) -> tuple[Ledger, int]:
            return _ledger(connection), connection.execute(f"SELECT count(*) FROM {schema.TABLE}").fetchone()[0]

        problems = self._read(pages)
        ledger, rows = self._read(counted)
        damaged, last = 0, -1
        while found := self._page(last, (1 << 63) - 1, _PAGE):
            damaged += sum(not _sound(row) for row in found)
            last = found[-1][0]
        return Check(problems, rows, damaged, ledger, _size(self.directory, schema.FILE_NAME + "-wal"))


def _ledger(connection: sqlite3.Connection) -> Ledger:
    counts = schema.counts(connection)
    accepted = schema.last_sequence(connection)
    delivered, failed = counts.get("delivered", 0), counts.get("failed", 0)
    dropped = {name[8:]: count for name, count in counts.items() if name.startswith("dropped:")}
    return Ledger(accepted, delivered, failed, dropped, accepted - delivered - failed - sum(dropped.values()))


def _heads(connection: sqlite3.Connection) -> dict[int, int]:
    """Return each route that holds events, with the row id of its first; two steps down a B-tree for each."""
    heads: dict[int, int] = {}
    route = 0
    while row := connection.execute(schema.NEXT_ID, (route << schema.SEQUENCE_BITS,)).fetchone():
        if row[0] >> schema.SEQUENCE_BITS < route:
            raise schema.malformed("rows are out of order")
        route = row[0] >> schema.SEQUENCE_BITS
        heads[route] = row[0]
        route += 1
        if route >> (63 - schema.SEQUENCE_BITS):  # a damaged row id; what would come after it is no number for SQLite
            break
    return heads


def _route_name(connection: sqlite3.Connection, rid: int) -> str:
    if rid == 0:
        return ""
    row = connection.execute(schema.ROUTE_NAME, (rid,)).fetchone()
    return row[0] if row and isinstance(row[0], str) else f"route-{rid}"


def _sound(row: tuple[Any, ...]) -> bool:
    rowid, payload, when, raw_id, session, mono, crc = row
    try:
        raw = raw_id.encode("utf-8") if isinstance(raw_id, str) else raw_id
        ours = crc32(payload, crc32(raw, crc32(schema.pack_head(rowid, when, mono, session))))
        return bool(crc == ours and _EARLIEST <= when < _LATEST)
    except (TypeError, ValueError, schema.PackError, AttributeError):
        return False


def _size(directory: str, name: str) -> int:
    try:
        return os.stat(os.path.join(directory, name)).st_size
    except OSError:
        return 0


def disk_bytes(directory: str) -> int:
    """Return the bytes that a queue's file, WAL and ballast take on the disk."""
    return sum(_size(directory, name) for name in (schema.FILE_NAME, schema.FILE_NAME + "-wal", "ballast"))


def sender_alive(directory: str) -> bool | None:
    """Return whether a live process is the queue's sender; None when this user may not know."""
    path = os.path.join(directory, "sender.lock")
    try:
        if sys.platform == "win32":  # pragma: no cover
            if not os.path.exists(path):
                return False
            lock = SenderLock(path)
            taken = lock.acquire()
            lock.release()
            return not taken
        import fcntl

        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # were it a pipe, it would wait for a writer
        try:
            # A shared lock, for a moment: two that look do not see each other, and a sender that comes tries again.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    except FileNotFoundError:
        return False
    except OSError:
        return None
