"""How the collector reads PaltaBrain's wire, and the config module that it serves. Knows no store, no faults.

It answers as the service does: 200 for a batch, 401 without a key, 413 past 512 KiB, 400 for what is no Batch. The
context, header and payload of events made with the example config module are decoded; of others the bytes are shown
as base64. The wire has no event id: an event is told by its sender, its context and its bytes, and equal ones within
one batch by their order.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from ...testing.dialects import Arrival, Dialect, Reply, Request, State, Taken, json_reply, refuse
from . import sdk_pb2
from .example import config_v2_pb2
from .format import LARGEST_BATCH
from .service import BATCH_PATH, SCHEMA_PATH, SDK_NAME

__all__ = ["DIALECT", "PaltaBrainDialect", "config_module", "plain"]

_OURS, _THEIRS = "from ..api import ", "from paltabrain_sdk import "
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold: the same bytes at every call


def config_module() -> bytes:
    """Return the example config module as the service hands one out: a zip of a package's files."""
    folder = Path(__file__).parent / "example"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("__init__.py", "config_v2_pb2.py"):
            source = (folder / name).read_text(encoding="utf-8").replace(_OURS, _THEIRS)
            file.writestr(zipfile.ZipInfo(name, _EPOCH), source)
    return made.getvalue()


def plain(message: Any) -> dict[str, Any]:
    """Return the fields that are set in a protobuf message as JSON values; of bytes, base64."""
    made: dict[str, Any] = {}
    for field, value in message.ListFields():
        if hasattr(value, "items"):
            made[field.name] = {key: value[key] for key in sorted(value)}
        elif isinstance(value, (str, bytes, int)):
            made[field.name] = _scalar(value)
        elif hasattr(value, "ListFields"):
            made[field.name] = plain(value)
        else:
            made[field.name] = [plain(each) if hasattr(each, "ListFields") else _scalar(each) for each in value]
    return made


def _scalar(value: Any) -> Any:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


def _decoded(kind: Any, raw: bytes) -> dict[str, Any]:
    """Return a message of the example schema; bytes of another schema as base64."""
    try:
        message = kind.FromString(raw)
    except DecodeError:
        return {"base64": _scalar(raw)}
    known = message.SerializeToString(deterministic=True)
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != known:
        return {"base64": _scalar(raw)}
    return plain(message)


def _name(payload: dict[str, Any]) -> str:
    """Return the name of an event's class in the config module; "event" for one of another schema."""
    field = config_v2_pb2.EventPayload.DESCRIPTOR.fields_by_name.get(next(iter(payload), ""))
    return f"Event{field.message_type.name.removeprefix('EventPayload')}" if field is not None else "event"


class PaltaBrainDialect:
    """PaltaBrain's events API and its schema download."""

    name = "paltabrain"

    def matches(self, request: Request) -> bool:
        """Match a POST of protobuf to the events' path, and a GET of the config module."""
        if request.method == "POST":
            return request.media_type == "application/protobuf" and request.path.endswith(BATCH_PATH)
        return request.method == "GET" and request.path.endswith(SCHEMA_PATH)

    def decode(self, request: Request, state: State) -> Sequence[Arrival]:
        """Read the batch; a download carries no events."""
        if not request.headers.get("X-API-Key", "").strip():
            raise refuse(401, "X-API-Key is missing")
        if request.headers.get("X-SDK-Name") != SDK_NAME or not request.headers.get("X-SDK-Version"):
            raise refuse(400, "X-SDK-Name or X-SDK-Version is missing or wrong")
        if request.method == "GET":
            return ()
        if not request.headers.get("X-SDK-Client-Upload-TS", "").isdecimal():
            raise refuse(400, "X-SDK-Client-Upload-TS is missing or no number of milliseconds")
        if len(request.body) > LARGEST_BATCH:
            raise refuse(413, f"a batch is larger than {LARGEST_BATCH} bytes")
        try:
            batch = sdk_pb2.Batch.FromString(request.body)
        except DecodeError as error:
            raise ValueError(f"no Batch: {error}") from None
        common = plain(batch.common)
        if not batch.common.instance_id or not batch.common.batch_id or not batch.events:
            raise ValueError("a Batch without an instance_id, a batch_id or events")
        context = _decoded(config_v2_pb2.Context, batch.context)
        seen: Counter[bytes] = Counter()
        arrivals = []
        for event in batch.events:
            raw = event.SerializeToString(deterministic=True)
            seen[raw] += 1
            parts = (batch.common.instance_id.encode(), batch.context, raw, b"%d" % seen[raw])
            identity = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()
            payload = _decoded(config_v2_pb2.EventPayload, event.payload)
            whole = {
                "common": plain(event.common),
                "context": context,
                "header": _decoded(config_v2_pb2.EventHeader, event.header),
                "payload": payload,
                "instance_id": batch.common.instance_id,
            }
            extra = {"batch": common, "telemetry": plain(batch.telemetry)}
            arrivals.append(Arrival(_name(payload), payload, whole, identity, extra=extra))
        return arrivals

    def reply(self, request: Request, taken: Taken, state: State) -> Reply:
        """Answer 200; a download with the zip."""
        if request.method == "GET":
            return Reply(200, {"Content-Type": "application/zip"}, config_module())
        return json_reply(200, {})


DIALECT: Dialect = PaltaBrainDialect()
