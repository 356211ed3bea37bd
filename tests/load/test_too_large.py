"""A server that takes less and less at a time, and more again."""

from __future__ import annotations

from load_kit import MakeClient, check_books, record_readings, wait_until

from edgespool.testing import Collector


def test_a_limit_that_shrinks_during_the_run_costs_a_few_requests_and_no_event(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(compression="none")
    ids = record_readings(client, 6000, note="x" * 100)
    for step, limit in enumerate((100_000, 30_000, 9_000, 2_500, 600)):
        collector.set_fault(max_bytes=limit)
        if not step:
            client.start()
        assert collector.wait_for(1000 * (step + 1), 60)
    refused = sum(request.status == 413 for request in collector.requests())
    # Each limit is found by halving, ten times from 512 KiB to 600 bytes; and now and then a larger one is tried.
    assert refused <= 12 + len(collector.requests()) / 50
    collector.heal()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, set())
    assert collector.repeats() == 0


def test_a_limit_that_is_lifted_is_noticed(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(compression="none")
    collector.set_fault(max_bytes=20_000)
    ids = record_readings(client, 3000, note="x" * 100)
    client.start()
    assert collector.wait_for(1000, 60)
    collector.heal()
    ids += record_readings(client, 12_000, note="x" * 100)
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, set())
    sizes = [request.events for request in collector.requests() if request.status == 200]
    assert max(sizes[-10:]) > 3 * max(sizes[:10])


def test_events_that_are_too_large_alone_fail_alone(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(compression="none")
    collector.set_fault(max_bytes=5_000)
    ids, large = [], set()
    for n in range(300):
        ids.append(client.record("reading", n=n, note="x" * (8000 if n % 50 == 25 else 50)))
        if n % 50 == 25:
            large.add(ids[-1])
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, large)
    assert collector.repeats() == 0


def test_a_limit_and_culprits_at_once(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(compression="none")
    collector.set_fault(max_bytes=20_000, poison={"field": "data.bad", "value": True})
    culprits = set(range(0, 2000, 97))
    ids = record_readings(client, 2000, culprits, note="x" * 50)
    client.start()
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    check_books(client, collector, ids, {ids[n] for n in culprits})
    assert collector.repeats() == 0
