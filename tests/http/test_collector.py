"""The collector does what its documentation says, healthy and unhealthy, over real loopback connections."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgespool.testing
from edgespool.testing.collector import Collector
from edgespool.testing.dialects import (
    Arrival,
    Headers,
    Reply,
    Request,
    State,
    Taken,
    decode_objects,
    find_dialects,
    json_reply,
    refuse,
)
from edgespool.testing.faults import FaultBox, Faults, Poison
from edgespool.testing.store import RequestRecord, Store

BATCH = "application/cloudevents-batch+json"
SINGLE = "application/cloudevents+json"


def cloud_event(id: str, **data: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": id, "source": "pi", "type": "temperature", "data": data}


def events(*ids: str) -> bytes:
    return json.dumps([cloud_event(id, n=n) for n, id in enumerate(ids)]).encode()


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)


class Sender:
    """One keep-alive connection."""

    def __init__(self, collector: Collector) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=5)

    def post(self, body: Any, content_type: str = BATCH, path: str = "/v1/events", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", path, body, {"Content-Type": content_type, **named})

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        self.http.request(method, path, body, headers or {})
        return Answer(self.http.getresponse())

    def close(self) -> None:
        self.http.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(rng=random.Random(1)) as made:
        yield made


@pytest.fixture
def sender(collector: Collector) -> Iterator[Sender]:
    made = Sender(collector)
    yield made
    made.close()


def raw(collector: Collector, data: bytes) -> bytes:
    """Send bytes as they are and return everything that comes back until the collector hangs up."""
    with socket.create_connection(("127.0.0.1", collector.port), timeout=5) as connection:
        connection.sendall(data)
        got = b""
        while part := connection.recv(65536):
            got += part
        return got


# What arrives


def test_a_batch_is_stored_in_order_and_answered(collector: Collector, sender: Sender) -> None:
    answer = sender.post(events("a", "b", "c"))
    assert (answer.status, answer.json()) == (200, {"new": 3, "repeats": 0})
    assert collector.ids() == ["a", "b", "c"]
    assert collector.events() == json.loads(events("a", "b", "c"))
    assert (collector.count(), collector.repeats()) == (3, 0)
    first = collector.arrived(limit=1)[0]
    assert (first.arrival, first.dialect, first.path, first.name) == (1, "cloudevents", "/v1/events", "temperature")
    assert (first.identity, first.id, first.request, first.times_seen) == ("pi\na", "a", 1, 1)
    assert (first.data, first.extra) == ({"n": 0}, {})
    assert [one.id for one in collector.arrived(limit=5, offset=1)] == ["b", "c"]


def test_a_repeat_is_counted_and_never_stored_twice(collector: Collector, sender: Sender) -> None:
    sender.post(events("a", "b"))
    answer = sender.post(events("b", "c", "b"))
    assert answer.json() == {"new": 1, "repeats": 2}
    assert collector.ids() == ["a", "b", "c"]
    assert (collector.count(), collector.repeats()) == (3, 2)
    assert [one.times_seen for one in collector.arrived()] == [1, 3, 1]
    assert [one.arrival for one in collector.arrived()] == [1, 2, 3]


def test_an_equal_id_of_another_source_is_no_repeat(collector: Collector, sender: Sender) -> None:
    sender.post(json.dumps(cloud_event("a")), SINGLE)
    sender.post(json.dumps({**cloud_event("a"), "source": "other"}), f"{SINGLE}; charset=utf-8")
    assert (collector.ids(), collector.repeats()) == (["a", "a"], 0)


def test_bare_json_is_known_by_its_idempotency_key_and_index(collector: Collector, sender: Sender) -> None:
    body = json.dumps([{"name": "x", "data": 1}, {"data": {"deep": [None]}}])
    for _ in range(2):
        assert sender.post(body, "application/json", Idempotency_Key="k").status == 200
    assert (collector.count(), collector.repeats()) == (2, 2)
    assert collector.ids() == ["k/0", "k/1"]
    for _ in range(2):
        assert sender.post(body, "application/json").status == 200
    sender.post('{"id": "own", "v": 1}', "application/json")
    assert (collector.count(), collector.repeats()) == (7, 2)
    assert collector.ids()[-1] == "own"
    first = collector.arrived()[0]
    assert (first.dialect, first.name, first.data) == ("json", "x", {"name": "x", "data": 1})


def test_an_empty_batch_is_a_yes(collector: Collector, sender: Sender) -> None:
    assert sender.post(b" [ ] ").json() == {"new": 0, "repeats": 0}
    assert collector.events() == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", BATCH),
        (b"[", BATCH),
        (b"[{}", BATCH),
        (b"[{},]", "application/json"),
        (b"[{}]x", "application/json"),
        (b"{}{}", "application/json"),
        (b"[1]", "application/json"),
        (b'"text"', "application/json"),
        (b'[{"v": NaN}]', "application/json"),
        (b'[{"v": "\xff"}]', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'[{"v":' + b"[" * 100_000, "application/json"),
        (b'[{"id": "\\ud800", "v": 1}]', "application/json"),
        (json.dumps(cloud_event("a")).encode(), BATCH),
        (events("a"), SINGLE),
        (json.dumps([cloud_event("a"), {**cloud_event("b"), "id": 7}]).encode(), BATCH),
        (json.dumps([{**cloud_event("b"), "type": ""}]).encode(), BATCH),
        (json.dumps([{**cloud_event("b"), "source": "a\nb"}]).encode(), BATCH),
        (json.dumps([{**cloud_event("b"), "specversion": "0.3"}]).encode(), BATCH),
        (b'[{"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data": 1e999}]', BATCH),
    ],
)
def test_a_malformed_body_is_a_400_and_stores_nothing(
    collector: Collector, sender: Sender, body: bytes, content_type: str
) -> None:
    answer = sender.post(body, content_type)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["error"]
    assert (collector.count(), len(collector.requests())) == (0, 1)
    assert sender.post(events("a")).status == 200  # the connection lives


@pytest.mark.parametrize(("text", "found"), [("[]", 0), (" {} ", 1), ('[{"a":1} , {"b":[2]}]\n', 2)])
def test_each_object_keeps_its_own_text(text: str, found: int) -> None:
    cut = decode_objects(text.encode())
    assert len(cut) == found
    assert all(json.loads(own) == value for value, own in cut)


def test_what_no_dialect_takes_is_refused(collector: Collector, sender: Sender) -> None:
    assert sender.post(b"x", "text/plain").status == 415
    answer = sender.call("GET", "/v1/events")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    head = sender.call("HEAD", "/v1/events")
    assert (head.status, head.body) == (405, b"")
    assert collector.stats()["rejected"] == 3


def test_requests_are_recorded(sender: Sender, collector: Collector) -> None:
    sender.post(events("a", "b"), path="/any/path?x=1", X_Key="k")
    sender.post(b"nonsense")
    first, second = collector.requests()
    assert (first.number, first.method, first.path, first.query) == (1, "POST", "/any/path", "x=1")
    assert (first.size, first.status, first.events, first.body) == (len(events("a", "b")), 200, 2, None)
    assert first.headers["x-key"] == first.headers["X-KEY"] == "k"
    assert "x-KEY" in first.headers
    assert "absent" not in first.headers
    assert (second.status, second.events) == (400, 0)


def test_bodies_are_kept_on_demand_and_reported() -> None:
    seen: list[RequestRecord] = []
    told = threading.Event()

    def on_request(record: RequestRecord) -> None:
        seen.append(record)
        told.set()

    with Collector(keep_bodies=True, on_request=on_request) as collector:
        sender = Sender(collector)
        packed = gzip.compress(events("a"))
        assert sender.post(packed, Content_Encoding="gzip").status == 200
        sender.close()
        assert told.wait(5)
        record = collector.requests()[0]
        assert (record.body, record.size) == (events("a"), len(packed))
        assert [one.number for one in seen] == [1]


def test_waiting_ends_with_the_event_that_was_waited_for(collector: Collector, sender: Sender) -> None:
    result: list[bool] = []
    waiter = threading.Thread(target=lambda: result.append(collector.wait_for(2, 5)))
    waiter.start()
    sender.post(events("a"))
    sender.post(events("b"))
    waiter.join(5)
    assert result == [True]
    assert collector.wait_for(3, 0.01) is False


def test_many_senders_at_once_lose_nothing(collector: Collector) -> None:
    def run(name: int) -> None:
        own = Sender(collector)
        for batch in range(5):
            assert own.post(events(*(f"{name}-{batch}-{n}" for n in range(20)))).status == 200
        own.close()

    threads = [threading.Thread(target=run, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert collector.count() == len(set(collector.ids())) == 8 * 5 * 20
    assert collector.connections == 8
    assert collector.stats()["requests"] == 40


# Framing and encodings


def test_each_reply_is_one_write_on_one_connection(collector: Collector) -> None:
    body = events("a")
    head = f"POST / HTTP/1.1\r\nContent-Type: {BATCH}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", collector.port), timeout=5) as connection:
        for _ in range(5):
            connection.sendall(head.encode() + body)
            # Head and body come at once: as two writes, the second would wait 40 ms for an acknowledgement.
            assert connection.recv(65536).endswith(b"}")
    assert (collector.connections, collector.repeats()) == (1, 4)


def test_gzip_and_identity_are_decoded(collector: Collector, sender: Sender) -> None:
    two_members = gzip.compress(b"[") + gzip.compress(events("b")[1:])
    assert sender.post(gzip.compress(events("a")), Content_Encoding="gzip").status == 200
    assert sender.post(two_members, Content_Encoding="GZIP").status == 200
    assert sender.post(events("c"), Content_Encoding="identity").status == 200
    assert collector.ids() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"not gzip", "gzip", 400),
        (gzip.compress(events("a"))[:-4], "gzip", 400),
        (b"", "gzip", 400),
        (events("a"), "none", 415),
    ],
    ids=["no gzip", "cut off", "empty", "unknown"],
)
def test_a_bad_encoding_is_refused(sender: Sender, body: bytes, encoding: str, status: int) -> None:
    assert sender.post(body, Content_Encoding=encoding).status == status


def test_sizes_are_bounded_before_and_after_decompression() -> None:
    with Collector(max_body=2000, max_decoded=10_000) as collector:
        sender = Sender(collector)
        assert sender.post(gzip.compress(b" " * 10_001), Content_Encoding="gzip").status == 413
        assert sender.post(gzip.compress(b"[]" + b" " * 9_998), Content_Encoding="gzip").status == 200
        # Several megabytes are still on their way when the reply comes: the client must get it all the same.
        answer = sender.post(b" " * 8_000_000)
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
        assert sender.post(iter([b" " * 1500, b" " * 1500])).status == 413
        assert sender.post(events("a")).status == 200
        sender.close()
        assert [record.status for record in collector.requests()] == [413, 200, 413, 413, 200]


def test_chunked_bodies_are_joined(collector: Collector, sender: Sender) -> None:
    body = events("a", "b")
    assert sender.post(iter([body[:10], body[10:]])).status == 200
    reply = raw(
        collector,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n2;ext=1\r\n[{\r\n2\r\n}]\r\n0\r\nTrailer: x\r\n\r\n",
    )
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert collector.count() == 3


@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding: deflate\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 1, 2\r\n\r\n",
    ],
)
def test_bad_framing_is_a_400_and_the_end_of_the_connection(collector: Collector, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", collector.port), timeout=5) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head)
        got = connection.recv(65536)
        assert got.startswith(b"HTTP/1.1 400 ")
        assert b"Connection: close" in got
        assert connection.recv(65536) == b""


def test_a_request_line_that_is_none_is_answered_in_json(collector: Collector) -> None:
    assert raw(collector, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert b'{"error"' in raw(collector, b"BREW / HTTP/1.1\r\n\r\n")
    assert collector.requests() == []


def test_a_client_that_leaves_midway_has_sent_no_request(collector: Collector, sender: Sender) -> None:
    with socket.create_connection(("127.0.0.1", collector.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
    sender.post(events("a"))
    assert len(collector.requests()) == 1


def test_expect_continue_is_granted_only_to_a_body_that_is_wanted(collector: Collector) -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Type: application/json\r\n"
    reply = raw(collector, head + b"Content-Length: 2\r\n\r\n[]")
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", collector.port), timeout=5) as connection:
        connection.sendall(head + b"Content-Length: 99999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


# Where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::", "example.com", ""])
def test_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        Collector(host=host)


def test_the_url_is_known_once_started() -> None:
    collector = Collector(host="localhost")
    with pytest.raises(RuntimeError):
        _ = collector.url
    with pytest.raises(RuntimeError):
        collector.events()
    with collector:
        assert collector.start() is collector  # a second start does nothing
        assert collector.url == f"http://127.0.0.1:{collector.port}/v1/events"
        other = Collector(port=collector.port)
        with pytest.raises(OSError, match=r"."):
            other.start()
        with pytest.raises(RuntimeError):  # it let go of its store
            other.events()


def test_a_closed_port_refuses_cuts_and_comes_back_with_its_data(collector: Collector, sender: Sender) -> None:
    port = collector.port
    sender.post(events("a"))
    collector.close_port()
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        sender.post(events("b"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    assert collector.ids() == ["a"]
    collector.open_port()
    collector.open_port()
    assert collector.port == port
    sender.close()
    assert sender.post(events("b")).status == 200
    assert collector.ids() == ["a", "b"]
    assert collector.connections == 2


def test_a_given_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.db"
    with Collector(path) as collector:
        sender = Sender(collector)
        sender.post(events("a"))
        sender.post(events("a"))
        sender.post(b"")
        before = collector.stats()
        sender.close()
    with Collector(path) as again:
        stats = again.stats()
        assert {**before, "connections": 0} == {**stats, "connections": 0}
        sender = Sender(again)
        assert sender.post(events("a", "b")).json() == {"new": 1, "repeats": 1}
        assert [record.number for record in again.requests()] == [1, 2, 3, 4]
        sender.close()


def test_a_foreign_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"not a database, but long enough to look like a file of some kind" * 20)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not a collector"):
        Store(path)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="cannot be opened"):
        Store(tmp_path)


# Faults


def test_a_status_can_be_answered_a_number_of_times(collector: Collector, sender: Sender) -> None:
    collector.set_fault(status=429, headers={"Retry-After": "7"}, body="slow down", times=2)
    first = sender.post(events("a"))
    assert (first.status, first.headers["Retry-After"], first.body) == (429, "7", b"slow down")
    assert sender.post(events("a")).status == 429
    assert collector.count() == 0
    assert sender.post(events("a")).status == 200
    assert collector.stats()["rejected"] == 2


def test_a_failure_rate_is_kept_and_a_seed_repeats_it(collector: Collector, sender: Sender) -> None:
    def run() -> list[int]:
        collector.set_fault(failure_rate=0.3, status=500, seed=7)
        return [sender.post(b"[]").status for _ in range(60)]

    first = run()
    assert set(first) == {200, 500}
    assert 5 < first.count(500) < 35
    assert run() == first
    collector.set_fault(failure_rate=1)
    assert sender.post(b"[]").status == 503


def test_a_healed_collector_is_healthy(collector: Collector, sender: Sender) -> None:
    collector.faults.set(Faults(status=503))
    assert sender.post(events("a")).status == 503
    collector.heal()
    assert sender.post(events("a")).status == 200


def test_a_redirect_names_its_target(collector: Collector, sender: Sender) -> None:
    collector.set_fault(redirect="http://127.0.0.1:9/elsewhere")
    answer = sender.post(events("a"))
    assert (answer.status, answer.headers["Location"]) == (307, "http://127.0.0.1:9/elsewhere")
    collector.set_fault(redirect="/x", status=301)
    assert sender.post(events("a")).status == 301
    assert collector.count() == 0


def test_latency_comes_after_the_commit_and_ends_with_the_port(collector: Collector, sender: Sender) -> None:
    collector.set_fault(latency=0.05)
    began = time.perf_counter()
    assert sender.post(events("a")).status == 200
    assert time.perf_counter() - began >= 0.05
    collector.set_fault(latency=60)
    sender.http.request("POST", "/", events("b"), {"Content-Type": BATCH})
    assert collector.wait_for(2, 5)
    collector.close_port()
    with pytest.raises(ConnectionError):
        sender.http.getresponse()


def test_a_lost_reply_leaves_the_events_committed(collector: Collector, sender: Sender) -> None:
    collector.set_fault(lost_reply=True, times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        sender.post(events("a"))
    assert collector.ids() == ["a"]
    sender.close()
    assert sender.post(events("a")).json() == {"new": 0, "repeats": 1}
    assert [record.status for record in collector.requests()] == [None, 200]
    assert collector.stats()["unanswered"] == 1


def test_a_reset_before_reading_stores_nothing(collector: Collector, sender: Sender) -> None:
    collector.set_fault(reset="before", times=1)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sender.post(events("a"))
    assert collector.count() == 0
    sender.close()
    assert sender.post(events("a")).status == 200


def test_a_reset_midway_cuts_the_reply_in_half(collector: Collector) -> None:
    collector.set_fault(reset="midway")
    body = events("a")
    with socket.create_connection(("127.0.0.1", collector.port), timeout=5) as connection:
        head = f"POST / HTTP/1.1\r\nContent-Type: {BATCH}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        got = connection.recv(65536)
        with pytest.raises(ConnectionResetError):
            connection.recv(65536)
    assert got.startswith(b"HTTP/1.1 200")
    assert not got.endswith(b"}")
    assert collector.ids() == ["a"]


def test_bodies_above_a_size_are_too_large(collector: Collector, sender: Sender) -> None:
    collector.set_fault(max_bytes=len(events("a")))
    assert sender.post(events("a")).status == 200
    assert sender.post(events("b", "c")).status == 413
    assert collector.ids() == ["a"]


@pytest.mark.parametrize(
    "rule",
    [{"field": "data.n", "value": 1}, {"name": "poison"}, Poison(field="data.list.0", value=True)],
)
def test_a_poisonous_event_spoils_its_whole_batch(collector: Collector, sender: Sender, rule: Any) -> None:
    collector.set_fault(poison=rule)
    good = [{**cloud_event("a", n=0, list=[1])}, {**cloud_event("b", n=True, list=[])}]
    bad = {**cloud_event("c", n=1, list=[True]), "type": "poison"}
    assert sender.post(json.dumps([*good, bad])).status == 400
    assert collector.count() == 0
    assert collector.requests()[0].events == 3
    assert sender.post(json.dumps(good)).status == 200
    assert sender.post(json.dumps([bad])).status == 400
    assert collector.ids() == ["a", "b"]


def test_gzip_can_be_refused(collector: Collector, sender: Sender) -> None:
    collector.set_fault(refuse_gzip=True)
    assert sender.post(gzip.compress(events("a")), Content_Encoding="gzip").status == 415
    assert sender.post(events("a")).status == 200


def test_a_reply_can_be_huge(collector: Collector, sender: Sender) -> None:
    collector.set_fault(huge_reply=1_000_000)
    answer = sender.post(events("a"))
    assert len(answer.body) == 1_000_000
    assert answer.json() == {"new": 1, "repeats": 0}
    collector.heal()
    assert sender.post(events("b")).status == 200


def test_a_reply_can_trickle(collector: Collector) -> None:
    collector.set_fault(trickle=0.0005)
    body = events("a")
    with socket.create_connection(("127.0.0.1", collector.port), timeout=5) as connection:
        head = f"POST / HTTP/1.1\r\nContent-Type: {BATCH}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    assert len(parts) > 20
    assert b"".join(parts).endswith(b'{"new": 1, "repeats": 0}')


def test_a_reply_can_lie_about_its_length(collector: Collector, sender: Sender) -> None:
    collector.set_fault(wrong_length=10)
    with pytest.raises(http.client.IncompleteRead):
        sender.post(events("a"))
    collector.set_fault(wrong_length=-5)
    sender.close()
    assert sender.post(events("b")).body == b'{"new": 1, "repeats'
    assert collector.ids() == ["a", "b"]


def test_faults_can_be_kept_to_one_path(collector: Collector, sender: Sender) -> None:
    collector.set_fault(status=500, path="/api/buckets", times=1)
    assert sender.post(b"[]", path="/api/events").status == 200
    assert sender.post(b"[]", path="/api/buckets").status == 500
    assert sender.post(b"[]", path="/api/buckets").status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 99},
        {"status": "503"},
        {"status": True},
        {"failure_rate": 1.5},
        {"failure_rate": float("nan")},
        {"latency": -1},
        {"latency": None},
        {"times": 0},
        {"reset": "sometimes"},
        {"lost_reply": 1},
        {"headers": {"A": "b"}},
        {"status": 500, "headers": {"A": "b\r\nC: d"}},
        {"status": 500, "headers": ["A"]},
        {"status": 500, "body": 5},
        {"redirect": "/\r\n"},
        {"redirect": 5},
        {"seed": 1},
        {"poison": {}},
        {"poison": {"name": "a", "field": "b"}},
        {"poison": {"name": 5}},
        {"poison": {"nmae": "a"}},
        {"poison": "a"},
        {"no_such": 1},
    ],
)
def test_a_fault_that_means_nothing_is_an_error(fields: dict[str, Any]) -> None:
    box = FaultBox()
    with pytest.raises(ValueError, match=r"."):
        box.set(**fields)
    assert box.current == Faults()


def test_faults_say_what_they_change() -> None:
    fields: dict[str, Any] = {"status": 500, "headers": {"A": "b"}, "times": 3}
    assert Faults(**fields).as_dict() == fields
    assert FaultBox().set(poison={"field": "a", "value": None}).as_dict() == {"poison": {"field": "a", "value": None}}
    assert FaultBox().set(poison={"name": "a"}).as_dict() == {"poison": {"name": "a"}}
    assert Faults().as_dict() == {}
    with pytest.raises(ValueError, match="not both"):
        FaultBox().set(Faults(), status=500)


# Control over HTTP


def test_faults_and_totals_over_http(collector: Collector, sender: Sender) -> None:
    set_ = sender.call("POST", "/_collector/faults", json.dumps({"status": 503, "times": 1}))
    assert (set_.status, set_.json()) == (200, {"status": 503, "times": 1})
    assert sender.call("GET", "/_collector/faults").json() == {"status": 503, "times": 1}
    assert sender.post(events("a", "b")).status == 503
    assert sender.post(events("a", "b")).status == 200
    sender.call("POST", "/_collector/faults", '{"reset": "before"}')
    assert sender.call("GET", "/_collector/stats").json() == {
        "unique": 2,
        "repeats": 0,
        "requests": 2,
        "rejected": 1,
        "unanswered": 0,
        "connections": 1,
        "faults": {"reset": "before"},
    }
    assert sender.call("DELETE", "/_collector/faults").json() == {}
    assert sender.post(events("c")).status == 200
    page = sender.call("GET", "/_collector/events?limit=1&offset=1").json()
    assert page["total"] == 3
    assert [(one["arrival"], one["id"], one["data"]) for one in page["events"]] == [(2, "b", {"n": 1})]
    assert [one["id"] for one in sender.call("GET", "/_collector/events").json()["events"]] == ["a", "b", "c"]
    assert len(collector.requests()) == 3  # the control requests are no traffic


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "faults", "{", 400),
        ("POST", "faults", "[]", 400),
        ("POST", "faults", '{"no_such": 1}', 400),
        ("POST", "faults", "[" * 100_000, 400),
        ("GET", "events?limit=x", None, 400),
        ("GET", "events?limit=-1", None, 400),
        ("GET", "nothing", None, 404),
    ],
)
def test_a_bad_control_request_is_refused(sender: Sender, method: str, path: str, body: str, status: int) -> None:
    assert sender.call(method, f"/_collector/{path}", body).status == status
    assert sender.post(events("a")).status == 200


# Dialects


class Buckets:
    """A dialect with everything: state, its own replies, a veto, events outside JSON."""

    name = "buckets"

    def matches(self, request: Request) -> bool:
        return request.path.startswith("/api/")

    def decode(self, request: Request, state: State) -> Sequence[Arrival]:
        bucket = request.headers.get("X-Bucket", "")
        if request.path == "/api/buckets":
            state.set(bucket, {"made": True})
            if bucket == "half":
                raise refuse(402, "limit", {"X-Why": "limit"})
            return []
        if bucket == "bug":
            raise KeyError(bucket)
        if state.get(bucket) is None:
            raise refuse(404, f"no bucket among {state.keys()}")
        lines = request.body.decode().splitlines()
        return [Arrival(line, line, {"line": line}, extra={"bucket": bucket}) for line in lines]

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        if request.path == "/api/buckets":
            return json_reply(201, {"buckets": state.keys()})
        return Reply(204, {"X-New": str(taken.new)}, b"never sent")


def test_a_dialect_has_state_replies_and_vetoes_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with Collector(dialects=[Buckets()]) as collector:
        sender = Sender(collector)
        assert sender.post(b"x", path="/api/events", X_Bucket="b").status == 404
        assert sender.post(b"", path="/api/buckets", X_Bucket="b").json() == {"buckets": ["b"]}
        veto = sender.post(b"", path="/api/buckets", X_Bucket="half")
        assert (veto.status, veto.headers["X-Why"]) == (402, "limit")
        # What a vetoed request wrote is gone with it.
        assert "half" not in sender.post(b"x", path="/api/events", X_Bucket="no").json()["error"]
        stored = sender.post(b"one\ntwo", path="/api/events", X_Bucket="b")
        assert (stored.status, stored.headers["X-New"], stored.body) == (204, "2", b"")
        bug = sender.post(b"x", path="/api/events", X_Bucket="bug")
        assert (bug.status, "KeyError" in bug.json()["error"]) == (500, True)
        assert "the collector failed" in caplog.text
        found = collector.arrived()
        assert [(one.name, one.event, one.extra) for one in found] == [
            ("one", {"line": "one"}, {"bucket": "b"}),
            ("two", {"line": "two"}, {"bucket": "b"}),
        ]
        assert collector.ids() == ["#5/0", "#5/1"]
        sender.close()


def test_a_vendor_adds_a_dialect_with_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "made_up_vendors"
    files = {
        "__init__.py": "",
        "zeta/__init__.py": "",
        "zeta/dialect.py": "class D:\n    name = 'zeta'\nDIALECT = D()",
        "alpha/__init__.py": "",
        "alpha/dialect.py": "class D:\n    name = 'alpha'\nDIALECT = D()",
        "mute/__init__.py": "",
        "absent/__init__.py": "",
        "absent/dialect.py": "import a_library_nobody_installed",
        "single.py": "raise AssertionError('no package, not imported')",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [dialect.name for dialect in find_dialects("made_up_vendors")]
    assert names == ["alpha", "zeta", "cloudevents", "json"]
    (root / "mute" / "dialect.py").write_text("")
    with pytest.raises(TypeError, match="DIALECT"):
        find_dialects("made_up_vendors")
    assert [dialect.name for dialect in find_dialects("no_such_package_at_all")] == ["cloudevents", "json"]


def test_headers_compare_without_case_and_join() -> None:
    headers = Headers([("A-b", "1"), ("a-B", "2"), ("C", "3")])
    assert dict(headers) == {"A-b": "1, 2", "C": "3"}
    assert headers["a-b"] == "1, 2"


# In the foreground

SERVE = """
import sys
from edgespool.testing.collector import serve
say = lambda text: print(text, flush=True)
serve(sys.argv[1], on_ready=lambda c: say(c.port), on_request=lambda r: say(f"{r.method} {r.status} {r.events}"))
say("closed")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_without_a_file_nothing_is_left_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    code = SERVE.replace("serve(sys.argv[1], ", "serve(None, ")
    source = str(Path(edgespool.testing.__file__).parents[2])
    places = dict.fromkeys(("TMPDIR", "SQLITE_TMPDIR", "HOME"), str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, **places, "PYTHONPATH": source},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=5)
            for n in range(20):  # more than SQLite keeps in memory
                connection.request("POST", "/", events(f"{n}-" + "x" * 500_000), {"Content-Type": BATCH})
                assert connection.getresponse().read()
            assert list(tmp_path.iterdir()) == [], "not even while it runs"
            process.send_signal(number)
            assert process.wait(10) == (0 if number is signal.SIGTERM else -number)
            connection.close()
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_served_collector_keeps_what_it_answered(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "c.db"
    source = Path(edgespool.testing.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    with process:
        assert process.stdout is not None
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=5)
            connection.request("POST", "/", events("a", "b"), {"Content-Type": BATCH})
            assert connection.getresponse().status == 200
            if number is signal.SIGTERM:
                assert process.stdout.readline() == "POST 200 2\n"
            process.send_signal(number)
            assert process.wait(10) == (0 if number is signal.SIGTERM else -number)
            connection.close()
        finally:
            process.kill()
        if number is signal.SIGTERM:
            assert process.stdout.read() == "closed\n"
    with Collector(path) as collector:
        assert collector.ids() == ["a", "b"]
