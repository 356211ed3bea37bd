"""The events that the recorded programs make, and how a program announces what it does.

A program says what it is about to do, and what it was told, by asking for the status of files that do not exist: the
question is a system call, so that it stands in the recording in its exact place among the writes. Told to by the
environment, it says it aloud instead.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["ALOUD", "MARK", "NAME", "data", "mark", "parse", "said_intent", "said_receipt", "said_yes"]

MARK = "/MARK/"
ALOUD = "EDGESPOOL_CRASH_ALOUD"  # when this variable is set, marks are printed
NAME = "reading"
_CHUNK = 40  # events a mark: a path has at most 4,096 bytes


@lru_cache(maxsize=100_000)
def data(number: int, size: int) -> dict[str, Any]:
    """Return what event `number` says: the same in the program and in the check."""
    return {"n": number, "pad": hashlib.shake_128(b"%d" % number).hexdigest((size + 1) // 2)[:size]}


def mark(*words: Any) -> None:
    """Announce something."""
    message = json.dumps(words, separators=(",", ":"))
    if os.environ.get(ALOUD):
        os.write(1, f"{MARK}{message}\n".encode())
        return
    try:
        os.stat(MARK + message)
    except OSError:
        return


def parse(message: str) -> list[Any]:
    """Return what was announced."""
    words = json.loads(message)
    assert isinstance(words, list)
    return words


def said_intent(first: int, sizes: Sequence[int], route: str = "", thread: str = "") -> None:
    """Announce that the events from `first` on are about to be recorded, together."""
    for start in range(0, len(sizes), _CHUNK):
        mark("intent", first, first + start, list(sizes[start : start + _CHUNK]), route, thread)


def said_receipt(first: int, ids: Sequence[str]) -> None:
    """Announce that they were recorded, and their ids."""
    for start in range(0, len(ids), _CHUNK):
        mark("receipt", first + start, list(ids[start : start + _CHUNK]))


def said_yes(numbers: Iterable[int]) -> None:
    """Announce that the server has said yes to these events."""
    known = list(numbers)
    for start in range(0, len(known), _CHUNK * 4):
        mark("yes", known[start : start + _CHUNK * 4])
