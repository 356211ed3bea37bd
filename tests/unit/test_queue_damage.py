"""A row whose checksum fails: it goes to the quarantine, is counted, and stops nobody."""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit_kit import MIB, check_ledger, drain, lease, records, table

from edgespool.event import id_text, new_id
from edgespool.queue import DiskQueue, schema

OpenQueue = Callable[..., DiskQueue]


def spoil(queue: DiskQueue, change: str, rowid: int) -> None:
    """Change a row behind the queue's back."""
    writer = queue._store.writer
    assert writer is not None
    writer.execute(f"UPDATE {schema.TABLE} SET {change} WHERE _id = ?", (rowid,))


def quarantined(path: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((path / "quarantine").iterdir()) for row in json.loads(file.read_text())["rows"]]


@pytest.mark.parametrize("ids", ["uuids", "texts"])
@pytest.mark.parametrize(
    "change",
    [
        "data = cast('{\"n\":\"X\"}' AS BLOB)",
        "data = NULL",
        "data = 'text'",
        "data = zeroblob(100000)",
        "event_id = 'somebody else'",
        "event_id = NULL",
        "event_id = 7",
        "timestamp = timestamp + 1",
        "timestamp = 'yesterday'",
        "timestamp = NULL",
        "session = session + 1",
        "session = NULL",
        "mono = mono + 1",
        "mono = 'x'",
        "crc = crc + 1",
        "crc = NULL",
    ],
)
def test_whatever_is_wrong_with_a_row_it_is_set_aside_and_its_neighbours_are_delivered(
    queue: DiskQueue, tmp_path: Path, change: str, ids: str
) -> None:
    given = [each._replace(id=new_id()) if ids == "uuids" else each for each in records("abcde")]
    queue.append(given)
    spoil(queue, change, 3)
    assert drain(queue) == [id_text(each.id) for each in given if each is not given[2]]
    check_ledger(queue)
    assert queue.ledger().dropped == {"damaged": 1}
    assert len(quarantined(tmp_path / "queue")) == 1


def test_a_row_that_was_moved_is_set_aside(queue: DiskQueue, tmp_path: Path) -> None:
    queue.append(records("abc"))
    spoil(queue, "_id = 1000", 2)
    assert drain(queue) == ["a", "c"]
    assert [row["_id"] for row in quarantined(tmp_path / "queue")] == [1000]
    assert queue.ledger().balanced


def test_a_bit_flipped_on_the_disk_is_noticed(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("abc", size=200))
    queue.close()
    path = tmp_path / "queue" / "queue.db"
    content = bytearray(path.read_bytes())
    at = content.index(b'{"n":"b"}') + 150
    content[at] ^= 0x10
    path.write_bytes(content)
    assert drain(open_queue()) == ["a", "c"]
    (row,) = quarantined(tmp_path / "queue")
    assert base64.b64decode(row["data"]["base64"])[150] == 0x20 ^ 0x10
    assert row["event_id"] == "b"


def test_the_quarantine_is_for_the_owner_alone_and_the_log_says_where(
    queue: DiskQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue.append(records("ab"))
    spoil(queue, "crc = 0", 1)
    assert drain(queue) == ["b"]
    (file,) = (tmp_path / "queue" / "quarantine").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (said,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert str(file) in said.getMessage()
    assert "1 damaged event" in said.getMessage()


def test_many_damaged_rows_in_several_routes_are_all_counted(queue: DiskQueue, tmp_path: Path) -> None:
    queue.append(records(range(30)))
    queue.append(records(range(30, 60), "x"))
    for row in table(queue)[::3]:
        spoil(queue, "crc = crc + 1", row[0])
    assert len(drain(queue, 7)) == 40
    check_ledger(queue)
    assert queue.ledger().dropped == {"damaged": 20}
    assert len(quarantined(tmp_path / "queue")) == 20


def test_a_damaged_row_is_counted_before_it_is_gone_and_never_comes_back(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.append(records("ab"))
    spoil(queue, "crc = 0", 1)
    assert lease(queue).ids == ["b"]
    assert (queue.ledger().pending, queue.count_rows()) == (1, 1)
    queue.close()
    assert drain(open_queue()) == ["b"]


def test_a_disk_that_takes_no_quarantine_file_stops_neither_lease_nor_ack(
    open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue()
    queue.append(records("abcd"))
    spoil(queue, "crc = 0", 2)

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        assert drain(queue) == ["a", "c", "d"]
    assert queue.count_rows() == 1  # it stays, and is tried again at the next start
    check_ledger(queue)
    queue.close()
    queue = open_queue()
    assert drain(queue) == []
    assert queue.ledger().dropped == {"damaged": 1}
    assert len(quarantined(tmp_path / "queue")) == 1


def test_the_oldest_event_can_be_asked_for_though_it_is_damaged(queue: DiskQueue) -> None:
    assert queue.oldest() is None
    queue.append(records("ab"))
    spoil(queue, "mono = NULL, session = NULL", 1)
    queue.oldest()
    assert queue.expire(1.0) == 0
    assert drain(queue, MIB) == ["b"]
