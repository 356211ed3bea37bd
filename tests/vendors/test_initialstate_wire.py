"""Initial State's wire: requests field by field, the format's functions, and the collector's reading of them."""

# ruff: noqa: F401, F811 - fixtures come from the kit

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from initialstate_kit import (
    KEY,
    MakeStreamer,
    an_environment_of_its_own,
    collector,
    make_streamer,
    readings,
    sent,
    wait_until,
)

from edgespool import Client, ConfigError, Event, EventError
from edgespool.config import Settings
from edgespool.event import Batch, StoredEvent
from edgespool.formats import Service, create
from edgespool.interfaces import Format, Unready
from edgespool.outcome import Delivered, Hold, Reject, Reply, Retry, TooLarge
from edgespool.testing import Collector, FakeClock
from edgespool.testing.dialects import Headers, Request, find_dialects
from edgespool.vendors.initialstate.api import Streamer
from edgespool.vendors.initialstate.dialect import DIALECT
from edgespool.vendors.initialstate.format import InitialState

REMOVED = json.dumps({"message": {"error": {"type": "BUCKET_REMOVED", "message": "it is gone"}}}).encode()


def form(key: str | None = KEY) -> InitialState:
    made = InitialState("pi")
    made.configure(Settings(auth=key))
    return made


def stored(form: InitialState, data: dict[str, Any], time: float = 5.0, *, corrected: bool = False) -> StoredEvent:
    payload = form.encode("key", data, "id", 1.0 if corrected else time)
    return StoredEvent(0, payload, time, "id", corrected)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_bucket_and_its_events_are_posted_as_the_original_does(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer("Küche", "kitchen", start=False)
    streamer.log("temperature", 21.5, epoch=1_419_876_021.75)
    streamer.log("door", True, epoch=1_419_876_022)
    streamer._client.start()
    assert collector.wait_for(2, 10)
    bucket, events = collector.requests()
    assert (bucket.method, bucket.path, bucket.query) == ("POST", "/api/buckets", "")
    assert (events.method, events.path, events.query) == ("POST", "/api/events", "")
    assert json.loads(bucket.body) == {"bucketKey": "kitchen", "bucketName": "Küche"}
    assert events.body == (
        b'[{"key":"temperature","value":21.5,"epoch":1419876021.75},{"key":"door","value":true,"epoch":1419876022.0}]'
    )
    for request in (bucket, events):
        own = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
        assert own == {
            "Content-Type": "application/json",
            "User-Agent": "PyStreamer v2.0.0",
            "Accept-Version": "<=0.0.4",
            "X-IS-AccessKey": KEY,
            "X-IS-BucketKey": "kitchen",
            # What requests adds of itself; the original's library sends the first as well.
            "Accept-Encoding": "gzip, deflate",
            "Accept": "*/*",
            "Connection": "keep-alive",
        }


def test_no_body_is_compressed_however_large(make_streamer: MakeStreamer, collector: Collector) -> None:
    make_streamer().log_object(["x" * 2000] * 20)
    assert collector.wait_for(20, 10)
    assert all("Content-Encoding" not in each.headers for each in collector.requests())


def test_buckets_are_made_in_order_each_before_its_events_and_alone(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer("One", "one", start=False)
    streamer.log("n", 1)
    streamer.set_bucket("One again", "one")
    streamer.log("n", 2)
    streamer.log("n", 3)
    streamer.set_bucket("Two", "two")
    streamer.set_bucket("One more", "one")
    streamer.log("n", 4)
    streamer._client.start()
    assert collector.wait_for(4, 10)
    wait_until(lambda: streamer._client.stats().pending == 0)
    ones = [(path, body) for path, _, bucket, body in sent(collector) if bucket == "one"]
    assert [(path, body.get("bucketName") if path == "/api/buckets" else [each["value"] for each in body])
            for path, body in ones] == [
        ("/api/buckets", "One"), ("/api/events", [1]), ("/api/buckets", "One again"), ("/api/events", [2, 3]),
        ("/api/buckets", "One more"), ("/api/events", [4]),
    ]  # fmt: skip
    assert ("/api/buckets", 201, "two", {"bucketKey": "two", "bucketName": "Two"}) in sent(collector)


def test_a_bucket_is_made_before_its_events_across_a_restart(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    first = make_streamer("First", "b", start=False)
    first.log("n", 1)
    first.close(0)
    second = make_streamer("Second", "b", start=False)
    second.log("n", 2)
    second._client.start()
    assert collector.wait_for(2, 10)
    assert [(path, body if path == "/api/events" else body["bucketName"]) for path, _, _, body in sent(collector)][
        ::2
    ] == [("/api/buckets", "First"), ("/api/buckets", "Second")]
    assert [event["value"] for event in collector.events()] == [1, 2]
    assert all(each.extra["bucket_name"] == "First" for each in collector.arrived())


@pytest.mark.parametrize("base", ["", "/", "/prefix", "/prefix/"])
def test_the_paths_are_put_to_the_base_address(
    make_streamer: MakeStreamer, collector: Collector, base: str
) -> None:
    make_streamer(url=collector.base_url + base).log("n", 1)
    assert collector.wait_for(1, 10)
    assert [each.path for each in collector.requests()] == [base.rstrip("/") + "/api/buckets",
                                                            base.rstrip("/") + "/api/events"]  # fmt: skip


def test_the_address_and_the_key_may_come_from_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPOOL_URL", collector.base_url)
    monkeypatch.setenv("EDGESPOOL_AUTH", "key:with:colons")
    streamer = Streamer("Kitchen", "kitchen")
    streamer.log("n", 1)
    streamer.close()
    assert [each.headers["X-IS-AccessKey"] for each in collector.requests()] == ["key:with:colons"] * 2
    assert all("Authorization" not in each.headers for each in collector.requests())


def test_a_plain_client_can_speak_it_as_well(collector: Collector, tmp_path: Path) -> None:
    with Client(collector.base_url, path=tmp_path / "plain", format="initialstate", auth=KEY) as client:
        client.record_event(Event("bucket", {"bucketKey": "b", "bucketName": "B"}, route="b"))
        client.record_event(Event("temperature", {"value": 21.5}, time=5, route="b"))
        with pytest.raises(EventError, match="one value"):
            client.record("temperature", value=1, unit="C")
        with pytest.raises(EventError, match="bucketName"):
            client.record("bucket", bucketKey="b", more=1)
        assert client.flush(10)
    assert collector.events() == [{"key": "temperature", "value": 21.5, "epoch": 5.0}]


# --- the format -------------------------------------------------------------------------------------------------------


def test_it_is_a_format_and_a_service_found_by_its_name() -> None:
    made = create("initialstate", "pi")
    assert isinstance(made, Format)
    assert isinstance(made, Service)
    assert made.name == "initialstate"
    assert any(dialect.name == "initialstate" for dialect in find_dialects())


def test_configuring_takes_the_key_and_fills_in_the_address() -> None:
    made = InitialState("pi")
    settings = made.configure(Settings(auth=("a", "b:c")))
    assert (settings.url, settings.auth) == ("https://groker.init.st", None)
    assert list(made.secrets()) == ["a:b:c"]
    assert "a:b:c" not in repr(made) + repr(settings) + str(made)
    assert made.configure(Settings(url="http://127.0.0.1:9/")).url == "http://127.0.0.1:9"
    assert list(made.secrets()) == [], "no key is set now"
    for bad in (lambda request: request, "a\n", " a", "schlüssel-日本", "a\0"):
        with pytest.raises(ConfigError, match="access key") as caught:
            made.configure(Settings(auth=bad))
        assert "日本" not in str(caught.value)


def test_nothing_is_sent_without_a_key_or_a_bucket() -> None:
    event = stored(form(), {"value": 1})
    with pytest.raises(Unready, match="EDGESPOOL_AUTH"):
        form(None).request(Batch("b", [event]))
    for route in ("", " b", "b\n", "台所"):
        with pytest.raises(Unready, match="--route"):
            form().request(Batch(route, [event]))


def test_a_time_that_was_put_right_stands_in_the_body_and_nothing_else_changes() -> None:
    made = form()
    tricky = 'quote " ,"epoch":7} \\'
    wrong = stored(made, {"value": {"x": tricky, "epoch": 7}, "key": tricky}, 1_790_000_000.123, corrected=True)
    right = json.loads(made.render(wrong))
    assert right == {"key": tricky, "value": {"x": tricky, "epoch": 7}, "epoch": 1_790_000_000.123}
    assert json.loads(wrong.payload)["epoch"] == 1.0
    untouched = stored(made, {"value": 2}, 3.0)
    assert json.loads(made.request(Batch("b", [wrong, untouched])).body) == [
        right, {"key": "key", "value": 2, "epoch": 3.0},
    ]  # fmt: skip
    bucket = stored(made, {"bucketKey": "b", "bucketName": "B"}, corrected=True)
    assert made.render(bucket) == bucket.payload


def test_take_cuts_before_and_after_each_bucket() -> None:
    made = form()
    event, bucket = stored(made, {"value": 1}), stored(made, {"bucketKey": "b", "bucketName": "B"})
    sly = stored(made, {"key": '{"bucketKey":', "value": {"bucketKey": "b"}})
    assert made.take([event]) == 1
    assert made.take([event, sly, event]) == 3
    assert made.take([bucket, bucket, event]) == 1
    assert made.take([event, sly, bucket, event]) == 2


def test_what_was_rendered_is_restored_byte_for_byte() -> None:
    made = form()
    for data in ({"value": 21.5}, {"key": "Küche", "value": None}, {"value": [1, {"a": "b"}]},
                 {"bucketKey": "b", "bucketName": "Bücket"}):  # fmt: skip
        event = stored(made, data, 1_419_876_021.5)
        back = made.restore(json.loads(made.render(event)), "id", 1_419_876_021.5)
        assert back == event


def test_foreign_events_are_restored_as_far_as_they_say_something() -> None:
    made = form()

    def back(value: Any) -> Any:
        event = made.restore(value, None, 77.0)
        assert event.id
        return event.time, json.loads(event.payload)

    assert back({"key": "a", "value": 1, "epoch": 5}) == (5.0, {"key": "a", "value": 1, "epoch": 5.0})
    assert back({"key": "a", "value": 1}) == (77.0, {"key": "a", "value": 1, "epoch": 77.0})
    assert back({"key": "a", "value": 1, "epoch": "x"}) == (77.0, {"key": "a", "value": 1, "epoch": 77.0})
    iso = {"key": "a", "value": 1, "iso8601": "2015-10-08T07:54+06:00"}
    assert back(iso) == (77.0, iso)
    assert back({"key": 5, "value": 1, "epoch": 5})[1]["key"] == "5"
    assert back({"bucketKey": "b"}) == (77.0, {"bucketKey": "b", "bucketName": ""})
    for bad in (1, "text", None, [], {}, {"key": "a"}, {"value": 1}, {"key": "a", "value": float("nan")}):
        with pytest.raises(ValueError, match=r"no event|lacks|value"):
            made.restore(bad, None, None)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"", Delivered), (201, b"", Delivered), (204, b"", Delivered),
        (400, REMOVED, Hold), (400, b'{"message": {"error": {"type": "OTHER"}}}', Reject), (400, b"not json", Reject),
        (400, b'{"message": "text"}', Reject), (400, b"[1]", Reject), (400, b'{"message":{"error":[]}}', Reject),
        (401, b"", Hold), (402, b"", Hold), (403, b'"ACCESS_DENIED_KEY"', Hold), (404, b"", Hold), (301, b"", Hold),
        (413, b"", TooLarge), (422, b"", Reject), (429, b"", Retry), (408, b"", Retry),
        (500, b'"CORE_API_ERROR"', Retry), (503, b"", Retry), (200, REMOVED, Delivered),
    ],
)  # fmt: skip
def test_what_each_reply_means(status: int, body: bytes, kind: type) -> None:
    outcome = form().outcome(Reply(status, {}, body))
    assert type(outcome) is kind
    if body is REMOVED and status == 400:
        assert "it is gone" in outcome.reason  # type: ignore[union-attr]


