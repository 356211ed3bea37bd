"""Records until Ctrl-C, or goes on after it. `way` is "once" (the interrupt ends the program) or "often"."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from common import SETTINGS, Writer, open_client, say

from edgespool.errors import OutcomeUnknown

over = threading.Event()
armed = True


def interrupt(number: int, frame: object) -> None:
    """Interrupt whatever the main thread is doing, but not what it does about the last interrupt."""
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt


def listen() -> None:
    sys.stdin.read()
    over.set()


def record_in_a_thread(number: int) -> None:
    """Only the main thread is interrupted: here record() works, or says that it does not know."""
    writer = Writer(client, f"thread-{number}")
    while not over.wait(PAUSE):
        try:
            writer.record()
        except OutcomeUnknown:
            say("unknown", number)
    writer.record()  # still alive


PAUSE = SETTINGS.get("pause", 0)
client = open_client()
threads = [
    threading.Thread(target=record_in_a_thread, args=(n,), daemon=SETTINGS["way"] == "once")
    for n in range(SETTINGS.get("threads", 0))
]
if SETTINGS["way"] == "once":
    with client:
        for thread in threads:
            thread.start()
        writer = Writer(client, "main")
        while True:
            writer.record()
            time.sleep(PAUSE)

signal.signal(signal.SIGINT, interrupt)
threading.Thread(target=listen, daemon=True).start()
for thread in threads:
    thread.start()
say("ready", os.getpid())
while not over.is_set():
    armed = True
    try:
        while not over.is_set():
            say("stored", client.record("reading"))
    except KeyboardInterrupt:
        say("interrupted")
signal.signal(signal.SIGINT, signal.SIG_IGN)
for thread in threads:
    thread.join()
say("stored", client.record("last"))
say("accepted", client.stats().accepted)
client.close(80)  # a request that it does not see the end of would be sent again
say("survived")
