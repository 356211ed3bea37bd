"""One process of the soak: threads that record, and a client that sends when it is this process's turn.

An id is written to the list of accepted events after the call that recorded it has returned, never before.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass

from edgespool import Client, QueueFull

__all__ = ["Orders", "main"]

_PAUSE = 0.02  # seconds that a thread rests between two calls, at most
_MOST = 20  # events in one call, at most


@dataclass(frozen=True)
class Orders:
    """What a writer is told, as JSON, on its command line."""

    url: str
    directory: str
    accepted: str  # the file for the ids
    seconds: float
    threads: int
    seed: int
    durability: str

    def text(self) -> str:
        """Return the orders as `main` reads them."""
        return json.dumps(asdict(self))


def main() -> int:
    """Record until the time is over; return 0 when every thread came to its end."""
    orders = Orders(**json.loads(sys.argv[2]))
    client = Client(
        orders.url, path=orders.directory, source="soak", durability=orders.durability, flush_interval=0.05,
        timeout=(2.0, 2.0), config_file=os.devnull,
    )  # fmt: skip
    log = os.open(orders.accepted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    end = time.monotonic() + orders.seconds
    failures: list[str] = []

    def record(number: int) -> None:
        dice = random.Random(orders.seed * 1000 + number)
        try:
            while time.monotonic() < end:
                with contextlib.suppress(QueueFull):  # not accepted: the caller keeps it
                    ids = _record(client, dice, number)
                    os.write(log, "".join(f"{id}\n" for id in ids).encode())
                time.sleep(dice.uniform(0, _PAUSE))
        except BaseException as error:
            failures.append(f"{type(error).__name__}: {error}")
            raise

    threads = [threading.Thread(target=record, args=(n,), name=f"writer-{n}") for n in range(orders.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close(2.0)
    os.close(log)
    return 1 if failures else 0


def _record(client: Client, dice: random.Random, number: int) -> list[str]:
    count = dice.choice((1, 1, 1, dice.randint(2, _MOST)))
    if count == 1:
        return [client.record("reading", writer=number, value=dice.random())]
    return client.record_many([("reading", {"writer": number, "value": dice.random()}) for _ in range(count)])
