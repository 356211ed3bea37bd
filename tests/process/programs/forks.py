"""Forks with a client at work. `scene` says what happens; each scene prints what it records, sends and sees."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common import SETTINGS, Writer, open_client, say

from edgespool.event import Batch


def sent(batch: Batch) -> None:
    say("sent", os.getpid(), len(batch))


def fork(child: Callable[[], None]) -> int:
    """Run `child` in a forked process, which then ends as a C program would; return its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        except BaseException as error:
            say("failure", type(error).__name__, error)
            os._exit(1)
    return pid


def wait_for(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    say("ended", os.waitstatus_to_exitcode(status))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def in_background(writers: int, pause: float = 0.001) -> Callable[[], None]:
    """Record in so many threads; return a function that stops them."""
    over = threading.Event()

    def loop(writer: Writer) -> None:
        while not over.wait(pause):
            writer.record()

    threads = [threading.Thread(target=loop, args=(Writer(client, f"parent/{n}"),)) for n in range(writers)]
    for thread in threads:
        thread.start()

    def stop() -> None:
        over.set()
        for thread in threads:
            thread.join()

    return stop


def record_five(who: str) -> None:
    writer = Writer(client, who)
    for _ in range(4):
        writer.record()
    client.flush(0.01)
    writer.record()


def leave(how: str) -> None:
    """End a child in one of the ways in which processes end."""
    if how == "exit":
        sys.exit(0)
    if how == "exception":
        raise RuntimeError("on purpose")
    if how == "close":
        client.close(0.2)
        sys.exit(0)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(0)


def children() -> None:
    """Fork again and again while threads record and the worker sends; each child records, and ends as told."""
    stop = in_background(3)
    how = SETTINGS["end"]
    for number in range(SETTINGS["count"]):
        if SETTINGS["by"] == "os.fork":
            pid = os.fork()
            if pid == 0:
                record_five(f"child-{number}")
                leave(how)
            wait_for(pid)
        else:
            context = multiprocessing.get_context("fork")
            process = context.Process(target=lambda: (record_five(f"child-{number}"), leave(how)))  # noqa: B023
            process.start()
            process.join()
            say("ended", process.exitcode)
    stop()
    say("forked")
    last = Writer(client, "afterwards")
    for _ in sys.stdin:
        last.record()


def pool() -> None:
    """Record in the workers of a process pool."""
    with multiprocessing.get_context("fork").Pool(3) as workers:
        workers.map(record_five, [f"task-{n}" for n in range(12)])
    client.flush(20)
    say("forked")
    sys.stdin.read()


def orphan() -> None:
    """Leave a child behind that goes on recording, until the test kills it."""
    Writer(client, "parent").record()

    def go_on() -> None:
        writer = Writer(client, "child")
        while True:
            writer.record()
            time.sleep(0.02)

    say("child", fork(go_on))
    if SETTINGS["parent"] == "closes":
        time.sleep(0.3)  # the child has its queue open by then
        client.close(1)
        say("closed")
    for line in sys.stdin:
        if line.strip() == "exit":
            sys.exit(0)


def storm() -> None:
    """Two threads fork at once while four record: a look for deadlocks, and for open files that add up."""
    stop = in_background(4, 0.0005)
    for number in range(3):
        wait_for(fork(lambda n=number: record_five(f"first-{n}")))  # so that all has been opened once
    before = descriptors()

    def fork_often(name: str) -> None:
        for number in range(SETTINGS["count"]):
            wait_for(fork(lambda n=number: record_five(f"{name}-{n}")))

    threads = [threading.Thread(target=fork_often, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop()
    client.flush(20)
    say("descriptors", before, descriptors())
    say("forked")
    sys.stdin.read()


def generations() -> None:
    """A child forks a child, and so on; none holds open more than the one before."""

    def descend(depth: int) -> None:
        writer = Writer(client, f"depth-{depth}")
        writer.record()
        client.flush(0.01)
        writer.record()
        say("descriptors", depth, descriptors())
        if depth < SETTINGS["count"]:
            wait_for(fork(lambda: descend(depth + 1)))
        writer.record()

    descend(0)
    client.flush(20)
    say("forked")
    sys.stdin.read()


def in_a_hook() -> None:
    """Fork in the sender's own thread."""
    forked = threading.Event()

    def hook(batch: Batch) -> None:
        if not forked.is_set():
            forked.set()
            wait_for(fork(lambda: record_five("child")))
            say("forked")

    client._worker._on_delivery = hook
    Writer(client, "parent").record()
    sys.stdin.read()


client = open_client(on_delivery=sent)
say("ready", os.getpid(), Path(client.directory).name)
globals()[SETTINGS["scene"]]()
