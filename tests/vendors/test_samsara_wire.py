"""Samsara's wire, field by field; how events look in it; and how the collector reads it."""

# ruff: noqa: F811
from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from samsara_kit import (  # noqa: F401
    DEADLINE,
    SOURCE,
    MakeSamsara,
    _an_environment_of_its_own,
    collector,
    event,
    make,
    names,
    wait_until,
)

from edgespool import Client
from edgespool.config import Settings
from edgespool.errors import EventError
from edgespool.event import Batch, StoredEvent
from edgespool.formats import Service, create
from edgespool.interfaces import Format
from edgespool.outcome import Delivered, Hold, Reject, Reply, Retry, TooLarge
from edgespool.testing import Collector, FakeClock
from edgespool.testing.dialects import BareJson, Headers, Refused, Request, Taken, find_dialects
from edgespool.vendors.samsara import format as wire
from edgespool.vendors.samsara.dialect import DIALECT
from edgespool.vendors.samsara.format import FORMAT, SamsaraEvents, endpoint, fault, seconds

STAMP = 1_431_261_991_023

# The request


def test_the_request_is_what_the_protocol_says(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    before = int(time.time() * 1000)
    client.publish_events([event("a", color="blé"), event("b")])
    after = int(time.time() * 1000) + 1
    (got,) = collector.requests()
    assert (got.method, got.path, got.query, got.status) == ("POST", "/v1/events", "", 202)
    assert json.loads(got.body or b"") == [event("a", color="blé"), event("b")]
    headers = dict(got.headers)
    assert before <= int(headers.pop("X-Samsara-publishedTimestamp")) <= after
    assert headers.pop("User-Agent").startswith("edgespool/")
    headers.pop("Host")
    assert headers == {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Content-Encoding": "identity",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "Content-Length": str(got.size),
    }


@pytest.mark.parametrize(("compression", "said"), [("gzip", "gzip"), ("none", "identity"), (None, "identity")])
def test_a_body_is_compressed_or_not_and_the_header_is_never_none(
    make: MakeSamsara, collector: Collector, compression: Any, said: str
) -> None:
    client = make(compression=compression)
    assert client.publish_events([event(n=n) for n in range(100)])
    (got,) = collector.requests()
    assert got.headers["Content-Encoding"] == said
    assert (got.size < len(got.body or b"")) == (said == "gzip")
    assert len(json.loads(got.body or b"")) == 100


def test_a_server_without_gzip_gets_plain_bodies(make: MakeSamsara, collector: Collector) -> None:
    collector.set_fault(refuse_gzip=True)
    client = make()
    assert client.publish_events([event(n=n) for n in range(100)])
    assert client.publish_events([event(n=n) for n in range(100, 200)])
    said = [record.headers["Content-Encoding"] for record in collector.requests()]
    assert said == ["gzip", "identity", "identity"]


def test_the_time_of_publication_is_that_of_each_attempt(make: MakeSamsara, collector: Collector) -> None:
    ticks = iter(range(10**18, 2 * 10**18, 10**9))
    client = make(start_publishing_thread=False)
    client.record_event(eventName="a")
    collector.set_fault(status=503, times=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire._time, "time_ns", lambda: next(ticks))
        client.start_consuming()
        assert client.flush(DEADLINE)
    stamps = [int(record.headers["X-Samsara-publishedTimestamp"]) for record in collector.requests()]
    assert len(stamps) == 3
    assert sorted(set(stamps)) == stamps


@pytest.mark.parametrize(
    ("url", "posted"),
    [
        ("http://h:9000", "http://h:9000/v1/events"),
        ("http://h:9000/", "http://h:9000/v1/events"),
        ("https://h/samsara/", "https://h/samsara/v1/events"),
        ("https://h/v1/events", "https://h/v1/events"),
        ("https://h/v1/events/", "https://h/v1/events"),
        ("https://u:p@h/x?key=1#f", "https://u:p@h/x/v1/events?key=1"),
    ],
)
def test_the_path_of_the_api_is_added_once(url: str, posted: str) -> None:
    assert endpoint(url) == posted
    assert endpoint(posted) == posted
    assert SamsaraEvents("s").configure(Settings(url=url)).url == posted


def test_headers_and_auth_for_what_stands_before_samsara_go_out(make: MakeSamsara, collector: Collector) -> None:
    client = make(auth="user:pass", headers={"X-Site": "north"})
    assert client.publish_events([event()])
    headers = collector.requests()[0].headers
    assert headers["Authorization"].startswith("Basic ")
    assert headers["X-Site"] == "north"


# The format


def stored(form: SamsaraEvents, time: float = 1.5, **data: Any) -> StoredEvent:
    return StoredEvent(1, form.encode("a", data, "id", time), time, b"\0" * 16, False)


def test_it_is_found_by_its_name_and_is_a_service() -> None:
    form = create("samsara", "pi")
    assert isinstance(form, Format)
    assert isinstance(form, Service)
    assert isinstance(form, FORMAT)
    assert list(form.secrets()) == []
    assert form.configure(Settings()).url is None
    assert form.configure(Settings(url="http://[half/")).url == "http://[half/"


def test_an_event_without_time_and_source_gets_both() -> None:
    form = SamsaraEvents("pi")
    assert form.encode("a", {"x": 1}, "id", 1.0015) == b'{"timestamp":1002,"sourceId":"pi","eventName":"a","x":1}'
    assert json.loads(form.encode("a", {}, "id", -5.0))["timestamp"] == 0
    given = {"timestamp": 7, "sourceId": "s", "eventName": "own", "x": None}
    assert json.loads(form.encode("a", given, "id", 1.0)) == given


@pytest.mark.parametrize("bad", [{"timestamp": -1}, {"timestamp": None}, {"sourceId": 5}, {"eventName": None}])
def test_what_the_server_would_refuse_is_refused_here(bad: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        SamsaraEvents("pi").encode("a", bad, "id", 1.0)


def test_the_plain_client_can_send_to_samsara(collector: Collector, tmp_path: Any) -> None:
    with Client(collector.base_url, path=tmp_path / "queue", format="samsara", source="pi") as client:
        client.record("temperature", value=21.5)
        assert client.flush(DEADLINE)
    (arrived,) = collector.events()
    assert arrived.pop("timestamp") > 10**12
    assert arrived == {"sourceId": "pi", "eventName": "temperature", "value": 21.5}
    assert collector.arrived()[0].dialect == "samsara"


def test_a_time_of_ours_that_was_wrong_is_put_right_and_the_user_s_is_not() -> None:
    form = SamsaraEvents("pi")
    assert form.render(stored(form, time=1.5, x=1)) == b'{"timestamp":1500,"sourceId":"pi","eventName":"a","x":1}'
    wrong = stored(form, time=1.5, x=1)._replace(time=1_764_000_000.25, corrected=True)
    assert json.loads(form.render(wrong)) == {
        "timestamp": 1_764_000_000_250, "sourceId": "pi", "eventName": "a", "x": 1,
    }  # fmt: skip
    given = stored(form, timestamp=7)._replace(time=1_764_000_000.25, corrected=True)
    assert json.loads(form.render(given))["timestamp"] == 7
    body = form.request(Batch("", [wrong, given])).body
    assert [each["timestamp"] for each in json.loads(body)] == [1_764_000_000_250, 7]


def test_a_clock_that_is_set_later_corrects_what_was_recorded_before(make: MakeSamsara, collector: Collector) -> None:
    clock = FakeClock(time=1000.0, synchronized=False)
    client = make(clock=clock, start_publishing_thread=False, publish_interval=1)
    client.record_event(eventName="own")
    client.record_event(eventName="given", timestamp=5)
    clock.jump_wall(1_764_000_000.0 - 1000.0)
    clock.is_synchronized = True
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert [each["timestamp"] for each in collector.events()] == [1_764_000_000_000, 5]


def test_restore_is_the_inverse_of_render() -> None:
    form = SamsaraEvents("pi")
    for data in ({"x": [1, "é"]}, {"timestamp": 10**25}, {"sourceId": "s", "eventName": ""}):
        payload = stored(form, **data).payload
        restored = form.restore(json.loads(payload), "id-1", 3.0)
        assert json.loads(form.render(restored)) == json.loads(payload)
        assert (restored.id, restored.corrected) == ("id-1", False)
    bare = form.restore({"eventName": "a"}, None, 3.0)
    assert json.loads(bare.payload) == {"eventName": "a", "sourceId": "pi", "timestamp": 3000}
    assert len(bare.id) == 36
    for bad in (None, [], {}, {"eventName": "a"}, {"eventName": "a", "timestamp": -1}):
        with pytest.raises(ValueError, match="no Samsara event"):
            form.restore(bad, None, None)


def test_times_beyond_the_calendar_are_kept_as_near_as_can_be() -> None:
    assert seconds(0) == 0.0
    assert seconds(1500) == 1.5
    assert seconds(10**400) == 253_402_300_799.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (202, Delivered), (200, Delivered), (400, Reject), (422, Reject), (413, TooLarge), (401, Hold), (403, Hold),
        (404, Hold), (301, Hold), (408, Retry), (429, Retry), (500, Retry), (503, Retry),
    ],
)  # fmt: skip
def test_what_a_reply_means(status: int, kind: type) -> None:
    assert isinstance(SamsaraEvents("pi").outcome(Reply(status, {})), kind)


