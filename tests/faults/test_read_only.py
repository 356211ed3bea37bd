"""A disk that is mounted read-only: said so, without a spin; what was there goes out once it can be written again."""

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
    with Collector() as made:
        yield made


def edgespool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "edgespool", *arguments], env=environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def remount(disk: Disk, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk.path)], check=True, capture_output=True, timeout=30)


def test_a_start_on_a_read_only_disk_says_so_and_works_once_it_is_writable(disk: Disk, collector: Collector) -> None:
    path = disk.path / "queue"
    with Client(collector.url, path=path, start=False) as client:
        ids = [client.record("reading", number=number) for number in range(5)]
    remount(disk, "ro")
    with pytest.raises(QueueUnavailable, match="Read-only"):
        Client(collector.url, path=path)
    shown = edgespool("status", "--path", str(path))
    assert shown.returncode == 1
    assert "READ-ONLY" in shown.stdout
    assert "waiting    5" in shown.stdout
    assert len(edgespool("export", "--path", str(path)).stdout.splitlines()) == 5
    examined = edgespool("doctor", "--path", str(path)).stdout
    assert "is mounted read-only" in examined
    assert "PROBLEM  permissions" not in examined, "nobody is to change an owner"
    sent = edgespool("send", "reading", "--path", str(path))
    assert (sent.returncode, sent.stdout) == (3, "")
    assert "Read-only" in sent.stderr
    assert "Traceback" not in sent.stderr
    remount(disk, "rw")
    with Client(collector.url, path=path) as client:
        assert client.flush(20)
    assert collector.ids() == ids


def test_a_disk_that_turns_read_only_under_a_program_is_told_and_loses_nothing(
    disk: Disk, collector: Collector
) -> None:
    """As ext4 does it when it meets an error, with `errors=remount-ro`: the default of Raspberry Pi OS."""
    path = disk.path / "queue"
    remount(disk, "errors=remount-ro")
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", str(disk.path)], check=True, capture_output=True, text=True
    ).stdout.strip()
    trigger = Path("/sys/fs/ext4", os.path.basename(device), "trigger_fs_error")
    if not os.access(trigger, os.W_OK):
        pytest.skip("this kernel cannot be told that a file system is broken")
    collector.set_fault(status=503)
    client = Client(collector.url, path=path, flush_interval=0.05)
    try:
        stored = [client.record("reading", number=number) for number in range(5)]
        trigger.write_text("an error")
        unknown = 0
        began = time.process_time()
        for number in range(5, 15):
            with pytest.raises(QueueError) as caught:
                client.record("reading", number=number)
            unknown += isinstance(caught.value, OutcomeUnknown)
            time.sleep(0.1)
        assert unknown <= 1, "after the first it is known that nothing can be stored"
        assert time.process_time() - began < 0.5, "it does not spin"
        stats = client.stats()
        assert stats.state == "unavailable"
        assert stats.last_error is not None
        assert "disk" in stats.last_error
        shown = edgespool("status", "--path", str(path))
        assert shown.returncode in (1, 4)
        assert "READ-ONLY" in shown.stdout
    finally:
        client.close(0)
    disk.unmount()
    collector.heal()
    disk.mount()
    with Client(collector.url, path=path) as client:
        assert client.flush(20)
        assert client.stats().salvaged is None
    assert stored == collector.ids()[:5]
    assert collector.count() <= 5 + unknown


# Without a restart: ext4 ends all writing (as after an error), is unmounted and mounted anew, while the program runs


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for as long as it takes a busy machine."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def found(*arguments: str) -> tuple[int, Any]:
    """Run a command as another process does; return its exit code and its JSON."""
    done = edgespool(*arguments, "--json")
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

        code, told_of = found("status", "--path", path)
        assert code == 1
        assert (told_of["read_only"], told_of["pending"], told_of["sender"]["state"]) == (True, 5, "unavailable")
        code, told_of = found("doctor", "--path", path)
        assert code == 1
        problem = {each["check"]: each for each in told_of["findings"]}["filesystem"]
        assert problem["level"] == "problem"
        assert "mount -o remount,rw" in problem["advice"]

        disk.unmount()  # which fails while anybody has a file open there
        disk.mount()
        assert client.flush(60)
        fresh = client.record("after")
        assert client.flush(60)
        stats = client.stats()
        assert (stats.state, stats.last_error, stats.pending) in {("idle", None, 0), ("sending", None, 0)}
        assert found("status", "--path", path)[0] == 0
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


def test_closing_on_such_a_disk_closes_everything_and_counts_what_waits(disk: Disk, collector: Collector) -> None:
    collector.set_fault(status=503)
    client = Client(collector.url, path=str(disk.path / "queue"), flush_interval=3600, durability="process")
    for number in range(5):
        client.record("a", number=number)
    client._queue.sync()
    disk.turn_read_only()
    refused(client)
    until(lambda: _nothing_open_below(disk.path))
    assert client.close(0.1).pending == 5
    assert client._queue._store.closed
    assert _nothing_open_below(disk.path)


def _nothing_open_below(path: Path) -> bool:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(f"{path}/"):
                return False
        except OSError:
            continue
    return True
