"""Compression is used where it pays, and where a server cannot take it nothing is lost over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
from http_kit import OK, Got, ScriptedServer, failed_files, record_many

from edgespool import Client
from edgespool.testing import Collector

MakeClient = Callable[..., Client]
Answer = tuple[int, Mapping[str, str], bytes]


def zipped(got: Got) -> bool:
    return got.headers.get("content-encoding") == "gzip"


def delivered(server: ScriptedServer, refused: Callable[[Got], bool]) -> list[str]:
    return [id for got in server.got if not refused(got) for id in got.ids]


def test_batches_are_compressed_and_decode_to_what_was_recorded(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(start=False)
    ids = record_many(client, 200, note="the same text again and again")
    client.start()
    assert client.flush(20)
    (request,) = collector.requests()
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.body is not None
    assert request.size * 4 < len(request.body)
    assert [event["id"] for event in json.loads(request.body)] == ids
    assert [event["data"]["n"] for event in collector.events()] == list(range(200))


def test_a_small_body_and_a_client_told_so_are_not_compressed(make_client: MakeClient, collector: Collector) -> None:
    client = make_client()
    client.record("small")
    assert client.flush(20)
    client.close()
    plain = make_client(compression="none", start=False)
    record_many(plain, 100)
    plain.start()
    assert plain.flush(20)
    assert [request.headers.get("Content-Encoding") for request in collector.requests()] == [None, None]


def test_a_415_for_gzip_falls_back_to_plain_and_is_remembered(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(refuse_gzip=True)
    client = make_client(start=False, batch_size=20)
    ids = record_many(client, 600, note="worth compressing")
    client.start()
    assert client.flush(20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)
    assert [request.status for request in collector.requests()].count(415) == 1
    assert failed_files(client) == []


@pytest.mark.parametrize("size", [1, 40])
def test_a_server_that_takes_gzip_for_garbage_gets_the_events_plainly(make_client: MakeClient, size: int) -> None:
    def answer(got: Got) -> Answer:
        return (400, {}, b'{"error": "cannot parse the body"}') if zipped(got) else OK

    with ScriptedServer(answer) as server:
        client = make_client(server.url, start=False, batch_size=size)
        ids = record_many(client, 200, note="x" * 600)
        client.start()
        assert client.flush(20)
        assert delivered(server, zipped) == ids
        assert failed_files(client) == []
        assert sum(map(zipped, server.got)) <= 1 + len(server.got) // 50, "gzip was tried again too often"


def test_gzip_is_tried_again_after_a_while(make_client: MakeClient) -> None:
    refuse = True

    def refused(got: Got) -> bool:
        return zipped(got) and refuse

    with ScriptedServer(lambda got: (415, {}, b"") if refused(got) else OK) as server:
        client = make_client(server.url, start=False, batch_size=5)
        ids = record_many(client, 100, note="worth compressing " * 10)
        client.start()
        assert client.flush(20)
        refuse = False
        ids += record_many(client, 1000, note="worth compressing " * 10)
        assert client.flush(30)
        assert zipped(server.got[-1]), "a server that was mended gets no gzip for ever"
        assert delivered(server, lambda got: zipped(got) and server.got.index(got) == 0) == ids


def test_a_poisonous_event_in_the_first_batch_is_not_blamed_on_gzip(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.set_fault(poison={"field": "data.n", "value": 7})
    client = make_client(start=False)
    ids = record_many(client, 64, note="x" * 600)
    client.start()
    assert client.flush(20)
    assert collector.ids() == ids[:7] + ids[8:]
    (file,) = failed_files(client)
    assert file["ids"] == [ids[7]]
