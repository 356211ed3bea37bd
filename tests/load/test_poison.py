"""Events that the server refuses: they alone go to failed payload files, and finding them costs few requests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
from load_kit import BATCH, MakeClient, check_books, draw, failed_events, record_readings, wait_until

from edgespool import Client, Event
from edgespool.testing import Collector
from edgespool.testing.dialects import Arrival, CloudEvents, Request, State

POISON = {"field": "data.bad", "value": True}
SEARCH = math.ceil(math.log2(BATCH))  # how often a batch is halved until an event stands alone


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_culprits_among_ten_thousand_stand_alone_in_failed_files(
    make_client: MakeClient, collector: Collector, count: int
) -> None:
    culprits = draw(count, 10_000, seed=count)
    client = make_client()
    ids = record_readings(client, 10_000, culprits)
    collector.set_fault(poison=POISON)
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, {ids[n] for n in culprits})
    assert collector.repeats() == 0
    assert all(len(each) == 1 for each in failed_events(client))
    assert len(collector.requests()) <= count * 2 * SEARCH + 10_000 / BATCH


def test_one_culprit_in_a_thousand_costs_at_most_twenty_one_requests(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(batch_size=1000)
    collector.set_fault(poison=POISON)
    ids = record_readings(client, 1000, {377})
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, {ids[377]})
    assert len(collector.requests()) <= 21


def test_a_queue_of_nothing_but_culprits_ends_in_failed_files(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    collector.set_fault(poison=POISON)
    ids = record_readings(client, 100, set(range(100)))
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, set(ids))
    assert len(collector.requests()) <= 2 * 100


class NotTogether(CloudEvents):
    """A server that refuses any request with more than one marked event in it."""

    def decode(self, request: Request, state: State) -> Sequence[Arrival]:
        found = super().decode(request, state)
        if sum(arrival.event["data"]["bad"] for arrival in found) > 1:
            raise ValueError("these do not go together")
        return found


@pytest.fixture
def picky() -> Iterator[Collector]:
    with Collector(dialects=[NotTogether()]) as made:
        yield made


@pytest.mark.parametrize("pair", [{0, 1}, {249, 250}, {0, 499}, {498, 499}, {100, 101, 102}, {499, 500}])
def test_what_fails_only_together_is_delivered_apart(make_client: MakeClient, picky: Collector, pair: set[int]) -> None:
    client = make_client(picky.url)
    ids = record_readings(client, 1000, pair)
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, picky, ids, set())
    assert picky.repeats() == 0
    assert len(picky.requests()) <= len(pair) * 2 * SEARCH + 2


def _work_off(client: Client, left: int) -> None:
    wait_until(lambda: client.stats().pending <= left, "a part of the work")
    client.close(0)
    wait_until(lambda: client._queue._store.closed, "the closing")


def test_a_restart_in_the_midst_of_the_search_gives_nobody_up_wrongly(
    make_client: MakeClient, collector: Collector
) -> None:
    culprits = draw(20, 2000, seed=3)
    collector.set_fault(poison=POISON)
    client = make_client()
    ids = record_readings(client, 2000, culprits)
    for share in (0.2, 0.5, 0.8):
        client.start()
        _work_off(client, 2000 - int(2000 * share))
        client = make_client()
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, {ids[n] for n in culprits})


def test_culprits_of_one_route_do_not_hold_up_the_others(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    collector.set_fault(poison=POISON)
    routes = ["a", "b", "c", ""]
    ids = client.record_many(
        [Event("reading", {"n": n, "bad": n % 100 == 0}, route=routes[n % 4]) for n in range(2000)]
    )
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    bad = {id for n, id in enumerate(ids) if n % 100 == 0}
    assert sorted(collector.ids()) == sorted(set(ids) - bad)
    assert sorted(id for each in failed_events(client) for id in each) == sorted(bad)
    numbers = [event["data"]["n"] for event in collector.events()]
    for rest in range(4):  # each route in order
        of_route = [n for n in numbers if n % 4 == rest]
        assert of_route == sorted(of_route)
