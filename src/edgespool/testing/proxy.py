"""A TCP proxy on loopback that does to connections what bad networks do.

    from edgespool import Client
    from edgespool.testing import Collector, FaultProxy

    def test_a_lost_reply_repeats_and_loses_nothing(tmp_path):
        with Collector() as collector, FaultProxy(collector.url) as proxy:
            proxy.set_fault(lost_reply=True, times=1)
            with Client(proxy.url, path=tmp_path) as client:
                client.record("temperature", value=21.5)
                assert client.flush(10)
            assert (collector.count(), collector.repeats()) == (1, 1)

The server behind it stays as it is; what the proxy is told to do wrong happens on the way. It passes bytes on without
knowing HTTP, except for the faults that forge a reply (`wrong_length`, `huge_reply`, `redirects`), which read its head.
It needs no test framework, listens on loopback only, and prints nothing.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from .passage import Passage
from .weather import HEALTHY, NetworkFaults, weather

__all__ = ["FaultProxy", "NetworkFaults", "weather"]

_JOIN = 5.0  # seconds to wait for a thread to end


class FaultProxy:
    """A proxy on a loopback port in front of one server. Use it as a context manager, or call `start` and `close`.

    All methods are safe in any thread.

    Args:
        upstream: the server's URL.
        port: 0 means any free one, which then stays the same through `close_port` and `open_port`.
        receive_buffer: bytes that the system may hold of what a client sends; a small number lets the client feel a
            slow network at once, rather than when the system's large buffers are full.
    """

    def __init__(self, upstream: str, *, port: int = 0, receive_buffer: int | None = None) -> None:
        parts = urlsplit(upstream)
        if not parts.hostname:
            raise ValueError(f"upstream: a URL is needed, not {upstream!r}")
        self.upstream = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        self._parts = parts
        self._port = port
        self._receive_buffer = receive_buffer
        self._lock = threading.Lock()
        self._faults = HEALTHY
        self._left: int | None = None
        self._live: set[Passage] = set()
        self._listener: _Listener | None = None
        self._calm = threading.Event()  # set to end the flapping
        self._flapper: threading.Thread | None = None
        #: How many connections were accepted, and how many exchanges began on them.
        self.connections = 0
        self.exchanges = 0
        #: How many exchanges met a fault.
        self.faulted = 0
        #: How many exchanges the server may have acted on without the client getting its reply.
        self.unanswered = 0

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> FaultProxy:
        """Open the port; return the proxy itself. Raises OSError when the port is taken."""
        self.open_port()
        return self

    def close(self) -> None:
        """End the flapping, close the port and cut every connection. Can be called again; `start` begins anew."""
        self.heal()
        self.close_port()

    @property
    def port(self) -> int:
        """The port's number; RuntimeError before the first `start` when any free one was asked for."""
        if not self._port:
            raise RuntimeError("the proxy has no port before it is started")
        return self._port

    @property
    def url(self) -> str:
        """The upstream's URL, by way of the proxy."""
        return self._parts._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    def open_port(self) -> None:
        """Listen, on the same port as before if there was one. Does nothing when the port is open.

        Raises OSError when the port is taken.
        """
        with self._lock:
            if self._listener is None:
                self._listener = _Listener(self, self._port, self._receive_buffer)
                self._port = self._listener.port

    def close_port(self) -> None:
        """Refuse connections and cut those there are."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection, and wait for their threads."""
        with self._lock:
            live = list(self._live)
            for each in live:
                each.cut()
        for each in live:
            each.thread.join(_JOIN)

    # --- faults -----------------------------------------------------------------------------------------------------

    @property
    def faults(self) -> NetworkFaults:
        """What the next exchange meets."""
        with self._lock:
            return self._faults

    def set_fault(self, faults: NetworkFaults | None = None, /, **fields: object) -> NetworkFaults:
        """Misbehave from the next exchange on: by `faults`, or by fields of `NetworkFaults`; return what is set.

        Raises ValueError for a bad value, TypeError for an unknown field.
        """
        made = replace(faults or HEALTHY, **fields)  # type: ignore[arg-type]  # __post_init__ checks them
        with self._lock:
            self._faults, self._left = made, made.times
        return made

    def heal(self) -> None:
        """Be a healthy network again, from the next exchange on, and end the flapping. The port stays as it is."""
        flapper, self._flapper = self._flapper, None
        if flapper is not None:
            self._calm.set()
            flapper.join(_JOIN)
        self.set_fault()

    def flap(self, schedule: Iterable[tuple[float, NetworkFaults | None]]) -> None:
        """Change by itself: each pair is a number of seconds and what the network is like for them.

        None stands for a closed port. What comes last stays; `heal` and `close` end it sooner. `weather.weather` makes
        an endless schedule at random.
        """
        self.heal()
        self._calm.clear()
        self._flapper = threading.Thread(
            target=self._follow, args=(iter(schedule),), name="edgespool-proxy-flapper", daemon=True
        )
        self._flapper.start()

    def _follow(self, schedule: Iterator[tuple[float, NetworkFaults | None]]) -> None:
        for seconds, faults in schedule:
            if faults is None:
                self.close_port()
            else:
                self.set_fault(faults)
                self.open_port()
            if self._calm.wait(seconds):
                break
        if self._calm.is_set():
            self.open_port()

    # --- for the connections ----------------------------------------------------------------------------------------

    def accepted(self, client: socket.socket) -> None:
        """Take in a client."""
        passage = Passage(self, client)
        with self._lock:
            self.connections += 1
            self._live.add(passage)
            passage.thread.start()

    def ended(self, passage: Passage, unanswered: bool) -> None:
        """Forget a connection; `unanswered`: the server may have acted, and the client got no reply."""
        with self._lock:
            self._live.discard(passage)
            self.unanswered += unanswered

    def take(self) -> NetworkFaults:
        """Return the faults for one exchange, and count it."""
        with self._lock:
            faults = self._faults
            self.exchanges += 1
            self.faulted += replace(faults, times=None) != HEALTHY
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    self._faults, self._left = HEALTHY, None
            return faults


class _Listener:
    """The listening socket and its accepting thread."""

    def __init__(self, proxy: FaultProxy, port: int, receive_buffer: int | None) -> None:
        self._proxy = proxy
        self._stopping = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # lets the same port be opened again at once; on Windows it means something else
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if receive_buffer:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(128)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        # Closing a listener does not wake an accept() everywhere; a byte on this pair wakes the selector anywhere.
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="edgespool-proxy", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                try:
                    client, _ = self._socket.accept()
                except BlockingIOError:
                    continue
                except OSError:  # out of file descriptors, or the client has gone again
                    self._stopping.wait(0.05)
                    continue
                self._proxy.accepted(client)

    def close(self) -> None:
        """Let nobody in any more."""
        self._stopping.set()
        self._wake.send(b"x")
        self._thread.join(_JOIN)
        for each in (self._socket, self._wake, self._woken):
            each.close()
