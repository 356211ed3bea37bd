"""The queue file: its pragmas, its tables, the plans of its statements, and whose file it is."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit_kit import drain, record, records

from edgespool.errors import QueueUnavailable, QueueVersionError
from edgespool.queue import DiskQueue, schema
from edgespool.testing import FakeClock

OpenQueue = Callable[..., DiskQueue]


def pragma(connection: sqlite3.Connection | None, name: str) -> Any:
    assert connection is not None
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


# Pragmas


@pytest.mark.parametrize(("durability", "synchronous"), [("power", 2), ("process", 1)])
def test_every_connection_has_its_pragmas(open_queue: OpenQueue, durability: str, synchronous: int) -> None:
    store = open_queue(durability=durability, max_bytes=1 << 26)._store
    for connection in (store.writer, store._reader):
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "secure_delete") == 0
        assert pragma(connection, "wal_autocheckpoint") == 0
        assert pragma(connection, "cell_size_check") == 1
        assert pragma(connection, "trusted_schema") == 0
        assert pragma(connection, "page_size") == 4096
        assert pragma(connection, "auto_vacuum") == 2
        assert pragma(connection, "journal_size_limit") == 2 * (8 << 20)
    assert pragma(store.writer, "synchronous") == synchronous
    assert pragma(store._reader, "synchronous") == 1


def test_a_torn_write_is_not_trusted_to_leave_its_neighbours_alone(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []
    connect = sqlite3.connect

    def connect_and_tell(address: str, **settings: Any) -> sqlite3.Connection:
        addresses.append(address)
        return connect(address, **settings)

    monkeypatch.setattr(schema.sqlite3, "connect", connect_and_tell)
    open_queue()
    assert len(addresses) == 2
    assert all("psow=0" in address for address in addresses)


def test_a_pragma_that_does_not_take_stops_the_opening(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_PRAGMAS", (*schema._PRAGMAS, ("locking_mode", "exclusive", "normal")))
    with pytest.raises(QueueUnavailable, match="did not take PRAGMA locking_mode = exclusive"):
        open_queue()


def test_the_table_has_no_autoincrement_and_starts_as_persist_queues_does(queue: DiskQueue) -> None:
    assert queue._store.writer is not None
    names = {row[0] for row in queue._store.writer.execute("SELECT name FROM sqlite_master")}
    assert "sqlite_sequence" not in names
    assert {name for name in names if not name.startswith("sqlite_autoindex")} == {
        "ack_queue_default", "edgespool_ledger", "edgespool_meta", "edgespool_route", "edgespool_session",
    }  # fmt: skip
    columns = [row[1:3] for row in queue._store.writer.execute("PRAGMA table_info(ack_queue_default)")]
    assert columns[:4] == [("_id", "INTEGER"), ("data", "BLOB"), ("timestamp", "FLOAT"), ("status", "INTEGER")]
    assert pragma(queue._store.writer, "user_version") == schema.VERSION
    assert pragma(queue._store.writer, "application_id") == schema.APPLICATION_ID


# Plans


def scans_of_events(connection: sqlite3.Connection, statement: str) -> list[str]:
    """Return the steps of the statement's plan that go through the table of events without a bound."""
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    return [step for step in plan if re.match(rf"SCAN (TABLE )?{schema.TABLE}\b", step)]


