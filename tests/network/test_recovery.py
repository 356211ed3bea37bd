"""What an outage costs while it lasts, little CPU and few attempts, and what comes after: everything, in order."""

from __future__ import annotations

import time
from typing import Any

import pytest
from network_kit import MIB, MakeClient, check_settled, measured, record_many, wait_until

from edgespool.outcome import Backoff
from edgespool.testing import Collector, FaultProxy, NetworkFaults
from edgespool.testing.weather import weather

OUTAGES: dict[str, dict[str, Any] | None] = {
    "closed port": None,
    "reset before": {"reset": "before"},
    "reset during": {"reset": "during"},
    "reset after": {"reset": "after"},
    "lost reply": {"lost_reply": True},
    "stall": {"stall": "before"},
    "trickle": {"rate": 30},
    "garbage": {"garbage": True},
    "redirects": {"redirects": 100},
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_waited_for_without_spinning_and_ends_by_itself(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy, outage: str
) -> None:
    fault = OUTAGES[outage]
    client = make_client(backoff=Backoff(base=0.4, cap=0.4), timeout=(1.0, 1.0))
    client._worker._fraction = lambda: 0.5  # so that a wait is 0.2 s
    proxy.close_port() if fault is None else proxy.set_fault(**fault)
    ids = record_many(client, 50)
    wait_until(lambda: client.stats().last_error, "the first failure")
    attempts = client._destination.send  # type: ignore[attr-defined]
    count = 0

    def counted(batch: Any) -> Any:
        nonlocal count
        count += 1
        return attempts(batch)

    client._destination.send = counted  # type: ignore[attr-defined]
    connections = proxy.connections
    with measured() as cost:
        time.sleep(1.0)
    assert count <= 1 + cost.wall / 0.2
    assert proxy.connections - connections <= 2 + cost.wall / 0.2, "nobody below tries again by itself"
    assert cost.cpu < 0.4 * cost.wall
    assert cost.memory < 4 * MIB
    proxy.heal()
    proxy.open_port()
    proxy.cut()
    check_settled(client, 50)
    assert collector.ids() == ids
    assert collector.repeats() <= 2 * 50 + proxy.unanswered  # twice the batch, and then one event an attempt


def test_an_idle_client_costs_next_to_nothing(make_client: MakeClient, proxy: FaultProxy) -> None:
    client = make_client()
    client.record("one")
    check_settled(client, 1)
    with measured() as cost:
        time.sleep(1.0)
    assert cost.cpu < 0.1
    assert proxy.exchanges == 1


def test_a_hurry_waits_for_the_rate_limit_without_spinning(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(max_rate=1, batch_size=20)  # a batch each 20 s
    ids = record_many(client, 50)
    with measured() as cost:
        assert not client.flush(2.0)
    assert collector.ids() == ids[:20]
    assert cost.cpu < 0.4 * cost.wall
    client.send_now()
    assert client._worker.stop(5.0), "the end was waited for until the next batch might have gone"


def test_a_network_that_flaps_by_schedule_loses_nothing_and_keeps_the_order(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy
) -> None:
    client = make_client(batch_size=20)
    good = NetworkFaults()
    lost, cut = NetworkFaults(lost_reply=True), NetworkFaults(reset="during")
    proxy.flap([(0.2, good), (0.2, None), (0.2, good), (0.2, lost), (0.2, good), (0.2, cut), (0.1, None), (0.0, good)])
    ids = []
    for n in range(60):
        ids += record_many(client, 5, round=n)
        time.sleep(0.025)
    check_settled(client, 300)
    assert collector.ids() == ids
    assert collector.repeats() <= 20 * proxy.unanswered


@pytest.mark.parametrize("seed", [1, 2])
def test_a_network_that_flaps_at_random_loses_nothing_and_keeps_the_order(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy, seed: int
) -> None:
    client = make_client(batch_size=20, timeout=(1.0, 1.0))
    proxy.flap(weather(seed, good=(0.05, 0.3), bad=(0.05, 0.3)))
    ids = []
    for n in range(100):
        ids += record_many(client, 3, round=n)
        time.sleep(0.02)
    proxy.heal()
    check_settled(client, 300)
    assert collector.ids() == ids
    assert collector.repeats() <= 20 * proxy.unanswered


def test_the_same_seed_makes_the_same_weather() -> None:
    first, second, other = weather(7), weather(7), weather(8)
    days = [next(first) for _ in range(50)]
    assert days == [next(second) for _ in range(50)]
    assert days != [next(other) for _ in range(50)]
    assert days[0][1] == NetworkFaults()
    assert all(0 < seconds <= 1 for seconds, _ in days)


def test_a_proxy_that_is_closed_leaves_nothing_behind_and_can_begin_anew(
    make_client: MakeClient, collector: Collector
) -> None:
    proxy = FaultProxy(collector.url)
    with pytest.raises(RuntimeError, match="no port"):
        _ = proxy.url
    with proxy:
        port = proxy.port
        client = make_client(proxy.url)
        client.record("one")
        check_settled(client, 1)
        proxy.set_fault(stall="before")
        client.record("two")
        wait_until(lambda: proxy.faulted == 1)
    proxy.close()
    with proxy:
        assert proxy.port == port
        assert proxy.faults == NetworkFaults()
        check_settled(client, 2)
    assert collector.repeats() == 0


@pytest.mark.parametrize(
    "bad", [{"reset": "never"}, {"stall": "now"}, {"rate": -1}, {"times": 0}, {"huge_reply": -1}, {"redirects": -1}]
)
def test_a_fault_that_cannot_be_is_refused(collector: Collector, bad: dict[str, Any]) -> None:
    proxy = FaultProxy(collector.url)
    with pytest.raises(ValueError, match=next(iter(bad))):
        proxy.set_fault(**bad)
    with pytest.raises(TypeError):
        proxy.set_fault(no_such_fault=1)
    with pytest.raises(ValueError, match="upstream"):
        FaultProxy("nowhere")
