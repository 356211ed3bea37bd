"""Open a state that a crash left behind, as a fresh program would, and look whether it is what was promised."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from crash.expect import Expectation
from crash.marks import NAME, data
from crash.states import Files
from edgespool import Client
from edgespool.clock import SystemClock
from edgespool.errors import EdgespoolError, FailedFileError
from edgespool.event import Batch, Record, StoredEvent, new_id
from edgespool.failed import FailedFiles, read
from edgespool.formats import create as create_format
from edgespool.queue import DiskQueue
from edgespool.status import StatusFile

__all__ = ["PLACE", "SETTINGS", "SOURCE", "Checker", "Problem", "Verdict"]

PLACE = "var/lib/queue"  # the queue's directory, below the root of a recording
SOURCE = "crash"
SETTINGS: dict[str, Any] = {"max_bytes": 4 << 20}  # small, so that the ballast and the WAL are
SEQUENCE = (1 << 40) - 1
_NUMBER = re.compile(rb'"n":(\d+)')
_SCRATCH = ("write.lock",)  # nothing rests on what is in it: a crash may leave anything
_USUAL = {
    "queue.db", "queue.db-wal", "queue.db-shm", "queue.db-journal", "write.lock", "sender.lock", "replay.lock",
    "ballast", "sender.json", "failed", "replayed",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One broken promise: which, and how it showed."""

    kind: str
    text: str


@dataclass
class Verdict:
    """What was found in a state."""

    problems: list[Problem] = field(default_factory=list)
    lost: int = 0  # receipted events that are gone, as durability "process" allows
    rows: dict[int, int] = field(default_factory=dict)  # event -> row id
    salvaged: bool = False


class _Clock(SystemClock):
    def synchronized(self) -> bool:
        return False  # asking the kernel takes longer than all the rest of a lease


_CLOCK = _Clock()


