"""What must be found after a crash at one moment, learned from the program's own marks. Knows no files, no queue."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from crash.marks import parse
from crash.strace import Moment

__all__ = ["Expectation", "Intent"]

_WAL = "queue.db-wal"


@dataclass(frozen=True)
class Intent:
    """An event that a program set out to record; `group` is the first event of those recorded together."""

    number: int
    group: int
    size: int
    route: str
    thread: str


@dataclass
class Expectation:
    """What was announced so far.

    Args:
        durability: ``"power"``: what was receipted must be there. ``"process"``: what was receipted before a flush of
            the WAL began that has ended.
    """

    durability: str = "power"
    intents: dict[int, Intent] = field(default_factory=dict)
    groups: dict[int, list[int]] = field(default_factory=dict)
    receipts: dict[int, str] = field(default_factory=dict)  # event -> its id
    yes: set[int] = field(default_factory=set)  # the server has taken them
    required: set[int] = field(default_factory=set)  # must be in the queue or in a failed file, unless `yes`
    rows: dict[int, int] = field(default_factory=dict)  # event -> row id, as the running program had it
    version: int = 0  # counts what was learned
    slowest: float = 0.0  # seconds between a receipt and the end of the flush that made it durable, at most
    _flushing: dict[int, set[int]] = field(default_factory=dict)
    _waiting: dict[int, float] = field(default_factory=dict)  # receipted and not yet flushed -> when

    def copy(self) -> Expectation:
        """Return one that learns apart from this."""
        return deepcopy(self)

    def after_crash(self, present: Iterable[int]) -> Expectation:
        """Return what must be found from a crash on that left these events: they may have been sent, and must stay."""
        known = self.copy()
        known.required.update(present)
        known._waiting.clear()  # those that are not there are gone
        known._flushing.clear()
        return known

    def learn(self, moment: Moment) -> None:
        """Take in one moment of a recording."""
        call, phase = moment
        if call.kind == "mark":
            if phase != "end":
                self.announced(call.path, call.time)
        elif call.kind == "sync" and self.durability == "process" and call.path.endswith(_WAL):
            if phase in ("begin", "both"):
                self._flushing[call.number] = set(self._waiting)
            if phase in ("end", "both"):
                for number in self._flushing.pop(call.number, ()):
                    since = self._waiting.pop(number, None)
                    if since is not None:
                        self.slowest = max(self.slowest, call.time - since)
                        self.required.add(number)
                        self.version += 1

    def announced(self, message: str, time: float = 0.0) -> None:
        """Take in one announcement."""
        self.version += 1
        kind, *words = parse(message)
        if kind == "intent":
            group, first, sizes, route, thread = words
            for number, size in enumerate(sizes, first):
                self.intents[number] = Intent(number, group, size, route, thread)
                self.groups.setdefault(group, []).append(number)
        elif kind == "receipt":
            for number, identity in enumerate(words[1], words[0]):
                self.receipts[number] = identity
                if self.durability == "power":
                    self.required.add(number)
                else:
                    self._waiting[number] = time
        elif kind == "yes":
            self.yes.update(words[0])

    @property
    def in_doubt(self) -> set[int]:
        """Events that a call still running may or may not have stored."""
        return set(self.intents) - set(self.receipts)

    @property
    def window(self) -> set[int]:
        """Events that may be gone although they were receipted: durability "process", since the last flush."""
        return set(self._waiting) - self.yes

    def highest_row(self) -> int:
        """Return the highest sequence number that a receipted, durable event has."""
        return max((self.rows[each] & ((1 << 40) - 1) for each in self.required if each in self.rows), default=0)
