"""Data sources: the building blocks, and `edgespool source run`, which keeps rows and state together."""

from __future__ import annotations

import contextlib
import itertools
import json
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest
from panoply_kit import Runs, numbers

import edgespool.vendors.panoply.api as panoply
from edgespool.testing import Collector

SOURCE = '''
import os, signal, sys
import panoply

CONFIG = {
    "title": "Numbers",
    "icon": "",
    "params": [
        {"name": "count", "title": "How many", "placeholder": "10", "required": True},
        {"name": "fail_at", "title": "Where to fail"},
        {"name": "how", "title": "How to fail"},
    ],
}


FAILED = []


class Stream(panoply.DataSource):
    def __init__(self, source, options):
        super().__init__(source, options)
        self.next = int((source.get("state") or {}).get("next", 0))
        self.count = int(source["count"])
        print("began at", self.next)

    def read(self, n=None):
        if self.next >= self.count:
            return None
        fail_at = self.source.get("fail_at")
        if fail_at is not None and self.next == int(fail_at):
            how = self.source.get("how", "kill")
            if how == "kill" and not os.path.exists("killed"):
                open("killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "once" and not FAILED:
                FAILED.append(1)
                raise RuntimeError("a passing fault")
            if how == "fatal":
                raise panoply.PanoplyException("no more of this", retryable=False)
        rows = [{"n": number, "__state": f"s{self.next}"} for number in range(self.next, self.next + 5)]
        self.next += 5
        self.progress(self.next, self.count, "numbers")
        self.state(f"s{self.next - 5}", {"next": self.next})
        return rows

    def close(self):
        open("closed", "a").write("closed\\n")
'''


@pytest.fixture
def runs(tmp_path: Path, collector: Collector) -> Runs:
    return Runs(tmp_path, collector.base_url, SOURCE)


def test_a_source_is_read_to_its_end_and_closed(runs: Runs, collector: Collector) -> None:
    done = runs("--param", "count=20", "--destination", "readings")
    assert done.returncode == 0, done.stderr
    assert numbers(collector) == list(range(20))
    assert {event["__table"] for event in collector.events()} == {"readings"}
    assert runs.closed == 1


def test_its_parameters_are_options_with_help(runs: Runs) -> None:
    done = runs("--help")
    assert done.returncode == 0
    assert "--count" in done.stdout
    assert "How many" in done.stdout
    done = runs("--destination", "t")
    assert done.returncode == 2
    assert "count" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_run_goes_on_from_the_state_stored_with_its_rows(runs: Runs, collector: Collector) -> None:
    options = ("--param", "count=20", "--param", "fail_at=10", "--destination", "t")
    first = runs(*options)
    assert first.returncode == -9
    second = runs(*options)
    assert second.returncode == 0, second.stderr
    assert "began at 10" in second.stdout + second.stderr
    assert sorted(numbers(collector)) == list(range(20)), "each row once: none lost, none read twice"
    assert runs.closed == 1


def test_a_read_that_fails_is_tried_again_from_the_last_state(runs: Runs, collector: Collector) -> None:
    done = runs("--param", "count=10", "--param", "fail_at=5", "--param", "how=once", "--destination", "t")
    assert done.returncode == 0, done.stderr
    assert "a passing fault; retry 1 of 3" in done.stderr
    assert "began at 5" in done.stdout
    assert numbers(collector) == list(range(10))


def test_what_is_not_retryable_ends_the_run_and_the_source_is_closed(runs: Runs, collector: Collector) -> None:
    done = runs("--param", "count=10", "--param", "fail_at=5", "--param", "how=fatal", "--destination", "t")
    assert done.returncode == 1
    assert "no more of this" in done.stderr
    assert "Traceback" not in done.stderr
    assert runs.closed == 1
    assert numbers(collector) == list(range(5)), "what was read is delivered"


def test_a_module_that_is_no_source_is_a_clear_error(runs: Runs) -> None:
    (runs.place / "my_source.py").write_text("x = 1")
    done = runs()
    assert done.returncode == 2
    assert "is no data source: it has no Stream" in done.stderr


# The building blocks


def test_a_data_source_tells_its_state_and_progress_and_makes_raw_rows() -> None:
    heard: list[Any] = []
    logged: list[Any] = []
    source = panoply.DataSource({"a": 1}, {"logger": logged.append})
    source.on("*", lambda name, data: heard.append((name, data)))
    source.state("s1", {"page": 2})
    source.progress(1, 10, "rows")
    source.log("one", 2)
    assert heard == [
        ("source-state", {"stateId": "s1", "state": {"page": 2}}),
        ("progress", {"loaded": 1, "total": 10, "msg": "rows"}),
    ]
    assert logged == [("one", 2)]
    row = source.raw("file", b"\x00\xff", {"__state": "s1"})
    assert row == {"type": "raw", "tag": "file", "raw": "AP8=", "metadata": {"__state": "s1"}}
    assert source.close() is None
    with pytest.raises(NotImplementedError):
        source.read()


