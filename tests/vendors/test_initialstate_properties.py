"""Whatever is logged, in whatever order the streamer is called: it arrives once, in order, as it was."""

# ruff: noqa: F401 - fixtures come from the kit

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from initialstate_kit import KEY, QUICK, an_environment_of_its_own, wait_until

from edgespool.config import Settings
from edgespool.event import Batch, StoredEvent
from edgespool.testing import Collector
from edgespool.testing.dialects import Headers, Request, State
from edgespool.vendors.initialstate.api import Streamer
from edgespool.vendors.initialstate.dialect import DIALECT
from edgespool.vendors.initialstate.format import InitialState

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=8)
epochs = st.floats(-6e10, 2.5e11)
printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
buckets = st.text(printable, min_size=1).filter(lambda each: each == each.strip())


class Memory:
    """A dialect's state without a store."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def keys(self) -> list[str]:
        return sorted(self.values)


def form() -> InitialState:
    made = InitialState()
    made.configure(Settings(auth=KEY))
    return made


@given(st.lists(st.tuples(text, json_values, epochs, st.booleans()), min_size=1, max_size=5), buckets)
def test_any_events_go_through_the_wire_and_the_failed_file_and_back(
    events: list[tuple[str, Any, float, bool]], bucket: str
) -> None:
    made = form()
    stored = [
        StoredEvent(0, made.encode("x", {"key": key, "value": value}, "id", 1.5 if late else time), time, "id", late)
        for key, value, time, late in events
    ]
    said = [{"key": key, "value": value, "epoch": time} for key, value, time, _ in events]
    request = made.request(Batch(bucket, stored))
    assert json.loads(request.body) == said
    state: State = Memory()
    arrivals = DIALECT.decode(Request("POST", request.path, "", Headers(request.headers.items()), request.body), state)
    assert [(each.event, each.extra) for each in arrivals] == [
        (each, {"bucket": bucket, "bucket_name": None}) for each in said
    ]
    for event, value in zip(stored, said, strict=True):
        rendered = made.render(event)
        assert json.loads(rendered) == value
        back = made.restore(json.loads(rendered), "id", 0.0)
        assert (back.payload, back.time) == (rendered, event.time)


@given(text, text)
def test_any_bucket_goes_through_the_wire_and_back(key: str, name: str) -> None:
    made = form()
    payload = made.encode("bucket", {"bucketKey": key, "bucketName": name}, "id", 1.0)
    assert json.loads(payload) == {"bucketKey": key, "bucketName": name}
    event = StoredEvent(0, payload, 1.0, "id", False)
    assert made.take([event, event]) == 1
    assert made.restore(json.loads(payload), "id", 1.0) == event


objects = st.lists(json_values, max_size=4) | st.dictionaries(text, json_values, max_size=4)
calls = st.one_of(
    st.tuples(st.just("log"), text, json_values),
    st.tuples(st.just("log_object"), objects),
    st.tuples(st.just("set_bucket"), text, buckets),
    st.tuples(st.just("flush")),
    st.tuples(st.just("close")),
)


@pytest.fixture(scope="module")
def shared_collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@settings(max_examples=25)
@given(st.lists(calls, max_size=12), st.booleans(), st.integers(0, 5))
def test_any_order_of_calls_delivers_every_reading_once_in_its_bucket_in_order(
    shared_collector: Collector, done: list[tuple[Any, ...]], use_async: bool, buffer_size: int
) -> None:
    before = shared_collector.count()
    with tempfile.TemporaryDirectory() as folder:
        streamer = Streamer(
            "First", "first", KEY, use_async=use_async, buffer_size=buffer_size,
            url=shared_collector.base_url, path=folder, flush_interval=0.01, durability="process",
        )  # fmt: skip
        expected: list[tuple[str, str, Any]] = []
        for name, *arguments in done:
            getattr(streamer, name)(*arguments)
            if name == "log":
                expected.append((streamer.BucketKey, arguments[0], arguments[1]))
            elif name == "log_object":
                [obj] = arguments
                items = obj.items() if isinstance(obj, dict) else enumerate(obj)
                expected += [(streamer.BucketKey, f"{type(obj).__name__}_{key}", value) for key, value in items]
        assert streamer.refused == 0
        streamer.close()
        if streamer._client.close().pending:  # slower than `close` waits: the next start sends it
            streamer.log("last", 0)
            expected.append((streamer.BucketKey, "last", 0))
            wait_until(lambda: streamer._client.stats().pending == 0)
            streamer.close()
    arrived = shared_collector.arrived(offset=before)
    got = [(each.extra["bucket"], each.event["key"], each.event["value"]) for each in arrived]
    assert len(got) == len(expected)
    for bucket in {each[0] for each in expected}:
        assert [each for each in got if each[0] == bucket] == [each for each in expected if each[0] == bucket]
    assert all(each.extra["bucket_name"] is not None for each in arrived)
    assert all(each.times_seen == 1 for each in arrived)
