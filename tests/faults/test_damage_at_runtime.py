"""Damage that shows only when a page is read: mended without a restart, while others go on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from damage_kit import FILES, Sample, judge, rows_on
from faults_kit import EVERYTHING, PAGE, OpenQueue, drain, environment, record, records, tree

from edgespool.errors import QueueDamaged
from edgespool.event import StoredEvent
from edgespool.queue import rawfile, salvage, schema
from edgespool.queue.pages import Pages

PROGRAMS = Path(__file__).parent / "programs"


@contextmanager
def other_process(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program that keeps a queue open and does as it is told on stdin."""
    command = [sys.executable, str(PROGRAMS / "holder.py"), str(path), *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], what: str) -> str:
    """Tell the other process to do something and return what it says."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(what + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def write_over(path: Path, page: int, content: bytes) -> None:
    """Damage a page from another process: closing the file in this one would take SQLite's locks away."""
    program = (
        "import os,sys; fd=os.open(sys.argv[1],os.O_RDWR); os.pwrite(fd,bytes.fromhex(sys.argv[2]),int(sys.argv[3]))"
    )
    subprocess.run([sys.executable, "-c", program, str(path), content.hex(), str((page - 1) * PAGE)], check=True)


def a_leaf(sample: Sample, route: int) -> int:
    """Return a page in the middle of a route's live rows."""
    rows = sorted((rowid, name) for name, (rowid, _) in sample.live.items() if rowid >> schema.SEQUENCE_BITS == route)
    return min(sample.pages[rows[len(rows) // 2][1]])


def test_a_damaged_page_met_by_a_lease_is_mended_while_other_threads_record(
    closed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    path = closed.copy(quick_path / "queue")
    queue = open_queue(path)
    page = a_leaf(closed, 2)
    write_over(path / "queue.db", page, os.urandom(PAGE))
    stop = threading.Event()
    recorded: list[list[str]] = [[], [], []]
    failures: list[BaseException] = []

    def go_on(mine: list[str], name: int) -> None:
        try:
            while not stop.is_set():
                one = record(f"t{name}-{len(mine)}", size=200)
                queue.append([one])
                mine.append(str(one.id))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=go_on, args=(mine, name)) for name, mine in enumerate(recorded)]
    for thread in threads:
        thread.start()
    try:
        seen = drain(queue, 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seen += drain(queue, 100)
    assert failures == []
    assert queue.salvaged is not None
    assert queue.salvaged.again == 0
    mine = {name for each in recorded for name in each}
    assert mine <= set(seen)
    on_page = {name for name, pages in closed.pages.items() if page in pages}
    assert closed.live.keys() - set(seen) == on_page
    assert len(seen) == len(set(seen)) + sum(seen.count(name) - 1 for name in set(seen) if name in closed.live)
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.pending == queue.count_rows() == 0
    assert ledger.dropped == {"damaged": len(on_page)}
    assert len(salvage.reports(str(path))) == 1


def test_another_process_goes_on_with_the_new_file_and_does_no_harm_with_the_old(
    closed: Sample, open_queue: OpenQueue, tmp_path: Path
) -> None:
    path = closed.copy(tmp_path / "queue")
    queue = open_queue(path)
    with other_process(path) as other:
        assert ask(other, "record before") == "recorded before"
        page = a_leaf(closed, 2)
        write_over(path / "queue.db", page, bytes(PAGE))
        seen = drain(queue, 20)
        assert queue.salvaged is not None
        assert "before" in seen
        queue.append([record("mine")])
        wal = (path / "queue.db-wal").stat().st_ino
        assert ask(other, "record after") == "recorded after"
        aside = tree(Path(queue.salvaged.aside), FILES[:2])
        assert ask(other, "close") == "closed"
        # The other process was the last with the old files open. It folded nothing and deleted nothing.
        assert tree(Path(queue.salvaged.aside), FILES[:2]) == aside
        assert (path / "queue.db-wal").stat().st_ino == wal
    assert drain(queue) == ["mine", "after"]
    assert queue.ledger().balanced


def test_a_file_is_salvaged_once_though_two_threads_see_its_damage(
    closed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    path = closed.copy(quick_path / "queue")
    queue = open_queue(path)
    seen = queue._store.generation
    why = QueueDamaged("for the test")
    queue._store.recover(why, seen)
    assert queue.salvaged is not None
    queue._store.recover(why, seen)
    assert len(salvage.reports(str(path))) == 1


def test_the_damaged_files_are_kept_as_they_were_when_the_damage_showed(
    crashed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    """The last connection that closes a file folds its WAL into it, and so would change, or lose, what is damaged."""
    path = crashed.copy(quick_path / "queue")
    queue = open_queue(path)
    page = next(page for page in sorted(set.union(*crashed.pages.values())) if page not in crashed.newest)
    write_over(path / "queue.db", page, bytes(PAGE))
    before = tree(path, FILES[:2])
    while (batch := queue.lease(50, EVERYTHING)) is not None:
        assert batch.events
    assert queue.salvaged is not None
    assert tree(Path(queue.salvaged.aside), FILES[:2]) == before


def test_reading_the_file_beside_sqlite_leaves_its_locks_alone(open_queue: OpenQueue, tmp_path: Path) -> None:
    """Else another process that closes the queue takes itself for the last, and deletes the WAL that we write to."""
    path = tmp_path / "queue"
    queue = open_queue(path)
    queue.append([record("first")])
    wal = (path / "queue.db-wal").stat().st_ino
    with Pages(str(path / "queue.db"), PAGE) as pages:
        assert pages.count
    open_queue(path).close()  # a second one in this process, which looks at the file as well
    with other_process(path) as other:
        assert ask(other, "record theirs") == "recorded theirs"
        assert ask(other, "close") == "closed"
    assert (path / "queue.db-wal").stat().st_ino == wal
    queue.append([record("second")])
    with other_process(path) as other:
        assert json.loads(ask(other, "list")) == ["first", "theirs", "second"]
    queue.close()
    assert rawfile._kept == {}


# Rows that do not fit their checksum


def spoil_payload(path: Path, sample: Sample, name: str) -> None:
    """Flip a bit in the payload of a small event."""
    payload = sample.live[name][1]
    at = sample.files["queue.db"].index(payload) + len(payload) // 2
    page = at // PAGE + 1
    content = bytearray(sample.files["queue.db"][(page - 1) * PAGE : page * PAGE])
    content[at % PAGE] ^= 4
    write_over(path / "queue.db", page, content)


def test_a_row_that_does_not_fit_its_checksum_is_set_aside_and_blocks_nothing(
    closed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    path = closed.copy(quick_path / "queue")
    spoil_payload(path, closed, "a100")
    queue = open_queue(path)
    verdict = judge(queue, path, closed)
    assert verdict.lost == {"a100"}
    assert verdict.reports == []
    assert queue.ledger().dropped == {"damaged": 1}
    (file,) = (path / "quarantine").iterdir()
    (row,) = json.loads(file.read_text())["rows"]
    assert row["event_id"] == "a100"
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_room_for_the_quarantine_the_others_go_on_and_it_is_tried_again(
    closed: Sample, open_queue: OpenQueue, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = closed.copy(quick_path / "queue")
    spoil_payload(path, closed, "a100")
    queue = open_queue(path)

    def refuse(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(queue._quarantine, "write", refuse)
        seen = drain(queue)
        assert closed.live.keys() - set(seen) == {"a100"}
        assert queue.ledger().pending == queue.count_rows() == 1
    queue._next_check = 0.0
    queue.maintain(False)
    assert queue.ledger().dropped == {"damaged": 1}
    assert queue.count_rows() == 0
    assert len(list((path / "quarantine").iterdir())) == 1


def point_elsewhere(page: bytearray, pointers: list[int]) -> None:
    """Have one child of an inner page stand for two."""
    page[pointers[2] : pointers[2] + 4] = page[pointers[1] : pointers[1] + 4]


def forget_a_child(page: bytearray, pointers: list[int]) -> None:
    """Take one child out of an inner page; what is left is in order."""
    page[3:5] = (len(pointers) - 1).to_bytes(2, "big")
    for index, pointer in enumerate(pointers[:2] + pointers[3:]):
        page[12 + 2 * index : 14 + 2 * index] = pointer.to_bytes(2, "big")


@pytest.mark.parametrize("spoil", [point_elsewhere, forget_a_child])
def test_rows_hidden_by_a_damaged_inner_page_are_found_when_the_queue_seems_empty(
    closed: Sample, open_queue: OpenQueue, quick_path: Path, spoil: Callable[[bytearray, list[int]], None]
) -> None:
    """SQLite follows a pointer to a wrong page without a word, and never looks at those it should have gone to."""
    image = closed.files["queue.db"]
    inner = [n for n in range(2, len(image) // PAGE + 1) if image[(n - 1) * PAGE] == 0x05]
    found = 0
    for page in inner:
        content = bytearray(image[(page - 1) * PAGE : page * PAGE])
        cells = int.from_bytes(content[3:5], "big")
        spoil(content, [int.from_bytes(content[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)])
        path = closed.copy(quick_path / f"page{page}")
        write_over(path / "queue.db", page, content)
        queue = open_queue(path)
        verdict = judge(queue, path, closed)
        assert not verdict.lost
        found += bool(verdict.reports)
        queue.close()
    assert found


# A disk that will not give back what was written


def test_a_page_that_the_disk_cannot_read_is_damage(
    closed: Sample, open_queue: OpenQueue, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = closed.copy(quick_path / "queue")
    queue = open_queue(path)
    page = a_leaf(closed, 2)
    rows = {rowid for rowid, _ in rows_on(closed.files["queue.db"], page)}
    pread, lease = os.pread, queue._lease
    broken = True

    def failing_pread(fd: int, size: int, at: int) -> bytes:
        if broken and at <= (page - 1) * PAGE < at + size and os.readlink(f"/proc/self/fd/{fd}").endswith("queue.db"):
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, size, at)

    def failing_lease(*arguments: object) -> object:
        nonlocal broken
        found = lease(*arguments)  # type: ignore[arg-type]
        events: list[StoredEvent] = list(found[0].events) if found[0] is not None else []
        if broken and rows & {event.rowid for event in events} and queue.salvaged is None:
            queue.requeue(found[0])  # type: ignore[arg-type]
            error = schema.sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = 266  # type: ignore[attr-defined]
            raise error
        return found

    monkeypatch.setattr(os, "pread", failing_pread)
    monkeypatch.setattr(queue, "_lease", failing_lease)
    seen = drain(queue)
    assert queue.salvaged is not None
    assert closed.live.keys() - set(seen) == {name for name, (rowid, _) in closed.live.items() if rowid in rows}
    assert queue.ledger().balanced


def test_damage_found_while_the_disk_is_full_is_mended_with_the_ballast(
    closed: Sample, open_queue: OpenQueue, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = closed.copy(quick_path / "queue")
    queue = open_queue(path)
    write_over(path / "queue.db", a_leaf(closed, 2), bytes(PAGE))
    build = salvage._build

    def full_with_the_ballast(*arguments: object) -> object:
        if (path / "ballast").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(salvage, "_build", full_with_the_ballast)
    queue.append(records(["after"]))
    assert "after" in drain(queue)
    assert queue.salvaged is not None
