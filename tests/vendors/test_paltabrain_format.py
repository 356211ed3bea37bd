"""PaltaBrain's Format by itself: stored bytes, batches, times, restoring, with values of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespool import formats
from edgespool.config import Settings
from edgespool.errors import ConfigError, EventError
from edgespool.event import Batch, StoredEvent
from edgespool.formats import Service
from edgespool.interfaces import Format
from edgespool.outcome import Delivered, Hold, Outcome, Reject, Reply, Retry, TooLarge
from edgespool.vendors.paltabrain import sdk_pb2
from edgespool.vendors.paltabrain.format import LARGEST_BATCH, PaltaBrain, batch_id, split

_INT = st.integers(-(1 << 63), (1 << 63) - 1)
_TIME = st.floats(-1e9, 4e9)
_DATA = st.fixed_dictionaries(
    {"instance_id": st.text(min_size=1, max_size=300), "payload": st.binary(max_size=300)},
    optional={
        "context": st.binary(max_size=300),
        "header": st.binary(max_size=300),
        "session_id": st.none() | _INT,
        "session_event_seq_num": st.none() | _INT,
    },
)


def made() -> PaltaBrain:
    form = PaltaBrain()
    form.configure(Settings(url="http://127.0.0.1:9", auth="key"))
    return form


def stored(data: Mapping[str, Any], time: float = 1.5, id: str = "id", corrected: bool = False) -> StoredEvent:
    return StoredEvent(0, PaltaBrain().encode("Event", data, id, time), time, id, corrected)


def sent(events: Sequence[StoredEvent]) -> Any:
    return sdk_pb2.Batch.FromString(made().request(Batch("", events)).body)


def test_it_is_a_format_and_a_service_that_is_found_by_its_name() -> None:
    form = formats.create("paltabrain", "pi")
    assert isinstance(form, Format)
    assert isinstance(form, Service)
    assert form.name == "paltabrain"
    assert "paltabrain" in formats.names()


@given(_DATA, _TIME)
def test_every_event_arrives_as_it_was(data: dict[str, Any], time: float) -> None:
    batch = sent([stored(data, time)])
    (event,) = batch.events
    assert batch.common.instance_id == data["instance_id"]
    assert batch.context == data.get("context", b"")
    assert (event.header, event.payload) == (data.get("header", b""), data["payload"])
    assert event.common.event_ts == round(time * 1000)
    for name in ("session_id", "session_event_seq_num"):
        known = getattr(event.common, name) if event.common.HasField(name) else None
        assert known == data.get(name)


@given(st.lists(_DATA, min_size=1, max_size=8), st.data())
def test_joining_stored_bytes_is_what_protobuf_makes_of_the_events(batch: list[dict[str, Any]], data: Any) -> None:
    shared = {"instance_id": batch[0]["instance_id"], "context": batch[0].get("context", b"")}
    events = [stored({**each, **shared}, n, f"id-{n}", data.draw(st.booleans())) for n, each in enumerate(batch)]
    assert made().take(events) == len(events)
    whole = sdk_pb2.Batch()
    whole.common.instance_id = shared["instance_id"]
    whole.common.batch_id = batch_id(events)
    whole.context = shared["context"]
    for event in events:
        whole.events.append(sdk_pb2.Batch.FromString(event.payload).events[0])
    assert made().request(Batch("", events)).body == whole.SerializeToString(deterministic=True)


@given(st.lists(st.tuples(st.sampled_from(["a", "ab", "b"]), st.sampled_from([b"", b"x", b"xy"])), min_size=1))
def test_a_batch_ends_where_sender_or_context_change(keys: list[tuple[str, bytes]]) -> None:
    events = [stored({"instance_id": who, "context": what, "payload": b"\x1a\x00"}) for who, what in keys]
    count = made().take(events)
    assert count == next((n for n, key in enumerate(keys) if key != keys[0]), len(keys))


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=8), st.integers(0, 100_000))
def test_a_batch_never_passes_the_limit(sizes: list[int], context: int) -> None:
    events = [stored({"instance_id": "i", "context": bytes(context), "payload": bytes(size)}) for size in sizes]
    form = made()
    form.telemetry = lambda batch: b"\x0a\x01" * 2048
    count = form.take(events)
    assert count >= 1
    assert len(form.request(Batch("", events[:count])).body) <= LARGEST_BATCH
    if count < len(events):
        more = sum(len(split(event.payload)[2]) for event in events[: count + 1]) + context
        assert more > LARGEST_BATCH - 5000


@given(_DATA, _TIME, _TIME)
def test_a_time_put_right_is_in_the_body_and_in_the_failed_file(
    data: dict[str, Any], wrong: float, right: float
) -> None:
    form = made()
    event = stored(data, wrong)._replace(time=right, corrected=True)
    assert sent([event]).events[0].common.event_ts == round(right * 1000)
    again = form.restore(form.render(event), "id", right)
    assert not again.corrected
    assert sent([again]).events[0] == sent([event]).events[0]


@given(_DATA, _TIME)
def test_what_was_rendered_is_restored(data: dict[str, Any], time: float) -> None:
    form = made()
    event = stored(data, time)
    assert form.restore(form.render(event), event.id, event.time) == event


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"{}", "text", {}, None, sdk_pb2.Batch().SerializeToString(), b"\x0a\x03\x0a\x01x"]
)
def test_what_is_no_event_is_not_restored(value: Any) -> None:
    with pytest.raises(ValueError, match="no PaltaBrain event"):
        made().restore(value, "id", 1.0)


@given(st.binary(max_size=100))
def test_restoring_anything_gives_an_event_or_a_value_error(value: bytes) -> None:
    form = made()
    try:
        event = form.restore(value, "id", None)
    except ValueError:
        return
    assert sent([event]).events


def test_what_was_posted_by_hand_is_restored_without_its_batch_id_and_telemetry() -> None:
    event = stored({"instance_id": "i", "context": b"c", "payload": b"p"})
    batch = sdk_pb2.Batch.FromString(event.payload)
    batch.common.batch_id = "by hand"
    batch.telemetry.trigger_type = "HAND"
    assert made().restore(batch.SerializeToString(), "id", event.time).payload == event.payload


def test_restoring_needs_an_id_and_takes_a_time_from_the_event() -> None:
    event = stored({"instance_id": "i", "payload": b""}, 1.5)
    assert made().restore(event.payload, "id", None).time == 1.5
    with pytest.raises(ValueError, match="lacks an id"):
        made().restore(event.payload, None, 1.0)


def test_no_payload_is_ever_taken_for_json() -> None:
    """A failed payload file holds what is no JSON as base64: the beginning of a Batch must never be JSON."""
    from edgespool.failed import _as_json

    for size in range(1, 400):
        for first in '1"[{tfn- ':
            payload = stored({"instance_id": first + "1" * size, "payload": b""}).payload
            assert _as_json(payload).startswith(b'{"base64":')


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"payload": b""}, "instance_id"),
        ({"instance_id": "", "payload": b""}, "instance_id"),
        ({"instance_id": "i"}, "payload"),
        ({"instance_id": "i", "payload": "text"}, "payload"),
        ({"instance_id": "i", "payload": b"", "header": None}, "header"),
        ({"instance_id": "i", "payload": b"", "context": "x"}, "context"),
        ({"instance_id": "\ud800", "payload": b""}, "data"),
        ({"instance_id": "i", "payload": b"", "session_id": 1 << 63}, "data"),
        ({"instance_id": "i", "payload": b"", "session_id": "x"}, "data"),
        ({"instance_id": "i", "payload": b"", "more": 1}, "more"),
        ({"instance_id": "i", "payload": bytes(521_000)}, "more than"),
    ],
)
def test_what_cannot_be_encoded_says_why(data: dict[str, Any], said: str) -> None:
    with pytest.raises(EventError, match=said):
        PaltaBrain().encode("Event", data, "id", 1.0)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), _TIME)
def test_a_batch_id_is_a_uuid_of_version_7_made_of_the_events(ids: list[str], time: float) -> None:
    import uuid

    events = [StoredEvent(n, b"", time, each.encode("utf-8", "replace").decode(), False) for n, each in enumerate(ids)]
    made_id = uuid.UUID(batch_id(events))
    assert (made_id.version, made_id.variant) == (7, uuid.RFC_4122)
    assert batch_id(events) == batch_id([event._replace(rowid=99) for event in events])
    assert made_id.int >> 80 == max(0, round(time * 1000))
    assert batch_id([*events, events[0]]) != batch_id(events)


# --- Service --------------------------------------------------------------------------------------------------------


def test_the_key_is_taken_from_the_settings_and_stays_in_memory() -> None:
    form = PaltaBrain()
    assert list(form.secrets()) == []
    settings = form.configure(Settings(url="host.example.com", auth=("with", "colon:s")))
    assert settings.auth is None
    assert settings.url == "https://host.example.com/v2/paltabrain"
    assert list(form.secrets()) == ["with:colon:s"]
    assert "colon" not in repr(form)
    request = form.request(Batch("", [stored({"instance_id": "i", "payload": b""})]))
    assert request.headers["X-API-Key"] == "with:colon:s"
    assert not request.compressible
    assert "Idempotency-Key" not in request.headers


@pytest.mark.parametrize("auth", [None, "", "two words", "line\n", "\u00fc", object(), ("a", "b c")])
def test_a_key_that_no_header_can_hold_is_refused_without_being_said(auth: Any) -> None:
    with pytest.raises(ConfigError, match="API key") as caught:
        PaltaBrain().configure(Settings(url="host.example.com", auth=auth))
    assert not isinstance(auth, str) or not auth or auth not in str(caught.value)


def test_without_an_address_the_client_says_so_later() -> None:
    assert PaltaBrain().configure(Settings(auth="k")).url is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, Delivered), (400, Reject), (401, Hold), (403, Hold), (404, Hold), (413, TooLarge), (422, Reject),
     (429, Retry), (500, Retry), (503, Retry), (302, Hold)],
)  # fmt: skip
def test_what_a_status_means(status: int, kind: type[Outcome]) -> None:
    assert isinstance(made().outcome(Reply(status, {}, b"")), kind)  # type: ignore[arg-type]
