"""Small helpers of the tests of the explorer: calls as a recording has them, and all states that they may lead to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from crash.model import Disk
from crash.states import Files, Frontier
from crash.strace import Call, Moment

_numbers = count(1)


def call(kind: str, path: str, **more: Any) -> Call:
    """Return a call; `data`, `offset`, `size` and `target` as `Call` takes them."""
    return Call(kind, path, next(_numbers), 0.0, 1, **more)


def both(*calls: Call) -> list[Moment]:
    """Return the moments of calls that do not overlap."""
    return [(each, "both") for each in calls]


def disk_after(moments: Sequence[Moment], files: Files | None = None, flushes: str = "all") -> Disk:
    """Return the disk after these moments, with durable files at the beginning."""
    disk = Disk(flushes)
    for path, content in sorted((files or {}).items()):
        disk.make(path, content)
    for moment in moments:
        disk.apply(moment)
    return disk


def states(disk: Disk, drawn: int = 300, block: int = 0) -> list[Files]:
    """Return the states of the plan, and so many drawn at random."""
    frontier = Frontier(disk, "seed", block)
    return [frontier.build(frontier.choice(number)) for number in range(frontier.planned + drawn)]


def contents(disk: Disk, path: str, drawn: int = 300, block: int = 0) -> set[bytes | None]:
    """Return what a file may hold after a crash; None: there is no such file."""
    return {files.get(path) for files in states(disk, drawn, block)}
