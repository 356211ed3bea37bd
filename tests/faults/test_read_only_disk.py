"""A disk that turns read-only under a program, as ext4 does after an error: said, no spin, it recovers by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_kit import Disk, environment, small_disk

from edgespool import Client
from edgespool.errors import OutcomeUnknown, QueueError, QueueUnavailable
from edgespool.status import Stats
from edgespool.testing import Collector


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path, 8, must_be_ext4=True) as made:
        yield made


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for as long as it takes a busy machine."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def command(*arguments: str) -> tuple[int, Any]:
    """Run a command as another process does; return its exit code and its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "edgespool", *arguments, "--json"],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def refused(client: Client) -> list[QueueError]:
    """Record once or twice; the disk takes nothing of it."""
    errors: list[QueueError] = []
    for number in range(2):
        with pytest.raises((OutcomeUnknown, QueueUnavailable)) as caught:
            client.record("refused", number=number)
        errors.append(caught.value)
    return errors


def test_it_is_said_and_costs_nothing_and_passes_without_a_restart(disk: Disk, collector: Collector) -> None:
    path = str(disk.path / "queue")
    with Client(collector.url, path=path, flush_interval=0.0) as client:
        collector.set_fault(status=503)
        waiting = [client.record("a", number=number) for number in range(5)]
        until(lambda: client.stats().state == "backing off")
        disk.turn_read_only()
        errors = refused(client)
        assert isinstance(errors[-1], QueueUnavailable)
        assert "read-only" in str(errors[-1]).lower()
        collector.heal()
        until(lambda: client._worker.state.name == "unavailable")

        def told() -> Stats:
            stats = client.stats()
            assert stats.state == "unavailable"
            assert "read-only" in str(stats.last_error).lower()
            assert stats.pending == 5
            return stats

        assert told().next_attempt is not None
        before = time.process_time()
        assert not client.flush(1.0)
        assert time.process_time() - before < 0.3, "it spins"
        told()

        code, found = command("status", "--path", path)
        assert code == 1
        assert (found["read_only"], found["pending"], found["sender"]["state"]) == (True, 5, "unavailable")
        code, found = command("doctor", "--path", path)
        assert code == 1
        problem = {each["check"]: each for each in found["findings"]}["filesystem"]
        assert problem["level"] == "problem"
        assert "mount -o remount,rw" in problem["advice"]

        disk.unmount()  # which fails while anybody has a file open there
        disk.mount()
        assert client.flush(60)
        fresh = client.record("after")
        assert client.flush(60)
        stats = client.stats()
        assert (stats.state, stats.last_error, stats.pending) in {("idle", None, 0), ("sending", None, 0)}
        assert command("status", "--path", path)[0] == 0
    assert {*waiting, fresh} <= set(collector.ids())
    names = {event["type"] for event in collector.events()}
    assert names == {"a", "after"}, "an event was refused and yet arrived"


def test_what_was_delivered_is_remembered_and_nothing_more_is_sent(disk: Disk, collector: Collector) -> None:
    """Each event sent from now on would be sent again at the next start: nothing can be acknowledged."""
    path = disk.path / "queue"
    with Client(collector.url, path=str(path), flush_interval=0.0, batch_size=2, start=False) as client:
        ids = [client.record("a", number=number) for number in range(20)]
        queue = client._queue
        batch = queue.lease(2, 1 << 20)
        assert batch is not None
        disk.turn_read_only()
        with pytest.raises(QueueError):
            queue.ack(batch)
        client.start()
        until(lambda: client.stats().state == "unavailable")
        assert not client.flush(0.5)
        assert collector.count() <= 2
        until(lambda: _nothing_open_below(disk.path))
        disk.unmount()
        disk.mount()
        assert client.flush(60)
    assert set(collector.ids()) | set(batch.ids) == set(ids)


def test_a_program_that_only_looks_keeps_nothing_open(disk: Disk, collector: Collector) -> None:
    with Client(collector.url, path=str(disk.path / "queue"), flush_interval=3600) as client:
        client.record("a")
        disk.turn_read_only()
        refused(client)
        for _ in range(5):
            assert client.stats().pending == 1
        until(lambda: client._worker.state.name == "unavailable")
        assert client.stats().state == "unavailable"
        assert _nothing_open_below(disk.path)
        disk.unmount()
        assert client.stats().state == "unavailable"
        disk.mount()
        until(lambda: client.stats().state in ("idle", "sending"))
        assert client.flush(60)
    assert collector.count() == 1


def _nothing_open_below(path: Path) -> bool:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(f"{path}/"):
                return False
        except OSError:
            continue
    return True
