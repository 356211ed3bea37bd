"""The queue's files on the disk: who may read them, what is flushed, how large they grow and that they shrink again."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from unit_kit import MIB, drain, record, records

from edgespool.errors import OutcomeUnknown, QueueUnavailable
from edgespool.queue import DiskQueue, schema

OpenQueue = Callable[..., DiskQueue]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_files_are_for_the_owner_alone_whatever_the_umask(umask: int, open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue(tmp_path / "a" / "b" / "queue")
    queue.append(records("a"))
    for directory in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "queue"):
        assert mode(directory) == 0o700
    files = {path.name: mode(path) for path in (tmp_path / "a" / "b" / "queue").iterdir()}
    assert {"queue.db", "queue.db-wal", "write.lock", "ballast"} <= set(files)
    assert {name: file_mode for name, file_mode in files.items() if file_mode & 0o177} == {}
    assert (files["queue.db"], files["queue.db-wal"]) == (0o600, 0o600)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to tell what was flushed")
def test_the_names_of_new_directories_and_of_the_file_are_flushed(
    open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def fsync_and_tell(fd: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync_and_tell)
    open_queue(tmp_path / "a" / "b" / "queue")
    # Also the name of the directory that was there: whoever made it may have died before its flush.
    assert flushed[:4] == [str(tmp_path.parent), *(str(tmp_path / each) for each in ("", "a", "a/b"))]
    assert str(tmp_path / "a" / "b" / "queue") in flushed[4:]


# What is flushed


class Flushes:
    """Counts what Python flushes; SQLite's own flushes are not seen here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, fd: int) -> None:
        if self.error is not None:
            raise self.error
        self.count += 1


