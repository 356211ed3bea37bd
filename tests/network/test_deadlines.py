"""No server holds the sender for longer than the time-outs say, whatever it does; nor fills its memory."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from network_kit import (
    MIB,
    MakeClient,
    a_batch,
    check_settled,
    destination,
    measured,
    read_head,
    read_request,
    record_many,
    send_within,
    server,
    wait_until,
)

from edgespool.outcome import Delivered, Hold, Retry
from edgespool.testing import Collector, FaultProxy

Talk = Callable[[socket.socket], None]
BOUND = 8.0  # seconds; the time-outs here are one each, the rest is for a busy machine


def _for_ever(head: bytes, piece: bytes, every: float = 0.05) -> Talk:
    """Answer with `head`, and then with one piece after another."""

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            if every:
                time.sleep(every)

    return talk


ENDLESS: dict[str, Talk] = {
    "status line": _for_ever(b"HTTP/1.1 20", b"0"),
    "one header": _for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "many headers": _for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.2),
    "interim replies": _for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("talk", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_head_without_end_does_not_hold_the_sender(talk: Talk) -> None:
    with server(talk) as url, measured() as cost:
        outcome = send_within(BOUND, destination(url))
    assert isinstance(outcome, Retry)
    assert outcome.everywhere
    assert cost.memory < 8 * MIB
    assert cost.cpu < 3


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n" * 100, b"X: %b\r\n" % (b"y" * 60_000)])
def test_a_head_that_pours_in_is_cut_off_by_its_size(piece: bytes) -> None:
    with server(_for_ever(b"", piece, 0)) as url, measured() as cost:
        outcome = send_within(BOUND, destination(url, timeout=(1.0, 60.0)))
    assert isinstance(outcome, Retry)
    assert cost.memory < 3 * MIB
    assert cost.cpu < 3


BODIES: dict[str, Talk] = {
    "of a length": _for_ever(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
    "of no length": _for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
    "in chunks": _for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "in one chunk": _for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", b"a"),
    "in a chunk's head": _for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a" * 65536, 0),
    "in the trailer": _for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 0),
    "of a redirect": _for_ever(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", b"a" * 65536, 0),
    "of a redirect, slow": _for_ever(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 99999\r\n\r\n", b"a"),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_without_end_neither_holds_the_sender_nor_hides_the_status(body: str) -> None:
    with server(BODIES[body]) as url, measured() as cost:
        outcome = send_within(BOUND, destination(url))
    assert isinstance(outcome, Hold if "redirect" in body else Delivered)
    assert cost.memory < 8 * MIB
    assert cost.cpu < 3


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "deflate, gzip", "br", "zstd"])
def test_a_reply_that_unpacks_to_a_gigabyte_fills_no_memory(coding: str) -> None:
    body = _bomb(coding.count("gzip"))

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with server(talk) as url, measured() as cost:
        outcome = send_within(BOUND, destination(url))
    assert isinstance(outcome, Delivered)
    assert cost.memory < 16 * MIB


@pytest.mark.parametrize("coding", ["gzip, gzip", "deflate, gzip", "br", "zstd", "gzip, identity, gzip"])
def test_what_could_unpack_without_bound_is_left_packed(coding: str) -> None:
    # Whether urllib3 bounds what it unpacks depends on its version, and what it can unpack on what is installed.
    body = b"a readable reason"
    for _ in range(coding.count("gzip")):
        body = gzip.compress(body, mtime=0)

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        head = f"HTTP/1.1 503 No\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with server(talk) as url:
        outcome = send_within(BOUND, destination(url))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "HTTP 503"


def test_chunks_without_end_do_not_hold_a_session_of_the_users() -> None:
    with server(BODIES["in chunks"]) as url, requests.Session() as session:
        outcome = send_within(BOUND, destination(url, session=session))
    assert isinstance(outcome, Delivered)


def _bomb(layers: int) -> bytes:
    piece = gzip.compress(bytes(MIB), 9, mtime=0) * 1024  # many members are one gzip file
    for _ in range(layers - 1):
        piece = gzip.compress(piece, 9, mtime=0)
    return piece


def test_a_reply_may_break_off_at_any_byte() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"
    cuts = iter(range(len(reply) + 1))

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(reply[: next(cuts)])

    with server(talk) as url:
        to = destination(url)
        for cut in range(len(reply) + 1):
            outcome = send_within(BOUND, to)
            # As soon as the status is there, it counts: the server says it after it has stored the events.
            assert isinstance(outcome, Delivered if cut >= len(b"HTTP/1.1 200") else Retry), reply[:cut]


def test_a_request_has_the_reply_time_out_to_go_out_on_a_slow_network(collector: Collector) -> None:
    # More than the system's buffers hold, at a rate at which it takes longer than a connection may take to be made.
    size = 8 * MIB
    with FaultProxy(collector.url, receive_buffer=65536) as proxy:
        proxy.set_fault(rate=6 * MIB)
        to = destination(proxy.url, timeout=(0.5, 20.0), compression="none")
        outcome = send_within(25, to, a_batch(b"x" * size))
    assert isinstance(outcome, Delivered)
    assert (collector.count(), collector.repeats()) == (1, 0)


def _sips(connection: socket.socket) -> None:
    """Take a request a little at a time, for ever."""
    while connection.recv(2048):
        time.sleep(0.05)


def test_a_request_that_is_taken_in_sips_does_not_hold_the_sender() -> None:
    with server(_sips) as url:
        to = destination(url, compression="none", timeout=(60.0, 1.0))
        outcome = send_within(BOUND, to, a_batch(b"x" * 16 * MIB))
    assert isinstance(outcome, Retry)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """A certificate for 127.0.0.1: its path, and what a server needs to use it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make certificates with")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=loopback"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def _over_tls(context: ssl.SSLContext, talk: Talk) -> Talk:
    def wrapped(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            talk(secured)

    return wrapped


def _gulps(connection: socket.socket) -> None:
    """Take a request fast enough that no single write waits for long."""
    while connection.recv(16384):
        time.sleep(0.007)


@pytest.mark.parametrize("talk", [ENDLESS["one header"], _sips, _gulps], ids=["endless head", "sips", "gulps"])
def test_tls_makes_no_difference(certificate: tuple[str, ssl.SSLContext], talk: Talk) -> None:
    path, context = certificate
    with server(_over_tls(context, talk), "https") as url:
        # It is the second time-out that counts, once there is a connection.
        to = destination(url, verify=path, compression="none", timeout=(60.0, 1.0))
        outcome = send_within(BOUND, to, a_batch(b"x" * 32 * MIB))
    assert isinstance(outcome, Retry)
    assert "TLS" not in outcome.reason


def test_a_handshake_that_trickles_does_not_hold_the_sender(
    certificate: tuple[str, ssl.SSLContext], collector: Collector
) -> None:
    path, context = certificate
    with server(_over_tls(context, ENDLESS["one header"]), "https") as url, FaultProxy(url) as proxy:
        proxy.set_fault(rate=100)
        outcome = send_within(BOUND, destination(proxy.url, verify=path))
    assert isinstance(outcome, Retry)


def test_a_web_proxy_that_trickles_does_not_hold_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(_for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"a")) as url:
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.setenv("http_proxy", url)
        for scheme in ("https", "http"):
            outcome = send_within(BOUND, destination(f"{scheme}://no-such-host.invalid/"))
            assert isinstance(outcome, Retry)


