"""The worker and a server that refuses some events: only the culprits are given up, at a bounded price, in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from worker_kit import Rig

from edgespool.event import Batch, Record
from edgespool.failed import FailedFiles, read
from edgespool.outcome import Delivered, Outcome, Reject, Retry, TooLarge

POISON = Reject("HTTP 400: bad event", 400)


def poisoned(*culprits: object) -> Any:
    """Return a server that refuses every batch with one of these events."""
    bad = {str(culprit) for culprit in culprits}
    return lambda batch: POISON if bad & set(batch.ids) else Delivered()


def in_order(rig: Rig) -> None:
    """What was delivered and what was given up are each in the order of recording."""
    for ids in (rig.destination.delivered_ids, rig.failed_ids):
        assert ids == sorted(ids, key=int)


# Bisection


@settings(max_examples=60)
@given(st.integers(0, 999))
def test_one_culprit_among_a_thousand_costs_at_most_21_requests_wherever_it_is(position: int) -> None:
    rig = Rig(poisoned(position), policy={"batch_size": 1000})
    rig.add(*range(1000))
    rig.drain(requests=21)
    assert rig.failed_ids == [str(position)]
    assert rig.destination.delivered_ids == [str(n) for n in range(1000) if n != position]
    rig.check()


@pytest.mark.parametrize("position", [0, 1, 249, 250, 499, 500, 501, 998, 999])
def test_one_culprit_at_a_seam_costs_no_more(position: int) -> None:
    rig = Rig(poisoned(position), policy={"batch_size": 1000})
    rig.add(*range(1000))
    rig.drain(requests=21)
    assert rig.failed_ids == [str(position)]


@settings(max_examples=40)
@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=8), st.integers(1, 70))
def test_any_culprits_are_found_and_no_one_else_suffers(count: int, culprits: set[int], batch_size: int) -> None:
    rig = Rig(poisoned(*culprits), policy={"batch_size": batch_size})
    rig.add(*range(count))
    rig.drain()
    bad = sorted(each for each in culprits if each < count)
    assert rig.failed_ids == [str(each) for each in bad]
    assert rig.destination.delivered_ids == [str(n) for n in range(count) if n not in bad]
    assert rig.clock.monotonic() == 1000.0  # a refusal is no reason to wait
    rig.check()


def test_when_all_are_refused_all_are_given_up_one_by_one() -> None:
    rig = Rig(POISON, policy={"batch_size": 64})
    rig.add(*range(64))
    rig.drain(requests=127)
    assert rig.failed_ids == [str(n) for n in range(64)]
    assert {len(batch) for batch, _, _ in rig.given_up} == {1}
    decision = rig.given_up[0][1]
    assert (decision.reason, decision.status) == (POISON.reason, 400)


def test_a_half_that_goes_in_parts_ends_where_it_was_cut() -> None:
    """Else the search would go on with pieces that hold what was already found to be good."""
    rig = Rig(poisoned(7), [POISON, Retry("busy"), Retry("busy")], policy={"batch_size": 8})
    rig.add(*range(8))
    rig.drain()
    sizes = [len(batch) for batch in rig.destination.batches]
    # Refused; its first half twice in vain; one event to ask whether the server is back; the rest of that half.
    assert sizes[:5] == [8, 4, 4, 1, 3]
    assert sizes[5:] == [4, 2, 2, 1, 1]
    assert rig.failed_ids == ["7"]
    rig.check()


def test_events_that_come_in_meanwhile_keep_their_place_behind() -> None:
    rig = Rig(poisoned(3), policy={"batch_size": 8})
    rig.add(*range(8))
    for number in range(8, 30):
        rig.step()
        rig.add(number)
    rig.drain()
    assert rig.failed_ids == ["3"]
    in_order(rig)
    assert len(rig.destination.delivered_ids) == 29


def test_an_outage_in_the_midst_of_a_bisection_does_not_begin_it_again() -> None:
    outage = iter([False, False, False, True, True, True])

    def answer(batch: Batch) -> Outcome:
        if next(outage, False):
            return Retry("down", everywhere=True)
        return POISON if "50" in batch.ids else Delivered()

    rig = Rig(answer, policy={"batch_size": 64})
    rig.add(*range(64))
    rig.drain(requests=13 + 3 + 2)
    assert rig.failed_ids == ["50"]
    in_order(rig)


def test_a_bisection_goes_on_after_a_failure_of_its_route_alone() -> None:
    busy = iter([False, False, True, False, True])

    def answer(batch: Batch) -> Outcome:
        if next(busy, False):
            return Retry("busy", 503)
        return POISON if "9" in batch.ids else Delivered()

    rig = Rig(answer, policy={"batch_size": 16})
    rig.add(*range(16))
    rig.drain(requests=16)
    assert rig.failed_ids == ["9"]
    in_order(rig)


def test_two_routes_are_bisected_side_by_side() -> None:
    rig = Rig(poisoned("x5", "y2"), policy={"batch_size": 8})
    rig.add(*(f"x{n}" for n in range(8)), route="x")
    rig.add(*(f"y{n}" for n in range(8)), route="y")
    rig.drain(requests=14)
    assert sorted(rig.failed_ids) == ["x5", "y2"]
    for route in "xy":
        ids = [id for batch in rig.destination.delivered if batch.route == route for id in batch.ids]
        assert ids == sorted(ids)


def test_events_dropped_in_the_midst_of_a_bisection_do_not_confuse_it() -> None:
    rig = Rig(poisoned(6), policy={"batch_size": 8, "max_age": 100.0})
    rig.add(*range(8))
    rig.worker.step()
    rig.worker.step()
    rig.clock.advance(101)
    rig.add(*range(8, 12))
    rig.drain()
    assert rig.destination.delivered_ids[-4:] == ["8", "9", "10", "11"]
    rig.check()


def test_a_file_that_cannot_be_written_keeps_the_culprit_and_its_order() -> None:
    rig = Rig(poisoned(2), policy={"batch_size": 4})
    rig.refuse_files = True
    rig.add(*range(6))
    rig.add("other", route="x")
    rig.run(600)
    assert rig.queue.ledger().failed == 0
    assert "2" not in rig.destination.delivered_ids
    assert "other" in rig.destination.delivered_ids
    rig.refuse_files = False
    rig.run(600)
    assert rig.failed_ids == ["2"]
    assert [id for id in rig.destination.delivered_ids if id != "other"] == ["0", "1", "3", "4", "5"]
    rig.check()


def test_what_is_given_up_stands_in_a_file_before_it_leaves_the_queue(tmp_path: Path) -> None:
    files = FailedFiles(str(tmp_path))
    pending: list[int] = []

    def give_up(batch: Batch, decision: Any, attempts: int) -> str:
        path = files.write(
            batch, lambda event: json.dumps({"id": event.id}).encode(), format="json", endpoint="http://x",
            reason=decision.reason, status=decision.status, attempts=attempts, now=rig.clock.time(),
        )  # fmt: skip
        pending.append(rig.queue.ledger().pending)
        return path

    rig = Rig(poisoned("b"))
    rig.worker._give_up = give_up
    rig.add(*"abc")
    rig.drain()
    assert pending == [2]
    (path,) = files.paths()
    payload = read(path)
    assert (payload.events, payload.ids, payload.status, payload.attempts) == ([{"id": "b"}], ["b"], 400, 1)


# Too large


def limited(size: int) -> Any:
    """Return a server that takes requests up to so many payload bytes."""
    too_large = TooLarge("HTTP 413", 413)
    return lambda batch: Delivered() if batch.payload_bytes <= size else too_large


@pytest.mark.parametrize("limit", [100, 999, 1000, 1700, 12_345, 49_999])
def test_a_server_that_takes_less_gets_less_and_everything_arrives(limit: int) -> None:
    rig = Rig(limited(limit), policy={"batch_size": 500})
    rig.add(*range(500), size=100)
    rig.drain(requests=12 + 2 * 50_000 // limit)
    assert rig.destination.delivered_ids == [str(n) for n in range(500)]
    assert rig.given_up == []
    rig.check()


def test_an_event_that_is_too_large_by_itself_goes_to_a_file_and_the_rest_arrives() -> None:
    rig = Rig(limited(2_000))
    for number in range(20):
        rig.add(number, size=5_000 if number in (7, 13) else 100)
    rig.drain(requests=40)
    assert rig.failed_ids == ["7", "13"]
    assert rig.destination.delivered_ids == [str(n) for n in range(20) if n not in (7, 13)]


def test_the_size_that_a_server_takes_is_remembered_and_tried_again_later() -> None:
    refused = 0

    def answer(batch: Batch) -> Outcome:
        nonlocal refused
        if batch.payload_bytes > 1000:
            refused += 1
            return TooLarge("HTTP 413", 413)
        return Delivered()

    rig = Rig(answer, policy={"batch_bytes": 4096})
    rig.add(*range(2000), size=100)
    rig.drain()
    assert refused <= 2 + len(rig.destination.delivered) // 50 + 1
    assert max(len(batch) for batch in rig.destination.batches[-60:]) > 10  # it tried more, in the end


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 0), (0, 1), (0, 0, 1, 1)])
def test_tiny_events_that_are_called_too_large_do_not_make_it_turn_in_circles(sizes: tuple[int, ...]) -> None:
    rig = Rig(lambda batch: Delivered() if len(batch) == 1 else TooLarge("HTTP 413", 413))
    rig.queue.append([Record(b"x" * size, str(number), 0.0, 0) for number, size in enumerate(sizes)])
    rig.drain(requests=3 * len(sizes))
    assert len(rig.destination.delivered_ids) == len(sizes)


def test_too_large_and_refused_at_once_are_told_apart() -> None:
    def answer(batch: Batch) -> Outcome:
        if batch.payload_bytes > 1500:
            return TooLarge("HTTP 413", 413)
        return POISON if "33" in batch.ids else Delivered()

    rig = Rig(answer, policy={"batch_size": 100})
    rig.add(*range(100), size=100)
    rig.drain(requests=45)
    assert rig.failed_ids == ["33"]
    in_order(rig)
    assert len(rig.destination.delivered_ids) == 99