def test_acknowledgements_are_flushed_by_maintain_and_not_at_once(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(sync_interval=3600.0)
    flushes = Flushes(monkeypatch)
    queue.append(records("ab"))
    batch = queue.lease(1, MIB)
    assert batch is not None
    queue.ack(batch)
    queue.maintain(True)
    assert flushes.count == 0
    queue._last_sync -= 3600
    queue.maintain(True)
    queue._last_sync -= 3600
    queue.maintain(True)  # nothing new
    assert flushes.count == 1


def test_an_append_at_durability_power_takes_the_acknowledgements_along(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(sync_interval=0.01)
    flushes = Flushes(monkeypatch)
    queue.append(records("ab"))
    drain(queue)
    queue.append(records("c"))
    queue._last_sync -= 1
    queue.maintain(True)
    assert flushes.count == 0


def test_at_durability_process_a_flush_follows_within_the_interval(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Flushes(monkeypatch)
    queue = open_queue(durability="process", sync_interval=0.01)
    queue.append(records("a"))
    for _ in range(1000):
        if flushes.count and not queue._store.unsynced:
            return
        time.sleep(0.01)
    raise AssertionError("it was never flushed")


def test_closing_flushes_what_was_not(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = open_queue(durability="process", sync_interval=3600.0)
    flushes = Flushes(monkeypatch)
    queue.append(records("a"))
    queue.close()
    assert flushes.count == 1


def test_after_a_flush_that_failed_nothing_is_stored_until_one_succeeds(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(durability="process", sync_interval=3600.0)
    flushes = Flushes(monkeypatch)
    queue.append(records("a"))
    flushes.error = OSError(5, "Input/output error")
    queue._last_sync -= 3600
    with pytest.raises(OutcomeUnknown, match="flush"):
        queue.maintain(True)
    with pytest.raises(QueueUnavailable, match="flush"):
        queue.append(records("b"))
    flushes.error = None
    queue._store._mend_at = 0.0  # a while later
    queue.append(records("c"))
    assert flushes.count
    assert drain(queue) == ["a", "c"]


# How large they grow


def wal_size(queue: DiskQueue) -> int:
    return queue._store.wal_bytes()


@pytest.mark.parametrize("size", [100, 900, 5_000, 60_000])
def test_the_wal_stays_bounded_through_a_long_append_without_a_worker(open_queue: OpenQueue, size: int) -> None:
    queue = open_queue(max_bytes=8 * MIB)  # a WAL of about 1 MiB
    limit = queue._budget.wal_limit
    largest = 0
    for number in range(min(1000, 5 * MIB // size)):
        queue.append([record(number, size=size)])
        largest = max(largest, wal_size(queue))
    assert limit // 2 < largest <= 2 * limit + size


def test_the_wal_stays_bounded_when_many_are_appended_at_once(open_queue: OpenQueue) -> None:
    queue = open_queue(max_bytes=8 * MIB)
    largest = 0
    for start in range(0, 4000, 100):
        queue.append(records(range(start, start + 100), "many", size=900))
        largest = max(largest, wal_size(queue))
    assert largest <= 2 * queue._budget.wal_limit + 90_000


def test_maintain_folds_the_wal_into_the_file(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue(max_bytes=8 * MIB)
    while not queue._store.checkpoint_due(0.5):
        queue.append(records(range(20), size=900))
    size = (tmp_path / "queue" / "queue.db").stat().st_size
    queue.maintain(False)
    assert (tmp_path / "queue" / "queue.db").stat().st_size > size + 300_000
    top = wal_size(queue)
    queue.append(records("a"))
    assert wal_size(queue) == top  # it starts over, and need not grow


def test_closing_leaves_the_database_alone(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("a"))
    queue.close()
    assert {path.name for path in (tmp_path / "queue").iterdir()} == {"queue.db", "write.lock", "ballast"}


def test_after_a_drain_the_file_is_given_back_in_bounded_steps(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    for _ in range(4):
        queue.append(records(range(100), size=10_000))
    queue.append(records(["last"]))
    while (batch := queue.lease(50, MIB)) is not None and batch.ids != ["last"]:
        queue.ack(batch)
    file = tmp_path / "queue" / "queue.db"
    queue._store.checkpoint()
    sizes = [file.stat().st_size]
    assert sizes[0] > 4_000_000
    queue.maintain(False)  # events are waiting: no time for this
    assert file.stat().st_size == sizes[0]
    for _ in range(10):
        queue.maintain(True)
        sizes.append(file.stat().st_size)
    steps = [before - after for before, after in pairwise(sizes)]
    assert max(steps) <= 257 * schema.PAGE_SIZE
    assert sizes[-1] < 1_200_000
    assert steps[-3:] == [0, 0, 0]
    assert queue.count_rows() == 1


def test_a_small_queue_is_not_vacuumed(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records(range(100), size=5_000))
    drain(queue)
    queue._store.checkpoint()
    size = (tmp_path / "queue" / "queue.db").stat().st_size
    queue.maintain(True)
    assert (tmp_path / "queue" / "queue.db").stat().st_size == size


def test_the_bytes_on_disk_are_counted(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue(max_bytes=16 * MIB)
    before = queue.disk_bytes()
    assert before >= MIB  # the ballast
    queue.append(records(range(10), size=100_000))
    assert queue.disk_bytes() >= before + 900_000


# A file that goes away


def test_a_file_that_was_deleted_is_made_anew_and_said_so(
    open_queue: OpenQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = open_queue()
    queue.append(records("ab"))
    batch = queue.lease(1, MIB)
    assert batch is not None
    for path in (tmp_path / "queue").glob("queue.db*"):
        path.unlink()
    assert queue.lease(1, MIB) is None
    assert queue.ack(batch) == 0
    queue.append(records("c"))
    assert drain(queue) == ["c"]
    assert "was replaced" in caplog.text
    assert queue.ledger().balanced


def test_a_directory_that_was_deleted_is_made_anew(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("a"))
    (tmp_path / "queue").rename(tmp_path / "elsewhere")
    queue._store._next_look = 0.0  # half a second later
    queue.append(records("b"))
    assert drain(queue) == ["b"]
    assert (tmp_path / "queue" / "queue.db").exists()


def test_a_file_in_the_directorys_place_is_refused_in_words(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    (tmp_path / "queue").rename(tmp_path / "elsewhere")
    (tmp_path / "queue").write_text("a file")
    queue._store._next_look = 0.0
    for _ in range(2):
        with pytest.raises(QueueUnavailable, match="cannot be used"):
            queue.append(records("a"))
        with pytest.raises(QueueUnavailable, match="cannot be used"):
            queue.lease(1, MIB)
    (tmp_path / "queue").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "queue")
    queue.append(records("a"))
    assert drain(queue) == ["a"]


def test_cutting_the_wal_does_not_wait_for_whoever_reads(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue(lock_timeout=600)
    queue.append(records(range(100)))
    with closing(sqlite3.connect(tmp_path / "queue" / "queue.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM ack_queue_default").fetchone()
        cutting = threading.Thread(target=queue._store.checkpoint, args=(True,))
        cutting.start()
        cutting.join(60)
        held_up = cutting.is_alive()
        reader.execute("COMMIT")
    cutting.join()
    assert not held_up
    queue._store.checkpoint(cut=True)
    assert queue._store.wal_bytes() == 0
