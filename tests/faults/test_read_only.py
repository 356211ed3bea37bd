"""A disk that is mounted read-only: said so, without a spin; what was there goes out once it can be written again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_kit import Disk, environment, small_disk

from edgespool import Client
from edgespool.errors import OutcomeUnknown, QueueError, QueueUnavailable
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
