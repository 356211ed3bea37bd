"""What all the benchmarks share: the same events, the same disk, rounds that take turns, medians."""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from edgespool import Client
from edgespool.event import id_text, new_id
from edgespool.formats.cloudevents import CloudEvents
from edgespool.queue import schema

#: An event of about 200 bytes once encoded.
DATA: dict[str, Any] = {
    "value": 21.5, "unit": "celsius", "sensor": "kitchen-window-left", "sequence": 1234567, "battery": 3.71,
    "ok": True, "note": "steady",
}  # fmt: skip


@dataclass
class Figure:
    """One measured ratio: what it compares, what it must reach, and the absolute numbers behind it."""

    name: str
    ratio: float
    target: float | None
    at_least: bool = True
    detail: str = ""
    rounds: list[float] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        if self.target is None:
            return True
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def line(self) -> str:
        sign = "≥" if self.at_least else "≤"
        wanted = f"{sign} {self.target:g}" if self.target is not None else "reported"
        spread = f" [{min(self.rounds):.3g} … {max(self.rounds):.3g}]" if self.rounds else ""
        mark = "ok" if self.reached else "MISSED"
        return f"{mark:6}  {self.ratio:8.3g}  {wanted:>9}  {self.name}{spread}\n{'':27}{self.detail}"


@contextmanager
def workspace(parent: str | None) -> Iterator[str]:
    """A directory on the disk to be measured, removed afterwards."""
    directory = tempfile.mkdtemp(prefix="edgespool-bench-", dir=parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def client(directory: str, name: str, **settings: Any) -> Client:
    """A client that only records."""
    return Client(
        "http://127.0.0.1:9/", path=os.path.join(directory, name), start=False, source="bench", max_bytes=8 << 30,
        config_file=os.devnull, **settings,
    )  # fmt: skip


def raw_queue(directory: str, name: str) -> sqlite3.Connection:
    """Plain sqlite3 with the queue's own schema and pragmas (FULL), SQLite left to make its own checkpoints."""
    with client(directory, name):
        pass
    connection = schema.connect(os.path.join(directory, name), "FULL", wal_limit=1 << 23, timeout=30)
    connection.execute("PRAGMA wal_autocheckpoint = 1000")
    return connection


def row(number: int) -> tuple[Any, ...]:
    """A row as the queue would insert it, already encoded: the same bytes."""
    raw = new_id()
    payload = _FORMAT.encode("temperature", DATA, id_text(raw), 1_790_000_000.25)
    return number, payload, 1_790_000_000.25, raw, 1, 123_456_789_000, 3_123_456_789


_FORMAT = CloudEvents("bench")


def persist_queue(directory: str, name: str) -> Any:
    """persist-queue as its users make it, but with the JSON serializer."""
    import persistqueue
    import persistqueue.serializers.json as serializer

    return persistqueue.SQLiteAckQueue(os.path.join(directory, name), serializer=serializer, multithreading=True)


def rate(count: int, work: Callable[[], None]) -> float:
    """Run the work once; return how many a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def compare(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int, warmup: int = 2, slices: int = 1
) -> tuple[float, float, list[float]]:
    """Let both take turns, and return the median of each and the ratios of the rounds (ours / theirs).

    Each ratio is of two runs side by side, so that a machine whose speed drifts does not decide it.
    """
    a: list[float] = []
    b: list[float] = []
    for number in range(rounds + warmup):
        # Within a round they take turns several times: what slows the machine for a moment slows both.
        pairs = [(theirs(), ours()) for _ in range(slices)]
        if number >= warmup:
            b.append(statistics.harmonic_mean([pair[0] for pair in pairs]))
            a.append(statistics.harmonic_mean([pair[1] for pair in pairs]))
    return statistics.median(a), statistics.median(b), [x / y for x, y in zip(a, b, strict=True)]


def figure(
    name: str,
    target: float | None,
    measured: tuple[float, float, list[float]],
    unit: str = "/s",
    at_least: bool = True,
    peer: str = "peer",
) -> Figure:
    """Make a figure of what `compare` returned: the median of the ratios."""
    ours, theirs, ratios = measured
    detail = f"ours {ours:,.0f}{unit}, {peer} {theirs:,.0f}{unit}"
    return Figure(name, statistics.median(ratios), target, at_least, detail, ratios)
