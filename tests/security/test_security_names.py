"""Hostile names: in paths, routes, event names, ids, data and settings. Taken as they are, or refused in words."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from security_kit import RawServer, command, reply

from edgespool import Client, Event
from edgespool.errors import ConfigError, EdgespoolError, EventError
from edgespool.failed import FailedFiles
from edgespool.outcome import Reject
from edgespool.queue.view import QueueView
from edgespool.testing import Collector, FakeDestination

HOSTILE = {
    "line feed": "a\nb", "nul": "a\0b", "up": "../../etc/passwd", "percent": "a%2e%2e%2fb",
    "question": "a?vfs=x&mode=memory", "hash": "a#b", "quotes": "a'b\"c`d", "long": "x" * 5000,
    "sql": "x'); DROP TABLE ack_queue_default; --",
    "unicode": "ünï\U0001f600", "direction": "\u202egnp", "escape": "\x1b[31m", "dots": "..", "space": " ",
    "dash": "-rf", "slash": "/", "backslash": "a\\b", "brace": "{0}{name!r}%s%n", "separator": "a\u2028b",
    "surrogate": "a\udcffb",
}  # fmt: skip

hostile = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())


@hostile
def test_any_name_in_an_event_arrives_as_it_is_or_is_refused(tmp_path: Path, name: str) -> None:
    with Collector() as collector, Client(collector.url, path=tmp_path / "queue", source="pi") as client:
        event = None
        try:
            event = Event(name, {name: name, "list": [name]}, id=name, route=name)
            client.record_event(event)
        except EventError:
            assert name == HOSTILE["surrogate"]
            assert client.stats().accepted == 0
            return
        assert client.flush(20)
        (arrived,) = collector.events()
        assert (arrived["type"], arrived["id"]) == (name, name)
        assert arrived["data"] == {name: name, "list": [name]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["queue"], "no name led out of the directory"


@hostile
def test_any_name_of_a_refused_event_stays_inside_its_file(tmp_path: Path, name: str) -> None:
    if name == HOSTILE["surrogate"]:
        pytest.skip("refused at record()")
    destination = FakeDestination(answer=Reject(f"HTTP 400: {name}", 400))
    with Client(path=tmp_path / "queue", destination=destination) as client:
        client.record_event(Event(name, {name: name}, id=name, route=name))
        assert client.flush(20)
    (path,) = FailedFiles(str(tmp_path / "queue")).paths()
    assert Path(path).parent == tmp_path / "queue" / "failed"
    assert os.path.basename(path).replace(".", "").replace("-", "").isalnum()
    written = json.loads(Path(path).read_text("utf-8"))
    assert (written["route"], written["ids"]) == (name, [name])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["queue"]


@hostile
def test_any_path_is_the_queues_directory_or_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "top" / "a" / name.lstrip("/") if name != "/" else tmp_path / "top"
    for text in (str(path), "//" + str(path).lstrip("/")):
        try:
            with Client(path=text, destination=FakeDestination()) as client:
                client.record("a")
                assert client.flush(10)
                repr(client)
            with QueueView(text) as view:
                assert view.ledger().delivered >= 1
        except EdgespoolError:
            refused = True
        else:
            refused = False
            assert os.path.isfile(os.path.join(os.path.abspath(text), "queue.db"))
        assert refused is (name in (HOSTILE["nul"], HOSTILE["long"]))
    for where in ("status", "doctor"):
        if "\0" not in name:
            command(where, "--path", str(path))


@hostile
def test_any_client_name_is_a_folder_of_the_data_directory_or_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPOOL_DIR", str(tmp_path / "data"))
    with contextlib.suppress(ConfigError), Client(name=name, destination=FakeDestination(), start=False) as client:
        assert os.path.dirname(client.directory) == str(tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "home"}


@hostile
@pytest.mark.parametrize(
    "setting", ["source", "format", "durability", "overflow", "compression", "timeout", "max_bytes"]
)
def test_any_text_in_a_setting_is_used_or_refused(tmp_path: Path, name: str, setting: str) -> None:
    settings: dict[str, Any] = {setting: name}
    destination = FakeDestination()
    with (
        contextlib.suppress(ConfigError),
        Client(path=tmp_path / "queue", destination=destination, start=False, **settings) as client,
    ):
        client.record("a")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A\r\nX-Injected": "1"}, {"X-A: 1\r\nX-Injected": "1"}, {"X A": "1"}, {"": "1"}, {"X-Ä": "1"},
        {"X-A\0": "1"}, {"X-A": "1\r\nX-Injected: 1"}, {"X-A": "1\n"}, {"X-A": "\r"},
        {"X-A": "1\0"}, {"X-A": "\x1b"}, {"X-A": "\x7f"},
        {"X-A": " 1"}, {"X-A": "€"}, {"X-A": "\udcff"},
    ],
    ids=ascii,
)  # fmt: skip
def test_no_setting_can_add_a_header_of_its_own(tmp_path: Path, headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="headers"):
        Client("http://127.0.0.1:9/", path=tmp_path / "queue", headers=headers)


@settings(max_examples=40)
@given(
    name=st.text(max_size=5), value=st.text(max_size=8),
    source=st.text(min_size=1, max_size=8), event=st.text(min_size=1, max_size=8),
)  # fmt: skip
def test_whatever_the_settings_and_events_one_request_has_the_headers_that_were_meant(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: str, source: str, event: str
) -> None:
    path = tmp_path_factory.mktemp("injection") / "queue"
    with RawServer(reply(204)) as server:
        try:
            client = Client(server.url, path=path, headers={f"X-{name}": value}, source=source, start=False)
        except ConfigError:
            return
        with client:
            try:
                client.record_event(Event(event, {event: event}, id=event, route=event))
            except EventError:
                return
            client.start()
            assert client.flush(10)
        (request,) = server.got
    head = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    assert head[0] == "POST /v1/events HTTP/1.1"
    known = {"host", "user-agent", "accept-encoding", "accept", "connection", "content-type", "idempotency-key",
             "content-length", "content-encoding", f"x-{name}".lower()}  # fmt: skip
    assert {line.partition(":")[0].lower() for line in head[1:]} <= known
    assert f"X-{name}: {value}" in head


@pytest.mark.parametrize(
    "url",
    ["http://h/a\r\nX-Injected: 1", "http://h/a b", "http://h/\0", "http://h\r\n.evil/", "http://h/\x1b", "http://h/ü?ü#ü"],
    ids=ascii,
)  # fmt: skip
def test_no_address_can_add_a_header_of_its_own(tmp_path: Path, url: str) -> None:
    with RawServer(reply(204)) as server:
        url = url.replace("//h", f"//127.0.0.1:{server.port}")
        try:
            client = Client(url, path=tmp_path / "queue")
        except ConfigError:
            return
        with client:
            client.record("a")
            client.flush(2)
        for request in server.got:
            lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
            assert not any(line.lower().startswith(b"x-injected") for line in lines)
            assert lines[0].count(b" ") == 2
