"""What the tests of the Samsara SDK share: an environment of their own, a collector, clients with short waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgespool import Client
from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.vendors.samsara.api import SamsaraClient

DEADLINE = 20.0  # seconds after which a test gives up waiting; nothing here should take one of them
QUICK = Backoff(base=0.01, cap=0.03)
SOURCE = "device-1"
MakeSamsara = Callable[..., SamsaraClient]


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def quicken(client: Client) -> None:
    """Shorten a client's waits after failures; draw them without chance, which is for Hypothesis alone to use."""
    client._worker._fraction = lambda: 0.5
    client._worker._policy = replace(client._worker._policy, backoff=QUICK)


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take the user's settings, proxies and folders out of the environment."""
    for name in list(os.environ):
        if name.startswith(("EDGESPOOL_", "STATE_DIR")) or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home))


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, tmp_path / "home")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeSamsara]:
    """Make a client that sends to the collector soon, one event if there is only one; it is closed at the end."""
    made: list[SamsaraClient] = []

    def make_one(url: str | None = None, **given: Any) -> SamsaraClient:
        config = {
            "sourceId": SOURCE, "publish_interval": 10, "min_buffer_size": 1, "send_timeout": 5000,
            "path": tmp_path / "queue", "durability": "process", **given,
        }  # fmt: skip
        client = SamsaraClient(url=url or request.getfixturevalue("collector").base_url, **config)
        quicken(client._client)
        made.append(client)
        return client

    yield make_one
    for client in made:
        client.close(0)
    wait_until(
        lambda: not any(thread.name.startswith("edgespool") for thread in threading.enumerate()),
        "the end of the worker threads",
    )


def event(name: str = "user.logged", **more: Any) -> dict[str, Any]:
    """Return an event as publish_events takes it."""
    return {"eventName": name, "timestamp": 1_431_261_991_023, "sourceId": "e6f01efd", **more}


def names(collector: Collector) -> list[str]:
    """Return the names of the events that arrived, in order."""
    return [each["eventName"] for each in collector.events()]
