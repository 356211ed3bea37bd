"""persist-queue and our file: plain `SQLiteAckQueue` reads it, and `DiskQueue` speaks persist-queue's own methods."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import persistqueue
import persistqueue.serializers.json
import pytest
from unit_kit import check_ledger, records

from edgespool.errors import QueueError
from edgespool.queue import DiskQueue

OpenQueue = Callable[..., DiskQueue]


@contextlib.contextmanager
def plain(path: Path) -> Iterator[Any]:
    """Open our file as anybody would who has only persist-queue."""
    queue = persistqueue.SQLiteAckQueue(
        str(path), db_file_name="queue.db", serializer=persistqueue.serializers.json, multithreading=True
    )
    try:
        yield queue
    finally:
        queue.close()


# Their class, our file


def test_plain_persist_queue_reads_our_events(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("abc"))
    queue.append(records("d", "kitchen"))
    queue.close()
    with plain(tmp_path / "queue") as theirs:
        assert theirs.size == 4
        assert [theirs.get(block=False) for _ in range(4)] == [{"n": name} for name in "abcd"]
        with pytest.raises(persistqueue.Empty):
            theirs.get(block=False)


def test_plain_persist_queue_reads_while_we_write(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("a"))
    with plain(tmp_path / "queue") as theirs:
        assert theirs.get(block=False) == {"n": "a"}
        queue.append(records("b"))
        assert theirs.get(block=False) == {"n": "b"}
    assert queue.ledger().pending == 2


def test_what_plain_persist_queue_puts_in_harms_none_of_ours(open_queue: OpenQueue, tmp_path: Path) -> None:
    queue = open_queue()
    queue.append(records("a"))
    with plain(tmp_path / "queue") as theirs:
        theirs.put({"foreign": True})
    queue.append(records("b"))
    queue.append(records("cd"))
    ids = []
    while (batch := queue.lease(10, 1 << 20)) is not None:
        ids += batch.ids
        queue.ack(batch)
    assert ids == ["a", "b", "c", "d"]
    # The foreign row has no checksum: it counts as damaged and stands in the quarantine.
    check_ledger(queue)
    assert queue.ledger().dropped == {"damaged": 1}
    (kept,) = (tmp_path / "queue" / "quarantine").iterdir()
    assert json.loads(kept.read_text())["rows"][0]["event_id"] is None


# Our class, their methods


def test_what_is_put_is_got_in_order(queue: DiskQueue) -> None:
    items = [{"a": 1}, [1, "two", None], "text", 5, {"pqid": 7}]
    for item in items:
        queue.put(item)
    assert (queue.size, len(queue), queue.qsize(), queue.active_size()) == (5, 5, 5, 5)
    assert [queue.get() for _ in items] == items
    assert queue.unack_count() == 5
    assert queue.size == 5


def test_an_acked_item_is_gone_and_counted(queue: DiskQueue) -> None:
    queue.put("a")
    queue.put("b")
    item = queue.get()
    assert queue.ack(item) == 1
    assert (queue.size, queue.unack_count(), queue.ledger().delivered) == (1, 0, 1)
    assert queue.get() == "b"
    with pytest.raises(ValueError, match="not got from this queue"):
        queue.ack("c")


def test_a_nacked_item_comes_again_at_its_place(queue: DiskQueue) -> None:
    for item in "abc":
        queue.put(item)
    first = queue.get()
    assert queue.get() == "b"
    queue.nack(first)
    assert [queue.get(), queue.get()] == ["a", "c"]


def test_an_item_that_failed_is_dropped_and_counted(queue: DiskQueue) -> None:
    queue.put("a")
    queue.ack_failed(queue.get())
    check_ledger(queue)
    assert queue.ledger().dropped == {"ack_failed": 1}
    assert queue.empty()


def test_an_item_with_a_key_pqid_is_an_item_like_any_other(queue: DiskQueue) -> None:
    queue.put("other")
    queue.put({"pqid": 1, "data": "x"})
    other, item = queue.get(), queue.get()
    assert queue.ack(item) == 2
    assert queue.size == 1
    assert queue.ack(other) == 1


def test_an_item_can_be_got_and_acked_by_its_id(queue: DiskQueue) -> None:
    for item in "abc":
        queue.put(item)
    assert queue.get(id=2) == "b"
    with pytest.raises(persistqueue.Empty):
        queue.get(block=False, id=2)
    assert queue.ack(id=2) == 2
    raw = queue.get(raw=True)
    assert (raw["pqid"], raw["data"]) == (1, "a")
    assert queue.ack(raw) == 1
    assert queue.get() == "c"


@pytest.mark.parametrize("method", ["ack", "nack", "ack_failed"])
def test_an_unknown_id_is_refused(queue: DiskQueue, method: str) -> None:
    queue.put("a")
    with pytest.raises(ValueError, match="not got from this queue"):
        getattr(queue, method)(id=9999)
    with pytest.raises(ValueError, match="an item or an id"):
        getattr(queue, method)()
    assert queue.size == 1


def test_get_says_empty_at_once_or_after_its_timeout(queue: DiskQueue) -> None:
    for call in (
        lambda: queue.get_nowait(),
        lambda: queue.get(block=False),
        lambda: queue.get(timeout=0.0),
        lambda: queue.get(timeout=0.001),
    ):
        with pytest.raises(persistqueue.Empty):
            call()
    assert bool(queue)


def test_what_was_got_and_not_acked_is_there_after_a_restart(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.put("a")
    assert queue.get() == "a"
    queue.close()
    assert open_queue().get() == "a"


def test_what_does_not_fit_this_queue_is_refused_in_words(queue: DiskQueue) -> None:
    with pytest.raises(QueueError, match="cannot be changed"):
        queue.update({"pqid": 1, "data": 2})
    with pytest.raises(QueueError, match="in order anyway"):
        queue._pop(next_in_order=True)
    queue.clear_acked_data()
    queue.resume_unack_tasks()
