"""How fast a backlog drains over HTTP, and how many bytes an event costs the card."""

from __future__ import annotations

import gzip
import itertools
import multiprocessing
import os
import socket
import socketserver
import time
from multiprocessing.connection import Connection

import requests
from common import DATA, Figure, client, compare, figure, persist_queue

from edgespool import Client
from edgespool.queue import schema

_REPLY = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"


class _Sink(socketserver.StreamRequestHandler):
    """Reads requests and says yes: a server that costs as little as possible, so that it decides nothing."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while True:
            length = 0
            line = self.rfile.readline()
            if not line:
                return
            while line not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                line = self.rfile.readline()
            self.rfile.read(length)
            self.wfile.write(_REPLY)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    address_family = socket.AF_INET


def _serve(pipe: Connection) -> None:
    server = _Server(("127.0.0.1", 0), _Sink)
    pipe.send(server.server_address[1])
    server.serve_forever()


def _sink() -> tuple[multiprocessing.process.BaseProcess, str]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    return process, f"http://127.0.0.1:{ours.recv()}/v1/events"


def drain(directory: str, rounds: int, compression: str) -> Figure:
    """The client's worker against a loop that selects 500 rows, posts the same bytes with requests, and deletes."""
    count = 20_000
    process, url = _sink()
    number = itertools.count()

    def fill(name: str) -> None:
        with client(directory, name) as full:
            for _ in range(count // 500):
                full.record_many([("temperature", DATA)] * 500)

    def ours() -> float:
        name = f"drain-{compression}-{next(number)}"
        fill(name)
        sender = Client(
            url, path=os.path.join(directory, name), source="bench", compression=compression, start=False,
            config_file=os.devnull,
        )  # fmt: skip
        began = time.perf_counter()
        sender.start()
        if not sender.flush(60):
            raise RuntimeError("the backlog did not drain")
        taken = time.perf_counter() - began
        sender.close()
        return count / taken

    def theirs() -> float:
        name = f"drain-{compression}-{next(number)}"
        fill(name)
        connection = schema.connect(os.path.join(directory, name), "NORMAL", wal_limit=1 << 23, timeout=30)
        connection.execute("PRAGMA wal_autocheckpoint = 1000")  # as SQLite has it by itself
        session = requests.Session()
        headers = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
        if compression == "gzip":
            headers["Content-Encoding"] = "gzip"
        began = time.perf_counter()
        while True:
            rows = connection.execute(f"SELECT _id, data FROM {schema.TABLE} ORDER BY _id LIMIT 500").fetchall()
            if not rows:
                break
            body = b"[" + b",".join([payload for _, payload in rows]) + b"]"  # the same bytes as ours
            if compression == "gzip":
                body = gzip.compress(body, 6, mtime=0)
            session.post(url, data=body, headers=headers, timeout=30).raise_for_status()
            connection.execute(f"DELETE FROM {schema.TABLE} WHERE _id BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
        taken = time.perf_counter() - began
        connection.close()
        session.close()
        return count / taken

    try:
        measured = compare(ours, theirs, rounds)
    finally:
        process.terminate()
    return figure(f"drain over HTTP, batches of 500, {compression} / plain loop", 0.7, measured, peer="loop")


def _written() -> int:
    with open("/proc/self/io", encoding="ascii") as file:
        for line in file:
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    raise RuntimeError("/proc/self/io says nothing of write_bytes")


def bytes_written(directory: str, rounds: int) -> Figure:
    """Bytes to the device for append and acknowledgement of one event, batches of 100, against persist-queue."""
    count = 20_000
    from edgespool.queue import DiskQueue

    with client(directory, "bytes") as recorder:
        pass
    before = _written()
    with client(directory, "bytes") as recorder:
        queue: DiskQueue = recorder._queue
        for _ in range(count // 100):
            recorder.record_many([("temperature", DATA)] * 100)
            batch = queue.lease(100, 1 << 20)
            assert batch is not None
            assert len(batch) == 100
            queue.ack(batch)
            queue.maintain(False)
    ours = (_written() - before) / count
    theirs_queue = persist_queue(directory, "bytes-theirs")
    before = _written()
    few = count // 20
    for _ in range(few):
        theirs_queue.put({"type": "temperature", "data": DATA})
        item = theirs_queue.get()
        theirs_queue.ack(item)
    theirs_queue.close()
    theirs = (_written() - before) / few
    return Figure(
        "bytes written for append + acknowledgement, batches of 100 / persist-queue put+get+ack", ours / theirs, 1 / 20,
        at_least=False, detail=f"ours {ours:,.0f} B an event, persist-queue {theirs:,.0f} B",
    )  # fmt: skip


