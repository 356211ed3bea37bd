"""A WSGI application that records one event a request. With gunicorn's --preload the client is made in the master."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from edgespool import Client

client = Client(os.environ["COLLECTOR"], path=os.environ["QUEUE"], source="pi", flush_interval=0.02)
client.record("preloaded")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    event = client.record("request", path=environ["PATH_INFO"], pid=os.getpid())
    start_response("200 OK", [("X-Event", event), ("X-Pid", str(os.getpid())), ("Content-Length", "0")])
    return []