def test_a_retry_after_is_kept_to_in_both_forms() -> None:
    made = form()
    assert made.outcome(Reply(429, {"retry-after": "17"})) == Retry("HTTP 429", 429, after=17.0)
    date = {"retry-after": "Wed, 25 Nov 2026 00:01:00 GMT", "date": "Wed, 25 Nov 2026 00:00:00 GMT"}
    assert made.outcome(Reply(429, date)).after == 60.0  # type: ignore[union-attr]
    assert made.outcome(Reply(429, {})).after is None  # type: ignore[union-attr]


def test_a_board_without_a_clock_chip_sends_right_epochs(
    make_streamer: MakeStreamer, collector: Collector, clock: FakeClock
) -> None:
    clock.jump_wall(-1e8)
    streamer = make_streamer(clock=clock, flush_interval=0.0, start=False)
    wrong = clock.time()
    streamer.log("n", 1)
    streamer.log("given", 2, epoch=123.5)
    clock.jump_wall(1e8)
    clock.is_synchronized = True
    streamer.log("n", 3)
    for _ in range(10):  # by hand: no thread runs
        streamer._client._worker.step()
    right = pytest.approx(wrong + 1e8)
    assert [(event["value"], event["epoch"]) for event in collector.events()] == [(1, right), (2, 123.5), (3, right)]
    assert sent(collector)[0][3] == {"bucketKey": "kitchen", "bucketName": "Kitchen"}


