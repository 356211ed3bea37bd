"""How events become requests: limits, order, one connection, headers, and what one bad event costs the others."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import pytest
import requests
from http_kit import OK, ScriptedServer, failed_files, record_many, wait_until

from edgespool import Client, Event
from edgespool.testing import Collector

MakeClient = Callable[..., Client]


@pytest.mark.parametrize("culprit", [0, 1, 333, 499, 500, 512, 998, 999])
def test_one_culprit_among_a_thousand_costs_at_most_21_requests(
    make_client: MakeClient, collector: Collector, culprit: int
) -> None:
    collector.set_fault(poison={"field": "data.n", "value": culprit})
    client = make_client(start=False, batch_size=1000)
    ids = record_many(client, 1000)
    client.start()
    assert client.flush(20)
    assert collector.ids() == ids[:culprit] + ids[culprit + 1 :]
    assert collector.repeats() == 0
    assert len(collector.requests()) <= 21
    (file,) = failed_files(client)
    assert file["ids"] == [ids[culprit]]
    assert client.stats().failed == 1


def test_a_batch_holds_so_many_events_at_most(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(start=False, batch_size=40)
    ids = record_many(client, 200)
    client.start()
    assert client.flush(20)
    assert [request.events for request in collector.requests()] == [40] * 5
    assert collector.ids() == ids


def test_a_batch_holds_so_many_bytes_at_most(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(start=False, batch_bytes=8000, compression="none")
    ids = record_many(client, 200, note="x" * 300)
    client.start()
    assert client.flush(20)
    assert collector.ids() == ids
    sizes = [request.size for request in collector.requests()]
    brackets_and_commas = 20
    assert max(sizes) <= 8000 + brackets_and_commas
    assert min(sizes[:-1]) > 7000, "the batches are smaller than they need be"


def test_many_batches_go_over_one_connection(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(start=False, batch_size=10)
    record_many(client, 500)
    client.start()
    assert client.flush(20)
    for n in range(20):
        client.record("later", n=n)
        assert client.flush(20)
    assert len(collector.requests()) >= 70
    assert collector.connections == 1


def test_events_of_a_route_arrive_in_the_order_of_recording(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(batch_size=7)
    recorded: dict[str, list[str]] = {"": [], "a": [], "b": []}
    for n in range(300):
        route = ("", "a", "b")[n * n % 3]
        recorded[route].append(client.record_event(Event("reading", {"n": n}, route=route)))
    assert client.flush(20)
    arrived = collector.ids()
    for ids in recorded.values():
        assert [id for id in arrived if id in set(ids)] == ids


def test_every_request_says_what_it_is(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(headers={"X-Site": "north", "user-agent": "mine/1"})
    client.record("reading")
    assert client.flush(20)
    headers = collector.requests()[0].headers
    assert headers["Content-Type"].startswith("application/cloudevents-batch+json")
    assert headers["X-Site"] == "north"
    assert headers["User-Agent"] == "mine/1"
    assert len(headers["Idempotency-Key"]) >= 16


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (("anna", "pass:word"), "Basic " + base64.b64encode(b"anna:pass:word").decode()),
        ("anna:secret", "Basic " + base64.b64encode(b"anna:secret").decode()),
        ("a-token", "Bearer a-token"),
        (requests.auth.HTTPBasicAuth("anna", "pw"), "Basic " + base64.b64encode(b"anna:pw").decode()),
    ],
)
def test_credentials_are_sent(make_client: MakeClient, collector: Collector, auth: object, expected: str) -> None:
    client = make_client(auth=auth)
    client.record("reading")
    assert client.flush(20)
    assert collector.requests()[0].headers["Authorization"] == expected


def test_credentials_in_the_address_are_sent_as_a_header(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(collector.url.replace("http://", "http://anna:p%40ss@"))
    client.record("reading")
    assert client.flush(20)
    expected = "Basic " + base64.b64encode(b"anna:p@ss").decode()
    assert collector.requests()[0].headers["Authorization"] == expected


def test_a_session_of_the_users_is_used_as_it_is_and_not_closed(make_client: MakeClient, collector: Collector) -> None:
    closed = []

    class Session(requests.Session):
        def close(self) -> None:
            closed.append(self)
            super().close()

    session = Session()
    session.headers["X-Mine"] = "yes"
    client = make_client(session=session)
    client.record("reading")
    assert client.flush(20)
    assert collector.requests()[0].headers["X-Mine"] == "yes"
    client.close()
    assert closed == []
    session.close()


def test_a_proxy_that_the_environment_names_is_used(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda got: OK) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        client = make_client("http://events.invalid/v1/events")
        client.record("reading")
        assert client.flush(20)
        assert proxy.got[0].path == "http://events.invalid/v1/events"


def test_a_rate_cap_spreads_the_requests(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(start=False, batch_size=10, max_rate=100.0)
    record_many(client, 50)
    began = time.monotonic()
    client.start()
    wait_until(lambda: collector.count() == 50)
    assert time.monotonic() - began >= 0.39, "50 events at 100 a second, the first 10 at once"
