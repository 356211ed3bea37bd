"""Somebody reads the queue file and never lets go: nothing is lost, and what that costs ends when they do."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from load_kit import MakeClient, check_books, record_readings, wait_until

from edgespool import Client
from edgespool.queue import schema
from edgespool.testing import Collector

MIB = 1 << 20


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    """A client that sends, with one event delivered and a budget of 16 MiB: its WAL is kept to 2 MiB."""
    made = make_client(max_bytes=16 * MIB, durability="process", batch_size=100)
    made.record("reading", n=-1, bad=False)
    made.start()
    assert made.flush(30)
    made.record("reading", n=-2, bad=False)
    return made


@pytest.fixture
def reader(client: Client) -> Iterator[sqlite3.Connection]:
    """Another program's connection, in the midst of a SELECT."""
    path = os.path.join(client.directory, schema.FILE_NAME)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        connection.execute("BEGIN")
        connection.execute(f"SELECT * FROM {schema.TABLE}").fetchone()
        yield connection


def _wal(client: Client) -> int:
    return os.path.getsize(os.path.join(client.directory, schema.FILE_NAME + "-wal"))


def _work(client: Client, rounds: int, ids: list[str]) -> None:
    for _ in range(rounds):
        ids += record_readings(client, 100, note="x" * 200)
        wait_until(lambda: client.stats().pending < 500, "the sender keeping up")


def test_a_reader_that_never_lets_go_loses_nothing_and_costs_what_is_written(
    client: Client, reader: sqlite3.Connection, collector: Collector
) -> None:
    ids = collector.ids()
    wait_until(lambda: client.stats().pending == 0)
    ids = collector.ids()
    began = time.process_time()
    _work(client, 50, ids)
    half = _wal(client)
    _work(client, 50, ids)
    assert client.flush(30)
    spent = time.process_time() - began
    check_books(client, collector, ids, set())
    assert collector.repeats() == 0
    # SQLite cannot begin the WAL anew behind an open reader: it grows with what is written, each event and its
    # acknowledgement once, and by nothing else.
    assert 2 * MIB < _wal(client) < 2.6 * half
    assert _wal(client) < 10_000 * 2500
    assert spent < 30
    reader.execute("COMMIT")
    _work(client, 20, ids)
    assert client.flush(30)
    assert _wal(client) <= 4 * MIB  # and it is cut to its limit (journal_size_limit, twice that of the WAL)
    check_books(client, collector, ids, set())


def test_a_reader_that_never_lets_go_does_not_hold_up_close_or_the_next_start(
    client: Client, reader: sqlite3.Connection, collector: Collector, make_client: MakeClient
) -> None:
    wait_until(lambda: client.stats().pending == 0)
    ids = collector.ids()
    _work(client, 5, ids)
    began = time.monotonic()
    client.close(5)
    assert time.monotonic() - began < 6
    again = make_client(max_bytes=16 * MIB)
    ids += record_readings(again, 100)
    again.start()
    assert again.flush(30)
    check_books(again, collector, ids, set())
