"""A real program under a real clock that jumps (libfaketime): events arrive in order, at once, and none is dropped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from glob import glob
from pathlib import Path

import pytest
from time_kit import YEAR, moment

from edgespool.testing import Collector

LIBRARY = [*glob("/usr/lib/*/faketime/libfaketime.so.1"), *glob("/usr/lib/faketime/libfaketime.so.1")]

pytestmark = pytest.mark.skipif(not LIBRARY, reason="libfaketime is not installed (apt-get install faketime)")

PROGRAM = """
import json, sys, time
from edgespool import Client
from edgespool.clock import SystemClock

url, path, where = sys.argv[1:]

class Kept(SystemClock):
    kept = False
    def synchronized(self):
        return self.kept

def turn(to):
    # libfaketime looks into this file at each reading of the clock.
    with open(where, "w") as file:
        file.write(to)

clock = Kept()
clocks = []
began = clock.monotonic()
with Client(url, path=path, source="pi", flush_interval=0.0, max_age=3600, clock=clock) as client:
    for number, to in enumerate(["+0", "-10y", "+10y", "+0", "-10y"]):
        turn(to)
        clocks.append(time.time())
        client.record("reading", n=number)
        assert client.flush(20), number
        assert client.stats().oldest_age is None
    turn("-37d")
    client._worker._down_due = clock.monotonic() + 1.0
    client.record("reading", n=5)
    turn("+0")
    clock.kept = True
    client.record("reading", n=6)
    assert client.flush(20)
    stats = client.stats()
print(json.dumps({"clocks": clocks, "took": clock.monotonic() - began, "now": time.time(),
                  "delivered": stats.delivered, "dropped": dict(stats.dropped)}))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, object]]:
    def run(*arguments: str) -> dict[str, object]:
        turned = tmp_path / "now"
        turned.write_text("+0")
        environment = {
            **os.environ,
            "LD_PRELOAD": LIBRARY[0],
            "FAKETIME_TIMESTAMP_FILE": str(turned),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # the boot clock of a real machine does not jump
            "TZ": "UTC",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments, str(turned)],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told: dict[str, object] = json.loads(done.stdout)
        return told

    return run


def test_a_program_whose_clock_jumps_by_years(run: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    with Collector() as collector:
        told = run(collector.url, str(tmp_path / "queue"))
        events = collector.events()
    clocks = told["clocks"]
    years = [round((each - clocks[0]) / YEAR, 1) for each in clocks]  # type: ignore[attr-defined, index]
    assert years == [0, -10, 10, 0, -10], "the clock did jump"
    assert [event["data"]["n"] for event in events] == list(range(7))
    assert (told["delivered"], told["dropped"]) == (7, {})
    assert told["took"] < 20  # type: ignore[operator]
    times = [moment(event["time"]) for event in events]
    assert times[:5] == pytest.approx(clocks, abs=20), "as the clock said, since nobody kept it"
    assert events[5]["timecorrected"] is True
    assert times[5:] == pytest.approx([told["now"]] * 2, abs=20)
    assert "timecorrected" not in events[6]
