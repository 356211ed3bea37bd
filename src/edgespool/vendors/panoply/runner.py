"""Runs a data source as the platform does: reads batches, stores each with the state that belongs to it, goes on.

Rows and state go into the queue in one transaction: the state rides behind its rows as an event of a route of its own
(`format.STATE_ROUTE`). Such an event is never sent; when its turn comes, the sender writes it to a file beside the
queue and then takes it off the queue, as it does with a delivery. The newest state is therefore the one with the
highest number in the queue and the file, and a crash at any point leaves the rows and their state together or neither.

This module prints nothing and knows no wire.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import filelock

from ... import destinations, formats, jsontext
from ...client import Client
from ...config import Settings
from ...errors import ConfigError, EdgespoolError, EventError, QueueFull, QueueUnavailable
from ...event import Batch, Event, StoredEvent
from ...files import make_directory, read_bounded, write_whole
from ...interfaces import Destination
from ...outcome import Delivered, Outcome, Retry
from ...queue import schema
from ...queue.view import QueueView
from ..common import open_place
from .constants import FLUSH_TIMEOUT
from .format import STATE_ROUTE

__all__ = ["Hooks", "Report", "Runner", "SourceBusy", "SourceError", "State", "States", "load_module", "merge",
           "open_queue", "read_object", "save_changes"]  # fmt: skip

_RETRIES = 3
_WAITS = (1.0, 2.0, 4.0)  # seconds before each retry
_NAMED = 1000  # states that rows have named and nobody has reported: so many are remembered
_LARGEST = 16 << 20  # bytes of a file with parameters, or with a state
_FIELD = re.compile(r"\{([^{}]+)\}")


class SourceBusy(EdgespoolError):
    """Another process runs the same source on the same queue."""


class SourceError(EdgespoolError):
    """A data source has done what it may not, such as returning something that is no list of rows."""

    retryable = False


# --- the module and its parameters ----------------------------------------------------------------------------------


def load_module(name: str) -> ModuleType:
    """Return the module of a data source. That `import panoply` within it gives ours is the caller's to see to.

    Args:
        name: as in an import statement, or the path of a `.py` file. The working directory is looked in, too.

    Raises:
        ConfigError: there is none, it cannot be imported, or it has no `Stream`.
    """
    place, stem = os.getcwd(), name
    if name.endswith(".py"):
        place, stem = os.path.split(os.path.abspath(name))
        stem = stem[:-3]
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        module = importlib.import_module(stem)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and (stem == error.name or
                                                                      stem.startswith(error.name + ".")):
            raise ConfigError(f"there is no module {name!r} (looked in {place} and where Python looks)") from None
        raise ConfigError(f"the module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "Stream", None)):
        raise ConfigError(f"the module {name!r} is no data source: it has no Stream")
    return module


def read_object(path: str) -> dict[str, Any]:
    """Return the JSON object that a file holds; raises ConfigError."""
    try:
        raw = read_bounded(path, _LARGEST)
        value = jsontext.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # what it says may be a secret's surroundings, but never the text itself
        raise ConfigError(f"{path} holds no JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a JSON object is needed")
    return value


def save_changes(path: str, changes: Mapping[str, Any]) -> None:
    """Put changed parameters into the file they came from, durably, with mode 0600; raises ConfigError."""
    try:
        path = os.path.realpath(path)
        write_whole(path, json.dumps({**read_object(path), **changes}, indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


# --- the state ------------------------------------------------------------------------------------------------------


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return both as one; where both have an object it is merged as well, else the new value counts."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(before, value) if both else value  # type: ignore[arg-type]
    return merged


class State(NamedTuple):
    """What is known of a source, in the order of what became known."""

    number: int = 0  # grows with each one stored
    state: dict[str, Any] = {}  # noqa: RUF012 - never changed
    read: bool = False  # the source has said that there is no more, and the run has not ended since


class States:
    """The states of the sources of one queue, by the source's name.

    Args:
        directory: the queue's directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def path(self, source: str, ending: str = "json") -> str:
        """Return a file's path for a source."""
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", source)[:60]
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        return os.path.join(self._directory, f"source-{plain}-{digest}.{ending}")

    def load(self, source: str) -> State:
        """Return the newest state; number 0 and an empty one when there is none.

        Raises:
            QueueError: the queue cannot be read.
            SourceError: the file is damaged.
        """
        queued = self._in_queue(source)  # first: what leaves the queue meanwhile is in the file before
        return max(queued, self._in_file(source), key=lambda each: each.number)

    def _in_queue(self, source: str) -> State:
        newest = State()
        for payload in self._waiting():
            name, state = _parsed(payload)
            if name == source and state.number > newest.number:
                newest = state
        return newest

    def _waiting(self) -> Iterator[bytes]:
        with contextlib.suppress(QueueUnavailable), QueueView(self._directory) as view:  # there may be no queue yet
            for _, event in view.events(STATE_ROUTE):
                yield event.payload

    def waiting(self) -> int:
        """Return how many of the events in the queue are states, not rows; raises QueueError."""
        return sum(1 for _ in self._waiting())

    def _in_file(self, source: str) -> State:
        path = self.path(source)
        try:
            _, state = _parsed(read_bounded(path, _LARGEST))
        except FileNotFoundError:
            return State()
        except (OSError, ValueError) as error:
            raise SourceError(
                f"the state of the source in {path} cannot be read ({error}); remove the file to begin anew"
            ) from error
        return state

    @staticmethod
    def event(source: str, state: State) -> Event:
        """Return a state as the event that rides behind its rows."""
        said = {"source": source, "number": state.number, "state": state.state}
        return Event(STATE_ROUTE, {**said, "read": True} if state.read else said, route=STATE_ROUTE)

    def keep(self, events: Sequence[StoredEvent]) -> None:
        """Write the newest state of each source among these events to its file, durably; raises OSError."""
        newest: dict[str, tuple[int, bytes]] = {}
        for event in events:
            source, state = _parsed(event.payload)
            newest[source] = max(newest.get(source, (0, b"")), (state.number, event.payload))
        for source, (_, payload) in newest.items():
            write_whole(self.path(source), payload + b"\n")


