"""How the collector reads Initial State's events API, and what the service answers. Knows no sockets and no store.

An access key is needed, any will do. Buckets and events are independent, as the API's description has it: events of a
bucket that was not made are taken as well, and beside each event stands the name of its bucket, null when that was not
made before. The protocol has no ids: a repeat is an equal key, value and epoch in one bucket of one account.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ...testing.dialects import Arrival, Refused, Reply, Request, State, Taken, decode_objects, json_reply

__all__ = ["DIALECT", "Dialect"]

_BUCKETS, _EVENTS = "/api/buckets", "/api/events"
_LARGEST = 1 << 20  # "the body size is not larger than 1 megabyte"


class Dialect:
    """The collector's dialect `initialstate`."""

    name = "initialstate"

    def matches(self, request: Request) -> bool:
        """Match a POST to either path of the API with one of its headers."""
        return (
            request.method == "POST"
            and request.path.endswith((_BUCKETS, _EVENTS))
            and any(name in request.headers for name in ("X-IS-AccessKey", "X-IS-BucketKey", "Accept-Version"))
        )

    def decode(self, request: Request, state: State) -> list[Arrival]:
        """Read the events of a bucket, or note that one is made; 401 without an access key, 413 over a megabyte."""
        account = _account(request)
        if len(request.body) > _LARGEST:
            raise _refused(413, "PAYLOAD_TOO_LARGE", "no more than 1 megabyte")
        if request.path.endswith(_BUCKETS):
            _make(request, account, state)
            return []
        bucket = request.headers.get("X-IS-BucketKey", "")
        if not bucket:
            raise _refused(400, "BUCKET_KEY_MISSING", "X-IS-BucketKey is missing")
        name = state.get(_place(account, bucket))
        extra = {"bucket": bucket, "bucket_name": None if name is None else name["name"]}
        arrivals = []
        for number, (event, text) in enumerate(decode_objects(request.body)):
            key, value, epoch = event.get("key"), event.get("value"), event.get("epoch")
            if not isinstance(key, str) or "value" not in event:
                raise ValueError(f"event {number}: a key that is text, and a value are needed")
            if isinstance(epoch, bool) or not isinstance(epoch, (int, float, type(None))):
                raise ValueError(f"event {number}: epoch is no number")
            said = json.dumps([account, bucket, key, value, epoch, event.get("iso8601")], sort_keys=True)
            identity = hashlib.sha256(said.encode()).hexdigest()
            arrivals.append(Arrival(key, value, event, identity, None, text, extra))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer 201 when a bucket was made; 204 when it was there, and to events."""
        if request.path.endswith(_BUCKETS):
            body = json.loads(request.body)
            made: dict[str, Any] = state.get(_place(_account(request), body["bucketKey"]))
            return Reply(201 if made["times"] == 1 else 204)
        return Reply(204)


def _make(request: Request, account: str, state: State) -> None:
    """Note that a bucket is made, under the name that it is given first."""
    found = decode_objects(request.body)
    key = found[0][0].get("bucketKey") if len(found) == 1 else None
    name = found[0][0].get("bucketName", "") if len(found) == 1 else ""
    if not isinstance(key, str) or not key or not isinstance(name, str):
        raise ValueError("one object with a bucketKey is needed")
    place = _place(account, key)
    known = state.get(place) or {"name": name, "times": 0}
    state.set(place, {**known, "times": known["times"] + 1})


def _account(request: Request) -> str:
    """Return a mark of the account that the access key stands for."""
    key = request.headers.get("X-IS-AccessKey", "")
    if not key:
        raise _refused(401, "UNAUTHORIZED", "an access key is needed")
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _place(account: str, bucket: str) -> str:
    return f"bucket/{account}/{bucket}"


def _refused(status: int, type: str, message: str) -> Refused:
    return Refused(json_reply(status, {"message": {"error": {"type": type, "message": message}}}))


DIALECT = Dialect()
