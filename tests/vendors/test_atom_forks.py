"""A program that forks while a thread of it tracks: the child can track, whatever that thread was at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from atom_kit import clean_environment
from forks_kit import ALL_WELL, forked_children

_VENDOR = """
from edgespool.vendors.atom.api import IronSourceAtomTracker
from edgespool.vendors.atom.event_storage import QueueEventStorage

def make(folder):
    return IronSourceAtomTracker(
        endpoint="http://127.0.0.1:9/", path=folder + "/queue", durability="process", start=False, {options}
    )

def call(front):
    front.track("s", 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("options", ["", "event_backlog=QueueEventStorage(9)", "backlog_size=10**6"])
def test_a_child_forked_while_a_thread_tracks_can_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    clean_environment(monkeypatch, tmp_path / "home")
    assert forked_children(_VENDOR.replace("{options}", options), tmp_path) == ALL_WELL
