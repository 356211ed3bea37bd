"""The wire of Panoply's SDK: records as one JSON object a line, as the message of an SQS `SendMessage` request.

A form POST to the account's queue with `Action`, `MessageBody` and the message attributes `key`, `secret` and `sdk`
(Amazon SQS, query protocol, API version 2012-11-05). A record is stored as the line that is sent. It has no id and no
time of its own, so there is nothing to put right, and a receiver can tell repeats by their content only.

This module must not know the queue or HTTP. Key and secret come from the settings, live in memory, and go into the body
at the moment of sending.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit

from ... import jsontext
from ...config import Settings
from ...errors import ConfigError, EventError
from ...event import Batch, StoredEvent, id_text, new_id
from ...interfaces import Request, Unready
from ...outcome import Hold, Outcome, Reply, Retry, TooLarge, outcome_of_status, retry_after
from .constants import MAXSIZE, __package_name__, __version__

__all__ = ["FORMAT", "STATE_ROUTE", "Account", "Panoply"]

#: Events of this route are no records: they hold how far a data source has come, for `runner` alone.
STATE_ROUTE = "source-state"

_TABLE = "__table"
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}
_SDK = f"{__package_name__}-{__version__}"
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]+)\s*</Code>")

# Error codes of SQS that say something else than their HTTP status, which is 400 for nearly all of them.
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "RequestThrottled", "KmsThrottled", "OverLimit"})
_NOT_THE_MESSAGE = frozenset({
    "AccessDenied", "AccessDeniedException", "IncompleteSignature", "InvalidAction", "InvalidAddress",
    "InvalidClientTokenId", "InvalidSecurity", "MissingAction", "MissingAuthenticationToken", "NonExistentQueue",
    "NotAuthorized", "OptInRequired", "QueueDeletedRecently", "QueueDoesNotExist", "RequestExpired",
    "SignatureDoesNotMatch", "UnrecognizedClientException", "UnsupportedOperation",
})  # fmt: skip
_TOO_LONG = re.compile(rb"must be shorter than|TooLong|too long", re.IGNORECASE)


@dataclass(frozen=True)
class Account:
    """A key and its secret, taken apart.

    Args:
        key: ``ACCOUNT/RANDOM``.
        secret: base64 of ``RANDOM/UUID/AWSACCOUNT/REGION``.

    Raises:
        ConfigError: one of them has another form. No part of either is in the text.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not isinstance(self.secret, str):
            raise ConfigError("auth: API key and API secret are texts")
        if not self.name or not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise ConfigError("auth: the API key has the form ACCOUNT/RANDOM; this is none")
        parts = self._parts()
        # The region is part of a host's name: a secret must not be able to name another host.
        whole = len(parts) >= 4 and parts[0] and parts[2] and re.fullmatch(r"[A-Za-z0-9-]{1,40}", parts[3])
        if not whole or not re.fullmatch(r"[\x21-\x7e]+", self.secret):
            raise ConfigError("auth: the API secret is base64 text that Panoply made; this is none")

    def _parts(self) -> list[str]:
        try:
            return base64.b64decode(self.secret, validate=True).decode("ascii").split("/")
        except ValueError:
            return []

    @property
    def name(self) -> str:
        """The account's name."""
        return self.key.partition("/")[0]

    @property
    def path(self) -> str:
        """The path of the account's queue, percent-encoded."""
        random, _, owner, *_ = self._parts()
        return f"/{quote(owner, safe='')}/sdk-{quote(self.name, safe='')}-{quote(random, safe='')}"

    def queue(self, url: str | None = None) -> str:
        """Return the address of the account's queue: at Amazon, or at another server.

        Args:
            url: a server's address without a path, to which the queue's is added, or a queue's whole address.
        """
        if url is None:
            return f"https://sqs.{self._parts()[3]}.amazonaws.com{self.path}"
        return url if urlsplit(url).path.strip("/") else url.partition("?")[0].rstrip("/") + self.path

    def secrets(self) -> list[str]:
        """Return what must be told to nobody, the telling part of the secret included."""
        return [self.key, self.secret, self._parts()[1]]


