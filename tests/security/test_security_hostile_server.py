"""A server may answer anything: the events wait or go, the sender lives, and no line of a log is the server's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from security_kit import QUICK, Ears, RawServer, command, reply, wait_until

from edgespool import Client
from edgespool.event import Batch, StoredEvent
from edgespool.formats import create
from edgespool.http import HttpDestination
from edgespool.outcome import (
    Backoff,
    Delivered,
    Hold,
    Outcome,
    Reject,
    Reply,
    Retry,
    TooLarge,
    outcome_of_status,
    retry_after,
)

BATCH = Batch("", [StoredEvent(1, b'{"n":1}', 1.5, b"i" * 16, False)])
OUTCOMES = (Delivered, Hold, Reject, Retry, TooLarge)
ESCAPES = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202e\r\n2026-11-22 CRITICAL forged line"

# The pure part: no status and no header makes an exception, a wait without end, or a line of its own

header_texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="0123456789:,;+-. GMTabcJanSunNov()\"\\", max_size=60),
    st.sampled_from(["9" * 400, "-1", "1e9", "١٢٣", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 99 Nov 99999 99:99:99 GMT",
                     formatdate(0, usegmt=True), "0", " 5 ", "Mon, 01 Jan 0001 00:00:00 +2359", "(" * 50]),
)  # fmt: skip


@settings(max_examples=300)
@given(after=header_texts, date=st.one_of(st.none(), header_texts))
@example("Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359")
@example("Sun, 06 Nov 1994 08:49:37 -0000", "Sun, 06 Nov 1994 08:49:37 GMT")
@example("Sun, 06 Nov 1994 08:49:37 +99999999999999999999", "Sun, 06 Nov 1994 08:49:37 GMT")
def test_any_retry_after_is_a_number_of_seconds_or_nothing(after: str, date: str | None) -> None:
    headers = {"retry-after": after} if date is None else {"retry-after": after, "date": date}
    seconds = retry_after(headers)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
    assert 0 <= Backoff().wait(1, 0.5, seconds) <= 3600 * 1.25, "and never waited for longer than an hour and some"


@settings(max_examples=200)
@given(
    status=st.integers(-1, 1200), body=st.binary(max_size=400),
    headers=st.dictionaries(st.sampled_from(["location", "retry-after", "date"]), header_texts),
)  # fmt: skip
@example(302, b"", {"location": ESCAPES})
@example(400, ESCAPES.encode(), {})
def test_any_reply_is_an_outcome_whose_reason_is_one_printable_line(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    outcome = outcome_of_status(Reply(status, headers, body))
    assert isinstance(outcome, OUTCOMES)
    reason = getattr(outcome, "reason", "")
    assert reason.isprintable()
    assert len(reason) < 500


def test_even_the_longest_headers_take_no_time() -> None:
    began = time.monotonic()
    for hostile in ("(" * 60_000, "1 " * 30_000, "Sun, " * 12_000, "\\" * 60_000, "9" * 60_000, "a" * 60_000 + ","):
        retry_after({"retry-after": hostile, "date": hostile})
        outcome_of_status(Reply(302, {"location": hostile}))
    assert time.monotonic() - began < 5


# The whole of it, over a socket


def send(answer: bytes, **more: Any) -> Outcome:
    with RawServer(answer) as server:
        destination = HttpDestination(server.url, create("cloudevents", "pi"), timeout=(2.0, 2.0), **more)
        try:
            return destination.send(BATCH)
        finally:
            destination.close()


START = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n"
HOSTILE = {
    "nothing": b"",
    "one byte": b"H",
    "binary": bytes(range(256)) * 20,
    "a terminal's escapes": f"{ESCAPES}\r\n\r\n".encode(),
    "an old protocol": b"HTTP/0.9 200 OK\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status too high": b"HTTP/1.1 1000 OK\r\n\r\n",
    "a status below zero": b"HTTP/1.1 -200 OK\r\n\r\n",
    "a reason of escapes": f"HTTP/1.1 400 {ESCAPES}".replace("\r\n", "").encode() + b"\r\nContent-Length: 0\r\n\r\n",
    "a line without end": b"HTTP/1.1 200 " + b"x" * 200_000,
    "a header without end": START + b"X-Long: " + b"y" * 200_000,
    "10,000 headers": START + b"".join(b"X-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n",
    "a header without a colon": START + b"no colon at all\r\n\r\n",
    "a header with a NUL": START + b"X-A: \0\r\n\r\n",
    "a folded header": b"HTTP/1.1 302 F\r\nLocation: /a\r\n b\r\n\tc\r\nContent-Length: 0\r\n\r\n",
    "a length below zero": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
    "a length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a length of 400 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\nabc",
    "a chunk of letters": b"HTTP/1.1 400 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
    "a chunk below zero": b"HTTP/1.1 400 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    "a chunk without end": b"HTTP/1.1 400 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    "no gzip": b"HTTP/1.1 400 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "codings": b"HTTP/1.1 400 OK\r\nContent-Encoding: " + b"gzip, " * 5000 + b"gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "a charset of nonsense": b"HTTP/1.1 400 OK\r\nContent-Type: text/x; charset=\xff\0\r\nContent-Length: 2\r\n\r\nab",
    "a cookie of nonsense": START + b"Set-Cookie: " + b"=;" * 3000 + b"\r\n\r\n",
    "a redirect to nowhere": b"HTTP/1.1 302 F\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "a redirect to a file": b"HTTP/1.1 307 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "interim replies": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    "another protocol asked for": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_bytes_for_a_reply_are_an_outcome(answer: bytes) -> None:
    began = time.monotonic()
    outcome = send(answer)
    assert isinstance(outcome, OUTCOMES)
    reason = getattr(outcome, "reason", "")
    assert reason.isprintable()
    assert len(reason) < 1200
    assert time.monotonic() - began < 8


@settings(max_examples=40)
@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 ", START, b"HTTP/1.1 400 No\r\n"]))
def test_random_bytes_for_a_reply_are_an_outcome(tail: bytes, start: bytes) -> None:
    outcome = send(start + tail)
    assert isinstance(outcome, OUTCOMES)
    assert getattr(outcome, "reason", "").isprintable()


@pytest.fixture
def ears() -> Iterator[Ears]:
    with Ears() as made:
        yield made


FORGERIES: dict[str, Callable[[], bytes]] = {
    "body of a 503": lambda: reply(503, ESCAPES.encode()),
    "body of a 401": lambda: reply(401, ESCAPES.encode()),
    "body of a 400": lambda: reply(400, ESCAPES.encode()),
    "location": lambda: (
        b"HTTP/1.1 302 F\r\nLocation: /x\x1b[31m\x07\x9b\r\n 2026 CRITICAL forged line\r\nContent-Length: 0\r\n\r\n"
    ),
    "no HTTP": lambda: b"\x1b[2J\x07 CRITICAL forged line\r\n",
    "bad status": lambda: b"HTTP/1.1 \x1b[2J\x07 forged line\r\n\r\n",
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
def test_what_a_server_says_can_neither_forge_a_line_nor_steer_a_terminal(
    tmp_path: Path, ears: Ears, forgery: Callable[[], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with RawServer(forgery()) as server:
        client = Client(server.url, path=tmp_path / "queue", start=False, flush_interval=0.0, timeout=2)
        client._worker._policy = replace(client._worker._policy, backoff=QUICK)
        client.record("reading")
        client.start()
        wait_until(lambda: client.stats().last_error or client.stats().failed)
        error = client.stats().last_error or ""
        client.close(0.2)
    ours = [line for line in ears.heard if line.startswith("edgespool")]
    assert ours
    for line in [*ours, error]:
        assert line.isprintable(), line
    for name in ("status", "doctor", "peek", "replay"):
        command(name, "--path", str(tmp_path / "queue"))
        out = capsys.readouterr().out
        assert out.replace("\n", "").isprintable(), out


def test_a_hostile_name_or_route_can_not_steer_a_terminal_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgespool import Event

    with Client("http://127.0.0.1:9/", path=tmp_path / "queue", start=False) as client:
        client.record_event(Event(ESCAPES, {ESCAPES: ESCAPES}, id=ESCAPES, route=ESCAPES))
    for name in ("status", "peek", "doctor"):
        command(name, "--path", str(tmp_path / "queue"))
        out, err = capsys.readouterr()
        assert (out + err).replace("\n", "").isprintable()


@pytest.mark.parametrize("auth", [None, requests.auth.HTTPBasicAuth("a", "b")], ids=["plain", "an object"])
def test_cookies_do_not_pile_up(auth: Any) -> None:
    numbers = iter(range(10_000))

    def answer(head: bytes) -> bytes:
        cookies = [f"Set-Cookie: c{next(numbers)}={'v' * 300}; Path=/; Max-Age=99999999" for _ in range(20)]
        return reply(204, b"", *cookies)

    with RawServer(answer) as server:
        destination = HttpDestination(server.url, create("json", "pi"), auth=auth)
        for _ in range(20):
            assert isinstance(destination.send(BATCH), Delivered)
        sizes = [len(request) for request in server.got]
        assert destination._session is not None
        assert len(destination._session.cookies) == 0
        destination.close()
    assert max(sizes) == min(sizes), "nothing that a server sets comes back"


@pytest.mark.parametrize("where", ["request", "outcome", "secrets"])
def test_a_format_that_fails_at_a_reply_costs_no_event(where: str) -> None:
    service = create("samsara", "pi")

    def fail(*given: object) -> None:
        raise LookupError("no such thing\x1b[31m")

    setattr(service, where, fail)
    with RawServer(reply(200)) as server:
        destination = HttpDestination(server.url, service)
        outcome = destination.send(BATCH)
        destination.close()
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("LookupError: no such thing")
    assert outcome.reason.isprintable()
