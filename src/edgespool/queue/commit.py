"""Group commit: threads that commit at the same time share one transaction and one flush. Knows threads, no SQLite.

The thread that completes the crowd leads: as many as took part lately. It has the interpreter's lock in hand, so that
nobody has to be woken for a commit to begin. Should somebody stay away, the first who waits leads after a moment, which
is short against the last commit. When the work is done the leader wakes one of the others, which wakes the next: were
all woken at once, they would only wait for one another, each woken twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from ..errors import OutcomeUnknown, QueueUnavailable

__all__ = ["GroupCommit", "Job"]

T = TypeVar("T")

# How long to wait for the crowd. On a slow disk a small share of a flush: who just got its answer is back in far less.
# On a fast one that share would be less than a thread takes to wake up.
_SHARE = 0.15
_LONGEST_WAIT = 0.020
_WAKING = 0.0005
# Seconds after which who waits looks for himself: whoever was to wake him may be held up by a signal handler.
_LOOK_AGAIN = 0.2


class Job(Generic[T]):
    """One caller's work, and what became of it."""

    # As attributes of the class: to set six at each event costs as much as the rest of a submit.
    done = False
    gone = False  # its thread was interrupted, and wakes nobody
    error: BaseException | None = None
    lock: threading.Lock | None = None  # made for those who wait
    next: Job[T] | None = None  # whom to wake once awake

    def __init__(self, work: T) -> None:
        self.work = work
        self.thread = threading.get_ident()


class GroupCommit(Generic[T]):
    """Runs `commit(jobs)` for many threads, one call at a time.

    A thread may be interrupted anywhere (Ctrl-C, a signal handler that raises); the others go on. A signal handler may
    even submit work of its own, unless it has interrupted the commit itself: that could only end after the handler, and
    the handler would wait for it.

    Args:
        commit: does the work of all the jobs at once; puts a job's failure into its `error`. What it raises counts as
            the failure of every job without one.
    """

    def __init__(self, commit: Callable[[Sequence[Job[T]]], None]) -> None:
        self._commit = commit
        self._mutex = threading.RLock()  # reentrant: for a signal handler in the midst
        self._leader: Job[T] | None = None  # whose thread commits
        self._running: list[Job[T]] = []  # what the leader has taken on
        self._pending: list[Job[T]] = []  # what waits for the next leader
        self._keeper: Job[T] | None = None  # who leads if the crowd stays away; only while nobody leads
        self._crowd = 1  # how many threads took part lately
        self._last = 0.0  # seconds the last commit took

    def submit(self, work: T) -> None:
        """Do the work together with that of other threads; return when it is done, or raise what failed.

        Raises:
            QueueUnavailable: called by a signal handler, or a log handler, within a commit of this very thread.
        """
        job = Job(work)
        try:
            with self._mutex:
                if self._leader is None and self._crowd < 2 and not self._pending:
                    # Nothing to gather, nobody to wake: the path of a program with one thread.
                    self._running = [job]
                    self._leader = job
                else:
                    self._refuse_reentry(job)
                    job.lock = threading.Lock()
                    job.lock.acquire()
                    self._pending.append(job)
                    if self._leader is None:
                        if len(self._pending) >= self._crowd:
                            self._leader, self._keeper = job, None
                        elif self._keeper is None:
                            self._keeper = job
            while self._leader is not job and not job.done:
                self._wait(job)
            if not job.done:
                self._lead(job)
            elif job.next is not None:
                _wake(job.next)
        except BaseException:
            try:
                self._abandon(job)
            except BaseException:  # a second Ctrl-C
                self._abandon(job)
                raise
            raise
        if job.error is not None:
            raise job.error

    def _wait(self, job: Job[T]) -> None:
        """Wait until the job is done, or leads, or is to look again."""
        assert job.lock is not None
        keeps = self._keeper is job
        if not job.lock.acquire(timeout=self._patience() if keeps else _LOOK_AGAIN):
            with self._mutex:
                self._refuse_reentry(job)
                if self._keeper is job or (not keeps and self._leader is None and job in self._pending):
                    self._leader, self._keeper = job, None

    def _refuse_reentry(self, job: Job[T]) -> None:
        """Raise QueueUnavailable if the commit that the job would wait for cannot go on before its caller returns."""
        leader = self._leader
        if leader is not None and leader is not job and leader.thread == job.thread:
            raise QueueUnavailable(
                "an event was recorded by a signal handler, or a log handler, that had interrupted the recording of "
                "another in the same thread; nothing was stored. Let the handler only take note, and record afterwards"
            )

    def _patience(self) -> float:
        return min(max(self._last * _SHARE, min(2 * self._last, _WAKING)), _LONGEST_WAIT)

    def _lead(self, leader: Job[T]) -> None:
        """Commit what is pending, the leader's own job among it."""
        if not self._running:
            with self._mutex:
                self._running, self._pending = self._pending, []
        jobs = self._running
        began = time.perf_counter()
        try:
            self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - it is raised in the threads whose jobs these are
            for job in jobs:
                job.error = job.error or error
        self._last = time.perf_counter() - began
        self._hand_over(leader)

    def _hand_over(self, leader: Job[T]) -> None:
        """Wake those whose jobs are done, and the next keeper. Can be done again, should it be interrupted."""
        if self._leader is leader:
            jobs = self._running
            for job in jobs:
                job.done = True
            if len(jobs) == 1 and self._crowd == 1 and not self._pending:
                self._running = []
                self._leader = None  # should somebody have come in this very moment, it is seen below
            else:
                self._chain(leader, jobs)
        if self._pending:
            with self._mutex:
                if self._leader is None and self._keeper is None and self._pending:
                    if len(self._pending) >= self._crowd:
                        self._leader = self._pending[0]
                    else:
                        self._keeper = self._pending[0]
                successor = self._keeper or self._leader
            if successor is not None:
                _wake(successor)  # again, perhaps: it looks why, and waits on
        if leader.next is not None:
            _wake(leader.next)

    def _chain(self, leader: Job[T], jobs: Sequence[Job[T]]) -> None:
        """Let each of them wake the next, and let go of the lead."""
        with self._mutex:
            last = leader
            for job in jobs:
                if job is not leader and not job.gone:
                    last.next = last = job
            self._crowd = len(jobs) + len(self._pending)
            self._running = []
            self._leader = None

    def _abandon(self, job: Job[T]) -> None:
        """Put things in order for the other threads after an interruption of this one."""
        with self._mutex:
            job.gone = True
            if job in self._pending:
                self._pending.remove(job)
            if self._keeper is job:
                self._keeper = None
        if self._leader is job:
            for other in self._running:
                if other is not job and not other.done and other.error is None:
                    other.error = OutcomeUnknown("the thread that was storing this event with its own was interrupted")
        self._hand_over(job)


def _wake(job: Job[Any]) -> None:
    lock = job.lock
    if lock is not None and lock.locked():
        try:
            lock.release()
        except RuntimeError:  # somebody else was quicker
            pass