def test_a_captive_portal_takes_no_events(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    collector.set_fault(status=200, headers={"Content-Type": "text/html; charset=utf-8"}, body="<html>Welcome", times=3)
    client.record_event(eventName="a")
    assert collector.wait_for(1, DEADLINE)
    assert [record.status for record in collector.requests()] == [200, 200, 200, 202]
    assert isinstance(SamsaraEvents("pi").outcome(Reply(200, {"content-type": "application/json"})), Delivered)


def test_any_number_of_events_goes_in_one_request() -> None:
    form = SamsaraEvents("pi")
    assert form.take([stored(form)] * 777) == 777


# The dialect


def ask(body: bytes = b"[]", **headers: str) -> Request:
    known = {"Content-Type": "application/json", "X-Samsara-publishedTimestamp": "1", **headers}
    return Request("POST", "/v1/events", "", Headers(known.items()), body)


def test_the_dialect_is_found_before_the_built_in_ones() -> None:
    found = find_dialects()
    assert DIALECT in found
    assert found.index(DIALECT) < next(n for n, each in enumerate(found) if isinstance(each, BareJson))


def test_the_dialect_matches_only_this_wire() -> None:
    assert DIALECT.matches(ask())
    assert DIALECT.matches(Request("POST", "/prefix/v1/events", "a=b", ask().headers, b""))
    json_type = [("Content-Type", "application/json; charset=utf-8")]
    other_case = Headers([*json_type, ("x-samsara-PUBLISHEDtimestamp", "1")])
    assert DIALECT.matches(Request("POST", "/v1/events", "", other_case, b""))
    assert not DIALECT.matches(Request("POST", "/v1/events", "", Headers(json_type), b""))
    assert not DIALECT.matches(Request("POST", "/v2/events", "", ask().headers, b""))
    assert not DIALECT.matches(Request("GET", "/v1/events", "", ask().headers, b""))
    assert not DIALECT.matches(ask(**{"Content-Type": "text/plain"}))


def test_the_dialect_reads_events_and_answers_202() -> None:
    (arrival,) = DIALECT.decode(ask(json.dumps([event("a", color="blue")]).encode()), None)  # type: ignore[arg-type]
    assert (arrival.name, arrival.data, arrival.event) == ("a", {"color": "blue"}, event("a", color="blue"))
    assert arrival.extra == {"publishedTimestamp": 1}
    reply = DIALECT.reply(ask(), Taken(1, 0), None)  # type: ignore[arg-type]
    assert (reply.status, reply.body) == (202, b"")


def test_the_dialect_knows_a_repeat_by_its_content() -> None:
    def identity(text: str) -> str | None:
        return DIALECT.decode(ask(text.encode()), None)[0].identity  # type: ignore[arg-type]

    one = '[{"sourceId":"s","timestamp":1,"eventName":"a","x":1}]'
    assert identity(one) == identity('[{"x":1, "eventName":"a", "timestamp":1, "sourceId":"s"}]')
    assert identity(one) != identity(one.replace('"x":1', '"x":2'))
    assert identity(one) != identity(one.replace('"x":1', '"x":true'))


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b"", b"[", b"[1]", b'[{"eventName":"a"}]', b'[{"sourceId":"a","timestamp":-1,"eventName":"b"}]',
        b'[{"sourceId":"a","timestamp":1.0,"eventName":"b"}]', b'[{"sourceId":"a","timestamp":true,"eventName":"b"}]',
        b'[{"sourceId":1,"timestamp":1,"eventName":"b"}]', b'[{"sourceId":"a","timestamp":NaN,"eventName":"b"}]',
    ],
)  # fmt: skip
def test_the_dialect_refuses_what_is_invalid(body: bytes) -> None:
    with pytest.raises((ValueError, Refused)):
        DIALECT.decode(ask(body), None)  # type: ignore[arg-type]