class _Broken(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(kind, text)


class Checker:
    """Opens states in one directory, one after the other.

    Args:
        directory: where to put them; on memory, best.
        damage: there may be damage: a salvage is no fault then.
    """

    def __init__(self, directory: str, damage: bool = False) -> None:
        self._root = directory
        self._queue_directory = os.path.join(directory, PLACE)
        self._damage = damage
        self._format = create_format("cloudevents", SOURCE)
        self._known: dict[bytes, int] = {}  # payloads that were found to be as recorded -> which event
        self._turn = 0
        logging.getLogger("edgespool").disabled = True

    def check(self, files: Files, expectation: Expectation, thorough: bool = False) -> Verdict:
        """Put the files there, open them, and compare them with what must be found.

        Args:
            files: see `Frontier.build`.
            expectation: what must be found.
            thorough: by a whole client, and a second opening; else now and then.
        """
        self._turn += 1
        self.lay_out(files, noise=self._turn)
        verdict = Verdict()
        try:
            self._look(verdict, expectation, thorough)
        except _Broken as broken:
            verdict.problems.append(broken.problem)
        except Exception:  # whatever a state makes the program raise is a finding
            verdict.problems.append(Problem("error", traceback.format_exc(limit=-4)))
        return verdict

    def lay_out(self, files: Files, noise: int = 0) -> None:
        """Make the directory hold exactly these files."""
        shutil.rmtree(self._root, ignore_errors=True)
        os.makedirs(self._root)
        for path in sorted(files):
            content = files[path]
            where = os.path.join(self._root, path)
            if content is None:
                os.mkdir(where, 0o700)
                continue
            name = os.path.basename(path)
            if name in _SCRATCH and noise % 3:
                content = bytes(len(content)) if noise % 3 == 1 else os.urandom(len(content))
            fd = os.open(where, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                if name == "ballast":
                    os.ftruncate(fd, len(content))  # zeros, and many of them
                else:
                    os.write(fd, content)
            finally:
                os.close(fd)
            if name == "queue.db" and noise % 2:
                # What was shared memory may be on the disk as well, in any state.
                with open(where + "-shm", "wb") as shared:
                    shared.write(os.urandom(32768))

    # --- looking ------------------------------------------------------------------------------------------------------

    def _look(self, verdict: Verdict, expectation: Expectation, thorough: bool) -> None:
        if thorough or self._turn % 16 == 0:
            client = Client(
                "http://127.0.0.1:9/", path=self._queue_directory, start=False, source=SOURCE, config_file=os.devnull,
                **SETTINGS,
            )  # fmt: skip
            queue: DiskQueue = client._queue
            close: Callable[[], object] = client.close
        else:
            queue = DiskQueue(self._queue_directory, clock=_CLOCK, **SETTINGS)
            close = queue.close
        try:
            present = self._contents(queue, verdict, expectation)
            added = self._use(queue, expectation, present)
        finally:
            close()
        if thorough or self._turn % 8 == 0:
            queue = DiskQueue(self._queue_directory, clock=_CLOCK, **SETTINGS)
            try:
                again = {event.raw_id: event.rowid for _, event in self._events(queue)}
                self._ledger(queue, len(again))
            finally:
                queue.close()
            if again != {**{event.raw_id: event.rowid for event in present.values()}, **added}:
                raise _Broken("reopened", "opened again, it holds other events than before")

    def _events(self, queue: DiskQueue) -> Iterator[tuple[str, StoredEvent]]:
        while (batch := queue.lease(1 << 20, 1 << 30)) is not None:
            for event in batch.events:
                yield batch.route, event

    def _contents(self, queue: DiskQueue, verdict: Verdict, expectation: Expectation) -> dict[int, StoredEvent]:
        present: dict[int, StoredEvent] = {}
        rows: set[int] = set()
        for route, event in self._events(queue):
            number = self._recognize(event, expectation)
            if number in present:
                raise _Broken("twice", f"event {number} is in the queue twice")
            intent = expectation.intents[number]
            if route != intent.route:
                raise _Broken("route", f"event {number} of route {intent.route!r} is in route {route!r}")
            row = expectation.rows.get(number, event.rowid)
            if row != event.rowid or event.rowid in rows:
                raise _Broken("row id", f"event {number} had row id {row}, and now {event.rowid}")
            rows.add(event.rowid)
            present[number] = event
        verdict.rows = {number: event.rowid for number, event in present.items()}
        verdict.salvaged = queue.salvaged is not None
        failed = self._failed_files(expectation)
        self._complete(verdict, expectation, set(present), failed)
        if verdict.salvaged and not self._damage:
            raise _Broken("salvaged", f"a power cut was taken for damage: {queue.salvaged}")
        ledger_failed, ledger_delivered = self._ledger(queue, len(present), expectation)
        if ledger_delivered > len(expectation.yes) or ledger_failed > len(failed | expectation.yes):
            raise _Broken("ledger", f"{ledger_delivered} delivered, {ledger_failed} failed: more than there were")
        self._leftovers()
        return present

    def _recognize(self, event: StoredEvent, expectation: Expectation) -> int:
        """Return which event this is; it must be what was recorded, byte for byte."""
        number = self._known.get(event.payload)
        if number is None:
            match = _NUMBER.search(event.payload)
            if match is None or int(match[1]) not in expectation.intents:
                raise _Broken("phantom", f"an event that nobody recorded: {event.payload[:100]!r}")
            number = int(match[1])
            content = data(number, expectation.intents[number].size)
            if event.payload != self._format.encode(NAME, content, event.id, event.time):
                raise _Broken("altered", f"event {number} is not what was recorded: {event.payload[:100]!r}")
            self._known[event.payload] = number
        if number not in expectation.intents:
            raise _Broken("phantom", f"event {number} is there before it was recorded")
        if event.corrected or expectation.receipts.get(number, event.id) != event.id:
            raise _Broken("altered", f"event {number} has another id or time than it was recorded with")
        return number

    def _complete(self, verdict: Verdict, expectation: Expectation, present: set[int], failed: set[int]) -> None:
        kept = present | failed | expectation.yes
        missing = expectation.required - kept
        if missing:
            raise _Broken("lost", f"{len(missing)} receipted event(s) are gone: {sorted(missing)[:10]}")
        verdict.lost = len(expectation.window - present - failed)
        for group, members in expectation.groups.items():
            if len(members) > 1:
                there = sum(number in kept for number in members)
                if 0 < there < len(members):
                    raise _Broken("batch", f"of the batch {group} only {there} of {len(members)} events are there")

    def _ledger(self, queue: DiskQueue, rows: int, expectation: Expectation | None = None) -> tuple[int, int]:
        ledger = queue.ledger()
        said = f"{ledger} with {rows} rows"
        if not ledger.balanced or ledger.pending != rows or queue.count_rows() != rows:
            raise _Broken("ledger", f"it does not balance: {said}")
        if min(ledger.delivered, ledger.failed, ledger.pending) < 0:
            raise _Broken("ledger", f"below zero: {said}")
        if expectation is not None and not self._damage:
            if ledger.dropped:
                raise _Broken("ledger", f"events were dropped: {said}")
            least, most = len(expectation.required), len(expectation.intents)
            if not least <= ledger.accepted <= most:
                raise _Broken("ledger", f"accepted must lie between {least} and {most}: {said}")
        return ledger.failed, ledger.delivered

    def _failed_files(self, expectation: Expectation) -> set[int]:
        """Return the events that are in failed payload files; each file must be whole."""
        found: set[int] = set()
        for folder in ("failed", "replayed"):
            directory = os.path.join(self._queue_directory, folder)
            if not os.path.isdir(directory):
                continue
            listed = FailedFiles(self._queue_directory).paths() if folder == "failed" else []
            for name in os.listdir(directory):
                path = os.path.join(directory, name)
                if name.endswith(".tmp"):
                    if path in listed:
                        raise _Broken("failed file", f"{name}, a file half-way written, would be replayed")
                    continue
                try:
                    payload = read(path)
                except FailedFileError as error:
                    raise _Broken("failed file", f"not whole: {error}") from error
                for identity, value in zip(payload.ids, payload.events, strict=True):
                    number = value["data"]["n"]
                    intent = expectation.intents.get(number)
                    if intent is None or expectation.receipts.get(number, identity) != identity:
                        raise _Broken("phantom", f"{name} holds event {number}, which nobody recorded so")
                    if value["data"] != data(number, intent.size) or value["id"] != identity:
                        raise _Broken("altered", f"{name} holds event {number} altered")
                    if folder == "failed":
                        found.add(number)
        return found

    def _leftovers(self) -> None:
        StatusFile(self._queue_directory).read()
        for name in os.listdir(self._queue_directory):
            if name not in _USUAL and not name.endswith(".tmp") and not self._damage:
                raise _Broken("leftover", f"there is a {name!r} in the queue's directory")
            mode = os.stat(os.path.join(self._queue_directory, name)).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO) and name != "queue.db-shm":  # that one is ours
                raise _Broken("mode", f"{name} can be read by others")

    def _use(
        self, queue: DiskQueue, expectation: Expectation, present: dict[int, StoredEvent]
    ) -> dict[bytes | str, int]:
        """Store two events, deliver one of them; return the other."""
        one, other = (Record(b'{"crash":"%d"}' % each, new_id(), *queue.stamp()) for each in (1, 2))
        try:
            queue.append([one])
            queue.append([other])
            mine: list[StoredEvent] = []
            while len(mine) < 2 and (batch := queue.lease(1 << 20, 1 << 30)) is not None:
                for event in batch.events:
                    if event.raw_id in (one.id, other.id):
                        mine.append(event)
            rows = [event.rowid for event in mine]
            if len(rows) != 2 or [event.payload for event in mine] != [one.payload, other.payload]:
                raise _Broken("unusable", f"two events were stored; {len(rows)} came back")
            highest = max([expectation.highest_row(), *(event.rowid & SEQUENCE for event in present.values())])
            if not highest < rows[0] < rows[1]:
                raise _Broken("row id", f"new events got the row ids {rows}, the last one given out was {highest}")
            if queue.ack(Batch("", mine[:1])) != 1:
                raise _Broken("unusable", "an event could not be acknowledged")
            self._ledger(queue, len(present) + 1)
        except EdgespoolError as error:
            raise _Broken("unusable", f"{type(error).__name__}: {error}") from error
        return {other.id: rows[1]}
