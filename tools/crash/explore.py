"""Explore what a crash at any moment of a recording may leave, in several processes."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context

from crash.check import Checker, Problem, Verdict
from crash.expect import Expectation
from crash.model import Disk
from crash.recording import Recording, load
from crash.states import Choice, Frontier, digest

__all__ = ["Finding", "Pool", "Result", "Task", "look", "walk", "work"]

_UNIMPORTANT = ("write.lock", "sender.lock", "replay.lock", "ballast", "sender.json", ".tmp")
_ENOUGH = 50  # findings that a task keeps
_ROUNDS = 6
_SURVEYED = 100  # points, about


@dataclass(frozen=True)
class Finding:
    """A state in which something was broken, and how to make it again: `point` and `number` name it."""

    recording: str
    point: int
    number: int
    block: int
    problem: Problem

    @property
    def state(self) -> str:
        """The state's name for `--state`."""
        return f"{self.point}.{self.number}"


@dataclass
class Result:
    """What an exploration found."""

    points: int = 0
    states: int = 0
    violations: int = 0
    lossy: int = 0  # states in which events of the window of durability "process" were gone
    salvaged: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Take another result in."""
        self.points += other.points
        self.states += other.states
        self.violations += other.violations
        self.lossy += other.lossy
        self.salvaged += other.salvaged
        self.findings += other.findings

    def kinds(self) -> str:
        """Return the kinds of problems found, the most frequent first."""
        counts: dict[str, int] = {}
        for finding in self.findings:
            counts[finding.problem.kind] = counts.get(finding.problem.kind, 0) + 1
        return ", ".join(sorted(counts, key=lambda kind: -counts[kind]))


@dataclass(frozen=True)
class Task:
    """A part of a recording to explore: the moments from `start` to before `stop`, about `states` states."""

    path: str
    start: int
    stop: int
    states: int
    block: int
    seed: str
    directory: str
    enough: int = 0  # end after so many violations; 0: never


@lru_cache(maxsize=4)
def _loaded(path: str, changed: int) -> Recording:
    return load(path)


def _recording(path: str) -> Recording:
    return _loaded(path, os.stat(path).st_mtime_ns)


def walk(recording: Recording, stop: int) -> Iterator[tuple[int, Disk, Expectation]]:
    """Go through a recording; point 0 is before the first moment."""
    disk, expectation = recording.disk(), recording.expectation()
    yield 0, disk, expectation
    for point, moment in enumerate(recording.moments[: stop - 1], 1):
        disk.apply(moment)
        expectation.learn(moment)
        yield point, disk, expectation


def _seed(task: Task, point: int) -> str:
    return f"{task.seed}/{task.block}/{point}"


class _Explorer:
    """Works on one task. Goes over its points several times, until it has seen as many states as it should."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._recording = _recording(task.path)
        self._directory = os.path.join(task.directory, str(os.getpid()))
        self._checker = Checker(self._directory, damage=task.block > 0 or self._recording.damaged)
        self._seen: set[tuple[bytes, int]] = set()
        self._next = [0] * (task.stop - task.start)  # per point: how many of its states were tried
        self._exhausted = [False] * (task.stop - task.start)
        self.result = Result(points=task.stop - task.start)

    def run(self) -> Result:
        try:
            for _ in range(_ROUNDS):
                left = self._task.states - self.result.states
                points = [place for place, over in enumerate(self._exhausted) if not over]
                if left <= 0 or not points:
                    break
                if left < len(points):
                    points = random.Random(self._task.seed).sample(points, left)
                if not self._round(set(points), left // len(points)):
                    break
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
        return self.result

    def _round(self, points: set[int], each: int) -> bool:
        """Try about so many new states at each of these points; return whether any was new."""
        task, before = self._task, self.result.states
        for point, disk, expectation in walk(self._recording, task.stop):
            place = point - task.start
            if place not in points:
                continue
            frontier = Frontier(disk, _seed(task, point), task.block)
            new = 0
            for number in self._numbers(frontier, place, each, point):
                if self._try(frontier, point, number, expectation):
                    new += 1
                    if new >= each:
                        break
            self._exhausted[place] = new < each
            if task.enough and self.result.violations >= task.enough:
                return False
        return self.result.states > before

    def _numbers(self, frontier: Frontier, place: int, each: int, point: int) -> Iterator[int]:
        """Return the numbers of states to try at a point: nothing has arrived, the plan in any order, then chance."""
        order = list(range(1, frontier.planned))
        random.Random(f"{_seed(self._task, point)}/order").shuffle(order)
        order.insert(0, 0)
        tries = 3 * each + 4
        while tries > 0:
            tries -= 1
            next_one = self._next[place]
            self._next[place] += 1
            if next_one >= len(order) and frontier.possible == 1:
                return
            yield order[next_one] if next_one < len(order) else next_one

    def _try(self, frontier: Frontier, point: int, number: int, expectation: Expectation) -> bool:
        """Check one state; return whether it was a new one."""
        choice = frontier.choice(number)
        files = frontier.build(choice)
        key = digest(files, _UNIMPORTANT), expectation.version
        if key in self._seen:
            return False
        self._seen.add(key)
        verdict = self._checker.check(files, expectation)
        result = self.result
        result.states += 1
        result.lossy += verdict.lost > 0
        result.salvaged += verdict.salvaged
        if verdict.problems:
            result.violations += 1
            if len(result.findings) < _ENOUGH:
                result.findings += [
                    Finding(self._recording.name, point, number, self._task.block, each) for each in verdict.problems
                ]
        return True


def work(task: Task) -> Result:
    """Work on one task in this process."""
    return _Explorer(task).run()


def _end_with_parent() -> None:
    """End this process soon after the one that started it: a killed command would leave it at work for an hour."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Pool:
    """Processes that work on tasks, and a directory in memory for their states."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        memory = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
        self.directory = tempfile.mkdtemp(prefix="edgespool-crash-", dir=memory)
        self._pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def explore(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        """Work on tasks; return each with its result, in the order given."""
        return zip(tasks, self._pool.map(work, tasks), strict=True)

    def survey(self, paths: Sequence[str]) -> Iterator[tuple[dict[int, int], Result]]:
        """Survey recordings; see `survey`."""
        return self._pool.map(survey, paths, [self.directory] * len(paths))

    def cut(self, path: str, states: int, *, block: int = 0, seed: str = "0", enough: int = 0) -> list[Task]:
        """Return tasks that together explore a recording with about so many states."""
        points = len(_recording(path).moments) + 1
        parts = max(1, min(2 * self._jobs, states // 200, points))
        share = -(-states // parts)
        return [
            Task(path, points * part // parts, points * (part + 1) // parts, share, block, seed, self.directory, enough)
            for part in range(parts)
        ]


def survey(path: str, directory: str) -> tuple[dict[int, int], Result]:
    """Look at the state "everything has arrived" after the marks of a recording: what a SIGKILL there leaves.

    Return the row id of each event that was seen, and what was found.
    """
    recording = _recording(path)
    marks = [n for n, (call, phase) in enumerate(recording.moments, 1) if call.kind == "mark" and phase != "end"]
    points = {*marks[:: 1 + len(marks) // _SURVEYED], len(recording.moments)}
    rows: dict[int, int] = {}
    result = Result()
    where = os.path.join(directory, f"survey-{os.getpid()}")
    checker = Checker(where, damage=recording.damaged)
    try:
        for point, disk, expectation in walk(recording, len(recording.moments) + 1):
            if point not in points:
                continue
            frontier = Frontier(disk, "")
            expectation.rows.update(rows)
            verdict = checker.check(frontier.build(frontier.choice(1)), expectation)
            rows.update(verdict.rows)
            result.states += 1
            result.violations += bool(verdict.problems)
            result.findings += [Finding(recording.name, point, 1, 0, each) for each in verdict.problems]
    finally:
        shutil.rmtree(where, ignore_errors=True)
    return rows, result


def look(
    path: str, point: int, number: int, block: int, seed: str, directory: str
) -> tuple[Choice, list[str], Verdict]:
    """Make one state again in `directory`, check it, and make it once more for looking at."""
    recording = _recording(path)
    for reached, disk, expectation in walk(recording, point + 1):
        if reached == point:
            frontier = Frontier(disk, f"{seed}/{block}/{point}", block)
            choice = frontier.choice(number)
            files = frontier.build(choice)
            checker = Checker(directory, damage=block > 0 or recording.damaged)
            verdict = checker.check(files, expectation, thorough=True)
            checker.lay_out(files)
            return choice, frontier.describe(choice), verdict
    raise ValueError(f"{recording.name} has no point {point}")
