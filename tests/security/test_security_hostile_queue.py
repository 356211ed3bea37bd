"""Nothing in a queue's files is trusted: whatever they hold, the answer is an event, an error of ours, or a salvage."""

from __future__ import annotations

import itertools
import pickle
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from security_kit import command, make_queue

from edgespool.errors import EdgespoolError
from edgespool.event import Record, new_id
from edgespool.formats.cloudevents import CloudEvents
from edgespool.queue import DiskQueue, schema
from edgespool.queue.view import QueueView

TABLE = schema.TABLE
SECONDS = 10.0  # that no use of a small file may take, damage or not


def use(path: Path) -> list[Any]:
    """Do everything that can be done with a queue; whatever it raises must be ours. Return the events handed out."""
    began = time.monotonic()
    got: list[Any] = []
    for look in (_look, _work):
        try:
            look(path, got)
        except EdgespoolError:
            pass
    assert time.monotonic() - began < SECONDS
    return got


def _look(path: Path, got: list[Any]) -> None:
    with QueueView(str(path)) as view:
        for each in (view.ledger, view.oldest_age, lambda: list(view.events()), view.check, lambda: view.format_name):
            try:
                each()
            except EdgespoolError:
                pass


def _work(path: Path, got: list[Any]) -> None:
    queue = DiskQueue(path)
    try:
        for each in (
            queue.oldest, queue.oldest_sequence, queue.ledger, queue.disk_bytes, lambda: queue.format_name,
            lambda: queue.maintain(True), lambda: queue.expire(1e9),
            lambda: queue.append([Record(b'{"n":1}', new_id(), time.time(), 5), Record(b"{}", "x", 1.0, 5, "new")]),
        ):  # fmt: skip
            try:
                each()
            except EdgespoolError:
                pass
        while (batch := queue.lease(100, 1 << 20)) is not None:
            CloudEvents("pi").request(batch)
            got += batch.events
            assert isinstance(batch.route, str)
            queue.ack(batch)
        queue.append([Record(b"{}", new_id(), time.time(), 5)])
        assert queue.ledger().balanced
    finally:
        queue.close()


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path / schema.FILE_NAME)
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


# Values that no edgespool has written, in a file that SQLite finds in order

VALUES = ("NULL", "'x'", "x'00ff'", "CAST(x'ff41' AS TEXT)", "-1", "9223372036854775807", "-9223372036854775808",
          "1e300", "9e999", "0.5", "2199023255552", "zeroblob(100000)")  # fmt: skip
PLACES = (
    *((TABLE, column) for column in ("_id", "data", "timestamp", "status", "event_id", "session", "mono", "crc")),
    ("edgespool_ledger", "value"), ("edgespool_ledger", "name"), ("edgespool_route", "id"), ("edgespool_route", "name"),
    ("edgespool_meta", "value"), ("edgespool_session", "id"), ("edgespool_session", "boot_id"),
    ("edgespool_session", "first_mono"), ("edgespool_session", "last_mono"), ("edgespool_session", "wall_offset"),
)  # fmt: skip


@pytest.mark.parametrize(("table", "column"), PLACES, ids=lambda name: str(name))
def test_any_value_in_any_column_is_survived(tmp_path: Path, table: str, column: str) -> None:
    make_queue(tmp_path / "sample")
    for number, value in enumerate(VALUES):
        path = shutil.copytree(tmp_path / "sample", tmp_path / f"queue{number}")
        which = "name = 'seq'" if table == "edgespool_ledger" else f"rowid = (SELECT max(rowid) FROM {table})"
        try:
            edit(path, f"UPDATE OR IGNORE {table} SET {column} = {value} WHERE {which}")
        except sqlite3.Error:
            continue  # SQLite itself will not have it
        use(path)


SCHEMAS = {
    "a view without end": (
        f"DROP TABLE {TABLE}",
        f"CREATE VIEW {TABLE} AS WITH RECURSIVE n(_id) AS (SELECT 1 UNION ALL SELECT _id + 1 FROM n) SELECT _id, "
        "0 data, 0 timestamp, 0 status, 0 event_id, 0 session, 0 mono, 0 crc FROM n WHERE _id < 0",
    ),
    "a trigger": (f"CREATE TRIGGER t AFTER INSERT ON {TABLE} BEGIN DELETE FROM {TABLE}; END",),
    "no events": (f"DROP TABLE {TABLE}",),
    "no ledger": ("DROP TABLE edgespool_ledger",),
    "an empty ledger": ("DELETE FROM edgespool_ledger",),
    "no sessions": ("DROP TABLE edgespool_session",),
    "other columns": (f"DROP TABLE {TABLE}", f"CREATE TABLE {TABLE} (_id INTEGER PRIMARY KEY, data)"),
    "one column more": (f"ALTER TABLE {TABLE} ADD COLUMN more",),
    "a view beside": ("CREATE VIEW v AS SELECT load_extension('evil')",),
    "an index by a function": (f"CREATE INDEX i ON {TABLE} (abs(session))",),
}


