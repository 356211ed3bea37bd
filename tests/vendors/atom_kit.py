"""What the Atom tests share: trackers with short waits, a clean environment, and readers of requests and disks."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.testing.store import RequestRecord
from edgespool.vendors.atom.api import IronSourceAtomTracker

DEADLINE = 20.0  # seconds after which a test gives up waiting; nothing here should take one of them
QUICK = Backoff(base=0.01, cap=0.03)
KEY = "sesame-street-and-no-other"


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def clean_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take the user's settings out of the environment, and point everything that is written into `home`."""
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home))


@contextlib.contextmanager
def trackers(url: str, path: Path) -> Iterator[Callable[..., IronSourceAtomTracker]]:
    """Give a maker of trackers that send at once and wait briefly after failures; all are stopped at the end."""
    made: list[IronSourceAtomTracker] = []

    def make(
        *, start: bool = True, backoff: Backoff | None = QUICK, interval: float = 0.01, **options: Any
    ) -> IronSourceAtomTracker:
        options = {"endpoint": url, "path": path, "timeout": (5.0, 5.0), **options}
        tracker = IronSourceAtomTracker(start=False, **options)
        made.append(tracker)
        worker = tracker._client._worker
        worker._policy = replace(worker._policy, backoff=backoff or worker._policy.backoff, flush_interval=interval)
        if start:
            tracker._client.start()
        return tracker

    yield make
    for tracker in made:
        tracker._client.close(0)
        tracker.stop()
    wait_until(
        lambda: not any(thread.name.startswith("edgespool-worker") for thread in threading.enumerate()),
        "the end of the worker threads",
    )


def message(record: RequestRecord) -> dict[str, Any]:
    """Return the JSON object that a request carries."""
    if record.method == "GET":
        return json.loads(base64.b64decode(parse_qs(record.query)["data"][0], validate=True))
    assert record.body is not None
    return json.loads(record.body)


def sent_texts(record: RequestRecord) -> list[str]:
    """Return the events' texts in a bulk request."""
    return json.loads(message(record)["data"])


def data_of(collector: Collector) -> list[Any]:
    """Return the data of what has arrived, in order."""
    return [event["data"] for event in collector.events()]


def failed_files(tracker: IronSourceAtomTracker) -> list[dict[str, Any]]:
    """Return what the failed payload files hold, oldest first."""
    folder = Path(tracker._client.directory, "failed")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def give_key(collector: Collector, stream: str, key: str) -> None:
    """Let the collector check a stream's signatures."""
    with collector.store.transaction() as work:
        work.state("atom").set(f"key/{stream}", key)


def on_disk(folder: Path, text: str) -> list[str]:
    """Return the files below a folder that hold a text, in any of the usual spellings."""
    raw = text.encode()
    spellings = [raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(each in path.read_bytes() for each in spellings)]
