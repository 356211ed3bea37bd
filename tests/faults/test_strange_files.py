"""What else may stand where a queue's files should: the start succeeds or says exactly why not."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from pathlib import Path

import pytest
from damage_kit import FILES, HEADER, Sample, judge
from faults_kit import PAGE, OpenQueue, drain, record, records, tree

from edgespool import Client
from edgespool.errors import QueueUnavailable, QueueVersionError
from edgespool.queue import salvage, schema


def usable(open_queue: OpenQueue, path: Path) -> None:
    """The queue takes an event and hands it out again."""
    queue = open_queue(path)
    queue.append([record("after")])
    assert "after" in drain(queue)
    assert queue.ledger().balanced


def aside(path: Path) -> Path:
    """Return the one directory that holds what was set aside."""
    (found,) = (path / "damaged").iterdir()
    return found


def test_an_empty_file_is_a_queue_that_was_never_made(open_queue: OpenQueue, tmp_path: Path) -> None:
    (tmp_path / "queue.db").touch(0o600)
    usable(open_queue, tmp_path)
    assert not (tmp_path / "damaged").exists()


def test_a_file_that_was_emptied_is_told(open_queue: OpenQueue, closed: Sample, tmp_path: Path) -> None:
    path = closed.copy(tmp_path / "queue", db=b"")
    (path / "ballast").write_bytes(b"")  # there were tables once
    usable(open_queue, path)
    (report,) = salvage.reports(str(path))
    assert (report.kept, report.why) == (0, "it is empty")


@pytest.mark.parametrize("left", [b"", None])
def test_the_events_in_a_wal_survive_the_loss_of_their_file(
    open_queue: OpenQueue, tmp_path: Path, left: bytes | None
) -> None:
    """SQLite itself deletes a WAL that it finds beside an empty file, or none."""
    queue = open_queue(tmp_path / "made")
    queue.append(records(range(50)))
    files = tree(tmp_path / "made", FILES)
    path = tmp_path / "queue"
    path.mkdir()
    (path / "queue.db-wal").write_bytes(files["queue.db-wal"])
    if left is not None:
        (path / "queue.db").write_bytes(left)
    again = open_queue(path)
    assert drain(again) == [str(n) for n in range(50)]
    assert again.salvaged is not None
    assert again.salvaged.kept == 50
    assert (aside(path) / "queue.db-wal").read_bytes() == files["queue.db-wal"]


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"# notes\n" * 4000, b"\0" * 8192, random.Random(3).randbytes(50_000), b"SQLite format 3\0"],
    ids=["short text", "long text", "zeros", "noise", "a header's beginning"],
)
def test_a_file_of_another_kind_is_set_aside_whole(open_queue: OpenQueue, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "queue.db").write_bytes(content)
    (tmp_path / "queue.db-wal").write_bytes(content[::-1])
    (tmp_path / "queue.db-shm").write_bytes(content[:100])
    usable(open_queue, tmp_path)
    assert tree(aside(tmp_path), FILES) == {
        "queue.db": content, "queue.db-wal": content[::-1], "queue.db-shm": content[:100]
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_database_of_another_program_is_set_aside_as_it_was(
    open_queue: OpenQueue, tmp_path: Path, mode: str
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE ack_queue_default (_id INTEGER PRIMARY KEY, data BLOB)")
        connection.execute("INSERT INTO ack_queue_default VALUES (1, 'theirs')")
        before = tree(tmp_path, FILES[:2])
        (tmp_path / "copy").mkdir()
        for name, content in before.items():
            (tmp_path / "copy" / name).write_bytes(content)
    path = tmp_path / "copy"
    usable(open_queue, path)
    assert tree(aside(path), FILES[:2]) == before
    (report,) = salvage.reports(str(path))
    assert "no edgespool queue" in report.why or "no SQLite database" in report.why


@pytest.mark.parametrize("clean", [True, False])
def test_a_file_of_a_newer_version_is_refused_and_left_untouched(
    open_queue: OpenQueue, tmp_path: Path, clean: bool
) -> None:
    queue = open_queue(tmp_path / "made")
    queue.append(records(range(20)))
    assert queue._store.writer is not None
    queue._store.writer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    if clean:
        queue.close()
    path = tmp_path / "queue"
    path.mkdir()
    before = tree(tmp_path / "made", FILES)
    for name, content in before.items():
        (path / name).write_bytes(content)
    with pytest.raises(QueueVersionError, match="upgrade edgespool"):
        open_queue(path)
    assert tree(path, FILES) == before
    assert not (path / "damaged").exists()


def test_a_directory_in_the_files_place_is_named(open_queue: OpenQueue, tmp_path: Path) -> None:
    (tmp_path / "queue.db").mkdir()
    with pytest.raises(QueueUnavailable, match=r"queue\.db is not a .*file"):
        open_queue(tmp_path)
    (tmp_path / "queue.db").rmdir()
    usable(open_queue, tmp_path)


@pytest.mark.parametrize("shm", [b"", b"garbage" * 5000, random.Random(4).randbytes(32768), b"\xff" * 65536])
def test_a_spoilt_shared_memory_file_does_no_harm(
    crashed: Sample, open_queue: OpenQueue, quick_path: Path, shm: bytes
) -> None:
    path = crashed.copy(quick_path / "queue", shm=shm)
    queue = open_queue(path)
    assert queue.salvaged is None
    verdict = judge(queue, path, crashed)
    assert not verdict.lost | verdict.back


def test_a_wal_that_is_gone_takes_along_what_was_in_it_alone(
    crashed: Sample, open_queue: OpenQueue, tmp_path: Path
) -> None:
    path = crashed.copy(tmp_path / "queue", wal=None)
    queue = open_queue(path)
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.pending == queue.count_rows() > 300
    usable(open_queue, path)


def test_a_version_that_no_program_will_ever_have_is_damage(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path
) -> None:
    content = bytearray(closed.files["queue.db"])
    content[60:64] = b"\xde\xad\xbe\xef"
    path = closed.copy(tmp_path / "queue", db=content)
    queue = open_queue(path)
    assert queue.salvaged is not None
    assert queue.salvaged.kept == len(closed.live)


# The report


def test_what_was_found_is_known_after_a_restart_and_to_other_processes(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path
) -> None:
    content = bytearray(closed.files["queue.db"])
    content[:PAGE] = bytes(PAGE)
    path = closed.copy(tmp_path / "queue", db=content)
    queue = open_queue(path)
    first = queue.salvaged
    assert first is not None
    assert (first.kept, first.lost, first.again, first.unknown) == (len(closed.live), 0, 0, 0)
    assert first.why == "it is no SQLite database"
    assert open_queue(path).salvaged == first
    queue.close()
    assert open_queue(path).salvaged == first
    assert salvage.reports(str(path)) == [first]
    assert (Path(first.aside) / "report.json").stat().st_mode & 0o777 == 0o600


def test_what_was_found_is_in_the_log_and_in_stats(
    closed: Sample, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = min(closed.pages["a300"])
    on_page = sum(page in pages for pages in closed.pages.values())
    content = bytearray(closed.files["queue.db"])
    for number in (1, page):
        content[(number - 1) * PAGE : number * PAGE] = bytes(PAGE)
    path = closed.copy(tmp_path / "queue", db=content)
    with Client("http://127.0.0.1:9/", path=path, start=False) as client:
        stats = client.stats()
    kept = len(closed.live) - on_page
    assert stats.salvaged == {"kept": kept, "lost": on_page, "again": 0, "unknown": 0}
    assert (stats.pending, stats.dropped) == (kept, {"damaged": on_page})
    (said,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert f"{kept} event(s) were read back, {on_page} lost, 0 may be sent again" in said.getMessage()
    assert "damaged" in said.getMessage()


def test_a_crash_before_the_damaged_file_moved_leaves_no_report_of_what_did_not_happen(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(closed.files["queue.db"])
    content[:PAGE] = bytes(PAGE)
    path = closed.copy(tmp_path / "queue", db=content)

    class Killed(BaseException):
        pass

    rename = os.rename

    def die(source: str, target: str) -> None:
        if str(source).endswith("queue.db"):
            monkeypatch.undo()
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "rename", die)
    with pytest.raises(Killed):
        salvage.salvage(str(path), "for the test")
    assert (path / "queue.db.salvaged").exists()
    queue = open_queue(path)
    assert len(salvage.reports(str(path))) == 1
    assert queue.salvaged == salvage.reports(str(path))[0]
    assert (aside(path) / "queue.db").read_bytes() == content


def test_the_ledger_lost_is_said_and_not_taken_for_events_lost(
    closed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    """170 events had been delivered; without the page that counted them nobody knows what became of them."""
    with contextlib.closing(sqlite3.connect(closed.copy(quick_path / "look") / "queue.db")) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'edgespool_ledger'").fetchone()[0]
    content = bytearray(closed.files["queue.db"])
    content[(page - 1) * PAGE : page * PAGE] = bytes(PAGE)
    path = closed.copy(quick_path / "queue", db=content)
    queue = open_queue(path)
    assert queue.salvaged is not None
    assert (queue.salvaged.kept, queue.salvaged.lost) == (len(closed.live), 0)
    assert queue.salvaged.unknown > 0
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.dropped == {"ledger_lost": queue.salvaged.unknown}


def test_a_route_keeps_its_name_when_either_page_that_holds_it_is_damaged(
    closed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(closed.copy(quick_path / "look") / "queue.db")) as connection:
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    for name in ("edgespool_route", "sqlite_autoindex_edgespool_route_1"):
        content = bytearray(closed.files["queue.db"])
        content[(roots[name] - 1) * PAGE : roots[name] * PAGE] = b"\xee" * PAGE
        content[0:16] = bytes(16)  # so that it shows at the start
        queue = open_queue(closed.copy(quick_path / name, db=content))
        seen = set()
        while (batch := queue.lease(100, 1 << 30)) is not None:
            seen.add(batch.route)
            queue.ack(batch)
        assert seen == {"", "kitchen", "held", "late"}, name


def test_the_header_of_the_wal_is_where_this_suite_believes(crashed: Sample) -> None:
    assert crashed.files["queue.db-wal"][HEADER : HEADER + 4] == crashed.frames[0].to_bytes(4, "big")