def test_a_batch_with_an_invalid_event_is_refused_whole(collector: Collector) -> None:
    def post(body: bytes, **headers: str) -> int:
        sent = {"Content-Type": "application/json", "X-Samsara-publishedTimestamp": "5", **headers}
        return requests.post(f"{collector.base_url}/v1/events", data=body, headers=sent, timeout=10).status_code

    good = json.dumps([event("a")]).encode()
    assert post(json.dumps([event("b"), {"eventName": "c"}]).encode()) == 400
    assert post(good, **{"X-Samsara-publishedTimestamp": "now"}) == 400
    assert post(good, **{"Content-Encoding": "none"}) == 415  # as the original could send it
    assert collector.events() == []
    assert post(good, **{"Content-Encoding": "identity"}) == 202
    assert post(gzip.compress(good), **{"Content-Encoding": "gzip"}) == 202
    assert (names(collector), collector.repeats()) == (["a"], 1)


def test_what_makes_no_event_is_said_in_words() -> None:
    says: Callable[[Any], str | None] = fault
    assert says(event()) is None
    assert says([]) == "a mapping is needed, not list"
    assert says({}) == "sourceId: text is needed, and it is missing"
    assert says(event(eventName=None)) == "eventName: text is needed, not None"
    assert says(event(timestamp=-3)) == "timestamp: a whole number of milliseconds since 1970 is needed, not -3"