@pytest.mark.parametrize("statements", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_another_schema_neither_acts_nor_hangs(tmp_path: Path, statements: tuple[str, ...]) -> None:
    make_queue(tmp_path / "queue")
    edit(tmp_path / "queue", *statements)
    got = use(tmp_path / "queue")
    assert len(got) >= 2, "what was appended since was handed out"


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.mark, "w")


@pytest.mark.parametrize("sound", [True, False], ids=["with its checksum", "without"])
def test_a_pickle_is_bytes_and_nothing_more(tmp_path: Path, sound: bool) -> None:
    """persist-queue unpickles what it finds, unless told otherwise."""
    mark = tmp_path / "it was executed"
    payload = pickle.dumps(Bomb(str(mark)))
    make_queue(tmp_path / "queue", count=1)
    row = (2000, payload, 5.0, b"i" * 16, 1, 5)
    crc = crc32(payload, crc32(row[3], crc32(schema.pack_head(2000, 5.0, 5, 1)))) if sound else 7
    connection = sqlite3.connect(tmp_path / "queue" / schema.FILE_NAME)
    connection.execute(schema.INSERT, (*row, crc))
    connection.commit()
    connection.close()
    queue = DiskQueue(tmp_path / "queue")
    for _ in range(5):
        try:
            queue.get(block=False)
        except Exception:
            continue
    queue.close()
    got = use(tmp_path / "queue")
    assert (payload in [event.payload for event in got]) is sound
    command("peek", "--path", str(tmp_path / "queue"))
    assert not mark.exists()
    pickle.loads(payload).close()
    assert mark.exists(), "the bomb is a bomb"


