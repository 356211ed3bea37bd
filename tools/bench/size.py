"""What opening and waiting cost with a million events, and what the import costs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from common import DATA, Figure, client

_WAITING = """
import json, sys
from edgespool import Client
client = Client("http://127.0.0.1:9/", path=sys.argv[1], start=False, source="bench", max_bytes=8 << 30)
for _ in range(200):
    client.record("temperature", value=1)
batch = client._queue.lease(500, 1 << 19)
client._queue.requeue(batch)
client.stats()
with open("/proc/self/status") as file:
    print(json.dumps({"rss": next(int(l.split()[1]) for l in file if l.startswith("VmRSS"))}))
"""
_IMPORT = """
import sys, time
began = time.perf_counter()
import {modules}
taken = time.perf_counter() - began
with open("/proc/self/status") as file:
    print(taken, next(int(line.split()[1]) for line in file if line.startswith("VmRSS")))
"""


def _fill(directory: str, name: str, count: int) -> str:
    with client(directory, name, durability="process") as full:
        for _ in range(count // 1000):
            full.record_many([("temperature", DATA)] * 1000)
    return os.path.join(directory, name)


def _open(path: str) -> float:
    """Seconds to open a queue, from the constructor to the first lease."""
    from edgespool.queue import DiskQueue

    began = time.perf_counter()
    queue = DiskQueue(path, max_bytes=8 << 30)
    taken = time.perf_counter() - began
    queue.close()
    return taken


def waiting(directory: str, rounds: int, count: int) -> list[Figure]:
    """Opening, and the memory of a process, with many events waiting and with few."""
    many = _fill(directory, "many-waiting", count)
    few = _fill(directory, "few-waiting", 1000)
    with client(directory, "none-waiting"):
        pass
    empty = os.path.join(directory, "none-waiting")
    pairs = [(_open(many), _open(empty)) for _ in range(rounds + 3)][3:]
    ratios = [a / b for a, b in pairs]
    opening = Figure(
        f"opening with {count:,} events waiting / an empty queue", statistics.median(ratios), 2, at_least=False,
        detail=f"{statistics.median(a for a, _ in pairs) * 1000:.2f} ms, empty "
        f"{statistics.median(b for _, b in pairs) * 1000:.2f} ms", rounds=ratios,
    )  # fmt: skip
    sizes = {path: _rss(path) for path in (many, few)}
    more = (sizes[many] - sizes[few]) / 1024
    memory = Figure(
        f"memory of a process with {count:,} waiting, against 1,000: MiB more", more, 10, at_least=False,
        detail=f"{sizes[many] / 1024:.1f} MiB, with 1,000 {sizes[few] / 1024:.1f} MiB",
    )  # fmt: skip
    return [opening, memory]


def _rss(path: str) -> int:
    done = subprocess.run([sys.executable, "-c", _WAITING, path], capture_output=True, text=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    return int(value["rss"])


def importing(rounds: int) -> list[Figure]:
    """Time and memory of the import, against what a queue of one's own would import."""
    figures = []
    peers = "sqlite3, json, threading"
    for modules in ("edgespool", "edgespool.client", "edgespool.client, edgespool.http"):
        ours = [_import(modules) for _ in range(rounds)]
        theirs = [_import(peers) for _ in range(rounds)]
        a, b = (statistics.median(t for t, _ in each) for each in (ours, theirs))
        m, n = (statistics.median(r for _, r in each) for each in (ours, theirs))
        figures.append(
            Figure(
                f"time of `import {modules}` / `import {peers}`", a / b, None, at_least=False,
                detail=f"{a * 1000:.1f} ms, {m / 1024:.1f} MiB; peer {b * 1000:.1f} ms, {n / 1024:.1f} MiB",
            )
        )
    return figures


def _import(modules: str) -> tuple[float, int]:
    code = _IMPORT.format(modules=modules)
    taken, rss = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(taken), int(rss)
