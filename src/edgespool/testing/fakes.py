"""Stand-ins for the parts of edgespool that touch the world: the clock, the network, the disk.

    from edgespool import Client
    from edgespool.testing import FakeDestination

    def test_my_sensor_reports_the_temperature(tmp_path):
        destination = FakeDestination()
        with Client(path=tmp_path, destination=destination) as client:
            my_sensor.report(client)
            assert client.flush(5)
        assert len(destination.batches) == 1

They keep the contracts of `edgespool.interfaces`, and the package's own suite holds `MemoryQueue` and the disk queue to
the same tests. This module knows no test framework, no SQLite and no HTTP.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from ..clock import SystemClock
from ..errors import QueueClosed, QueueFull
from ..event import Batch, Record, StoredEvent
from ..interfaces import Clock, Ledger
from ..outcome import Delivered, Outcome

__all__ = ["FakeClock", "FakeDestination", "MemoryQueue"]

_MICROSECONDS = 1_000_000
_CLOCK_STEP = 1_500_000  # microseconds a recorded time must be off to be put right: more than a leap second


class FakeClock:
    """A clock that stands still until it is told to move. Safe to use from any thread.

    Args:
        time: the wall clock, seconds since 1970.
        monotonic: seconds since boot.
        synchronized: whether the wall clock counts as right; `is_synchronized` can be changed at any time.
    """

    def __init__(
        self, time: float = 1_700_000_000.0, monotonic: float = 1_000.0, *, synchronized: bool = False
    ) -> None:
        self.boot_id = str(uuid.uuid4())
        self.is_synchronized = synchronized
        self._time = time
        self._monotonic = monotonic
        self._lock = threading.Lock()

    def time(self) -> float:
        """Return the wall clock, seconds since 1970."""
        return self._time

    def monotonic(self) -> float:
        """Return seconds since boot."""
        return self._monotonic

    def synchronized(self) -> bool:
        """Return whether the wall clock counts as right."""
        return self.is_synchronized

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks; raises ValueError for a negative number."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds!r}; jump_wall() turns the wall clock alone")
        with self._lock:
            self._time += seconds
            self._monotonic += seconds

    def jump_wall(self, seconds: float) -> None:
        """Turn the wall clock by so many seconds, either way; the boot clock runs on."""
        with self._lock:
            self._time += seconds

    def reboot(self, monotonic: float = 0.0) -> None:
        """Begin another boot: a new `boot_id`, and a boot clock that starts over."""
        with self._lock:
            self.boot_id = str(uuid.uuid4())
            self._monotonic = monotonic


class FakeDestination:
    """Takes batches without a network. It implements `edgespool.interfaces.Destination`.

    Args:
        script: what the first calls of `send` come to, in order: an outcome of `edgespool.outcome`, or an exception,
            which is raised.
        answer: what every later call comes to: an outcome, or a function of the batch that returns one.
        most: how many events it takes at once; None: any number.
    """

    def __init__(
        self,
        script: Iterable[Outcome | Exception] = (),
        *,
        answer: Outcome | Callable[[Batch], Outcome] | None = None,
        most: int | None = None,
    ) -> None:
        #: What the next calls come to; may be added to.
        self.script = deque(script)
        self.answer: Outcome | Callable[[Batch], Outcome] = Delivered() if answer is None else answer
        self.most = most
        #: Every batch that was sent, in order, whatever came of it.
        self.batches: list[Batch] = []
        #: What came of each; shorter than `batches` where an exception was raised.
        self.outcomes: list[Outcome] = []
        #: The batches that were taken.
        self.delivered: list[Batch] = []
        #: How often `close` was called.
        self.closed = 0

    @property
    def delivered_ids(self) -> list[str]:
        """The ids of the events that were taken, in order, repeats included."""
        return [id for batch in self.delivered for id in batch.ids]

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the leading events can be sent at once."""
        return len(events) if self.most is None else min(len(events), self.most)

    def send(self, batch: Batch) -> Outcome:
        """Note the batch, and return what the script says, or the answer."""
        self.batches.append(batch)
        answer = self.script.popleft() if self.script else self.answer
        if isinstance(answer, Exception):
            raise answer
        outcome = answer(batch) if callable(answer) else answer
        self.outcomes.append(outcome)
        if isinstance(outcome, Delivered):
            self.delivered.append(batch)
        return outcome

    def close(self) -> None:
        """Count the call; a later `send` works as before."""
        self.closed += 1


@dataclass
class _Row:
    record: Record
    boot: str
    leased: bool = False


