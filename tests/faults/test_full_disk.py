"""A full disk, on a real file system of a few MiB: `QueueFull`, delivery goes on, room given back is used at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_kit import (
    EVERYTHING,
    MIB,
    Disk,
    OpenQueue,
    check_file,
    check_ledger,
    drain,
    fill_up,
    record,
    records,
    small_disk,
    tree,
)

from edgespool import Client
from edgespool.errors import QueueError, QueueFull
from edgespool.event import Batch
from edgespool.outcome import Delivered, Outcome, Reject
from edgespool.queue import DiskQueue
from edgespool.queue.view import QueueView
from edgespool.testing import FakeDestination


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path, 8) as made:
        yield made


def ids(names: list[Any]) -> list[str]:
    return [str(name) for name in names]


# The queue itself fills the disk


@pytest.mark.parametrize(
    ("mebibytes", "size", "batch"),
    [(4, 2_000, 20), (8, 700, 500), (16, 20_000, 30), (12, 2_100, 100)],
    ids=["4 MiB", "8 MiB", "16 MiB, large events", "12 MiB, pages half empty"],
)
def test_delivery_goes_on_when_the_queue_has_filled_the_disk(
    tmp_path: Path, open_queue: OpenQueue, mebibytes: int, size: int, batch: int
) -> None:
    with small_disk(tmp_path, mebibytes) as disk:
        path = disk.path / "queue"
        queue = open_queue(path)
        taken = fill_up(queue, size)
        assert len(taken) * size > mebibytes * MIB // 5, "it could have taken more"
        with pytest.raises(QueueFull, match=r"disk that holds .* is full; nothing was stored"):
            queue.append([record(size=size)])
        check_ledger(queue)
        assert queue.ledger().accepted == len(taken)
        seen = drain(queue, batch)
        assert seen == taken
        # What was acknowledged is so for others too, and room within the file is room.
        with QueueView(str(path)) as view:
            assert view.ledger().delivered == len(taken)
        queue.append([record("again", size=size)])
        assert drain(queue) == ["again"]
        check_ledger(queue)
        queue.close()
        check_file(path)


def test_a_batch_that_is_larger_than_the_disk_is_refused_whole(disk: Disk, open_queue: OpenQueue) -> None:
    queue = open_queue(disk.path / "queue")
    queue.append(records(["first"]))
    with pytest.raises(QueueFull):
        queue.append(records(range(8), size=MIB))
    check_ledger(queue)
    queue.append(records(["second"]))
    assert drain(queue) == ["first", "second"]


# Another program fills it


def test_room_given_back_is_used_without_a_restart(disk: Disk, open_queue: OpenQueue) -> None:
    queue = open_queue(disk.path / "queue")
    queue.append(records(range(300), size=1000))
    disk.fill()
    assert (disk.path / "queue" / "ballast").exists()
    taken = fill_up(queue, 1000)
    queue.maintain(False)
    for _ in range(3):
        with pytest.raises(QueueFull):
            queue.append([record(size=1000)])
    batch = queue.lease(100, EVERYTHING)
    assert batch is not None
    assert queue.ack(batch) == 100
    with QueueView(queue.directory) as view:
        assert view.ledger().delivered == 100
    disk.empty()
    queue.append(records(["after"], size=1000))
    queue.maintain(False)
    assert (disk.path / "queue" / "ballast").stat().st_size >= 64 * 1024
    seen = batch.ids + drain(queue)
    assert seen == [*ids(list(range(300))), *taken, "after"]
    check_ledger(queue)


def test_a_wal_full_of_new_pages_can_be_folded_on_a_disk_that_others_have_filled(
    tmp_path: Path, open_queue: OpenQueue
) -> None:
    """The ballast has to be as large as what the WAL makes the file grow by; else acknowledgements end with it."""
    with small_disk(tmp_path, 24) as disk:
        queue = open_queue(disk.path / "queue")
        names = [f"n{n}" for n in range(600)]
        for start in range(0, 600, 20):
            queue.append(records(names[start : start + 20], size=9_000))
        disk.fill()
        assert drain(queue, 3) == names
        check_ledger(queue)


def test_an_event_said_not_to_be_stored_is_not_there_though_the_process_dies(
    tmp_path: Path, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite may have written the commit and failed after it: what the WAL then holds must not come back."""
    torn = 0
    with small_disk(tmp_path, 4) as disk:
        for rest in range(14):
            path = disk.path / f"queue{rest}"
            queue = open_queue(path)
            queue.append([record("stored", size=300)])
            size = (path / "queue.db-wal").stat().st_size

            def taken_by_others(queue: DiskQueue = queue) -> bool:
                (Path(queue.directory) / "ballast").unlink(missing_ok=True)
                queue._ballast.size = 0
                disk.fill()
                return False

            monkeypatch.setattr(queue._ballast, "give_up", taken_by_others)
            disk.fill(leave=rest * 1024)
            with pytest.raises(QueueFull):  # noqa: PT012 - the last size before it is wanted
                for _ in range(10):
                    size = (path / "queue.db-wal").stat().st_size
                    queue.append([record("stored", size=300)])
            torn += (path / "queue.db-wal").stat().st_size > size + 4096
            left = tree(path, ("queue.db", "queue.db-wal"))  # as a SIGKILL now would leave them
            accepted = queue.ledger().accepted
            disk.empty()
            copy = tmp_path / f"copy{rest}"
            copy.mkdir()
            for name, content in left.items():
                (copy / name).write_bytes(content)
            again = open_queue(copy)
            assert again.ledger().accepted == accepted, f"{rest} KiB were free"
            again.close()
            queue.close()
    assert torn, "the commit never failed half-way: the test proves nothing"


