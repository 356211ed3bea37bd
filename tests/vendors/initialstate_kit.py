"""What the Initial State tests share: streamers with short waits, a collector, and none of the user's environment."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.vendors import console
from edgespool.vendors.initialstate.api import Streamer

DEADLINE = 20.0  # seconds after which a test gives up waiting; nothing here should take one of them
QUICK = Backoff(base=0.01, cap=0.03)
KEY = "sesame-access-key"

MakeStreamer = Callable[..., Streamer]


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def readings(collector: Collector) -> list[tuple[str, str, Any]]:
    """Return the bucket, key and value of what arrived, in order."""
    return [(each.extra["bucket"], each.event["key"], each.event["value"]) for each in collector.arrived()]


def sent(collector: Collector) -> list[tuple[str, int | None, str, Any]]:
    """Return the path, status, bucket key and body of each request."""
    return [
        (each.path, each.status, each.headers["X-IS-BucketKey"], json.loads(each.body or b"null"))
        for each in collector.requests()
    ]


def failed_files(streamer: Streamer) -> list[dict[str, Any]]:
    """Return what the streamer's failed payload files hold, oldest first."""
    assert streamer._client is not None
    return [json.loads(path.read_text()) for path in sorted(Path(streamer._client.directory, "failed").glob("*.json"))]


@pytest.fixture(autouse=True)
def an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(work)
    yield
    console.hide()
    logging.getLogger("edgespool.initialstate").setLevel(logging.NOTSET)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make_streamer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeStreamer]:
    """Make a streamer that sends to the collector, with short waits; it is closed at the end."""
    made: list[Streamer] = []

    def make(
        bucket_name: str = "Kitchen", bucket_key: str = "kitchen", access_key: str = KEY,
        *, start: bool = True, backoff: Backoff = QUICK, **given: Any,
    ) -> Streamer:  # fmt: skip
        given.setdefault("url", request.getfixturevalue("collector").base_url)
        given = {"path": tmp_path / "queue", "flush_interval": 0.01, "timeout": (5.0, 5.0), **given}
        streamer = Streamer(bucket_name, bucket_key, access_key, start=False, **given)
        made.append(streamer)
        client = streamer._client
        assert client is not None
        client._worker._policy = replace(client._worker._policy, backoff=backoff)
        if start:
            client.start()
            streamer._opening["start"] = True  # also when it is opened again
        return streamer

    yield make
    for streamer in made:
        streamer.close(0)
    wait_until(
        lambda: not any(thread.name.startswith("edgespool-worker") for thread in threading.enumerate()),
        "the end of the worker threads",
    )
