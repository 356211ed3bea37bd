"""The low-level interface: one request, sent at once, and what came of it. Stores nothing, tries nothing again.

The original's low-level class has no backlog, and its caller sees each reply; so it is here. It goes out by the same
`HttpDestination` as everything else: with time-outs, verified certificates, no redirects, and no more than 64 KiB read
of a reply.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import config, destinations
from ...event import Batch, StoredEvent
from ...interfaces import Destination, Request, Watch
from ...outcome import Outcome, Reply, Retry
from .format import AtomFormat
from .keys import Keys

if TYPE_CHECKING:
    import requests

__all__ = ["Response", "Sender"]

_NO_CONNECTION = 500  # what the original says of it
_NO_REQUEST = 400  # and of what could not be sent at all


@dataclass
class Response:
    """What came of a request.

    `status` is the HTTP status; 500 when there was no connection or no reply, 400 when the request could not be made.
    `data` is the reply's body, bytes, of a status from 200 to 399, else None; `error` the body of another status, or
    text when there was no reply, else None.
    """

    error: bytes | str | None
    data: bytes | None
    status: int


class _Single(AtomFormat):
    """One request that is made already."""

    def __init__(self, request: Request, keys: Keys) -> None:
        super().__init__()
        self.keys = keys
        self._request = request

    def configure(self, settings: config.Settings) -> config.Settings:
        """Change nothing: the settings were configured once and for all."""
        return settings

    def request(self, batch: Batch) -> Request:
        """Return it."""
        return self._request


class Sender:
    """Sends requests, one at a time in each thread.

    Args:
        keys: where the settings' keys go, and what is cut out of errors.
        endpoint: the address; None: the settings', or the service's own.
        session: a `requests.Session` of the user's; None: a new one for each request.
        config_file: as of `edgespool.Client`.
        given: settings, as of `edgespool.Client`.

    Raises:
        ConfigError: a setting or the address cannot be used.
    """

    def __init__(
        self,
        keys: Keys,
        endpoint: str | None,
        session: requests.Session | None,
        config_file: str | os.PathLike[str] | None,
        given: dict[str, Any],
    ) -> None:
        form = AtomFormat()
        form.keys = keys
        self._keys = keys
        self._session = session
        self._settings = form.configure(config.load({"url": endpoint, **given}, config_file))
        self._destination(Request(b""), Watch()).close()  # a bad address shows now

    def send(self, request: Request) -> Response:
        """Send a request and return what came of it."""
        replies: list[Reply | None] = []
        watch = Watch(on_reply=lambda batch, request, reply, outcome: replies.append(reply))
        destination = self._destination(request, watch)
        try:
            outcome = destination.send(Batch("", (StoredEvent(0, b"", 0.0, "", False),)))
        finally:
            destination.close()
        reply = replies[-1] if replies else None
        if reply is None:
            return Response(_reason(outcome), None, _NO_CONNECTION if isinstance(outcome, Retry) else _NO_REQUEST)
        if 200 <= reply.status < 400:
            return Response(None, reply.body, reply.status)
        return Response(reply.body, None, reply.status)

    def _destination(self, request: Request, watch: Watch) -> Destination:
        return destinations.create(self._settings, _Single(request, self._keys), self._session, watch)


def _reason(outcome: Outcome) -> str:
    return getattr(outcome, "reason", "")
