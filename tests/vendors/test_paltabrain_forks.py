"""A program that forks while a thread of it tracks in a session: the child can track, whatever that thread was at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forks_kit import ALL_WELL, forked_children
from paltabrain_kit import isolate

_VENDOR = """
from edgespool.vendors.paltabrain.api import PaltabrainSdk
from edgespool.vendors.paltabrain.example import Context, EventSessionStart

def make(folder):
    return PaltabrainSdk(
        "http://127.0.0.1:9", "key", Context(), path=folder + "/queue", durability="process", start=False,
        start_session=True,
    )

def call(front):
    front.track(EventSessionStart())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_while_a_thread_tracks_can_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)
    assert forked_children(_VENDOR, tmp_path) == ALL_WELL
