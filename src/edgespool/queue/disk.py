"""DiskQueue: append, lease, ack, and the ledger that counts them.

Invariants:

* `append` returns after the records are committed, and at durability "power" flushed; several threads share one flush.
* Leases live in memory. There is one sender, so a crash simply makes its rows available again.
* A row leaves the table only by `settle`, by a limit the user chose (budget, age), or because its checksum fails; each
  time it is counted in the same transaction. `accepted = delivered + failed + dropped + pending` holds at every moment.
* Row ids never repeat: the ledger keeps the highest sequence number that was ever acknowledged.
* No call's cost depends on how many events wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time as _time
import weakref
from collections.abc import Callable, Sequence, Set
from operator import add
from typing import Any, Literal, TypeVar
from zlib import crc32

import persistqueue.serializers.json as json_serializer

from ..clock import SystemClock
from ..errors import QueueClosed, QueueDamaged, QueueError, QueueFull, QueueUnavailable
from ..event import Batch, Columns, Record, StoredEvent
from ..interfaces import Clock, Ledger
from . import salvage, schema
from .commit import GroupCommit, Job
from .persist import PersistQueueMethods
from .quarantine import Quarantine
from .schema import SEQUENCE_BITS, SEQUENCE_MASK
from .space import Ballast, Budget, available, disk_full
from .store import Store

__all__ = ["DiskQueue"]

T = TypeVar("T")
_log = logging.getLogger("edgespool")
_pack = schema.pack_head
_pack_with_id = schema.pack_head_and_id
_cost = Budget.cost
_MICROSECONDS = 1_000_000
Measure = Callable[[sqlite3.Connection], int]
_CLOCK_STEP = 1_500_000  # microseconds a recorded time must be off to be put right: more than a leap second
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_800  # seconds from 1970 to where calendars begin and end

OVERFLOW = ("reject", "block", "drop_oldest", "drop_newest")
DURABILITY = ("power", "process")
_SMALL = 1024  # bytes of a payload; of such events more are read at once
_PIECE = 255  # pages that durability "process" leaves unflushed when they come fast; one less than a power of two
_NONE: frozenset[int] = frozenset()
_LAST_ROUTE = (1 << 63 - SEQUENCE_BITS) - 1
_Owed = tuple[str, list[int]]  # the counter, and the row ids in order


def _routes(rowids: Sequence[int]) -> set[int]:
    """Return the numbers of the routes that these rows are of, which are in order."""
    if rowids[0] >> SEQUENCE_BITS == rowids[-1] >> SEQUENCE_BITS:  # nearly always
        return {rowids[0] >> SEQUENCE_BITS}
    return {rowid >> SEQUENCE_BITS for rowid in rowids}


def _row(rowid: int, record: Record, session: int) -> tuple[object, ...]:
    """Return the record as a row of the table, with its checksum."""
    payload, event_id, when, mono, _, time_given = record
    if time_given:
        session = -session
    if type(event_id) is bytes:
        head = crc32(_pack_with_id(rowid, when, mono, session, event_id))
    else:
        head = crc32(_raw_id(event_id), crc32(_pack(rowid, when, mono, session)))
    return rowid, payload, when, event_id, session, mono, crc32(payload, head)


def _rows(records: Sequence[Record], rowid: int, session: int) -> list[tuple[object, ...]]:
    """Return records of the default route as rows of the table, numbered from `rowid` on."""
    if len(records) == 1:
        return [_row(rowid, records[0], session)]
    for record in records:
        if record[5] or type(record[1]) is str:
            return [_row(number, each, session) for number, each in enumerate(records, rowid)]
    # The plain case, many thousand times a second: nothing but what cannot be left out.
    return [
        (number, payload, when, event_id, session, mono,
         crc32(_pack_with_id(number, when, mono, session, event_id) + payload))
        for number, (payload, event_id, when, mono, _, _) in enumerate(records, rowid)
    ]  # fmt: skip


def _raw_id(event_id: bytes | str) -> bytes:
    return event_id if isinstance(event_id, bytes) else event_id.encode("utf-8")


def _is_sound(row: tuple[Any, ...]) -> bool:
    """Whether a row as read from the table has the checksum it was written with, and a time a calendar can show."""
    rowid, payload, when, event_id, session, mono, crc = row
    try:
        ours = crc32(payload, crc32(_raw_id(event_id), crc32(_pack(rowid, when, mono, session))))
        return bool(crc == ours and _EARLIEST <= when < _LATEST)
    except (TypeError, ValueError, AttributeError, schema.PackError):
        return False  # of another type than was ever written


def _is_off(row: tuple[Any, ...], offsets: dict[int, int]) -> bool:
    """Whether a row's time was taken while the clock was wrong, as far as it is known now."""
    try:
        right = row[5] + offsets[row[4]]
        far = not -_CLOCK_STEP < right - row[2] * _MICROSECONDS < _CLOCK_STEP
        return far and 0 <= right < _LATEST * _MICROSECONDS  # nothing checks the table of sessions
    except TypeError:
        return False  # a damaged row; its checksum will tell


def _sound(rows: Sequence[tuple[Any, ...]], offsets: dict[int, int]) -> tuple[Sequence[Any], ...] | None:
    """Return row ids, payloads, times and ids of rows as they were written; None when one of them needs a closer look.

    The plain case, half a million times a second: rows of one boot, sound, of a clock that was right. So it goes by
    columns, in which nothing is done row by row in Python.
    """
    rowids, payloads, whens, raw_ids, sessions, monos, crcs = zip(*rows, strict=True)
    boot = sessions[0]
    try:
        heads = map(_pack_with_id, rowids, whens, monos, sessions, raw_ids)
        if (
            tuple(map(crc32, map(add, heads, payloads))) != crcs
            or set(map(len, raw_ids)) != {16}
            or set(sessions) != {boot}
            or not (min(whens) >= _EARLIEST and max(whens) < _LATEST)
        ):
            return None
        if boot in offsets:  # as `_is_off` has it
            low, high = -_CLOCK_STEP - offsets[boot], _CLOCK_STEP - offsets[boot]
            if not (  # so it is for all, if it is for the outermost; of rows that came slowly each is looked at
                low < min(monos) - max(whens) * _MICROSECONDS and max(monos) - min(whens) * _MICROSECONDS < high
            ):
                for mono, when in zip(monos, whens, strict=True):
                    if not low < mono - when * _MICROSECONDS < high:
                        return None
    except (TypeError, ValueError, schema.PackError):  # of another type than was ever written; an id of the user's own
        return None
    return rowids, payloads, whens, raw_ids


