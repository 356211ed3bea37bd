"""Replay: failed payload file -> destination -> retire the file, after the yes. Knows no queue; prints nothing.

A file leaves its folder (for `replayed/`) only when every event in it got its yes. When some did, the file is
rewritten, durably, with only the rest; a crash before that repeats them, with the same ids. What cannot be read is
reported and stays where it is.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import filelock

from . import destinations, failed, formats
from .clock import SystemClock
from .config import Settings
from .errors import ConfigError, EdgespoolError, FailedFileError
from .event import Batch, StoredEvent
from .failed import FailedFiles, FailedPayload, public_url
from .files import make_directory
from .interfaces import Clock, Destination, Format
from .outcome import Action, Hold, Outcome, TooLarge, decide
from .replay_report import FileResult, Pace, Progress, Report, Selection, Stop

__all__ = ["FileResult", "Pace", "Progress", "Replay", "ReplayBusy", "Report", "Selection", "Stop", "find"]

_FAILED, _REPLAYED = "failed", "replayed"


class ReplayBusy(EdgespoolError):
    """Another replay is at work on the same folder."""


def find(directory: str, given: Iterable[str] = ()) -> list[str]:
    """Return the files to replay: those of the queue in `directory`, or else of the paths given.

    A path is a file, a queue's directory, or any folder with `.json` and `.txt` files.

    Raises:
        FailedFileError: a folder cannot be read.
    """
    paths: list[str] = []
    for path in list(given) or [directory]:
        if not os.path.isdir(path):
            paths += [path] if path != directory else []
        elif path == directory or os.path.isdir(os.path.join(path, _FAILED)):
            paths += FailedFiles(path).paths()
        else:
            paths += _in_folder(path)
    return list(dict.fromkeys(os.path.abspath(path) for path in paths))


def _in_folder(path: str) -> list[str]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise FailedFileError(f"{path} cannot be read: {error}") from error
    found = (os.path.join(path, name) for name in names if name.endswith((".json", ".txt")))
    return [each for each in found if os.path.isfile(each)]


def _lock_path(file: str) -> str:
    """Return the lock that guards a file: its queue's, or one in the folder that it will be moved to."""
    parent = os.path.dirname(file)
    if os.path.basename(parent) == _FAILED:
        return os.path.join(os.path.dirname(parent), "replay.lock")
    return os.path.join(parent, _REPLAYED, "replay.lock")


@contextlib.contextmanager
def _locked(paths: Sequence[str]) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for path in sorted({_lock_path(each) for each in paths}):
            try:
                make_directory(os.path.dirname(path))
                held.enter_context(filelock.FileLock(path, timeout=0, mode=0o600, thread_local=False))
            except filelock.Timeout:
                raise ReplayBusy(f"another replay is at work in {os.path.dirname(path)}") from None
            except OSError as error:
                raise FailedFileError(f"the lock {path} cannot be taken: {error}") from error
        yield


