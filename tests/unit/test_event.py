"""Events, ids and batches as values."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
import time
import uuid
from datetime import datetime, timedelta, timezone
from itertools import count
from threading import Thread
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from unit_kit import stored

from edgespool import event as event_module
from edgespool.errors import EventError
from edgespool.event import Batch, Columns, Event, StoredEvent, id_text, new_id, new_ids, next_id


def test_an_id_is_a_uuid_of_version_7_that_begins_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(id_text(new_id()))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_are_unique_whatever_the_program_does_with_random() -> None:
    seen = set()
    for _ in range(3):
        random.seed(42)
        seen.update(new_id() for _ in range(1000))
    assert len(seen) == 3000


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_ids_drawn_together_are_as_good_as_ids_drawn_one_by_one(count: int) -> None:
    raws, texts = new_ids(count)
    assert [id_text(raw) for raw in raws] == texts
    assert len(set(raws)) == count
    assert raws == sorted(raws)
    assert all((uuid.UUID(text).version, uuid.UUID(text).variant) == (7, uuid.RFC_4122) for text in texts)
    again, _ = new_ids(count)
    assert not set(raws) & set(again)


@pytest.mark.parametrize("step", [0, 1_000_000], ids=["within a millisecond", "each in its own"])
def test_ids_made_one_after_the_other_are_unique_and_in_order(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    now = count(1_790_000_000_000_000_000, step)
    monkeypatch.setattr(event_module.time, "time_ns", lambda: next(now))
    made = [next_id() for _ in range(1000)]
    raws = [raw for raw, _ in made]
    assert raws == sorted(set(raws))
    assert all(id_text(raw) == text for raw, text in made)
    assert all((uuid.UUID(text).version, uuid.UUID(text).variant) == (7, uuid.RFC_4122) for _, text in made)


def test_threads_never_make_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_module.time, "time_ns", lambda: 1_790_000_000_000_000_000)
    made: list[list[bytes]] = [[] for _ in range(4)]
    threads = [Thread(target=lambda mine=mine: mine.extend(next_id()[0] for _ in range(2000))) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set().union(*made)) == 8000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on_with_no_series_of_its_parents() -> None:
    code = (
        "import os, time\ntime.time_ns = lambda: 1790000000000000000\nfrom edgespool.event import next_id\nnext_id()\n"
        "read, write = os.pipe()\nif os.fork() == 0:\n    os.write(write, next_id()[0]); os._exit(0)\n"
        "mine = next_id()[0]; os.wait(); print(mine[6:10] != os.read(read, 16)[6:10])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    code = (
        "import os\nfrom edgespool.event import new_id\nnew_id()\nread, write = os.pipe()\n"
        "if os.fork() == 0:\n    os.write(write, new_id()); os._exit(0)\n"
        "mine = new_id(); os.wait(); print(mine[6:] != os.read(read, 16)[6:])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("nanoseconds", [-(10**18), 0, 10**30])
def test_an_id_can_be_made_with_a_clock_that_is_out_of_range(
    monkeypatch: pytest.MonkeyPatch, nanoseconds: int
) -> None:
    monkeypatch.setattr(event_module.time, "time_ns", lambda: nanoseconds)
    assert uuid.UUID(id_text(new_id())).version == 7


def test_the_text_of_an_id_is_the_usual_form_or_the_users_own() -> None:
    raw = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057").bytes
    assert id_text(raw) == "01890a5d-ac96-774b-bcce-b302099a8057"
    assert id_text("own id") == "own id"


# Events


def test_an_event_keeps_what_it_was_given() -> None:
    event = Event("temperature", {"value": 21.5}, time=1.5, id="a", route="kitchen")
    assert (event.name, event.data, event.time, event.id, event.route) == (
        "temperature", {"value": 21.5}, 1.5, "a", "kitchen",
    )  # fmt: skip
    plain = Event("temperature")
    assert plain.data == {}
    assert (plain.time, plain.id, plain.route, plain.epoch()) == (None, None, "", None)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": b"bytes"}, "name"),
        ({"name": "lone \ud800"}, "name"),
        ({"data": [1]}, "data"),
        ({"data": None}, "data"),
        ({"data": "text"}, "data"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"id": "\udfff"}, "id"),
        ({"route": None}, "route"),
        ({"route": 7}, "route"),
        ({"route": "\ud800"}, "route"),
        ({"time": "now"}, "time"),
        ({"time": True}, "time"),
        ({"time": float("nan")}, "time"),
        ({"time": float("inf")}, "time"),
        ({"time": 1e18}, "time"),
        ({"time": -1e18}, "time"),
        ({"time": 1_700_000_000_000}, "time"),  # milliseconds
    ],
)
def test_what_is_no_event_is_refused_and_the_field_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(EventError, match=f"event {named}: "):
        Event(**{"name": "a", **given})


def test_a_time_may_be_a_datetime_with_or_without_a_zone() -> None:
    moment = datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert Event("a", time=moment).epoch() == moment.timestamp()
    naive = datetime(2020, 1, 1, 12)
    assert Event("a", time=naive).epoch() == naive.astimezone().timestamp()
    assert str(Event("a", time=-0.0).epoch()) == str(Event("a", time=0).epoch()) == "0.0"
    assert isinstance(Event("a", time=7).epoch(), float)


# Batches


@given(st.integers(0, 20), st.integers(0, 25), st.booleans())
def test_a_batch_can_be_cut_anywhere(size: int, at: int, by_columns: bool) -> None:
    batch = stored(range(size), "kitchen")
    if by_columns:
        batch = Batch(batch.route, batch.columns)
    first, rest = batch.cut(at)
    assert first.ids + rest.ids == batch.ids
    assert len(first) == min(size, at)
    assert first.route == rest.route == "kitchen"
    assert first.payload_bytes + rest.payload_bytes == batch.payload_bytes == 10 * size


@given(
    st.lists(
        st.tuples(
            st.integers(), st.binary(max_size=3), st.floats(allow_nan=False),
            st.binary(max_size=2) | st.text(max_size=2), st.booleans(),
        ).map(StoredEvent._make),
        max_size=6,
    ),
    st.integers(-8, 8), st.integers(-8, 8),
)  # fmt: skip
def test_columns_are_to_who_reads_them_what_a_list_is(events: list[StoredEvent], start: int, stop: int) -> None:
    columns = Batch("", events).columns
    assert list(columns) == events == columns
    assert [type(event) for event in columns] == [StoredEvent] * len(events)
    assert (len(columns), repr(columns), bool(columns)) == (len(events), repr(events), bool(events))
    assert columns[start:stop] == events[start:stop] != [*events[start:stop], events]
    assert isinstance(columns[start:stop], Columns)
    assert [columns[-n] for n in range(1, len(events) + 1)] == events[::-1] == list(reversed(columns))
    assert all(event in columns for event in events)
    assert columns != 1
    with pytest.raises(IndexError):
        columns[len(events)]
    one_by_one = Columns()
    for event in events:
        one_by_one.append(event)
    half = Columns()
    half.extend(columns.rowids, columns.payloads, columns.times, columns.raw_ids)
    assert one_by_one == columns
    assert half == [event._replace(corrected=False) for event in events]


@pytest.mark.parametrize("by_columns", [True, False])
def test_a_batch_is_a_named_tuple_like_any_other(by_columns: bool) -> None:
    events = stored(range(20)).events
    batch = Batch("", Batch("", events).columns if by_columns else events)
    assert batch._replace(route="kitchen") == Batch("kitchen", batch.events)
    assert batch._replace(events=batch.events[:3]).ids == batch.ids[:3]
    assert Batch._make(["", batch.events]) == batch
    assert type(batch._replace(route="kitchen")) is Batch
    with pytest.raises(TypeError):
        Batch._make([""])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(batch, protocol)) == batch
    assert copy.copy(batch) == copy.deepcopy(batch) == batch
