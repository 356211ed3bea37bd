"""How the collector reads Panoply's messages: as Amazon SQS takes `SendMessage`, and the platform the records in it.

Sources: Amazon SQS API reference, version 2012-11-05 (SendMessage, common errors, the digest of attributes), and the
record lines and attributes of Panoply's client. A message carries no id: a record is a repeat when the same line came
before, the second of two equal lines within a message apart.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from html import escape
from typing import Any
from urllib.parse import unquote_to_bytes

from ...errors import ConfigError
from ...testing.dialects import Arrival, Refused, Reply, Request, State, Taken, decode_objects
from .format import Account

__all__ = ["DIALECT", "Sqs"]

_PATH = re.compile(r"/[^/]+/sdk-[^/]+")
_LIMIT = 256 * 1024  # bytes of a message, with the names, types and values of its attributes
# What may stand in a message; see SendMessage, parameter MessageBody.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAMESPACE = "http://queue.amazonaws.com/doc/2012-11-05/"


def _refuse(status: int, code: str, message: str) -> Refused:
    body = (
        f'<?xml version="1.0"?><ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{escape(message)}</Message><Detail/></Error><RequestId>0</RequestId></ErrorResponse>"
    )
    return Refused(Reply(status, {"Content-Type": "text/xml"}, body.encode()))


def _form(body: bytes) -> dict[str, str]:
    """Return the fields of a form (WHATWG URL, application/x-www-form-urlencoded: a `+` is a space)."""
    found: dict[str, str] = {}
    for pair in body.split(b"&"):
        name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")).decode("utf-8") for part in pair.partition(b"="))
        if name in found:
            raise _refuse(400, "MalformedQueryString", f"the parameter {name} is given twice")
        found[name] = value
    return found


def _attributes(form: dict[str, str]) -> dict[str, str]:
    """Return the message attributes, all of type String."""
    found: dict[str, str] = {}
    number = 1
    while (name := form.get(f"MessageAttribute.{number}.Name")) is not None:
        kind = form.get(f"MessageAttribute.{number}.Value.DataType")
        value = form.get(f"MessageAttribute.{number}.Value.StringValue")
        if kind != "String" or not value or not name:
            raise _refuse(400, "InvalidParameterValue", f"the message attribute '{name}' must be a non-empty String")
        found[name] = value
        number += 1
    return found


def _packed(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "big") + raw


class Sqs:
    """`SendMessage` to a queue named `sdk-…`."""

    name = "panoply"

    def matches(self, request: Request) -> bool:
        """Match a form posted to a queue of Panoply's."""
        form = request.media_type == "application/x-www-form-urlencoded"
        return request.method == "POST" and form and _PATH.fullmatch(request.path) is not None

    def decode(self, request: Request, state: State) -> list[Arrival]:
        """Read the records, and check what SQS and the platform would: the size, and key and secret."""
        form = _form(request.body)
        if form.get("Action") != "SendMessage":
            raise _refuse(400, "InvalidAction", "the action is not SendMessage")
        message = form.get("MessageBody", "")
        attributes = _attributes(form)
        if not message:
            raise _refuse(400, "MissingParameter", "the request must contain the parameter MessageBody")
        if _FORBIDDEN.search(message):
            raise _refuse(400, "InvalidMessageContents", "the message holds characters outside the allowed set")
        size = len(message.encode()) + sum(len((name + "String" + each).encode()) for name, each in attributes.items())
        if size > _LIMIT:
            raise _refuse(400, "InvalidParameterValue", f"Reason: Message must be shorter than {_LIMIT} bytes.")
        missing = [name for name in ("key", "secret", "sdk") if name not in attributes]
        if missing:
            raise _refuse(403, "AccessDenied", f"the message attribute '{missing[0]}' is missing")
        try:
            ours = Account(attributes["key"], attributes["secret"]).path
        except ConfigError:
            raise _refuse(403, "AccessDenied", "key or secret have the wrong form") from None
        if ours != request.path:
            raise _refuse(403, "AccessDenied", "key and secret are not those of this queue")
        return self._records(request.path, message, attributes["sdk"])

    def _records(self, path: str, message: str, sdk: str) -> list[Arrival]:
        arrivals: list[Arrival] = []
        seen: Counter[str] = Counter()
        for number, line in enumerate(message.split("\n"), 1):
            if not line.strip():
                continue
            record, text = _record(number, line)
            seen[text] += 1
            digest = hashlib.sha256(f"{path}\n{text}".encode()).hexdigest()[:32]
            data = {name: value for name, value in record.items() if name != "__table"}
            identity = f"{digest}/{seen[text]}"
            arrivals.append(Arrival(record["__table"], data, record, identity, text=text, extra={"sdk": sdk}))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer as SQS does, with the digests of what it has understood."""
        form = _form(request.body)
        body = hashlib.md5(form["MessageBody"].encode(), usedforsecurity=False).hexdigest()
        packed = b"".join(
            _packed(name) + _packed("String") + b"\1" + _packed(value)
            for name, value in sorted(_attributes(form).items())
        )
        attributes = hashlib.md5(packed, usedforsecurity=False).hexdigest()
        text = (
            f'<?xml version="1.0"?><SendMessageResponse xmlns="{_NAMESPACE}"><SendMessageResult>'
            f"<MessageId>{body[:8]}-{body[8:12]}-{body[12:16]}-{body[16:20]}-{body[20:]}</MessageId>"
            f"<MD5OfMessageBody>{body}</MD5OfMessageBody>"
            f"<MD5OfMessageAttributes>{attributes}</MD5OfMessageAttributes></SendMessageResult>"
            "<ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></SendMessageResponse>"
        )
        return Reply(200, {"Content-Type": "text/xml"}, text.encode())


def _record(number: int, line: str) -> tuple[dict[str, Any], str]:
    try:
        found = decode_objects(line.encode())
    except ValueError as error:
        raise _refuse(400, "InvalidMessageContents", f"line {number}: {error}") from None
    if len(found) != 1 or not isinstance(found[0][0].get("__table"), str):
        raise _refuse(400, "InvalidMessageContents", f"line {number} is no record with a __table")
    return found[0]


DIALECT = Sqs()