class Replay:
    """One run over the failed payload files of a queue.

    Args:
        settings: where the queue is, where to send, and with which credentials and limits.
        given: files and folders to replay instead of the queue's.
        selection, pace: which events, and how fast.
        route: for files that name none.
        destination: makes the destination for a format; None: what the settings say.
        on_progress: called after each batch.
        on_wait: called with the reason and the seconds before a wait that a failure calls for.
        clock, sleep, fraction: time, waiting (seconds), and random numbers in [0, 1); for tests.
    """

    def __init__(
        self,
        settings: Settings,
        given: Sequence[str] = (),
        *,
        selection: Selection | None = None,
        pace: Pace | None = None,
        route: str = "",
        destination: Callable[[Format], Destination] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_wait: Callable[[str, float], None] | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._given = given
        self._selection = selection or Selection()
        self._pace = pace or Pace(settings.max_rate)
        self._route = route
        self._unnamed = destination is None and settings.url is None
        self._make = destination or (lambda format: destinations.create(settings, format))
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._clock: Clock = clock or SystemClock()
        self._sleep = sleep
        self._fraction = fraction
        self._roads: dict[str, tuple[Format, Destination]] = {}
        self._left = self._selection.limit
        self._byte_limit = settings.batch_bytes
        self._allowed = 0.0  # monotonic seconds before which the rate lets nothing be sent
        self.report = Report()  # also of a run that was interrupted

    def dry_run(self) -> Report:
        """Read and check the files and say what would be sent; sends nothing, changes nothing, needs no URL."""
        for path in find(self._settings.directory, self._given):
            checked = self._open(path)
            if checked is None:
                continue
            count = self._selected(checked[1])
            self.report.files.append(FileResult(path, "would replay" if count else "kept", len(checked[1]), count))
            self._spend(count)
        return self.report

    def run(self) -> Report:
        """Send what is selected, file by file, oldest first, and return what came of it.

        Raises:
            ConfigError: there is no URL, or it cannot be used; nothing was sent.
            ReplayBusy: another replay is at work on the same folder; nothing was sent.
            FailedFileError: the folder cannot be read or locked; nothing was sent.
        """
        paths = find(self._settings.directory, self._given)
        if not paths:
            return self.report
        try:
            with _locked(paths):
                # Whoever held the lock before may have retired some.
                paths = [path for path in paths if os.path.lexists(path)]
                for number, path in enumerate(paths, 1):
                    if self.report.stopped is not None or self._left == 0:
                        break
                    self._file(path, number, len(paths))
        finally:
            for _, destination in self._roads.values():
                destination.close()
        return self.report

    # --- one file ---------------------------------------------------------------------------------------------------

    def _open(self, path: str) -> tuple[FailedPayload, list[StoredEvent], Format] | None:
        """Return a file, its events and their format; None when it is passed over, or broken."""
        try:
            payload = failed.read(path)
            if payload.failed_at is None:
                payload = replace(payload, failed_at=os.stat(path).st_mtime)
            if not self._selection.takes(payload):
                self.report.passed_over += 1
                return None
            format = self._format(payload.format or self._settings.format)
            events = payload.restored(format.restore)
            _check(path, events, format)
        except (FailedFileError, OSError) as error:
            self.report.files.append(FileResult(path, "broken", reason=str(error)))
            return None
        return payload, events, format

    def _selected(self, events: Sequence[StoredEvent]) -> int:
        return len(events) if self._left is None else min(self._left, len(events))

    def _format(self, name: str) -> Format:
        road = self._roads.get(name)
        if road is not None:
            return road[0]
        try:
            return formats.create(name, self._settings.event_source)
        except ConfigError as error:
            raise FailedFileError(str(error)) from error

    def _file(self, path: str, number: int, files: int) -> None:
        before = _mark(path)
        checked = self._open(path)
        if checked is None:
            return
        payload, events, format = checked
        if format.name not in self._roads:
            self._roads[format.name] = format, self._make(format)
        own = public_url(getattr(self._roads[format.name][1], "url", None) or "")
        if self._unnamed and own and payload.endpoint not in ("", own):
            # The service's own address stands in for none, and these were never meant for it.
            reason = f"refused by {payload.endpoint}, and would go to {own}; say with --url which is meant"
            self.report.files.append(FileResult(path, "kept", len(events), reason=reason))
            return
        sending = _Sending(payload, events, self._selected(events))

        def progress() -> None:
            if self._on_progress is not None:
                done = len(sending.delivered) + len(sending.refused)
                total = self.report.delivered + len(sending.delivered), self.report.refused + len(sending.refused)
                self._on_progress(Progress(path, number, files, done, len(sending.selected), *total))

        try:
            self._send(sending, self._roads[format.name][1], progress)
        finally:  # also when interrupted: what has arrived need not be sent again
            self._spend(len(sending.delivered) + len(sending.refused))
            self.report.files.append(sending.result())  # for the case that the next line is interrupted
            self.report.files[-1] = sending.settle(before)

    def _send(self, sending: _Sending, destination: Destination, progress: Callable[[], None]) -> None:
        route = sending.payload.route or self._route
        pieces = deque([sending.selected] if sending.selected else [])
        attempt = 0
        while pieces:
            piece = pieces.popleft()
            batch = self._cut(Batch(route, piece), destination)
            if len(batch) < len(piece):
                pieces.appendleft(piece[len(batch):])
            self._wait(self._allowed - self._clock.monotonic())
            outcome = destination.send(batch)
            now = self._clock.monotonic()
            if self._pace.rate is not None:
                self._allowed = now + len(batch) / self._pace.rate
            attempt += 1
            decision = decide(
                outcome, attempt, now, size=len(batch), fraction=self._fraction(), backoff=self._pace.backoff
            )
            if decision.action is Action.ACK:
                sending.delivered.update(event.rowid for event in batch.events)
            elif decision.action is Action.GIVE_UP:
                sending.refused.add(batch.events[0].rowid)
                sending.reason = decision.reason
            elif decision.action is Action.SPLIT:
                if isinstance(outcome, TooLarge):
                    self._byte_limit = max(1, batch.payload_bytes // 2)
                events, half = batch.events, len(batch) // 2
                pieces.extendleft((events[half:], events[:half]))
            else:
                stop = self._stop(outcome, decision.reason, attempt, decision.due - now)
                if stop is not None:
                    self.report.stopped, sending.reason = stop, stop.reason
                    return
                pieces.appendleft(batch.events)
                if self._on_wait is not None:
                    self._on_wait(decision.reason, decision.due - now)
                self._wait(decision.due - now)
                continue
            attempt = 0
            progress()

    def _cut(self, batch: Batch, destination: Destination) -> Batch:
        """Return as many of the leading events as may be sent at once, at least one."""
        limit = self._settings.batch_size
        if self._pace.rate is not None:
            limit = max(1, min(limit, int(self._pace.rate)))  # no second's worth at a time in bursts
        size = 0
        count = 0
        for event in batch.events[:limit]:
            size += len(event.payload)
            if count and size > self._byte_limit:
                break
            count += 1
        batch = batch.cut(count)[0]
        return batch.cut(max(1, destination.take(batch.events)))[0]

    def _stop(self, outcome: Outcome, reason: str, attempt: int, pause: float) -> Stop | None:
        if isinstance(outcome, Hold):
            return Stop("held", reason)
        if attempt >= self._pace.tries:
            return Stop("unreachable", f"{reason} (tried {attempt} time{'s' if attempt > 1 else ''})")
        if pause > self._pace.longest_wait:
            return Stop("unreachable", f"{reason} (asks to be left alone for {pause:.0f} s)")
        return None

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _spend(self, events: int) -> None:
        if self._left is not None:
            self._left = max(0, self._left - events)


class _Sending:
    """How far the events of one file have come; positions in the file stand for them."""

    def __init__(self, payload: FailedPayload, events: Sequence[StoredEvent], selected: int) -> None:
        self.payload = payload
        self.events = events
        self.selected = events[:selected]
        self.delivered: set[int] = set()
        self.refused: set[int] = set()
        self.reason = ""

    def result(self) -> FileResult:
        """Return what is known while the file is as it was."""
        counts = len(self.events), len(self.delivered), len(self.refused)
        return FileResult(self.payload.path, "kept", *counts, self.reason)

    def settle(self, before: object) -> FileResult:
        """Retire the file, or leave in it what was not delivered; return what became of it.

        `before` is the file's mark when it was read: one that somebody has written to since is left alone.
        """
        result, path = self.result(), self.payload.path
        keep = [number for number in range(len(self.events)) if number not in self.delivered]
        if keep and not self.delivered:
            return result
        try:
            if _mark(path) != before:
                raise FailedFileError(f"{path} was written to while it was replayed; run the replay again")
            if keep:
                failed.rewrite(self.payload, keep, [event.id for event in self.events])
                return replace(result, state="partly")
            return replace(result, state="replayed", retired_to=failed.retire(path))
        except FailedFileError as error:
            # The file is as it was: everything in it will be sent again, with the same ids.
            return replace(result, reason=str(error))


def _mark(path: str) -> object:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


def _check(path: str, events: Sequence[StoredEvent], format: Format) -> None:
    """Make sure now that every event can be put into a request: found out later, it would look like an outage."""
    for number, event in enumerate(events, 1):
        try:
            format.render(event)
        except Exception as error:  # whatever a format raises, this file is at fault
            raise FailedFileError(f"{path}: event {number}: {error}") from error
