"""The collector's socket side: a listening port, and a thread for each connection it took.

Reads requests, hands them to a `Receiver`, writes its replies, ends connections as the faults say. Must not know what
is in a request.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import selectors
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol, cast

from .dialects import Headers, Refused, Reply, Request, json_reply, refuse
from .faults import FaultBox, Faults, sending
from .store import RequestRecord

__all__ = ["CONTROL", "Connection", "Port", "Receiver"]

_log = logging.getLogger("edgespool.testing.collector")

CONTROL = "/_collector/"
_CHUNK = 64 * 1024
# How long to listen to a client that is still sending a body nobody wants, in seconds without a byte.
_LINGER = 2.0
# How long to wait for connection threads to end when the port closes, in seconds for each.
_JOIN = 5.0


class Receiver(Protocol):
    """Who says what becomes of a request."""

    max_body: int
    faults: FaultBox

    def count_connection(self) -> None:
        """Count one accepted connection."""
        ...

    def handle(self, request: Request, faults: Faults, roll: float) -> tuple[Reply, RequestRecord]:
        """Do what the request asks, and return the reply and the record."""
        ...

    def note(self, request: Request, size: int, status: int | None, events: int = 0) -> RequestRecord:
        """Record a request of which no event was stored."""
        ...

    def report(self, record: RequestRecord) -> None:
        """Take note of a request that has been answered."""
        ...

    def control(self, request: Request) -> Reply:
        """Answer a request to the control paths."""
        ...


class Port:
    """A listening socket, its accepting thread, and the connections it took, each with a thread."""

    def __init__(self, collector: Receiver, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self._collector = collector
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._live: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # lets the same port be opened again at once; on Windows it means something else
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address)
            self._listener.listen(128)
        except BaseException:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self.number: int = self._listener.getsockname()[1]
        # Closing a listener does not wake an accept() everywhere; a byte on this pair wakes the selector anywhere.
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="edgespool-collector", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self.stopping.is_set():
                selector.select()
                try:
                    connection, address = self._listener.accept()
                except BlockingIOError:
                    continue
                except OSError:  # out of file descriptors, or the client has gone again
                    self.stopping.wait(0.05)
                    continue
                connection.setblocking(True)  # some systems hand down the listener's mode
                self._collector.count_connection()
                thread = threading.Thread(
                    target=self._talk, args=(connection, address), name="edgespool-collector-connection", daemon=True
                )
                with self._lock:
                    self._live[connection] = thread
                thread.start()

    def _talk(self, connection: socket.socket, address: Any) -> None:
        try:
            Connection(connection, address, self._collector, self.stopping)
        except OSError:
            pass  # the client has gone, or the port was closed
        except Exception:  # noqa: BLE001 - a thread has nobody above it to tell
            _log.exception("a connection of the collector ended badly")
        finally:
            with self._lock:
                del self._live[connection]
            connection.close()

    def close(self) -> None:
        """Close the listener first, so that nobody new comes, then cut the connections and wait for their threads."""
        self.stopping.set()
        self._wake.send(b"x")
        self._thread.join(_JOIN)
        for each in (self._listener, self._wake, self._woken):
            each.close()
        with self._lock:
            threads = list(self._live.values())
            for connection in self._live:
                try:
                    # Not close(): the thread that reads from it must be the one to let go of it.
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the client was quicker
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN)


class Connection(BaseHTTPRequestHandler):
    """One connection: reads requests, writes replies, and ends as the faults say."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(
        self, connection: socket.socket, address: Any, collector: Receiver, stopping: threading.Event
    ) -> None:
        self._collector = collector
        self._stopping = stopping
        self._continue = False
        # The base class serves the whole connection here. It only keeps the server, which we do without.
        super().__init__(connection, address, cast(Any, None))

    def handle_expect_100(self) -> bool:
        """Say "continue" only when the body is about to be read, so that a refusal can come first."""
        self._continue = True
        return True

    def log_message(self, format: str, *args: Any) -> None:  # the base class's name
        """Print nothing."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request line or head that cannot be parsed."""
        self.close_connection = True
        self._send(Faults(), json_reply(code, {"error": message or explain or "bad request"}))

    def do_POST(self) -> None:
        """Handle one request of any method."""
        path, _, query = self.path.partition("?")
        request = Request(self.command, path, query, Headers(self.headers.items()), b"")
        if path.startswith(CONTROL):
            self._control(request)
            return
        collector = self._collector
        faults, roll = collector.faults.take(path)
        refused: Reply | None = None
        if faults.reset == "before":
            record = collector.note(request, 0, None)
        else:
            try:
                request = dataclasses.replace(request, body=self._body(request.headers))
                reply, record = collector.handle(request, faults, roll)
            except Refused as early:  # by the framing alone; handle() raises none
                refused = reply = early.reply
                record = collector.note(request, 0, reply.status if faults.replies else None)
        try:
            if faults.reset == "before":
                self._reset()
            elif faults.latency and self._stopping.wait(faults.latency):
                self.close_connection = True
            else:
                self._send(faults, reply, unread=refused is not None)
        finally:
            collector.report(record)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def _control(self, request: Request) -> None:
        try:
            request = dataclasses.replace(request, body=self._body(request.headers))
        except Refused as early:
            self._send(Faults(), early.reply, unread=True)
        else:
            self._send(Faults(), self._collector.control(request))

    def _body(self, headers: Headers) -> bytes:
        """Return the body as it came over the wire, chunks joined; Refused when it is too large or ill framed."""
        limit = self._collector.max_body
        coding = headers.get("Transfer-Encoding", "").strip().lower()
        length = headers.get("Content-Length", "0").strip()
        if coding and (coding != "chunked" or "Content-Length" in headers):
            raise refuse(400, "the body is framed in a way that two readers might read differently")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            raise refuse(400, "Content-Length is not a number")
        too_large = refuse(413, f"the body is larger than {limit} bytes")
        if int(length) > limit:
            raise too_large
        if self._continue:
            self._continue = False
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not coding:
            return self._exactly(int(length))
        parts: list[bytes] = []
        room = limit
        while True:
            digits = self.rfile.readline(1024).partition(b";")[0].strip()
            try:
                # int() would also take a sign and underscores.
                size = int(digits, 16) if digits.isalnum() else -1
            except ValueError:
                size = -1
            if size < 0:
                raise refuse(400, "a chunk's size is not a number")
            room -= size
            if room < 0:
                raise too_large
            if size == 0:
                while self.rfile.readline(_CHUNK).strip():
                    pass  # trailers say nothing that is of use here
                return b"".join(parts)
            parts.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise refuse(400, "a chunk does not end where it should")

    def _exactly(self, size: int) -> bytes:
        """Read `size` bytes; ConnectionError when the client goes before that. What is not whole is no request."""
        found = self.rfile.read(size)
        if len(found) < size:
            raise ConnectionError("the client left in the middle of a request")
        return found

    def _send(self, faults: Faults, reply: Reply, *, unread: bool = False) -> None:
        """Send the reply as the faults have it, and set how the connection goes on; `unread`: the body was not read."""
        self.close_connection = self.close_connection or unread
        how = sending(
            faults,
            reply,
            date=self.date_time_string(),
            close=self.close_connection,
            head_only=self.command == "HEAD",
        )
        for piece in how.pieces:
            self.connection.sendall(piece)
            if how.pause and self._stopping.wait(how.pause):
                self.close_connection = True
                return
        if how.end == "reset":
            self._reset()
        elif how.end == "close":
            self.close_connection = True
            if unread:
                self._linger()

    def _reset(self) -> None:
        """Make the close that follows a reset: lingering for no time at all sends RST instead of FIN."""
        off = struct.pack("HH" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
        self.close_connection = True

    def _linger(self) -> None:
        """Read away what the client still sends after an early reply: closing over it would reset the connection, and
        the reset can overtake the reply."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER)
        while self.connection.recv(_CHUNK):
            pass
