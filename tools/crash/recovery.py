"""A second crash, during the recovery from the first: states are recovered under strace, and each recovery explored."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace

from crash import strace
from crash.check import Checker
from crash.explore import walk
from crash.marks import parse
from crash.model import Disk
from crash.recording import TOOL, Recording, RecordingFailed
from crash.states import Files, Frontier
from crash.strace import Moment

__all__ = ["recoveries"]


def recoveries(
    recording: Recording, count: int, directory: str, seed: str, environment: Mapping[str, str] | None = None
) -> list[Recording]:
    """Choose states that a crash may leave, let a program recover from each, and return what it did.

    Args:
        recording: of the program that crashed.
        count: how many states.
        directory: for the files; removed afterwards.
        seed: text that the choice is drawn from.
        environment: of the recovering program; None: ours.

    Raises:
        RecordingFailed: the recovering program failed.
    """
    root = os.path.join(directory, "disk")
    output = os.path.join(directory, "strace.txt")
    os.makedirs(root)
    try:
        made = _lay_out(recording, count, root, os.path.join(directory, "check"), seed)
        command = [sys.executable, TOOL, "program", "recover", "0", root]
        status, said = strace.run(command, output, environment=environment)
        if status:
            raise RecordingFailed(f"recovering from {recording.name}: exit status {status}\n{said}")
        for name, moments in _split(strace.read(output, root)).items():
            made[name].moments = moments
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return list(made.values())


def _lay_out(recording: Recording, count: int, root: str, scratch: str, seed: str) -> dict[str, Recording]:
    """Put the chosen states below `root`, and return for each a recording that begins there."""
    rng = random.Random(f"{seed}/{recording.name}")
    points = sorted(rng.sample(range(len(recording.moments) + 1), min(count, len(recording.moments) + 1)))
    checker = Checker(scratch, damage=recording.damaged)
    made: dict[str, Recording] = {}
    for point, disk, expectation in walk(recording, points[-1] + 1):
        if point not in points:
            continue
        files = _some_state(disk, rng, f"{seed}/{point}")
        verdict = checker.check(files, expectation)
        if verdict.problems:
            continue  # the first crash alone broke something; that is found elsewhere
        known = expectation.after_crash(verdict.rows)
        name = f"s{point}"
        Checker(os.path.join(root, name)).lay_out(files)
        made[name] = Recording(
            f"{recording.name}, crashed at {point}", recording.durability, [], recording.weight,
            rows={**recording.rows, **verdict.rows}, files=files, known=known, damaged=recording.damaged,
        )  # fmt: skip
    return made


def _some_state(disk: Disk, rng: random.Random, seed: str) -> Files:
    frontier = Frontier(disk, seed)
    number = rng.choice((0, 1, rng.randrange(frontier.planned), frontier.planned + rng.randrange(1000)))
    return frontier.build(frontier.choice(number))


def _split(moments: list[Moment]) -> dict[str, list[Moment]]:
    """Return the moments of each state's recovery, with paths below its own root."""
    found: dict[str, list[Moment]] = {}
    name = ""
    for call, phase in moments:
        if call.kind == "mark":
            words = parse(call.path)
            if words[0] == "state":
                name = words[1]
                found[name] = []
                continue
        elif call.path != name and not call.path.startswith(f"{name}/"):
            continue
        if name:
            path = call.path if call.kind == "mark" else call.path[len(name) + 1 :]
            found[name].append((replace(call, path=path, target=call.target[len(name) + 1 :]), phase))
    return found
