"""A program that forks while another of its threads uses an SDK: each child must be able to use it, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# `make` and `call` come from the vendor's test. The lock in question is held for most of the time, by the thread that
# the children do not have.
_PROGRAM = """
import os, signal, sys, threading, time

{vendor}

front = make(sys.argv[1])
call(front)
ending = threading.Event()

def go_on():
    while not ending.is_set():
        call(front)

thread = threading.Thread(target=go_on)
thread.start()
ended = []
for _ in range(20):
    child = os.fork()
    if not child:
        status = 1
        try:
            call(front)
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + 20
    while not (found := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.002)
    if not found[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ended.append("hangs")
        break
    ended.append(found[1])
ending.set()
thread.join(20)
print(ended, flush=True)
os._exit(0)
"""


def forked_children(vendor: str, folder: Path) -> str:
    """Run the program with a vendor's `make(folder)` and `call(front)`; return how its 20 children ended, as a list."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM.replace("{vendor}", vendor), str(folder)],
        stdout=subprocess.PIPE, text=True, timeout=120, cwd=folder,
    )  # fmt: skip
    return ran.stdout.strip()


ALL_WELL = str([0] * 20)