# Overflow policies


def test_overflow_drop_newest_counts_what_the_disk_does_not_take(disk: Disk, open_queue: OpenQueue) -> None:
    queue = open_queue(disk.path / "queue", overflow="drop_newest")
    queue.append(records(range(100), size=1000))
    disk.fill()
    for number in range(100, 2500):
        queue.append([record(number, size=1000)])
    ledger = queue.ledger()
    assert ledger.accepted == 2500
    assert ledger.dropped["overflow"] > 1000
    check_ledger(queue)
    assert drain(queue) == ids(list(range(2500 - ledger.dropped["overflow"])))
    disk.empty()
    queue.append(records(["after"]))
    assert drain(queue) == ["after"]
    assert queue.ledger().accepted == 2501


def test_overflow_drop_oldest_makes_room_within_the_file(disk: Disk, open_queue: OpenQueue) -> None:
    queue = open_queue(disk.path / "queue", overflow="drop_oldest")
    for start in range(0, 1500, 100):
        queue.append(records(range(start, start + 100), size=1000))
    disk.fill()
    # Far more than the WAL, once folded into the file and cut, can give back.
    for number in range(1500, 6000):
        queue.append([record(number, size=1000)])
    ledger = queue.ledger()
    assert ledger.accepted == 6000
    check_ledger(queue)
    dropped = ledger.dropped["overflow"]
    assert 300 < dropped < 5500
    assert drain(queue) == ids(list(range(dropped, 6000)))


def test_overflow_block_waits_for_room_and_takes_no_time_over_it(disk: Disk, open_queue: OpenQueue) -> None:
    queue = open_queue(disk.path / "queue", overflow="block")
    queue.append(records(range(50), size=1000))
    disk.fill()
    spent: list[float] = []
    began = threading.Event()

    def go_on() -> None:
        for number in range(50, 2500):
            if number == 1000:
                began.set()
            queue.append([record(number, size=1000)])
        began.set()

    def wait() -> None:
        before = time.thread_time()
        queue.append([record("last", size=200_000)])
        spent.append(time.thread_time() - before)

    fill = [record(f"f{n}", size=20_000) for n in range(200)]
    filler = threading.Thread(target=lambda: [queue.append([one]) for one in fill])
    waiter = threading.Thread(target=wait)
    filler.start()
    filler.join(0.5)
    waiter.start()
    waiter.join(1.5)
    assert filler.is_alive() or waiter.is_alive()
    disk.empty()
    filler.join(30)
    waiter.join(30)
    assert not filler.is_alive()
    assert not waiter.is_alive()
    assert spent[0] < 0.3
    assert len(drain(queue)) == 251
    check_ledger(queue)


