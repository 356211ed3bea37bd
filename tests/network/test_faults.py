"""Each fault of a network, with a real client and collector: nothing is lost, nothing repeats without a reason."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from network_kit import MIB, MakeClient, check_settled, measured, record_many, wait_until

from edgespool.testing import Collector, FaultProxy

#: Faults that keep the request from the server; and faults that only keep the reply from the client.
NEVER_ARRIVES: dict[str, dict[str, Any]] = {
    "reset before": {"reset": "before"},
    "reset during": {"reset": "during"},
    "stall before": {"stall": "before"},
    "garbage": {"garbage": True},
    "redirects": {"redirects": 100},
}
REPLY_LOST: dict[str, dict[str, Any]] = {
    "reset after": {"reset": "after"},
    "lost reply": {"lost_reply": True},
    "stall after": {"stall": "after"},
}
#: The status arrives, and says all there is to say.
REPLY_SPOILT: dict[str, dict[str, Any]] = {
    "half a reply": {"half_reply": True},
    "too long a length": {"wrong_length": 10_000},
    "too short a length": {"wrong_length": -5},
    "a trickle": {"rate": 4_000},
    "a large reply": {"huge_reply": 10 * MIB},
}


def _timeout(fault: str) -> tuple[float, float]:
    return (5.0, 1.0) if "stall" in fault else (5.0, 20.0)


@pytest.mark.parametrize("warm", [False, True], ids=["first request", "open connection"])
@pytest.mark.parametrize("fault", NEVER_ARRIVES)
def test_what_never_arrived_is_sent_again_and_arrives_once(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy, fault: str, warm: bool
) -> None:
    client = make_client(timeout=_timeout(fault), start=False)
    ids = []
    if warm:
        ids = [client.record("warm")]
        client.start()
        wait_until(lambda: client.stats().delivered == 1)
    proxy.set_fault(**NEVER_ARRIVES[fault], times=2)
    ids += record_many(client, 20)
    client.start()
    check_settled(client, len(ids))
    assert collector.ids() == ids
    assert collector.repeats() == 0
    assert proxy.faulted == 2


@pytest.mark.parametrize("warm", [False, True], ids=["first request", "open connection"])
@pytest.mark.parametrize("fault", REPLY_LOST)
def test_what_arrived_unanswered_is_sent_again_under_the_same_ids(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy, fault: str, warm: bool
) -> None:
    client = make_client(timeout=_timeout(fault), start=False)
    ids = []
    if warm:
        ids = [client.record("warm")]
        client.start()
        wait_until(lambda: client.stats().delivered == 1)
    proxy.set_fault(**REPLY_LOST[fault], times=1)
    ids += record_many(client, 20)
    client.start()
    check_settled(client, len(ids))
    assert collector.ids() == ids
    assert collector.repeats() == 20  # the one batch whose reply was lost, once
    wait_until(lambda: proxy.unanswered == 1)


@pytest.mark.parametrize("fault", REPLY_SPOILT)
def test_a_reply_whose_status_arrived_counts_whatever_becomes_of_the_rest(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy, fault: str
) -> None:
    client = make_client(batch_size=10, start=False)
    proxy.set_fault(**REPLY_SPOILT[fault])
    ids = record_many(client, 30)
    client.start()
    check_settled(client, len(ids))
    assert collector.ids() == ids
    assert collector.repeats() == 0
    assert proxy.exchanges == proxy.faulted == 3


def test_a_gigabyte_of_reply_is_not_read(make_client: MakeClient, collector: Collector, proxy: FaultProxy) -> None:
    client = make_client(start=False)
    record_many(client, 20)
    proxy.set_fault(huge_reply=1 << 30)
    with measured() as cost:
        client.start()
        check_settled(client, 20)
    assert cost.memory < 8 * MIB
    assert cost.wall < 10  # to read it would take as long as it takes to send it
    assert (collector.count(), collector.repeats()) == (20, 0)


@pytest.mark.parametrize("session", [None, requests.Session()], ids=["our session", "a given session"])
def test_a_chain_of_redirects_is_not_followed_and_holds_delivery(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy, session: requests.Session | None
) -> None:
    # Whoever follows it ends at a page that says 200, takes the events for delivered, and loses them.
    proxy.set_fault(redirects=100)
    client = make_client(session=session)
    ids = record_many(client, 20)
    wait_until(lambda: client.stats().state == "held", "the hold")
    assert "redirected to /hop/1" in (client.stats().last_error or "")
    client.close(0)
    wait_until(lambda: not client._worker.running)
    assert proxy.exchanges == client._worker._routes[""].attempt  # one request an attempt
    assert collector.count() == 0
    proxy.heal()
    check_settled(make_client(), 20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)


def test_a_name_that_cannot_be_resolved_loses_nothing(make_client: MakeClient, collector: Collector) -> None:
    client = make_client("http://no-such-host.invalid:9/v1/events")
    ids = record_many(client, 20)
    wait_until(lambda: client.stats().state == "backing off", "noticing that the name means nothing")
    assert "no connection" in (client.stats().last_error or "")
    report = client.close(5)
    assert (report.delivered, report.pending) == (0, 20)
    again = make_client(collector.url)
    check_settled(again, 20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)


def test_tls_that_meets_garbage_is_tried_again(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy
) -> None:
    proxy.set_fault(garbage=True)
    client = make_client(proxy.url.replace("http://", "https://"))
    ids = record_many(client, 20)
    wait_until(lambda: "TLS failure" in (client.stats().last_error or ""), "the complaint")
    assert client.stats().pending == 20
    client.close(0)
    proxy.heal()
    again = make_client()
    check_settled(again, 20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)


def test_a_closed_port_is_tried_again(make_client: MakeClient, collector: Collector, proxy: FaultProxy) -> None:
    client = make_client()
    proxy.close_port()
    ids = record_many(client, 20)
    wait_until(lambda: client.stats().state == "backing off", "noticing the closed port")
    assert (client.stats().pending, collector.count()) == (20, 0)
    proxy.open_port()
    check_settled(client, 20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)
