"""Closes its client in a signal handler, which a second signal interrupts, while a server keeps it waiting."""

from __future__ import annotations

import os
import signal
import threading
import time

from common import open_client, say

closed = 0


def handler(*_: object) -> None:
    global closed
    client.close()
    closed += 1
    say("returned", client.closed)  # the inner one returns at once, and leaves the closing to the outer one


def interrupt() -> None:
    for _ in range(2):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)


client = open_client()
signal.signal(signal.SIGTERM, handler)
client.record("reading")
client.send_now()
threading.Thread(target=interrupt, daemon=True).start()
while closed < 2:
    time.sleep(0.05)
say("closed", client.closed)
