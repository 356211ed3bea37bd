"""What the load tests start from: a collector, clients with short waits, nothing of the user's environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from load_kit import QUICK, MakeClient, wait_until

from edgespool import Client
from edgespool.testing import Collector


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    wait_until(lambda: not any(each.name.startswith("edgespool") for each in threading.enumerate()), "no threads")


@pytest.fixture
def collector(_alone: None) -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture
def make_client(tmp_path: Path, request: pytest.FixtureRequest, _alone: None) -> Iterator[MakeClient]:
    """Make a client that sends to the collector (or to `url`) and is not started; it is closed at the end."""
    made: list[Client] = []

    def make(url: str | None = None, **settings: Any) -> Client:
        url = url or request.getfixturevalue("collector").url
        given = {"path": tmp_path / "queue", "source": "pi", "flush_interval": 0.01, "timeout": (10, 30), **settings}
        client = Client(url, start=False, **given)
        made.append(client)
        client._worker._policy = replace(client._worker._policy, backoff=QUICK)
        return client

    yield make
    for client in made:
        client.close(0)
