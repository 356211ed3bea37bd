"""A program that forks while a thread of it records: the child can record, whatever that thread was at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forks_kit import ALL_WELL, forked_children
from samsara_kit import isolate

_VENDOR = """
from edgespool.vendors.samsara.api import SamsaraClient

def make(folder):
    return SamsaraClient(
        url="http://127.0.0.1:9", sourceId="a", path=folder + "/queue", durability="process",
        start_publishing_thread=False, send_client_stats=True, publish_interval=1,
    )

def call(front):
    {call}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("call", ["front.record_event(eventName='a')", "front.stop_consuming()"])
def test_a_child_forked_while_a_thread_uses_the_client_can_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    isolate(monkeypatch, tmp_path / "home")
    assert forked_children(_VENDOR.replace("{call}", call), tmp_path) == ALL_WELL
