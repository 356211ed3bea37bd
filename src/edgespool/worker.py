"""The one sender thread: lease, send, decide, act. Knows Protocols and outcomes, never SQLite, HTTP or files' formats.

`step()` does at most one sending and returns how long to wait for the next; `run()` is a loop around it. All waits are
on a monotonic clock and on a condition, so that a new event, a flush or a close ends them.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .errors import EdgespoolError, FailedFileError, QueueClosed, QueueError, QueueFull, QueueUnavailable
from .event import Batch
from .interfaces import Clock, Destination, Queue
from .outcome import Action, Backoff, Decision, Hold, Outcome, Retry, TooLarge, decide

__all__ = ["Election", "GiveUp", "Policy", "State", "Worker"]

_log = logging.getLogger("edgespool")

_STANDBY_POLL = 0.5  # seconds between tries to become the sender: another takes over within two of a death
_TIDY_PAUSE = 0.05  # seconds between the end of a backlog and the housekeeping after it
_IDLE_POLL = 1.0  # seconds between looks for events of other processes
_UNKNOWN = -1  # stands for a goal that has not been asked for yet
_DRAIN_PAUSE = 0.1  # seconds between the beginnings of drains that nobody waits for
_PROBE_SIZE = 1  # events sent to find out whether a server that failed several times is back
_GROW_AFTER = 50  # deliveries after which a byte limit learned from 413 or a slow network is doubled
_EXPIRED_AT_ONCE = 1000  # events dropped for their age in one go, so that nobody waits long for the queue
_FULL_PAUSE = 2.0  # seconds at most between tries to acknowledge on a full disk
_LOG_AGAIN = 3600.0  # seconds after which a fault that goes on is logged again

#: Writes given-up events to a failed payload file and returns its path; raises FailedFileError.
GiveUp = Callable[[Batch, Decision, int], str]


class Election(Protocol):
    """Which process sends."""

    def acquire(self) -> bool:
        """Try to become the sender, without waiting, or to stay it; return whether we are."""
        ...

    def release(self) -> None:
        """Stop being the sender."""
        ...


@dataclass(frozen=True)
class Policy:
    """How the worker sends. Times are seconds."""

    batch_size: int = 500
    batch_bytes: int = 512 * 1024
    flush_interval: float = 5.0
    max_attempts: int | None = None
    max_age: float | None = None
    max_rate: float | None = None  # events a second
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True)
class State:
    """What the worker is doing. `name` is one of idle, sending, backing off, held, paused, standby, unavailable,
    stopped."""

    name: str = "idle"
    last_error: str | None = None
    next_attempt: float | None = None  # monotonic seconds
    held: tuple[str, ...] = ()  # routes that wait for a person


@dataclass
class _Route:
    """What is known of a route that does not simply flow."""

    attempt: int = 0
    due: float = 0.0
    held: str | None = None
    pieces: list[int] = field(default_factory=list)  # the sizes into which a refused batch was cut


def _kind(decision: Decision) -> str:
    """Return what tells one fault from another. What a server says beside its status may differ each time."""
    return f"{decision.action.value}: {decision.reason if decision.status is None else decision.status}"


class Worker:
    """Sends what the queue holds, one batch at a time.

    Args:
        queue, destination, clock: see `edgespool.interfaces`.
        give_up: writes a failed payload file.
        election: the lock between processes; None when there is only this one.
        policy: limits and waits.
        fraction: random numbers in [0, 1), for the jitter.
        on_delivery: called with each delivered batch.
        on_error: called with an exception and the batch, when a batch is given up, held, or fails for the first time.
        network: a mark of the ways out of this machine; when it changes during an outage, one probe is sent at once.
        on_state: called with each new state.
        ready: says whether what waits is enough to begin sending; a flush does not ask. None: it always is.
        refusal: says why the queue takes no events; None while it does.
    """

    def __init__(
        self,
        queue: Queue,
        destination: Destination,
        clock: Clock,
        *,
        give_up: GiveUp,
        election: Election | None = None,
        policy: Policy | None = None,
        fraction: Callable[[], float] = random.random,
        on_delivery: Callable[[Batch], None] | None = None,
        on_error: Callable[[Exception, Batch], None] | None = None,
        network: Callable[[], frozenset[str]] = frozenset,
        on_state: Callable[[State], None] | None = None,
        ready: Callable[[], bool] | None = None,
        refusal: Callable[[], str | None] | None = None,
    ) -> None:
        self._queue = queue
        self._destination = destination
        self._clock = clock
        self._give_up = give_up
        self._election = election
        self._policy = policy or Policy()
        self._fraction = fraction
        self._on_delivery = on_delivery
        self._on_error = on_error
        self._network = network
        self._on_state = on_state
        self._ready = ready
        self._refusal = refusal
        self.state = self._told = State()
        self.sending = election is None  # whether this process is the sender
        self.on_end: Callable[[], None] | None = None  # called by the thread when it ends
        self._last_error: str | None = None
        self._last_kind = ""  # what of it tells one fault from another
        self._logged: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """Make what belongs to one process anew; also in a forked child, where the thread is gone."""
        # Entered by the lock itself, not by the condition: that is Python code, and a Ctrl-C in the midst of it would
        # leave the lock held for good.
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._progress_lock = threading.RLock()
        self._progressed = threading.Condition(self._progress_lock)
        self._fresh = 0  # events appended since the queue was last found empty or drained
        self._fresh_since: float | None = None
        self._draining = True  # do not wait for the interval
        # The number of the newest event that was there when the draining began. What is newer waits for its own
        # interval: else a program that goes on recording would be served in requests of a few events each.
        self._goal: int | None = None  # None: it has not begun
        self._left = 0  # how many of them may be there yet
        self._full = False  # whether the last request was as large as one may be
        self._settled = False  # whether anything was since it was last asked whether the draining ends
        self._drain_due: float | None = None  # when to begin, as `drain` was asked for
        self._drained_at = -_DRAIN_PAUSE  # when it last began
        self._hurry = False  # somebody called flush
        self._begun = False  # what waited was enough: go on until the queue is drained
        self._paused = False
        self._poked = False  # something happened since the last step began
        self._stop = False
        self._aside = False  # the disk would not do; nothing is sent until it does
        self._disk_gone = False  # and it would do nothing at all, not for want of room
        self._routes: dict[str, _Route] = {}
        self._down_attempt = 0
        self._down_due = 0.0
        self._down_held = False
        self._byte_limit = self._policy.batch_bytes
        self._since_limit = 0
        self._came_back = False  # the last request was a probe, and ended an outage
        self._next_allowed = 0.0  # by max_rate
        self._rationed = False  # the last step had to wait for that, and so has whoever hurries
        self._next_expire = 0.0
        self._expiring = False  # more events are too old than were dropped in this step
        self._known_network = self._network()
        self._thread: threading.Thread | None = None
        self.delivered = 0  # events delivered by this worker
        self.sending = self._election is None

    # --- called from other threads --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self.run, name="edgespool-worker", daemon=True)
                self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the worker's thread: a hook does."""
        return self._thread is threading.current_thread()

    @property
    def paused(self) -> bool:
        """Whether `pause` was called, and `resume` was not."""
        return self._paused

    def pause(self) -> None:
        """Send no more after the request that is under way, until `resume`; another process may send meanwhile."""
        with self._lock:
            self._paused = True
            self._hurry = False
            self._wake.notify()

    def resume(self) -> None:
        """Go on after `pause`."""
        with self._lock:
            if self._paused:
                self._draining, self._goal = True, None
            self._paused = False
            self._poked = True
            self._wake.notify()

    def notify(self, count: int) -> None:
        """Say that so many events were appended."""
        # Without the lock: a wake-up that is missed by a hair is made good by the next poll.
        self._fresh += count
        if self._fresh_since is None or self._disk_gone:  # the disk has just taken one: it works again
            with self._lock:
                self._fresh_since = self._clock.monotonic()
                self._poked = True
                self._wake.notify()
        elif self._fresh >= self._policy.batch_size and not self._draining:
            with self._lock:
                self._draining = self._poked = True
                self._wake.notify()

    def hurry(self) -> None:
        """Send what there is now, without waiting for an interval or a backoff."""
        with self._lock:
            self._hurry = True
            self._goal = None
            self._down_due = 0.0
            for route in list(self._routes.values()):  # the worker adds and removes some meanwhile
                route.due = 0.0
            self._wake.notify()

    def drain(self, awaited: bool = True) -> None:
        """Send what there is without waiting for an interval; a backoff, or a wait that was asked for, goes on.

        Args:
            awaited: whether somebody waits for it. Else it begins a tenth of a second after the last one at the
                earliest, so that frequent calls share a request.
        """
        with self._lock:
            if awaited:
                self._draining, self._goal = True, None
            elif self._drain_due is None:
                self._drain_due = self._drained_at + _DRAIN_PAUSE
            else:
                return
            self._poked = True
            self._wake.notify()

    def wait_for_progress(self, timeout: float) -> None:
        """Wait until something was settled, or `timeout` seconds."""
        with self._progress_lock:
            self._progressed.wait(timeout)

    def stop(self, timeout: float | None) -> bool:
        """End the thread after what it is doing; return whether it has ended within `timeout` seconds (None, inf: wait
        for its end)."""
        with self._lock:
            self._stop = True
            self._wake.notify()
        thread = self._thread
        if thread is None:
            return True
        if timeout is not None and timeout > threading.TIMEOUT_MAX:  # more than the system takes, for example inf
            timeout = None
        if not self.is_current:  # else it ends once the caller, a hook, has returned
            thread.join(timeout)
        return not thread.is_alive()

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Send until `stop` is called. What goes wrong is logged, and tried again."""
        trouble = 0
        try:
            while not self._stop:
                self._poked = self._rationed = False
                try:
                    pause = self.step()
                    trouble = 0
                except QueueClosed:
                    return
                except Exception as error:  # noqa: BLE001 - the thread must outlive every fault but its stop
                    trouble += 1
                    self._complain(f"worker: {type(error).__name__}: {error}", error)
                    # Room is soon made, and looked for in little time.
                    most = _FULL_PAUSE if isinstance(error, QueueFull) else 60.0
                    pause = min(most, 0.5 * 2 ** min(trouble, 8))
                    self._stand_aside(error, pause)
                with self._lock:
                    hurry = self._hurry and not self._rationed
                    if not (self._stop or hurry or self._poked) and pause > 0:
                        self._wake.wait(pause)
            if self.sending and self.state.name == "idle":
                with contextlib.suppress(QueueError):
                    self._quietly_maintain(True)  # a script of cron's may never be idle for longer
        finally:
            self._set_state("stopped")
            self._destination.close()
            if self._election is not None:
                self._election.release()
            self.sending = False
            if self.on_end is not None:
                self.on_end()

    def _stand_aside(self, error: Exception, pause: float) -> None:
        """Say what is wrong, and hold on to no file meanwhile: it would keep the disk from being mounted anew.

        On a full disk the sender stays the sender: another would send again what could not be acknowledged.
        """
        self._aside = isinstance(error, (QueueError, OSError))
        no_disk = self._disk_gone = self._aside and not isinstance(error, QueueFull)
        name = "unavailable" if self._aside else "backing off"
        self._set_state(name, self._clock.monotonic() + pause, f"{type(error).__name__}: {error}")
        with self._lock:  # or whoever hurries would have it tried again without a pause
            self._draining = self._draining or self._hurry
            self._hurry = False
        if no_disk and self._election is not None:
            self._election.release()
            self.sending = False

    def step(self) -> float:
        """Do at most one sending; return the seconds until the next step is due."""
        self._expiring = False
        pause = self._step()
        return 0.0 if self._expiring else pause

    def _step(self) -> float:
        if self._paused:
            if self._election is not None and self.sending:
                self._election.release()
                self.sending = False
            self._hurry = False
            self._set_state("paused")
            return _IDLE_POLL
        if self._election is not None:
            before, self.sending = self.sending, self._election.acquire()
            if not self.sending:
                self._set_state("standby")
                self._hurry = False
                return _STANDBY_POLL
            if not before:
                self._draining, self._goal = True, None
        if self._aside:
            self._queue.maintain(False)
            self._aside = self._disk_gone = False
        now = self._clock.monotonic()
        if self._policy.max_age is not None and now >= self._next_expire:
            self._next_expire = now + 1.0
            self._quietly_expire(self._policy.max_age, now)
        self._look_at_network(now)
        if now < self._down_due:
            self._quietly_maintain(False)
            self._set_state("held" if self._down_held else "backing off", self._down_due)
            return min(self._down_due - now, _IDLE_POLL)
        if now < self._next_allowed:
            self._rationed = True
            return self._next_allowed - now
        if self._settled:
            self._settled = False
            self._end_drain(now)
        if not self._due(now):
            self._begun = self._begun and bool(self._waits(now))
            self._quietly_maintain(True)
            return self._idle_pause(now)
        if not self._enough():
            self._draining, self._fresh, self._fresh_since, self._drain_due = False, 0, None, None
            self._rest(now)
            return _IDLE_POLL
        batch = self._lease(now)
        if batch is None:
            return self._nothing_to_send(now)
        if self._paused:  # since this step began; what is leased may have been recorded after that
            self._queue.requeue(batch)
            self._draining = True
            return 0.0
        self._set_state("sending")
        try:
            try:
                outcome = self._destination.send(batch)
            except Exception as error:  # noqa: BLE001 - it should raise nothing; a third party's may
                outcome = Retry(f"{type(error).__name__}: {error}")
            self._act(batch, outcome)
        except BaseException:
            self._queue.requeue(batch)  # else it would stay leased; what was settled meanwhile stays settled
            raise
        self._quietly_maintain(False)
        return 0.0

    def _due(self, now: float) -> bool:
        """Whether a batch should be sent now rather than wait for more events."""
        since = self._fresh_since
        return (
            self._draining
            or self._hurry
            or self._fresh >= self._policy.batch_size
            or (since is not None and now >= since + self._policy.flush_interval)
            or (self._drain_due is not None and now >= self._drain_due)
            or any(0 < route.due <= now for route in self._routes.values())
        )

    def _waits(self, now: float) -> list[float]:
        """Return when the routes that back off or are held are due."""
        return [route.due for route in self._routes.values() if route.due > now]

    def _begin_drain(self, now: float) -> None:
        self._goal = _UNKNOWN
        # First these, then the goal: events that come in from now on are announced anew.
        self._fresh, self._fresh_since, self._drain_due = 0, None, None
        self._drained_at = now
        ledger = self._queue.ledger()
        self._left = ledger.pending
        with self._lock:
            if self._goal is not None:  # else somebody has asked for more meanwhile
                self._goal = ledger.accepted

    def _end_drain(self, now: float) -> None:
        """When all has gone that the draining is for, have what came later wait for its own interval."""
        if self._left > 0 and not self._routes and self._full:
            # Some are left, as far as is known here, and requests are full: no need to ask the disk. Were they gone
            # another way (a purge, a limit), the first request that is not full would tell.
            return
        goal = self._goal
        oldest = self._queue.oldest_sequence(self._blocked(now))
        if goal is None or oldest is None or oldest <= goal:
            return
        with self._lock:
            if self._goal != goal:
                return  # somebody has asked for more meanwhile
            self._draining = self._hurry = self._begun = False
            self._goal = None
        self._rest(now)
        self._tell_progress()

    def _enough(self) -> bool:
        """Whether so many events wait that sending may begin, or it has begun and goes on."""
        if self._ready is None or self._hurry:
            return True
        if not self._begun:
            self._begun = self._ready()
        return self._begun

    def _idle_pause(self, now: float) -> float:
        dues = [now + _IDLE_POLL, *self._waits(now)]
        if self._drain_due is not None:
            dues.append(self._drain_due)
        if self._fresh_since is not None:
            return max(0.0, min(*dues, self._fresh_since + self._policy.flush_interval) - now)
        # Nobody told us of an event; another process may have written one.
        batch = self._queue.lease(1, 1, self._blocked(now))
        if batch is not None:
            self._queue.requeue(batch)
            self._fresh_since = now
            dues.append(now + self._policy.flush_interval)
        else:
            self._rest(now)
        return max(0.0, min(dues) - now)

    def _blocked(self, now: float) -> set[str]:
        return {name for name, route in self._routes.items() if route.due > now}

    def _lease(self, now: float) -> Batch | None:
        if self._goal is None or self._goal == _UNKNOWN:
            self._begin_drain(now)
        blocked = self._blocked(now)
        limit, size = self._policy.batch_size, self._byte_limit
        if self._policy.max_attempts is None and self._down_attempt >= 2:
            limit = _PROBE_SIZE
        batch = None
        for name, route in self._routes.items():
            if route.pieces and name not in blocked:  # finish what was cut before anything else
                batch = self._queue.lease(min(route.pieces[0], limit), size, route=name)
                if batch is None:
                    route.pieces.clear()  # a limit of the user's has dropped them
                    continue
                break
        if batch is None:
            batch = self._queue.lease(limit, size, blocked)
        if batch is None:
            return None
        state = self._routes.get(batch.route)
        if state is not None and self._policy.max_attempts is None and state.attempt >= 2 and len(batch) > _PROBE_SIZE:
            batch = self._keep(batch, _PROBE_SIZE)
        try:
            count = operator.index(self._destination.take(batch.events))
            kept = self._keep(batch, max(count, 1)) if count < len(batch) else batch
        except BaseException:  # also a third party's that returns no whole number
            self._queue.requeue(batch)
            raise
        batch = kept
        self._draining = True  # until there is nothing left up to the goal: other routes may have some, too
        return batch

    def _keep(self, batch: Batch, count: int) -> Batch:
        kept, rest = batch.cut(count)
        self._queue.requeue(rest)
        self._draining = True
        return kept

    def _nothing_to_send(self, now: float) -> float:
        with self._lock:
            if self._goal is not None:  # else somebody has asked for more meanwhile
                self._draining = self._hurry = False
                self._goal = None
        self._tell_progress()
        # Of the others nothing is left.
        self._routes = {name: route for name, route in self._routes.items() if route.due > now}
        self._rest(now)
        waits = self._waits(now)
        if not waits:
            return _TIDY_PAUSE  # housekeeping keeps the queue busy: who waits for its end is to be told first
        self._quietly_maintain(False)
        return min(min(waits) - now, _IDLE_POLL)

    def _rest(self, now: float) -> None:
        waits = self._waits(now)
        if not waits:
            self._set_state("idle")
            return
        held = any(route.held for route in self._routes.values())
        self._set_state("held" if held else "backing off", min(waits))

    def _look_at_network(self, now: float) -> None:
        """During an outage, probe at once when the machine has got another way out."""
        if now >= self._down_due or self._down_held:
            return
        mark = self._network()
        if mark != self._known_network:
            self._known_network = mark
            if mark:
                self._down_due = min(self._down_due, now + self._fraction())

    # --- what follows from an outcome -----------------------------------------------------------------------------

    def _act(self, batch: Batch, outcome: Outcome) -> None:
        now = self._clock.monotonic()
        route = self._routes.get(batch.route) or _Route()
        everywhere = isinstance(outcome, (Retry, Hold)) and outcome.everywhere
        # A limit on attempts counts this batch's failures, whatever they were.
        attempt = route.attempt + 1
        limit = self._policy.max_attempts
        decision = decide(
            outcome,
            self._down_attempt + 1 if everywhere and limit is None else attempt,
            now,
            size=len(batch),
            fraction=self._fraction(),
            backoff=self._policy.backoff,
            max_attempts=limit,
        )
        if everywhere and self._came_back:
            self._send_less(batch)  # one event went through, this did not: too much for so slow a network
        self._came_back = decision.action is Action.ACK and self._down_attempt >= 2 and limit is None
        if not isinstance(outcome, (Retry, Hold)) or not everywhere:
            self._down_attempt, self._down_held = 0, False
        if decision.action is Action.ACK:
            self._delivered(batch, now)
        elif decision.action is Action.SPLIT:
            self._split(batch, route, isinstance(outcome, TooLarge))
        elif decision.action is Action.GIVE_UP:
            self._abandon(batch, route, decision, attempt, now)
        else:
            self._postpone(batch, route, decision, attempt, everywhere)

    def _delivered(self, batch: Batch, now: float) -> None:
        self.delivered += len(batch)
        self._progress(batch)
        if self._last_error is not None and not any(route.attempt for route in self._routes.values()):
            _log.info("delivery goes on")
            self._last_error = None
            self._logged.clear()
            self._set_state("sending")  # before the events are settled: who sees them gone must see no old error
        if self._policy.max_rate:
            self._next_allowed = now + len(batch) / self._policy.max_rate
        self._since_limit += 1
        if self._byte_limit < self._policy.batch_bytes and self._since_limit >= _GROW_AFTER:
            self._byte_limit = min(self._policy.batch_bytes, 2 * self._byte_limit)
            self._since_limit = 0
        self._settle(batch, "delivered")
        self._call(self._on_delivery, batch)

    def _progress(self, batch: Batch) -> None:
        """The head of the route has gone: whatever counted against it is over."""
        route = self._routes.get(batch.route)
        if route is None:
            return
        route.attempt, route.due, route.held = 0, 0.0, None
        left = len(batch)
        while route.pieces and left > 0:  # a piece may have gone in several parts
            step = min(left, route.pieces[0])
            left -= step
            route.pieces[0] -= step
            if not route.pieces[0]:
                route.pieces.pop(0)
        if not route.pieces:
            del self._routes[batch.route]

    def _split(self, batch: Batch, route: _Route, too_large: bool) -> None:
        self._queue.requeue(batch)
        self._draining = True
        size = len(batch)
        if too_large:
            self._send_less(batch)
            if batch.payload_bytes > 1:
                return  # the next one holds fewer bytes; of events without any it would hold as many
        left = size // 2
        if route.pieces:
            rest = route.pieces[0] - size
            route.pieces[:1] = [left, size - left] + ([rest] if rest > 0 else [])
        else:
            route.pieces = [left, size - left]
        self._routes[batch.route] = route

    def _send_less(self, batch: Batch) -> None:
        self._byte_limit = max(1, min(self._byte_limit, batch.payload_bytes) // 2)
        self._since_limit = 0

    def _abandon(self, batch: Batch, route: _Route, decision: Decision, attempt: int, now: float) -> None:
        """Write a failed payload file, then take the events off the queue: a crash in between repeats, never loses."""
        try:
            path = self._give_up(batch, decision, attempt)
        except Exception as error:  # noqa: BLE001 - no room for the file, or a format that cannot render
            # Then the events stay where they are.
            text = str(error) if isinstance(error, FailedFileError) else f"{type(error).__name__}: {error}"
            self._complain(text, error)
            self._queue.requeue(batch)
            route.attempt = attempt
            route.due = now + self._policy.backoff.wait(attempt, max(self._fraction(), 0.5))
            self._routes[batch.route] = route
            return
        given_up = EdgespoolError(f"{len(batch)} event(s) given up ({decision.reason}); they are in {path}")
        self._complain(f"given up: {_kind(decision)}", given_up, str(given_up))
        self._progress(batch)
        self._settle(batch, "failed")
        self._call(self._on_error, given_up, batch)

    def _postpone(self, batch: Batch, route: _Route, decision: Decision, attempt: int, everywhere: bool) -> None:
        self._queue.requeue(batch)
        self._draining = True
        paused = decision.action is Action.PAUSE
        kind = _kind(decision)
        first = self._last_error is None or self._last_kind != kind
        self._last_error, self._last_kind = decision.reason, kind
        with self._lock:  # or who hurries in between would have it tried again and again without a pause
            self._hurry = False
            if everywhere:
                self._down_attempt += 1
                self._down_due = decision.due
                self._down_held = paused
                self._known_network = self._network()
                if self._policy.max_attempts is not None:
                    route.attempt = attempt
                    self._routes[batch.route] = route
            else:
                route.attempt = attempt
                route.due = decision.due
                route.held = decision.reason if paused else None
                self._routes[batch.route] = route
        error = EdgespoolError(decision.reason)
        if paused:
            where = f" for route {batch.route!r}" if batch.route else ""
            self._complain(
                kind, error,
                f"delivery is on hold{where}: {decision.reason}. Nothing is lost; once it is mended, delivery goes on",
            )  # fmt: skip
        else:
            self._complain(kind, error, f"delivery failed, will be tried again: {decision.reason}")
        if first:
            self._call(self._on_error, error, batch)

    def _settle(self, batch: Batch, ledger: str) -> None:
        try:
            self._queue.ack(batch, ledger)
        except QueueError as error:
            # The queue remembers what is settled, and writes it as soon as the disk lets it. On a full one nothing
            # more is sent before: that would be sent again, should this process end. The housekeeping sees to it.
            self._complain(f"acknowledging: {error}", error)
        self._left -= len(batch)
        self._full = len(batch) >= self._policy.batch_size
        if len(batch) < self._policy.batch_size:  # not at each step of a long drain: who waits would slow it
            self._tell_progress()
        self._settled = True

    def _tell_progress(self) -> None:
        with self._progress_lock:
            self._progressed.notify_all()

    def _quietly_expire(self, max_age: float, now: float) -> None:
        try:
            dropped = self._queue.expire(max_age, _EXPIRED_AT_ONCE)
            if dropped:
                self._next_expire = now  # there may be more
            self._expiring = dropped >= _EXPIRED_AT_ONCE
        except QueueClosed:
            raise
        except QueueError as error:
            self._complain(f"expiring: {error}", error)

    def _quietly_maintain(self, idle: bool) -> None:
        try:
            self._queue.maintain(idle)
        except (QueueClosed, QueueUnavailable, QueueFull):
            raise
        except QueueError as error:
            self._complain(f"housekeeping: {error}", error)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _set_state(self, name: str, due: float | None = None, fault: str | None = None) -> None:
        held = tuple(sorted(route for route, each in self._routes.items() if each.held))
        self.state = state = State(name, fault or self._last_error, due, held)
        refusal = self._refusal() if self._refusal is not None else None
        if refusal is not None and name not in ("unavailable", "stopped"):
            state = State("unavailable", refusal, due, held)  # delivery goes on, but nothing can be recorded
        if state != self._told:
            self._told = state
            self._call(self._on_state, state)

    def _complain(self, key: str, error: BaseException, text: str | None = None) -> None:
        """Log a fault once, and then rarely for as long as it goes on."""
        now = self._clock.monotonic()
        last = self._logged.get(key)
        if last is None or now - last >= _LOG_AGAIN:
            if len(self._logged) > 100:
                self._logged.clear()
            self._logged[key] = now
            _log.warning("%s", text or key)
        if not isinstance(error, EdgespoolError):
            _log.debug("traceback of the above", exc_info=error)

    def _call(self, hook: Callable[..., None] | None, *args: object) -> None:
        """Call a hook of the user's; what it raises is logged and hurts nobody."""
        if hook is None:
            return
        try:
            hook(*args)
        except BaseException as error:  # noqa: BLE001 - also a SystemExit, which would end the thread without a word
            self._complain(f"hook {getattr(hook, '__name__', hook)!r} raised {type(error).__name__}: {error}", error)
