"""What arrived at the collector, in one SQLite file: events, requests, and the dialects' small state.

A request is one transaction. Durability is that of the kernel, not of the disk: what was committed outlives the death
of the process. This module must not know HTTP connections, dialects by name, or faults.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dialects import Arrival, Headers, Request, State, Taken

__all__ = ["Arrived", "Counts", "RequestRecord", "Store", "Transaction"]

_VERSION = 1

# `arrival` counts from 1 without a gap: a repeat takes no number, and no row is ever deleted.
_SCHEMA = """
CREATE TABLE event (
    arrival    INTEGER PRIMARY KEY,
    dialect    TEXT NOT NULL,
    path       TEXT NOT NULL,
    identity   TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    data       TEXT,              -- JSON; NULL: the data is the whole event
    event      TEXT NOT NULL,     -- JSON
    extra      TEXT,              -- JSON; NULL: nothing
    request    INTEGER NOT NULL,  -- the number of the request that brought it first
    times_seen INTEGER NOT NULL DEFAULT 1,
    UNIQUE (dialect, identity)
);
CREATE TABLE request (
    number  INTEGER PRIMARY KEY,
    method  TEXT NOT NULL,
    path    TEXT NOT NULL,
    query   TEXT NOT NULL,
    headers TEXT NOT NULL,        -- JSON, pairs
    size    INTEGER NOT NULL,
    status  INTEGER,              -- NULL: no whole reply was given
    events  INTEGER NOT NULL,
    body    BLOB                  -- NULL: not kept
);
CREATE TABLE state (
    dialect TEXT NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,        -- JSON
    PRIMARY KEY (dialect, key)
) WITHOUT ROWID;
"""

_ADD = """
INSERT INTO event (dialect, path, identity, id, name, data, event, extra, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dialect, identity) DO UPDATE SET times_seen = times_seen + 1
"""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True)
class RequestRecord:
    """One request, as it was handled.

    `size` is the body's bytes on the wire, `status` the one answered or None when no whole reply was given, `events`
    how many events were decoded from it, and `body` its decompressed bytes, if the collector keeps bodies.
    """

    number: int
    method: str
    path: str
    query: str
    headers: Headers
    size: int
    status: int | None
    events: int
    body: bytes | None


@dataclass(frozen=True)
class Arrived:
    """One stored event. `arrival` counts from 1; `request` is the number of the request that brought it first."""

    arrival: int
    dialect: str
    path: str
    identity: str
    id: str
    name: str
    data: Any
    event: dict[str, Any]
    extra: dict[str, Any]
    request: int
    times_seen: int


@dataclass(frozen=True)
class Counts:
    """The totals: events known, repeats of them, requests, and of those the refused (status 300 and above) and
    the unanswered ones."""

    unique: int
    repeats: int
    requests: int
    rejected: int
    unanswered: int


class _State:
    """A dialect's part of the state table, within a transaction."""

    def __init__(self, connection: sqlite3.Connection, dialect: str) -> None:
        self._connection = connection
        self._dialect = dialect

    def get(self, key: str) -> Any:
        sql = "SELECT value FROM state WHERE dialect = ? AND key = ?"
        row = self._connection.execute(sql, (self._dialect, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def set(self, key: str, value: Any) -> None:
        sql = "INSERT OR REPLACE INTO state (dialect, key, value) VALUES (?, ?, ?)"
        self._connection.execute(sql, (self._dialect, key, _encode(value)))

    def keys(self) -> list[str]:
        sql = "SELECT key FROM state WHERE dialect = ? ORDER BY key"
        return [row[0] for row in self._connection.execute(sql, (self._dialect,))]


class Transaction:
    """One request's writes. Made by `Store.transaction`; of no use after it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        row = connection.execute("SELECT COALESCE(MAX(number), 0) FROM request").fetchone()
        self._number = int(row[0]) + 1
        self.taken = Taken(0, 0)
        self.status: int | None = None
        self.recorded = False

    def state(self, dialect: str) -> State:
        """Return the state of the dialect of that name."""
        return _State(self._connection, dialect)

    def add(self, dialect: str, path: str, arrivals: Sequence[Arrival]) -> Taken:
        """Store the events in order; a known identity is counted as a repeat.

        Raises ValueError for what neither JSON nor UTF-8 can say (an infinite number, half a surrogate pair).
        """
        number = self._number
        rows = []
        for index, (name, data, event, identity, id_, text, extra) in enumerate(arrivals):
            key = f"#{number}/{index}" if identity is None else identity
            rows.append(
                (
                    dialect,
                    path,
                    key,
                    key if id_ is None else id_,
                    name,
                    None if data is event else _encode(data),
                    _encode(event) if text is None else text,
                    _encode(dict(extra)) if extra else None,
                    number,
                )
            )
        before = _last_arrival(self._connection)
        self._connection.executemany(_ADD, rows)
        new = _last_arrival(self._connection) - before
        self.taken = Taken(new, len(rows) - new)
        return self.taken

    def record(self, request: Request, size: int, status: int | None, events: int, body: bytes | None) -> RequestRecord:
        """Store the request itself, after its events, and return its record."""
        made = RequestRecord(
            self._number, request.method, request.path, request.query, request.headers, size, status, events, body
        )
        self._connection.execute(
            "INSERT INTO request (number, method, path, query, headers, size, status, events, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                made.number,
                made.method,
                made.path,
                made.query,
                _encode(list(made.headers.items())),
                size,
                status,
                events,
                body,
            ),
        )
        self.status, self.recorded = status, True
        return made


def _last_arrival(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT COALESCE(MAX(arrival), 0) FROM event").fetchone()[0])


class Store:
    """The collector's memory. Safe for many threads; one request is written at a time."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Open the file at `path`, made if missing with its directory; None: a temporary one, which ends with us.

        Raises ValueError when the file is something else, OSError when it cannot be made.
        """
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        # Without a name SQLite makes a temporary file that has none either: killed or not, nothing is left of it.
        self.path = Path(path) if path is not None else None
        self._name = self.path or "a temporary file"
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # One connection for all threads, behind the one lock. No implicit transactions: they begin where we say.
            self._connection = sqlite3.connect(self.path or "", check_same_thread=False, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise OSError(f"{self._name} cannot be opened: {error}") from error
        try:
            self._prepare()
            self._counts = self._count()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(f"{self._name} cannot be used: {error}") from error
            if isinstance(error, sqlite3.DatabaseError):
                raise ValueError(f"{self.path} is not a collector's file: {error}") from error
            raise

    def _prepare(self) -> None:
        # WAL without sync: a commit is in the kernel's hands when it returns, so a SIGKILL takes nothing with it, and
        # the cost is a copy into the page cache. A power cut may cost the newest; a test bench does not mind.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        with self._begun():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            tables = self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and tables == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise ValueError(f"{self.path} is not a collector's file of version {_VERSION}")

    def _count(self) -> Counts:
        repeats = self._connection.execute("SELECT COALESCE(SUM(times_seen - 1), 0) FROM event").fetchone()[0]
        requests, rejected, unanswered = self._connection.execute(
            "SELECT COUNT(*), COALESCE(SUM(status >= 300), 0), COALESCE(SUM(status IS NULL), 0) FROM request"
        ).fetchone()
        return Counts(_last_arrival(self._connection), repeats, requests, rejected, unanswered)

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """Hold a transaction around the block: committed after it, rolled back when it raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back on some errors
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._changed:
            if self._closed:
                raise RuntimeError("the collector's store is closed")
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Hold the store for one request: all that the block writes is committed after it, or none when it raises."""
        with self._locked() as connection:
            with self._begun():
                work = Transaction(connection)
                yield work
            old = self._counts
            self._counts = Counts(
                old.unique + work.taken.new,
                old.repeats + work.taken.repeats,
                old.requests + work.recorded,
                old.rejected + (work.recorded and work.status is not None and work.status >= 300),
                old.unanswered + (work.recorded and work.status is None),
            )
            self._changed.notify_all()

    def counts(self) -> Counts:
        """Return the totals."""
        with self._locked():
            return self._counts

    def wait_for(self, unique: int, timeout: float) -> bool:
        """Wait at most `timeout` seconds for that many events to be known; False when they are not, or at `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._counts.unique >= unique, timeout)
            return not self._closed and self._counts.unique >= unique

    def events(self) -> list[dict[str, Any]]:
        """Return the decoded events in the order of arrival."""
        with self._locked() as connection:
            texts = [row[0] for row in connection.execute("SELECT event FROM event ORDER BY arrival")]
        # One call for all of them: the decoder's start costs more than a small event.
        found: list[dict[str, Any]] = json.loads(f"[{','.join(texts)}]")
        return found

    def ids(self) -> list[str]:
        """Return the events' ids in the order of arrival."""
        with self._locked() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM event ORDER BY arrival")]

    def arrived(self, limit: int = -1, offset: int = 0) -> list[Arrived]:
        """Return at most `limit` stored events (negative: all), after the first `offset`."""
        sql = (
            "SELECT arrival, dialect, path, identity, id, name, data, event, extra, request, times_seen"
            " FROM event WHERE arrival > ? ORDER BY arrival LIMIT ?"
        )
        with self._locked() as connection:
            rows = connection.execute(sql, (offset, limit)).fetchall()
        found = []
        for arrival, dialect, path, identity, id_, name, data, event, extra, request, times_seen in rows:
            whole = json.loads(event)
            part = whole if data is None else json.loads(data)
            more = {} if extra is None else json.loads(extra)
            found.append(Arrived(arrival, dialect, path, identity, id_, name, part, whole, more, request, times_seen))
        return found

    def requests(self) -> list[RequestRecord]:
        """Return the records of all requests in order."""
        sql = "SELECT number, method, path, query, headers, size, status, events, body FROM request ORDER BY number"
        with self._locked() as connection:
            rows = connection.execute(sql).fetchall()
        return [
            RequestRecord(number, method, path, query, Headers(json.loads(headers)), size, status, events, body)
            for number, method, path, query, headers, size, status, events, body in rows
        ]

    def close(self) -> None:
        """Close the file; a temporary one is gone then. Whoever waits is woken. Can be called again."""
        with self._changed:
            self._closed = True
            self._connection.close()
            self._changed.notify_all()
