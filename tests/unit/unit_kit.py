"""Small helpers of the unit tests: making records, looking into a queue file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

from edgespool.event import Batch, Record, StoredEvent
from edgespool.interfaces import Clock
from edgespool.queue import DiskQueue, schema
from edgespool.testing import FakeClock

EVERYTHING = 1 << 30
MIB = 1 << 20
MakeQueue = Callable[..., Any]

_numbers = count(1)


def record(
    name: object = None,
    route: str = "",
    *,
    size: int = 0,
    clock: Clock | None = None,
    time: float | None = None,
) -> Record:
    """Return a record whose id is `name` (a fresh number when None), its payload padded to `size` bytes.

    With `time` it counts as given by the user.
    """
    id = str(next(_numbers) if name is None else name)
    payload = b'{"n":"%b"}' % id.encode()
    payload += b" " * (size - len(payload))
    clock = clock or FakeClock()
    mono = int(clock.monotonic() * 1_000_000)
    return Record(payload, id, clock.time() if time is None else time, mono, route, time is not None)


def records(names: Iterable[object], route: str = "", **given: Any) -> list[Record]:
    """Return a record for each name."""
    return [record(name, route, **given) for name in names]


def stored(names: Sequence[object], route: str = "", size: int = 10) -> Batch:
    """Return a batch as a queue would hand it out."""
    return Batch(route, [StoredEvent(n, b"x" * size, 0.0, str(name), False) for n, name in enumerate(names, 1)])


def lease(queue: Any, limit: int = 500, max_bytes: int = EVERYTHING, **how: Any) -> Batch:
    """Lease a batch that must be there."""
    batch = queue.lease(limit, max_bytes, **how)
    assert isinstance(batch, Batch)
    return batch


def check_ledger(queue: Any) -> None:
    """The ledger's equation holds, and it counts as pending what the table holds."""
    ledger = queue.ledger()
    assert ledger.balanced
    assert ledger.pending == queue.count_rows()


def drain(queue: Any, limit: int = 500) -> list[str]:
    """Lease and acknowledge everything; return the ids in the order in which they came."""
    ids = []
    while (batch := queue.lease(limit, 1 << 30)) is not None:
        ids += batch.ids
        queue.ack(batch)
    return ids


def table(queue: DiskQueue) -> list[tuple[Any, ...]]:
    """Return all rows of a queue's table of events, in order."""
    return queue._store.read(
        lambda connection: connection.execute(f"SELECT {schema.COLUMNS} FROM {schema.TABLE} ORDER BY _id").fetchall()
    )


def checksum(row: Sequence[Any]) -> int:
    """Return the checksum that a row ought to have."""
    rowid, payload, when, event_id, session, mono = row[:6]
    raw = event_id.encode() if isinstance(event_id, str) else event_id
    return crc32(payload, crc32(raw, crc32(schema.pack_head(rowid, when, mono, session))))


def copy_files(source: Path, target: Path) -> Path:
    """Copy the database and its WAL as they stand on the disk: what a process that dies now leaves. Return `target`."""
    target.mkdir(mode=0o700)
    for name in (schema.FILE_NAME, schema.FILE_NAME + "-wal"):
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())
    return target
