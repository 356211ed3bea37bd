"""How the collector reads Samsara's wire: a POST to a path that ends in `/v1/events`, with the time of publication.

As the ingestion API does it, a batch with any invalid event is refused whole with 400, and a valid one is answered 202
without a body. The protocol has no event ids: an event with the same content is taken for a repeat.
"""

from __future__ import annotations

import hashlib
import json

from ...testing.dialects import JSON_TYPE, Arrival, Reply, Request, State, Taken, decode_objects
from .format import ENDPOINT, PUBLISHED_TIMESTAMP, fault

__all__ = ["DIALECT", "Samsara"]

_ENVELOPE = ("sourceId", "timestamp", "eventName")


class Samsara:
    """Samsara's ingestion API, version 1."""

    name = "samsara"

    def matches(self, request: Request) -> bool:
        """Match a POST of JSON to the API's path that carries the header no other sender has."""
        return (
            request.method == "POST"
            and request.path.endswith(ENDPOINT)
            and request.media_type == JSON_TYPE
            and PUBLISHED_TIMESTAMP in request.headers
        )

    def decode(self, request: Request, state: State) -> list[Arrival]:
        """Read the events; ValueError when the body is no array, or one of them is invalid."""
        published = request.headers[PUBLISHED_TIMESTAMP]
        if not (published.isascii() and published.isdigit()):
            raise ValueError(f"{PUBLISHED_TIMESTAMP} is no number of milliseconds")
        if not request.body.lstrip(b" \t\r\n").startswith(b"["):
            raise ValueError("the body is not an array of events")
        arrivals = []
        for index, (event, text) in enumerate(decode_objects(request.body)):
            wrong = fault(event)
            if wrong is not None:
                raise ValueError(f"event {index}: {wrong}")
            canonical = json.dumps(event, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")
            identity = hashlib.sha256(canonical).hexdigest()
            data = {key: value for key, value in event.items() if key not in _ENVELOPE}
            extra = {"publishedTimestamp": int(published)}
            arrivals.append(Arrival(event["eventName"], data, event, identity, None, text, extra))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer 202: accepted, to be processed later."""
        return Reply(202)


DIALECT = Samsara()