def _parsed(payload: bytes) -> tuple[str, State]:
    value = jsontext.loads(payload)
    try:
        source, number, state, read = value["source"], value["number"], value["state"], value.get("read", False)
    except (TypeError, KeyError, AttributeError):
        raise ValueError("it is no state") from None
    if not isinstance(source, str) or type(number) is not int or not isinstance(state, dict) or type(read) is not bool:
        raise ValueError("it is no state")
    return source, State(number, state, read)


class _Fork:
    """The destination of a source's queue: rows to the platform, states to their files."""

    def __init__(self, rows: Destination, states: States) -> None:
        self._rows = rows
        self._states = states
        self.url = getattr(rows, "url", "")

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the leading events can be sent at once."""
        return self._rows.take(events)

    def send(self, batch: Batch) -> Outcome:
        """Send rows, or keep states; raises nothing."""
        if batch.route != STATE_ROUTE:
            return self._rows.send(batch)
        try:
            self._states.keep(batch.events)
        except (OSError, ValueError) as error:
            return Retry(f"the state of the source could not be written: {error}")
        return Delivered()

    def close(self) -> None:
        """Let go of connections."""
        self._rows.close()

    def after_fork_in_child(self) -> None:
        """Forget connections that belong to the parent."""
        forget = getattr(self._rows, "after_fork_in_child", None)
        if forget is not None:
            forget()


def open_queue(settings: Settings, config_file: str | None = None) -> tuple[Client, States]:
    """Return a client, not yet sending, for the queue of a data source, and the states kept beside it.

    Args:
        settings: with `auth` (key and secret) and a `name` or a `path`.
        config_file: where the settings came from.

    Raises:
        ConfigError: key or secret are missing or have the wrong form, or a setting cannot be used; or the queue is
            another account's: it is at work there, or rows of it wait.
        QueueError: the queue cannot be opened.
    """
    states = States(settings.directory)
    rows = destinations.create(settings, formats.create("panoply", settings.event_source))
    key = settings.auth[0] if settings.auth else ""  # it was checked just now
    client = open_place(
        settings.directory,
        key,
        settings.url,
        otherwise="Give this run a --name or --path of its own",
        backlog=lambda place: _refuse_backlog(place, states),
        name=settings.name,
        path=settings.path,
        config_file=config_file,
        format="panoply",
        destination=_Fork(rows, states),
        flush_interval=min(FLUSH_TIMEOUT, settings.flush_interval),
        # A source can wait until there is room, and what it has not yet read is not lost. The run does the waiting:
        # the queue would wait without a word, and without an end.
        overflow="reject",
        start=False,
    )
    return client, states


def _refuse_backlog(place: str, states: States) -> None:
    """Refuse to take a queue over while rows wait that were read with another key.

    A client's queue is taken over with a warning, for a program must go on recording. A source can wait: what it has
    not read is not lost, and a row in another account's table can never be called back.

    Raises:
        ConfigError: rows wait.
        QueueUnavailable, QueueError: it cannot be seen whether any do.
    """
    if not os.path.exists(os.path.join(place, schema.FILE_NAME)):
        return
    with QueueView(place) as view:
        pending = view.ledger().pending
    rows = pending - states.waiting()
    if rows > 0:
        raise ConfigError(
            f"auth: {rows} row(s) in {place} were read with another key. Deliver them first, by `edgespool deliver "
            f"--path {place}` with that key in EDGESPOOL_AUTH, or with the new one if it is the same account's; or "
            "give this run a --name of its own"
        )


# --- the run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hooks:
    """Who is told of what happens in a run; each may be None.

    `progress(loaded, total, msg)`; `log(msgs)`, a tuple; `change(changes)`, changed parameters, to be saved;
    `retry(error, number, seconds)` before the wait for a retry; `event(name, data)`, what else a source fires;
    `full(error)` when there is no room for a batch: waits a moment, and returns whether to try again.
    """

    progress: Callable[[Any, Any, str], None] | None = None
    log: Callable[[tuple[Any, ...]], None] | None = None
    change: Callable[[dict[str, Any]], None] | None = None
    retry: Callable[[Exception, int, float], None] | None = None
    event: Callable[[str, Any], None] | None = None
    full: Callable[[QueueFull], bool] | None = None


@dataclass
class Report:
    """How far a run came; also of one that was cut short."""

    rows: int = 0
    batches: int = 0
    retries: int = 0
    resumed: bool = False  # it was handed the state of an earlier run
    complete: bool = False  # the source has said that there is no more
    read_before: bool = False  # it had said so to an earlier run, which did not come to its end: nothing was read
    state: dict[str, Any] = field(default_factory=dict)  # what is stored with the rows


@dataclass
class _Reported:
    id: str
    state: dict[str, Any]
    stored: bool = False


class Runner:
    """One run of a data source.

    Args:
        name: the source's name; its state is kept under it.
        stream: makes the source: `Stream(source, options)`.
        params: the parameters; become the attribute `source`, with `type` and, after an interruption, `state`.
        client: where rows go; see `open_queue`.
        states: where states are.
        destination: the table; None: what the parameters or the source say, or else the source's name. `{field}` in it
            stands for that field of each row.
        options: becomes the attribute `options`, with `logger` and `events` added.
        size: how many rows to ask `read` for.
        keep_state: hand the state of a complete run to the next one, too: for sources that read what is new.
        restart: start from the beginning whatever is known.
        hooks: who is told.
        sleep: waits; for tests.
    """

    def __init__(
        self,
        name: str,
        stream: Callable[[dict[str, Any], dict[str, Any]], Any],
        params: Mapping[str, Any],
        client: Client,
        states: States,
        *,
        destination: str | None = None,
        options: Mapping[str, Any] | None = None,
        size: int = 1000,
        keep_state: bool = False,
        restart: bool = False,
        hooks: Hooks | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.report = Report()
        self._name = name
        self._make = stream
        self._source = {"type": name, **params}
        if destination is not None:
            self._source["destination"] = destination
        self._client = client
        self._states = states
        self._options = dict(options or {})
        self._size = size
        self._keep_state = keep_state
        self._restart = restart
        self.hooks = hooks or Hooks()  #: may be set until `run` is called
        self._sleep = sleep
        self._stream: Any = None
        self._number = 0
        self._base: dict[str, Any] = {}  # the states that are stored, up to the first that is not
        self._reported: list[_Reported] = []  # from there on, in the order of their reports
        self._named: dict[str, None] = {}  # ids that stored rows carry and nobody has reported yet
        self._lock = threading.RLock()  # a source may report from threads of its own

    def __enter__(self) -> Runner:
        """Begin: from here to the end nobody else runs this source on this queue.

        Raises:
            SourceBusy: another process runs it.
        """
        path = self._states.path(self._name, "lock")
        make_directory(os.path.dirname(path))
        self._alone = filelock.FileLock(path, timeout=0, mode=0o600, thread_local=False)
        try:
            self._alone.acquire()
        except filelock.Timeout:
            raise SourceBusy(f"another process runs the source {self._name} on this queue") from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._alone.release()

    def end(self) -> None:
        """Say that the run has come to its end, whatever was delivered by then: the next one reads anew.

        A run that is killed after the source said that there is no more, and before this, is gone on with by the next
        one: that reads nothing, since all rows are stored.

        Raises:
            QueueError: the queue does not work.
        """
        if self.report.complete:
            self._store([], State(self._number + 1, self.report.state))

    def run(self) -> Report:
        """Read until the source has no more, and return the counts; the source is closed in any case.

        A `read` that fails is tried again 3 times, unless the exception has a false attribute `retryable`. A source
        that has a state is made anew for that, with the state; one that has none goes on as it is.

        Raises:
            SourceError: the source returned what is no list of rows, or its stored state is damaged.
            EventError: a row or a state cannot be encoded; nothing of its batch was stored.
            QueueError: the queue does not work; nothing of the last batch was stored.
            Exception: whatever the source raises.
        """
        self._number, self._base, read = self._states.load(self._name)
        if self._restart and (self._base or read):
            self._store([], State(self._number + 1))
            self._base, read = {}, False
        self.report.state = self._base
        if read:
            self.report.complete = self.report.read_before = True
            return self.report
        self.report.resumed = bool(self._base)
        try:
            self._open()
            while (rows := self._read()) is not None:
                self._take(rows)
            self._finish()
            self.report.complete = True
        finally:
            self._close()
        return self.report

    # --- the source ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        source = copy.deepcopy(self._source)
        if self._base:
            source["state"] = copy.deepcopy(self._base)
        handlers = {
            "source-state": self._on_state,
            "source-change": self._on_change,
            "progress": self._on_progress,
            "*": self._on_event,
        }
        options = {**self._options, "logger": self._on_log, "events": handlers}
        self._stream = stream = self._make(source, options)
        if callable(getattr(stream, "on", None)):
            for name, handler in handlers.items():  # for a source that keeps the options to itself
                stream.on(name, handler)

    def _read(self) -> Any:
        failures = 0
        while True:
            before = len(self._reported)
            try:
                if self._stream is None:
                    self._open()
                return self._stream.read(self._size)
            except Exception as error:
                failures += 1
                if not getattr(error, "retryable", True) or failures > _RETRIES:
                    raise
                wait = _WAITS[failures - 1]
                self.report.retries += 1
                if self.hooks.retry is not None:
                    self.hooks.retry(error, failures, wait)
                self._recover(before)
                self._sleep(wait)

    def _recover(self, before: int) -> None:
        """Make ready for a retry: what a failed `read` has reported may be ahead of its rows."""
        with self._lock:
            if not self.report.state:
                del self._reported[before:]
                return
            self._base, self._reported, self._named = self.report.state, [], {}
        with contextlib.suppress(Exception):  # it has failed already, and a new one takes its place
            self._close()

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        close = getattr(stream, "close", None)
        if callable(close):
            close()

    # --- its rows -----------------------------------------------------------------------------------------------------

    def _take(self, rows: Any) -> None:
        """Store a batch, and the state that belongs to it."""
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            raise SourceError(f"read() returned {type(rows).__name__}; a list of objects or None is needed")
        events: list[Event] = []
        named: dict[str, None] = {}
        source = getattr(self._stream, "source", self._source)
        table = str(source.get("destination") or source.get("type") or self._name)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise SourceError(f"read() returned {type(row).__name__} as row {number}; an object is needed")
            record = dict(row)
            state_id = record.pop("__state", None)
            if record.get("type") == "raw" and isinstance(record.get("metadata"), Mapping):
                record["metadata"] = dict(record["metadata"])
                state_id = record["metadata"].pop("__state", state_id)
            if state_id is not None:
                named[repr(state_id)] = None
            events.append(Event(_table(table, record, number), record))
        if not events:
            return
        with self._lock:
            base, reported, left = self._settled(named)
            state = _effective(base, reported)
            self._store(events, State(self._number + 1, state) if state != self.report.state else None)
            self._base, self._reported, self._named = base, reported, left
        self.report.rows += len(events)
        self.report.batches += 1

    def _settled(self, named: Mapping[str, None]) -> tuple[dict[str, Any], list[_Reported], dict[str, None]]:
        """Return what is known of states once rows that carry these ids are stored; changes nothing yet.

        Rows that carry none belong to whatever was reported until now. Of a source whose rows carry ids, a state waits
        for its rows: it may have been reported ahead of them.
        """
        ready = {**self._named, **named}
        reported: list[_Reported] = []
        base = self._base
        found = set()
        for each in self._reported:
            stored = each.stored or each.id in ready or not named
            if each.id in ready:
                found.add(each.id)
            if stored and not reported:
                base = merge(base, each.state)
            elif stored and reported[-1].stored:
                reported[-1] = _Reported("", merge(reported[-1].state, each.state), True)
            else:
                reported.append(_Reported(each.id, each.state, stored))
        left = {name: None for name in ready if name not in found}
        for name in list(left)[: max(0, len(left) - _NAMED)]:
            del left[name]
        return base, reported, left

    def _store(self, events: list[Event], state: State | None) -> None:
        """Store rows, and the state when it is another: in one transaction."""
        if state is not None:
            events = [*events, self._states.event(self._name, state)]
        while True:
            try:
                self._client.record_many(events)
                break
            except QueueFull as error:
                hopeless = getattr(error, "hopeless", False)
                if hopeless or self.hooks.full is None or not self.hooks.full(error):
                    raise
        if state is not None:
            self._number = state.number
            self.report.state = dict(state.state)

    def _finish(self) -> None:
        """All rows are stored: so are all states. The next run begins anew, unless it is told not to."""
        with self._lock:
            state = self._base
            for each in self._reported:
                state = merge(state, each.state)
            self._store([], State(self._number + 1, state if self._keep_state else {}, read=True))

    # --- its events ---------------------------------------------------------------------------------------------------

    def _on_state(self, data: Mapping[str, Any]) -> None:
        state = data["state"]
        if not isinstance(state, Mapping):
            raise SourceError(f"a state is an object, not {type(state).__name__}")
        try:
            # As it is now, and as it will be handed back: the source may go on changing its own.
            copied = jsontext.loads(jsontext.encode(state, "state"))
        except EventError as error:
            raise SourceError(str(error)) from error
        with self._lock:
            self._reported.append(_Reported(repr(data["stateId"]), copied))

    def _on_change(self, changes: Mapping[str, Any]) -> None:
        self._source.update(changes)
        if self.hooks.change is not None:
            self.hooks.change(dict(changes))

    def _on_progress(self, data: Mapping[str, Any]) -> None:
        if self.hooks.progress is not None:
            self.hooks.progress(data["loaded"], data["total"], data["msg"])

    def _on_event(self, name: str, data: Any) -> None:
        if self.hooks.event is not None and name not in ("source-state", "source-change", "progress"):
            self.hooks.event(name, data)

    def _on_log(self, msgs: tuple[Any, ...]) -> None:
        if self.hooks.log is not None:
            self.hooks.log(msgs)


def _effective(base: dict[str, Any], reported: Sequence[_Reported]) -> dict[str, Any]:
    for each in reported:
        if each.stored:
            base = merge(base, each.state)
    return base


def _table(template: str, row: Mapping[str, Any], number: int) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in row:
            raise SourceError(f"destination {template!r}: row {number} has no field {match[1]!r}")
        return str(row[match[1]])

    return _FIELD.sub(value, template)
