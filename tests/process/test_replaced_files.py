"""The queue's files are deleted, replaced or damaged under programs at work: what comes later is safe."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from process_kit import Program, check_nothing_lost, deliver_all, recorded, sender_is_taken, wait_until

from edgespool import Client
from edgespool.errors import QueueDamaged
from edgespool.queue import DiskQueue
from edgespool.testing import Collector

Run = Callable[..., Program]


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("durability", ["power", "process"])
def test_after_the_directory_was_deleted_what_is_recorded_is_stored_anew(
    queue_path: Path, collector: Collector, start: bool, durability: str
) -> None:
    collector.close_port()
    with Client(collector.url, path=queue_path, source="pi", start=start, durability=durability) as client:
        for n in range(20):
            client.record("lost", n=n)
        shutil.rmtree(queue_path, ignore_errors=True)
        shutil.rmtree(queue_path, ignore_errors=True)  # should the sender have written there meanwhile

        def noticed() -> bool:
            client.record("perhaps")
            time.sleep(0.05)
            return (queue_path / "queue.db").exists()

        wait_until(noticed, "noticing", 10)
        client.record("perhaps")
        later = [client.record("kept", n=n) for n in range(20)]
        # Read by another opener while the client lives: these events are in the file that stands there now.
        queue = DiskQueue(queue_path)
        batch = queue.lease(1000, 1 << 20)
        assert batch is not None
        assert batch.ids[-20:] == later
        queue.close()
        client._worker.stop(5)
    collector.open_port()
    deliver_all(queue_path, collector)
    assert collector.ids()[-20:] == later


def test_a_sender_goes_on_after_its_directory_was_deleted(queue_path: Path, collector: Collector) -> None:
    with Client(collector.url, path=queue_path, source="pi", flush_interval=0.02) as client:
        client.record("before")
        assert client.flush(20)
        shutil.rmtree(queue_path)
        wait_until(lambda: client.record("after") and (queue_path / "queue.db").exists(), "noticing", 10)
        later = [client.record("kept", n=n) for n in range(20)]
        assert client.flush(20)
        assert set(later) <= set(collector.ids())
        assert client.stats().ledger.balanced


def test_there_is_one_sender_also_after_the_directory_was_deleted(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    first = run("writer.py", who="a", pause=0.05)
    first.wait_for("recorded")
    assert collector.wait_for(1, 20)
    shutil.rmtree(queue_path, ignore_errors=True)
    shutil.rmtree(queue_path, ignore_errors=True)
    second = run("writer.py", who="b", pause=0.05)
    second.wait_for("recorded")
    wait_until(lambda: sender_is_taken(queue_path), "a sender")
    time.sleep(1.2)  # the first notices at its next look
    known = len(collector.requests())
    wait_until(lambda: len(collector.requests()) > known + 20, "deliveries")
    assert len({request.headers["X-Pid"] for request in collector.requests()[known:]}) == 1


def salvage(path: Path) -> None:
    """Do what a process does that finds the file damaged: put another in its place."""
    queue = DiskQueue(path)
    try:
        queue._store.recover(QueueDamaged("for the sake of the test"), queue._store.generation)
        assert queue.salvaged is not None
    finally:
        queue.close()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_writer_follows_when_another_process_replaces_the_file(
    run: Run, queue_path: Path, collector: Collector, durability: str
) -> None:
    given = {"start": False, "durability": durability, "pause": 0.001}
    programs = [run("writer.py", who=mode, mode=mode, **given) for mode in ("single", "threads")]
    for program in programs:
        program.wait_for("recorded", 20)
    for _ in range(5):
        known = [len(program.lines) for program in programs]
        salvage(queue_path)
        for program, count in zip(programs, known, strict=True):
            wait_until(lambda p=program, c=count: len(p.lines) > c + 5, "records after the salvage")
    for program in programs:
        program.kill()
        assert program.errors == "" or "opening it anew" in program.errors
    assert len(list((queue_path / "damaged").iterdir())) == 5
    deliver_all(queue_path, collector)
    check_nothing_lost(programs, collector)
    assert collector.repeats() == 0


def test_an_idle_process_follows_with_its_very_next_event(run: Run, queue_path: Path, collector: Collector) -> None:
    program = run("writer.py", start=False, who="a", count=10)
    program.wait_for("wrote")
    salvage(queue_path)
    program.tell("record")
    ((event,),) = program.wait_for("extra")
    program.kill()
    deliver_all(queue_path, collector)
    assert collector.ids() == [*recorded([program])["a/0"], event]


def test_a_sender_follows_when_another_process_replaces_the_file(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("writer.py", who="a", pause=0.002, batch_size=20)
    program.wait_for("recorded", 20)
    for _ in range(4):
        salvage(queue_path)
        known = collector.count()
        wait_until(lambda n=known: collector.count() > n + 20, "deliveries after the salvage")
    assert program.end() == 0
    deliver_all(queue_path, collector)
    check_nothing_lost([program], collector)
    # What was in flight at a salvage may come again, and what it cannot know to have been acknowledged.
    assert collector.repeats() <= 4 * 2 * 20


@pytest.mark.parametrize("seed", range(4))
def test_a_program_starts_on_damaged_files_and_delivers_what_can_be_read(
    run: Run, queue_path: Path, collector: Collector, seed: int
) -> None:
    first = run("writer.py", start=False, who="first", count=400)
    first.wait_for("wrote")
    assert first.end() == 0
    told = recorded([first])["first/0"]
    dice = random.Random(seed)
    file = queue_path / "queue.db"
    content = bytearray(file.read_bytes())
    page = 4096 * (0 if seed == 0 else dice.randrange(1, len(content) // 4096))
    content[page : page + 4096] = dice.randbytes(4096)
    file.write_bytes(content)
    # A process that died would have left its files; this one was only slow to come back.
    second = run("writer.py", who="second", count=5, flush_interval=0.02)
    second.wait_for("wrote")
    assert second.end() == 0
    deliver_all(queue_path, collector)
    came = [event.id for event in collector.arrived() if event.data["who"] == "first/0"]
    assert came == [id for id in told if id in set(came)], "the order was not kept"
    assert len(came) >= 400 - 50, "one page holds no more"
    new = [event.id for event in collector.arrived() if event.data["who"] == "second/0"]
    assert new == recorded([second])["second/0"]
    queue = DiskQueue(queue_path)
    ledger = queue.ledger()
    queue.close()
    assert ledger.balanced
    assert (ledger.delivered, ledger.pending) == (len(came) + 5, 0)
    # The newest events of all may be gone without a trace: nothing else in the file tells that there were any.
    assert sum(ledger.dropped.values()) == 400 - len(came) or ledger.accepted < 405
    if len(came) < 400 or seed == 0:
        assert (queue_path / "damaged").is_dir() or (queue_path / "quarantine").is_dir()
