"""The tables, the statements and the pragmas of the queue file, each with its reason. Knows SQLite, no threads.

The table of events is persist-queue's own (`_id, data, timestamp, status`), with columns of ours behind it, so that
plain `persistqueue.SQLiteAckQueue` can read the file.

Keys: `_id` is `route << 40 | sequence`. The rows of one route lie side by side in the one B-tree there is, so a route
that is held, however long its backlog, costs the others nothing, and no index has to be written at each commit. The
sequence runs on for the life of the store: it is the count of all events ever accepted.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from urllib.parse import quote

from ..errors import OutcomeUnknown, QueueDamaged, QueueError, QueueFull, QueueUnavailable, QueueVersionError

__all__ = ["FILE_NAME", "SEQUENCE_BITS", "TABLE", "VERSION", "connect", "create", "translate", "version_of"]

FILE_NAME = "queue.db"
TABLE = "ack_queue_default"  # persist-queue's name for the queue called "default"
VERSION = 1
APPLICATION_ID = 0x45445350  # "EDSP"; tells `file` and our own doctor whose database this is
SEQUENCE_BITS = 40  # 10^12 events in the life of a store, 2^23 routes
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
PAGE_SIZE = 4096  # at least the 4 KiB that psow=0 pads to: smaller pages would be written in groups
FRAME_SIZE = PAGE_SIZE + 24

# A row's checksum is CRC-32 over this head (row id, time, boot clock, session), the event id and the payload. The row
# id is part of it: a flipped bit must not give an event a wrong place.
pack_head = struct.Struct("<qdqq").pack
pack_head_and_id = struct.Struct("<qdqq16s").pack  # the same bytes followed by a UUID: one call less
PackError = struct.error

_CREATE = f"""
CREATE TABLE {TABLE} (
    _id INTEGER PRIMARY KEY,  -- not AUTOINCREMENT: that writes one page more a commit; the ledger holds the floor
    data BLOB, timestamp FLOAT, status INTEGER,  -- persist-queue's; status is always 0: a lease lives in memory
    event_id BLOB,            -- 16 bytes of UUIDv7, or the user's own text
    session INTEGER,          -- the boot in which it was recorded; negative when the user gave the time
    mono INTEGER,             -- microseconds of that boot's clock
    crc INTEGER               -- CRC-32 over all of the above
);
CREATE TABLE edgespool_route (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- All counters in one small page, written in the same transaction as the rows they count.
CREATE TABLE edgespool_ledger (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO edgespool_ledger VALUES ('seq', 0);
CREATE TABLE edgespool_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
-- One row a boot: how long it is known to have lasted, and what the wall clock was once it was right.
CREATE TABLE edgespool_session (
    id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE, first_mono INTEGER NOT NULL, last_mono INTEGER NOT NULL,
    wall_offset INTEGER       -- microseconds to add to mono to get the true time; NULL while nobody knew it
);
"""

_COLUMNS = {
    TABLE: "_id data timestamp status event_id session mono crc",
    "edgespool_route": "id name",
    "edgespool_ledger": "name value",
    "edgespool_meta": "name value",
    "edgespool_session": "id boot_id first_mono last_mono wall_offset",
}

INSERT = f"INSERT INTO {TABLE} VALUES (?,?,?,0,?,?,?,?)"
# Rows by one statement, of seven parameters each; any SQLite takes 999. A connection keeps each statement it has once
# run, of up to 90 kB: so not of every size there is.
_ROWS, _MANY = 50, 100
AT_ONCE = 1000


def by_one_statement(count: int) -> bool:
    """Return whether `insert` needs one statement only for so many rows."""
    return count <= _ROWS or count == _MANY


def insert(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert rows, many by one statement: a fifth faster, and the interpreter's lock changes hands less often."""
    count = len(rows)
    if count == 1:
        connection.execute(INSERT, rows[0])
        return
    start = 0
    while start < count:
        left = count - start
        size = _MANY if left >= _MANY else min(left, _ROWS)
        chunk = rows[start : start + size] if size < count else rows
        connection.execute(_insert_statement(size), list(chain.from_iterable(chunk)))
        start += size


@lru_cache(_ROWS + 1)
def _insert_statement(count: int) -> str:
    return f"INSERT INTO {TABLE} VALUES " + ",".join(["(?,?,?,0,?,?,?,?)"] * count)


# Has rows, so that a statement stopped at its first one keeps its snapshot of the file.
SNAPSHOT = "SELECT value FROM edgespool_ledger"

# The last sequence number given out: the floor in the ledger (kept by acks, and by appends to named routes), or the
# newest row of the default route. Both are one step down a B-tree.
LAST_SEQUENCE = (
    "SELECT max(value, coalesce("
    f"(SELECT _id FROM {TABLE} WHERE _id < {1 << SEQUENCE_BITS} ORDER BY _id DESC LIMIT 1), 0))"
    " FROM edgespool_ledger WHERE name = 'seq'"
)
RAISE_SEQUENCE = "UPDATE edgespool_ledger SET value = max(value, ?) WHERE name = 'seq'"
COUNT = "INSERT INTO edgespool_ledger VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
LEDGER = "SELECT name, value FROM edgespool_ledger"
COLUMNS = "_id, data, timestamp, event_id, session, mono, crc"
LEASE = f"SELECT {COLUMNS} FROM {TABLE} WHERE _id > ? AND _id < ? ORDER BY _id LIMIT ?"
NEXT_ID = f"SELECT _id FROM {TABLE} WHERE _id >= ? ORDER BY _id LIMIT 1"
DELETE_RANGE = f"DELETE FROM {TABLE} WHERE _id BETWEEN ? AND ?"
DELETE_ONE = f"DELETE FROM {TABLE} WHERE _id = ?"
OLDEST = f"SELECT _id, length(data), session, mono FROM {TABLE} WHERE _id >= ? AND _id < ? ORDER BY _id LIMIT ?"
ROUTE_ID = "SELECT id FROM edgespool_route WHERE name = ?"
ROUTE_NAME = "SELECT name FROM edgespool_route WHERE id = ?"
ROUTES = "SELECT count(*) FROM edgespool_route"
NEW_ROUTE = "INSERT INTO edgespool_route (name) VALUES (?)"
FORMAT = "SELECT value FROM edgespool_meta WHERE name = 'format'"
SALVAGED = "SELECT value FROM edgespool_meta WHERE name = 'salvaged'"
SET_FORMAT = "INSERT OR REPLACE INTO edgespool_meta VALUES ('format', ?)"
SESSION = "SELECT id FROM edgespool_session WHERE boot_id = ?"
NEW_SESSION = "INSERT INTO edgespool_session (boot_id, first_mono, last_mono) VALUES (?, ?, ?)"
SESSIONS = "SELECT id, boot_id, first_mono, last_mono, wall_offset FROM edgespool_session ORDER BY id"
PROLONG_SESSION = "UPDATE edgespool_session SET last_mono = last_mono + 1 WHERE id = ?"
TOUCH_SESSION = "UPDATE edgespool_session SET last_mono = ?, wall_offset = coalesce(?, wall_offset) WHERE id = ?"


def malformed(what: str) -> sqlite3.DatabaseError:
    """Return the error that SQLite would raise if it looked: the file is damaged, and has to be salvaged."""
    return sqlite3.DatabaseError(f"database disk image is malformed: {what}")


def text(raw: bytes) -> str:
    """Return text as read from the file. Damaged text must not fail the whole statement: its checksum will tell."""
    return raw.decode("utf-8", "replace")


def last_sequence(connection: sqlite3.Connection) -> int:
    """Return the last sequence number given out."""
    row = connection.execute(LAST_SEQUENCE).fetchone()
    if row is None or not isinstance(row[0], int) or not 0 <= row[0] <= SEQUENCE_MASK:
        raise malformed("the ledger does not know how many events there were")
    return row[0]


def salvaged(connection: sqlite3.Connection) -> str | None:
    """Return the name of the salvage that made the file; None for a file that never was damaged."""
    row = connection.execute(SALVAGED).fetchone()
    return row[0] if row and isinstance(row[0], str) and os.path.basename(row[0]) == row[0] else None


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the ledger's counters by name."""
    found = dict(connection.execute(LEDGER).fetchall())
    if not all(isinstance(name, str) and isinstance(count, int) for name, count in found.items()):
        raise malformed("the ledger holds something that is no count")
    return found


def sessions(connection: sqlite3.Connection) -> list[tuple[int, str, int, int, int | None]]:
    """Return what is known of each boot, oldest first; a damaged row is left out, and its events' ages are unknown."""
    return [
        row
        for row in connection.execute(SESSIONS).fetchall()
        if isinstance(row[2], int) and isinstance(row[3], int) and (row[4] is None or isinstance(row[4], int))
    ]


# (pragma, value set, value read back)
_PRAGMAS = (
    ("journal_mode", "wal", "wal"),
    # Debian compiles it ON, which overwrites deleted rows: an ack then writes 46 times the pages.
    ("secure_delete", "0", 0),
    # Checkpoints are ours to time: only under the write lock, and bounded.
    ("wal_autocheckpoint", "0", 0),
    # Notice a damaged page when it is read rather than spread it.
    ("cell_size_check", "1", 1),
    # On macOS only F_FULLFSYNC reaches the medium; elsewhere these mean nothing.
    ("fullfsync", "1", 1),
    ("checkpoint_fullfsync", "1", 1),
    # A megabyte of cache a connection is plenty for a queue that is written at one end and read at the other.
    ("cache_size", "-1024", -1024),
    # The file is not ours alone to trust: no functions with side effects from within the schema.
    ("trusted_schema", "0", 0),
)
_SYNCHRONOUS = {"NORMAL": 1, "FULL": 2}


def uri_of(path: str) -> str:
    """Return a path as SQLite takes it in a URI, without parameters: any bytes that a file system takes, quoted."""
    path = os.path.abspath(path)
    if path.startswith("//"):  # POSIX lets two slashes stand; in a URI they would announce a host
        path = path[1:]
    return f"file:{quote(os.fsencode(path))}"


def connect(
    directory: str,
    synchronous: str,
    *,
    wal_limit: int,
    timeout: float,
    spoilt: list[sqlite3.Connection] | None = None,
) -> sqlite3.Connection:
    """Open the queue file and return the connection, in autocommit mode, its pragmas set and read back.

    Args:
        directory: the queue's directory.
        synchronous: ``"FULL"`` flushes at every commit, ``"NORMAL"`` leaves that to others.
        wal_limit: bytes the WAL is meant to stay below; far above it, one that starts over is cut.
        timeout: seconds to wait for a lock that somebody outside edgespool holds.
        spoilt: takes the connection when it cannot be made ready, instead of its being closed: closing changes files.

    Raises:
        sqlite3.Error: it cannot be opened, or is no database.
        QueueUnavailable: a pragma did not take.
    """
    # psow=0: do not assume that a torn write leaves its neighbours alone. On a card that loses the whole 4 KiB block
    # around a write in flight, acknowledged events were lost with the default and none with this.
    uri = f"{uri_of(os.path.join(directory, FILE_NAME))}?psow=0"
    connection = sqlite3.connect(
        uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=200
    )
    connection.text_factory = text
    try:
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            # Both must come before the first table. Set again later, the second writes a page at each opening.
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        settings = [*_PRAGMAS, ("synchronous", synchronous, _SYNCHRONOUS[synchronous])]
        # Well above where checkpoints are made: a WAL that is cut has to grow again, and growing costs each commit a
        # second flush, for the file's size.
        settings.append(("journal_size_limit", str(2 * wal_limit), 2 * wal_limit))
        for name, value, expected in settings:
            connection.execute(f"PRAGMA {name} = {value}").fetchall()
            row = connection.execute(f"PRAGMA {name}").fetchone()
            # A build may leave out what it does not know; only what guards the data must be there.
            missing = row is None and name in ("fullfsync", "checkpoint_fullfsync", "trusted_schema")
            if not missing and (row is None or row[0] != expected):
                raise QueueUnavailable(
                    f"SQLite {sqlite3.sqlite_version} did not take PRAGMA {name} = {value} (it says "
                    f"{row[0] if row else None!r}); a network or FUSE filesystem? Put the queue on a local disk"
                )
    except BaseException:
        if spoilt is None:
            connection.close()
        else:
            spoilt.append(connection)
        raise
    return connection


def fold(directory: str) -> None:
    """Copy all of the WAL into the queue file and delete it, without the file that SQLite shares between processes.

    Raises:
        sqlite3.Error: others have the queue open, or the file has no room to grow; nothing is lost.
    """
    connection = sqlite3.connect(
        f"{uri_of(os.path.join(directory, FILE_NAME))}?mode=rw&psow=0", uri=True, timeout=0, isolation_level=None
    )
    try:
        # Flushed before and after, by F_FULLFSYNC where only that counts: a WAL that is gone cannot be read again.
        for pragma in ("locking_mode = EXCLUSIVE", "synchronous = FULL", "fullfsync = 1", "checkpoint_fullfsync = 1"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()  # which deletes it, if all of it was copied


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema's version, 0 for an empty file.

    Raises:
        QueueVersionError: it is newer than this package.
        QueueDamaged: it is somebody else's database.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if owner == APPLICATION_ID:
        if version > VERSION:
            raise QueueVersionError(
                f"the queue file has schema version {version}, this edgespool knows up to {VERSION}: "
                "upgrade edgespool, or give it another directory; the file is left as it is"
            )
        if version > 0:
            _look_over(connection)
            return version
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version or owner or tables:
        raise QueueDamaged(f"{FILE_NAME} is a database, but no edgespool queue")
    return 0


def _look_over(connection: sqlite3.Connection) -> None:
    """Raise QueueDamaged unless the tables are ours, and nothing else is there that could act, or never end."""
    for kind, name in connection.execute("SELECT type, name FROM sqlite_master").fetchall():
        if kind not in ("table", "index"):
            raise QueueDamaged(f"{FILE_NAME} holds a {kind} ({name!r}), which no edgespool has made")
    for name, columns in _COLUMNS.items():
        if [row[1] for row in connection.execute(f"PRAGMA table_info({name})").fetchall()] != columns.split():
            raise QueueDamaged(f"{FILE_NAME} lacks the table {name} as edgespool makes it")


def create(connection: sqlite3.Connection) -> None:
    """Make the tables, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in _CREATE.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class RowTaken(QueueUnavailable):
    """A row id is in the table already: a program other than edgespool has written to it."""


_BY_CODE = {8: "readonly", 10: "io", 11: "damaged", 13: "full", 14: "open", 26: "damaged", 5: "locked", 6: "locked"}
_BY_TEXT = (
    ("is full", "full"),
    ("disk I/O error", "io"),
    ("malformed", "damaged"),
    ("not a database", "damaged"),
    ("malformed database schema", "damaged"),
    ("readonly", "readonly"),
    ("unable to open", "open"),
    ("locked", "locked"),
)


def kind_of(error: sqlite3.Error) -> str:
    """Return what went wrong: full, io, damaged, readonly, open, locked or other."""
    code = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
    if isinstance(code, int):
        return _BY_CODE.get(code & 0xFF, "other")
    text = str(error)
    return next((kind for part, kind in _BY_TEXT if part in text), "other")


def may_be_reading(error: sqlite3.Error) -> bool:
    """Whether an I/O error may be of reading the file; older Pythons do not say."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in (266, 522) if isinstance(code, int) else True  # SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ


def translate(error: sqlite3.Error, directory: str, *, committing: bool = False) -> QueueError:
    """Return the error of ours that an SQLite error stands for.

    Args:
        error: what SQLite raised.
        directory: the queue's directory, for the message.
        committing: it was raised by COMMIT, so that after an I/O error nobody knows whether the rows are there.
    """
    kind = kind_of(error)
    if isinstance(error, sqlite3.IntegrityError):
        return RowTaken(f"the queue in {directory} was written to by a program other than edgespool")
    if kind == "full":
        return QueueFull(f"the disk that holds {directory} is full; nothing was stored: make room there")
    if kind == "io" and committing:
        return OutcomeUnknown(
            f"the disk that holds {directory} failed during a commit ({error}); the event may or may not be stored"
        )
    if kind == "damaged":
        return QueueDamaged(f"the queue in {directory} is damaged ({error}); run `edgespool doctor`")
    advice = {
        "readonly": "is it mounted read-only, or owned by somebody else?",
        "io": "look at the kernel's log for errors of that disk",
        "open": "does the directory exist, and may this user write there?",
        "locked": "does another program hold the file open?",
    }.get(kind, "run `edgespool doctor`")
    return QueueUnavailable(f"the queue in {directory} cannot be used ({error}): {advice}")

