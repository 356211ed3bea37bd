"""The steps of the scenarios: each is what one process does. See `scenarios` for how they follow each other."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any

from crash.check import SOURCE
from crash.programs import PATIENCE, Program, until
from edgespool import config, destinations
from edgespool.replay import Replay

RELAXED_INTERVAL = 0.3  # seconds between flushes, in the program with durability "process"


def fresh(p: Program) -> None:
    """From the first system call on: directories, file, tables, first events."""
    with p.client() as client:
        for size in (10, 300, 5000):
            p.record(client, size)


def append(p: Program) -> None:
    """One event at a time, small and large."""
    with p.client() as client:
        for number in range(24):
            p.record(client, (40, 200, 0, 900, 3000, 9000)[number % 6])


def many(p: Program) -> None:
    """Batches, each whole or absent."""
    with p.client() as client:
        for sizes in ([50] * 3, [100] * 60, [20] * 120, [2500] * 7, [10] * 2):
            p.record_many(client, sizes)
            p.record(client)


def threads(p: Program) -> None:
    """Several threads share flushes."""
    with p.client() as client:

        def work() -> None:
            for number in range(5):
                if number == 2:
                    p.record_many(client, [60] * 4)
                p.record(client, 30 * number)

        crowd = [threading.Thread(target=work, name=f"w{each}") for each in range(5)]
        for each in crowd:
            each.start()
        for each in crowd:
            each.join()


def deliver(p: Program) -> None:
    """Record and send at once."""
    with p.collector(), p.client(start=True, batch_size=4) as client:
        for number in range(30):
            p.record(client, 100 + number)
            if number % 9 == 8:
                assert client.flush(PATIENCE)
        assert client.flush(PATIENCE)


def refused(p: Program) -> None:
    """The server refuses some events for good: they go to failed payload files."""
    with p.collector() as collector, p.client(start=True, batch_size=8) as client:
        for culprit in (0, 3, 6):
            first = p._next
            collector.set_fault(poison={"field": "data.n", "value": first + culprit})
            for _ in range(7):
                p.record(client, 120)
            assert client.flush(PATIENCE)
        client.record_many([])


def refused_all(p: Program) -> None:
    """The server refuses whatever comes: files for the replay."""
    with p.collector() as collector, p.client(start=True, max_attempts=1, batch_size=5) as client:
        collector.set_fault(status=503)
        for _ in range(3):
            p.record_many(client, [90] * 5)
            assert client.flush(PATIENCE)


def replay(p: Program) -> None:
    """Failed payload files are sent again: one is refused in part and rewritten, then all goes."""
    with p.collector() as collector:
        collector.set_fault(poison={"field": "data.n", "value": 2})
        replay_once(p)
        collector.heal()
        replay_once(p)


def checkpoint(p: Program) -> None:
    """A small budget makes the WAL go round several times."""
    with p.collector(), p.client(max_bytes=1 << 20) as client:
        for round in range(3):
            for number in range(22):
                p.record(client, 700 + 11 * number)
            p.record_many(client, [400] * 30)
            if round == 1:
                client.start()
                assert client.flush(PATIENCE)


def drain(p: Program) -> None:
    """A backlog is delivered, and the pages it took are given back to the file system."""
    with p.collector():
        with p.client(max_bytes=16 << 20) as client:
            for _ in range(12):
                p.record_many(client, [3600] * 30)
        with p.client(max_bytes=16 << 20, start=True, batch_size=120, flush_interval=60.0) as client:
            full = os.stat(os.path.join(p.queue, "queue.db")).st_size
            assert client.flush(PATIENCE)
            for number in range(6):
                p.record(client, 3600 + number)
            until(lambda: os.stat(os.path.join(p.queue, "queue.db")).st_size < full)
            p.record(client)


def reopen(p: Program) -> None:
    """Opened and closed again and again."""
    for number in range(4):
        with p.client() as client:
            p.record(client, 100 * number)
            p.record_many(client, [30] * 3)


def processes(p: Program) -> None:
    """Two processes record, a third records and sends."""
    with p.collector():
        tool = os.path.dirname(os.path.abspath(__file__))
        command = [sys.executable, tool, "program", append_few.__name__]
        crowd = [subprocess.Popen([*command, str(number), p.root]) for number in (11, 12)]
        with p.client(start=True, batch_size=4) as client:
            for number in range(6):
                p.record(client, 60 + number)
            for each in crowd:
                assert each.wait(PATIENCE) == 0
            assert client.flush(PATIENCE)


def spoil(p: Program) -> None:
    """The first bytes of the file are damaged: no event is, but SQLite will not read it any more."""
    fd = os.open(os.path.join(p.queue, "queue.db"), os.O_WRONLY)
    os.pwrite(fd, b"spoilt", 0)
    os.fsync(fd)
    os.close(fd)


def abandoned(p: Program) -> None:
    """The process ends without closing anything."""
    client = p.client()
    for number in range(5):
        p.record(client, 50 + number)
    os._exit(0)


def routes(p: Program) -> None:
    """Several routes, one of which the server does not take."""
    with p.collector() as collector, p.client(start=True, batch_size=6) as client:
        for number in range(24):
            p.record(client, 60, ("", "north", "south", "west")[number % 4])
            if number == 11:
                p.record_many(client, [40] * 5, "north")
        assert client.flush(PATIENCE)
        collector.set_fault(status=401)
        for number in range(8):
            p.record(client, 60, ("north", "held")[number % 2])
        client.flush(0.5)


def lost_reply(p: Program) -> None:
    """The server stores a batch and its answer is lost."""
    with p.collector() as collector, p.client(start=True, batch_size=5) as client:
        p.record_many(client, [80] * 5)
        assert client.flush(PATIENCE)
        collector.set_fault(lost_reply=True, times=1)
        for _ in range(6):
            p.record(client, 80)
        assert client.flush(PATIENCE)


def write_two(p: Program) -> None:
    """Two events: what a program does that finds what a killed one left."""
    with p.client() as client:
        p.record(client, 150)
        p.record(client, 150)


def send_refused(p: Program) -> None:
    """One event that the server refuses: what the next start does after a kill."""
    with p.collector() as collector, p.client(start=True, batch_size=1) as client:
        collector.set_fault(status=400)
        p.record(client, 150)
        assert client.flush(PATIENCE)
        until(lambda: client.stats().pending == 0)
        p.record(client, 150)


def append_few(p: Program) -> None:
    """A handful of events and a batch, and closed."""
    with p.client() as client:
        for size in (40, 3000, 200):
            p.record(client, size)
        p.record_many(client, [70] * 4)
        p.record(client, 100)


def send(p: Program) -> None:
    """What is there is sent to a collector that somebody else runs."""
    with p.client(start=True, batch_size=3, max_attempts=2) as client:
        client.flush(PATIENCE)


def record_and_send(p: Program) -> None:
    """Both at once."""
    with p.client(start=True, batch_size=3) as client:
        for number in range(6):
            p.record(client, 50 * number)
        client.flush(PATIENCE)


def replay_once(p: Program) -> None:
    """All failed payload files are sent again."""
    settings = config.load({"url": p.url, "path": p.queue, "source": SOURCE, "compression": "none"}, os.devnull)
    Replay(settings, destination=lambda format: destinations.create(settings, format, p.session())).run()


def relaxed(p: Program) -> None:
    """Durability "process": flushed twice a second at most."""
    with p.client(durability="process", sync_interval=RELAXED_INTERVAL) as client:
        for number in range(40):
            p.record(client, 100 + number)
            time.sleep(0.02)


def without_psow(p: Program) -> None:
    """The control of the damage profile: the queue opened as if a torn write could not hurt its neighbours."""
    connect = sqlite3.connect

    def careless(database: str, *args: Any, **kwargs: Any) -> Any:
        return connect(database.replace("?psow=0", "?psow=1"), *args, **kwargs)

    sqlite3.connect = careless  # type: ignore[assignment]
    append(p)
