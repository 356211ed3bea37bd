"""Kill anywhere: SIGKILL at each write-like system call in turn, and nothing that was receipted may be missing.

Each run begins with the same files, is killed at the n-th call of one kind, and is followed by a fresh client that
delivers what is there to a real collector. This is repeated with the next n until the program gets through.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from crash import steps, strace
from crash.check import PLACE, SETTINGS, SOURCE
from crash.expect import Expectation
from crash.marks import ALOUD, MARK, data
from crash.programs import PATIENCE, Program
from edgespool import Client, config
from edgespool.failed import FailedFiles, read
from edgespool.queue import DiskQueue
from edgespool.replay import Replay
from edgespool.testing import Collector

__all__ = ["VICTIMS", "Outcome", "Point", "Victim", "main", "points", "strike"]

_TOOL = os.path.dirname(os.path.abspath(__file__))
_FILES = ("queue.db", "queue.db-wal", "queue.db-journal")
_FOLDERS = ("", "failed", "replayed")
_LOCKS = ("write.lock", "sender.lock", "replay.lock", "ballast")
_ABOVE = ("../../..", "../..", "..")
# Which calls are counted, on which files. Of files whose names cannot be foreseen, the calls on any file count.
_GROUPS: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
    ("database", _FILES, ("pwrite64", "fdatasync", "ftruncate", "unlink", "open")),
    ("folders", _FOLDERS, ("fsync", "fdatasync", "mkdir", "open")),
    ("above", _ABOVE, ("fsync", "mkdir")),
    ("locks", _LOCKS, ("open", "write", "ftruncate", "fallocate")),
    ("any", (), ("write", "fsync", "rename", "fallocate", "chmod", "sendto")),
)


@dataclass(frozen=True)
class Victim:
    """A program that is killed: what it finds, what it does, and what the server refuses."""

    name: str
    about: str
    before: Sequence[Callable[[Program], None]]
    step: Callable[[Program], None]
    poison: int | None = None


VICTIMS: dict[str, Victim] = {
    each.name: each
    for each in (
        Victim("fresh", "the very first start", (), steps.append_few),
        Victim("append", "a writer", (steps.append_few,), steps.append_few),
        Victim("abandoned", "a writer that finds an open WAL", (steps.abandoned,), steps.append_few),
        Victim("deliver", "a sender", (steps.append_few,), steps.send),
        Victim("both", "a writer that sends", (steps.write_two,), steps.record_and_send),
        Victim("refused", "a sender whose server refuses an event", (steps.append_few,), steps.send, poison=1),
        Victim("replay", "a replay", (steps.refused_all,), steps.replay_once),
        Victim("replay-part", "a replay that rewrites a file", (steps.refused_all,), steps.replay_once, poison=7),
    )
}


@dataclass(frozen=True)
class Point:
    """A call to be killed at: the `when`-th of this name on these files."""

    group: str
    files: Sequence[str]
    call: str


@dataclass
class Outcome:
    """What came of killing one victim at all calls of one kind."""

    victim: str
    point: Point
    kills: int = 0
    problems: list[str] = field(default_factory=list)


def points() -> Iterator[Point]:
    """Return the kinds of calls to be killed at."""
    for group, files, calls in _GROUPS:
        for call in calls:
            yield Point(group, files, call)


def strike(victim: Victim, point: Point, directory: str, every: int = 1, first: int = 1) -> Outcome:
    """Kill a victim at each `every`-th call of one kind, until it gets through; look at what each kill left.

    Args:
        victim, point: which program, at which calls.
        directory: for the files; removed afterwards.
        every, first: 1 and 1 for all calls.
    """
    outcome = Outcome(victim.name, point)
    template = os.path.join(directory, "before")
    try:
        known = _prepare(victim, template)
        when = first
        while _run(victim, point, when, template, os.path.join(directory, f"run-{when}"), known, outcome):
            when += every
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome


def _prepare(victim: Victim, root: str) -> list[str]:
    """Run what comes before; return what it announced."""
    os.makedirs(root)
    said: list[str] = []
    for number, step in enumerate(victim.before):
        done = subprocess.run(
            [sys.executable, _TOOL, "program", step.__name__, str(number), root],
            env={**os.environ, ALOUD: "1"}, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{step.__name__}: {done.stderr}")
        said += _marks(done.stdout)
    return said


def _marks(text: str) -> list[str]:
    return [line[len(MARK) :] for line in text.splitlines() if line.startswith(MARK)]


def _run(
    victim: Victim, point: Point, when: int, template: str, root: str, known: Sequence[str], outcome: Outcome
) -> bool:
    """Kill the victim once, and look; return whether it was killed."""
    shutil.copytree(template, root)
    place = os.path.join(root, PLACE)
    with Collector() as collector:
        if victim.poison is not None:
            collector.set_fault(poison={"field": "data.n", "value": victim.poison})
        status, said = strace.run(
            [sys.executable, _TOOL, "program", victim.step.__name__, "5", root, collector.url],
            f"{root}.strace", kill=(point.call, when),
            paths=[os.path.normpath(os.path.join(place, each)) for each in point.files],
            environment={**os.environ, ALOUD: "1"},
        )  # fmt: skip
        expectation = Expectation()
        for message in (*known, *_marks(said)):
            expectation.announced(message)
        killed = status in (-9, 137)
        if status and not killed:
            outcome.problems.append(f"{point.call} {when}: the program failed: {said[-500:]}")
        outcome.kills += killed
        try:
            problem = _look(place, collector, expectation)
        except Exception as error:  # whatever goes wrong here is a finding
            problem = f"{type(error).__name__}: {error}"
        if problem:
            outcome.problems.append(f"{point.call} {when} ({point.group}): {problem}")
    shutil.rmtree(root, ignore_errors=True)
    return killed


def _look(place: str, collector: Collector, expectation: Expectation) -> str:
    """Let a fresh client deliver what is there; return what is wrong."""
    settings: dict[str, Any] = {"path": place, "source": SOURCE, "compression": "none"}
    with Client(collector.url, config_file=os.devnull, flush_interval=0.0, **settings, **SETTINGS) as client:
        if client.stats().salvaged:
            return "a kill was taken for damage"
        if not client.flush(PATIENCE):
            return f"not delivered: {client.stats()}"
        failed: set[str] = set()
        for path in FailedFiles(place).paths():
            failed.update(read(path).ids)  # raises when one is not whole
    queue = DiskQueue(place, **SETTINGS)
    try:
        ledger, rows = queue.ledger(), queue.count_rows()
    finally:
        queue.close()
    least, most = len(expectation.receipts), len(expectation.intents)
    if not ledger.balanced or ledger.pending != rows or rows or not least <= ledger.accepted <= most:
        return f"the ledger: {ledger} with {rows} rows, {least} to {most} events were accepted"
    missing = set(expectation.receipts.values()) - set(collector.ids()) - failed - _given(expectation)
    if missing:
        return f"{len(missing)} receipted events are neither delivered nor in a failed file"
    return _replayed(place, collector, expectation) or _contents(collector, expectation)


def _given(expectation: Expectation) -> set[str]:
    """Return the events that an earlier collector, gone since, has taken."""
    return {expectation.receipts[number] for number in expectation.yes if number in expectation.receipts}


def _replayed(place: str, collector: Collector, expectation: Expectation) -> str:
    """Mend the server and send the failed files again: then everything has arrived."""
    collector.heal()
    settings = config.load({"url": collector.url, "path": place, "source": SOURCE}, os.devnull)
    report = Replay(settings).run()
    if not report.complete:
        return f"the replay did not get through: {report}"
    missing = set(expectation.receipts.values()) - set(collector.ids()) - _given(expectation)
    if missing or FailedFiles(place).paths():
        return f"after the replay {len(missing)} receipted events are missing"
    return ""


def _contents(collector: Collector, expectation: Expectation) -> str:
    """Nothing that was never recorded has arrived, and nothing altered."""
    for event in collector.events():
        number = event["data"]["n"]
        intent = expectation.intents.get(number)
        if intent is None or event["data"] != data(number, intent.size):
            return f"an event arrived that nobody recorded: {event}"
        if expectation.receipts.get(number, event["id"]) != event["id"]:
            return f"event {number} arrived under another id"
    for group, members in expectation.groups.items():
        arrived = {event["data"]["n"] for event in collector.events()} | expectation.yes
        if 0 < sum(number in arrived for number in members) < len(members):
            return f"of the batch {group} only a part has arrived"
    return ""


def main(given: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python tools/crash kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("victims", nargs="*", help=f"{', '.join(VICTIMS)} (default: all)")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th call (default: 1)")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(given)
    unknown = set(args.victims) - set(VICTIMS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(VICTIMS)}")
    why = strace.missing()
    if why is not None:
        print(f"cannot kill: {why}", file=sys.stderr)
        return 2
    began = time.monotonic()
    wanted = [VICTIMS[name] for name in args.victims or VICTIMS]
    work = [(victim, point) for victim in wanted for point in points()]
    problems: list[str] = []
    total = 0
    with tempfile.TemporaryDirectory(prefix="edgespool-kill-") as scratch, ThreadPoolExecutor(args.jobs) as threads:

        def one(place: int) -> Outcome:
            return strike(*work[place], os.path.join(scratch, str(place)), args.every)

        counts: dict[str, dict[str, int]] = {}
        for (victim, point), outcome in zip(work, threads.map(one, range(len(work))), strict=True):
            per_call = counts.setdefault(victim.name, {})
            per_call[point.call] = per_call.get(point.call, 0) + outcome.kills
            total += outcome.kills
            problems += [f"{victim.name}: {each}" for each in outcome.problems]
            if (victim, point) == work[-1] or work[work.index((victim, point)) + 1][0] is not victim:
                calls = ", ".join(f"{call} {count}" for call, count in per_call.items() if count)
                print(f"{victim.name:12} {sum(per_call.values()):4} kills ({calls})", flush=True)
    for problem in problems:
        print(f"BROKEN {problem}")
    print(f"{total} kills, {len(problems)} problems, {time.monotonic() - began:.0f} s")
    return 1 if problems or not total else 0
