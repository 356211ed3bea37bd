"""The worker when all is well: order, batches, intervals, rates, hooks, and who sends."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from unit_kit import record
from worker_kit import Rig

from edgespool.errors import QueueClosed, QueueError, QueueFull, QueueUnavailable
from edgespool.event import Batch
from edgespool.interfaces import Ledger
from edgespool.outcome import Delivered, Hold, Outcome, Retry
from edgespool.testing import FakeClock, MemoryQueue


def test_events_are_delivered_in_order_and_acknowledged() -> None:
    rig = Rig(policy={"batch_size": 3})
    rig.add(*"abcdefgh")
    rig.drain()
    assert rig.sent == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert rig.destination.delivered_ids == list("abcdefgh")
    assert rig.queue.ledger().delivered == 8
    assert (rig.worker.delivered, [batch.ids for batch in rig.delivered]) == (8, rig.sent)
    rig.check()


def test_each_request_holds_events_of_one_route_the_oldest_first() -> None:
    rig = Rig()
    for name, route in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "")):
        rig.add(name, route=route)
    rig.drain()
    assert [(batch.route, batch.ids) for batch in rig.destination.batches] == [
        ("x", ["a", "c"]), ("y", ["b"]), ("", ["d"]),
    ]  # fmt: skip


def test_a_batch_keeps_to_the_limit_by_bytes() -> None:
    rig = Rig(policy={"batch_bytes": 1000})
    rig.add(*range(10), size=300)
    rig.add("large", size=5000)
    rig.drain()
    assert [len(ids) for ids in rig.sent] == [3, 3, 3, 1, 1]


def test_a_destination_that_takes_fewer_gets_fewer_in_order() -> None:
    rig = Rig(most=2)
    rig.add(*"abcde")
    rig.drain()
    assert rig.sent == [["a", "b"], ["c", "d"], ["e"]]


# When it sends


def idle(**policy: Any) -> Rig:
    """Return a rig whose worker has found the queue empty."""
    rig = Rig(policy=policy)
    rig.run(3)
    assert rig.worker.state.name == "idle"
    return rig


def test_an_event_waits_for_others_no_longer_than_the_interval() -> None:
    rig = idle(flush_interval=5.0)
    rig.add("a")
    begin = rig.clock.monotonic()
    rig.run(2)
    rig.add("b")
    rig.run(2.9)
    assert rig.sent == []
    rig.run(0.2)
    assert rig.sent == [["a", "b"]]
    assert rig.sent_at == [pytest.approx(begin + 5.0)]
    rig.add("c")  # and the next wait begins anew
    rig.run(4.5)
    assert len(rig.sent) == 1
    rig.run(1)
    assert rig.sent[1:] == [["c"]]


def test_a_full_batch_goes_at_once() -> None:
    rig = idle(flush_interval=60.0, batch_size=3)
    rig.add("a", "b")
    rig.run(2)
    assert rig.sent == []
    rig.add("c", "d")
    rig.step()
    assert rig.sent == [["a", "b", "c"]]


def test_with_no_interval_an_event_goes_at_once() -> None:
    rig = idle(flush_interval=0.0)
    rig.add("a")
    rig.step()
    assert rig.sent == [["a"]]


def test_a_hurry_sends_what_there_is_and_ends() -> None:
    rig = idle(flush_interval=60.0, batch_size=2)
    rig.add(*"abc")
    rig.add("d")
    rig.worker.hurry()
    rig.run(1)
    assert rig.sent == [["a", "b"], ["c", "d"]]
    rig.add("e")
    rig.run(10)
    assert len(rig.sent) == 2


class Busy:
    """A program that records an event each time something is sent, and the rig that serves it."""

    def __init__(self, **policy: Any) -> None:
        self.recorded = 0
        self.route = ""
        self.rig = Rig(self.answer, policy=policy)
        self.rig.run(3)

    def answer(self, batch: Batch) -> Outcome:
        self.record()
        return Delivered()

    def record(self, count: int = 1) -> None:
        self.rig.add(*range(self.recorded, self.recorded + count), route=self.route)
        self.recorded += count

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self.rig.sent))


def test_a_program_that_goes_on_recording_is_served_in_full_batches() -> None:
    busy = Busy(batch_size=10, flush_interval=5.0)
    busy.record(10)
    busy.rig.run(1)
    assert busy.sizes == [10]  # what was recorded meanwhile waits for others, as it always does
    busy.record(8)
    busy.rig.run(1)
    assert busy.sizes == [10]
    busy.rig.run(4)
    assert busy.sizes == [10, 9]
    busy.record(9)
    busy.rig.run(1)
    assert busy.sizes == [10, 9, 10]
    busy.rig.check()


def test_a_drain_ends_though_its_events_have_gone_another_way() -> None:
    busy = Busy(batch_size=10, flush_interval=60.0)
    busy.record(50)
    busy.rig.step()
    assert busy.sizes == [10]
    while (batch := busy.rig.queue.lease(100, 1 << 30)) is not None:
        busy.rig.queue.ack(batch, "dropped:purged")
    busy.record(2)
    busy.rig.run(30)
    assert busy.sizes in ([10, 2], [10, 3]), "what was recorded since waits for others"


def test_a_hurry_and_a_drain_end_though_the_program_goes_on_recording() -> None:
    busy = Busy(batch_size=10, flush_interval=60.0)
    for ask in (busy.rig.worker.hurry, busy.rig.worker.drain):
        busy.rig.destination.batches.clear()
        busy.record(25 - busy.rig.queue.ledger().pending)
        ask()
        busy.rig.run(2)
        assert busy.sizes == [10, 10, 7]  # the last takes along what came during the first two
        assert busy.rig.queue.ledger().pending == 1
    busy.rig.run(60)
    assert busy.sizes == [10, 10, 7, 1]


def test_when_the_interval_is_over_the_events_of_all_routes_go() -> None:
    rig = idle(flush_interval=60.0)
    for name, route in (("a", "x"), ("b", "y"), ("c", "z"), ("d", "x")):
        rig.add(name, route=route)
    rig.run(60.5)
    assert rig.sent == [["a", "d"], ["b"], ["c"]]


@pytest.mark.parametrize("outcome", [Hold("HTTP 401", 401), Retry("HTTP 503", 503, after=50.0)])
def test_beside_a_route_that_waits_the_others_go_in_batches_as_ever(outcome: Outcome) -> None:
    rig = Rig(lambda batch: outcome if batch.route == "x" else Delivered(), policy={"flush_interval": 5.0})
    rig.add("a", route="x")
    rig.run(1)
    rig.destination.batches.clear()
    for name in "bcdefghij":
        rig.add(name, route="y")
        rig.worker.step()
        rig.clock.advance(1.0)
    rig.run(8)
    sizes = [len(batch) for batch in rig.destination.batches if batch.route == "y"]
    assert sum(sizes) == 9
    assert len(sizes) <= (4 if isinstance(outcome, Hold) else 2)  # each probe of a held route takes some along
    assert rig.worker.state.name == ("held" if isinstance(outcome, Hold) else "backing off")
    outcome = Delivered()
    rig.run(301)
    assert rig.sent[-1] == ["a"]
    assert rig.worker.state.name == "idle"
    rig.check()


def test_a_route_whose_events_are_gone_when_it_is_due_keeps_nobody_busy() -> None:
    rig = Rig(script=[Retry("HTTP 503", 503, after=5.0)])
    rig.add("a", route="x")
    rig.run(1)
    rig.clock.advance(1.0)
    gone = rig.queue.lease(1, 1)
    assert gone is not None
    rig.queue.ack(gone, "dropped:max_age")
    rig.run(5)
    steps = 0
    end = rig.clock.monotonic() + 60
    while rig.clock.monotonic() < end:
        rig.step()
        steps += 1
    assert steps < 70
    assert rig.worker.state.name == "idle"


def test_what_failed_is_tried_again_before_what_came_later_has_waited() -> None:
    rig = Rig(script=[Retry("HTTP 503", 503)], policy={"flush_interval": 60.0})
    rig.run(3)
    rig.add("a")
    rig.worker.drain()
    rig.step()
    rig.add("b")
    rig.run(2)
    assert rig.sent == [["a"], ["a", "b"]]


def test_drains_that_nobody_waits_for_share_requests() -> None:
    rig = idle(flush_interval=60.0)
    pauses = []
    for name in "abcdefgh":
        rig.add(name)
        rig.worker.drain(awaited=False)
        pauses.append(rig.worker.step())
        rig.clock.advance(0.03)
    rig.run(0.1)
    assert rig.sent == [["a"], ["b", "c", "d", "e"], ["f", "g", "h"]]
    assert pauses[1] == pytest.approx(0.07)  # the next may begin a tenth of a second after the first
    rig.run(1)
    rig.add("i")
    rig.worker.drain(awaited=False)
    rig.step()
    assert rig.sent[-1] == ["i"]


def test_a_drain_that_the_disk_would_not_let_begin_begins_later(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(policy={"flush_interval": 60.0}, most=1)
    rig.run(3)
    rig.add("a", "b")
    rig.worker.drain()
    ledger = rig.queue.ledger
    monkeypatch.setattr(rig.queue, "ledger", lambda: (_ for _ in ()).throw(QueueUnavailable("no disk")))
    with pytest.raises(QueueUnavailable):
        rig.worker.step()
    monkeypatch.setattr(rig.queue, "ledger", ledger)
    rig.run(2)
    assert rig.sent == [["a"], ["b"]]


def test_a_full_batch_that_comes_during_a_drain_goes_with_it() -> None:
    busy = Busy(batch_size=10, flush_interval=60.0)
    busy.record(1)
    busy.rig.worker.drain()
    busy.rig.destination.answer = lambda batch: busy.record(10 if len(busy.rig.sent) == 1 else 0) or Delivered()
    busy.rig.run(2)
    assert busy.sizes == [1, 10]


def test_a_full_batch_waits_for_no_drain_and_an_awaited_drain_for_none_before_it() -> None:
    rig = idle(flush_interval=60.0, batch_size=3)
    rig.worker.drain(awaited=False)
    rig.add("a")
    rig.step()
    rig.worker.drain(awaited=False)
    rig.add("b", "c", "d")
    rig.step()
    assert rig.sent == [["a"], ["b", "c", "d"]]
    rig.add("e")
    rig.worker.drain()
    rig.step()
    assert rig.sent[-1] == ["e"]


@pytest.mark.parametrize("ask", ["drain", "hurry"])
def test_what_is_asked_for_while_the_worker_looks_is_not_forgotten(ask: str) -> None:
    """The moments in which it may come: while the worker asks what there is, and while it finds nothing more."""

    class Queue(MemoryQueue):
        asked, when = False, ""

        def interrupt(self, what: str) -> None:
            if what == self.when and not self.asked:
                self.asked = True
                rig.add("late")
                getattr(rig.worker, ask)()

        def ledger(self) -> Ledger:
            found = super().ledger()
            self.interrupt("ledger")
            return found

        def lease(self, *args: Any, **kwargs: Any) -> Batch | None:
            found = super().lease(*args, **kwargs)
            if found is None:
                self.interrupt("lease")
            return found

        def oldest_sequence(self, *args: Any) -> int | None:
            if self.when == "oldest" and not self.asked:
                rig.add("early")
            found = super().oldest_sequence(*args)
            self.interrupt("oldest")
            return found

    for when in ("ledger", "lease", "oldest"):
        clock = FakeClock()
        queue = Queue(clock=clock)
        rig = Rig(queue=queue, clock=clock, policy={"flush_interval": 60.0}, most=1)
        rig.run(3)
        queue.when = when
        rig.add("a")
        rig.worker.drain()
        rig.run(2)
        assert queue.asked
        between = ["early"] if when == "oldest" else []
        assert rig.destination.delivered_ids == ["a", *between, "late"], when


def test_a_drain_ends_the_wait_for_other_events_but_no_backoff() -> None:
    rig = Rig(script=[Delivered(), Retry("busy", 429, after=60.0)], policy={"flush_interval": 600.0})
    rig.run(3)
    rig.add("a")
    rig.run(2)
    rig.worker.drain()
    rig.step()
    assert rig.sent == [["a"]]
    rig.add("b")
    rig.worker.drain()
    rig.run(3)
    assert rig.sent == [["a"], ["b"]]
    rig.worker.drain()
    rig.run(50)
    assert len(rig.sent) == 2, "the server asked to be left alone for a minute"
    rig.run(30)
    assert rig.sent == [["a"], ["b"], ["b"]]


def test_what_waited_before_the_start_goes_at_once() -> None:
    rig = Rig(policy={"flush_interval": 60.0, "batch_size": 2})
    rig.queue.on_append = None
    rig.add(*"abc")
    rig.run(1)
    assert rig.sent == [["a", "b"], ["c"]]


def test_an_event_that_nobody_announced_is_found_within_a_second_and_the_interval() -> None:
    rig = idle(flush_interval=2.0)
    rig.queue.on_append = None  # as if another process had written it
    rig.add("a")
    begin = rig.clock.monotonic()
    rig.run(5)
    assert rig.sent == [["a"]]
    assert rig.sent_at[0] - begin <= 3.0


def test_a_rate_is_kept_to() -> None:
    rig = Rig(policy={"max_rate": 10.0, "batch_size": 5})
    rig.add(*range(50))
    begin = rig.clock.monotonic()
    rig.drain()
    assert rig.sent_at == [pytest.approx(begin + 0.5 * n) for n in range(10)]


def test_what_is_too_old_is_dropped_and_counted_not_sent() -> None:
    rig = Rig(Retry("down", everywhere=True), policy={"max_age": 100.0})
    rig.add(*range(2500))
    rig.run(50)
    rig.add("young")
    rig.run(60)
    ledger = rig.queue.ledger()
    assert (ledger.dropped, ledger.pending) == ({"max_age": 2500}, 1)
    rig.destination.answer = Delivered()
    rig.drain()
    assert rig.destination.delivered_ids == ["young"]


def test_in_an_outage_all_that_is_too_old_is_dropped_at_once() -> None:
    rig = Rig(Retry("down", everywhere=True), policy={"max_age": 100.0})
    rig.add(*range(5500))
    rig.run(99)
    rig.add("young")
    rig.run(4)
    ledger = rig.queue.ledger()
    assert (ledger.dropped, ledger.pending) == ({"max_age": 5500}, 1)
    assert rig.step() > 0


# Hooks


def test_hooks_that_raise_hurt_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def explode(*args: Any) -> None:
        raise RuntimeError("in the hook")

    rig = Rig(script=[Retry("down")], on_delivery=explode, on_error=explode, on_state=explode, policy={"batch_size": 1})
    rig.add(*"abc")
    rig.drain()
    rig.run(5)
    assert rig.destination.delivered_ids == ["a", "b", "c"]
    assert len([r for r in caplog.records if "hook" in r.getMessage()]) <= 3  # once for each hook
    rig.check()


def test_on_delivery_is_called_after_the_acknowledgement() -> None:
    pending: list[int] = []
    rig = Rig(on_delivery=lambda batch: pending.append(rig.queue.ledger().pending))
    rig.add(*"ab")
    rig.drain()
    assert pending == [0]


# What goes wrong beside the sending


class Faulty(MemoryQueue):
    """A queue whose disk refuses now and then."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.refuse: set[str] = set()
        self.asked: list[str] = []
        self.owed: list[tuple[Batch, str]] = []

    def _refuse(self, what: str) -> None:
        self.asked.append(what)
        if what in self.refuse:  # of housekeeping, QueueFull would say that acknowledgements are owed
            raise (QueueError if what == "maintain" else QueueFull)(f"no room to {what}")

    def ack(self, batch: Batch, ledger: str = "delivered") -> int:
        self.owed.append((batch, ledger))  # as the disk queue remembers it
        self._refuse("ack")
        return sum(super(Faulty, self).ack(*self.owed.pop(0)) for _ in list(self.owed))

    def maintain(self, idle: bool) -> None:
        self._refuse("maintain")
        if self.owed and "ack" not in self.refuse:
            self.ack(*self.owed.pop())

    def expire(self, max_age: float, limit: int = 1000) -> int:
        self._refuse("expire")
        return super().expire(max_age, limit)