@dataclass
class _Boot:
    """What is known of a boot: readings of its clock in microseconds, and what to add to them to get the true time."""

    first: int
    last: int
    offset: int | None = None


@dataclass
class _Route:
    rows: dict[int, _Row] = field(default_factory=dict)  # by row id, in order

    def waiting(self) -> Iterator[tuple[int, _Row]]:
        """Yield what is not leased, in order."""
        return ((rowid, row) for rowid, row in self.rows.items() if not row.leased)


class MemoryQueue:
    """A queue that keeps its events in memory: `edgespool.interfaces.Queue` without the durability.

    Args:
        max_bytes: the budget; an event counts its payload and `OVERHEAD` bytes.
        max_events: how many events may wait; None: as many as there is room for.
        overflow: what `append` does at either limit: ``"reject"`` raises QueueFull, ``"drop_oldest"`` and
            ``"drop_newest"`` drop and count.
        clock: the clocks that ages are counted by.
    """

    OVERHEAD = 72  # bytes that an event counts beside its payload

    def __init__(
        self,
        *,
        max_bytes: int = 1 << 30,
        max_events: int | None = None,
        overflow: str = "reject",
        clock: Clock | None = None,
    ) -> None:
        if overflow not in ("reject", "drop_oldest", "drop_newest"):
            raise ValueError(f"overflow: one of reject, drop_oldest, drop_newest is needed, not {overflow!r}")
        if max_events is not None and max_events < 1:
            raise ValueError(f"max_events: at least 1 is needed, not {max_events!r}")
        self.max_bytes = max_bytes
        self.max_events = max_events
        self.overflow = overflow
        #: Called with the number of records after each append; a worker listens here.
        self.on_append: Callable[[int], None] | None = None
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}
        self._boots: dict[str, _Boot] = {}
        self._counts: dict[str, int] = {}
        self._used = 0
        self._accepted = 0
        self._closed = False

    def append(self, records: Sequence[Record]) -> None:
        """Store the records, all or none.

        Raises:
            QueueFull: a limit is reached (overflow "reject"), or they would never fit into it.
            QueueClosed: the queue was closed.
        """
        with self._lock:
            self._use()
            need = sum(map(self._cost, records))
            most = self.max_events if self.max_events is not None else sys.maxsize
            if self.overflow == "drop_oldest" and need <= self.max_bytes and len(records) <= most:
                self._drop_oldest(need, most - len(records))
            waiting = sum(len(route.rows) for route in self._routes.values())
            if self._used + need <= self.max_bytes and waiting + len(records) <= most:
                for record in records:
                    self._accepted += 1
                    rows = self._routes.setdefault(record.route, _Route()).rows
                    rows[self._accepted] = _Row(record, self._clock.boot_id)
                self._used += need
            elif self.overflow == "drop_newest":
                self._accepted += len(records)
                self._count("dropped:overflow", len(records))
            elif self._used + need > self.max_bytes:
                raise QueueFull(f"the queue has reached its budget of {self.max_bytes} bytes; nothing was stored")
            else:
                raise QueueFull(f"the queue holds as many events as max_events ({most}) allows; nothing was stored")
        if self.on_append is not None:
            self.on_append(len(records))

    def _drop_oldest(self, need: int, most: int) -> None:
        """Drop until there is room for so many bytes, and no more than `most` events are left."""
        while self._used + need > self.max_bytes or sum(len(each.rows) for each in self._routes.values()) > most:
            route = min((each for each in self._routes.values() if each.rows), key=lambda each: next(iter(each.rows)))
            self._remove(route, next(iter(route.rows)))
            self._count("dropped:overflow", 1)

    def lease(
        self, limit: int, max_bytes: int, exclude: Set[str] = frozenset(), route: str | None = None
    ) -> Batch | None:
        """Return the next events of one route that is not excluded, and set them aside; None when there are none.

        Args:
            limit: at most so many events.
            max_bytes: at most so many payload bytes, but always at least one event.
            exclude: routes to pass over.
            route: only this route, when given.

        Raises:
            QueueClosed: the queue was closed.
        """
        with self._lock:
            self._use()
            heads = {}
            for name, each in self._routes.items():
                first = next(each.waiting(), None)
                if first is not None and name not in exclude and route in (None, name):
                    heads[name] = first[0]
            if not heads:
                return None
            name = min(heads, key=heads.__getitem__)
            events: list[StoredEvent] = []
            size = 0
            for rowid, row in self._routes[name].waiting():
                size += len(row.record.payload)
                if events and (len(events) >= limit or size > max_bytes):
                    break
                row.leased = True
                events.append(self._stored(rowid, row))
            return Batch(name, events)

    def _stored(self, rowid: int, row: _Row) -> StoredEvent:
        payload, id, when, mono, _, given = row.record
        offset = None if given else self._boots[row.boot].offset
        if offset is None or abs(mono + offset - when * _MICROSECONDS) < _CLOCK_STEP:
            return StoredEvent(rowid, payload, when, id, False)
        return StoredEvent(rowid, payload, (mono + offset) / _MICROSECONDS, id, True)  # taken with a wrong clock

    def ack(self, batch: Batch, ledger: str = "delivered") -> int:
        """Remove leased events for good and count them as delivered, failed or ``dropped:REASON``; return how many.

        Raises:
            QueueClosed: the queue was closed.
        """
        with self._lock:
            self._use()
            leased = dict(self._leased(batch))
            for rowid in leased:
                self._remove(self._routes[batch.route], rowid)
            self._count(ledger, len(leased))
            return len(leased)

    def requeue(self, batch: Batch) -> None:
        """Put leased events back at their old place."""
        with self._lock:
            for _, row in self._leased(batch):
                row.leased = False

    def expire(self, max_age: float, limit: int = 1000) -> int:
        """Drop up to `limit` events that are older than `max_age` seconds for certain; return how many.

        As with the disk queue, ages are counted by boot clocks alone, and time between boots is not counted.
        """
        with self._lock:
            self._use()
            now = int(self._clock.monotonic() * _MICROSECONDS)
            ends: dict[str, int] = {}  # boot -> the reading of its clock at which an event would have age 0 now
            later = 0
            for name, boot in reversed(self._boots.items()):
                boot_end = now if name == self._clock.boot_id else boot.last
                ends[name] = boot_end + later
                later += boot_end - boot.first
            dropped = 0
            for route in self._routes.values():
                for rowid, row in list(route.rows.items())[: limit - dropped]:
                    if ends[row.boot] - row.record.mono <= max_age * _MICROSECONDS:
                        break
                    self._remove(route, rowid)
                    dropped += 1
            self._count("dropped:max_age", dropped)
            return dropped

    def ledger(self) -> Ledger:
        """Return the counts; raises QueueClosed."""
        with self._lock:
            self._use()
            counts = self._counts
            dropped = {name[8:]: count for name, count in counts.items() if name.startswith("dropped:")}
            pending = self._accepted - sum(counts.values())
            return Ledger(self._accepted, counts.get("delivered", 0), counts.get("failed", 0), dropped, pending)

    def oldest_sequence(self, exclude: Set[str] = frozenset()) -> int | None:
        """Return the number, in the order of acceptance, of the oldest event of a route that is not excluded, leased
        or not; None: there is none. Raises QueueClosed."""
        with self._lock:
            self._use()
            routes = [route.rows for name, route in self._routes.items() if route.rows and name not in exclude]
            return min(map(next, map(iter, routes)), default=None)

    def count_rows(self) -> int:
        """Return how many events are held, by counting them; raises QueueClosed."""
        with self._lock:
            self._use()
            return sum(len(route.rows) for route in self._routes.values())

    def maintain(self, idle: bool) -> None:
        """Nothing to do; raises QueueClosed."""
        with self._lock:
            self._use()

    def close(self) -> None:
        """Let nothing in or out any more. Idempotent."""
        self._closed = True

    def _use(self) -> None:
        """Refuse when closed; note what the clock says of this boot. The lock is held."""
        if self._closed:
            raise QueueClosed("the queue is closed")
        now = int(self._clock.monotonic() * _MICROSECONDS)
        boot = self._boots.setdefault(self._clock.boot_id, _Boot(now, now))
        boot.last = now
        if self._clock.synchronized():
            boot.offset = int(self._clock.time() * _MICROSECONDS) - now

    def _leased(self, batch: Batch) -> Iterator[tuple[int, _Row]]:
        rows = self._routes[batch.route].rows if batch.route in self._routes else {}
        for event in batch.events:
            row = rows.get(event.rowid)
            if row is not None and row.leased:
                yield event.rowid, row

    def _remove(self, route: _Route, rowid: int) -> None:
        self._used -= self._cost(route.rows.pop(rowid).record)

    def _cost(self, record: Record) -> int:
        return len(record.payload) + self.OVERHEAD

    def _count(self, ledger: str, count: int) -> None:
        if count:
            self._counts[ledger] = self._counts.get(ledger, 0) + count
