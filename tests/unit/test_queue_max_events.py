"""The limit on how many events may wait: who gives way, what is counted, and that the fast path keeps to it too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_kit import MIB, MakeQueue, check_ledger, drain, lease, record, records

from edgespool.errors import QueueFull
from edgespool.queue import DiskQueue

OpenQueue = Callable[..., DiskQueue]


def test_at_drop_oldest_the_newest_stay_and_the_others_are_counted(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=10, overflow="drop_oldest")
    for number in range(35):
        queue.append([record(number)])
        assert queue.ledger().pending == min(number + 1, 10)
    check_ledger(queue)
    assert queue.ledger().dropped == {"overflow": 25}
    assert drain(queue) == [str(n) for n in range(25, 35)]


def test_at_drop_oldest_a_batch_makes_places_for_all_of_it(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=10, overflow="drop_oldest")
    queue.append(records(range(8)))
    queue.append(records(range(8, 17)))
    check_ledger(queue)
    assert drain(queue) == [str(n) for n in range(7, 17)]


def test_at_drop_oldest_the_order_of_recording_counts_across_routes(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=7, overflow="drop_oldest")
    for number in range(40):
        queue.append([record(number, f"r{number % 3}")])
    check_ledger(queue)
    assert sorted(map(int, drain(queue))) == list(range(33, 40))


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest"])
def test_more_at_once_than_may_ever_wait_is_refused_and_drops_nothing(make_queue: MakeQueue, overflow: str) -> None:
    queue = make_queue(max_events=3, overflow=overflow)
    queue.append(records("ab"))
    with pytest.raises(QueueFull, match="max_events"):
        queue.append(records("cdef"))
    assert drain(queue) == ["a", "b"]


def test_at_block_more_at_once_than_may_ever_wait_is_refused_at_once(open_queue: OpenQueue) -> None:
    queue = open_queue(max_events=3, overflow="block")
    queue.append(records("ab"))
    with pytest.raises(QueueFull, match="max_events"):
        queue.append(records("cdef"))
    assert drain(queue) == ["a", "b"]


def test_what_could_never_fit_in_bytes_drops_nothing_for_the_sake_of_a_place(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=2, max_bytes=MIB, overflow="drop_oldest")
    queue.append(records("ab"))
    with pytest.raises(QueueFull, match="bytes"):
        queue.append([record("huge", size=4 * MIB)])
    check_ledger(queue)
    assert drain(queue) == ["a", "b"]


def test_both_limits_hold_at_once(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=30, max_bytes=MIB, overflow="drop_oldest")
    for number in range(200):
        queue.append([record(number, size=16_384 if number % 50 < 40 else 10)])
        assert queue.ledger().pending <= 30
    check_ledger(queue)
    left = list(map(int, drain(queue)))
    assert left == list(range(left[0], 200))


def test_at_reject_a_full_queue_takes_again_once_there_is_a_place(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=3)
    queue.append(records("ab"))
    queue.append([record("c")])
    with pytest.raises(QueueFull, match=r"max_events \(3\).*nothing was stored"):
        queue.append([record("d")])
    queue.ack(lease(queue, 1))
    queue.append([record("e")])
    with pytest.raises(QueueFull):
        queue.append([record("f")])
    check_ledger(queue)
    assert drain(queue) == ["b", "c", "e"]


def test_at_drop_newest_what_finds_no_place_is_counted(make_queue: MakeQueue) -> None:
    queue = make_queue(max_events=2, overflow="drop_newest")
    for name in "abcd":
        queue.append([record(name)])
    check_ledger(queue)
    assert (queue.ledger().accepted, queue.ledger().dropped) == (4, {"overflow": 2})
    assert drain(queue) == ["a", "b"]


def test_at_block_the_call_waits_for_a_place(open_queue: OpenQueue) -> None:
    queue = open_queue(max_events=1, overflow="block")
    queue.append([record("a")])
    thread = threading.Thread(target=queue.append, args=([record("b")],))
    thread.start()
    queue.ack(lease(queue, 1))
    thread.join(20)
    assert not thread.is_alive()
    assert drain(queue) == ["b"]


def test_an_older_queue_with_more_is_cut_to_the_limit_at_the_next_append(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.append(records(range(2500)))
    queue.close()
    queue = open_queue(max_events=5, overflow="drop_oldest")
    queue.append([record(2500)])
    check_ledger(queue)
    assert drain(queue) == [str(n) for n in range(2496, 2501)]


def test_two_writers_keep_to_the_limit_together(open_queue: OpenQueue) -> None:
    one, two = (open_queue(max_events=10, overflow="drop_oldest") for _ in range(2))
    for number in range(60):
        (one if number % 7 < 4 else two).append([record(number)])
        assert one.ledger().pending <= 10
    check_ledger(one)
    assert drain(one) == [str(n) for n in range(50, 60)]


def test_threads_that_share_a_commit_keep_to_the_limit(open_queue: OpenQueue) -> None:
    queue = open_queue(max_events=1, overflow="drop_oldest")
    threads = [
        threading.Thread(target=lambda n=n: [queue.append([record(f"{n}-{i}")]) for i in range(40)]) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    check_ledger(queue)
    assert (queue.ledger().accepted, queue.ledger().pending) == (240, 1)
    assert queue.ledger().dropped == {"overflow": 239}


def test_row_ids_never_repeat_when_the_newest_row_gave_way(open_queue: OpenQueue) -> None:
    queue = open_queue(max_events=1, overflow="drop_oldest")
    seen = []
    for number in range(5):
        queue.append([record(number)])
        batch = lease(queue, 1)
        seen.append(batch.events[0].rowid)
        queue.requeue(batch)
        queue.close()
        queue = open_queue(max_events=1, overflow="drop_oldest")
    assert seen == sorted(set(seen))


def test_a_limit_that_is_none_is_refused(open_queue: OpenQueue) -> None:
    with pytest.raises(ValueError, match="max_events"):
        open_queue(max_events=0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_done_the_newest_stay(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 6))
    queue = DiskQueue(tmp_path_factory.mktemp("q"), max_events=limit, overflow="drop_oldest", durability="process")
    model: list[str] = []
    dropped = number = 0
    try:
        for step in data.draw(st.lists(st.tuples(st.sampled_from(["append", "take"]), st.integers(1, 6)), max_size=25)):
            what, count = step
            if what == "append" and count <= limit:
                names: list[Any] = [str(number + n) for n in range(count)]
                number += count
                queue.append(records(names))
                model += names
                dropped += max(0, len(model) - limit)
                model = model[-limit:]
            elif what == "take" and (batch := queue.lease(count, 1 << 30)) is not None:
                assert batch.ids == model[:count]
                queue.ack(batch)
                model = model[count:]
            assert queue.ledger().pending == len(model)
        assert queue.ledger().dropped.get("overflow", 0) == dropped
        check_ledger(queue)
        assert drain(queue) == model
    finally:
        queue.close()
