"""What the load tests share: patience, culprits, and what a client leaves in its failed payload files."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from edgespool import Client
from edgespool.outcome import Backoff
from edgespool.testing import Collector

DEADLINE = 60.0  # seconds after which a test gives up waiting
QUICK = Backoff(base=0.01, cap=0.03)
BATCH = 500
MakeClient = Callable[..., Client]


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.01)


def record_readings(client: Client, count: int, culprits: Set[int] = frozenset(), **more: Any) -> list[str]:
    """Record numbered readings, the culprits marked; return the ids in order."""
    ids = []
    for start in range(0, count, 1000):
        ids += client.record_many(
            [("reading", {"n": n, "bad": n in culprits, **more}) for n in range(start, min(start + 1000, count))]
        )
    return ids


def draw(count: int, of: int, seed: int) -> set[int]:
    """Return so many different numbers below `of`, the same ones for the same seed."""
    return set(random.Random(seed).sample(range(of), count))


def failed_ids(client: Client) -> list[str]:
    """Return the ids in the client's failed payload files, one file after another."""
    return [id for events in failed_events(client) for id in events]


def failed_events(client: Client) -> list[list[str]]:
    """Return the ids in each of the client's failed payload files."""
    folder = Path(client.directory, "failed")
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    return [[event["id"] for event in each["events"]] for each in found]


def check_books(client: Client, collector: Collector, ids: list[str], failed: set[str]) -> None:
    """The failed ones are in the failed files, each once; the others at the collector, each once and in order."""
    stats = client.stats()
    assert (stats.accepted, stats.delivered, stats.failed) == (len(ids), len(ids) - len(failed), len(failed))
    assert (stats.pending, dict(stats.dropped)) == (0, {})
    assert collector.ids() == [id for id in ids if id not in failed]
    assert sorted(failed_ids(client)) == sorted(failed)
