"""Networks and servers that fail in the middle of things: the events arrive all the same, with the ids they had."""

from __future__ import annotations

import gzip
import socket
import threading
import tracemalloc
from collections.abc import Callable

import pytest
from http_kit import Got, ScriptedServer, closed_port, failed_files, record_many, wait_until

from edgespool import Client
from edgespool.event import Batch
from edgespool.formats.cloudevents import CloudEvents
from edgespool.http import HttpDestination
from edgespool.outcome import Delivered
from edgespool.testing import Collector

MakeClient = Callable[..., Client]


def ids_by_request(collector: Collector) -> list[str]:
    """Return each request's Idempotency-Key, which is equal for equal batches."""
    return [request.headers["Idempotency-Key"] for request in collector.requests()]


def test_a_time_out_repeats_the_same_events(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(latency=1.0, times=1)  # the server commits, and answers too late
    client = make_client(start=False, timeout=(2.0, 0.2))
    ids = record_many(client, 3)
    client.start()
    wait_until(lambda: client.stats().delivered == 3)
    assert collector.ids() == ids
    assert collector.repeats() == 3, "the receiver can tell the repeats by their ids"
    assert len(set(ids_by_request(collector))) == 1
    assert failed_files(client) == []


@pytest.mark.parametrize("where", ["before", "midway"])
def test_a_reset_repeats_the_same_events(make_client: MakeClient, collector: Collector, where: str) -> None:
    collector.set_fault(reset=where, times=4)
    client = make_client(start=False)
    ids = record_many(client, 3)
    client.start()
    wait_until(lambda: client.stats().delivered == 3)
    assert collector.ids() == ids
    assert len(collector.requests()) >= 5
    assert len(set(ids_by_request(collector)[:2])) == 1
    assert failed_files(client) == []


def test_a_lost_reply_repeats_the_events_with_their_ids_and_bytes(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.set_fault(lost_reply=True, times=1)
    client = make_client(start=False)
    ids = record_many(client, 20)
    client.start()
    wait_until(lambda: client.stats().delivered == 20)
    assert collector.ids() == ids
    assert collector.repeats() == 20
    first, second = collector.requests()
    assert (first.headers["Idempotency-Key"], first.body) == (second.headers["Idempotency-Key"], second.body)


def test_replies_that_are_lost_for_long_repeat_little(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(lost_reply=True, times=10)
    client = make_client(start=False)
    ids = record_many(client, 200)
    client.start()
    wait_until(lambda: client.stats().delivered == 200)
    assert collector.ids() == ids
    assert collector.repeats() <= 2 * 200 + 10, "after two failures the same batch was sent whole again and again"


def test_delivery_resumes_by_itself_when_the_port_opens_again(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    ids = [client.record("before")]
    assert collector.wait_for(1, 20)
    collector.close_port()
    ids += [client.record("during", n=n) for n in range(5)]
    wait_until(lambda: client.stats().state == "backing off", "noticing the outage")
    assert "no connection" in (client.stats().last_error or "")
    collector.open_port()
    assert collector.wait_for(6, 20)
    assert collector.ids() == ids
    wait_until(lambda: client.stats().pending == 0)
    assert client.stats().last_error is None


def test_an_outage_drops_nothing_and_dumps_nothing(make_client: MakeClient) -> None:
    client = make_client(closed_port())
    record_many(client, 100)
    wait_until(lambda: client._worker._down_attempt >= 5, "five attempts")
    stats = client.stats()
    assert (stats.pending, stats.failed, dict(stats.dropped)) == (100, 0, {})
    assert failed_files(client) == []


def test_after_several_failures_one_event_is_enough_to_find_out_whether_the_server_is_back(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.set_fault(reset="before")
    client = make_client(start=False)
    record_many(client, 50)
    client.start()
    wait_until(lambda: client._worker._down_attempt >= 4, "four attempts")
    collector.heal()
    assert collector.wait_for(50, 20)
    sizes = [request.events for request in collector.requests() if request.events]
    assert sizes == [1, 49]


@pytest.mark.parametrize("difference", [50, -5])
def test_a_wrong_content_length_does_not_undo_a_yes(
    make_client: MakeClient, collector: Collector, difference: int
) -> None:
    collector.set_fault(wrong_length=difference)
    client = make_client(start=False, batch_size=5)
    ids = record_many(client, 15)
    client.start()
    assert client.flush(20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)


def test_a_reply_that_trickles_does_not_stall_what_comes_after_it(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.set_fault(trickle=0.004, times=1)
    client = make_client(start=False, batch_size=5)
    ids = record_many(client, 10)
    client.start()
    assert client.flush(20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)


def test_the_body_of_a_reply_is_not_awaited_for_ever(make_client: MakeClient) -> None:
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not over.wait(0.05):
            try:
                connection.sendall(b" " * 8192)
            except OSError:
                break
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        client = make_client(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=(2.0, 0.3))
        client.record("reading")
        wait_until(lambda: client.stats().delivered == 1, "the end of the wait")
        over.set()
        thread.join(5)


def one_event() -> Batch:
    return Batch("", [CloudEvents("pi").restore({"type": "t", "data": {}}, "1", 0.0)])


def test_a_huge_reply_costs_little_memory_and_is_a_yes(collector: Collector) -> None:
    collector.set_fault(huge_reply=200 << 20)
    destination = HttpDestination(collector.url, CloudEvents("pi"))
    tracemalloc.start()
    try:
        assert destination.send(one_event()) == Delivered()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        destination.close()


def test_a_small_reply_that_decompresses_to_a_huge_one_costs_little_memory() -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    with ScriptedServer(lambda got: (200, {"Content-Encoding": "gzip"}, bomb)) as server:
        destination = HttpDestination(server.url, CloudEvents("pi"))
        tracemalloc.start()
        try:
            assert destination.send(one_event()) == Delivered()
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
            destination.close()


def test_a_reply_of_garbage_is_no_yes(make_client: MakeClient) -> None:
    yes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    replies = [b"\x16\x03\x01 this is no HTTP\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"", yes]
    answered = []

    def serve(listener: socket.socket) -> None:
        for reply in replies:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)
                answered.append(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        client = make_client(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        client.record("reading")
        wait_until(lambda: client.stats().delivered == 1)
        thread.join(5)
    assert answered == replies
    assert client.stats().ledger.balanced


def test_equal_batches_have_equal_idempotency_keys_and_others_have_others(make_client: MakeClient) -> None:
    statuses = iter([503, 503, 200, 200, 200])

    def answer(got: Got) -> tuple[int, dict[str, str], bytes]:
        return next(statuses), {}, b""

    with ScriptedServer(answer) as server:
        client = make_client(server.url, start=False, batch_size=1)
        record_many(client, 3)
        client.start()
        assert client.flush(20)
        keys = [got.headers["idempotency-key"] for got in server.got]
        assert keys[0] == keys[1] == keys[2]
        assert len(set(keys)) == 3
