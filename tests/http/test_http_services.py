"""Formats that speak for a service: their credentials, a key that is missing, and who watches the exchanges."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from http_kit import OK, ScriptedServer, wait_until

from edgespool import Client, Event
from edgespool.config import Settings
from edgespool.event import Batch, StoredEvent
from edgespool.formats.json import PlainJson
from edgespool.interfaces import Request, Unready, Watch
from edgespool.outcome import Delivered, Outcome, Reply

MakeClient = Callable[..., Client]


class Keyed(PlainJson):
    """A service whose key goes into the body, one for each route."""

    name = "keyed"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.key = ""
        self.keys: dict[str, str] = {}

    def configure(self, settings: Settings) -> Settings:
        self.key = settings.auth
        return replace(settings, url=self._url, auth=None)

    def secrets(self) -> Iterable[str]:
        return [self.key, *self.keys.values()]

    def request(self, batch: Batch) -> Request:
        key = self.keys.get(batch.route) if batch.route else self.key
        if key is None:
            raise Unready(f"the key of {batch.route!r} is not known: give it")
        made = super().request(batch)
        return Request(made.body, {**made.headers, "X-Key": key})


def test_a_service_brings_its_address_and_its_key_and_the_key_goes_nowhere_else(make_client: MakeClient) -> None:
    with ScriptedServer(lambda got: OK) as server:
        client = make_client("http://127.0.0.1:9/", format=Keyed(server.url), auth="sesame")
        client.record("a", n=1)
        assert client.flush(10)
        assert server.got[0].headers["x-key"] == "sesame"
        assert "authorization" not in server.got[0].headers
        assert str(server.port) in repr(client)


def test_a_route_without_its_key_waits_and_the_others_go_on(make_client: MakeClient) -> None:
    with ScriptedServer(lambda got: OK) as server:
        form = Keyed(server.url)
        client = make_client(format=form, auth="sesame", url="http://127.0.0.1:9/")
        client.record_event(Event("a", {"n": 1}, route="locked"))
        client.record("b", n=2)
        wait_until(lambda: server.got)
        wait_until(lambda: client.stats().held == ("locked",))
        assert "the key of 'locked' is not known" in str(client.stats().last_error)
        assert [got.body for got in server.got] == [b'[{"n":2}]']
        form.keys["locked"] = "open"
        client.send_now()
        assert client.flush(10)
        assert server.got[-1].headers["x-key"] == "open"


def test_a_service_s_key_is_cut_out_of_what_the_server_says(make_client: MakeClient) -> None:
    with ScriptedServer(lambda got: (401, {}, b"wrong key sesame-street")) as server:
        client = make_client(format=Keyed(server.url), auth="sesame-street", url="http://127.0.0.1:9/")
        client.record("a", n=1)
        wait_until(lambda: client.stats().last_error)
        assert "sesame" not in str(client.stats().last_error)


def test_who_watches_sees_each_exchange_and_can_do_no_harm(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    answers = [(503, {}, b"busy"), OK]

    def on_request(batch: Batch, request: Request) -> None:
        told.append((len(batch), request.body))

    def on_reply(batch: Batch, request: Request, reply: Reply | None, outcome: Outcome) -> None:
        told.append((reply.status if reply else None, type(outcome).__name__))
        raise SystemExit("hurts nobody")

    caplog.set_level(logging.WARNING, "edgespool")
    with ScriptedServer(lambda got: answers.pop(0)) as server:
        client = make_client(server.url, format="json", watch=Watch(on_request, on_reply))
        client.record("a", n=1)
        wait_until(lambda: client.stats().delivered == 1)
    assert told == [(1, b'[{"n":1}]'), (503, "Retry"), (1, b'[{"n":1}]'), (200, Delivered.__name__)]
    assert "hook 'on_reply' raised SystemExit: hurts nobody" in caplog.text


class Varied(PlainJson):
    """A service each of whose requests has headers, and a path, that no other has."""

    name = "varied"

    def request(self, batch: Batch) -> Request:
        (event,) = batch.events
        number = json.loads(event.payload)["n"]
        return Request(event.payload, {f"X-Only-{number}": str(number)}, path=f"/{number % 2}")

    def take(self, events: Sequence[StoredEvent]) -> int:
        return 1


@pytest.mark.parametrize("auth", [None, "a-token", ("anna", "pw")])
def test_nothing_of_one_request_is_in_the_next(make_client: MakeClient, auth: Any) -> None:
    with ScriptedServer(lambda got: OK) as server:
        client = make_client(server.url, format=Varied(), auth=auth)
        for n in (1, 33, 555, 4, 22):
            client.record("a", n=n)
        assert client.flush(20)
        assert [json.loads(got.body)["n"] for got in server.got] == [1, 33, 555, 4, 22]
        for got, n in zip(server.got, (1, 33, 555, 4, 22), strict=True):
            assert [name for name in got.headers if name.startswith("x-only")] == [f"x-only-{n}"]
            assert got.headers["content-length"] == str(len(got.body))
            assert ("authorization" in got.headers) == (auth is not None)
            assert got.path.endswith(f"/{n % 2}")