def test_no_statement_of_opening_appending_leasing_or_acking_scans_the_table(
    open_queue: OpenQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    connect = schema.connect

    def connect_and_listen(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(seen.add)
        return connection

    monkeypatch.setattr(schema, "connect", connect_and_listen)
    queue = open_queue(max_bytes=1 << 20, overflow="drop_oldest")
    queue.append(records(range(200)))
    queue.append(records(range(200), "kitchen"))
    queue.append([record("one")])
    for limit in (100, 1, 7):
        batch = queue.lease(limit, 1 << 20, {"held"})
        assert batch is not None
        queue.requeue(batch.cut(1)[1])
        queue.ack(batch)
    clock.advance(1000)
    queue.expire(10.0, limit=5)
    for _ in range(15):
        queue.append([record(size=80_000)])
    assert queue.ledger().dropped["overflow"]
    queue._last_touch -= 61
    queue.maintain(True)
    queue.oldest()
    queue.oldest_sequence()
    queue.close()
    queue = open_queue(max_bytes=1 << 20)
    assert queue.oldest_sequence() is not None

    with sqlite3.connect(":memory:") as judge:
        judge.executescript(schema._CREATE)
        assert scans_of_events(judge, f"SELECT count(*) FROM {schema.TABLE}")  # it can tell
        statements = [s for s in seen if re.match(r"(?i)\s*(SELECT|INSERT|UPDATE|DELETE)\b", s)]
        for word in ("INSERT INTO ack_queue_default", "DELETE FROM ack_queue_default", "ORDER BY _id", "'seq'"):
            assert any(word in statement for statement in statements), word
        assert [s for s in statements if schema.TABLE in s and scans_of_events(judge, s)] == []
    judge.close()


def test_leasing_behind_a_long_backlog_steps_over_it(queue: DiskQueue) -> None:
    """The work of a lease, counted by SQLite itself, does not grow with what waits."""

    def steps() -> int:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        reader = queue._store._reader
        assert reader is not None
        reader.set_progress_handler(tick, 1)
        batch = queue.lease(10, 1 << 20, {"held"})
        reader.set_progress_handler(None, 0)
        assert batch is not None
        assert len(batch) == 10
        queue.requeue(batch)
        return count

    queue.append(records(range(20), "held"))
    queue.append(records(range(20), "free"))
    few = steps()
    for _ in range(5):
        queue.append(records(range(2000), "held"))
        queue.append(records(range(2000), "free"))
    assert steps() <= few


# Whose file it is


def raw(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(path, isolation_level=None)


def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("a"))
    queue.close()
    path = tmp_path / "queue" / "queue.db"
    connection = raw(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(QueueVersionError, match=r"schema version 2.*upgrade edgespool"):
            open_queue()
    assert path.read_bytes() == before
    assert not (tmp_path / "queue" / "damaged").exists()
    connection = raw(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.close()
    assert drain(open_queue()) == ["a"]


def test_somebody_elses_database_is_set_aside_and_a_fresh_queue_made(open_queue: OpenQueue, tmp_path: Path) -> None:
    path = tmp_path / "queue" / "queue.db"
    connection = raw(path)
    connection.executescript("CREATE TABLE letters (text); INSERT INTO letters VALUES ('dear')")
    connection.close()
    queue = open_queue()
    queue.append(records("a"))
    assert drain(queue) == ["a"]
    (kept,) = (tmp_path / "queue" / "damaged").iterdir()
    connection = raw(kept / "queue.db")
    assert connection.execute("SELECT text FROM letters").fetchall() == [("dear",)]
    connection.close()


@pytest.mark.parametrize("content", [b"", b"not a database at all, but longer than a header" * 100, bytes(8192)])
def test_a_file_that_is_no_database_is_set_aside(open_queue: OpenQueue, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue" / "queue.db"
    path.parent.mkdir()
    path.write_bytes(content)
    queue = open_queue()
    queue.append(records("a"))
    assert drain(queue) == ["a"]
    kept = list((tmp_path / "queue").glob("damaged/*/queue.db"))
    assert [each.read_bytes() for each in kept] == ([content] if content else [])


def test_a_directory_in_the_files_place_is_refused_in_words(open_queue: OpenQueue, tmp_path: Path) -> None:
    (tmp_path / "queue" / "queue.db").mkdir(parents=True)
    with pytest.raises(QueueUnavailable, match="is not a plain file"):
        open_queue()


def test_a_path_below_a_file_is_refused_in_words(open_queue: OpenQueue, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QueueUnavailable, match="cannot be used"):
        open_queue(tmp_path / "file" / "queue")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_refused_in_words(open_queue: OpenQueue, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(QueueUnavailable, match="cannot be used"):
        open_queue(tmp_path / "locked" / "queue")


def test_settings_out_of_range_are_refused_in_words(open_queue: OpenQueue) -> None:
    for setting in ({"durability": "maybe"}, {"overflow": "explode"}, {"max_bytes": 1000}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            open_queue(**setting)


def test_opening_and_closing_writes_nothing(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("a"))
    queue.close()
    before = (tmp_path / "queue" / "queue.db").read_bytes()
    open_queue().close()
    assert (tmp_path / "queue" / "queue.db").read_bytes() == before
