"""What the network tests share: servers that do as a function does, batches to send, patience, a look at costs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edgespool import Client
from edgespool.event import Batch, StoredEvent
from edgespool.formats import create
from edgespool.http import HttpDestination
from edgespool.outcome import Backoff, Outcome

DEADLINE = 30.0  # seconds after which a test gives up waiting; nothing here should take a third of them
QUICK = Backoff(base=0.01, cap=0.03)
MIB = 1 << 20
MakeClient = Callable[..., Client]


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def record_many(client: Client, count: int, **data: Any) -> list[str]:
    """Record events numbered from 0 in one transaction and return their ids."""
    return client.record_many([("reading", {"n": n, **data}) for n in range(count)])


def check_settled(client: Client, count: int) -> None:
    """All events were delivered; none failed, dropped or waiting; none in a failed payload file."""
    wait_until(lambda: client.stats().pending == 0, "the end of the queue")
    stats = client.stats()
    assert (stats.accepted, stats.delivered, stats.failed, dict(stats.dropped)) == (count, count, 0, {})
    assert not os.path.isdir(os.path.join(client.directory, "failed")) or not os.listdir(client.directory + "/failed")


def a_batch(payload: bytes = b"", count: int = 1) -> Batch:
    """Return a batch of events whose payloads hold `payload`, 100 bytes of it when it is empty."""
    head = '{"time":"1970-01-01T00:00:00.000000Z","specversion":"1.0","source":"pi","type":"t","id":"%d","data":"'
    body = (payload or b"y" * 100) + b'"}'
    return Batch("", [StoredEvent(n, (head % n).encode() + body, 0.0, str(n), False) for n in range(count)])


def destination(url: str, **settings: Any) -> HttpDestination:
    """Return a destination with a second for a connection and one for a reply."""
    return HttpDestination(url, create("cloudevents", "pi"), **{"timeout": (1.0, 1.0), **settings})


@dataclass
class Cost:
    """What a piece of work took: seconds by the wall clock, seconds of CPU of this process, peak of memory in bytes."""

    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block; memory is what Python allocated beyond what was there before."""
    cost = Cost()
    tracemalloc.start()
    wall, cpu = time.monotonic(), time.process_time()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield cost
    finally:
        cost.wall, cost.cpu = time.monotonic() - wall, time.process_time() - cpu
        cost.memory = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()


def send_within(seconds: float, to: HttpDestination, batch: Batch | None = None) -> Outcome:
    """Send a batch and return what came of it; fail when it takes longer."""
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(to.send(batch or a_batch())), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"the sender was held for more than {seconds:g} s"
    return found[0]


def read_head(connection: socket.socket) -> bytes:
    """Read a request's head, and what comes with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    return data


def read_request(connection: socket.socket) -> None:
    """Read a request with a Content-Length, whole."""
    head, _, body = read_head(connection).partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += _some(connection)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("no request")
    return data


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None], scheme: str = "http") -> Iterator[str]:
    """Give the URL of a server that does to each connection what `talk` does, and then closes it.

    The system holds little of what is sent to it.
    """
    open_ones: set[socket.socket] = set()
    threads: list[threading.Thread] = []
    closing = threading.Event()
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            talk(connection)
        with lock:
            open_ones.discard(connection)

    def accept() -> None:
        while not closing.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            connection.settimeout(None)
            with lock:
                open_ones.add(connection)
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.settimeout(0.05)
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/v1/events"
        finally:
            closing.set()
            acceptor.join(5)
            with lock:
                for each in open_ones:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)
