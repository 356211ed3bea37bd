"""Records in a loop, and in a signal handler that interrupts it; with other threads, which record meanwhile.

Settings: threads (how many besides), signals (how many to send itself).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from common import SETTINGS, open_client, say

from edgespool import QueueUnavailable

began, stored, refused = 0, 0, 0
over = threading.Event()


def handler(*_: object) -> None:
    global began, stored, refused
    began += 1
    try:
        client.record("button")
        stored += 1
    except QueueUnavailable as error:
        assert "signal handler" in str(error)
        refused += 1


def interrupt() -> None:
    dice = random.Random(1)
    for number in range(SETTINGS["signals"]):
        while began < number or stored + refused < began:
            time.sleep(0.001)
        time.sleep(dice.uniform(0.0, 0.003))
        os.kill(os.getpid(), signal.SIGUSR2)
    over.set()


def work() -> None:
    while not over.is_set():
        client.record("reading")


client = open_client()
signal.signal(signal.SIGUSR2, handler)
threads = [threading.Thread(target=each, daemon=True) for each in [work] * SETTINGS["threads"] + [interrupt]]
for thread in threads:
    thread.start()
calls = 0
while not over.is_set():
    client.record("reading")
    calls += 1
for thread in threads:
    thread.join()
say("counts", began, stored, refused)
say("ledger", client.stats().ledger.balanced)
client.close()
