"""How fast each vendor's front end is, end to end, against its original: ours durable, theirs in memory.

A program of its own for each run tracks events and ends when all of them have arrived at a collector in another
process. Originals that are not installed are left out (`pip install 'edgespool[originals]'`).
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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common import Figure

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

# vendor -> the original's package, how it and ours are imported, and the program
_PROGRAMS = {
    "initialstate": ("ISStreamer", "from ISStreamer.Streamer import Streamer",
                     "from edgespool.vendors.initialstate.api import Streamer", _INITIALSTATE),
    "samsara": ("samsara_sdk", "from samsara_sdk import SamsaraClient",
                "from edgespool.vendors.samsara.api import SamsaraClient", _SAMSARA),
}  # fmt: skip
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


def _run(directory: str, imports: str, program: str, count: int) -> tuple[float, int]:
    """Return events a second until all have arrived (or no more do), and how many of them there were."""
    with _collector() as url:
        ini = os.path.join(directory, "bench.ini")
        with open(ini, "w", encoding="utf-8") as file:
            file.write(
                f"[isstreamer.client_config]\naccess_key = a\n[isstreamer.api_config]\nstream_api_base = {url}\n"
            )
        queue = os.path.join(directory, f"queues-{time.monotonic_ns()}")
        environment: dict[str, Any] = {**os.environ, "EDGESPOOL_DIR": queue, "EDGESPOOL_CONFIG": os.devnull}
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


def throughput(directory: str, rounds: int, count: int = 3000) -> list[Figure]:
    """Each front end against its original, in turns."""
    figures = []
    for vendor, (package, theirs, ours, program) in _PROGRAMS.items():
        if importlib.util.find_spec(package) is None:
            print(f"skipped: {package} is not installed", file=sys.stderr)
            continue
        pairs = [[_run(directory, imports, program, count) for imports in (ours, theirs)] for _ in range(rounds)]
        ratios = [a[0] / b[0] for a, b in pairs]
        rate = [statistics.median(each[side][0] for each in pairs) for side in (0, 1)]
        lost = max(count - each[1][1] for each in pairs)
        figures.append(
            Figure(
                f"{vendor}: events a second end to end / the original in memory",
                statistics.median(ratios),
                1.0,
                detail=f"ours {rate[0]:,.0f}/s, original {rate[1]:,.0f}/s"
                + (f" (which lost up to {lost} of {count})" if lost > 0 else ""),
                rounds=ratios,
            )
        )
    return figures