class DiskQueue(PersistQueueMethods):
    """A durable queue of events in one SQLite file.

    Args:
        path: the queue's directory; made when missing. A local disk: WAL needs memory shared between its users.
        durability: ``"power"`` flushes to the device before `append` returns; ``"process"`` at most `sync_interval`
            later.
        sync_interval: seconds, for durability "process" and for acknowledgements.
        max_bytes: the disk budget in bytes, at least 1 MiB; WAL and ballast are part of it, failed files are not.
        max_events: how many events may wait; None: as many as there is room for.
        overflow: what `append` does at either limit or on a full disk: ``"reject"`` raises QueueFull, ``"block"``
            waits for room (but see `may_wait`), ``"drop_oldest"`` and ``"drop_newest"`` drop and count.
        clock: the clocks; for tests.
        lock_timeout: seconds to wait for a program other than edgespool that locks the file.

    Raises:
        QueueUnavailable, QueueVersionError, QueueFull: the files cannot be opened; see `edgespool.errors`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str = "power",
        sync_interval: float = 1.0,
        max_bytes: int = 1 << 30,
        max_events: int | None = None,
        overflow: str = "reject",
        clock: Clock | None = None,
        lock_timeout: float = 30.0,
    ) -> None:
        if durability not in DURABILITY:
            raise ValueError(f"durability: one of {', '.join(DURABILITY)} is needed, not {durability!r}")
        if overflow not in OVERFLOW:
            raise ValueError(f"overflow: one of {', '.join(OVERFLOW)} is needed, not {overflow!r}")
        if max_bytes < Budget.SMALLEST:
            raise ValueError(f"max_bytes: at least {Budget.SMALLEST} is needed, not {max_bytes!r}")
        if max_events is not None and max_events < 1:
            raise ValueError(f"max_events: at least 1 is needed, not {max_events!r}")
        # All of this stands before the base class's __init__, which calls _init.
        self.durability = durability
        self.overflow = overflow
        self._sync_interval = sync_interval
        self._clock: Clock = clock or SystemClock()
        self._budget = Budget(max_bytes)
        self._scarce = max_bytes // 8  # with less room than this, SQLite is asked for it each time
        self._max_events = max_events
        self._directory = os.path.abspath(path)
        self._ballast = Ballast(self._directory, self._budget.ballast)
        self._quarantine = Quarantine(os.path.join(self._directory, "quarantine"))
        self._taken: dict[int, tuple[Any, Batch]] = {}
        #: Called with the number of records after each append, outside all locks; the worker listens here.
        self.on_append: Callable[[int], None] | None = None
        #: Says whether the calling thread may wait for room (overflow "block"); None: each may. The thread that sends
        #: must not: nobody else makes room.
        self.may_wait: Callable[[], bool] | None = None
        self._lock_timeout = lock_timeout
        super().__init__(
            self._directory, multithreading=True, serializer=json_serializer, db_file_name=schema.FILE_NAME
        )

    # --- opening, closing, forks --------------------------------------------------------------------------------

    def _init(self) -> None:
        self._store = Store(
            self._directory,
            self.durability,
            wal_limit=self._budget.wal_limit,
            timeout=self._lock_timeout,
            recover=self._salvage,
            make_room=self._ballast.give_up,
        )
        self._reset()
        with _forking:
            _queues.add(self)  # before it is opened: a fork waits until it is
        self._store.open()
        self._put_ballast_back()

    def _reset(self) -> None:
        """Make what lives in memory anew; also in a forked child."""
        self.tran_lock = self.action_lock = threading.Lock()  # the base class's; nothing here uses them
        self.put_event = threading.Event()
        self._commit: GroupCommit[Sequence[Record]] = GroupCommit(self._commit_jobs)
        self._state = threading.Lock()  # guards the leases below; held for moments only, never across a statement
        self._cursor: dict[int, int] = {}  # route -> the last row id that was leased
        self._out: dict[int, set[int]] = {}  # route -> row ids leased and not settled
        self._owed: list[_Owed] = []  # settled, but the disk would not take it yet
        self._routes: dict[str, int] = {}
        self._route_names: dict[int, str] = {0: ""}
        self._session: int | None = None
        self._fit_wal()
        self._sequence: int | None = None  # the last one given out, while nobody else writes
        self._foreign_writes = -1
        self._room_known = (0, 0)  # for how many commits more, and how many bytes
        self._places = 0  # for how many events more, at least, before they have to be counted
        self._offsets_known = False
        self._offset_kept = False  # whether this boot's is in the file
        self._offsets: dict[int, int] = {}  # session -> microseconds to add to its clock to get the true time
        self._uncounted = 0  # events dropped on a full disk that would not even take the count
        self._unplaced: list[tuple[Any, ...]] = []  # damaged rows for which there was no room in the quarantine
        self._next_check = 0.0
        self._checked = -1  # the generation of the file that was last looked through for hidden rows
        self._tail_doubtful = False  # a commit failed for want of room, perhaps after its events were in the WAL
        self._complaint: str | None = None  # what was last logged of work in the background that failed
        self._generation = -1
        self._file = -1
        self._syncer: threading.Thread | None = None
        self._stop_syncer = False
        # Let go of when there is so much to flush that the syncer should not wait for its time. No Event: an interrupt
        # (Ctrl-C) of `set` can leave its lock held for ever.
        self._sync_due = threading.Lock()
        self._sync_due.acquire()
        self._last_sync = self._last_touch = _time.monotonic()
        # Told when acknowledgements made room. Entered by the lock: see the worker's locks.
        self._room_lock = threading.RLock()
        self._room = threading.Condition(self._room_lock)

    def close(self) -> None:
        """Flush and let go of the files. Idempotent; calls after it raise QueueClosed."""
        store = getattr(self, "_store", None)
        if store is None or store.closed:
            return
        self._stop_syncer = True
        self._wake_syncer()
        if self._syncer is not None and self._syncer is not threading.current_thread():
            self._syncer.join(timeout=5)
        if self._owed:
            try:
                self._settle_owed()
            except QueueError as error:
                _log.warning("some acknowledgements could not be written; their events will be sent again: %s", error)
        with contextlib.suppress(QueueError):  # nothing is lost by it
            self._last_words()
        store.close()
        self._getter = self._putter = None
        with self._room_lock:
            self._room.notify_all()

    def sync(self) -> None:
        """Flush what durability "process" has left to the kernel so far; raises QueueError when the disk says no."""
        self._store.sync()

    def __del__(self) -> None:
        # Never from a finalizer: at interpreter exit, or in a forked child, closing could delete a live WAL.
        pass

    def _salvage(self, directory: str, why: BaseException) -> None:
        try:
            salvage.salvage(directory, why)
        except (OSError, sqlite3.Error):
            if not self._ballast.give_up():
                raise
            salvage.salvage(directory, why)

    @property
    def salvaged(self) -> salvage.Report | None:
        """What was found when the file was damaged and salvaged, also in an earlier run; None when it never was."""
        return self._store.salvaged

    @property
    def trouble(self) -> str | None:
        """What the disk last would not do; None once it does."""
        return self._store.trouble

    @property
    def refusal(self) -> str | None:
        """Why nothing can be stored, or acknowledged, until the disk works again; None while it does."""
        store = self._store
        return (store.trouble or store.flush_failed) if store.sick or store.flush_failed else None

    # --- append -------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> None:
        """Store the records durably, all or none, before returning; see `edgespool.interfaces.Queue`."""
        if self.overflow == "block":
            self._append_blocking(records)
        else:
            self._commit.submit(records)
        if self.on_append is not None:
            self.on_append(len(records))

    def _append_blocking(self, records: Sequence[Record]) -> None:
        pause = 0.02
        while True:
            try:
                self._commit.submit(records)
                return
            except QueueFull as error:
                if getattr(error, "hopeless", False):
                    raise
                if self.may_wait is not None and not self.may_wait():
                    raise QueueFull(
                        "the queue is full, and a hook, which is called in the sender's thread, cannot wait for room "
                        "that only this thread makes; nothing was stored"
                    ) from error
            with self._room_lock:
                if self._store.closed:
                    raise QueueClosed("the queue was closed while the call waited for room; nothing was stored")
                self._room.wait(pause)  # another process may make room, and cannot tell us: so not for ever
            pause = min(pause * 2, 0.5)

    def _commit_jobs(self, jobs: Sequence[Job[Sequence[Record]]]) -> None:
        if self._insert_few(jobs):
            return
        try:
            self._append_jobs(jobs, grow=bool(self._ballast.size) or self._put_ballast_back())
        except QueueFull:
            if not self._disk_full(jobs):
                raise
        if self.durability == "process" and self._store.unsynced and self._syncer is None:
            self._start_syncer()
        if self._store.checkpoint_due(0.75):
            # The worker should have done it; it is busy, or in another process. A WAL without bound is worse than
            # one slow call.
            self._quietly(self._store.checkpoint)

    def _append_jobs(self, jobs: Sequence[Job[Sequence[Record]]], grow: bool) -> None:
        """Store what there is room for; with `grow` false, within the file as it is: the disk is full."""
        uncounted = self._uncounted

        def again(connection: sqlite3.Connection) -> None:
            try:
                self._insert(connection, jobs, grow)
            except sqlite3.IntegrityError as error:
                raise schema.malformed("the last row is not where SQLite looks for it") from error

        try:
            try:
                self._write("append", lambda connection: self._insert(connection, jobs, grow))
            except schema.RowTaken:
                # Plain persist-queue has written to the table, without our lock: the numbers are asked for anew.
                self._write("append", again)
        except QueueFull:
            self._tail_doubtful = True
            raise
        self._uncounted -= uncounted
        if any(job.error is None for job in jobs):
            self._tail_doubtful = False

    def _insert_few(self, jobs: Sequence[Job[Sequence[Record]]]) -> bool:
        """Store the jobs' records with the fewest statements, the way most events go.

        Return False, with nothing done, when something has to be looked at first: a route that is new, room that runs
        short, a file opened anew, a checkpoint that is due. `_insert` then does it in full.
        """
        store = self._store
        records: Sequence[Record] = jobs[0].work
        if len(jobs) > 1:
            records = [record for job in jobs for record in job.work]
        commits, room = self._room_known
        session = self._session
        if (
            len(records) > schema.AT_ONCE or session is None or self._uncounted or len(records) > self._places
            or commits <= 0 or not self._ballast.size or store.flush_failed
        ):  # fmt: skip
            return False
        size = 0
        named = False
        for record in records:
            size += len(record[0])
            if record[4]:
                named = True
        need = _cost(size, len(records))
        # A flushed commit is padded by a page (psow=0). With a named route, the ledger's is written, too.
        pages = need // schema.PAGE_SIZE + store.flushes + named
        if room - need < self._scarce or store.pages_written + pages > self._pages_allowed:
            return False
        with store.gate:
            if store.writer is None or store.closed or self._generation != store.generation:
                return False
            try:
                store.enter()
            except (sqlite3.Error, OSError, QueueFull):
                return False  # `_insert` meets the same, where it is known what follows from it
            try:
                last = self._sequence if self._foreign_writes == store.foreign_writes else self._last_known()
                if self._generation != store.generation or last is None:
                    return False
                rows = self._rows_of_routes(records, last + 1, session) if named else _rows(records, last + 1, session)
                self._sequence = None  # unknown, should the statement fail
                if not rows or not store.insert(rows, last + len(rows) if named else None):
                    return False
                self._sequence = last + len(rows)
                self._room_known = (commits - 1, room - need)
                self._places -= len(rows)
                before = store.pages_written
                store.pages_written = written = before + pages
                if before ^ written > _PIECE:
                    self._wake_syncer()  # a checkpoint, for which appends wait, then finds little left to flush
                return True
            except (QueueFull, QueueDamaged):
                return False  # nothing was stored; the overflow policy, or a salvage, comes next
            finally:
                store.leave()

    def _rows_of_routes(self, records: Sequence[Record], sequence: int, session: int) -> list[tuple[object, ...]]:
        """Return records as rows numbered from `sequence` on; none when a route's number is not known yet."""
        routes = self._routes
        rows = []
        for number, record in enumerate(records, sequence):
            rid = routes.get(record[4]) if record[4] else 0
            if rid is None:
                return []
            rows.append(_row(rid << SEQUENCE_BITS | number, record, session))
        return rows

    # --- a full disk --------------------------------------------------------------------------------------------

    def _disk_full(self, jobs: Sequence[Job[Sequence[Record]]]) -> bool:
        """The disk took nothing: look for room, act by the overflow policy; return whether that settled the matter."""
        if self._ballast.size:
            self._quietly(self._store.checkpoint)
            settled = self._tried(jobs, grow=True)
            # Less each time: a disk may have less room for us than it says, because of a quota for example. The least
            # is tried too, whatever it was before: a WAL that was cut may have given back far more than the ballast.
            least_tried = False
            while not settled and (size := self._find_room()) and not least_tried:
                least_tried = size // 4 <= Ballast.LEAST
                if not self._put_ballast_back(max(size // 4, Ballast.LEAST)):
                    break
                settled = self._tried(jobs, grow=True)
            if settled:
                return True
        settled = self._tried(jobs, grow=False)
        if not settled and self.overflow == "drop_oldest":
            settled = self._tried_singly(jobs)
        if not settled and self.overflow == "drop_newest":
            self._count_lost(sum(len(job.work) for job in jobs))
            settled = True
        self._overwrite_tail()
        return settled

    def _tried(self, jobs: Sequence[Job[Sequence[Record]]], grow: bool) -> bool:
        try:
            self._append_jobs(jobs, grow)
        except QueueFull:
            return False
        return True

    def _tried_singly(self, jobs: Sequence[Job[Sequence[Record]]]) -> bool:
        """Let each job in turn take the place of old events; return whether any did, and what failed is told so.

        To drop and to store takes room in the WAL. There may be enough for one job, or for one after the other, where
        there was none for all in one transaction.
        """
        stored = False
        for job in jobs:
            self._find_room(cut=False)
            if self._tried([job], grow=False):
                stored = True
            else:
                job.error = disk_full(self._directory)
        return stored

    def _find_room(self, cut: bool = True) -> int:
        """Fold the WAL into the file with the ballast's room, so that it can be written from its beginning again.

        Return the bytes that the ballast had.

        Args:
            cut: give the room of a large WAL back to the disk.
        """
        size = self._ballast.size
        # A large batch that failed may have left a WAL that takes most of the disk.
        cut = cut and self._store.wal_bytes() > 2 * max(size, Ballast.LEAST)
        given_up: list[bool] = []

        def make_room() -> None:
            given_up.append(self._ballast.give_up())

        self._quietly(lambda: self._store.checkpoint(cut, make_room if size else None))
        if size and not given_up:  # it did not come to that
            self._ballast.give_up()
        self._fit_wal()
        return size

    def _put_ballast_back(self, most: int | None = None) -> bool:
        there = [False]

        def put_back() -> None:
            there[0] = self._ballast.put_back(most)

        # While nobody writes: somebody may just have given it up to fold the WAL, for which its room is then needed.
        with contextlib.suppress(QueueError):  # a disk that fails altogether; others say so
            self._store.tend(put_back)
        self._fit_wal()
        return there[0]

    def _fit_wal(self) -> None:
        """Keep the WAL small enough for the ballast to make room for what is in it."""
        limit = min(self._budget.wal_limit, max(self._ballast.size, Ballast.LEAST))
        self._store.limit_wal(limit)
        self._pages_allowed = limit // schema.FRAME_SIZE * 3 // 4  # it is an estimate that is counted against this

    def _check_growth(self, connection: sqlite3.Connection) -> None:
        """Refuse what would make the WAL hold more than the file could take on a disk that fills up meanwhile."""
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        growth = pages * schema.PAGE_SIZE - self._store.file_bytes()
        if growth > self._ballast.size and available(self._directory) < 3 * growth:
            raise disk_full(self._directory)

    def _overwrite_tail(self) -> None:
        """Write something small where a failed commit has left its events.

        SQLite has forgotten them, but the WAL may hold them whole: should the process die now, the next one would find
        events that the caller was told are not stored.
        """
        if not self._tail_doubtful:
            return

        def work(connection: sqlite3.Connection) -> None:
            self._check_generation(connection)
            connection.execute(schema.PROLONG_SESSION, (self._session,))

        with contextlib.suppress(QueueError):  # not even that: then there was no room for the events either
            self._write("ack", work)
            if self._store.flushes:
                self._store.sync()
        self._tail_doubtful = False

    def _count_lost(self, count: int) -> None:
        """Count events that a full disk did not take (overflow "drop_newest"), at once if the disk takes that much."""
        lost = self._uncounted = self._uncounted + count

        def work(connection: sqlite3.Connection) -> None:
            self._check_generation(connection)
            connection.execute(schema.RAISE_SEQUENCE, (schema.last_sequence(connection) + lost,))
            connection.execute(schema.COUNT, ("dropped:overflow", lost))

        try:
            self._write("ack", work)
        except QueueError:
            return  # with the next append
        self._sequence = None
        self._uncounted -= lost
        self._tail_doubtful = False
        if self._store.flushes:
            self._quietly(self._store.sync)

    def _write(self, which: Literal["append", "ack"], work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._store.write(which, work)
        except BaseException:
            # What the rolled-back transaction made, a route or the session, is not there.
            self._routes.clear()
            self._session = self._sequence = None
            self._room_known, self._places = (0, 0), 0
            raise

    def _insert(
        self, connection: sqlite3.Connection, jobs: Sequence[Job[Sequence[Record]]], grow: bool
    ) -> None:
        """Put the jobs' records into the table; a job that finds no room gets its error."""
        self._check_generation(connection)
        session = self._session
        assert session is not None
        sequence = self._last_sequence(connection)
        # On a full disk only what was emptied within the file is room.
        measure = self._budget.room if grow else self._budget.emptied
        room = self._known_room(connection) if grow else measure(connection)
        rows: list[tuple[object, ...]] = []
        named = False
        lost = 0
        written = 0
        for job in jobs:
            records = job.work
            job.error = None
            size = sum([len(record[0]) for record in records])
            need = Budget.cost(size, len(records)) * (1 if grow else 2)  # pages are seldom full
            if need > room:
                room = measure(connection) - written  # exactly, now that it matters
            if need > room:
                if self.overflow == "drop_oldest" and not self._hopeless(need, len(records)):
                    room = self._drop_oldest(connection, need, room, written, measure)
                if need > room:
                    if self.overflow == "drop_newest":
                        lost += len(records)
                    else:
                        job.error = self._full(need) if grow else disk_full(self._directory)
                    continue
            if len(records) > self._places:
                # What was taken so far goes into the table first: it is counted, and may be the oldest there is.
                schema.insert(connection, rows)
                rows = []
                self._places = self._count_places(connection, sequence, len(records))
                if len(records) > self._places:
                    if self.overflow == "drop_newest":
                        lost += len(records)
                    else:
                        job.error = self._too_many(len(records))
                    continue
            room -= need
            written += need
            self._places -= len(records)
            if not any(record[4] for record in records):
                rows += _rows(records, sequence + 1, session)
                sequence += len(records)
                continue
            for record in records:
                sequence += 1
                route = record[4]  # by position: a plain tuple will do for a record
                rid = self._route_id(connection, route) if route else 0
                named = named or rid != 0
                rows.append(_row(rid << SEQUENCE_BITS | sequence, record, session))
        schema.insert(connection, rows)
        lost += self._uncounted
        if lost:
            sequence += lost
            connection.execute(schema.COUNT, ("dropped:overflow", lost))
        if named or lost:
            connection.execute(schema.RAISE_SEQUENCE, (sequence,))
        self._store.pages_written += written // schema.PAGE_SIZE + 1
        if written:
            self._check_growth(connection)
        # Were the commit to fail, both would be asked for anew: `_write` clears what is known.
        self._sequence = sequence
        self._room_known = (self._room_known[0] - 1, room) if not lost else (0, 0)

    def _last_sequence(self, connection: sqlite3.Connection) -> int:
        """Return the last sequence number given out, from memory unless another process has written."""
        known = self._last_known()
        if known is None:
            known = self._sequence = schema.last_sequence(connection)
        return known

    def _last_known(self) -> int | None:
        if self._foreign_writes != self._store.foreign_writes:
            self._foreign_writes = self._store.foreign_writes
            self._sequence = None
            self._places = 0
        return self._sequence

    def _known_room(self, connection: sqlite3.Connection) -> int:
        """Return the room there is, asked of SQLite now and then: at once when it runs short."""
        commits, room = self._room_known
        if commits <= 0 or room < self._scarce:
            room = self._budget.room(connection)
            self._room_known = (128, room)
        return room

    def _full(self, need: int) -> QueueFull:
        error = QueueFull(
            f"the queue in {self._directory} has reached its budget of {self._budget.max_bytes} bytes; nothing was "
            "stored: is the server reachable? Raise max_bytes, or choose another overflow policy"
        )
        error.hopeless = self._hopeless(need)  # type: ignore[attr-defined]
        return error

    def _hopeless(self, need: int, count: int = 0) -> bool:
        """Whether it is so much that an empty queue may not hold it: no waiting and no dropping would help."""
        return need > self._budget.max_bytes // 2 or (self._max_events is not None and count > self._max_events)

    def _drop_oldest(self, connection: sqlite3.Connection, need: int, room: int, written: int, measure: Measure) -> int:
        """Delete the oldest events until `need` bytes are free beside those `written`; return the room then."""
        dropped = 0
        while need > room:
            base, rows = self._oldest(connection, 64)
            if not rows:
                break
            wanted = need - room
            last, got = 0, 0
            for rowid, length, _, _ in rows:
                last, got = rowid, got + (length or 0) + 72
                if got >= wanted:
                    break
            dropped += self._drop_range(connection, base, last)
            room = measure(connection) - written
        if dropped:
            connection.execute(schema.COUNT, ("dropped:overflow", dropped))
            assert self._sequence is not None
            connection.execute(schema.RAISE_SEQUENCE, (self._sequence,))
        return room

    def _oldest(self, connection: sqlite3.Connection, limit: int) -> tuple[int, list[tuple[Any, ...]]]:
        """Return the route of the oldest event, as the base of its row ids, and up to `limit` of its oldest rows."""
        heads = self._heads(connection, {})
        if not heads:
            return 0, []
        route = min(heads, key=lambda rid: heads[rid])
        # Up to the oldest event of any other route, so that the order of dropping is the order of recording.
        end = min((seq for rid, seq in heads.items() if rid != route), default=SEQUENCE_MASK)
        base = route << SEQUENCE_BITS
        return base, connection.execute(schema.OLDEST, (base, base | end, limit)).fetchall()

    @staticmethod
    def _drop_range(connection: sqlite3.Connection, base: int, last: int) -> int:
        count = connection.execute(schema.DELETE_RANGE, (base, last)).rowcount
        if not count:
            raise schema.malformed("rows are out of order")
        return count

    def _count_places(self, connection: sqlite3.Connection, sequence: int, need: int) -> int:
        """Return how many events more may wait; make places for `need` where the oldest may give way for them."""
        if self._max_events is None:
            return 1 << 62
        counts = schema.counts(connection)
        places = self._max_events - sequence + sum(counts.values()) - counts.get("seq", 0)
        if places >= need or self.overflow != "drop_oldest" or self._hopeless(0, need):
            return places
        dropped = 0
        while places + dropped < need:
            base, rows = self._oldest(connection, min(need - places - dropped, 1000))
            if not rows:
                break
            dropped += self._drop_range(connection, base, rows[-1][0])
        connection.execute(schema.COUNT, ("dropped:overflow", dropped))
        return places + dropped

    def _too_many(self, count: int) -> QueueFull:
        error = QueueFull(
            f"the queue in {self._directory} holds as many events as max_events ({self._max_events}) allows, and has "
            f"no place for {count} more; nothing was stored: is the server reachable?"
        )
        error.hopeless = self._hopeless(0, count)  # type: ignore[attr-defined]
        return error

    # --- routes, sessions ---------------------------------------------------------------------------------------

    def _check_generation(self, connection: sqlite3.Connection) -> None:
        """Forget what was cached of a file that is no longer ours; make sure that this boot has its session row."""
        if self._generation != self._store.generation:
            with self._state:
                self._routes.clear()
                self._route_names = {0: ""}
                self._session = self._sequence = None
                self._room_known, self._places = (0, 0), 0
                self._offsets_known = self._offset_kept = False
                if self._file != self._store.files:
                    # Another file: its row ids mean other events. What is in flight will be sent again.
                    self._cursor.clear()
                    self._out.clear()
                    self._owed.clear()
                    self._unplaced.clear()
                    self._file = self._store.files
                self._generation = self._store.generation
        if self._session is None:
            row = connection.execute(schema.SESSION, (self._clock.boot_id,)).fetchone()
            if row is None and connection.in_transaction:
                mono = int(self._clock.monotonic() * _MICROSECONDS)
                row = (connection.execute(schema.NEW_SESSION, (self._clock.boot_id, mono, mono)).lastrowid,)
            self._session = row[0] if row is not None else None

    def _route_id(self, connection: sqlite3.Connection, name: str) -> int:
        rid = self._routes.get(name)
        if rid is None:
            row = connection.execute(schema.ROUTE_ID, (name,)).fetchone()
            if row is not None:
                rid = self._routes[name] = row[0]
            else:
                rid = connection.execute(schema.NEW_ROUTE, (name,)).lastrowid
                assert rid is not None
                self._routes[name] = rid
            if not 0 < rid <= _LAST_ROUTE:
                if connection.execute(schema.ROUTES).fetchone()[0] > _LAST_ROUTE:
                    raise QueueUnavailable(f"a queue can hold events of {_LAST_ROUTE} routes at most, and it has them")
                raise schema.malformed("a route has a number that is none")
        return rid

    def _route_name(self, connection: sqlite3.Connection, rid: int) -> str:
        name = self._route_names.get(rid)
        if name is None:
            row = connection.execute(schema.ROUTE_NAME, (rid,)).fetchone()
            # The table of names may have been damaged; the events are still events.
            name = self._route_names[rid] = row[0] if row and isinstance(row[0], str) else f"route-{rid}"
        return name

    def _heads(self, connection: sqlite3.Connection, cursors: dict[int, int]) -> dict[int, int]:
        """Return each route that has events beyond its cursor, with the sequence number of the first of them.

        One or two steps down the B-tree for each route that holds anything; rows between are never looked at.
        """
        heads: dict[int, int] = {}
        route = 0
        while True:
            row = connection.execute(schema.NEXT_ID, (route << SEQUENCE_BITS,)).fetchone()
            if row is None:
                return heads
            rowid = row[0]
            if rowid < route << SEQUENCE_BITS:
                raise schema.malformed("rows are out of order")
            route = rowid >> SEQUENCE_BITS
            after = cursors.get(route)
            if after is not None and after >= rowid:
                row = connection.execute(schema.NEXT_ID, (after + 1,)).fetchone()
                rowid = row[0] if row is not None and row[0] >> SEQUENCE_BITS == route else None
            if rowid is not None:
                heads[route] = rowid & SEQUENCE_MASK
            if route == _LAST_ROUTE:  # a damaged row id; what would come after it is no number for SQLite
                return heads
            route += 1

    # --- lease, settle, requeue ---------------------------------------------------------------------------------

    def lease(
        self, limit: int, max_bytes: int, exclude: Set[str] = frozenset(), route: str | None = None
    ) -> Batch | None:
        """Set the next events of one route aside and return them; see `edgespool.interfaces.Queue`."""
        while True:
            batch, bad = self._store.read(lambda connection: self._lease(connection, limit, max_bytes, exclude, route))
            if not bad:
                return batch
            # Rows whose checksum fails go to a quarantine file, and never block the queue.
            if batch is not None:
                self.requeue(batch)
            self._set_aside(bad)

    def _lease(
        self, connection: sqlite3.Connection, limit: int, max_bytes: int, exclude: Set[str], only: str | None
    ) -> tuple[Batch | None, list[tuple[Any, ...]]]:
        self._check_generation(connection)
        with self._state:
            cursors = dict(self._cursor)
        heads = self._heads(connection, cursors)
        for rid in sorted(heads, key=lambda each: heads[each]):
            name = self._route_name(connection, rid)
            if name in exclude or (only is not None and name != only):
                continue
            base = rid << SEQUENCE_BITS
            taken = self._out.get(rid, ())
            offsets = self._true_offsets(connection)
            start = max(cursors.get(rid, 0), base - 1, 0)
            end = base | SEQUENCE_MASK
            events = Columns()
            bad: list[tuple[Any, ...]] = []
            size = 0
            last = start
            rows = connection.execute(schema.LEASE, (start, end, limit + len(taken)))
            try:
                full = False
                # In pieces: at once, five hundred large events would not fit into a small device's memory.
                while not full and (piece := rows.fetchmany(256 if 0 < size < _SMALL * len(events) else 64)):
                    if not taken and last < piece[0][0] == piece[-1][0] - len(piece) + 1:
                        sound = _sound(piece, offsets) if len(events) + len(piece) <= limit else None
                        more = sum(map(len, sound[1])) if sound else 0
                        if sound and size + more <= max_bytes:
                            events.extend(*sound)
                            size += more
                            last = piece[-1][0]
                            continue
                    for row in piece:
                        rowid, payload, when, raw_id, session, mono, _ = row
                        if rowid <= last:
                            raise schema.malformed("rows are out of order")
                        if rowid in taken:
                            last = rowid
                            continue
                        if not _is_sound(row):
                            bad.append(row)
                            last = rowid
                            continue
                        size += len(payload)
                        if events and (size > max_bytes or len(events) >= limit):
                            full = True
                            break
                        corrected = False
                        if session in offsets and _is_off(row, offsets):
                            corrected, when = True, (mono + offsets[session]) / _MICROSECONDS
                        events.append(StoredEvent(rowid, payload, when, raw_id, corrected))
                        last = rowid
            finally:
                rows.close()  # an open statement would stop checkpoints
            if not events and not bad:
                if last == start:
                    self._check_order(connection)  # dropped in this very moment; or it is there and not found
                continue
            with self._state:
                self._cursor[rid] = last
                self._out.setdefault(rid, set()).update(events.rowids)
            return (Batch(name, events) if events else None), bad
        return None, []

    def _true_offsets(self, connection: sqlite3.Connection) -> dict[int, int]:
        """Return, for each boot whose wall clock is known to have been right at last, what to add to its clock.

        Sessions of which nothing is known are left out, and so are the negative ones: times that the user gave.
        """
        if not self._offsets_known:
            sessions = schema.sessions(connection)
            self._offsets = {sid: offset for sid, _, _, _, offset in sessions if type(offset) is int}
            self._offsets_known = True
        if self._session is not None and self._clock.synchronized():
            self._offsets[self._session] = self._offset()
        return self._offsets

    def _offset(self) -> int:
        """Return what to add to this boot's clock to get the wall clock, in microseconds."""
        for _ in range(10):  # the two are read one after the other: again, should this thread have been held up between
            before = self._clock.monotonic()
            when, mono = self.stamp()
            if mono - before * _MICROSECONDS < _CLOCK_STEP // 10:
                break
        return int(when * _MICROSECONDS) - mono

    def lease_one(self, rowid: int | None) -> tuple[str, StoredEvent] | None:
        """Lease the next event of any route, or the one with this row id."""
        if rowid is None:
            batch = self.lease(1, 1)
            return None if batch is None else (batch.route, batch.events[0])

        def work(connection: sqlite3.Connection) -> tuple[str, StoredEvent] | None:
            self._check_generation(connection)
            row = connection.execute(schema.LEASE, (rowid - 1, rowid + 1, 1)).fetchone()
            rid = rowid >> SEQUENCE_BITS
            with self._state:
                if row is None or rowid in self._out.get(rid, ()):
                    return None
                self._out.setdefault(rid, set()).add(rowid)
            return self._route_name(connection, rid), StoredEvent(rowid, row[1], row[2], row[3], False)

        return self._store.read(work)

    def ack(  # type: ignore[override]  # both callers' signatures, ours and persist-queue's
        self, item: Any = None, ledger: Any = "delivered", id: int | None = None
    ) -> int:
        """Remove leased events for good: a Batch (see `edgespool.interfaces.Queue`), or an item that `get` returned."""
        if isinstance(item, Batch):
            return self.settle(item, ledger)
        return super().ack(item, id)

    def settle(self, batch: Batch, ledger: str = "delivered") -> int:
        """Delete leased events and count them in `ledger`, in one transaction; return how many there were.

        Raises:
            QueueError: the disk would not take it. The queue remembers, hands the events out no more while this
                process lives, and tries again by itself.
        """
        rowids = batch.columns.rowids
        with self._state:
            out = self._out
            # In order and each once: `_delete` takes them for a range when there are as many as first and last say.
            if not rowids or rowids != list(range(rowids[0], rowids[-1] + 1)) or not (
                out.get(rowids[0] >> SEQUENCE_BITS, _NONE).issuperset(rowids)
            ):
                given, rowids = rowids, []
                for rid in sorted({rowid >> SEQUENCE_BITS for rowid in given}):
                    rowids += sorted(out.get(rid, _NONE).intersection(given))
            if rowids:
                self._owed.append((ledger, rowids))
        return self._settle_owed() if rowids else 0

    def _settle_owed(self) -> int:
        """Write what is owed; return how many events that took off the queue.

        Each batch in a transaction of its own: together they might need more of the WAL than a full disk can give, and
        more at each try, for what is owed grows. What is written stays so, whatever becomes of the rest.
        """
        with self._state:
            owed = list(self._owed)
        return sum([self._settle_pieces(each) for each in owed])

    def _settle_pieces(self, owed: _Owed) -> int:
        """Write one owed acknowledgement, whole or in pieces as small as the room makes them."""
        try:
            return self._settle_one(owed)
        except QueueFull:
            # The file needs no room that the ballast does not give; then the WAL is written from its beginning again.
            # It is not cut: what it has on a full disk somebody else would take.
            self._find_room(cut=False)
        try:
            return self._settle_one(owed)
        except QueueFull:
            ledger, rowids = owed
            half = len(rowids) // 2
            if not half:
                raise
        halves = [(ledger, rowids[:half]), (ledger, rowids[half:])]
        with self._state:
            if owed not in self._owed:  # another thread was faster, or the file is another
                return 0
            at = self._owed.index(owed)
            self._owed[at : at + 1] = halves
        return sum([self._settle_pieces(each) for each in halves])

    def _settle_one(self, owed: _Owed) -> int:
        """Write one owed acknowledgement in one transaction."""
        count = self._write("ack", lambda connection: self._delete(connection, *owed))
        _, rowids = owed
        with self._state:
            self._owed = [each for each in self._owed if each != owed]
            for rid in _routes(rowids):
                self._out.get(rid, set()).difference_update(rowids)
        with self._room_lock:
            self._room.notify_all()
        return count

    def _delete(self, connection: sqlite3.Connection, ledger: str, rowids: list[int]) -> int:
        self._check_generation(connection)
        # The floor of the row ids, before the newest row may go.
        sequence = schema.last_sequence(connection)
        connection.execute(schema.RAISE_SEQUENCE, (sequence,))
        first, last = rowids[0], rowids[-1]
        if last - first + 1 == len(rowids):
            count = connection.execute(schema.DELETE_RANGE, (first, last)).rowcount
        else:
            count = sum(connection.execute(schema.DELETE_ONE, (rowid,)).rowcount for rowid in rowids)
        if count < len(rowids):
            self._check_order(connection)  # dropped meanwhile, to make room; or they are there and not found
        if count:
            connection.execute(schema.COUNT, (ledger, count))
        self._store.pages_written += len(rowids) // 16 + 2
        return count

    def requeue(self, batch: Batch) -> None:
        """Put leased events back at their old place; see `edgespool.interfaces.Queue`."""
        with self._state:
            for rowid in batch.columns.rowids:
                rid = rowid >> SEQUENCE_BITS
                out = self._out.get(rid)
                if out is None or rowid not in out:
                    continue  # of a file that is gone, or settled
                out.discard(rowid)
                if self._cursor.get(rid, -1) >= rowid:
                    self._cursor[rid] = rowid - 1

    def _set_aside(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Move rows whose checksum fails into a quarantine file, and count them."""
        rowids = [row[0] for row in rows]
        with self._state:
            for rowid in rowids:
                self._out.setdefault(rowid >> SEQUENCE_BITS, set()).add(rowid)
        try:
            where = self._quarantine.write(rows)
        except OSError as error:
            # They stay in the table and are passed over, so that nobody waits for them; `maintain` tries again.
            if not self._unplaced:
                _log.error("damaged event(s) of %s cannot be set aside: %s", self._directory, error)
            self._unplaced += rows
            return
        _log.error("%d damaged event(s) of %s were set aside in %s", len(rows), self._directory, where)
        self._settle_owed()
        file = self._store.files
        try:
            self._store.read(lambda connection: self._check_place(connection, rowids))
        except QueueDamaged:
            if self._store.files == file:
                raise
        if self._store.files != file:
            return  # it was salvaged: in the new file these rows are not
        with self._state:
            self._owed.append(("dropped:damaged", rowids))
        self._settle_owed()

    def repair(self) -> int:
        """Look at every page and every row, and set aside what is damaged; return how many rows that were.

        It takes a second for some hundred megabytes.

        A file that is damaged, or whose ledger does not fit its rows, is set aside whole, with all sound rows read back
        into a fresh one (see `salvaged`); rows whose checksum fails go to a quarantine file, and are counted as
        ``dropped:damaged``. Other processes may be at work on the queue meanwhile.

        Raises:
            QueueError: the queue does not work.
        """

        def pages(connection: sqlite3.Connection) -> tuple[str, int]:
            return connection.execute("PRAGMA quick_check(1)").fetchone()[0], self._store.generation

        said, generation = self._store.read(pages)
        if said != "ok":
            self._store.recover(QueueDamaged(said), generation)
        last, damaged = -1, 0

        def following(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            self._check_generation(connection)
            return connection.execute(schema.LEASE, (last, (1 << 63) - 1, 64)).fetchall()

        while rows := self._store.read(following):
            last = rows[-1][0]
            bad = [row for row in rows if not _is_sound(row)]
            if bad:
                damaged += len(bad)
                self._set_aside(bad)

        def counted(connection: sqlite3.Connection) -> tuple[int, int, int]:
            connection.execute("BEGIN")
            try:
                counts = schema.counts(connection)
                there = connection.execute(f"SELECT count(*) FROM {schema.TABLE}").fetchone()[0]
                waiting = schema.last_sequence(connection) - sum(counts.values()) + counts.get("seq", 0)
                return there, waiting, self._store.generation
            finally:
                connection.execute("ROLLBACK")

        there, waiting, generation = self._store.read(counted)
        if there != waiting:
            why = QueueDamaged(f"the ledger says that {waiting} events are waiting, and there are {there}")
            self._store.recover(why, generation)
        return damaged - len(self._unplaced)

    def _check_place(self, connection: sqlite3.Connection, rowids: Sequence[int]) -> None:
        """See that damaged rows stand where their numbers say, which may be what was damaged; else salvage the file."""
        self._check_order(connection)
        last = schema.counts(connection).get("seq", 0)
        for rowid in sorted(rowids):
            if rowid & SEQUENCE_MASK <= last:
                continue
            # Newer than the ledger knows: only the default route's may be, and they are numbered one by one.
            before = connection.execute(schema.NEXT_ID, (rowid - 1,)).fetchone()
            if rowid > SEQUENCE_MASK or (before != (rowid - 1,) and rowid != last + 1):
                raise schema.malformed(f"there cannot be a row {rowid}")

    def _check_order(self, connection: sqlite3.Connection) -> None:
        """Have SQLite look through the file, once for each opened: its searches trust the order of the rows."""
        if self._checked != self._store.generation:
            self._checked = self._store.generation
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise schema.malformed(said)

    # --- limits, ledger, housekeeping ---------------------------------------------------------------------------

    def expire(self, max_age: float, limit: int = 1000) -> int:
        """Drop up to `limit` events older than `max_age` seconds for certain; return how many.

        Ages are counted by the boot clock alone: the time since the event within its boot, what is known of the boots
        between, and how long this boot lasts. A jump of the wall clock purges nothing; time spent switched off is not
        counted, so that an event may live longer than asked, never shorter.
        """

        def work(connection: sqlite3.Connection) -> int:
            self._check_generation(connection)
            now = int(self._clock.monotonic() * _MICROSECONDS)
            sessions = schema.sessions(connection)
            ends: dict[int, int] = {}  # session -> the reading of its clock after which it is `later` old
            later = 0
            for sid, boot, first, last, _ in reversed(sessions):
                if boot == self._clock.boot_id:
                    ends[sid] = now
                    later = now - first
                else:
                    ends[sid] = last + later
                    later += last - first
            deadline = int(max_age * _MICROSECONDS)
            dropped = 0
            for rid in self._heads(connection, {}):
                base = rid << SEQUENCE_BITS
                rows = connection.execute(schema.OLDEST, (base, base | SEQUENCE_MASK, limit - dropped)).fetchall()
                old = 0
                for _, _, session, mono in rows:
                    if not isinstance(session, int) or not isinstance(mono, int):
                        break  # damaged: `lease` will set it aside
                    if ends.get(abs(session), 0) - mono <= deadline:
                        break
                    old += 1
                if old:
                    connection.execute(schema.RAISE_SEQUENCE, (schema.last_sequence(connection),))
                    dropped += connection.execute(schema.DELETE_RANGE, (base, rows[old - 1][0])).rowcount
            if dropped:
                connection.execute(schema.COUNT, ("dropped:max_age", dropped))
            return dropped

        return self._write("ack", work)

    def ledger(self) -> Ledger:
        """Return the counts; `pending` is what the others leave over, so that it costs nothing to know."""

        def work(connection: sqlite3.Connection) -> Ledger:
            connection.execute("BEGIN")
            try:
                counts = schema.counts(connection)
                accepted = schema.last_sequence(connection)
            finally:
                connection.execute("ROLLBACK")
            delivered, failed = counts.get("delivered", 0), counts.get("failed", 0)
            dropped = {name[8:]: count for name, count in counts.items() if name.startswith("dropped:")}
            pending = accepted - delivered - failed - sum(dropped.values())
            return Ledger(accepted, delivered, failed, dropped, pending)

        return self._store.read(work)

    def crowded(self) -> bool:
        """Return whether room or places run short: whoever waits for more events should not wait for much longer."""
        if not self._ballast.size:
            return True
        most = self._max_events
        if most is not None and self.ledger().pending >= most:
            return True
        return self._store.read(self._budget.room) < self._budget.max_bytes // 8

    def count_rows(self) -> int:
        """Return how many events are in the table by counting them: slow, for doctor and tests."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(f"SELECT count(*) FROM {schema.TABLE}").fetchone()[0])

        return self._store.read(work)

    def oldest_sequence(self, exclude: Set[str] = frozenset()) -> int | None:
        """Return the number, in the order of acceptance, of the oldest event in the table; None when there is none.

        Events are numbered from 1; `Ledger.accepted` is the number of the newest.

        Args:
            exclude: routes to pass over.
        """

        def work(connection: sqlite3.Connection) -> int | None:
            heads = self._heads(connection, {})
            if exclude:
                heads = {rid: head for rid, head in heads.items() if self._route_name(connection, rid) not in exclude}
            return min(heads.values(), default=None)

        return self._store.read(work)

    @property
    def format_name(self) -> str | None:
        """The name of the format in which the events are stored; None while nobody said."""

        def work(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(schema.FORMAT).fetchone()
            return row[0] if row else None

        return self._store.read(work)

    @format_name.setter
    def format_name(self, name: str) -> None:
        self._write("append", lambda connection: connection.execute(schema.SET_FORMAT, (name,)))

    def oldest(self) -> tuple[float, float | None] | None:
        """Return the oldest event's time (seconds since 1970) and, if it was taken in this boot, its age in seconds."""

        def work(connection: sqlite3.Connection) -> tuple[float, float | None] | None:
            self._check_generation(connection)
            heads = self._heads(connection, {})
            if not heads:
                return None
            rid = min(heads, key=lambda each: heads[each])
            rowid = rid << SEQUENCE_BITS | heads[rid]
            row = connection.execute(schema.LEASE, (rowid - 1, rowid + 1, 1)).fetchone()
            if row is None:
                return None  # dropped in this very moment, to make room
            _, _, when, _, session, mono, _ = row
            if not isinstance(session, int) or not isinstance(mono, int) or not isinstance(when, float):
                return None  # damaged: `lease` will set it aside
            sessions = schema.sessions(connection)
            here = any(sid == abs(session) and boot == self._clock.boot_id for sid, boot, *_ in sessions)
            return when, self._clock.monotonic() - mono / _MICROSECONDS if here else None

        return self._store.read(work)

    def disk_bytes(self) -> int:
        """Return the bytes that the queue's file, WAL and ballast take on the disk."""
        total = 0
        for name in (schema.FILE_NAME, schema.FILE_NAME + "-wal", "ballast"):
            try:
                total += os.stat(os.path.join(self._directory, name)).st_size
            except OSError:
                continue
        return total

    @property
    def directory(self) -> str:
        """The queue's directory, absolute."""
        return self._directory

    def stamp(self) -> tuple[float, int]:
        """Return the wall clock (seconds since 1970) and the boot clock (microseconds)."""
        return self._clock.time(), int(self._clock.monotonic() * _MICROSECONDS)

    def maintain(self, idle: bool) -> None:
        """Do a bounded piece of housekeeping; see `edgespool.interfaces.Queue`.

        Raises:
            QueueUnavailable: the disk takes no writes at all.
            QueueFull: it has no room for the acknowledgements that are owed.
            QueueError: it will not have this piece.
        """
        try:
            self._maintain(idle)
        except QueueUnavailable as error:
            if self._store.sick:
                raise
            self._once(error)  # what is there can be delivered all the same
        except QueueFull as error:
            if self._owed:
                raise
            self._once(error)  # the same: housekeeping can wait for room

    def _maintain(self, idle: bool) -> None:
        if self._owed:
            self._settle_owed()
        if self._store.sick:
            self._touch_session("ack")  # to see whether it does again
        now = _time.monotonic()
        if now >= self._next_check:
            self._next_check = now + 5.0
            if self._unplaced:
                rows, self._unplaced = self._unplaced, []
                self._set_aside(rows)
            if idle:
                self._look_for_hidden_rows()
        if self._store.unsynced and now - self._last_sync >= self._sync_interval:
            self._last_sync = now
            self._store.sync()
        if self._store.checkpoint_due(0.5):
            try:
                self._store.checkpoint()
            except QueueFull:
                self._find_room()
        if now - self._last_touch >= 60:
            self._last_touch = now
            self._touch_session("ack")
            if self._store.flush_failed:
                self._store.sync()  # else only the next append would notice that the disk has recovered
            self._put_ballast_back()
        elif not self._ballast.size:
            self._put_ballast_back()
        if not self._offset_kept and self._session is not None and self._clock.synchronized():
            # Flushed, and at once: the power may go before anything is sent, and only this boot can know.
            self._touch_session("append")
        if idle:
            self._give_back()

    def _look_for_hidden_rows(self) -> None:
        """See that nothing waits when nothing is found: damage can keep rows from a search without SQLite noticing."""

        def work(connection: sqlite3.Connection) -> None:
            with self._state:
                cursors = dict(self._cursor)
                leased = sum(map(len, self._out.values()))
            connection.execute("BEGIN")
            try:
                if self._heads(connection, cursors):
                    return
                counts = schema.counts(connection)
                if schema.last_sequence(connection) - sum(counts.values()) + counts.get("seq", 0) > leased:
                    self._check_order(connection)
            finally:
                connection.execute("ROLLBACK")

        self._store.read(work)

    def _touch_session(self, which: Literal["append", "ack"]) -> None:
        """Keep how long this boot has lasted, and what its clock has to be corrected by once that is known."""

        def work(connection: sqlite3.Connection) -> int | None:
            self._check_generation(connection)
            _, mono = self.stamp()
            offset = self._offset() if self._clock.synchronized() else None
            connection.execute(schema.TOUCH_SESSION, (mono, offset, self._session))
            return offset

        self._offset_kept = self._write(which, work) is not None or self._offset_kept

    def _last_words(self) -> None:
        """Touch the session when the queue is closed, if there is news: a script of cron's may never live a minute."""
        if self._session is None:
            return

        def work(connection: sqlite3.Connection) -> Any:
            rows = schema.sessions(connection)
            return next((row for row in rows if row[0] == self._session), None)

        row = self._store.read(work)
        if row is None:
            return
        _, mono = self.stamp()
        news = not self._offset_kept and self._clock.synchronized()
        if news or type(row[3]) is not int or mono - row[3] >= 60 * _MICROSECONDS:
            self._touch_session("ack")

    def _give_back(self) -> None:
        """After a backlog has drained, hand free pages back to the file system, a megabyte at a time."""

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            return pages, connection.execute("PRAGMA freelist_count").fetchone()[0]

        pages, free = self._store.read(work)
        # A little slack is kept: the next events will want it, and moving pages about wears the card.
        if free > 256 and free * 2 > pages:
            self._store.vacuum(256)
            self._store.checkpoint()

    def _start_syncer(self) -> None:
        """Durability "process": a thread that flushes at most `sync_interval` after a commit."""
        self._syncer = threading.Thread(target=self._sync_loop, name="edgespool-sync", daemon=True)
        self._syncer.start()

    def _sync_loop(self) -> None:
        while True:
            self._sync_due.acquire(timeout=self._sync_interval)
            if self._stop_syncer:
                return
            self._quietly(self._store.sync)

    def _wake_syncer(self) -> None:
        if self._sync_due.locked():
            with contextlib.suppress(RuntimeError):  # another thread was quicker
                self._sync_due.release()

    def _quietly(self, action: Callable[[], None]) -> None:
        try:
            action()
        except QueueError as error:
            self._once(error)
        else:
            self._complaint = None

    def _once(self, error: QueueError) -> None:
        """Log what went wrong in the background, but not at each try."""
        if self._complaint != str(error):
            self._complaint = str(error)
            _log.warning("%s", error)

    # --- forks --------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let every statement end first."""
        self._store.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._store.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Begin anew: locks may be held by threads that do not exist here, leases are the parent's."""
        self._store.after_fork_in_child()
        self._taken = {}
        self._reset()


_queues: weakref.WeakSet[DiskQueue] = weakref.WeakSet()
_quiesced: list[DiskQueue] = []
_forking = threading.Lock()  # guards both: two threads may fork at once, a third may open a queue


def _before_fork() -> None:
    with contextlib.suppress(ImportError):
        # The child may need it. Were another thread in the midst of importing it, the child would wait for ever.
        import ctypes  # noqa: F401
    _forking.acquire()
    for queue in list(_queues):
        queue.before_fork()
        _quiesced.append(queue)


def _after_fork_in_parent() -> None:
    while _quiesced:
        _quiesced.pop().after_fork_in_parent()
    _forking.release()


def _after_fork_in_child() -> None:
    while _quiesced:
        _quiesced.pop().after_fork_in_child()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
