"""The queue's files: made, opened, locked, reopened, flushed. Knows SQLite and the disk, nothing of events.

Two connections a process. The writer appends, and at durability "power" flushes at every commit. The reader leases, and
also acknowledges, without a flush: losing an acknowledgement only repeats a delivery, and the next flush of the same
WAL carries it along. No statement of either is left open between calls, for an open reader stops checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Literal, Protocol, TypeVar

from ..errors import OutcomeUnknown, QueueClosed, QueueDamaged, QueueError, QueueUnavailable
from ..files import make_directory, open_private, sync_directory
from . import flushing, inspection, pages, rawfile, salvage, schema, space
from .locks import WriteLock, abandon

__all__ = ["Store"]

T = TypeVar("T")
_log = logging.getLogger("edgespool")

# Seconds between looks at whether the file still stands at its path (somebody may have deleted it). A file that
# edgespool itself replaced is noticed at once, by the generation in the lock file.
_LOOK_INTERVAL = 0.5

# Seconds before a salvage, or a flush, that failed is tried again: both may write a lot to a disk that is not well.
_TRY_AGAIN = 1.0

# After such an error what a connection believes of the WAL may not be what is on the disk: begin again. (A read-only
# disk: a new connection is the way to notice that it can be written again.)
_DOUBTFUL = ("io", "readonly", "open", "other")

# Seconds between two appends that are taken for a burst; see `insert`.
_BURST = 0.001

# Bytes of the file that SQLite shares with other processes, enough for a WAL of 16 MiB.
_SHARED = 32768

#: Called with the directory when the file turns out to be damaged; must leave a healthy file (or none) in its place.
Recovery = Callable[[str, BaseException], None]


class Hold(Protocol):
    """What a queue's owner holds while the files are open, and no longer: it has a file open, too."""

    def acquire(self) -> None:
        """Hold it, if it is not held; raises OSError when the files may not be used any more."""
        ...

    def release(self) -> None:
        """Let go of it. Idempotent."""
        ...


