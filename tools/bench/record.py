"""How fast `record()` is, against raw sqlite3 and against persist-queue."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable

from common import DATA, Figure, client, compare, figure, persist_queue, rate, raw_queue, row

from edgespool.queue import schema


def single(directory: str, rounds: int) -> list[Figure]:
    """One thread, "power", against the same single-row commits by raw sqlite3."""
    count = 50
    connection = raw_queue(directory, "raw")
    ours = client(directory, "ours")
    number = itertools.count(1)

    def theirs() -> None:
        for _ in range(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(schema.INSERT, row(next(number)))
            connection.execute("COMMIT")

    def record() -> None:
        for _ in range(count):
            ours.record("temperature", **DATA)

    # The rounds before the WAL has its size are left out: growing costs both a second flush.
    measured = compare(lambda: rate(count, record), lambda: rate(count, theirs), rounds, warmup=6, slices=10)
    ours.close()
    connection.close()
    return [figure('record() at "power", 1 thread / raw sqlite3 FULL', 0.85, measured, peer="raw sqlite3")]


def _in_threads(threads: int, count: int, call: Callable[[], object]) -> None:
    """Call it `count` times in all, from so many threads at once."""
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(count // threads):
            call()

    crowd = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    barrier.wait()
    for thread in crowd:
        thread.join()


def threaded(directory: str, rounds: int, threads: int, target: float | None, count: int = 1600) -> Figure:
    """Several threads, "power", against persist-queue's put with as many."""
    ours = client(directory, f"ours-{threads}")
    theirs = persist_queue(directory, f"theirs-{threads}")
    item = {"type": "temperature", "data": DATA}
    measured = compare(
        lambda: rate(count, lambda: _in_threads(threads, count, lambda: ours.record("temperature", **DATA))),
        lambda: rate(count, lambda: _in_threads(threads, count, lambda: theirs.put(item))),
        rounds,
    )
    ours.close()
    theirs.close()
    return figure(f'record() at "power", {threads} threads / persist-queue put', target, measured, peer="persist-queue")


def on_a_card(directory: str, rounds: int, milliseconds: int = 10) -> Figure:
    """The same with 8 threads and every flush slowed as on a card: this program again, under strace."""
    delay = f"delay_exit={milliseconds * 1000}"
    command = [
        "strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=fdatasync,fsync",
        "-e", f"inject=fdatasync:{delay}", "-e", f"inject=fsync:{delay}",
        sys.executable, os.path.abspath(__file__), directory, str(rounds),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    numbers = re.findall(r"[-\d.e+]+", done.stdout.strip().splitlines()[-1])
    ours, theirs, *ratios = (float(each) for each in numbers)
    name = f'record() at "power", 8 threads, flushes of {milliseconds} ms / persist-queue put'
    return figure(name, 6, (ours, theirs, ratios), peer="persist-queue")


def process(directory: str, rounds: int) -> Figure:
    """One thread at durability "process" against persist-queue's put."""
    count = 2000
    ours = client(directory, "process", durability="process")
    theirs = persist_queue(directory, "process-theirs")
    item = {"type": "temperature", "data": DATA}

    def record() -> None:
        for _ in range(count):
            ours.record("temperature", **DATA)

    def put() -> None:
        for _ in range(count // 5):
            theirs.put(item)

    measured = compare(lambda: rate(count, record), lambda: rate(count // 5, put), rounds, slices=2)
    ours.close()
    theirs.close()
    return figure('record() at "process", 1 thread / persist-queue put', 6, measured, peer="persist-queue")


def many(directory: str, rounds: int) -> Figure:
    """record_many of 100 against executemany of rows already encoded, same schema, same flush."""
    batches = 5
    connection = raw_queue(directory, "raw-many")
    ours = client(directory, "many")
    number = itertools.count(1)
    events = [("temperature", DATA)] * 100

    def theirs() -> float:
        prepared = [[row(next(number)) for _ in range(100)] for _ in range(batches)]

        def work() -> None:
            for rows in prepared:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(schema.INSERT, rows)
                connection.execute("COMMIT")

        return rate(100 * batches, work)

    def record() -> None:
        for _ in range(batches):
            ours.record_many(events)

    measured = compare(lambda: rate(100 * batches, record), theirs, rounds, warmup=4, slices=10)
    ours.close()
    connection.close()
    return figure("record_many of 100 / raw executemany of the encoded rows", 0.6, measured, peer="raw sqlite3")


if __name__ == "__main__":  # under strace, from on_a_card
    slow = threaded(sys.argv[1], int(sys.argv[2]), 8, None, count=320)
    ours_rate, theirs_rate = (float(x.replace(",", "")) for x in re.findall(r"([\d,]+)/s", slow.detail))
    print(ours_rate, theirs_rate, *slow.rounds)
