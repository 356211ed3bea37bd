"""What the fault tests share: queues that are closed, and a look at what a test leaves behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from damage_kit import Sample, make_sample
from faults_kit import mounts_below

from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert mounts_below(tmp_path) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("edgespool")] == []


@pytest.fixture
def open_queue(tmp_path: Path, clock: FakeClock, _nothing_is_left_behind: None) -> Iterator[Callable[..., DiskQueue]]:
    """Open a disk queue, by default in `tmp_path / "queue"` with the test's clock; it is closed at the end."""
    opened: list[DiskQueue] = []

    def open_one(path: Path | None = None, **settings: Any) -> DiskQueue:
        queue = DiskQueue(path or tmp_path / "queue", **{"clock": clock, **settings})
        opened.append(queue)
        return queue

    yield open_one
    for queue in opened:
        queue.close()


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of queues are opened there, and their flushes would add up."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="edgespool-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A queue whose process died, much of it in the WAL alone."""
    return make_sample(tmp_path_factory.mktemp("crashed"))


@pytest.fixture(scope="session")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The same queue, closed in order."""
    return make_sample(tmp_path_factory.mktemp("closed"), clean=True)


@pytest.fixture(params=["crashed", "closed"])
def sample(request: pytest.FixtureRequest) -> Sample:
    """Either of them."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]
