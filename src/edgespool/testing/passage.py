"""A connection through `FaultProxy`: bytes go either way, as the faults of the moment say."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import struct
import threading
import time
from typing import Protocol

from .weather import HEALTHY, NetworkFaults

__all__ = ["Passage", "Proxy"]

_CHUNK = 64 * 1024
_TICK = 0.05  # seconds between the pieces of a trickle
_CONNECT = 5.0  # seconds to wait for the server
_PATIENCE = 60.0  # seconds that a side may refuse to take what is sent to it
_LINGER = 2.0  # seconds without a byte for which a client is heard out that has its reply already
_GARBAGE = b"\x00\xff\x15 this is neither TLS nor HTTP \xfe\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding:[^\r]*", re.IGNORECASE)


class Proxy(Protocol):
    """Who knows where the server is, and what the network is like."""

    upstream: tuple[str, int]

    def take(self) -> NetworkFaults:
        """Return the faults for one exchange, and count it."""
        ...

    def ended(self, passage: Passage, unanswered: bool) -> None:
        """Forget a connection; `unanswered`: the server may have acted, and the client got no reply."""
        ...


class _Over(Exception):
    """The connection ends here."""


class Passage:
    """One client's connection, the one to the server that belongs to it, and the thread that passes bytes on."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None
        self._gone = threading.Event()
        self._faults = HEALTHY
        self._begins = True  # the client's next bytes are the beginning of a request
        self._owing = False  # the server has got something of a request, the client nothing of its reply
        self._left = False  # the client sends no more: most likely it has gone, and gets no reply either
        self._reset = False
        self.thread = threading.Thread(target=self._run, name="edgespool-proxy-connection", daemon=True)

    def cut(self) -> None:
        """End the connection from another thread; the proxy's lock is held, so that it has not ended yet."""
        self._gone.set()
        for each in (self._client, self._server):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self._talk()
        except (OSError, _Over):
            pass  # one of the two has gone, or was sent away
        finally:
            self._proxy.ended(self, self._owing)
            for each in (self._client, self._server):
                if each is not None:
                    self._close(each)

    def _close(self, each: socket.socket) -> None:
        if self._reset:  # lingering for no time at all sends RST instead of FIN
            off = struct.pack("HH" if os.name == "nt" else "ii", 1, 0)
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
        each.close()

    def _talk(self) -> None:
        server = socket.create_connection(self._proxy.upstream, _CONNECT)
        self._server = server
        for each in (self._client, server):
            each.settimeout(_PATIENCE)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with selectors.DefaultSelector() as selector:
            selector.register(self._client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while not self._gone.is_set():
                ready = [key.fileobj for key, _ in selector.select()]
                if server in ready:  # first, since a reply ends the exchange
                    self._from_server(server)
                if self._client in ready and not self._from_client(server):
                    selector.unregister(self._client)

    def _from_client(self, server: socket.socket) -> bool:
        """Pass on what the client sends; return False when there is no more to come."""
        data = self._client.recv(_CHUNK)
        if not data:
            self._left = True
            server.shutdown(socket.SHUT_WR)
            return False
        if self._begins:
            self._faults = self._proxy.take()
            self._begins = False
            self._instead_of_request(data)
        self._owing = True
        if self._faults.reset == "during":
            server.sendall(data[: len(data) // 2])
            self._end(reset=True)
        try:
            self._send(server, data)
        except OSError:
            return False  # it wants no more of this, but it may have said why
        return True

    def _instead_of_request(self, data: bytes) -> None:
        """Do what leaves the server without any of the request, whose first bytes are `data`."""
        faults = self._faults
        if faults.reset == "before":
            self._end(reset=True)
        elif faults.stall == "before":
            self._swallow()
        elif faults.garbage:
            self._client.sendall(_GARBAGE)
            self._linger()
        elif faults.redirects:
            self._redirect(data)

    def _from_server(self, server: socket.socket) -> None:
        data = server.recv(_CHUNK)
        if not data:
            raise _Over
        faults = self._faults
        if faults.reset == "after":
            self._end(reset=True)
        elif faults.lost_reply:
            self._end()
        elif faults.stall == "after":
            self._swallow()
        elif faults.half_reply or faults.wrong_length or faults.huge_reply:
            self._forge(*self._whole_reply(server, data))
        else:
            self._begins, self._owing = True, self._owing and self._left
            self._send(self._client, data)

    def _forge(self, head: bytes, body: bytes) -> None:
        faults = self._faults
        if faults.half_reply:
            whole = head + body
            self._send(self._client, whole[: len(whole) // 2])
            self._end()
        self._owing = self._left
        if faults.wrong_length:
            self._send(self._client, _with_length(head, max(0, len(body) + faults.wrong_length)) + body)
            self._end()
        self._send(self._client, _with_length(head, max(len(body), faults.huge_reply)) + body)
        filler = b" " * _CHUNK
        left = faults.huge_reply - len(body)
        while left > 0:
            self._send(self._client, filler[:left])
            left -= len(filler)
        self._begins = True

    def _whole_reply(self, server: socket.socket, start: bytes) -> tuple[bytes, bytes]:
        """Return the head, with its empty line, and the body of the reply that begins with `start`.

        Of a body without a Content-Length it is what has come by then.
        """
        while b"\r\n\r\n" not in start and (more := server.recv(_CHUNK)):
            start += more
        head, end, body = start.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        while length and len(body) < int(length[1]) and (more := server.recv(_CHUNK)):
            body += more
        return head + end, body

    def _redirect(self, data: bytes) -> None:
        """Answer as a captive portal would, in a chain of its own."""
        path = data.split(b" ", 2)[1]
        hop = int(path.rpartition(b"/hop/")[2]) if b"/hop/" in path else 0
        if hop < self._faults.redirects:
            reply = b"HTTP/1.1 302 Found\r\nLocation: /hop/%d\r\n" % (hop + 1)
        else:
            reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
        page = b"<html>Welcome! Please accept our terms.</html>"
        self._client.sendall(reply + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(page) + page)
        self._linger()

    def _send(self, to: socket.socket, data: bytes) -> None:
        """Send the data, no faster than the faults allow."""
        rate = self._faults.rate
        if not rate:
            to.sendall(data)
            return
        size = max(1, int(rate * _TICK))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            to.sendall(piece)
            if self._gone.wait(len(piece) / rate):
                raise _Over

    def _swallow(self) -> None:
        """Say nothing until the client goes."""
        self._client.settimeout(None)
        while self._client.recv(_CHUNK):
            pass
        raise _Over

    def _linger(self) -> None:
        """Read away what the client still sends: closing over it would send a reset, which can overtake the reply."""
        self._client.shutdown(socket.SHUT_WR)
        self._client.settimeout(_LINGER)
        deadline = time.monotonic() + _PATIENCE
        while self._client.recv(_CHUNK) and time.monotonic() < deadline:
            pass
        raise _Over

    def _end(self, reset: bool = False) -> None:
        self._reset = reset
        raise _Over


def _with_length(head: bytes, length: int) -> bytes:
    """Return the head with another Content-Length, and nothing else that says where the body ends."""
    bare = _CODING.sub(b"", _LENGTH.sub(b"", head))
    return bare[:-2] + b"Content-Length: %d\r\n\r\n" % length
