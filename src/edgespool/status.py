"""What is told of a queue: to the program by `Client.stats()`, to other processes by a small file the sender keeps.

The file is only for people who look: it is replaced at changes of state, never flushed, and nothing is decided by it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import jsontext
from .files import open_private, read_bounded, temporary_path
from .interfaces import Ledger
from .outcome import one_line

__all__ = ["SenderStatus", "Stats", "StatusFile"]


@dataclass(frozen=True)
class Stats:
    """The counts and the state of a client. `accepted = delivered + failed + sum(dropped.values()) + pending`."""

    accepted: int
    delivered: int
    failed: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    #: Age of the oldest waiting event in seconds, by a clock that does not jump where possible; None: nothing waits.
    oldest_age: float | None = None
    bytes_on_disk: int = 0
    #: idle, sending, backing off, held, paused, standby (another process sends), unavailable (the disk takes no
    #: events or acknowledgements, or cannot be read; `last_error` says why), stopped
    state: str = "stopped"
    #: Routes that wait for a person, with state "held".
    held: tuple[str, ...] = ()
    last_error: str | None = None
    #: Seconds until the next attempt while backing off or held.
    next_attempt: float | None = None
    #: What was found when a damaged file was last salvaged: events kept, lost, perhaps sent again, and those of which
    #: nobody knows since the counts were damaged too. None: it never was damaged.
    salvaged: Mapping[str, int] | None = None

    @property
    def ledger(self) -> Ledger:
        """The counts alone."""
        return Ledger(self.accepted, self.delivered, self.failed, self.dropped, self.pending)


@dataclass(frozen=True)
class SenderStatus:
    """What the sending process last said of itself. `since` and `next_attempt_at` are seconds since 1970."""

    pid: int
    state: str
    since: float
    last_error: str | None = None
    next_attempt_at: float | None = None
    held: tuple[str, ...] = ()
    endpoint: str = ""


class StatusFile:
    """`sender.json` in the queue's directory."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "sender.json")

    def write(self, status: SenderStatus) -> None:
        """Replace the file; a disk that will not take it is no error."""
        temporary = temporary_path(self._path)
        with contextlib.suppress(OSError):
            fd = open_private(temporary, os.O_WRONLY | os.O_TRUNC)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(json.dumps(vars(status)))
            os.replace(temporary, self._path)
            return
        with contextlib.suppress(OSError):
            os.unlink(temporary)

    def read(self) -> SenderStatus | None:
        """Return what the file says, or None when there is none that can be understood."""
        try:
            value: Any = jsontext.loads(read_bounded(self._path, 1 << 20))
            return SenderStatus(
                int(value["pid"]),
                one_line(value["state"]),
                _seconds(value["since"]),
                one_line(value["last_error"], 1000) if value.get("last_error") is not None else None,
                _seconds(value["next_attempt_at"]) if value.get("next_attempt_at") is not None else None,
                tuple(one_line(route) for route in value.get("held", ())),
                one_line(value.get("endpoint", ""), 2000),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not abs(seconds) < 1e12:  # NaN, too
        raise ValueError("no time")
    return seconds