@pytest.mark.parametrize("rate", [15, 100])
def test_a_trickle_either_way_holds_neither_sender_nor_close(
    make_client: MakeClient, collector: Collector, rate: int
) -> None:
    with FaultProxy(collector.url) as proxy:
        proxy.set_fault(rate=rate)
        client = make_client(proxy.url, timeout=(1.0, 1.5))
        ids = record_many(client, 20)
        wait_until(lambda: client.stats().state == "sending", "the sending")
        began = time.monotonic()
        report = client.close(0.5)
        assert time.monotonic() - began < 3
        assert report.pending == 20
        wait_until(lambda: not client._worker.running, "the end of the sender's thread", BOUND)
        wait_until(lambda: client._queue._store.closed, "the closing of the queue")  # by that thread
    check_settled(make_client(collector.url), 20)
    assert collector.ids() == ids


def test_flush_and_stats_stay_prompt_while_a_server_stalls(
    make_client: MakeClient, collector: Collector, proxy: FaultProxy
) -> None:
    proxy.set_fault(stall="before")
    client = make_client(timeout=(1.0, 30.0))
    ids = record_many(client, 20)
    began = time.monotonic()
    assert not client.flush(0.5)
    assert client.stats().pending == 20
    ids.append(client.record("meanwhile"))
    assert client.close(0.2).pending == 21
    assert time.monotonic() - began < 5
    proxy.heal()
    proxy.cut()
    wait_until(lambda: not client._worker.running)
    check_settled(make_client(), 21)
    assert (collector.ids(), collector.repeats()) == (ids, 0)