class Panoply:
    """Records of one account, on their way to its queue. `source` is for the sake of one signature; it is not sent."""

    name = "panoply"

    def __init__(self, source: str = "") -> None:
        self.source = source
        self._account: Account | None = None

    def configure(self, settings: Settings) -> Settings:
        """Take key and secret from `auth`, and fill in the queue's address; see `edgespool.formats.Service`."""
        given = settings.auth
        if given is None:
            raise ConfigError("auth: give the API key and secret, for example by EDGESPOOL_AUTH=APIKEY:APISECRET")
        if not isinstance(given, tuple):
            raise ConfigError("auth: Panoply needs the API key and the secret: APIKEY:APISECRET")
        self._account = Account(*given)
        return replace(settings, auth=None, url=self._account.queue(settings.url))

    def secrets(self) -> Iterable[str]:
        """Return key and secret."""
        return self._account.secrets() if self._account is not None else []

    def encode(self, name: str, data: Mapping[str, Any], id: str, time: float) -> bytes:
        """Return the record with its table as one line of JSON, in ASCII: SQS takes no U+FFFE and no U+FFFF.

        Raises:
            EventError: it cannot be said in JSON, or is larger than a message may be.
        """
        line = _line({**data, _TABLE: name})
        if len(line) >= MAXSIZE:
            raise EventError(f"{len(line)} bytes encoded; a message of {MAXSIZE} bytes is the most that SQS takes")
        return line

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the records fit into one message."""
        room = MAXSIZE
        for count, event in enumerate(events):
            room -= len(event.payload) + 1
            if room < 0:
                return max(count, 1)
        return len(events)

    def render(self, event: StoredEvent) -> bytes:
        """Return the record's line."""
        return event.payload

    def request(self, batch: Batch) -> Request:
        """Return the `SendMessage` request for a batch; raises Unready for a data source's state, or without a key."""
        if batch.route == STATE_ROUTE:
            raise Unready("a data source's state is waiting for `edgespool source run`")
        if self._account is None:
            raise Unready("the API key and secret are not known: give EDGESPOOL_AUTH=APIKEY:APISECRET")
        message = b"\n".join([event.payload for event in batch.events]) + b"\n"
        form = [("Action", b"SendMessage"), ("MessageBody", message)]
        attributes = (("key", self._account.key), ("secret", self._account.secret), ("sdk", _SDK))
        for number, (name, value) in enumerate(attributes, 1):
            prefix = f"MessageAttribute.{number}"
            form += [
                (f"{prefix}.Name", name.encode()),
                (f"{prefix}.Value.DataType", b"String"),
                (f"{prefix}.Value.StringValue", value.encode()),
            ]
        # Every value percent-encoded, with no character spared: a bare "+" would arrive as a space.
        body = "&".join([f"{name}={quote(value, safe='')}" for name, value in form])
        return Request(body.encode("ascii"), _HEADERS, compressible=False)

    def restore(self, value: Any, id: str | None, time: float | None) -> StoredEvent:
        """Return an event made from a decoded record; its table stands in it."""
        if not isinstance(value, dict) or not isinstance(value.get(_TABLE), str) or not value[_TABLE]:
            raise ValueError(f"no record of Panoply: it lacks {_TABLE}")
        return StoredEvent(0, _line(value), time or 0.0, id or id_text(new_id()), False)

    def outcome(self, reply: Reply) -> Outcome:
        """Return what the status says, or the error code of SQS where that says more."""
        found = _CODE.search(reply.body) if 400 <= reply.status < 500 else None
        if found is None:
            return outcome_of_status(reply)
        code = found[1].decode("ascii").rpartition(".")[2]  # also AWS.SimpleQueueService.NonExistentQueue
        reason = f"HTTP {reply.status}: {reply.excerpt()}"
        if code in _THROTTLED:
            return Retry(reason, reply.status, after=retry_after(reply.headers))
        if code in _NOT_THE_MESSAGE:
            return Hold(reason, reply.status)
        if _TOO_LONG.search(reply.body):
            return TooLarge(reason, reply.status)
        return outcome_of_status(reply)


def _line(record: Mapping[str, Any]) -> bytes:
    text = jsontext.encode(record).decode("utf-8")
    if not text.isascii():  # then within a string, where JSON can say it in ASCII
        text = _NOT_ASCII.sub(_escaped, text)
    return text.encode("ascii")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


FORMAT = Panoply
