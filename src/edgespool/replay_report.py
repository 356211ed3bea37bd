"""What a replay is told, and what it tells: values only."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Literal

from .failed import FailedPayload
from .outcome import Backoff

__all__ = ["FileResult", "Pace", "Progress", "Report", "Selection", "Stop"]


@dataclass(frozen=True)
class Selection:
    """Which events are replayed. Times are seconds since 1970 and are compared with when an event failed.

    `since` is included, `until` is not; `statuses` empty means any; `limit` is the number of events sent at most.
    """

    since: float | None = None
    until: float | None = None
    statuses: Set[int] = frozenset()
    limit: int | None = None

    def takes(self, payload: FailedPayload) -> bool:
        """Whether the file's events are selected, the limit apart."""
        moment = payload.failed_at
        return (
            (not self.statuses or payload.status in self.statuses)
            and (self.since is None or (moment is not None and moment >= self.since))
            and (self.until is None or (moment is not None and moment < self.until))
        )


@dataclass(frozen=True)
class Pace:
    """How fast and how stubbornly: `rate` in events a second, `tries` in a row at one batch, waits in seconds."""

    rate: float | None = None
    tries: int = 5
    longest_wait: float = 300.0
    backoff: Backoff = field(default_factory=lambda: Backoff(cap=30.0))


@dataclass(frozen=True)
class Stop:
    """Why a replay ended before its time: the server refuses everything (held), or cannot be reached."""

    kind: Literal["held", "unreachable"]
    reason: str


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    `state`: replayed (every event delivered, the file retired), partly (some delivered, the file holds the rest),
    kept (the file is as it was), broken (cannot be read, or not be sent as it is), would replay (a dry run, in which
    `delivered` counts what would be sent). `reason`: why it was not replayed; `retired_to`: its new path.
    """

    path: str
    state: str
    events: int = 0  # in the file, before
    delivered: int = 0
    refused: int = 0
    reason: str = ""
    retired_to: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far it has come: told after each batch. `done` of the `selected` events of this file have been settled."""

    path: str
    number: int  # of the file, from 1
    files: int
    done: int
    selected: int
    delivered: int  # in all files
    refused: int  # in all files


@dataclass
class Report:
    """What a replay did. `passed_over` counts the files that the selection did not take."""

    files: list[FileResult] = field(default_factory=list)
    passed_over: int = 0
    stopped: Stop | None = None

    @property
    def delivered(self) -> int:
        """Events that got their yes."""
        return sum(each.delivered for each in self.files)

    @property
    def refused(self) -> int:
        """Events that the server refused again."""
        return sum(each.refused for each in self.files)

    @property
    def complete(self) -> bool:
        """Whether everything that was selected, and no more than the limit, was delivered and its files dealt with."""
        return self.stopped is None and not any(each.reason for each in self.files)

    @property
    def broken(self) -> list[FileResult]:
        """Files that were skipped."""
        return [each for each in self.files if each.state == "broken"]
