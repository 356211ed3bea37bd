"""`Client.record_many`: the short way for plain pairs and the long way for everything else store the same."""

from __future__ import annotations

import json
import math
from collections import UserString
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from edgespool import Client, Event
from edgespool.errors import EventError

GOOD = ("temperature", {"value": 21.5, "note": 'a "quoted", “ü” \u2028 note'})


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Client("http://127.0.0.1:9/", path=tmp_path / "queue", source="pi", start=False, batch_bytes=5000) as client:
        yield client


def stored(client: Client) -> list[Any]:
    batch = client._queue.lease(10_000, 1 << 30)
    return [] if batch is None else [json.loads(event.payload) for event in batch.events]


@pytest.mark.parametrize("count", [1, 2, 100, 101, 350])
def test_plain_pairs_are_stored_in_order_with_the_ids_that_are_returned(client: Client, count: int) -> None:
    ids = client.record_many([("reading", {"n": n}) for n in range(count)])
    found = stored(client)
    assert [event["data"] for event in found] == [{"n": n} for n in range(count)]
    assert [event["id"] for event in found] == ids


def test_both_ways_store_the_same(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = [GOOD, ("b", {}), ("ü", {"deep": [{"x": [1, 2]}]}), ("when", {"at": datetime(2026, 1, 1)})]
    client.record_many(events)
    monkeypatch.setattr(client, "_encode_many", None)
    client.record_many(events)
    found = [{key: value for key, value in event.items() if key not in ("id", "time")} for event in stored(client)]
    assert found[:4] == found[4:]


@pytest.mark.parametrize(
    "other",
    [
        Event("late", {"n": 1}, time=datetime(2026, 1, 1, tzinfo=timezone.utc), id="mine", route="kitchen"),
        Event("plain"),
        ("mapping", MappingProxyType({"n": 1})),
    ],
    ids=["event with everything", "event", "mapping"],
)
def test_what_is_no_plain_pair_may_stand_among_them(client: Client, other: Any) -> None:
    ids = client.record_many([GOOD, other, GOOD])
    assert len(set(ids)) == 3
    assert client.stats().pending == 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (("x", {"a": math.nan}), r"event 102 of 103: data\.a: nan is not a number"),
        (("x", {"a": {1}}), r"event 102 of 103: data\.a: set cannot be said"),
        (("x", {"a": "\ud800"}), r"event 102 of 103: data\.a: .* lone surrogate"),
        (("\ud800", {}), r"event 102 of 103: (name: .*|.*lone surrogate)"),
        (("", {}), "event 102 of 103: event name"),
        ((UserString("x"), {}), "event 102 of 103: event name"),
        (("x", [1]), "event 102 of 103: event data"),
        (("x", {"a": "y" * 6000}), "event 102 of 103: .* bytes encoded, more than batch_bytes"),
        (("x", {}, 3), r"event 102 of 103: an Event or \(name, data\) is needed"),
        (["x", {}], r"event 102 of 103: an Event or \(name, data\) is needed"),
        (None, r"event 102 of 103: an Event or \(name, data\) is needed"),
    ],
)
def test_one_bad_event_is_named_by_its_number_and_none_is_stored(client: Client, bad: Any, said: str) -> None:
    with pytest.raises(EventError, match=said):
        client.record_many([GOOD] * 101 + [bad, GOOD])
    assert client.stats().accepted == 0


def test_no_events_are_no_error(client: Client) -> None:
    assert client.record_many([]) == []
    assert client.stats().accepted == 0