class Store:
    """One process's hold on a queue directory.

    Args:
        directory: where the files are; made when missing, mode 0700, and so are its parents.
        durability: ``"power"`` or ``"process"``.
        wal_limit: bytes the WAL is kept below.
        timeout: seconds to wait for a lock that a program other than edgespool holds.
        recover: sets a damaged file aside and puts a sound one in its place.
        make_room: gives up what is held in reserve for a full disk.
    """

    def __init__(
        self,
        directory: str,
        durability: str,
        *,
        wal_limit: int,
        timeout: float,
        recover: Recovery,
        make_room: Callable[[], object] = bool,
    ) -> None:
        self.directory = os.path.abspath(directory)
        self.path = os.path.join(self.directory, schema.FILE_NAME)
        self.flushes = durability == "power"  # at every append
        self._wal_limit = self._largest_wal = wal_limit
        self._timeout = timeout
        self._recover = recover
        self._make_room = make_room
        self._lock = WriteLock(os.path.join(self.directory, "write.lock"))
        self.writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self.identity: tuple[int, int] | None = None
        self._using: tuple[int, int] | None = None  # the file that connections of ours may be open on
        self.files = 0  # counts how often another file than before was opened
        self._closed = False
        self.generation = 0  # counts how often the file was opened anew: what was cached of the old one is void
        self.foreign_writes = 0  # counts how often somebody else was found to have written
        self.unsynced = False  # frames were written to the WAL that no flush has followed yet
        #: What the disk said when a flush, or a commit, failed; until the WAL has been written and flushed again.
        self.flush_failed: str | None = None
        self._mend_at = 0.0
        #: What the disk last would not do; None once it has done something.
        self.trouble: str | None = None
        #: Whether the disk takes no writes at all, as when it was mounted read-only; until one succeeds.
        self.sick = False
        #: What the salvage found that made this file; None for a file that never was damaged.
        self.salvaged: salvage.Report | None = None
        self._unsaved: QueueError | None = None  # why the last salvage failed
        self._salvage_at = 0.0
        self._spoilt: list[sqlite3.Connection] = []  # that could not be made ready; closed after the files have moved
        self.pages_written = 0  # since the last checkpoint by this process; an estimate
        self._wal_size = 0
        self._seen = b""
        self._next_look = 0.0
        self._snapshot: sqlite3.Cursor | None = None  # held by the writer during a burst; see `insert`
        self._last_insert = 0.0
        self.hold: Hold | None = None  #: what is to be held as long as the files are open
        self._make_locks()

    def _make_locks(self) -> None:
        self.gate = threading.RLock()  # one thread at a time writes, checkpoints or reopens
        self._reading = threading.RLock()  # one thread at a time uses the reader; taken inside the gate
        self._syncing = threading.Lock()  # one thread at a time flushes without the gate; taken outside of it

    # --- opening and closing ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the files, making what is missing, and salvaging what is damaged.

        Raises:
            QueueUnavailable, QueueVersionError, QueueDamaged, QueueFull: see `edgespool.errors`.
        """
        try:
            with self.gate, self._translated():
                make_directory(self.directory)
                with self._process_lock():
                    found = self.wal_bytes()
                    self._open_locked()
                    if found:
                        self._flush_found()
        except BaseException:
            self._let_go()
            raise

    def _open_locked(self) -> None:
        self._drop()
        if salvage.finish(self.directory):
            self._lock.next_generation()
        why = inspection.damage(self.directory)
        if why is not None:
            self._replace(QueueDamaged(why))
        try:
            self._connect()
        except (sqlite3.DatabaseError, QueueDamaged, UnicodeDecodeError) as error:  # SQLite's message may be garbled
            if isinstance(error, sqlite3.Error) and not isinstance(self._failure(error), QueueDamaged):
                raise
            self._replace(error)
            self._connect()
        self._seen = self._lock.generation

    def _replace(self, why: BaseException) -> None:
        """Set the damaged files aside and put what can be saved in their place; write lock held."""
        if self._unsaved is not None and monotonic() < self._salvage_at:
            raise self._unsaved
        if sys.platform == "win32":  # pragma: no cover - open files cannot be moved there
            self._drop()
        try:
            self._recover(self.directory, why)
        except (OSError, sqlite3.Error) as error:
            self._unsaved = self._os_error(error) if isinstance(error, OSError) else self._failure(error)
            self._salvage_at = monotonic() + _TRY_AGAIN
            raise
        self._unsaved = None
        # Not before: the last connection that closes a file folds the WAL into it, unless the file has moved.
        self._drop()
        self._lock.next_generation()

    def _flush_found(self) -> None:
        """Flush what a process that died has left in the WAL: whatever is written behind it is then known to be later.

        And fold it into the file. SQLite would go on right behind the last commit that is whole, without the padding
        that psow=0 puts between two commits: a torn write would take that commit with it.
        """
        try:
            flushing.flush(self.path + "-wal")
        except OSError as error:
            self._flush_has_failed(str(error))
            return
        with contextlib.suppress(sqlite3.Error):  # on a full disk it waits for the next checkpoint
            assert self.writer is not None
            self.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _connect(self) -> None:
        fresh = False
        try:
            fd = open_private(self.path, os.O_RDWR | os.O_EXCL)
        except FileExistsError:
            pass
        else:
            # Made before SQLite can, which would give it mode 0644; the WAL takes its mode from this file.
            os.close(fd)
            fresh = True
        if not stat.S_ISREG(os.lstat(self.path).st_mode):
            # SQLite would follow a link and put the WAL beside its end, where our flushes do not reach it.
            raise QueueUnavailable(
                f"{self.path} is not a plain file: give the queue another directory (which may be a link itself)"
            )
        # On a full disk SQLite cannot make the file that it shares with others; where that is mapped into memory only
        # in part, the first access to the rest would kill the process.
        if space.available(self.directory) < space.NOTHING:
            self._make_room()
            if space.available(self.directory) < space.NOTHING:
                others = self._fold()
                if space.available(self.directory) < space.NOTHING and not self._is_shared(others):
                    raise space.disk_full(self.directory)
        self._using = rawfile.using(self.path)
        self.writer = self._new("FULL" if self.flushes else "NORMAL")
        if schema.version_of(self.writer) == 0:
            schema.create(self.writer)
        self._reader = self._new("NORMAL")
        stamp = schema.salvaged(self._reader)
        self.salvaged = salvage.report_of(self.directory, stamp) if stamp else None
        # Read one page of each table now: damage there must show at start, not at the first event.
        schema.last_sequence(self._reader)
        schema.sessions(self._reader)
        rawfile.allocate(self.path + "-shm", _SHARED, self._using)
        if fresh:
            sync_directory(self.directory)
        identity = self._stat()
        if fresh or identity != self.identity:  # a new file may well get the number of the one that was deleted
            self.files += 1
        self.identity = identity
        self.generation += 1
        self._next_look = monotonic() + _LOOK_INTERVAL

    def _fold(self) -> bool:
        """Fold a WAL that was left behind into the file, and delete it: on a full disk it may be all the room there is.

        An exclusive connection has no need of the file that SQLite shares with others. While others have the queue open
        there can be none: nothing is done, and the answer is True. Should the file find no room to grow, the WAL stays.
        """
        wal = self.path + "-wal"
        using = rawfile.using(self.path)
        try:
            flushing.flush(wal)  # before SQLite does: when that fails it would still fold, as it closes
            schema.fold(self.directory)
        except (OSError, sqlite3.Error) as error:
            _log.debug("%s could not be folded: %s", wal, error)
            return isinstance(error, sqlite3.Error) and schema.kind_of(error) == "locked"
        finally:
            rawfile.done(using)
        return False

    def _is_shared(self, others: bool) -> bool:
        """Whether the file that SQLite shares with others is there with all its room, so that it needs no more.

        Args:
            others: whether they have it open. Else SQLite begins it anew, in the same room; see `rawfile.allocate` for
                what happens where a page is more than a block, should another program be quicker to take that.
        """
        try:
            whole = os.stat(self.path + "-shm").st_blocks * 512 >= _SHARED
            return whole and (others or os.statvfs(self.directory).f_frsize >= 4096)
        except (OSError, AttributeError):  # Windows tells no blocks
            return False

    def _new(self, synchronous: str) -> sqlite3.Connection:
        return schema.connect(
            self.directory, synchronous, wal_limit=self._largest_wal, timeout=self._timeout, spoilt=self._spoilt
        )

    def _stat(self) -> tuple[int, int] | None:
        try:
            info = os.stat(self.path)
        except OSError:
            return None
        return info.st_dev, info.st_ino

    def _drop(self) -> None:
        """Close both connections, whatever state they are in."""
        with contextlib.suppress(sqlite3.Error):
            self._let_snapshot_go()
        # Forgotten first: interrupted half-way (Ctrl-C), nobody must find one that is closed.
        connections = (self.writer, self._reader, *self._spoilt)
        self.writer = self._reader = None
        self._spoilt.clear()
        for connection in connections:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        using, self._using = self._using, None
        if using is not None:
            rawfile.done(using)

    def _let_go(self) -> None:
        """Close everything, so that nothing of ours keeps the disk from being mended, or mounted anew."""
        self._drop()
        self._lock.close()
        if self.hold is not None:
            self.hold.release()

    def close(self) -> None:
        """Flush, close, unlock. Idempotent. The last process to close folds the WAL into the file."""
        with self.gate, self._reading:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError, QueueError):
                if self.writer is not None:
                    self._flush()
            locked = contextlib.nullcontext() if self.writer is None else self._process_lock()
            with contextlib.suppress(OSError, QueueError), locked:
                self._drop()
            self._lock.close()
            if self.hold is not None:
                self.hold.release()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # --- forks --------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let every statement end, and close the connections; the next call opens them anew.

        SQLite keeps a table of the locks that this process holds on the file. A child would inherit the table but not
        the locks: what it opens itself, it would not lock, and the first other process to close the file would take
        itself for the last, and delete the WAL that the child writes to.
        """
        self.gate.acquire()
        self._reading.acquire()
        with contextlib.suppress(OSError, sqlite3.Error):
            if self.writer is not None and not self.writer.in_transaction:  # else: a signal handler forks, in mid-write
                with self._process_lock():
                    self._drop()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._reading.release()
        self.gate.release()

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent, without closing it; the next call opens anew."""
        for connection in (self.writer, self._reader):
            if connection is not None:
                abandon(connection)
        if self._snapshot is not None:
            abandon(self._snapshot)
            self._snapshot = None
        self.writer = self._reader = None
        if self._using is not None:
            rawfile.done(self._using)
            self._using = None
        self._lock.close()
        self._make_locks()

    # --- errors -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failure(error) from error
        except OSError as error:
            raise self._os_error(error) from error

    def _os_error(self, error: OSError) -> QueueError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._noted(space.disk_full(self.directory))
        return self._noted(QueueUnavailable(f"the queue directory {self.directory} cannot be used: {error}"))

    def _failure(self, error: sqlite3.Error, *, committing: bool = False) -> QueueError:
        """Return the error of ours that an SQLite error stands for, after a look at the disk."""
        kind = schema.kind_of(error)
        if not committing and kind in ("io", "open", "other") and space.available(self.directory) < space.NOTHING:
            return self._noted(space.disk_full(self.directory))  # SQLite could not make the file it shares with others
        if kind == "io" and schema.may_be_reading(error) and pages.unreadable(self.path):
            return self._noted(QueueDamaged(f"the disk will not give back all of {self.path} ({error})"))
        return self._noted(schema.translate(error, self.directory, committing=committing))

    def _noted(self, error: QueueError) -> QueueError:
        if not isinstance(error, schema.RowTaken):
            self.trouble = str(error)
        return error

    def _take_lock(self) -> None:
        if not self._lock.acquire():
            self._written_by_others()

    def _written_by_others(self) -> None:
        self.foreign_writes += 1
        self._next_look = 0.0  # it may have been another file that was written

    @contextlib.contextmanager
    def _process_lock(self) -> Iterator[None]:
        self._take_lock()
        try:
            yield
        finally:
            self._lock.release()

    # --- work ---------------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        """Make sure that the connections are open, and open on the file that stands at our path; write lock held."""
        if self._closed:
            raise QueueClosed("the queue is closed")
        if self.writer is None or self._reader is None:
            self._open_locked()
        elif self._lock.generation != self._seen or self._stat() != self.identity:
            # Somebody salvaged, moved or deleted the file; what we would write into the old one would be lost.
            _log.warning("the queue file %s was replaced; opening it anew", self.path)
            self._lock.close()
            make_directory(self.directory)
            self._take_lock()
            self._open_locked()

    def write(self, which: Literal["append", "ack"], work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` in one write transaction and commit it.

        Args:
            which: ``"append"`` uses the writer (flushed at durability "power"), ``"ack"`` the reader (not flushed).
            work: does the statements; whatever it raises rolls them back and comes through.

        Raises:
            QueueFull, QueueUnavailable, QueueDamaged, QueueClosed: nothing was stored.
            OutcomeUnknown: the commit failed half-way.
        """
        with self.gate:
            try:
                return self._write_once(which, work)
            except QueueDamaged as error:
                # Set aside and salvaged under the lock; then the same work on the sound file.
                self.recover(error.__cause__ or error, self.generation)
                return self._write_once(which, work)

    def _write_once(self, which: str, work: Callable[[sqlite3.Connection], T]) -> T:
        committing = False
        connection: sqlite3.Connection | None = None
        try:
            self.enter()
            try:
                self._let_snapshot_go()
                if which == "append":
                    if self.flush_failed:
                        self._mend()
                    connection = self.writer
                    assert connection is not None
                    connection.execute("BEGIN IMMEDIATE")
                    result = work(connection)
                    committing = True
                    connection.execute("COMMIT")
                else:
                    with self._reading:
                        connection = self._reader
                        assert connection is not None
                        connection.execute("BEGIN IMMEDIATE")
                        result = work(connection)
                        committing = True
                        connection.execute("COMMIT")
                self.unsynced = which == "ack" or not self.flushes
                self.sick = False
                if not self.flush_failed:
                    self.trouble = None
                return result
            except BaseException as error:
                self._roll_back(connection, error)
                raise
            finally:
                self.leave()
        except (sqlite3.Error, OSError) as error:
            self._judge(error)
            if self.sick:
                with self._reading:
                    self._let_go()  # an open file would keep the disk from being mounted anew
            if isinstance(error, OSError):
                raise self._os_error(error) from error
            raise self._failure(error, committing=committing) from error

    def _judge(self, error: sqlite3.Error | OSError) -> None:
        """Tell a disk that takes no writes at all from one that is full, or that failed at one of them."""
        if isinstance(error, OSError):
            self.sick = error.errno not in (errno.ENOSPC, errno.EDQUOT)
        elif (kind := schema.kind_of(error)) in ("readonly", "open", "full"):
            self.sick = kind != "full"

    def enter(self) -> None:
        """Take the write lock, and make sure that the connections are open on the file at our path; gate held.

        Raises:
            QueueClosed, sqlite3.Error, OSError: the lock is not held then.
        """
        if self._closed:
            raise QueueClosed("the queue is closed")
        if self.writer is None:
            make_directory(self.directory)
        try:
            if not self._lock.acquire():
                self._written_by_others()
            if self.writer is None and self.hold is not None:
                self.hold.acquire()
            now = monotonic()
            if self.writer is None or now > self._next_look:
                self._ready()
                self._next_look = now + _LOOK_INTERVAL
        except BaseException:
            with self._reading:
                self._let_go()
            raise

    def leave(self) -> None:
        """Release the write lock."""
        self._lock.release()

    def insert(self, rows: Sequence[tuple[object, ...]], sequence: int | None = None) -> bool:
        """Insert rows in a transaction of their own; gate and write lock held.

        In a burst at durability "process" the writer keeps its snapshot of the file from one insert to the next: SQLite
        then makes two calls to lock and unlock for each rather than six. A snapshot that is held keeps the WAL from
        being started over. So it is let go of before anybody else in this process writes, makes a checkpoint or
        flushes, which happens once in `sync_interval` at least.

        Return False when a row id is taken: a program other than edgespool has written.

        Args:
            rows: rows of the table.
            sequence: the last sequence number given out with them, for the ledger; None: the rows tell it.

        Raises:
            QueueError: see `write`.
        """
        connection = self.writer
        assert connection is not None
        committing = True
        try:
            if sequence is not None:
                committing = False
                connection.execute("BEGIN IMMEDIATE")
                schema.insert(connection, rows)
                connection.execute(schema.RAISE_SEQUENCE, (sequence,))
                committing = True
                connection.execute("COMMIT")
            elif len(rows) == 1:
                connection.execute(schema.INSERT, rows[0])
            elif schema.by_one_statement(len(rows)):
                schema.insert(connection, rows)
            else:
                committing = False
                connection.execute("BEGIN IMMEDIATE")
                schema.insert(connection, rows)
                committing = True
                connection.execute("COMMIT")
            if not self.flushes and self._snapshot is None:
                now = monotonic()
                if now - self._last_insert < _BURST:
                    self._snapshot = connection.execute(schema.SNAPSHOT)
                self._last_insert = now
        except sqlite3.IntegrityError as error:
            self._roll_back(connection, error)
            return False
        except sqlite3.Error as error:
            if self._snapshot is not None and schema.kind_of(error) == "locked":
                # A program other than edgespool has written, without our lock: the snapshot is old.
                self._let_snapshot_go()
                return self.insert(rows, sequence)
            self._roll_back(connection, error)
            raise self._failure(error, committing=committing) from error
        self.unsynced = not self.flushes
        self.trouble = None
        return True

    def _let_snapshot_go(self) -> None:
        """End the read transaction that `insert` has left open; gate held."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            snapshot.close()

    def _roll_back(self, connection: sqlite3.Connection | None, error: BaseException) -> None:
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error) and schema.kind_of(error) in _DOUBTFUL:
            if schema.kind_of(error) == "io":
                self._flush_has_failed(str(error))
            with self._reading:
                self._drop()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` on the reader; it must leave no statement open.

        Raises:
            QueueUnavailable, QueueDamaged, QueueClosed: see `edgespool.errors`.
        """
        for attempt in (1, 2):
            error: sqlite3.Error | None = None
            with self._reading:
                reader, generation = self._reader, self.generation
                if reader is not None and not self._closed and self._stat() == self.identity:
                    try:
                        return work(reader)
                    except sqlite3.Error as caught:
                        error = caught
            # Outside the reading lock: the gate comes first in the order of locks.
            if error is None:
                with self.gate, self._translated():
                    make_directory(self.directory)
                    with self._reading:
                        self._next_look = 0.0  # we have seen it: look again now
                        self.enter()
                        self.leave()
                continue
            failure = self._failure(error)
            if isinstance(failure, QueueDamaged) and attempt == 1:
                self.recover(error, generation)
                continue
            if schema.kind_of(error) in _DOUBTFUL:
                with self.gate, self._reading:
                    if generation == self.generation:
                        self._drop()
            if attempt == 2 or schema.kind_of(error) != "io":
                raise failure from error
        raise QueueUnavailable(f"the queue file {self.path} keeps being replaced")

    def recover(self, why: BaseException, generation: int) -> None:
        """Set the damaged files aside, salvage them, and open what was made of them.

        Args:
            why: what showed the damage.
            generation: `generation` as it was then; another thread may have been faster.
        """
        with self.gate, self._translated(), self._process_lock(), self._reading:
            if generation != self.generation:
                return
            if self._stat() == self.identity and self._lock.generation == self._seen:  # else another process was
                self._replace(why)
            self._open_locked()

    # --- the WAL ------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Flush what was committed without a flush; raises OutcomeUnknown when the disk will not.

        Appends go on meanwhile: what they write is flushed the next time.
        """
        with self._syncing, self._translated():
            with self.gate:
                if self._closed:
                    return
                if self.flush_failed or not self.unsynced:
                    self._flush()
                    return
                self._let_snapshot_go()
                self.unsynced = False
                generation = self.generation
                wal = flushing.opened(self.path + "-wal")
            try:
                flushing.flush_and_close(wal)
            except OSError as error:
                with self.gate:
                    if generation == self.generation and not self._closed:  # else it was another file
                        self._not_flushed(error)

    def _flush(self) -> None:
        self._let_snapshot_go()
        if self.flush_failed:
            with self._process_lock():
                self._mend()
        elif self.unsynced:
            self.unsynced = False
            try:
                flushing.flush(self.path + "-wal")
            except OSError as error:
                self._not_flushed(error)

    def _not_flushed(self, error: OSError) -> None:
        """A flush of what was reported as stored has failed: try once more, and raise OutcomeUnknown; gate held."""
        with self._process_lock():
            self._flush_has_failed(str(error))
        if self.flush_failed:
            raise self._noted(
                OutcomeUnknown(
                    f"the disk that holds {self.directory} failed to flush ({error}); the newest events may not be "
                    "stored"
                )
            ) from error
        _log.warning("the disk that holds %s failed to flush (%s), and did at a second try", self.path, error)

    def _flush_has_failed(self, why: str) -> None:
        """Write the WAL again, so that nothing rests on what a failed flush has left behind; write lock held.

        Everything later in the WAL can be read only with what stands before it. So until this has succeeded nothing is
        appended, and the WAL is not folded into the file.
        """
        self.flush_failed = why
        self._mend_at = 0.0
        with contextlib.suppress(QueueError):
            self._mend()

    def _mend(self) -> None:
        """Write and flush the WAL again after a flush that failed; raises QueueUnavailable. Write lock held."""
        if monotonic() < self._mend_at:
            raise self._unflushed()
        try:
            flushing.write_again(self.path + "-wal")
        except OSError as error:
            self.flush_failed = str(error)
            self._mend_at = monotonic() + _TRY_AGAIN
            self.sick = self.sick or error.errno == errno.EROFS
            raise self._unflushed() from error
        self.flush_failed = self.trouble = None
        self.unsynced = False

    def _unflushed(self) -> QueueError:
        return self._noted(
            QueueUnavailable(
                f"the disk that holds {self.directory} failed to flush ({self.flush_failed}); nothing was stored, nor "
                "will be until it does: look at the kernel's log for errors of that disk"
            )
        )

    def wal_bytes(self) -> int:
        """Return the size of the WAL file."""
        try:
            return os.stat(self.path + "-wal").st_size
        except OSError:
            return 0

    def checkpoint_due(self, share: float) -> bool:
        """Whether the WAL has grown to this share of its limit since the last checkpoint."""
        if self.pages_written * schema.FRAME_SIZE > share * self._wal_limit:
            return True
        # Other processes' writing shows in the file's size, which stays at its highest. Asking costs a system call,
        # so not at each commit.
        if self.pages_written & 31:
            return False
        return self.wal_bytes() > max(self._wal_size, self._wal_limit)

    def limit_wal(self, size: int) -> None:
        """Keep the WAL below so many bytes from now on, if that is less than what was asked for at first."""
        self._wal_limit = size

    def file_bytes(self) -> int:
        """Return the size of the database file; what is in the WAL may make it grow."""
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    def checkpoint(self, cut: bool = False, make_room: Callable[[], object] | None = None) -> None:
        """Copy the WAL's pages into the file, so that the WAL can start over; raises QueueError.

        Args:
            cut: give the WAL's room back to the disk as well.
            make_room: called first; gives up what is held in reserve.
        """

        def work(connection: sqlite3.Connection) -> None:
            if make_room is not None:
                # Not before the lock is held: somebody who writes would take that room for the WAL, which then could
                # not be folded into the file any more.
                make_room()
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if cut:
                connection.execute("PRAGMA busy_timeout = 0")  # whoever reads now may go on reading for long
                try:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
            self.pages_written = 0
            self._wal_size = self.wal_bytes()

        self._tend(work)

    def vacuum(self, pages: int) -> None:
        """Give up to `pages` free pages at the end of the file back to the file system; raises QueueError."""

        def work(connection: sqlite3.Connection) -> None:
            # executescript steps the pragma to its end; execute would free one page.
            connection.executescript(f"PRAGMA incremental_vacuum({int(pages)})")
            self.pages_written += pages // 8 + 2

        self._tend(work)

    def tend(self, work: Callable[[], object]) -> None:
        """Do something to the files beside the database while nobody writes to it; raises QueueError.

        Nothing is done while they are not open.
        """
        self._tend(lambda connection: work())

    def _tend(self, work: Callable[[sqlite3.Connection], object]) -> None:
        with self.gate, self._translated():
            if self._closed or self.writer is None:
                return
            with self._process_lock(), self._reading:
                self._let_snapshot_go()
                if self.flush_failed:
                    self._mend()
                try:
                    work(self.writer)
                except sqlite3.Error as error:
                    self._roll_back(self.writer, error)
                    raise
