"""How fast each vendor's front end is, end to end: against its original, or where that cannot be had against Client.

A program of its own for each run tracks events and ends when all of them have arrived at a collector in another
process. The originals keep their events in memory, ours on the disk. Originals that are not installed are left out
(`pip install 'edgespool[originals]'`).

What one flush of the disk for each event costs by itself is measured in the same rounds: raw sqlite3 that commits as
many rows of the queue, flushed one by one, and sends nothing. What is durable before the call returns cannot be faster.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from common import Figure, raw_queue, row

from edgespool.queue import schema

_INITIALSTATE = """
streamer = Streamer(bucket_name="b", bucket_key="k", access_key="a", ini_file_location=INI)
began = time.perf_counter()
for n in range(COUNT):
    streamer.log("n", n)
streamer.close()
"""
_SAMSARA = """
client = SamsaraClient(url=URL, sourceId="s", publish_interval=1000)
began = time.perf_counter()
for n in range(COUNT):
    client.record_event(eventName="n", n=n)
(client.close if hasattr(client, "close") else client._flush_buffer)()
"""
# The original's publishing thread does not end; all has been sent by then.
_END = """
if "samsara_sdk" in sys.modules:
    sys.stdout.flush()
    os._exit(0)
"""
_DEVICE = """
device = Device(URL)
began = time.perf_counter()
for n in range(COUNT):
    device.track(n)
device.close()
"""
_CLIENT = """
client = Client(URL + "/v1/events", source="s")
began = time.perf_counter()
for n in range(COUNT):
    client.record("reading", number=n)
client.close()
"""

# vendor -> the original's package, how it and ours are imported, and the program
_ORIGINALS = {
    "initialstate": ("ISStreamer", "from ISStreamer.Streamer import Streamer",
                     "from edgespool.vendors.initialstate.api import Streamer", _INITIALSTATE),
    "samsara": ("samsara_sdk", "from samsara_sdk import SamsaraClient",
                "from edgespool.vendors.samsara.api import SamsaraClient", _SAMSARA),
}  # fmt: skip
_OTHERS = ("paltabrain", "atom", "panoply")  # whose originals cannot be had
_PATIENCE = 120.0


@contextmanager
def _collector() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgespool", "collector", "--port", "0", "--json", "--until-eof"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"].removesuffix("/v1/events")
    with open(os.devnull, "wb") as nowhere:
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=nowhere)
        try:
            yield url
        finally:
            process.kill()
            process.wait()
            drain.wait()


def _arrived(url: str) -> int:
    with urllib.request.urlopen(f"{url}/_collector/stats", timeout=10) as reply:
        return int(json.load(reply)["unique"])


def _run(directory: str, imports: str, program: str, count: int, durability: str = "power") -> tuple[float, int]:
    """Return events a second until all have arrived (or no more do), and how many of them there were."""
    with _collector() as url:
        ini = os.path.join(directory, "bench.ini")
        with open(ini, "w", encoding="utf-8") as file:
            file.write(
                f"[isstreamer.client_config]\naccess_key = a\n[isstreamer.api_config]\nstream_api_base = {url}\n"
            )
        queue = os.path.join(directory, f"queues-{time.monotonic_ns()}")
        environment: dict[str, Any] = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EDGESPOOL_")},
            "EDGESPOOL_DIR": queue, "EDGESPOOL_CONFIG": os.devnull, "EDGESPOOL_DURABILITY": durability,
        }  # fmt: skip
        code = f"import os, sys, time\nURL, INI, COUNT = {url!r}, {ini!r}, {count}\n{imports}\n{program}"
        code += "print(time.time() - (time.perf_counter() - began), flush=True)\n" + _END
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=directory, capture_output=True, text=True, check=True
        )
        began = float(done.stdout.strip().splitlines()[-1])
        last, seen, deadline = time.time(), 0, time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            found = _arrived(url)
            if found != seen:
                last, seen = time.time(), found
            if found >= count or time.time() - last > 5:
                break
            time.sleep(0.005)
        return seen / (last - began), seen


def _flushes(directory: str, count: int) -> float:
    """Return how many events a second raw sqlite3 commits one by one with FULL; it does nothing else."""
    rows = [row(number) for number in range(1, count + 1)]
    with closing(raw_queue(directory, f"raw-{time.monotonic_ns()}")) as connection:
        began = time.perf_counter()
        for each in rows:
            connection.execute(schema.INSERT, each)
        return count / (time.perf_counter() - began)


def _figure(name: str, target: float | None, ours: Sequence[float], theirs: Sequence[float], note: str = "") -> Figure:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    detail = f"{statistics.median(ours):,.0f}/s, against {statistics.median(theirs):,.0f}/s{note}"
    return Figure(name, statistics.median(ratios), target, detail=detail, rounds=ratios)


def throughput(directory: str, rounds: int, count: int = 3000) -> Iterator[Figure]:
    """Each front end against its original, and the others against Client; what is compared takes turns."""
    for vendor, (package, theirs, ours, program) in _ORIGINALS.items():
        if importlib.util.find_spec(package) is None:
            print(f"skipped: {package} is not installed", file=sys.stderr)
            continue
        power, original, flushes, process, lost = [], [], [], [], 0
        for _ in range(rounds):
            power.append(_run(directory, ours, program, count)[0])
            speed, arrived = _run(directory, theirs, program, count)
            original.append(speed)
            lost = max(lost, count - arrived)
            flushes.append(_flushes(directory, count))
            process.append(_run(directory, ours, program, count, "process")[0])
        note = f"; the original lost up to {lost} of {count}" if lost else ""
        yield _figure(f"{vendor}, default settings / the original in memory", 1.0, power, original, note)
        yield _figure("  raw sqlite3, a flush an event and nothing else / the original", None, flushes, original)
        yield _figure(f"  {vendor}, default settings / that raw sqlite3", None, power, flushes)
        yield _figure(f'  {vendor} at durability "process" / the original', 1.0, process, original)
    client = "from edgespool import Client"
    for vendor in _OTHERS:
        device = f"from edgespool.vendors.{vendor}.device import Device"
        for durability in ("power", "process"):
            a, b = [], []
            for _ in range(rounds):
                a.append(_run(directory, device, _DEVICE, count, durability)[0])
                b.append(_run(directory, client, _CLIENT, count, durability)[0])
            target = 0.7 if durability == "power" else None
            yield _figure(f'{vendor} at durability "{durability}" / Client with as many events', target, a, b)
