"""Failed payload files: what a server refused for good, kept until it is replayed. Knows files, no network, no queue.

One JSON document a file, written whole or not at all. Its `events` array can be posted by hand as it is. The name is
made of the first event's time and the ids, so that a crash between the file and the acknowledgement writes the same
file again, not a second one. No secret is in it: whoever replays brings the credentials.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from . import jsontext
from .errors import FailedFileError
from .event import Batch, StoredEvent
from .files import make_directory, read_bounded, sync_directory, write_whole

__all__ = ["LARGEST", "SCHEMA", "FailedFiles", "FailedPayload", "Restore", "public_url", "read", "retire", "rewrite"]

SCHEMA = 1

#: Makes an event of a decoded one, an id and a time; see `edgespool.interfaces.Format.restore`.
Restore = Callable[[Any, "str | None", "float | None"], StoredEvent]


_NO_EVENT = (ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class FailedPayload:
    """What a failed payload file says. Of files that other senders left, only `events` is known.

    `events` holds the decoded events; `ids` and `times` (seconds since 1970) are as long, or empty.
    """

    path: str
    events: Sequence[Any]
    ids: Sequence[str] = ()
    times: Sequence[float] = ()
    route: str = ""
    format: str = ""
    endpoint: str = ""
    status: int | None = None
    reason: str = ""
    attempts: int = 0
    failed_at: float | None = None
    lines: bool = False  # the file holds a JSON array a line, as the Initial State streamer leaves them
    extra: dict[str, Any] = field(default_factory=dict)

    def restored(self, restore: Restore) -> list[StoredEvent]:
        """Return the events as they can be sent; raises FailedFileError naming the first that is none."""
        made = []
        for number, value in enumerate(self.events):
            value = _binary(value)
            known_id = self.ids[number] if self.ids else None
            known_time = self.times[number] if self.times else None
            moment = known_time if known_time is not None else self.failed_at or 0.0
            try:
                # A file that says no id gets one that is the same at every attempt, so that repeats can be told.
                identity = known_id or _derived_id(self.path, number, value)
                try:
                    event = restore(value, identity, moment)
                except _NO_EVENT:
                    if value is self.events[number]:
                        raise
                    event = restore(self.events[number], identity, moment)  # no binary: its only field is called so
            except _NO_EVENT as error:
                raise FailedFileError(f"{self.path}: event {number + 1}: {error}") from error
            made.append(event._replace(rowid=number))
        return made


def _binary(value: Any) -> Any:
    """Return the bytes that a value stands for, or the value itself."""
    if isinstance(value, dict) and set(value) == {"base64"} and isinstance(value["base64"], str):
        with contextlib.suppress(ValueError):
            return base64.b64decode(value["base64"], validate=True)
    return value


def _derived_id(path: str, number: int, value: Any) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    digest = hashlib.sha256(b"%b\0%d\0%b" % (os.fsencode(os.path.basename(path)), number, content)).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"


def public_url(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if ":" in host:
            host = f"[{host}]"
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit((parts.scheme, host + port, parts.path, "", ""))
    except ValueError:
        return ""


class FailedFiles:
    """The folder `failed/` of a queue, and its neighbour `replayed/`."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.join(directory, "failed")

    def write(
        self,
        batch: Batch,
        render: Callable[[StoredEvent], bytes],
        *,
        format: str,
        endpoint: str,
        reason: str,
        status: int | None,
        attempts: int,
        now: float,
    ) -> str:
        """Write the events of a batch to a new file, durably, and return its path.

        Args:
            batch: the events that were given up.
            render: makes an event what it was on the wire.
            format, endpoint: how and where it was sent; credentials are cut from the URL.
            reason, status: what the server said.
            attempts: how often it was tried.
            now: the wall clock, seconds since 1970.

        Raises:
            FailedFileError: the disk would not take it; nothing was written.
        """
        first = batch.events[0]
        events = [_as_json(render(event)) for event in batch.events]
        document = {
            "schema": SCHEMA,
            "format": format,
            "endpoint": public_url(endpoint),
            "route": batch.route,
            "reason": {"status": status, "text": reason},
            "attempts": attempts,
            "failed_at": _utc(now),
            "ids": batch.ids,
            "times": [event.time for event in batch.events],
        }
        name = f"{_stamp(first.time)}-{hashlib.sha256(chr(10).join(batch.ids).encode()).hexdigest()[:16]}.json"
        path = os.path.join(self.directory, name)
        head = json.dumps(document, ensure_ascii=False, indent=1)
        # The events as they were sent, byte for byte, one a line.
        content = head[:-2].encode() + b',\n "events": [\n' + b",\n".join(events) + b"\n]\n}\n"
        try:
            write_whole(path, content)
        except OSError as error:
            raise FailedFileError(f"the failed payload file {path} could not be written: {error}") from error
        return path

    def paths(self) -> list[str]:
        """Return the files in the folder, oldest event first; raises FailedFileError when it cannot be read."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FailedFileError(f"{self.directory} cannot be read: {error}") from error
        return [os.path.join(self.directory, n) for n in sorted(names) if n.endswith((".json", ".txt"))]


def _as_json(rendered: bytes) -> bytes:
    try:
        jsontext.loads(rendered)
        return rendered.replace(b"\n", b" ")  # between tokens only: within strings JSON has no bare line feed
    except ValueError:
        return jsontext.encode({"base64": base64.b64encode(rendered).decode("ascii")})


def _utc(seconds: float) -> str:
    return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)).isoformat()


def _stamp(seconds: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond:06d}Z"


LARGEST = 64 << 20  #: bytes of a file that is read; decoded it takes several times as much, and the devices are small
_LATEST = 253_402_300_800  # seconds from 1970 to the year 10000, where calendars end


def read(path: str) -> FailedPayload:
    """Return what a file holds: one of ours, a bare JSON array, or a JSON array a line.

    Raises:
        FailedFileError: it cannot be read, or is none of these; the message says where.
    """
    try:
        raw = read_bounded(path, LARGEST)
        if len(raw) > LARGEST:
            raise FailedFileError(f"{path}: larger than {LARGEST >> 20} MiB; split it first")
    except OSError as error:
        raise FailedFileError(f"{path} cannot be read: {error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FailedFileError(f"{path} is not UTF-8 text (byte {error.start})") from error
    try:
        value = jsontext.loads(text)
    except ValueError:
        return _read_lines(path, text)
    if isinstance(value, list):
        return FailedPayload(path, value)
    if isinstance(value, dict) and "events" in value:
        return _read_document(path, value)
    raise FailedFileError(f"{path} is neither a failed payload file nor a JSON array of events")


def _read_lines(path: str, text: str) -> FailedPayload:
    events: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 within a string
        if not line.strip():
            continue
        try:
            value = jsontext.loads(line)
        except ValueError as error:
            raise FailedFileError(f"{path}, line {number}: no JSON ({error})") from error
        if isinstance(value, dict):  # the streamer leaves the making of a bucket as one object
            value = [value]
        if not isinstance(value, list):
            raise FailedFileError(f"{path}, line {number}: a JSON array or object is needed")
        events.extend(value)
    if not events:
        raise FailedFileError(f"{path} holds no events")
    return FailedPayload(path, events, lines=True)


def _read_document(path: str, value: dict[str, Any]) -> FailedPayload:
    def fail(what: str) -> FailedFileError:
        return FailedFileError(f"{path}: {what}")

    schema = value.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise fail("'schema' is missing")
    if schema > SCHEMA:
        raise fail(f"written by a newer edgespool (schema {schema}, this one knows {SCHEMA}): upgrade edgespool")
    events, ids, times = value["events"], value.get("ids") or [], value.get("times") or []
    if not isinstance(events, list):
        raise fail("'events' is no array")
    for name, column, kinds in (("ids", ids, str), ("times", times, (int, float))):
        if not isinstance(column, list) or (column and len(column) != len(events)):
            raise fail(f"'{name}' does not go with 'events'")
        if not all(isinstance(each, kinds) and not isinstance(each, bool) for each in column):
            raise fail(f"'{name}' holds something of the wrong type")
    if any("\ud800" <= char <= "\udfff" for each in ids for char in each):
        raise fail("'ids' holds what is not valid Unicode text")
    if not all(abs(each) < _LATEST for each in times):  # NaN and infinity, too
        raise fail("'times' holds what is no time")
    reason = value.get("reason")
    reason = reason if isinstance(reason, dict) else {}
    said = reason.get("text")
    status = reason.get("status")
    failed_at: float | None = None
    with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):
        failed_at = datetime.fromisoformat(value["failed_at"]).timestamp() if "failed_at" in value else None
    texts = {name: value.get(name, "") for name in ("route", "format", "endpoint")}
    for name, each in texts.items():
        if not isinstance(each, str):
            raise fail(f"'{name}' is no text")
    attempts = value.get("attempts", 0)
    return FailedPayload(
        path, events, ids, [float(t) for t in times], texts["route"], texts["format"], texts["endpoint"],
        status if isinstance(status, int) else None, said if isinstance(said, str) else "",
        attempts if isinstance(attempts, int) else 0, failed_at,
        extra={k: v for k, v in value.items() if k != "events"},
    )  # fmt: skip


def rewrite(payload: FailedPayload, keep: Sequence[int], ids: Sequence[str] = ()) -> None:
    """Leave only the events at these positions in a file, after the others were delivered; durable, all or nothing.

    Args:
        payload: what was read.
        keep: positions in `payload.events`.
        ids: the ids under which the events were sent, one for each event of the payload. A file that names none
            becomes one of ours that does: an id made from the place in the file would change with the place.

    Raises:
        FailedFileError: the disk would not take it; the file is as it was.
    """
    events = [payload.events[number] for number in keep]
    document = dict(payload.extra)
    if ids:
        stated = {"schema": SCHEMA, "format": payload.format, "endpoint": payload.endpoint, "route": payload.route}
        if payload.failed_at is not None:
            stated["failed_at"] = _utc(payload.failed_at)
        document = {**stated, **document, "ids": list(ids)}
    if document:
        for name in ("ids", "times"):
            column = document.get(name)
            if isinstance(column, list) and column:
                document[name] = [column[number] for number in keep]
        document["events"] = events
        content = _text(document, 1)
    elif payload.lines:
        content = _text(events, None) + b"\n"
    else:
        content = _text(events, 1)
    try:
        write_whole(payload.path, content)
    except OSError as error:
        raise FailedFileError(f"{payload.path} could not be rewritten: {error}") from error


def _text(value: Any, indent: int | None) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent).encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can only say it escaped
        return json.dumps(value, indent=indent).encode()


def retire(path: str) -> str:
    """Move a replayed file to the folder `replayed` beside `failed` (or beside the file), durably; return its new path.

    Raises:
        FailedFileError: it could not be moved; it will be replayed again, with the same ids.
    """
    parent = os.path.dirname(os.path.abspath(path))
    folder = os.path.join(os.path.dirname(parent) if os.path.basename(parent) == "failed" else parent, "replayed")
    try:
        make_directory(folder)
        target = os.path.join(folder, os.path.basename(path))
        for candidate in _alternatives(target):
            if not os.path.exists(candidate):
                target = candidate
                break
        os.rename(path, target)
        sync_directory(folder)
        sync_directory(parent)
    except OSError as error:
        raise FailedFileError(f"{path} was replayed but could not be moved to {folder}: {error}") from error
    return target


def _alternatives(path: str) -> Iterator[str]:
    yield path
    stem, ending = os.path.splitext(path)
    number = 2
    while True:
        yield f"{stem}.{number}{ending}"
        number += 1