@pytest.mark.parametrize("overflow", ["reject", "block", "drop_oldest", "drop_newest"])
def test_the_budget_is_kept_whatever_the_policy(disk: Disk, open_queue: OpenQueue, overflow: str) -> None:
    queue = open_queue(disk.path / "queue", overflow=overflow, max_bytes=MIB)
    names = ids(list(range(3000)))
    taken: list[str] = []
    if overflow == "block":
        blocked = threading.Thread(target=lambda: [queue.append([record(name, size=500)]) for name in names])
        blocked.start()
        while blocked.is_alive():
            assert queue.disk_bytes() < 2 * MIB
            taken += drain(queue, 50)
            blocked.join(0.001)
        taken += drain(queue)
        assert taken == names
    else:
        for name in names:
            try:
                queue.append([record(name, size=500)])
            except QueueFull as error:
                assert overflow == "reject"
                assert "budget of 1048576 bytes" in str(error)
                break
            taken.append(name)
        assert queue.disk_bytes() < 1.5 * MIB
        dropped = queue.ledger().dropped.get("overflow", 0)
        check_ledger(queue)
        seen = drain(queue)
        if overflow == "drop_oldest":
            assert seen == names[dropped:]
        elif overflow == "drop_newest":
            assert seen == names[: 3000 - dropped]
        else:
            assert seen == taken
            assert len(taken) > 500
    check_ledger(queue)
    queue.append([record("after")])


# Full at the start


@pytest.mark.parametrize("ballast", [True, False], ids=["with ballast", "without"])
@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("leave", [0, 20_000, 70_000])
def test_a_queue_on_a_full_disk_opens_and_delivers_or_says_why_not(
    disk: Disk, open_queue: OpenQueue, ballast: bool, clean: bool, leave: int
) -> None:
    made = open_queue(disk.path / "made")
    made.append(records(range(200), size=1000))
    if clean:
        made.close()
    path = disk.path / "queue"
    path.mkdir()
    for name, content in tree(disk.path / "made", ("queue.db", "queue.db-wal", "ballast", "write.lock")).items():
        if ballast or name != "ballast":
            (path / name).write_bytes(content)
    made.close()
    disk.fill(leave)
    try:
        queue = open_queue(path)
    except QueueError as error:
        assert isinstance(error, QueueFull), error
        assert "is full" in str(error)
        assert not ballast
        disk.empty()
        queue = open_queue(path)
    seen: list[str] = []
    owed = False
    with contextlib.suppress(QueueFull):
        seen += fill_up(queue, 1000)[:0]
    while (batch := queue.lease(50, EVERYTHING)) is not None:
        seen += batch.ids
        try:
            queue.ack(batch)
        except QueueFull:
            owed = True  # the queue remembers, and does not hand it out again
    assert seen[:200] == ids(list(range(200)))
    assert not (owed and ballast), "the ballast is there for the acknowledgements"
    disk.empty()
    queue.maintain(False)
    assert queue.ledger().pending == 0
    queue.append(records(["after"]))
    assert drain(queue) == ["after"]
    check_ledger(queue)
    queue.close()
    check_file(path)


