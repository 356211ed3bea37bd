"""What the security tests share: a server that says anything, queues to spoil, and a look everywhere for a secret."""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from edgespool.cli.app import edgespool, run
from edgespool.event import Record, new_id
from edgespool.outcome import Backoff
from edgespool.queue import DiskQueue

QUICK = Backoff(base=0.01, cap=0.03)


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = 20.0) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def command(*arguments: str) -> int:
    """Run a command of edgespool in this process, and return its exit code."""
    return run(edgespool, "edgespool", list(arguments))


class RawServer:
    """A server on loopback that answers each request with the next of some byte strings, and the last for ever."""

    def __init__(self, *answers: bytes | Callable[[bytes], bytes]) -> None:
        self._answers = list(answers)
        self.got: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._serve, name="raw-server", daemon=True)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1/events"

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            connection.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._talk, args=(connection,), name="raw-talk", daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(10)
                request = b""
                while b"\r\n\r\n" not in request:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    request += piece
                head, _, body = request.partition(b"\r\n\r\n")
                lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                length = int(lengths[0].split(b":")[1]) if lengths else 0
                while len(body) < length:
                    body += connection.recv(65536)
                self.got.append(head + b"\r\n\r\n" + body)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                connection.sendall(answer(head) if callable(answer) else answer)
        except OSError:
            pass
        finally:
            self._open.discard(connection)


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Return a whole reply."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers))
    return head.encode("latin-1") + b"Connection: close\r\n\r\n" + body


def make_queue(path: Path, count: int = 5) -> None:
    """Make a queue with some events in two routes, an event with an id of the user's, and a settled one."""
    queue = DiskQueue(path)
    now = time.time()
    queue.append([Record(b'{"n":%d}' % n, new_id(), now, n) for n in range(count)])
    queue.append([Record(b'{"n":-1}', "an id of mine", now, 9, "north"), Record(b"{}", "given", 5.0, 9, "north", True)])
    batch = queue.lease(1, 1 << 20)
    assert batch is not None
    queue.ack(batch)
    queue.format_name = "cloudevents"
    queue.close()


def spellings(secret: str) -> set[str]:
    """Return the ways in which a secret may be written down."""
    quoted = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    raw = secret.encode()
    encoded = {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
    return {
        secret, *quoted, *(each.lower() for each in quoted if each != secret), html.escape(secret), raw.hex(),
        json.dumps(secret)[1:-1], repr(secret)[1:-1], *(each[:-2] for each in encoded),
    }  # fmt: skip


class Ears(logging.Handler):
    """Hears every line of every logger at every level, with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name} {record.levelname} {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            text += "".join(traceback.format_exception(record.exc_info[1]))
        self.heard.append(text)

    def __enter__(self) -> Ears:
        root = logging.getLogger()
        self._before = root.level
        root.addHandler(self)
        root.setLevel(logging.NOTSET)
        return self

    def __exit__(self, *exc: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._before)


def files_below(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's and folder's name and content, as text."""
    for root, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(root, name)
            yield f"the name {path}", name
            if path.is_file():
                content = path.read_bytes()
                yield str(path), content.decode("utf-8", "replace")
                yield f"{path} as UTF-16", content.decode("utf-16-le", "replace")


def leaks(texts: Iterable[tuple[str, str]], secrets: Iterable[str]) -> list[tuple[str, str]]:
    """Return (where, secret) for each secret that stands in a text, in any spelling."""
    spelled = {secret: spellings(secret) for secret in secrets}
    return [
        (where, secret) for where, text in texts for secret, ways in spelled.items() if any(way in text for way in ways)
    ]
