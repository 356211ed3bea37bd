"""Threads that share one commit: each gets its own answer, none is forgotten, whoever is interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from unit_kit import MIB, drain, record

from edgespool.errors import OutcomeUnknown, QueueFull, QueueUnavailable
from edgespool.queue import DiskQueue
from edgespool.queue.commit import GroupCommit, Job

DEADLINE = 20.0  # seconds after which a thread counts as stuck


class SlowCommit:
    """Does the work of jobs by noting it; the first call waits until it is let go, so that others gather behind it."""

    def __init__(self, behave: Callable[[Sequence[Job[Any]]], None] = lambda jobs: None) -> None:
        self.behave = behave
        self.began = threading.Event()
        self.go = threading.Event()
        self.calls: list[list[Any]] = []
        self.threads: list[int] = []

    def __call__(self, jobs: Sequence[Job[Any]]) -> None:
        self.threads.append(threading.get_ident())
        self.calls.append([job.work for job in jobs])
        self.began.set()
        assert self.go.wait(DEADLINE)
        self.behave(jobs)


class Callers:
    """Threads that each submit one piece of work, and what came of it."""

    def __init__(self, submit: Callable[[Any], None]) -> None:
        self.submit = submit
        self.threads: dict[Any, threading.Thread] = {}
        self.results: dict[Any, BaseException | None] = {}

    def start(self, *works: Any) -> None:
        for work in works:
            self.threads[work] = threading.Thread(target=self._run, args=(work,), daemon=True)
            self.threads[work].start()

    def _run(self, work: Any) -> None:
        try:
            self.submit(work)
            self.results[work] = None
        except BaseException as error:
            self.results[work] = error

    def join(self) -> dict[Any, BaseException | None]:
        for thread in self.threads.values():
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a caller is stuck"
        return self.results


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    pause = threading.Event()
    for _ in range(int(DEADLINE * 1000)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never came to that")


def start_all(commit: SlowCommit, group: GroupCommit[Any], *works: Any) -> Callers:
    """Let the first work begin its commit, and gather the others behind it, in order."""
    callers = Callers(group.submit)
    callers.start(works[0])
    assert commit.began.wait(DEADLINE)
    for number, work in enumerate(works[1:], 1):
        callers.start(work)
        until(lambda number=number: len(group._pending) == number)
    return callers


def test_one_thread_commits_at_once_and_alone() -> None:
    commit = SlowCommit()
    commit.go.set()
    group: GroupCommit[str] = GroupCommit(commit)
    for work in "abc":
        group.submit(work)
    assert commit.calls == [["a"], ["b"], ["c"]]


def test_what_gathers_during_a_commit_shares_the_next_in_order_of_arrival() -> None:
    commit = SlowCommit()
    group: GroupCommit[str] = GroupCommit(commit)
    callers = start_all(commit, group, *"abcdefgh")
    commit.go.set()
    assert callers.join() == dict.fromkeys("abcdefgh")
    assert commit.calls == [["a"], list("bcdefgh")]


def test_the_lead_is_handed_to_a_thread_that_waits() -> None:
    commit = SlowCommit()
    group: GroupCommit[str] = GroupCommit(commit)
    callers = start_all(commit, group, "a", "b", "c")
    idents = {work: thread.ident for work, thread in callers.threads.items()}
    commit.go.set()
    callers.join()
    assert commit.threads == [idents["a"], idents["b"]]
    group.submit("d")
    assert commit.calls[-1] == ["d"]


def test_whoever_completes_the_crowd_leads_and_nobody_waits_for_more() -> None:
    commit = SlowCommit()
    group: GroupCommit[str] = GroupCommit(commit)
    group._patience = lambda: DEADLINE  # type: ignore[method-assign]  # nobody leads for want of others
    group._crowd = 3
    commit.go.set()
    callers = Callers(group.submit)
    for number, work in enumerate("ab", 1):
        callers.start(work)
        until(lambda number=number: len(group._pending) == number)
    assert commit.calls == []
    callers.start("c")
    callers.join()
    assert commit.calls == [["a", "b", "c"]]
    assert commit.threads == [callers.threads["c"].ident]


def test_when_the_crowd_stays_away_the_first_who_waits_leads() -> None:
    commit = SlowCommit()
    group: GroupCommit[str] = GroupCommit(commit)
    group._crowd = 3
    commit.go.set()
    group.submit("a")  # the last commit took no time, and so does the wait
    assert commit.calls == [["a"]]
    group.submit("b")
    assert commit.calls == [["a"], ["b"]]
    assert group._crowd == 1


def test_when_the_first_who_waits_is_interrupted_the_next_takes_its_place() -> None:
    commit = SlowCommit()
    commit.go.set()
    group: GroupCommit[str] = GroupCommit(commit)
    patience = [DEADLINE, DEADLINE, 0.001]
    group._patience = lambda: patience.pop(0)  # type: ignore[method-assign]
    group._crowd = 3
    callers = Callers(group.submit)

    def interrupt() -> None:
        until(lambda: group._keeper is not None)
        callers.start("b")
        until(lambda: len(group._pending) == 2)
        patience.pop(0)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        group.submit("mine")
    helper.join(DEADLINE)
    assert callers.join() == {"b": None}
    assert commit.calls == [["b"]]


def test_an_error_of_one_job_reaches_its_caller_alone() -> None:
    def behave(jobs: Sequence[Job[str]]) -> None:
        for job in jobs:
            if job.work in "be":
                job.error = QueueFull(job.work)

    commit = SlowCommit(behave)
    callers = start_all(commit, GroupCommit(commit), *"abcde")
    commit.go.set()
    results = callers.join()
    assert {work: str(error) for work, error in results.items() if error} == {"b": "b", "e": "e"}


def test_what_the_commit_raises_reaches_all_of_that_commit_and_nobody_else() -> None:
    def behave(jobs: Sequence[Job[str]]) -> None:
        if any(job.work == "c" for job in jobs):
            if jobs[0].work == "b":
                jobs[0].error = QueueFull("own")
            raise RuntimeError("for all")

    commit = SlowCommit(behave)
    group: GroupCommit[str] = GroupCommit(commit)
    callers = start_all(commit, group, *"abcd")
    commit.go.set()
    results = {work: str(error) for work, error in callers.join().items()}
    assert results == {"a": "None", "b": "own", "c": "for all", "d": "for all"}
    group.submit("e")
    with pytest.raises(RuntimeError, match="for all"):
        group.submit("c")
    group.submit("f")


def test_a_thread_interrupted_while_it_waits_takes_its_work_back_and_strands_nobody() -> None:
    commit = SlowCommit()
    group: GroupCommit[str] = GroupCommit(commit)
    callers = start_all(commit, group, "a", "b")

    def interrupt() -> None:
        until(lambda: len(group._pending) == 2)
        callers.start("c")
        until(lambda: len(group._pending) == 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        group.submit("mine")
    helper.join(DEADLINE)
    commit.go.set()
    assert callers.join() == {"a": None, "b": None, "c": None}
    assert commit.calls == [["a"], ["b", "c"]]
    group.submit("d")


def test_a_thread_interrupted_when_the_lead_is_its_own_hands_it_on() -> None:
    def behave(jobs: Sequence[Job[str]]) -> None:
        if jobs[0].work == "mine":
            raise KeyboardInterrupt

    commit = SlowCommit(behave)
    group: GroupCommit[str] = GroupCommit(commit)
    callers = start_all(commit, group, "a")

    def gather() -> None:
        until(lambda: len(group._pending) == 1)
        callers.start("b")
        until(lambda: len(group._pending) == 2)
        commit.go.set()

    helper = threading.Thread(target=gather)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        group.submit("mine")
    helper.join(DEADLINE)
    results = callers.join()
    assert results["a"] is None
    assert isinstance(results["b"], (KeyboardInterrupt, OutcomeUnknown))  # whoever led for it was interrupted
    group.submit("c")
    assert commit.calls[-1] == ["c"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_interruptions_at_any_moment_leave_the_others_working() -> None:
    stored: list[Any] = []
    group: GroupCommit[Any] = GroupCommit(lambda jobs: stored.extend(job.work for job in jobs))
    returned: set[Any] = set()
    stop = threading.Event()

    def submit_many(name: str) -> None:
        for number in range(1_000_000):
            if stop.is_set():
                return
            try:
                group.submit((name, number))
                returned.add((name, number))
            except OutcomeUnknown:
                continue  # whoever led for it was interrupted

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    others = [threading.Thread(target=submit_many, args=(name,), daemon=True) for name in "ab"]
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for thread in others:
            thread.start()
        for number in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + (number % 17) * 0.00003)
                try:
                    for turn in range(5000):  # an interpreter may lose an interruption in a finalizer: so not for ever
                        group.submit(("main", number, turn))
                        returned.add(("main", number, turn))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop.set()
    for thread in others:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a caller is stuck"
    group.submit("last")
    assert stored[-1] == "last"
    assert interrupted > 250
    assert returned <= set(stored)
    assert len(stored) == len(set(stored))


# With a disk behind it


def test_work_that_is_submitted_within_a_commit_of_its_own_thread_is_refused() -> None:
    """A signal handler, or a log handler, would wait for what can only go on when it returns."""
    said: list[str] = []

    def commit(jobs: Sequence[Job[str]]) -> None:
        for crowd in (1, 3):
            group._crowd = crowd
            with pytest.raises(QueueUnavailable, match="signal handler") as caught:
                group.submit("inner")
            said.append(str(caught.value))

    group = GroupCommit(commit)
    group.submit("outer")
    assert len(said) == 2
    assert group._pending == []
    group._crowd = 1
    group._commit = lambda jobs: None
    group.submit("afterwards")


def test_every_record_of_many_threads_is_stored_once(queue: DiskQueue) -> None:
    def append_fifty(name: str) -> None:
        for number in range(50):
            queue.append([record(f"{name}{number}", "x" if number % 3 == 0 else "")])

    callers = Callers(append_fifty)
    callers.start(*"abcdefgh")
    assert callers.join() == dict.fromkeys("abcdefgh")
    ids = drain(queue)
    assert sorted(ids) == sorted(f"{name}{number}" for name in "abcdefgh" for number in range(50))
    for name in "abcdefgh":
        own = [int(id[1:]) for id in ids if id[0] == name]
        plain = [number for number in own if number % 3]
        assert plain == sorted(plain)
    assert queue.ledger().delivered == 400


def test_threads_share_commits_when_a_commit_is_slow(queue: DiskQueue) -> None:
    commit = SlowCommit(queue._commit_jobs)
    queue._commit = group = GroupCommit(commit)
    callers = Callers(lambda name: queue.append([record(name)]))
    callers.start("a")
    assert commit.began.wait(DEADLINE)
    callers.start(*"bcdefgh")
    until(lambda: len(group._pending) == 7)
    commit.go.set()
    callers.join()
    assert [len(call) for call in commit.calls] == [1, 7]
    assert sorted(drain(queue)) == list("abcdefgh")


def test_one_append_that_finds_no_room_does_not_fail_its_neighbours(open_queue: Callable[..., DiskQueue]) -> None:
    queue = open_queue(max_bytes=MIB)
    commit = SlowCommit(queue._commit_jobs)
    queue._commit = group = GroupCommit(commit)
    callers = Callers(lambda name: queue.append([record(name, size=2 * MIB if name == "huge" else 0)]))
    callers.start("first")
    assert commit.began.wait(DEADLINE)
    callers.start("a", "huge", "b")
    until(lambda: len(group._pending) == 3)
    commit.go.set()
    results = callers.join()
    assert isinstance(results.pop("huge"), QueueFull)
    assert results == dict.fromkeys(["first", "a", "b"])
    assert sorted(drain(queue)) == ["a", "b", "first"]


def test_a_group_that_overflows_at_drop_oldest_keeps_the_budget(open_queue: Callable[..., DiskQueue]) -> None:
    queue = open_queue(max_bytes=MIB, overflow="drop_oldest")
    for number in range(8):
        queue.append([record(number, size=90_000)])
    jobs = [Job([record(f"new{number}", size=90_000)]) for number in range(6)]
    queue._commit_jobs(jobs)
    assert [job.error for job in jobs] == [None] * 6
    assert queue._store.read(queue._budget.room) >= 0
    left = drain(queue)
    assert left[-6:] == [f"new{number}" for number in range(6)]
    assert left[:-6] == [str(number) for number in range(8 - len(left[:-6]), 8)]
