"""What goes over the wire: CloudEvents as the `cloudevents` package reads them, and bare JSON."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import hypothesis.strategies as st
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given

from edgespool import formats
from edgespool.errors import ConfigError, EventError
from edgespool.event import Batch, Event, StoredEvent, id_text, new_id
from edgespool.formats.cloudevents import CloudEvents, idempotency_key, parse_time, rfc3339
from edgespool.formats.json import PlainJson
from edgespool.outcome import Delivered, Hold, Reject, Reply, Retry

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
DATA = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
        lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXT, below, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)
TIMES = st.floats(-62_135_596_800, 253_402_300_799, allow_nan=False)
CLOSE = 1e-4  # seconds to which a float can say a time at the ends of the calendar
IDS = TEXT | st.builds(new_id)
EVENTS = st.tuples(TEXT, DATA, IDS, TIMES)


def stored(form: Any, name: str, data: dict[str, Any], id: bytes | str, time: float) -> StoredEvent:
    return StoredEvent(1, form.encode(name, data, id_text(id), time), time, id, False)


def near(moment: datetime | None, time: float) -> bool:
    assert moment is not None
    return abs((moment - EPOCH).total_seconds() - time) < CLOSE


# CloudEvents


@given(st.lists(st.tuples(TEXT, DATA, TEXT), min_size=1, max_size=250), TIMES)
def test_events_encoded_together_are_what_each_would_be_alone(
    events: list[tuple[str, dict[str, Any], str]], time: float
) -> None:
    form = CloudEvents("pi")
    names, data, ids = zip(*events, strict=True)
    alone = [form.encode(name, each, id, time) for name, each, id in events]
    assert form.encode_many(names, data, ids, time) == alone


@given(TEXT, st.lists(EVENTS, min_size=1, max_size=5))
def test_the_cloudevents_package_reads_every_batch(source: str, events: list[tuple[Any, ...]]) -> None:
    form = CloudEvents(source)
    batch = Batch("", [stored(form, *event) for event in events])
    request = form.request(batch)
    assert request.headers["Content-Type"] == "application/cloudevents-batch+json; charset=utf-8"
    parsed = [JSONFormat().read(CloudEvent, json.dumps(each)) for each in json.loads(request.body)]
    for event, (name, data, id, time) in zip(parsed, events, strict=True):
        assert (event.get_type(), event.get_data(), event.get_id()) == (name, data, id_text(id))
        assert event.get_specversion() == "1.0"
        assert event.get_source() == form.source
        assert event.get_source().isascii()
        assert near(event.get_time(), time)


@given(EVENTS, TIMES)
def test_a_time_that_was_put_right_is_sent_with_a_mark(event: tuple[Any, ...], right: float) -> None:
    form = CloudEvents("pi")
    batch = Batch("", [stored(form, *event)._replace(time=right, corrected=True)])
    (value,) = json.loads(form.request(batch).body)
    assert form.render(batch.events[0]) == form.request(batch).body[1:-1]
    parsed = JSONFormat().read(CloudEvent, json.dumps(value))
    assert near(parsed.get_time(), right)
    assert parsed.get_extension("timecorrected") is True
    assert (parsed.get_type(), parsed.get_data(), parsed.get_id()) == (event[0], event[1], id_text(event[2]))


@given(EVENTS, st.none() | TIMES)
def test_a_rendered_cloudevent_can_be_restored(event: tuple[Any, ...], right: float | None) -> None:
    form = CloudEvents("pi")
    sent = stored(form, *event)
    if right is not None:
        sent = sent._replace(time=right, corrected=True)
    again = form.restore(json.loads(form.render(sent)), None, None)
    assert (again.id, again.corrected) == (sent.id, sent.corrected)
    assert abs(again.time - sent.time) < CLOSE
    assert form.render(again) == form.render(sent)


def test_a_foreign_cloudevent_keeps_what_it_has_and_gets_what_it_lacks() -> None:
    form = CloudEvents("pi")
    value = {"type": "t", "data_base64": "AAE=", "subject": "s", "time": "2020-01-01T00:00:00Z", "id": "own"}
    rendered = json.loads(form.render(form.restore(value, "other", 5.0)))
    assert rendered == {**value, "time": "2020-01-01T00:00:00.000000Z", "specversion": "1.0", "source": "pi"}
    rendered = json.loads(form.render(form.restore({"type": "t"}, "given", 5.0)))
    assert (rendered["id"], rendered["time"]) == ("given", "1970-01-01T00:00:05.000000Z")


@pytest.mark.parametrize(
    "value",
    [None, [], "text", {}, {"type": 7}, {"type": "t", "time": "soon"}, {"type": "t", "time": "2020-01-01T00:00"}],
)
def test_what_is_no_cloudevent_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - one of several
        CloudEvents("pi").restore(value, "id", 5.0)


@pytest.mark.parametrize(("id", "time", "lacks"), [(None, 5.0, "id"), ("", 5.0, "id"), ("id", None, "time")])
def test_what_nobody_knows_is_a_value_error(id: str | None, time: float | None, lacks: str) -> None:
    with pytest.raises(ValueError, match=f"lacks an? {lacks}"):
        CloudEvents("pi").restore({"type": "t"}, id, time)


def test_a_cloudevent_that_cannot_be_said_is_refused() -> None:
    form = CloudEvents("pi")
    with pytest.raises(EventError, match=r"data\.value: nan"):
        form.encode("t", {"value": float("nan")}, "id", 5.0)
    with pytest.raises(EventError, match=r"name: .* lone surrogate"):
        form.encode("\ud800", {}, "id", 5.0)
    with pytest.raises(ConfigError, match="non-empty source"):
        CloudEvents("")


def test_a_program_with_very_many_names_does_not_fill_the_memory() -> None:
    form = CloudEvents("pi")
    for number in range(2000):
        assert json.loads(form.encode(f"n{number}", {}, "id", 5.0))["type"] == f"n{number}"
    assert len(form._middles) <= 256


# Times


@given(TIMES)
def test_every_time_an_event_can_have_is_written_in_the_same_width_and_comes_back(time: float) -> None:
    text = rfc3339(time)
    assert len(text) == len("2026-11-22T10:00:00.000000Z")
    assert abs(parse_time(text) - time) < CLOSE


@pytest.mark.parametrize(
    "time", [253_402_300_799.999_97, 253_402_300_799.999_9999, -62_135_596_800.0, -0.5, 0.999_999_9]
)
def test_times_at_the_ends_of_the_calendar_are_refused_or_written(time: float) -> None:
    try:
        seconds = Event("a", time=time).epoch()
    except EventError:
        return
    assert seconds is not None
    assert abs(parse_time(rfc3339(seconds)) - time) < CLOSE


@pytest.mark.parametrize("text", ["2020-01-01T01:00:00+01:00", "2020-01-01T00:00:00z", "2020-01-01T00:00:00.000Z"])
def test_times_as_others_write_them_are_understood(text: str) -> None:
    assert parse_time(text) == 1_577_836_800.0


# Idempotency


@given(st.lists(IDS, unique=True, min_size=1, max_size=8))
def test_the_idempotency_key_is_equal_for_equal_batches_alone(ids: list[bytes | str]) -> None:
    events = [StoredEvent(n, b"{}", 0.0, id, False) for n, id in enumerate(ids)]
    others = [event._replace(rowid=9, time=5.0, payload=b"{ }") for event in events]
    key = idempotency_key(Batch("", events))
    assert key == idempotency_key(Batch("", others))
    assert key.isascii()
    assert key.isalnum()
    assert len({key, *(idempotency_key(Batch("", each)) for each in (events[:-1], [*events, events[0]]))}) == 3
    for form in (CloudEvents("pi"), PlainJson()):
        payload = form.encode("t", {}, "id", 0.0)
        request = form.request(Batch("", [event._replace(payload=payload) for event in events]))
        assert request.headers["Idempotency-Key"] == key


# Bare JSON


@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_bare_json_is_the_array_of_the_data(events: list[tuple[Any, ...]]) -> None:
    form = PlainJson("ignored")
    batch = Batch("", [stored(form, *event) for event in events])
    request = form.request(batch)
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == [data for _, data, _, _ in events]
    assert form.take(batch.events) == len(events)


@given(EVENTS)
def test_a_rendered_json_object_can_be_restored(event: tuple[Any, ...]) -> None:
    form = PlainJson()
    sent = stored(form, *event)
    again = form.restore(json.loads(form.render(sent)), sent.id, sent.time)
    assert (again.payload, again.id, again.time) == (sent.payload, sent.id, sent.time)
    assert form.restore({}, None, None).id != form.restore({}, None, None).id
    with pytest.raises(ValueError, match="a JSON object is needed, not list"):
        form.restore([], "id", 1.0)


# Which formats there are


def test_formats_are_made_by_their_names() -> None:
    assert {"cloudevents", "json"} <= set(formats.names())
    assert formats.create("cloudevents", "pi").name == "cloudevents"
    assert formats.create("json", "pi").name == "json"
    with pytest.raises(ConfigError, match="there is no 'xml'; there are atom, cloudevents"):
        formats.create("xml", "pi")


def test_a_package_can_bring_a_format_and_a_wrong_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def __init__(self, name: str, made: Any) -> None:
            self.name, self.made = name, made

        def load(self) -> Any:
            return lambda source: self.made

    points = [Point("mine", PlainJson("x")), Point("broken", object())]
    registered = {formats.ENTRY_POINTS: points}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: registered[group])
    assert {"broken", "cloudevents", "json", "mine"} <= set(formats.names())  # and the vendors'
    assert formats.names() == sorted(formats.names())
    assert formats.create("mine", "pi") is points[0].made
    with pytest.raises(ConfigError, match="'broken' stands for is not a Format"):
        formats.create("broken", "pi")


@pytest.mark.parametrize("name", ["cloudevents", "json"])
def test_the_built_in_formats_read_replies_by_their_status(name: str) -> None:
    form = formats.create(name, "pi")
    for status, outcome in ((204, Delivered), (401, Hold), (503, Retry), (400, Reject)):
        assert isinstance(form.outcome(Reply(status, {})), outcome)
