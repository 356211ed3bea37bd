"""Recordings: what a scenario's programs did to their files, kept so that every state can be made again."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from crash import strace
from crash.expect import Expectation
from crash.model import Disk
from crash.scenarios import Scenario
from crash.states import Files
from crash.strace import Moment

__all__ = ["TOOL", "Recording", "RecordingFailed", "load", "record", "slug"]

TOOL = os.path.dirname(os.path.abspath(__file__))


class RecordingFailed(Exception):
    """The program did not do what it should."""


@dataclass
class Recording:
    """What was recorded.

    `files` is what was there, durably, at the beginning, `known` what must be found then. `rows` are the row ids that
    the events had while the programs ran. `flushes`: see `model.Disk`.
    """

    name: str
    durability: str
    moments: list[Moment]
    weight: float = 1.0
    flushes: str = "all"
    damaged: bool = False  # a program damaged the file: a salvage is no fault
    rows: dict[int, int] = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    known: Expectation | None = None

    def disk(self) -> Disk:
        """Return the disk as it was at the beginning."""
        disk = Disk(self.flushes)
        for path, content in sorted(self.files.items()):
            disk.make(path, content)
        return disk

    def expectation(self) -> Expectation:
        """Return what must be found at the beginning."""
        expectation = Expectation(self.durability) if self.known is None else self.known.copy()
        expectation.rows.update(self.rows)
        return expectation

    def save(self, path: str) -> str:
        """Write it to a file; return the path."""
        with open(path, "wb") as file:
            pickle.dump(self, file, protocol=5)
        return path


def load(path: str) -> Recording:
    """Read a recording that `Recording.save` wrote; only from files of one's own."""
    with open(path, "rb") as file:
        recording = pickle.load(file)
    assert isinstance(recording, Recording)
    return recording


def record(scenario: Scenario, directory: str, environment: Mapping[str, str] | None = None) -> Recording:
    """Run a scenario's programs under strace.

    Args:
        scenario: which.
        directory: an empty or missing one, for the programs' files; removed afterwards.
        environment: of the programs; None: ours.

    Raises:
        RecordingFailed: a program ended otherwise than it should.
    """
    root = os.path.join(directory, "disk")
    output = os.path.join(directory, "strace.txt")
    os.makedirs(root)
    moments: list[Moment] = []
    try:
        for step, function in enumerate(scenario.steps):
            kill = scenario.kill(step)
            command = [sys.executable, TOOL, "program", function.__name__, str(step), root]
            status, said = strace.run(
                command, output, kill=None if kill is None else (kill.call, kill.when), environment=environment
            )
            if (status != 0) != (kill is not None):
                raise RecordingFailed(f"scenario {scenario.name}, step {step}: exit status {status}\n{said}")
            moments += strace.read(output, root, len(moments))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Recording(scenario.name, scenario.durability, moments, scenario.weight, damaged=scenario.damaged)


def slug(name: str) -> str:
    """Return a name as a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
