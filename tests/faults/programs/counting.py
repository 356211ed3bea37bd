"""Records events one by one, tells what became of each (a line of JSON), and dies without closing anything.

Arguments: the queue's directory, how many events, the collector's address (none: nothing is sent).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from edgespool import Client
from edgespool.errors import QueueError


def tell(*words: Any) -> None:
    """Say something, in one system call."""
    os.write(1, json.dumps(words).encode() + b"\n")


path, count, *url = sys.argv[1:]
client = Client(
    url[0] if url else "http://127.0.0.1:9/", path=path, flush_interval=0.0, start=bool(url), config_file=os.devnull
)
for number in range(int(count)):
    try:
        tell("stored", number, client.record("reading", number=number))
    except QueueError as error:
        tell(type(error).__name__, number, str(error))
if url:
    before = time.process_time()
    client.flush(2.0)
    tell("cpu", time.process_time() - before)
stats = client.stats()
tell("stats", stats.state, stats.last_error, stats.accepted, stats.delivered, stats.pending)
os._exit(0)