# --- the dialect ------------------------------------------------------------------------------------------------------


def test_the_dialect_matches_nothing_else() -> None:
    def matches(method: str, path: str, *headers: str) -> bool:
        return DIALECT.matches(Request(method, path, "", Headers((name, "x") for name in headers), b""))

    assert matches("POST", "/api/events", "x-is-accesskey")
    assert matches("POST", "/api/buckets", "Accept-Version")
    assert matches("POST", "/prefix/api/events", "X-IS-BucketKey")
    assert not matches("POST", "/api/events", "Authorization")
    assert not matches("GET", "/api/events", "X-IS-AccessKey")
    assert not matches("POST", "/api/events/x", "X-IS-AccessKey")
    assert not matches("POST", "/v1/events", "X-IS-AccessKey")


def test_the_collector_answers_as_the_service_does(collector: Collector) -> None:
    def post(path: str, content: Any, status: int, **changed: str | None) -> None:
        headers = {"X-IS-AccessKey": "k", "X-IS-BucketKey": "b", "Accept-Version": "~0"}
        headers.update({f"X-IS-{name}": value for name, value in changed.items()})  # type: ignore[arg-type]
        data = content if isinstance(content, bytes) else json.dumps(content)
        got = requests.post(collector.base_url + path, data=data, headers=headers, timeout=10)
        assert got.status_code == status, got.text

    event = {"key": "a", "value": 1, "epoch": 5.5}
    post("/api/events", [event], 204)
    post("/api/buckets", {"bucketKey": "b", "bucketName": "B"}, 201)
    post("/api/buckets", {"bucketKey": "b", "bucketName": "B"}, 204)
    post("/api/buckets", {"bucketKey": "b"}, 201, AccessKey="another account")
    post("/api/events", [event], 204)
    post("/api/events", [event], 204, BucketKey="c")
    post("/api/events", [event], 204, AccessKey="another account")
    post("/api/events", {**event, "value": True}, 204)
    post("/api/events", [event], 401, AccessKey=None)
    post("/api/events", [event], 400, BucketKey=None)
    for bad in ([{"key": 1, "value": 1}], [{"key": "a"}], [{**event, "epoch": "x"}], [{**event, "epoch": True}],
                [1], b"NaN", b"\xff"):  # fmt: skip
        post("/api/events", bad, 400)
    for bad in ({}, {"bucketKey": ""}, [], {"bucketKey": 1}, {"bucketKey": "b", "bucketName": 1}, b"x"):
        post("/api/buckets", bad, 400)
    post("/api/events", [{**event, "value": "x" * (1 << 20)}], 413)
    assert [(each.extra["bucket"], each.extra["bucket_name"], each.times_seen) for each in collector.arrived()] == [
        ("b", None, 2), ("c", None, 1), ("b", "", 1), ("b", "B", 1),
    ]  # fmt: skip
    assert readings(collector)[-1] == ("b", "a", True)