@pytest.fixture
def tokens() -> Iterator[tuple[str, list[Any]]]:
    """A server that refreshes tokens, and what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked.append({name: value[0] for name, value in form.items()})
            body = json.dumps({"access_token": "fresh"} if form["refresh_token"] == ["good"] else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_token_is_refreshed_once_and_the_method_called_again(
    tokens: tuple[str, list[Any]], by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, asked = tokens
    told: list[str] = []

    class Source(panoply.DataSource):
        def renewed(self, token: str) -> None:
            told.append(token)

        @panoply.validate_token(url, KeyError, "renewed" if by_name else told.append)
        def read(self, n: int | None = None) -> Any:
            if self.source["access_token"] != "fresh":
                raise KeyError("401")
            return [{"ok": 1}]

    changes: list[Any] = []
    source = Source({"access_token": "stale", "refresh_token": "good"}, {"refresh": {"client_id": "c"}})
    source.on("source-change", changes.append)
    assert source.read() == [{"ok": 1}]
    assert asked == [{"client_id": "c", "refresh_token": "good"}]
    assert changes == [{"access_token": "fresh"}]
    assert told == ["fresh"]
    source.source.update(access_token="stale", refresh_token="bad")
    with pytest.raises(panoply.PanoplyException) as caught:
        source.read()
    assert caught.value.retryable is False


# Secrets of a refresh

SECRETS = ("cl13nt-s3cr3t", "r3fr3sh-t0k3n", "qu3ry-s3cr3t", "p4ssw0rd", "0ld-t0k3n")


class Refresher:
    """A source whose token has to be refreshed, and what a server answers: a status, headers and pieces of a body."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.answer: tuple[int, dict[str, str], Iterator[bytes]] = (200, {}, iter(()))
        self.sent = 0  # bytes of bodies that a client took
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked.append((self.path, self.rfile.read(int(self.headers.get("Content-Length", 0)))))
                status, headers, body = outer.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for piece in body:
                        self.wfile.write(piece)
                        outer.sent += len(piece)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def fail(self) -> panoply.PanoplyException:
        """Have a token refreshed, which fails, and return how."""

        class Source(panoply.DataSource):
            @panoply.validate_token(f"http://user:p4ssw0rd@127.0.0.1:{self.port}/token?code=qu3ry-s3cr3t", KeyError)
            def read(self, n: int | None = None) -> Any:
                raise KeyError("401")

        source = Source(
            {"access_token": "0ld-t0k3n", "refresh_token": "r3fr3sh-t0k3n"},
            {"refresh": {"client_secret": "cl13nt-s3cr3t"}},
        )
        with pytest.raises(panoply.PanoplyException) as caught:
            source.read()
        assert caught.value.retryable is False
        told = "".join(traceback.format_exception(caught.value))
        assert [secret for secret in SECRETS if secret in told] == []
        return caught.value


@pytest.fixture
def refresher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refresher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Refresher()
    yield made
    made.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_no_secret_to_another_host(refresher: Refresher, status: int) -> None:
    other = Refresher()
    try:
        refresher.answer = (status, {"Location": f"http://127.0.0.1:{other.port}/"}, iter(()))
        assert f"answered {status}: a redirect is not followed" in str(refresher.fail())
        assert len(refresher.asked) == 1
        assert not other.asked
    finally:
        other.close()


def test_a_reply_without_an_end_is_not_read_to_its_end(refresher: Refresher) -> None:
    refresher.answer = (200, {}, itertools.repeat(b" " * 65536, 1024))  # 64 MiB
    assert "sends more than 1 MiB" in str(refresher.fail())
    assert refresher.sent < 32 << 20


def test_what_cannot_be_reached_is_said_without_the_secrets_in_its_address(refresher: Refresher) -> None:
    refresher.close()
    assert "127.0.0.1" in str(refresher.fail())


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": "invalid_grant", "client_secret": "cl13nt-s3cr3t"}', "answered 400 without a field"),
        (200, b"r3fr3sh-t0k3n is what you sent", "what is no JSON"),
        (200, b"[" * 100_000, "what is no JSON"),
        (200, b'"access_token"', "without a field 'access_token'"),
    ],
)
def test_what_a_server_says_is_told_without_the_secrets_in_it(
    refresher: Refresher, status: int, body: bytes, said: str
) -> None:
    refresher.answer = (status, {}, iter((body,)))
    assert said in str(refresher.fail())


def test_what_a_callback_says_is_told_without_the_new_token(tokens: tuple[str, list[Any]]) -> None:
    def renewed(token: str) -> None:
        raise ValueError(f"cannot keep {token} for ever")

    class Source(panoply.DataSource):
        @panoply.validate_token(tokens[0], KeyError, renewed)
        def read(self, n: int | None = None) -> Any:
            raise KeyError("401")

    with pytest.raises(panoply.PanoplyException, match=r"cannot keep \[redacted\] for ever"):
        Source({"refresh_token": "good"}, {"refresh": {}}).read()
