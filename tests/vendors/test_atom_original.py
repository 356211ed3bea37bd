"""The original SDK and ours, given the same calls: what arrives is equal, but for the differences listed here.

Not compared, and why:

    white space and key order in JSON texts   ours are compact; what they say is equal
    how events are spread over requests       the original's depends on the timing of its polling loop
    User-Agent, Accept, Accept-Encoding       those of `requests` and of edgespool
    GET                                       the original uses base64.encodestring, gone since Python 3.9
    NaN, lone surrogates                      ours raise; they are not JSON

The original (1.5.1) is not on PyPI; where it cannot be imported nothing is tested here.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from atom_kit import clean_environment, message, wait_until

from edgespool.testing import Collector
from edgespool.vendors.atom import api as ours

low_level = pytest.importorskip("ironsource.atom.ironsource_atom")
high_level = pytest.importorskip("ironsource.atom.ironsource_atom_tracker")

VALUES: list[Any] = [
    {"id": 1, "event_name": "é\U0001f600", "nested": {"list": [1, 2.5, None, True], "": ""}}, {"id": 2}, [1, "two"],
    "a text", '{"ready": "made"}', 5, "ü\n\t\"\\", {"1": {"2": [{}]}},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture(autouse=True)
def _signals_of_their_own() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():  # the original takes them over
        signal.signal(number, handler)


def arrivals(collector: Collector) -> list[tuple[Any, ...]]:
    return [(each.path, each.name, each.data, each.extra) for each in collector.arrived()]


def test_the_low_level_classes_send_the_same() -> None:
    got = []
    for module in (low_level, ours):
        with Collector(keep_bodies=True) as collector:
            sender = module.IronSourceAtom(endpoint=collector.base_url + "/", auth_key="default")
            for value in VALUES:
                assert sender.put_event(stream="s", data=value).status == 200
                assert sender.put_event("t", value, "POST", "own").status == 200
            assert sender.put_events(stream="u", data=VALUES[:4]).status == 200
            assert sender.put_events("v", VALUES[4:], auth_key="own").status == 200
            for name, wrong in (("put_event", ("", "x")), ("put_events", ("s", {}))):
                with pytest.raises(Exception, match=r".+"):
                    getattr(sender, name)(*wrong)
            collector.set_fault(status=400, body="no")
            refused = sender.put_event("s", "x")
            headers = {name.lower(): value for name, value in collector.requests()[0].headers.items()}
            got.append((
                arrivals(collector), (refused.status, refused.data, refused.error),
                [message(each).keys() for each in collector.requests() if each.status == 200],
                headers["x-ironsource-atom-sdk-type"],
            ))  # fmt: skip
    assert got[0] == got[1]


def test_the_trackers_send_the_same(tmp_path: Path) -> None:
    got = []
    for module, more in ((high_level, {}), (ours, {"path": tmp_path / "queue"})):
        with Collector(keep_bodies=True) as collector:
            tracker = module.IronSourceAtomTracker(
                endpoint=collector.base_url + "/", flush_interval=1000, auth_key="default", **more
            )
            for value in VALUES:
                tracker.track(stream="s", data=value)
                tracker.track("t", value, "own")
            wait_until(lambda: collector.count() == 2 * len(VALUES), timeout=15)
            tracker.stop()
            found = arrivals(collector)
            got.append({stream: [each for each in found if each[1] == stream] for stream in "st"})
    assert got[0] == got[1]
