"""What `import panoply` gives its users, on the durable queue. No SQL and no HTTP in it.

    import edgespool.vendors.panoply.api as panoply

    conn = panoply.SDK("APIKEY", "APISECRET")
    conn.write("tablename", {"foo": "bar"})

Source: the documentation of panoply-python-sdk 1.6.3 and what its client sends. A record is on the disk when `write`
returns; where the original dropped a message that it could not send, this keeps it and tries again.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from email.message import Message
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as UrlRequest
from urllib.response import addinfourl

from ... import config
from ...client import CloseReport
from ...errors import EventError
from ...event import Batch, Event
from ...interfaces import Request, Watch
from ...outcome import Delivered, Outcome, Reply
from ...redaction import Redactor
from ..common import names_of, open_client
from . import constants, datasource, errors, events
from .constants import FLUSH_TIMEOUT, MAXSIZE
from .datasource import DataSource, validate_token
from .errors import PanoplyException
from .events import Emitter
from .format import Account

__all__ = [
    "FLUSH_TIMEOUT",
    "MAXSIZE",
    "SDK",
    "DataSource",
    "PanoplyException",
    "constants",
    "datasource",
    "errors",
    "events",
    "validate_token",
]


class SDK(Emitter):
    """Writes records into tables of the Panoply platform.

    Events, for `on`; handlers are called in the sender's thread, and what they raise is logged:

    * ``"send"`` before a message goes out: `{"req"}`, a `urllib.request.Request`.
    * ``"flush"`` after it has arrived: `{"req", "res"}`, the reply as `urllib` would give it.
    * ``"error"`` when it has not: an exception, `urllib.error.HTTPError` with the service's reply or `URLError` without
      one. The records stay on the disk and are sent again; what the service refuses for good goes to a failed payload
      file.

    Args:
        apikey, apisecret: as the platform shows them.
        url: another server than Amazon's: its address, to which the queue's path is added, or a queue's whole address.
        given: `path`, `name`, `durability`, `max_bytes`, `flush_interval`, `config_file` and the other keywords of
            `edgespool.Client`.

    Raises:
        ConfigError: key or secret have the wrong form, or a setting cannot be used; a ValueError.
        QueueError: the queue cannot be opened; see `edgespool.errors`.
    """

    #: An object with a method `log(level, message)`, told of what could not be sent; `level` is one of `logging`'s.
    logger: Any = None

    def __init__(self, apikey: str, apisecret: str, *, url: str | None = None, **given: Any) -> None:
        super().__init__()
        self.apikey = apikey
        self.apisecret = apisecret
        account = Account(apikey, apisecret)
        self.account = account.name
        # The documentation promises two seconds: the environment may shorten that; only a keyword makes it longer.
        if given.get("flush_interval") is None:
            known = {name: given.get(name) for name in ("path", "name")}
            given["flush_interval"] = min(FLUSH_TIMEOUT, config.load(known, given.get("config_file")).flush_interval)
        self._redactor = Redactor("", {}, None)
        self._redactor.learn(account.secrets())
        watch = Watch(self._on_request, self._on_reply)
        start = given.pop("start", True)
        self._client = open_client(
            "panoply", apikey, url, options=names_of(SDK), auth=(apikey, apisecret), watch=watch, start=False, **given
        )
        self._qurl: str = getattr(self._client._destination, "url", None) or account.queue()
        if start:  # only now: from here on the sender's thread looks at what stands above
            self._client.start()

    @property
    def qurl(self) -> str:
        """The address of the queue that messages are sent to."""
        return self._qurl

    def write(self, tablename: str, data: Mapping[str, Any]) -> None:
        """Write a record into a table: it is on the disk once this returns, and is sent within two seconds.

        Args:
            tablename: the table, not empty.
            data: the record: anything JSON can say, plus datetime, Decimal, UUID, Enum, dataclasses, numpy scalars. It
                is not changed.

        Raises:
            EventError: the record cannot be said in JSON (NaN, a set, a cycle …), or takes more than 250 KiB; a
                ValueError. Nothing was stored.
            QueueFull, QueueClosed, QueueUnavailable, OutcomeUnknown: see `edgespool.errors`.
        """
        if not isinstance(data, Mapping):
            raise EventError(f"record: a mapping is needed, not {type(data).__name__}")
        self._client.record_event(Event(tablename, data))

    def flush(self, timeout: float = 10.0) -> bool:
        """Send at once what was written so far; return whether all of it left the queue within `timeout` seconds."""
        return self._client.flush(timeout)

    def close(self, timeout: float = 5.0) -> CloseReport:
        """Try to send what is left, for `timeout` seconds at most, and stop; the rest goes out at the next start."""
        return self._client.close(timeout)

    def __enter__(self) -> SDK:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- in the sender's thread -------------------------------------------------------------------------------------

    def _on_request(self, batch: Batch, request: Request) -> None:
        if self._wanted("send"):
            self.fire("send", {"req": self._as_urllib(request)})

    def _on_reply(self, batch: Batch, request: Request, reply: Reply | None, outcome: Outcome) -> None:
        if isinstance(outcome, Delivered):
            if self._wanted("flush") and reply is not None:
                res = addinfourl(io.BytesIO(reply.body), _headers(reply), self.qurl, reply.status)
                self.fire("flush", {"req": self._as_urllib(request), "res": res})
            return
        reason = outcome.reason
        if self.logger is not None:
            self.logger.log(logging.WARNING, f"{len(batch)} record(s) not sent: {reason}")
        if self._wanted("error"):
            if reply is None:
                self.fire("error", URLError(reason))
            else:
                # Servers repeat what they were sent, and what goes into an error goes into logs.
                said = self._redactor.cut(reply.body.decode("utf-8", "replace")).encode()
                self.fire("error", HTTPError(self.qurl, reply.status, reason, _headers(reply), io.BytesIO(said)))

    def _wanted(self, name: str) -> bool:
        return bool(self._events.get(name) or self._events.get("*"))

    def _as_urllib(self, request: Request) -> UrlRequest:
        return UrlRequest(self.qurl + request.path, request.body, dict(request.headers), method=request.method)  # noqa: S310


def _headers(reply: Reply) -> Message:
    message = Message()
    for name, value in reply.headers.items():
        message[name] = value
    return message
