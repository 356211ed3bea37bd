"""The explorer itself, on real recordings: a bounded run of all of it, and that it finds what is taken away."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from crash.explore import Result, Task, look, work
from crash.recording import Recording, record
from crash.scenarios import SCENARIOS

from crash import strace

pytestmark = pytest.mark.usefixtures("can_trace")


def test_twenty_thousand_states_and_nothing_is_lost(tool: Path, tmp_path: Path) -> None:
    """All scenarios, second crashes, torn blocks, and the controls, which must find something."""
    command = [sys.executable, str(tool), "--states", "20500", "--traces", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"^([\d,]+) states", done.stdout, re.MULTILINE)
    assert match is not None, done.stdout
    assert int(match[1].replace(",", "")) >= 20_000, done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A recording of the smallest scenario."""
    reason = strace.missing()
    if reason is not None:
        pytest.skip(reason)
    return record(SCENARIOS["fresh"], str(tmp_path_factory.mktemp("recording") / "run"))


def explored(recording: Recording, tmp_path: Path, states: int = 300, block: int = 0) -> Result:
    """Explore a recording in this process."""
    path = recording.save(str(tmp_path / "recording.rec"))
    points = len(recording.moments) + 1
    return work(Task(path, 0, points, states, block, "0", str(tmp_path / "states")))


def test_a_fresh_queue_survives_from_the_first_call_on(fresh: Recording, tmp_path: Path) -> None:
    result = explored(fresh, tmp_path)
    assert result.states == 300
    assert not result.findings


def test_each_point_is_looked_at_however_few_the_states(fresh: Recording, tmp_path: Path) -> None:
    points = len(fresh.moments) + 1
    assert explored(fresh, tmp_path, states=points).states == points


@pytest.mark.parametrize("flushes", ["none", "files"])
def test_a_missing_flush_is_found_as_a_loss(fresh: Recording, tmp_path: Path, flushes: str) -> None:
    result = explored(replace(fresh, flushes=flushes), tmp_path)
    assert result.violations
    assert "lost" in result.kinds()


def test_a_finding_can_be_made_again(fresh: Recording, tmp_path: Path) -> None:
    careless = replace(fresh, flushes="files")
    finding = explored(careless, tmp_path).findings[0]
    path = careless.save(str(tmp_path / "again.rec"))
    _, words, verdict = look(path, finding.point, finding.number, finding.block, "0", str(tmp_path / "look"))
    assert [each.kind for each in verdict.problems] == [finding.problem.kind]
    assert words
    assert (tmp_path / "look").is_dir()


def test_the_command_explains_itself_and_refuses_what_it_does_not_know(tool: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(tool), *arguments], capture_output=True, text=True, timeout=60)

    assert "--states" in run("--help").stdout
    assert "--every" in run("kill", "--help").stdout
    assert "fresh" in run("--list").stdout
    assert run("--scenario", "nonsense").returncode == 2
    assert run("kill", "nonsense").returncode == 2


def test_one_state_can_be_looked_at_by_the_command(tool: Path, fresh: Recording, tmp_path: Path) -> None:
    fresh.save(str(tmp_path / "fresh.rec"))
    last = len(fresh.moments)
    command = [sys.executable, str(tool), "--scenario", "fresh", "--state", f"{last}.1", "--traces", str(tmp_path)]
    done = subprocess.run([*command, "--keep", str(tmp_path / "kept")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is broken" in done.stdout
    assert (tmp_path / "kept" / "var" / "lib" / "queue" / "queue.db").is_file()
