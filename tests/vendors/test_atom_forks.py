"""A program that forks while a thread of it tracks: the child can track, whatever that thread was at."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from atom_kit import clean_environment
from forks_kit import ALL_WELL, forked_children

from edgespool.errors import QueueFull
from edgespool.vendors.atom.backlog import Mover, Room
from edgespool.vendors.atom.event_storage import Event, QueueEventStorage

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


def _ends_well(child: int) -> bool:
    """Wait for a child for 20 seconds at most; return whether it has ended by itself, and well."""
    end = time.monotonic() + 20
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.005)
    return found[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_a_thread_of_the_parent_was_storing_takes_no_room_in_a_child() -> None:
    room = Room(1, on_disk=lambda stream: [])
    room.enter("s", "a")  # and the fork comes before it is stored
    child = os.fork()
    if not child:
        room.enter("s", "b")
        os._exit(0)
    assert _ends_well(child)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_the_parent_keeps_is_left_to_the_parent() -> None:
    stored: list[str] = []
    full = [True]

    def store(event: Event) -> None:
        if full:
            raise QueueFull("told to fail")
        stored.append(event.data)

    mover = Mover(QueueEventStorage(9), store)
    with pytest.raises(QueueFull):
        mover.add(Event("s", "1"))
    full.clear()
    child = os.fork()
    if not child:
        try:
            mover.add(Event("s", "2"))
            mover.close()
            os._exit(0 if stored == ["2"] and not mover.give_back(5) else 1)
        finally:
            os._exit(2)
    assert _ends_well(child)
    mover.move(["s"])
    assert stored == ["1"]
