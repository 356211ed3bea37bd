"""Group commit: threads that commit at the same time share one transaction and one flush. Knows threads, no SQLite.

The first thread to arrive leads: it commits what is pending, wakes each waiter by a lock of its own, and hands the lead
to the first job that came in meanwhile. On a disk with slow flushes the batches would alternate between small and
large, since the threads just released come back a moment after the next leader has begun; so that leader waits for
them, at most a small share of what the last commit took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from ..errors import OutcomeUnknown

__all__ = ["GroupCommit", "Job"]

T = TypeVar("T")

# Below this a wait costs more than it gains: a timed wait in CPython takes some 50 microseconds by itself.
_SLOW_COMMIT = 0.001
_SHARE = 0.15
_LONGEST_WAIT = 0.020


class Job(Generic[T]):
    """One caller's work, and what became of it."""

    __slots__ = ("done", "error", "lock", "work")

    def __init__(self, work: T) -> None:
        self.work = work
        self.done = False
        self.error: BaseException | None = None
        self.lock: threading.Lock | None = None  # made for those who wait


class GroupCommit(Generic[T]):
    """Runs `commit(jobs)` for many threads, one call at a time.

    A thread may be interrupted anywhere (Ctrl-C, a signal handler that raises); the others go on.

    Args:
        commit: does the work of all the jobs at once; puts a job's failure into its `error`. What it raises counts as
            the failure of every job without one.
    """

    def __init__(self, commit: Callable[[Sequence[Job[T]]], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._leader: Job[T] | None = None
        self._running: list[Job[T]] = []  # what the leader has taken on
        self._pending: list[Job[T]] = []  # what waits for the next leader, who is the first of them
        self._gathered = threading.Lock()  # held; whoever completes the crowd releases it
        self._gathered.acquire()
        self._wanted = 0
        self._crowd = 1  # how many threads took part lately
        self._last = 0.0  # seconds the last commit took

    def submit(self, work: T) -> None:
        """Do the work together with that of other threads; return when it is done, or raise what failed."""
        job = Job(work)
        try:
            with self._mutex:
                if self._leader is not None:
                    job.lock = threading.Lock()
                    job.lock.acquire()
                    self._pending.append(job)
                    if self._wanted and len(self._pending) >= self._wanted:
                        self._wanted = 0
                        self._gathered.release()
                else:
                    if self._crowd > 1 and self._last >= _SLOW_COMMIT:
                        self._pending.append(job)  # others took part in the last commit, and will be back in a moment
                    else:
                        # Nothing to gather, nobody to wake: the path of a program with one thread.
                        self._running = [job]
                    self._leader = job
            if job.lock is not None:
                job.lock.acquire()  # until the job is done, or leads
            if not job.done:
                self._lead(job)
        except BaseException:
            try:
                self._abandon(job)
            except BaseException:  # a second Ctrl-C
                self._abandon(job)
                raise
            raise
        if job.error is not None:
            raise job.error

    def _gather(self) -> None:
        """Give the threads that the last commit released a moment to come back."""
        if self._crowd < 2 or self._last < _SLOW_COMMIT:
            return
        with self._mutex:
            if len(self._pending) >= self._crowd:
                return
            self._gathered.acquire(blocking=False)  # left over, when the last leader would not wait longer
            self._wanted = self._crowd
        self._gathered.acquire(timeout=min(self._last * _SHARE, _LONGEST_WAIT))
        with self._mutex:
            self._wanted = 0

    def _lead(self, leader: Job[T]) -> None:
        """Commit what is pending, the leader's own job among it."""
        if not self._running:
            self._gather()
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
        """Wake those whose jobs are done, and the next leader. Can be done again, should it be interrupted."""
        if self._leader is leader:
            jobs = self._running
            crowd = len(jobs) + len(self._pending)
            for job in jobs:
                job.done = True
                _wake(job)
            with self._mutex:
                self._crowd = crowd
                self._running = []
                self._leader = self._pending[0] if self._pending else None
        successor = self._leader
        if successor is not None:
            _wake(successor)

    def _abandon(self, job: Job[T]) -> None:
        """Put things in order for the other threads after an interruption of this one."""
        with self._mutex:
            if job in self._pending:
                self._pending.remove(job)
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
