"""A program that forks while a thread of it logs: the child can log, whatever that thread was at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forks_kit import ALL_WELL, forked_children
from initialstate_kit import an_environment_of_its_own  # noqa: F401 - a fixture

_VENDOR = """
from edgespool.vendors.initialstate.api import Streamer

def make(folder):
    return Streamer("Kitchen", "kitchen", "key", {options})

def call(front):
    {call}
"""
_ONLINE = "url='http://127.0.0.1:9', path=folder + '/queue', durability='process', start=False"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    ("options", "call"),
    [
        ("offline=True", "front.log('a', 1)"),
        (_ONLINE, "front.log('a', 1)"),
        (_ONLINE, "front.set_bucket('Name', 'name')"),
    ],
)
def test_a_child_forked_while_a_thread_logs_can_log(tmp_path: Path, options: str, call: str) -> None:
    assert forked_children(_VENDOR.replace("{options}", options).replace("{call}", call), tmp_path) == ALL_WELL
