"""What every class of status means for the events, from record() to the server and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http_kit import failed_files, record_many, wait_until

from edgespool import Client, Event
from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.testing.dialects import Arrival, CloudEvents, Request, State, refuse

MakeClient = Callable[..., Client]


class Picky(CloudEvents):
    """Refuses a batch that holds an event named "bad", with a status of its own."""

    def __init__(self, status: int) -> None:
        self.status = status

    def decode(self, request: Request, state: State) -> list[Arrival]:
        arrivals = super().decode(request, state)
        if any(arrival.name == "bad" for arrival in arrivals):
            raise refuse(self.status, "one of these is bad")
        return arrivals


@pytest.fixture
def picky() -> Iterator[Callable[[int], Collector]]:
    made: list[Collector] = []

    def make(status: int) -> Collector:
        made.append(Collector(dialects=[Picky(status)]).start())
        return made[-1]

    yield make
    for collector in made:
        collector.close()


@pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 206, 207, 299])
def test_any_2xx_is_a_yes(make_client: MakeClient, collector: Collector, status: int) -> None:
    collector.set_fault(status=status)
    client = make_client(start=False)
    record_many(client, 3)
    client.start()
    assert client.flush()
    stats = client.stats()
    assert (stats.delivered, stats.failed, stats.pending) == (3, 0, 0)
    assert len(collector.requests()) == 1
    assert failed_files(client) == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 599])
def test_a_passing_fault_is_tried_again_until_it_is_over(
    make_client: MakeClient, collector: Collector, status: int
) -> None:
    collector.set_fault(status=status, times=3)
    client = make_client(start=False)
    ids = record_many(client, 5)
    client.start()
    assert collector.wait_for(5, 20)
    assert collector.ids() == ids
    assert collector.repeats() == 0
    assert [request.status for request in collector.requests()[:3]] == [status] * 3
    wait_until(lambda: client.stats().pending == 0)
    assert client.stats().delivered == 5
    assert client.stats().last_error is None
    assert failed_files(client) == []


@pytest.mark.parametrize("status", [400, 406, 409, 411, 415, 418, 422, 428, 431, 451])
def test_what_is_refused_for_good_goes_to_a_file_and_its_neighbours_are_delivered(
    make_client: MakeClient, picky: Callable[[int], Collector], status: int
) -> None:
    collector = picky(status)
    client = make_client(collector.url, start=False)
    events: list[tuple[str, dict[str, Any]]] = [("bad" if n in (3, 4, 11) else "good", {"n": n}) for n in range(16)]
    ids = client.record_many(events)
    client.start()
    assert client.flush()
    assert collector.ids() == [id for n, id in enumerate(ids) if n not in (3, 4, 11)]
    files = failed_files(client)
    assert [file["reason"]["status"] for file in files] == [status] * 3
    assert sorted(file["ids"] for file in files) == [[ids[3]], [ids[4]], [ids[11]]]
    stats = client.stats()
    assert (stats.delivered, stats.failed, stats.pending, dict(stats.dropped)) == (13, 3, 0, {})
    assert stats.ledger.balanced


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 410, 300, 301, 302, 303, 307, 308])
def test_a_refusal_of_everything_pauses_and_drops_nothing(
    make_client: MakeClient, collector: Collector, status: int
) -> None:
    collector.set_fault(status=status)
    heard: list[str] = []
    client = make_client(start=False, on_error=lambda error, batch: heard.append(str(error)))
    ids = record_many(client, 5)
    client.start()
    wait_until(lambda: client.stats().state == "held", "the pause")
    wait_until(lambda: len(collector.requests()) >= 3, "a probe")
    ids.append(client.record("reading", n=5))
    stats = client.stats()
    assert (stats.delivered, stats.failed, stats.pending, dict(stats.dropped)) == (0, 0, 6, {})
    assert str(status) in (stats.last_error or "")
    assert len(heard) == 1, "the hook is called when it begins, not at each probe"
    assert failed_files(client) == []
    collector.heal()
    assert collector.wait_for(6, 20)
    assert collector.ids() == ids
    wait_until(lambda: client.stats().state == "idle", "the end of the pause")
    assert client.stats().last_error is None


def test_a_redirect_is_not_followed(make_client: MakeClient, collector: Collector) -> None:
    with Collector() as elsewhere:
        collector.set_fault(redirect=elsewhere.url)
        client = make_client()
        event = client.record("reading", n=1)
        wait_until(lambda: client.stats().state == "held", "the pause")
        assert elsewhere.url in (client.stats().last_error or ""), "a person must be able to see where it points"
        collector.heal()
        assert collector.wait_for(1, 20)
        assert collector.ids() == [event]
        assert elsewhere.requests() == []


def test_413_makes_the_batches_smaller_and_fails_nothing(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(max_bytes=4000)
    client = make_client(start=False, compression="none")
    ids = record_many(client, 300, note="x" * 100)
    client.start()
    assert client.flush(20)
    assert collector.ids() == ids
    assert failed_files(client) == []
    refused = [request for request in collector.requests() if request.status == 413]
    assert 1 <= len(refused) <= 12, "the size that the server takes was not learned"


def test_one_event_that_is_too_large_for_the_server_goes_to_a_file(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.set_fault(max_bytes=4000)
    client = make_client(start=False, compression="none")
    ids = client.record_many([("reading", {"n": n, "note": "x" * (5000 if n == 4 else 50)}) for n in range(10)])
    client.start()
    assert client.flush(20)
    assert collector.ids() == ids[:4] + ids[5:]
    (file,) = failed_files(client)
    assert (file["ids"], file["reason"]["status"]) == ([ids[4]], 413)
    assert client.stats().failed == 1


def test_what_a_limit_on_attempts_gives_up_goes_to_a_file(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(status=503, times=3)
    client = make_client(start=False, max_attempts=3)
    given_up = record_many(client, 4)
    client.start()
    wait_until(lambda: client.stats().failed == 4, "giving up")
    event = client.record("later")
    assert collector.wait_for(1, 20)
    assert collector.ids() == [event]
    (file,) = failed_files(client)
    assert (file["ids"], file["reason"]["status"], file["attempts"]) == (given_up, 503, 3)


@pytest.mark.parametrize("status", [401, 503])
def test_a_route_that_is_held_or_waits_stops_no_other_route(
    make_client: MakeClient, picky: Callable[[int], Collector], status: int
) -> None:
    collector = picky(status)
    heard: list[str] = []
    client = make_client(
        collector.url,
        start=False,
        batch_size=10,
        backoff=Backoff(base=600.0, cap=600.0),
        on_error=lambda error, batch: heard.append(str(error)),
    )
    for n in range(30):
        client.record_event(Event("bad", {"n": n}, route="a"))
    mine = [client.record_event(Event("good", {"n": n}, route="b")) for n in range(30)]
    client._worker._fraction = lambda: 0.999  # the longest wait there is
    client.start()
    assert collector.wait_for(30, 20), "route b waited for route a"
    assert collector.ids() == mine
    wait_until(lambda: client.stats().pending == 30, "the acknowledgements")
    wait_until(lambda: client.stats().state == ("held" if status == 401 else "backing off"), "the end of route b")
    stats = client.stats()
    assert stats.held == (("a",) if status == 401 else ())
    assert str(status) in (stats.last_error or ""), "what goes wrong with route a was forgotten over route b"
    assert len(heard) == 1
    assert [request.status for request in collector.requests()].count(status) == 1, "route a did not wait"