# Bytes


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Return a database and its WAL, as a crash leaves them."""
    path = tmp_path_factory.mktemp("sample") / "queue"
    make_queue(path, 40)
    queue = DiskQueue(path)
    queue.append([Record(b'{"n":"%b"}' % (b"x" * 3000), new_id(), time.time(), n) for n in range(10)])
    files = tuple((path / name).read_bytes() for name in (schema.FILE_NAME, schema.FILE_NAME + "-wal"))
    queue.close()
    assert len(files[1]) > 10_000
    return files  # type: ignore[return-value]


Change = Callable[[bytearray], None]


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, int, int, bytes]]:
    kind = st.sampled_from(["put", "copy", "cut", "grow", "zero"])
    one = st.tuples(kind, st.integers(0, 1 << 17), st.integers(0, 1 << 17), st.binary(min_size=1, max_size=12))
    return draw(st.lists(one, min_size=1, max_size=8))


def change(content: bytes, wanted: list[tuple[str, int, int, bytes]]) -> bytes:
    made = bytearray(content)
    for kind, at, other, what in wanted:
        size = max(1, len(made))
        at, other = at % size, other % size
        if kind == "put":
            made[at : at + len(what)] = what
        elif kind == "copy":
            made[at // 4096 * 4096 : at // 4096 * 4096 + 4096] = made[
                other // 4096 * 4096 : other // 4096 * 4096 + 4096
            ]
        elif kind == "cut":
            del made[at:]
        elif kind == "grow":
            made += what * 400
        else:
            made[at : at + 200] = bytes(min(200, size - at))
    return bytes(made)


_numbers = itertools.count()


@settings(max_examples=50)
@given(database=changes(), wal=changes(), which=st.sampled_from(["database", "wal", "both"]))
def test_any_bytes_in_the_files_are_survived(
    tmp_path_factory: pytest.TempPathFactory, sample: tuple[bytes, bytes], database: Any, wal: Any, which: str
) -> None:
    path = tmp_path_factory.mktemp("hostile") / "queue"
    path.mkdir(mode=0o700)
    (path / schema.FILE_NAME).write_bytes(change(sample[0], database) if which != "wal" else sample[0])
    (path / f"{schema.FILE_NAME}-wal").write_bytes(change(sample[1], wal) if which != "database" else sample[1])
    got = use(path)
    assert all(isinstance(event.payload, bytes) for event in got)
    shutil.rmtree(path)


@settings(max_examples=25)
@given(
    content=st.one_of(
        st.binary(max_size=300), st.builds(lambda tail: b"SQLite format 3\0" + tail, st.binary(max_size=300))
    )
)
def test_what_is_no_database_at_all_is_survived(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("hostile") / "queue"
    path.mkdir(mode=0o700)
    (path / schema.FILE_NAME).write_bytes(content)
    assert len(use(path)) == 2
    shutil.rmtree(path)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 16, b"\0" * 8 + b"\xff" * 8, b"y" * 5000])
def test_the_lock_file_may_hold_anything(tmp_path: Path, content: bytes) -> None:
    make_queue(tmp_path / "queue")
    (tmp_path / "queue" / "write.lock").write_bytes(content)
    assert len(use(tmp_path / "queue")) >= 7


# Files made to take for ever


def test_rows_made_to_overlap_do_not_make_a_salvage_endless(tmp_path: Path) -> None:
    """Each of 60,000 cells claims to be as large as the file, by a chain of pages that leads to itself."""
    size = schema.PAGE_SIZE
    queue = DiskQueue(tmp_path / "queue")
    queue.append([Record(b"x" * 60 * size, new_id(), 1e9, 1)])
    queue.close()
    file = tmp_path / "queue" / schema.FILE_NAME
    content = bytearray(file.read_bytes())
    count = len(content) // size
    least = (size - 12) * 32 // 255 - 23
    cell = _varint(least + (count - 2) * (size - 4)) + _varint(5)
    at = 3200
    for number in range(8, count - 2):
        page = bytearray(size)
        page[0], page[3:5] = 0x0D, struct.pack(">H", 1500)
        page[8 : 8 + 3000] = struct.pack(">H", at) * 1500
        page[at : at + len(cell)] = cell
        pointer = at + len(cell) + least
        page[pointer : pointer + 4] = struct.pack(">I", count - 1)
        content[number * size : (number + 1) * size] = page
    content[(count - 2) * size : (count - 1) * size] = struct.pack(">I", count - 1).ljust(size, b"\0")
    content[16:18] = b"\0\0"  # so that it has to be salvaged
    file.write_bytes(content)
    use(tmp_path / "queue")


def test_a_frame_that_claims_to_be_page_two_thousand_million_does_not_make_a_salvage_endless(
    tmp_path: Path, sample: tuple[bytes, bytes]
) -> None:
    wal = bytearray(sample[1])
    wal[0] ^= 0xFF  # a header that is broken: nothing is checked by it
    for frame in range(32, len(wal), 24 + schema.PAGE_SIZE):
        wal[frame : frame + 4] = struct.pack(">I", 2_000_000_000)
    (tmp_path / "queue").mkdir(mode=0o700)
    (tmp_path / "queue" / schema.FILE_NAME).write_bytes(b"\0" * 100 + sample[0][100:])
    (tmp_path / "queue" / f"{schema.FILE_NAME}-wal").write_bytes(wal)
    use(tmp_path / "queue")


def _varint(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))


def rows(path: Path) -> Iterator[tuple[Any, ...]]:
    with sqlite3.connect(path / schema.FILE_NAME) as connection:
        yield from connection.execute(f"SELECT {schema.COLUMNS} FROM {TABLE}").fetchall()


@pytest.mark.parametrize("when", [float("inf"), 1e300, 253_402_300_800.0, -62_135_596_801.0])
def test_a_time_that_no_calendar_can_show_is_set_aside_though_its_checksum_fits(tmp_path: Path, when: float) -> None:
    """A format, or the name of a failed payload file, would fail at it, and the route would stand still for good."""
    make_queue(tmp_path / "queue", count=1)
    connection = sqlite3.connect(tmp_path / "queue" / schema.FILE_NAME)
    crc = crc32(b"{}", crc32(b"i" * 16, crc32(schema.pack_head(2000, when, 5, 1))))
    connection.execute(schema.INSERT, (2000, b"{}", when, b"i" * 16, 1, 5, crc))
    connection.commit()
    connection.close()
    assert 2000 not in [event.rowid for event in use(tmp_path / "queue")]
    assert list((tmp_path / "queue" / "quarantine").iterdir())
