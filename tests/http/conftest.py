"""What the HTTP tests start from: a collector, clients with short waits, and nothing of the user's environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_kit import DEADLINE, QUICK, wait_until

from edgespool import Client
from edgespool.outcome import Backoff
from edgespool.testing import Collector


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


MakeClient = Callable[..., Client]


@pytest.fixture
def make_client(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make a client that sends to the collector (or to `url`), with short waits; it is closed at the end."""
    made: list[Client] = []

    def make(url: str | None = None, *, start: bool = True, backoff: Backoff = QUICK, **settings: Any) -> Client:
        url = url or request.getfixturevalue("collector").url
        given = {"path": tmp_path / "queue", "source": "pi", "flush_interval": 0.01, "timeout": (5.0, 5.0), **settings}
        client = Client(url, start=False, **given)
        made.append(client)
        client._worker._policy = replace(client._worker._policy, backoff=backoff)
        if start:
            client.start()
        return client

    yield make
    for client in made:
        client.close(0)
    wait_until(
        lambda: not any(thread.name.startswith("edgespool-worker") for thread in threading.enumerate()),
        "the end of the worker threads",
        DEADLINE,
    )