def test_a_queue_whose_room_a_wal_has_taken_opens_on_the_full_disk(disk: Disk, open_queue: OpenQueue) -> None:
    """Folding it needs no room, and makes some; no ballast is left."""
    made = open_queue(disk.path / "made")
    for start in range(0, 1000, 100):
        made.append(records(range(start, start + 100), size=1000))
    made._store.checkpoint(cut=True)
    for _ in range(4):
        batch = made.lease(50, EVERYTHING)
        assert batch is not None
        made.ack(batch)
    path = disk.path / "queue"
    path.mkdir()
    for name, content in tree(disk.path / "made", ("queue.db", "queue.db-wal")).items():  # as a SIGKILL leaves them
        (path / name).write_bytes(content)
    made.close()
    assert (path / "queue.db-wal").stat().st_size > 64 * 1024
    disk.fill()
    queue = open_queue(path)
    assert queue.ledger().delivered == 200
    assert drain(queue) == ids(list(range(200, 1000)))
    check_ledger(queue)
    queue.close()
    check_file(path)


def test_a_queue_that_is_open_can_be_opened_again_on_the_full_disk(disk: Disk, open_queue: OpenQueue) -> None:
    """What SQLite shares between the two is there already."""
    first = open_queue(disk.path / "queue")
    first.append(records(range(300), size=1000))
    first._find_room()
    disk.fill()
    second = open_queue(disk.path / "queue")
    assert drain(second) == ids(list(range(300)))
    check_ledger(first)


def test_many_acknowledgements_that_are_owed_are_written_though_the_room_is_small(
    tmp_path: Path, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they need a larger WAL than the queue, which has filled the disk itself, has room for."""
    with small_disk(tmp_path, 12) as disk:
        queue = open_queue(disk.path / "queue")
        taken = fill_up(queue, 500)
        with monkeypatch.context() as patch:
            patch.setattr(queue._store, "write", lambda which, work: (_ for _ in ()).throw(QueueFull("for now")))
            seen: list[str] = []
            while (batch := queue.lease(500, EVERYTHING)) is not None:
                seen += batch.ids
                with pytest.raises(QueueFull):
                    queue.ack(batch)
        assert seen == taken
        disk.fill()
        queue.maintain(False)
        assert queue.ledger().delivered == len(taken)
        check_ledger(queue)
        queue.append([record("again", size=500)])
        assert drain(queue) == ["again"]


@pytest.mark.parametrize("leave", [0, 2_000, 9_000, 30_000, 50_000])
def test_a_fresh_queue_on_a_full_disk_leaves_nothing_that_hinders_a_later_start(
    disk: Disk, open_queue: OpenQueue, leave: int
) -> None:
    disk.fill(leave)
    path = disk.path / "queue"
    for _ in range(2):
        try:
            queue = open_queue(path)
        except QueueFull as error:
            assert "is full" in str(error)
        else:
            with pytest.raises(QueueFull):
                queue.append([record()])
            queue.close()
    disk.empty()
    queue = open_queue(path)
    assert queue.salvaged is None
    queue.append(records(["first"]))
    assert drain(queue) == ["first"]
    check_ledger(queue)


# A failed payload file that cannot be written


def test_a_batch_stays_queued_while_its_failed_payload_file_cannot_be_written(disk: Disk, tmp_path: Path) -> None:
    class Picky(FakeDestination):
        """Takes nothing with poison in it, but without a limit."""

        def send(self, batch: Batch) -> Outcome:
            if any(b"poison" in event.payload for event in batch.events):
                return Reject("no", 400)
            super().send(batch)
            return Delivered()

    destination = Picky()
    errors: list[str] = []
    with Client(
        path=disk.path / "queue", destination=destination, flush_interval=0.05, start=False,
        on_error=lambda error, batch: errors.append(str(error)),
    ) as client:  # fmt: skip
        client.record("poison", text="x" * 5000)
        os.mkdir(disk.path / "queue" / "failed", 0o700)
        disk.fill()
        client.start()
        assert not client.flush(1.0)
        stats = client.stats()
        assert (stats.pending, stats.failed) == (1, 0)
        assert os.listdir(disk.path / "queue" / "failed") == []
        disk.empty()
        assert client.flush(20.0)
        stats = client.stats()
        assert (stats.pending, stats.failed) == (0, 1)
        (file,) = (disk.path / "queue" / "failed").iterdir()
        assert b"poison" in file.read_bytes()
        assert len(errors) == 1
