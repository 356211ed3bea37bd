"""What the programs share: their settings, a client, and a way to speak that a SIGKILL cannot take back."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from typing import Any

from edgespool import Client

SETTINGS: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].startswith("{") else {}
OF_CLIENT = {"path", "durability", "batch_size", "flush_interval", "max_bytes", "overflow", "sync_interval"}

faulthandler.register(signal.SIGUSR1, all_threads=True)  # a test that waits in vain asks where everybody is


def say(*words: object) -> None:
    """Print a line by one system call: it is out whole before this returns."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def open_client(**more: Any) -> Client:
    """Make the client that the settings describe."""
    given = {"source": "pi", "flush_interval": 0.02, "timeout": (5.0, 5.0), "start": SETTINGS.get("start", True)}
    given |= {key: value for key, value in SETTINGS.items() if key in OF_CLIENT}
    return Client(SETTINGS["url"], headers={"X-Pid": str(os.getpid())}, **{**given, **more})


class Writer:
    """Records numbered events and says the id of each as soon as it has it."""

    def __init__(self, client: Client, who: str) -> None:
        self.client = client
        self.who = who
        self.number = 0

    def record(self) -> str:
        """Record the next event."""
        event = self.client.record("reading", who=self.who, n=self.number)
        say("recorded", self.who, self.number, event)
        self.number += 1
        return event

    def record_many(self, size: int) -> None:
        """Record the next so many events in one transaction."""
        numbers = range(self.number, self.number + size)
        ids = self.client.record_many([("reading", {"who": self.who, "n": n}) for n in numbers])
        say("recorded", self.who, self.number, *ids)
        self.number += size
