"""What the fault tests share: disks that are small, records, and what became of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import edgespool
from edgespool.errors import QueueFull
from edgespool.event import Record
from edgespool.queue import DiskQueue, schema
from edgespool.testing import FakeClock

MIB = 1 << 20
EVERYTHING = 1 << 30
PAGE = schema.PAGE_SIZE

OpenQueue = Callable[..., DiskQueue]

_numbers = count(1)


def record(name: object = None, route: str = "", *, size: int = 0, clock: FakeClock | None = None) -> Record:
    """Return a record whose id is `name` (a fresh number when None), its payload padded to `size` bytes."""
    identity = str(f"r{next(_numbers)}" if name is None else name)
    payload = b'{"n":"%b"}' % identity.encode()
    clock = clock or FakeClock()
    return Record(
        payload + b" " * (size - len(payload)), identity, clock.time(), int(clock.monotonic() * 1_000_000), route
    )


def records(names: Iterable[object], route: str = "", **given: Any) -> list[Record]:
    """Return a record for each name."""
    return [record(name, route, **given) for name in names]


def drain(queue: DiskQueue, limit: int = 50) -> list[str]:
    """Lease and acknowledge everything, with the housekeeping of a worker; return the ids in the order they came."""
    ids: list[str] = []
    while (batch := queue.lease(limit, EVERYTHING)) is not None:
        ids += batch.ids
        assert queue.ack(batch) == len(batch)
        queue.maintain(False)
    return ids


def check_ledger(queue: DiskQueue) -> None:
    """The ledger's equation holds, and it counts as pending what the table holds."""
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.pending == queue.count_rows()


def check_file(path: Path) -> None:
    """SQLite finds nothing wrong with a queue's file."""
    with contextlib.closing(schema.connect(str(path), "FULL", wal_limit=MIB, timeout=5)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def environment() -> dict[str, str]:
    """Return an environment in which a program finds this very edgespool."""
    source = str(Path(edgespool.__file__).parents[1])
    rest = [source, str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(rest), "PYTHONUNBUFFERED": "1"}


# --- small disks -------------------------------------------------------------------------------------------------


def mounts_below(path: Path) -> list[str]:
    """Return what is mounted below a directory."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return []
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{path}/")]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)


class Disk:
    """A small file system of its own, mounted at `path`."""

    def __init__(self, path: Path, image: Path | None) -> None:
        self.path = path
        self.image = image  # None: a tmpfs
        self._fill = path / "fill"

    def free(self) -> int:
        """Return the bytes that are free."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fill the disk with somebody else's file, but for so many bytes."""
        fd = os.open(self._fill, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for block in (65536, 4096, 1024, 1):
                while self.free() - leave >= block:
                    try:
                        os.write(fd, bytes(block))
                    except OSError:
                        break
        finally:
            os.close(fd)
        os.sync()

    def empty(self) -> None:
        """Take that file away."""
        self._fill.unlink(missing_ok=True)
        os.sync()

    def mount(self) -> None:
        """Mount the image (again)."""
        assert self.image is not None
        _run("mount", "-o", "loop", str(self.image), str(self.path))

    def turn_read_only(self) -> None:
        """Have ext4 end all writing, as it does by itself after an error of the disk (mount option `abort`)."""
        os.sync()
        _run("mount", "-o", "remount,abort", str(self.path))

    def unmount(self) -> None:
        """Unmount, which fails while anybody has a file open there; the loop device goes with it."""
        _run("umount", str(self.path))


@contextlib.contextmanager
def small_disk(top: Path, mebibytes: int, *, must_be_ext4: bool = False) -> Iterator[Disk]:
    """Give a file system of a few MiB: ext4 over a loop device, else a tmpfs; skip where there is neither."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small file system needs Linux and root")
    path = top / "disk"
    path.mkdir()
    disk = Disk(path, top / "image")
    try:
        with open(top / "image", "wb") as file:
            file.truncate(mebibytes * MIB)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(top / "image"))
        disk.mount()
    except (OSError, subprocess.SubprocessError) as error:
        if must_be_ext4:
            pytest.skip(f"no ext4 over a loop device here: {error}")
        disk = Disk(path, None)
        try:
            _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "edgespool-test", str(path))
        except (OSError, subprocess.SubprocessError) as reason:
            pytest.skip(f"neither ext4 over a loop device nor tmpfs here: {reason}")
    try:
        yield disk
    finally:
        for _ in mounts_below(top):
            if subprocess.run(["umount", str(path)], check=False, capture_output=True).returncode:
                subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


def fill_up(queue: DiskQueue, size: int, most: int = 100_000) -> list[str]:
    """Append records of so many bytes until the queue says that it is full; return the ids of those it took."""
    taken: list[str] = []
    for _ in range(most):
        one = record(size=size)
        try:
            queue.append([one])
        except QueueFull:
            return taken
        taken.append(str(one.id))
    raise AssertionError("it never was full")


def tree(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of those of these files that are there."""
    return {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
