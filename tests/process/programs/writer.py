"""Records without an end, or `count` events: in one thread, in several, in batches, or on a route of its own.

Settings: `who`, `mode` (single, threads, many, route), `size` of a batch, `threads`, `count`, `pause` in seconds. Ends
when stdin is closed.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from common import SETTINGS, Writer, open_client, say

from edgespool import Event


def loop(writer: Writer) -> None:
    mode, count, pause = SETTINGS.get("mode", "single"), SETTINGS.get("count"), SETTINGS.get("pause", 0)
    while not over.is_set() and (count is None or writer.number < count):
        if mode == "many":
            writer.record_many(SETTINGS["size"])
        elif mode == "route":
            event = Event("reading", {"who": writer.who, "n": writer.number}, route=writer.who)
            say("recorded", writer.who, writer.number, client.record_event(event))
            writer.number += 1
        else:
            writer.record()
        if pause:
            time.sleep(pause)


over = threading.Event()
who = SETTINGS.get("who") or str(os.getpid())
client = open_client()
say("ready", os.getpid())
count = SETTINGS.get("threads", 4) if SETTINGS.get("mode") == "threads" else 1
threads = [threading.Thread(target=loop, args=(Writer(client, f"{who}/{n}"),)) for n in range(count)]
for thread in threads:
    thread.start()
if SETTINGS.get("count") is not None:
    for thread in threads:
        thread.join()
    say("wrote")
for line in sys.stdin:
    if line.strip() == "record":
        say("extra", client.record("extra"))
over.set()
for thread in threads:
    thread.join()
report = client.close(SETTINGS.get("close", 10.0))
say("closed", report.delivered, report.pending)
