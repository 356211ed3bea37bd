"""Programs that record and come to an end in some way. `way` says how; none of them closes its client."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from typing import Any


def at_the_very_end() -> None:
    """Run after edgespool's own exit hook, for it was registered before."""
    if way == "daemons":
        time.sleep(0.3)  # they go on meanwhile
    elif way == "early hook records":
        writer.record()


atexit.register(at_the_very_end)

from common import SETTINGS, Writer, open_client, say  # noqa: E402


def handlers() -> dict[int, Any]:
    return {int(number): signal.getsignal(number) for number in signal.valid_signals()}


def explode() -> None:
    raise RuntimeError("an exit hook of the program's")


way = SETTINGS["way"]
before = handlers()
if way == "hook first":
    atexit.register(explode)
client = open_client()
writer = Writer(client, "main")
for _ in range(5):
    writer.record()
assert handlers() == before, "a signal handler was installed"
if way == "hook last":
    atexit.register(explode)
elif way == "hook records":
    atexit.register(writer.record)
elif way == "hook closes":
    atexit.register(client.close)
elif way == "daemons":
    for number in range(4):
        mine = Writer(client, f"daemon-{number}")

        def loop(mine: Writer = mine) -> None:
            while True:
                mine.record()

        threading.Thread(target=loop, daemon=True).start()
    time.sleep(0.3)
elif way == "thread":
    mine = Writer(client, "thread")
    threading.Thread(target=lambda: (time.sleep(0.3), mine.record())).start()  # ends after the main thread
elif way == "many clients":
    others = [open_client(path=f"{SETTINGS['path']}-{number}") for number in range(5)]
    for number, other in enumerate(others):
        Writer(other, f"other-{number}").record()
elif way == "exception":
    say("leaves", time.monotonic())
    raise SystemError("on purpose")
if way == "closed":
    client.close(5)
time.sleep(SETTINGS.get("linger", 0))
say("leaves", time.monotonic())
sys.exit(0)
