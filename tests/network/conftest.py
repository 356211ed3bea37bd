"""What the network tests start from: a collector, a bad network before it, clients with short waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from network_kit import QUICK, MakeClient, wait_until

from edgespool import Client
from edgespool.outcome import Backoff
from edgespool.testing import Collector, FaultProxy


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgespool")]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's environment; and no thread of ours is left behind."""
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    wait_until(lambda: not _threads(), "the end of the threads")


@pytest.fixture
def collector(_alone: None) -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture
def proxy(collector: Collector) -> Iterator[FaultProxy]:
    with FaultProxy(collector.url) as made:
        yield made


@pytest.fixture
def make_client(tmp_path: Path, request: pytest.FixtureRequest, _alone: None) -> Iterator[MakeClient]:
    """Make a client that sends through the proxy (or to `url`), with short waits; it is closed at the end."""
    made: list[Client] = []

    def make(url: str | None = None, *, start: bool = True, backoff: Backoff = QUICK, **settings: Any) -> Client:
        url = url or request.getfixturevalue("proxy").url
        given = {"path": tmp_path / "queue", "source": "pi", "flush_interval": 0.01, "timeout": (5.0, 10.0), **settings}
        client = Client(url, start=False, **given)
        made.append(client)
        client._worker._policy = replace(client._worker._policy, backoff=backoff)
        if start:
            client.start()
        return client

    yield make
    for client in made:
        client.close(0)
