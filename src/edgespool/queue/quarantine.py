"""Rows whose checksum fails: kept in files of their own, never read back as events. Knows files, no SQLite."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from .. import jsontext
from ..files import read_bounded, write_whole

__all__ = ["Quarantine", "quarantined"]

_LARGEST = 64 << 20  # bytes of a file that is read to count its rows
_COLUMNS = ("_id", "data", "timestamp", "event_id", "session", "mono", "crc")


class Quarantine:
    """The folder of quarantine files: JSON, one a discovery, named by the first row, bytes as base64."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def write(self, rows: Sequence[tuple[Any, ...]]) -> str:
        """Keep the rows in a new file and return its path; raises OSError."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = os.path.join(self._directory, f"{stamp}-{rows[0][0]}.json")
        document = {
            "reason": "the row's checksum does not fit its content",
            "rows": [dict(zip(_COLUMNS, map(_plain, row), strict=True)) for row in rows],
        }
        write_whole(path, json.dumps(document, indent=1).encode())
        return path


def quarantined(directory: str) -> int:
    """Return how many rows a queue's quarantine files hold, as far as these can be read."""
    folder = os.path.join(directory, "quarantine")
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    found = 0
    for name in names:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            rows = jsontext.loads(read_bounded(os.path.join(folder, name), _LARGEST))["rows"]
            found += len(rows) if isinstance(rows, list) else 0
    return found


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
