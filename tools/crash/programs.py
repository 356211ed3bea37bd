"""What the recorded programs are made of: clients in the queue's place, events with numbers, announcements.

They use `edgespool.Client` as anybody would. A program runs one function of `steps`, in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests

from crash.check import PLACE, SETTINGS, SOURCE
from crash.marks import NAME, data, mark, said_intent, said_receipt, said_yes
from edgespool import Client, Event
from edgespool.testing import Collector

__all__ = ["PATIENCE", "Program", "main", "until"]

_NOWHERE = "http://127.0.0.1:9/"
PATIENCE = 60.0  # seconds


class Program:
    """What the steps use: clients in the queue's place, events with numbers, announcements.

    Args:
        root: the directory that is recorded.
        first: the number of the first event.
        url: where to send; None: nowhere, or to the collector that a step opens.
    """

    def __init__(self, root: str, first: int, url: str | None = None) -> None:
        self.root = root
        self.queue = os.path.join(root, PLACE)
        self._next = first
        self._counting = threading.Lock()
        self.url = url or _NOWHERE

    def client(self, **settings: Any) -> Client:
        """Open a client that records; it sends when told `start=True`."""
        given = {"start": False, "source": SOURCE, "config_file": os.devnull, **SETTINGS, "flush_interval": 0.05}
        return Client(self.url, path=self.queue, session=self.session(), compression="none", **{**given, **settings})

    def _numbers(self, count: int) -> int:
        with self._counting:
            first = self._next
            self._next += count
            return first

    def record(self, client: Client, size: int = 40, route: str = "") -> None:
        """Record one event, announced before and after."""
        number = self._numbers(1)
        said_intent(number, [size], route, threading.current_thread().name)
        if route:
            identity = client.record_event(Event(NAME, data(number, size), route=route))
        else:
            identity = client.record(NAME, **data(number, size))
        said_receipt(number, [identity])

    def record_many(self, client: Client, sizes: Sequence[int], route: str = "") -> None:
        """Record a batch, announced before and after."""
        first = self._numbers(len(sizes))
        said_intent(first, sizes, route, threading.current_thread().name)
        pairs = [(NAME, data(number, size)) for number, size in enumerate(sizes, first)]
        if route:
            ids = client.record_many([Event(name, each, route=route) for name, each in pairs])
        else:
            ids = client.record_many(pairs)
        said_receipt(first, ids)

    @contextmanager
    def collector(self) -> Iterator[Collector]:
        """Run a collector; the clients opened from now on send to it."""
        with Collector() as collector:
            self.url = collector.url
            yield collector

    def session(self) -> requests.Session:
        """Return a session that announces what the server has said yes to, before the client hears of it."""
        session = requests.Session()
        session.hooks["response"].append(_heard)
        return session


def _heard(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    if 200 <= response.status_code < 300:
        body = response.request.body
        assert isinstance(body, bytes)
        said_yes(event["data"]["n"] for event in json.loads(body))


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("the program waits for something that does not happen")
        time.sleep(0.01)


def main() -> int:
    """Run one step of a scenario; the arguments are its function, its number, the root and, if given, the collector.

    The name "recover" stands for a program that opens each queue below the root, records and closes.
    """
    from crash import steps

    name, step, root, *url = sys.argv[2:]
    if name == "recover":
        for each in sorted(os.listdir(root)):
            mark("state", each)
            steps.write_two(Program(os.path.join(root, each), 900_000))
        return 0
    mark("step", step)
    run: Callable[[Program], None] = getattr(steps, name)
    run(Program(root, 100_000 * int(step), *url))
    return 0
