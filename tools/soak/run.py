"""The run: a collector, a network that flaps, processes that record; and the books at the end."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import edgespool
from edgespool import Client
from edgespool.interfaces import Ledger
from edgespool.queue import schema
from edgespool.testing import Collector, FaultProxy
from edgespool.testing.weather import weather
from soak.writer import Orders

__all__ = ["Report", "run"]

_TOOL = os.path.dirname(os.path.abspath(__file__))
_DRAIN = 60.0  # seconds without progress after which a healthy network is taken for no help
_GRACE = 60.0  # seconds that a writer may need beyond its time


@dataclass
class Report:
    """What came of a run."""

    recorded: int = 0  # ids whose call returned
    unique: int = 0  # events at the collector
    repeats: int = 0
    lost: int = 0  # recorded, and neither at the collector nor waiting
    unknown: int = 0  # at the collector, and never recorded
    ledger: Ledger = field(default_factory=Ledger)
    connections: int = 0
    exchanges: int = 0
    faulted: int = 0
    unanswered: int = 0
    wal_peak: int = 0  # bytes
    seconds: float = 0.0
    drain: float = 0.0  # seconds
    trouble: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, nothing came from nowhere, and the ledger says the same."""
        books = (self.ledger.accepted, self.ledger.delivered, self.ledger.failed, self.ledger.pending)
        return (
            not self.lost
            and not self.unknown
            and not self.trouble
            and self.ledger.balanced
            and not self.ledger.dropped
            and books == (self.recorded, self.recorded, 0, 0)
        )


def run(
    seconds: float, *, processes: int = 8, threads: int = 8, seed: int = 1, durability: str = "power",
    directory: str | None = None, reader: bool = False,
) -> Report:  # fmt: skip
    """Let processes record for so many seconds while the network flaps, then let all be delivered, and count.

    Args:
        seconds: how long is recorded.
        processes, threads: how many processes record, and how many threads in each.
        seed: what the dice of the network and of the writers start from.
        durability: as `edgespool.Client` has it.
        directory: where the queue and all else is put, and removed again; None: the temporary directory.
        reader: whether somebody looks at the queue file all the while, in one transaction that is never ended.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgespool-soak-", dir=directory) as work,
        Collector() as collector,
        FaultProxy(collector.url) as proxy,
    ):
        report = Report()
        queue = os.path.join(work, "queue")
        began = time.monotonic()
        proxy.flap(weather(seed))
        lists = [os.path.join(work, f"accepted-{number}") for number in range(processes)]
        writers = [
            _start(Orders(proxy.url, queue, path, seconds, threads, seed * 100 + number, durability))
            for number, path in enumerate(lists)
        ]
        try:
            with _Reader(queue) if reader else contextlib.nullcontext() as looking:
                _watch(writers, queue, report, began + seconds + _GRACE)
                if looking is not None and not looking.reads():
                    report.trouble.append("the reader did not get to read")
        finally:
            _end(writers)
        proxy.heal()
        recorded = [line for path in lists if os.path.exists(path) for line in Path(path).read_text().splitlines()]
        _drain(proxy.url, queue, report)
        report.seconds = time.monotonic() - began
        arrived = set(collector.ids())
        report.recorded, report.unique, report.repeats = len(recorded), collector.count(), collector.repeats()
        report.lost = max(0, len(set(recorded) - arrived) - report.ledger.pending)
        report.unknown = len(arrived - set(recorded))
        report.connections, report.exchanges = proxy.connections, proxy.exchanges
        report.faulted, report.unanswered = proxy.faulted, proxy.unanswered
        return report


class _Reader:
    """Another program's connection, in the midst of a SELECT from the moment there is something to read."""

    def __init__(self, queue: str) -> None:
        self._path = os.path.join(queue, schema.FILE_NAME)
        self._connection: sqlite3.Connection | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._begin, name="reader")

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def reads(self) -> bool:
        """Return whether its transaction has been open for a while, and still is."""
        return self._connection is not None and self._connection.in_transaction

    def _begin(self) -> None:
        while not self._closing.wait(0.05):
            if os.path.exists(self._path):
                connection = sqlite3.connect(self._path, isolation_level=None, timeout=5, check_same_thread=False)
                connection.execute("BEGIN")
                with contextlib.suppress(sqlite3.OperationalError):  # no table yet
                    if connection.execute(f"SELECT _id FROM {schema.TABLE}").fetchone() is not None:
                        self._connection = connection
                        return
                connection.close()


def _start(orders: Orders) -> subprocess.Popen[bytes]:
    # The package that runs here, wherever it was found.
    path = os.pathsep.join([os.path.dirname(os.path.dirname(edgespool.__file__)), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, _TOOL, "writer", orders.text()]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)})


def _watch(writers: list[subprocess.Popen[bytes]], queue: str, report: Report, deadline: float) -> None:
    """Wait for the writers, and look at the WAL meanwhile."""
    wal = os.path.join(queue, "queue.db-wal")
    tick = threading.Event()
    while any(writer.poll() is None for writer in writers):
        if time.monotonic() > deadline:
            report.trouble.append("a writer did not come to its end")
            return
        if os.path.exists(wal):
            report.wal_peak = max(report.wal_peak, os.path.getsize(wal))
        tick.wait(0.1)
    report.trouble += [f"a writer ended with {writer.returncode}" for writer in writers if writer.returncode]


def _end(writers: list[subprocess.Popen[bytes]]) -> None:
    for writer in writers:
        if writer.poll() is None:
            writer.kill()
        writer.wait()


def _drain(url: str, queue: str, report: Report) -> None:
    """Let all that is left be delivered, for as long as there is progress, and read the ledger."""
    began = time.monotonic()
    with Client(url, path=queue, source="soak", config_file=os.devnull, flush_interval=0.05) as client:
        left = client.stats().pending
        while not client.flush(_DRAIN):
            before, left = left, client.stats().pending
            if left >= before:
                report.trouble.append(f"{left} events were not delivered, and none of them within {_DRAIN:g} s")
                break
    with Client(url, path=queue, source="soak", config_file=os.devnull, start=False) as client:  # nothing moves now
        stats = client.stats()
        report.ledger = Ledger(stats.accepted, stats.delivered, stats.failed, stats.dropped, stats.pending)
    report.drain = time.monotonic() - began
