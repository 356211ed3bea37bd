"""SIGKILL at write-like system calls: each n-th of some kinds here, all of them by `python tools/crash kill`."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash.kill import VICTIMS, Point, points, strike

pytestmark = pytest.mark.usefixtures("can_trace")

_SOME = [
    ("append", "database", "pwrite64", 7),
    ("append", "database", "fdatasync", 2),
    ("deliver", "database", "pwrite64", 6),
    ("deliver", "database", "fdatasync", 2),
    ("deliver", "any", "sendto", 1),
    ("refused", "any", "rename", 1),
    ("refused", "any", "fsync", 2),
    ("refused", "database", "pwrite64", 9),
    ("replay-part", "any", "rename", 1),
    ("replay", "any", "sendto", 1),
    ("replay", "folders", "fsync", 3),
    ("fresh", "above", "fsync", 1),
]


def point(group: str, call: str) -> Point:
    """Return a kind of calls by its names."""
    return next(each for each in points() if (each.group, each.call) == (group, call))


@pytest.mark.parametrize(("victim", "group", "call", "every"), _SOME)
def test_a_kill_loses_nothing(tmp_path: Path, victim: str, group: str, call: str, every: int) -> None:
    outcome = strike(VICTIMS[victim], point(group, call), str(tmp_path / "strike"), every)
    assert outcome.kills > 0
    assert not outcome.problems


def test_the_harness_sees_an_event_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: somebody deletes the queue after the kill, and that must show."""
    from crash import kill

    look = kill._look

    def robbed(place: str, *rest: object) -> str:
        for path in Path(place).glob("queue.db*"):
            path.unlink()
        return look(place, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kill, "_look", robbed)
    outcome = strike(VICTIMS["append"], point("database", "fdatasync"), str(tmp_path / "strike"), 5)
    assert outcome.kills > 0
    assert all("accepted" in each or "neither" in each for each in outcome.problems)
    assert len(outcome.problems) >= outcome.kills
