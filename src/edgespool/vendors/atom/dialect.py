"""How the collector reads ironSource Atom's requests: single, bulk, and by GET. Knows no client of ours.

A request is Atom's when it carries the SDK's header. What its events hold arrives decoded: `{"table": STREAM, "data":
VALUE}`, VALUE being what the event's text says, or the text itself where it is no JSON.

The signature is checked once the collector has a key: one for all streams in the environment variable
EDGESPOOL_COLLECTOR_ATOM_KEY, and one for a stream in the dialect's state, under "key/STREAM":

    with collector.store.transaction() as work:
        work.state("atom").set("key/sensors", "KEY")

A missing or wrong signature is then answered 401. Replies are plain text; what the real service says was never laid
down, and the SDK passes it on unread.

The protocol gives events no id: an event with the same stream and text as one that has arrived is a repeat of it. Equal
ones within one request are told apart by counting.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

from ... import jsontext
from ...testing.dialects import Arrival, Refused, Reply, Request, State, Taken
from .keys import signature

__all__ = ["DIALECT", "AtomDialect"]

_HEADER = "x-ironsource-atom-sdk-type"
_VARIABLE = "EDGESPOOL_COLLECTOR_ATOM_KEY"


class AtomDialect:
    """Atom's endpoint."""

    name = "atom"

    def matches(self, request: Request) -> bool:
        """Match what carries the SDK's header, by POST or GET, at any path."""
        return request.method in ("POST", "GET") and _HEADER in request.headers

    def decode(self, request: Request, state: State) -> list[Arrival]:
        """Read the events.

        Raises:
            ValueError: it is no request of Atom's.
            Refused: 401, the signature is missing or wrong.
        """
        message = _object(_body(request))
        stream, data, auth = message.get("table"), message.get("data"), message.get("auth")
        if not isinstance(stream, str) or not stream or not isinstance(data, str):
            raise ValueError("'table' and 'data' are texts, and 'table' is not empty")
        bulk = request.path.endswith("bulk")
        if bulk is not message.get("bulk", False):
            raise ValueError("'bulk' is true in requests to the address that ends with 'bulk', and absent in others")
        key = state.get(f"key/{stream}") or os.environ.get(_VARIABLE)
        if key and not (isinstance(auth, str) and hmac.compare_digest(auth.encode(), signature(key, data).encode())):
            raise Refused(Reply(401, {"Content-Type": "text/plain"}, b"Auth Error: the signature is missing or wrong"))
        values = _array(data) if bulk else [data]
        extra = {"signed": auth is not None, "bulk": bulk, "method": request.method}
        seen: Counter[str] = Counter()
        arrivals = []
        for value in values:
            text = value if isinstance(value, str) else json.dumps(value)
            held = _decoded(value) if isinstance(value, str) else value
            seen[text] += 1
            identity = json.dumps([stream, text, seen[text]])
            event = {"table": stream, "data": held}
            arrivals.append(Arrival(stream, held, event, identity, None, None, extra))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer 200."""
        return Reply(200, {"Content-Type": "text/plain"}, b"OK")


def _body(request: Request) -> bytes:
    if request.method == "POST":
        return request.body
    given = parse_qs(request.query).get("data", [])
    if len(given) != 1:
        raise ValueError("a GET has one parameter 'data'")
    return base64.b64decode(given[0], validate=True)


def _object(body: bytes) -> dict[str, Any]:
    value = jsontext.loads(body)
    if not isinstance(value, dict):
        raise ValueError("a request is a JSON object")
    return value


def _array(text: str) -> list[Any]:
    value = jsontext.loads(text)
    if not isinstance(value, list) or not value:
        raise ValueError("the data of a bulk request is the text of an array that is not empty")
    return value


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DIALECT = AtomDialect()
