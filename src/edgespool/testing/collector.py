"""A real HTTP server on loopback that takes events, remembers them, and misbehaves when told to.

`Collector` is the receiving end for tests, the demo and `edgespool collector`: it answers only after the commit, tells
repeats from new events, and can be made to fail in the ways that servers and networks do. It speaks HTTP/1.1 with
keep-alive, one thread a connection. A running one is steered over HTTP as well: `GET /_collector/stats`,
`GET /_collector/events?limit=&offset=`, `POST /_collector/faults` (the fields of `faults.Faults` as a JSON object), and
`GET` and `DELETE` of the same.

This module must not know a vendor's wire format (dialects), SQL (store), or what a fault means (faults). It prints
nothing.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import logging
import os
import queue
import random
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any
from urllib.parse import parse_qs

from .connection import CONTROL, Port
from .dialects import Dialect, Refused, Reply, Request, decode_content, find_dialects, json_reply, refuse
from .faults import FaultBox, Faults, poisoned, refusal
from .store import Arrived, RequestRecord, Store, Transaction

__all__ = ["Collector", "serve"]

_log = logging.getLogger("edgespool.testing.collector")



class Collector:
    """A collector on a loopback port. Use it as a context manager, or call `start` and `close`.

    All methods are safe in any thread. What was collected can be read until `close`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        keep_bodies: bool = False,
        max_body: int = 64 * 1024 * 1024,
        max_decoded: int = 256 * 1024 * 1024,
        dialects: Sequence[Dialect] | None = None,
        rng: random.Random | None = None,
        on_request: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        """Set up a collector; `start` opens it.

        Args:
            path: the SQLite file to keep what arrives, continued if it exists; None means a temporary one, gone
                after `close` or the end of the process.
            host: a loopback address or `localhost`.
            port: 0 means any free one, which then stays the same through `close_port` and `open_port`.
            keep_bodies: keep each request's decompressed body in its record.
            max_body: the bytes on the wire past which a body is answered 413.
            max_decoded: the same for a body once decompressed.
            dialects: what to understand, first match first; None means the vendors' and the built-in ones.
            rng: picks the requests that a failure rate hits.
            on_request: called with each request's record after its reply, in a connection's thread.

        Raises:
            ValueError: `host` is not loopback.
        """
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            address = None
        if address is None or not address.is_loopback:
            raise ValueError(f"the collector listens on a loopback address only, not on {host}")
        self.faults = FaultBox(rng)
        self._path = path
        self._address = (str(address), port)
        self._family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._keep_bodies = keep_bodies
        self.max_body = max_body
        self._max_decoded = max_decoded
        self._dialects = list(find_dialects() if dialects is None else dialects)
        self._on_request = on_request
        self._store: Store | None = None
        self._port: Port | None = None
        self._connections = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Collector:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> Collector:
        """Open the store and the port; return the collector itself. Does nothing when it is open.

        Raises OSError when the port is taken or the file cannot be made, ValueError when the file is something else.
        """
        with self._lock:
            if self._store is None:
                self._store = Store(self._path)
        try:
            self.open_port()
        except BaseException:
            self.close()  # nobody leaves a context that was never entered
            raise
        return self

    def close(self) -> None:
        """Close the port, cut the connections and close the store. Can be called again; `start` begins anew."""
        self.close_port()
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def open_port(self) -> None:
        """Listen, on the same port as before if there was one. Does nothing when the port is open.

        Raises OSError when the port is taken.
        """
        with self._lock:
            if self._port is None:
                self._port = Port(self, self._family, self._address)
                self._address = (self._address[0], self._port.number)

    def close_port(self) -> None:
        """Stop listening and cut every connection, as if the server had died; what arrived stays."""
        with self._lock:
            port, self._port = self._port, None
        if port is not None:
            port.close()

    @property
    def port(self) -> int:
        """The port's number; RuntimeError before the first `start` when any free one was asked for."""
        if not self._address[1]:
            raise RuntimeError("the collector has no port before it is started")
        return self._address[1]

    @property
    def base_url(self) -> str:
        """The address without a path, e.g. `http://127.0.0.1:40123`."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """Where to post events, e.g. `http://127.0.0.1:40123/v1/events`. Any other path serves as well."""
        return f"{self.base_url}/v1/events"

    @property
    def store(self) -> Store:
        """What arrived; RuntimeError while the collector is closed."""
        store = self._store
        if store is None:
            raise RuntimeError("the collector is not started")
        return store

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted."""
        return self._connections

    def set_fault(self, **fields: Any) -> Faults:
        """Misbehave from the next request on; the fields are those of `faults.Faults` and replace what was set.

        Raises ValueError for an unknown or bad field.
        """
        return self.faults.set(**fields)

    def heal(self) -> None:
        """Be a healthy server again."""
        self.faults.heal()

    def events(self) -> list[dict[str, Any]]:
        """Return the decoded events, each once, in the order of arrival."""
        return self.store.events()

    def ids(self) -> list[str]:
        """Return the ids of `events()`."""
        return self.store.ids()

    def arrived(self, limit: int = -1, offset: int = 0) -> list[Arrived]:
        """Return the stored events with what is known of them: at most `limit` (negative: all), after `offset`."""
        return self.store.arrived(limit, offset)

    def requests(self) -> list[RequestRecord]:
        """Return the record of every whole request in order, the control ones apart."""
        return self.store.requests()

    def count(self) -> int:
        """Return how many events arrived, repeats apart."""
        return self.store.counts().unique

    def repeats(self) -> int:
        """Return how many times an event arrived that was known already."""
        return self.store.counts().repeats

    def wait_for(self, n: int, timeout: float) -> bool:
        """Wait at most `timeout` seconds until `n` events have arrived, repeats apart; say whether they have."""
        return self.store.wait_for(n, timeout)

    def stats(self) -> dict[str, Any]:
        """Return the totals and the faults in force, as JSON values."""
        counts = dataclasses.asdict(self.store.counts())
        return {**counts, "connections": self._connections, "faults": self.faults.current.as_dict()}

    # What follows is for the connections.

    def count_connection(self) -> None:
        """Count one accepted connection; only the accepting thread calls this."""
        self._connections += 1

    def report(self, record: RequestRecord) -> None:
        """Tell the callback of a request that has been answered."""
        if self._on_request is not None:
            try:
                self._on_request(record)
            except Exception:  # noqa: BLE001 - it is the caller's code
                _log.exception("the collector's on_request callback failed")

    def handle(self, request: Request, faults: Faults, roll: float) -> tuple[Reply, RequestRecord]:
        """Do what the request asks, commit it, and return the reply and the record.

        `request` still has its body as it came over the wire.
        """
        size = len(request.body)
        events = 0
        try:
            early = refusal(faults, request.headers, size, roll)
            if early is not None:
                raise Refused(early)
            encoding = request.headers.get("Content-Encoding", "")
            request = dataclasses.replace(request, body=decode_content(request.body, encoding, self._max_decoded))
            dialect = self._dialect_of(request)
            with self.store.transaction() as work:
                state = work.state(dialect.name)
                try:
                    arrivals = dialect.decode(request, state)
                    events = len(arrivals)
                    spoilt = poisoned(faults, arrivals)
                    if spoilt is not None:
                        raise Refused(spoilt)
                    taken = work.add(dialect.name, request.path, arrivals)
                except ValueError as error:
                    raise refuse(400, str(error)) from error
                reply = dialect.reply(request, taken, state)
                return reply, self._record(work, request, size, reply.status if faults.replies else None, events)
        except Refused as refused:
            reply = refused.reply
        except Exception as error:  # noqa: BLE001 - it may be a vendor's code
            # A dialect's mistake or a full disk: the sender gets what a real server would give it, and we hear of it.
            _log.exception("the collector failed on %s %s", request.method, request.path)
            reply = json_reply(500, {"error": f"{type(error).__name__}: {error}"})
        return reply, self.note(request, size, reply.status if faults.replies else None, events)

    def note(self, request: Request, size: int, status: int | None, events: int = 0) -> RequestRecord:
        """Record a request of which no event was stored; `size` is its body's bytes on the wire."""
        with self.store.transaction() as work:
            return self._record(work, request, size, status, events)

    def _record(self, work: Transaction, request: Request, size: int, status: int | None, events: int) -> RequestRecord:
        return work.record(request, size, status, events, request.body if self._keep_bodies else None)

    def _dialect_of(self, request: Request) -> Dialect:
        for dialect in self._dialects:
            if dialect.matches(request):
                return dialect
        if request.method == "POST":
            raise refuse(415, f"no dialect takes the content type {request.media_type or '(none)'}")
        raise refuse(405, f"{request.method} is for nothing here", {"Allow": "POST"})

    def control(self, request: Request) -> Reply:
        """Answer a request to the control paths, which no fault touches and no record mentions."""
        action = (request.method, request.path.removeprefix(CONTROL))
        try:
            if action == ("GET", "stats"):
                return json_reply(200, self.stats())
            if action == ("GET", "events"):
                asked = parse_qs(request.query)
                limit = int(asked.get("limit", ["100"])[0])
                offset = int(asked.get("offset", ["0"])[0])
                if limit < 0 or offset < 0:
                    raise ValueError("limit and offset are not negative")
                found = [dataclasses.asdict(event) for event in self.arrived(limit, offset)]
                return json_reply(200, {"events": found, "total": self.count()})
            if action == ("POST", "faults"):
                fields = json.loads(request.body)
                if not isinstance(fields, dict):
                    raise ValueError("faults are one JSON object")
                return json_reply(200, self.set_fault(**fields).as_dict())
            if action == ("DELETE", "faults"):
                self.heal()
                return json_reply(200, {})
            if action == ("GET", "faults"):
                return json_reply(200, self.faults.current.as_dict())
        except (ValueError, RecursionError) as error:
            return json_reply(400, {"error": str(error)})
        return json_reply(404, {"error": f"no {request.method} {request.path}"})


def serve(
    path: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    on_ready: Callable[[Collector], None] | None = None,
    on_request: Callable[[RequestRecord], None] | None = None,
    faults: Faults | None = None,
    keep_bodies: bool = False,
) -> None:
    """Run a collector in the foreground until SIGINT or SIGTERM, then close it and put the old handlers back.

    Call it in the main thread. `on_ready` is called once the port is open, `on_request` after each request; `faults`
    are in force from the start. The other arguments and the errors are those of `Collector` and `start`.
    """
    # put() of this queue is safe in a signal handler, where setting an Event could wait for itself for ever.
    stop: queue.SimpleQueue[int] = queue.SimpleQueue()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.put(number)

    collector = Collector(path, host, port, keep_bodies=keep_bodies, on_request=on_request)
    if faults is not None:
        collector.faults.set(faults)
    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with collector:
            if on_ready is not None:
                on_ready(collector)
            while True:
                try:
                    stop.get(timeout=1.0)  # not for ever: on Windows a signal cannot interrupt a wait without an end
                    break
                except queue.Empty:
                    continue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
