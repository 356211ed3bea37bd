"""What the process tests start from: a collector, a place for the queue, and processes that never outlive the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process_kit import Program

from edgespool.testing import Collector

Run = Callable[..., Program]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def queue_path(tmp_path: Path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def run(tmp_path: Path, queue_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run one of the programs; by default its client sends to the collector and keeps its queue in `queue_path`."""
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))  # for the clients in this process
    started: list[Program] = []

    def start(command: str | list[str], **settings: Any) -> Program:
        given = {"url": collector.url, "path": str(queue_path), **settings}
        started.append(Program(tmp_path / "programs", command, given))
        return started[-1]

    yield start
    for program in started:
        program.clean_up()