@pytest.mark.parametrize("what", ["ack", "maintain", "expire"])
def test_a_disk_that_refuses_does_not_stop_the_delivery(what: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    queue = Faulty(clock=clock)
    rig = Rig(queue=queue, clock=clock, policy={"batch_size": 2, "max_age": 1e6, "flush_interval": 1.0})
    queue.refuse = {what}
    rig.add(*"abcdef")
    rig.run(5)
    assert rig.destination.delivered_ids == list("abcdef")
    assert len([r for r in caplog.records if "no room to" in r.getMessage()]) == 1
    queue.refuse = set()
    rig.run(5)
    assert rig.destination.delivered_ids == list("abcdef")  # nothing was sent twice
    assert rig.queue.ledger().delivered == 6
    rig.check()


def test_a_destination_that_raises_is_a_failure_like_any_other() -> None:
    rig = Rig(script=[RuntimeError("not in the contract"), ValueError("again")])
    rig.add(*"ab")
    rig.add("c", route="other")
    rig.drain()
    assert sorted(rig.destination.delivered_ids) == ["a", "b", "c"]
    assert "RuntimeError: not in the contract" in str(rig.errors[0][0])
    rig.check()


@pytest.mark.parametrize("count", [RuntimeError("cannot count"), None, 1.5, "1"])
def test_a_destination_that_cannot_count_strands_no_event(count: Any) -> None:
    rig = Rig()
    take = rig.destination.take

    def broken(events: Any) -> Any:
        rig.destination.take = take  # type: ignore[method-assign]
        if isinstance(count, Exception):
            raise count
        return count

    rig.destination.take = broken  # type: ignore[method-assign]
    rig.add(*"ab")
    with pytest.raises((RuntimeError, TypeError)):
        rig.worker.step()
    rig.run(10)  # not until all has gone, which may be never
    assert rig.destination.delivered_ids == ["a", "b"]


# Who sends


class Election:
    def __init__(self) -> None:
        self.won = False
        self.released = 0

    def acquire(self) -> bool:
        return self.won

    def release(self) -> None:
        self.released += 1


def test_only_the_process_that_is_elected_sends() -> None:
    election = Election()
    rig = Rig(election=election)
    rig.add("a")
    assert 0 < rig.step() <= 2.0  # another takes over within two seconds
    rig.run(10)
    assert (rig.sent, rig.worker.state.name, rig.worker.sending) == ([], "standby", False)
    election.won = True
    rig.run(1)
    assert rig.sent == [["a"]]
    assert rig.worker.sending


def interrupted(rig: Rig) -> None:
    """Fail with one event, which stays due, and go on to the next step."""
    rig.run(3)
    rig.add("a")
    rig.worker.drain()
    rig.step()
    assert rig.sent == [["a"]]


def test_what_another_process_recorded_while_it_sent_goes_at_once_after_it() -> None:
    election = Election()
    election.won = True
    rig = Rig(script=[Retry("HTTP 503", 503)], election=election, policy={"flush_interval": 60.0}, most=1)
    interrupted(rig)
    election.won = False
    rig.run(3)
    rig.queue.on_append = None
    rig.add("b", "c")
    election.won = True
    rig.run(3)
    assert rig.sent == [["a"], ["a"], ["b"], ["c"]]


def test_what_was_recorded_during_a_pause_goes_at_once_after_it() -> None:
    rig = Rig(script=[Retry("HTTP 503", 503)], policy={"flush_interval": 60.0}, most=1)
    interrupted(rig)
    rig.worker.pause()
    rig.run(3)
    rig.add("b", "c")
    rig.worker.resume()
    rig.run(3)
    assert rig.sent == [["a"], ["a"], ["b"], ["c"]]


# The thread


class Gate:
    """Answers a batch once it is let through."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.open = threading.Event()

    def __call__(self, batch: Batch) -> Outcome:
        self.came.set()
        assert self.open.wait(20)
        return Delivered()


def test_the_thread_sends_until_it_is_stopped() -> None:
    done = threading.Event()
    election = Election()
    election.won = True
    rig = Rig(on_delivery=lambda batch: done.set(), election=election)
    ended = threading.Event()
    rig.worker.on_end = ended.set
    rig.worker.start()
    rig.worker.start()
    rig.add("a")
    rig.worker.hurry()
    assert done.wait(20)
    assert rig.worker.running
    assert rig.worker.stop(20)
    assert not rig.worker.running
    assert (rig.destination.closed, election.released, ended.is_set()) == (1, 1, True)
    assert rig.worker.state.name == "stopped"


def test_a_stop_waits_for_the_request_under_way_no_longer_than_asked() -> None:
    gate = Gate()
    rig = Rig(gate)
    rig.add("a")
    rig.worker.start()
    assert gate.came.wait(20)
    assert not rig.worker.stop(0.01)
    gate.open.set()
    assert rig.worker.stop(20)
    assert rig.queue.ledger().delivered == 1  # the yes that was under way still counts


def test_the_thread_outlives_what_it_did_not_expect_and_ends_with_the_queue(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    faults: list[Exception] = [RuntimeError("unexpected"), QueueClosed("closed")]
    steps = 0

    def step() -> float:
        nonlocal steps
        steps += 1
        rig.worker._stop = steps > 5
        raise faults.pop(0)

    monkeypatch.setattr(rig.worker, "step", step)
    monkeypatch.setattr(rig.worker._wake, "wait", lambda pause: None)
    rig.worker.run()
    assert steps == 2
    assert "RuntimeError: unexpected" in caplog.text
    assert rig.destination.closed == 1


def test_whoever_waits_for_progress_is_woken() -> None:
    rig = Rig()
    woken = threading.Event()

    def wait() -> None:
        rig.worker.wait_for_progress(20)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not woken.wait(0.005):
        rig.queue.append([record()])
        rig.worker.hurry()
        rig.worker.step()
        rig.worker.step()
    thread.join(20)


class TidyQueue(MemoryQueue):
    """Notes when it is told to do its housekeeping, and whether nothing waits then."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.notes: list[str] = []

    def maintain(self, idle: bool) -> None:
        self.notes.append("tidied, idle" if idle else "tidied, busy")
        super().maintain(idle)


def test_who_waits_for_the_end_of_a_backlog_is_told_before_the_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    queue = TidyQueue(clock=clock)
    rig = Rig(queue=queue, clock=clock, policy={"batch_size": 2})
    monkeypatch.setattr(rig.worker, "_tell_progress", lambda: queue.notes.append("told"))
    rig.add("a", "b")
    rig.step()
    assert rig.step() > 0  # nothing left: a moment for those who were told
    assert queue.notes == ["tidied, busy", "told"]
    rig.step()
    assert queue.notes[2:] == ["tidied, idle"]


def test_a_thread_that_is_stopped_does_its_housekeeping_before_it_ends() -> None:
    clock = FakeClock()
    queue = TidyQueue(clock=clock)
    rig = Rig(queue=queue, clock=clock)
    rig.worker.start()
    assert rig.worker.stop(20)
    assert queue.notes[-1:] == ["tidied, idle"]
