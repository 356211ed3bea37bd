"""What the HTTP tests share: a server that answers as a function says, a server that never answers, and patience."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgespool import Client
from edgespool.outcome import Backoff

DEADLINE = 20.0  # seconds after which a test gives up waiting; nothing here should take one of them
QUICK = Backoff(base=0.01, cap=0.03)


def wait_until(condition: Callable[[], object], what: str = "the condition", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout:g} s"
        time.sleep(0.005)


def failed_files(client: Client) -> list[dict[str, Any]]:
    """Return what the client's failed payload files hold, oldest first."""
    folder = Path(client.directory, "failed")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def record_many(client: Client, count: int, name: str = "reading", **data: Any) -> list[str]:
    """Record events numbered from 0 in one transaction and return their ids."""
    return client.record_many([(name, {"n": n, **data}) for n in range(count)])


@dataclass
class Got:
    """A request as the scripted server got it; `body` is decompressed."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    peer: tuple[str, int]
    at: float = field(default_factory=time.monotonic)

    @property
    def body(self) -> bytes:
        return gzip.decompress(self.raw) if self.headers.get("content-encoding") == "gzip" else self.raw

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in json.loads(self.body)]


Answer = tuple[int, Mapping[str, str], bytes]
OK: Answer = (200, {}, b"")


class ScriptedServer:
    """A real HTTP server on loopback whose every reply is what `answer(request)` returns: status, headers, body."""

    def __init__(self, answer: Callable[[Got], Answer], tls: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self.errors: list[Exception] = []  # that the script itself raised
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Got(self.command, self.path, headers, raw, self.client_address)
                script.got.append(got)
                try:
                    status, more, body = answer(got)
                except Exception as error:
                    script.errors.append(error)
                    raise
                head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in more.items())
                self.wfile.write(head.encode() + b"\r\n" + body)  # one write: no waiting for acknowledgements

            do_GET = do_PUT = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: Any) -> None:
                pass  # a client that will not shake hands is part of some tests

            def finish_request(self, request: Any, client_address: Any) -> None:
                if tls is None:
                    super().finish_request(request, client_address)
                    return
                with tls.wrap_socket(request, server_side=True) as secured:
                    super().finish_request(secured, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        self.port = self._server.server_address[1]
        self.url = f"{self.scheme}://127.0.0.1:{self.port}/v1/events"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        assert self.errors == []


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Give the URL of a server that takes connections and requests, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/events"


def closed_port() -> str:
    """Return the URL of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1/events"
