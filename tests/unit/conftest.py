"""What the unit tests share: queues that are closed, and a look at what a test leaves behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespool.queue import DiskQueue
from edgespool.testing import FakeClock, MemoryQueue


def _open_below(directory: Path) -> list[str]:
    """Return the open files of this process below a directory; where the system cannot tell, none."""
    found = []
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith(f"{directory}/"):
            found.append(target)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert _open_below(tmp_path) == []
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
def queue(open_queue: Callable[..., DiskQueue]) -> DiskQueue:
    """A fresh disk queue with the defaults."""
    return open_queue()


@pytest.fixture(params=["disk", "memory"])
def make_queue(request: pytest.FixtureRequest, clock: FakeClock) -> Callable[..., Any]:
    """Make a queue, once on disk and once in memory: what both promise is tested with both."""
    if request.param == "disk":
        return request.getfixturevalue("open_queue")  # type: ignore[no-any-return]
    return lambda **settings: MemoryQueue(clock=clock, **settings)
