"""flush() and close() keep to their time, whatever the server does, and say truly what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from http_kit import black_hole, closed_port, record_many, wait_until

from edgespool import Client
from edgespool.errors import QueueClosed
from edgespool.outcome import Backoff
from edgespool.testing import Collector

MakeClient = Callable[..., Client]
NEVER = Backoff(base=600.0, cap=600.0)
SMALL = 1.5  # seconds on top of a time-out that a loaded machine is granted


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_flush_sends_at_once_and_says_so(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(flush_interval=600.0)
    wait_until(lambda: not client._worker._draining, "the look at what was left by the last run")
    ids = record_many(client, 7)
    time.sleep(0.1)
    assert collector.count() == 0, "it did not wait for others to be sent with"
    assert client.flush(20) is True
    assert collector.ids() == ids
    assert client.stats().pending == 0


def test_flush_of_nothing_is_done_at_once(make_client: MakeClient, collector: Collector) -> None:
    assert make_client().flush(0) is True
    assert collector.requests() == []


def test_flush_gives_up_in_time_while_the_server_is_away(make_client: MakeClient) -> None:
    client = make_client(closed_port())
    record_many(client, 3)
    outcome: list[bool] = []
    took = seconds(lambda: outcome.append(client.flush(0.3)))
    assert outcome == [False]
    assert 0.25 <= took < 0.3 + SMALL
    assert client.stats().pending == 3


def test_flush_does_not_wait_for_what_is_recorded_after_it(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(batch_size=5)
    stop = threading.Event()

    def record() -> None:
        while not stop.is_set():
            client.record("more")

    thread = threading.Thread(target=record)
    thread.start()
    try:
        wanted = client.record("mine")
        assert client.flush(20)
        assert wanted in collector.ids()
    finally:
        stop.set()
        thread.join(10)


def test_flush_ends_a_backoff(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(status=503, times=1)
    client = make_client(start=False, backoff=NEVER)
    client._worker._fraction = lambda: 0.99
    client.record("reading")
    client.start()
    wait_until(lambda: client.stats().state == "backing off")
    assert client.flush(20)
    assert collector.count() == 1


def test_flush_after_close_is_refused(make_client: MakeClient) -> None:
    client = make_client()
    client.close()
    with pytest.raises(QueueClosed):
        client.flush(1)


def test_close_delivers_what_is_left_and_counts(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(flush_interval=600.0)
    ids = record_many(client, 12)
    report = client.close(20)
    assert (report.delivered, report.pending) == (12, 0)
    assert collector.ids() == ids
    assert client.close() is report
    assert client.shutdown() is report
    with pytest.raises(QueueClosed):
        client.record("late")


def test_close_counts_what_stays_on_the_disk(make_client: MakeClient, collector: Collector) -> None:
    first = make_client()
    ids = record_many(first, 4)
    assert first.flush(20)
    collector.close_port()
    ids += record_many(first, 3)
    report = first.close(5)
    assert (report.delivered, report.pending) == (4, 3)
    collector.open_port()
    second = make_client()
    assert second.flush(20)
    assert collector.ids() == ids
    assert second.close().delivered == 3


def test_close_does_not_wait_for_a_server_that_is_away(make_client: MakeClient) -> None:
    client = make_client(closed_port(), backoff=NEVER)
    client.record("reading")
    wait_until(lambda: client.stats().state == "backing off")
    assert seconds(lambda: client.close(30)) < SMALL


@pytest.mark.parametrize("timeout", [0.0, 0.4])
def test_close_is_bounded_while_a_server_says_nothing(make_client: MakeClient, timeout: float) -> None:
    with black_hole() as url:
        client = make_client(url, timeout=(60.0, 60.0))
        record_many(client, 5)
        wait_until(lambda: client.stats().state == "sending")
        reports = []
        assert seconds(lambda: reports.append(client.close(timeout))) < timeout + SMALL
        assert (reports[0].delivered, reports[0].pending) == (0, 5)
    # The server has gone; the thread that waited for it lets go of the queue, and the events are still there.


def test_what_was_in_flight_at_close_is_not_lost(make_client: MakeClient, collector: Collector) -> None:
    with black_hole() as url:
        client = make_client(url, timeout=(60.0, 60.0))
        ids = record_many(client, 5)
        wait_until(lambda: client.stats().state == "sending")
        client.close(0)
        wait_until(lambda: client._worker.running, "the request in flight")
    wait_until(lambda: not client._worker.running, "the end of the request")
    assert make_client().flush(20)
    assert collector.ids() == ids


def test_a_yes_that_comes_after_close_is_still_acknowledged(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(latency=0.4)
    client = make_client()
    client.record("reading")
    wait_until(lambda: client.stats().state == "sending")
    client.close(0)
    wait_until(lambda: not client._worker.running, "the end of the request")
    collector.heal()
    later = make_client()
    assert later.flush(20)
    assert (collector.count(), collector.repeats()) == (1, 0)
    assert later.stats().delivered == 1


def test_many_threads_close_at_once_and_get_one_report(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    record_many(client, 50)
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(client.close(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(reports) == 8
    assert len({id(report) for report in reports}) == 1
    assert collector.count() == 50


def test_a_with_statement_closes(make_client: MakeClient, collector: Collector) -> None:
    with make_client(flush_interval=600.0) as client:
        ids = record_many(client, 3)
    assert collector.ids() == ids


def test_a_drain_sends_what_waits_and_does_not_wait_in_an_outage(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(flush_interval=3600.0, backoff=NEVER)
    client._worker._fraction = lambda: 0.9
    assert client.drain(10)
    record_many(client, 3)
    assert client.drain(10)
    assert collector.count() == 3
    record_many(client, 3)
    assert not client.drain(), "it was not told to wait"
    assert collector.wait_for(6, 10)
    collector.close_port()
    record_many(client, 3)
    assert not client.drain(60)
    assert client.stats().state == "backing off"
    assert not client.drain(60)
    client.close()
    with pytest.raises(QueueClosed):
        client.drain()
