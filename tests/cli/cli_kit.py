"""Helpers for the command line's tests."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgespool import Client, Event


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


#: Runs `edgespool ARGUMENTS` in this process; `stdin` is what it reads.
Cli = Callable[..., Result]
#: Starts `python -m edgespool ARGUMENTS`.
Start = Callable[..., "subprocess.Popen[bytes]"]


def interrupt(process: subprocess.Popen[bytes]) -> Result:
    """Send SIGINT, as Ctrl-C does, and return how the process ended."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    return Result(process.returncode, out.decode(), err.decode())


def call(arguments: Sequence[str], env: dict[str, str] | None = None) -> Result:
    """Run a program to its end."""
    done = subprocess.run(arguments, capture_output=True, timeout=60, check=False, env=env)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(*arguments: str, until: bytes | None = None) -> Result:
    """Run `edgespool ARGUMENTS` on a terminal, to its end, or up to Ctrl-C once it has written `until`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgespool", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm"}, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    out = b""
    try:
        with contextlib.suppress(OSError):  # the other end was closed
            while select.select([ours], [], [], 20)[0] and (part := os.read(ours, 4096)):
                out += part
                if until is not None and until in out:
                    process.send_signal(signal.SIGINT)
                    until = None
        return Result(process.wait(20), out.decode(), "")
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def record(path: Path | str, count: int, route: str = "", **data: object) -> list[str]:
    """Record so many events that nobody sends."""
    with Client("http://127.0.0.1:9/", path=str(path), start=False) as client:
        events = [Event("reading", {"number": number, **data}, route=route) for number in range(count)]
        return client.record_many(events)


def fail(path: Path | str, url: str, count: int, name: str = "reading") -> list[str]:
    """Record events and let a server refuse them, so that they end in failed payload files."""
    with Client(url, path=str(path), flush_interval=0.0) as client:
        ids = client.record_many([(name, {"number": number}) for number in range(count)])
        assert client.flush(10)
    return ids


def damage(path: Path | str) -> None:
    """Change an event's payload behind the queue's back, so that its checksum does not fit."""
    with sqlite3.connect(Path(path) / "queue.db") as connection:
        connection.execute(
            "UPDATE ack_queue_default SET data = X'00' WHERE _id = (SELECT min(_id) FROM ack_queue_default)"
        )
    connection.close()


def snapshot(path: Path | str) -> dict[str, bytes]:
    """Return every file below a directory with its content, SQLite's shared memory apart."""
    found = {}
    for root, _, names in os.walk(path):
        for name in names:
            if not name.endswith(("-shm", "-wal")):
                full = os.path.join(root, name)
                with open(full, "rb") as file:
                    found[full] = file.read()
    return found


def eventually(check: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Wait until something is so; return whether it came to be."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
