"""The same calls through the original SDK and through ours: equal arrivals, but for the differences listed here.

The original (`pip install samsara_sdk==0.5.5.0 cerberus`) runs in a process of its own: when it is imported it sets up
the root logger, and its thread would keep this process from ending.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samsara_kit import _an_environment_of_its_own, event  # noqa: F401

from edgespool.testing import Collector

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("samsara_sdk") and importlib.util.find_spec("cerberus")),
    reason="the original is not installed: pip install samsara_sdk==0.5.5.0 cerberus",
)

_PROGRAM = """
import importlib, json, sys
module, config, calls = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
SamsaraClient = importlib.import_module(module).SamsaraClient
said = []
try:
    client = SamsaraClient(start_publishing_thread=False, **config)
except Exception as error:
    said.append(type(error).__name__)
    calls = []
for name, argument in calls:
    try:
        if name == "record":
            said.append(client.record_event(**argument))
        elif name == "publish":
            said.append(client.publish_events(argument))
        elif module == "samsara_sdk":
            client._flush_buffer()
        else:
            client.start_consuming()
            client.flush()
    except Exception as error:
        said.append(type(error).__name__)
print(json.dumps(said))
"""

ORIGINAL, OURS = "samsara_sdk", "edgespool.vendors.samsara.api"
Calls = list[tuple[str, Any]]


@pytest.fixture
def collectors() -> Iterator[dict[str, Collector]]:
    with Collector(keep_bodies=True) as one, Collector(keep_bodies=True) as other:
        yield {ORIGINAL: one, OURS: other}


class Pair:
    """Runs a program once with each SDK, each against its own collector."""

    def __init__(self, collectors: dict[str, Collector], tmp_path: Path) -> None:
        self.collectors = collectors
        self._queues = tmp_path / "queues"

    def run(self, calls: Calls, path: str = "", **config: Any) -> tuple[list[Any], list[Any]]:
        """Return what the calls returned or raised: with the original, and with ours."""
        said = []
        for module in (ORIGINAL, OURS):
            options = {"url": self.collectors[module].base_url + path, "sourceId": "pi", **config}
            options = {key: value for key, value in options.items() if value is not ...}
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, module, json.dumps(options), json.dumps(calls)],
                capture_output=True, text=True, timeout=60, env={**os.environ, "EDGESPOOL_DIR": str(self._queues)},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            said.append(json.loads(done.stdout))
        return said[0], said[1]

    def arrived(self) -> tuple[list[Any], list[Any]]:
        return self.collectors[ORIGINAL].events(), self.collectors[OURS].events()


@pytest.fixture
def pair(collectors: dict[str, Collector], tmp_path: Path) -> Pair:
    return Pair(collectors, tmp_path)


# Equal


def test_events_arrive_equal_and_in_the_same_order(pair: Pair) -> None:
    calls: Calls = [
        ("record", {"eventName": "a", "timestamp": 1234567890}),
        ("record", {"eventName": "b", "timestamp": 2, "sourceId": "other", "color": "blué\u2028", "level": 10}),
        ("record", {"eventName": "c", "timestamp": 3, "x": {"y": [1, 2.5, None, True, {"z": "\U0001f600"}]}}),
        ("record", {"eventName": "", "timestamp": 10**18, "sourceId": ""}),
        ("flush", None),
        ("publish", [event("d"), event("e", n=1)]),
        ("record", {"eventName": "f", "timestamp": 6}),
        ("flush", None),
    ]
    original, ours = pair.run(calls)
    assert original == ours == [None, None, None, None, True, None]
    original, ours = pair.arrived()
    assert original == ours
    assert len(ours) == 7


def test_what_the_client_adds_is_equal(pair: Pair) -> None:
    pair.run([("record", {"eventName": "a"}), ("record", {"eventName": "b", "timestamp": None}), ("flush", None)])
    original, ours = pair.arrived()
    for one, other in zip(original, ours, strict=True):
        assert abs(one.pop("timestamp") - other.pop("timestamp")) < 60_000
    assert original == ours == [{"eventName": "a", "sourceId": "pi"}, {"eventName": "b", "sourceId": "pi"}]


def test_a_full_buffer_keeps_the_same_events(pair: Pair) -> None:
    calls: Calls = [("record", {"eventName": "a", "timestamp": n}) for n in range(12)]
    pair.run([*calls, ("flush", None)], max_buffer_size=5)
    original, ours = pair.arrived()
    assert original == ours
    assert [each["timestamp"] for each in ours] == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("compression", ["gzip", None])
def test_the_request_is_equal(pair: Pair, compression: Any) -> None:
    calls: Calls = [("publish", [event("a", n=n) for n in range(50)])]
    pair.run(calls, compression=compression)
    (one,), (other,) = (collector.requests() for collector in pair.collectors.values())
    assert (one.method, one.path, one.query, one.status) == (other.method, other.path, other.query, other.status)
    assert json.loads(one.body or b"") == json.loads(other.body or b"")
    for name in ("Accept", "Content-Type", "Content-Encoding"):
        assert one.headers[name] == other.headers[name]
    for request in (one, other):
        assert request.headers["X-Samsara-publishedTimestamp"].isdigit()
    assert set(one.headers) - {"User-Agent"} == set(other.headers) - {"User-Agent"}


def test_an_invalid_event_raises_the_same(pair: Pair) -> None:
    calls: Calls = [
        ("record", {}), ("record", {"eventName": 5}), ("record", {"eventName": None}),
        ("record", {"eventName": "a", "timestamp": -1}), ("record", {"eventName": "a", "timestamp": "1"}),
        ("record", {"eventName": "a", "timestamp": 1.5}), ("record", {"eventName": "a", "sourceId": 5}),
    ]  # fmt: skip
    original, ours = pair.run(calls)
    assert original == ours == ["InvalidEvent"] * len(calls)


@pytest.mark.parametrize("bad", [{"url": ...}, {"compression": "zip"}, {"publish_interval": -1}])
def test_an_invalid_option_raises_the_same(pair: Pair, bad: dict[str, Any]) -> None:
    original, ours = pair.run([], **bad)
    assert original == ours == ["InvalidConfiguration"]


# Different, each for a reason


def test_the_compression_none_of_the_documentation_works(pair: Pair) -> None:
    """The original knows only None and "gzip", against its own documentation."""
    assert pair.run([("publish", [event()])], compression="none") == (["InvalidConfiguration"], [True])


def test_an_event_without_any_source_is_an_invalid_event(pair: Pair) -> None:
    """The original raises the KeyError of its dictionary of options."""
    calls: Calls = [("record", {"eventName": "a"})]
    assert pair.run(calls, sourceId=...) == (["KeyError"], ["InvalidEvent"])


def test_source_id_is_an_option_and_a_key_as_documented(pair: Pair) -> None:
    """The original knows only `sourceId`, against its own documentation."""
    calls: Calls = [("record", {"eventName": "a", "timestamp": 1}), ("flush", None)]
    assert pair.run(calls, sourceId=..., source_id="kitchen")[0][0] == "KeyError"
    pair.run([("record", {"eventName": "b", "timestamp": 1, "source_id": "hall"}), ("flush", None)])
    original, ours = pair.arrived()
    assert original == [{"eventName": "b", "timestamp": 1, "sourceId": "pi", "source_id": "hall"}]
    assert ours == [
        {"eventName": "a", "timestamp": 1, "sourceId": "kitchen"},
        {"eventName": "b", "timestamp": 1, "sourceId": "hall"},
    ]


def test_a_timestamp_of_zero_is_a_timestamp(pair: Pair) -> None:
    """The original's own rule allows it, and then takes it for none."""
    pair.run([("record", {"eventName": "a", "timestamp": 0}), ("flush", None)])
    original, ours = pair.arrived()
    assert original[0]["timestamp"] > 10**12
    assert ours[0]["timestamp"] == 0


def test_true_is_no_timestamp(pair: Pair) -> None:
    """The original's check takes True for a whole number, and sends it as true."""
    assert pair.run([("record", {"eventName": "a", "timestamp": True})]) == ([None], ["InvalidEvent"])


def test_publishing_in_an_outage_returns_false_and_keeps_the_events(pair: Pair) -> None:
    """The original fails with a bare `raise`, and what becomes of the events is left to the caller."""
    for collector in pair.collectors.values():
        collector.set_fault(status=503, times=1)
    assert pair.run([("publish", [event("a")])]) == (["RuntimeError"], [False])
    pair.run([("publish", [event("b")])])
    original, ours = pair.arrived()
    assert original == [event("b")]
    assert ours == [event("a"), event("b")]


def test_what_the_server_refuses_is_named_and_kept(pair: Pair) -> None:
    """The original's bare `raise` again; here the refused event is in a failed payload file, the other has arrived."""
    for collector in pair.collectors.values():
        collector.set_fault(poison={"field": "eventName", "value": "bad"})
    assert pair.run([("publish", [event("bad"), event("good")])]) == (["RuntimeError"], ["RefusedEvents"])
    assert pair.arrived() == ([], [event("good")])


def test_an_invalid_event_is_not_published(pair: Pair) -> None:
    """The original sends it, and fails by the server's 400."""
    assert pair.run([("publish", [{"eventName": "a"}])]) == (["RuntimeError"], ["InvalidEvent"])
    assert len(pair.collectors[OURS].requests()) == 0


def test_an_option_nobody_knows_is_a_mistake(pair: Pair) -> None:
    """The original ignores it, and with it every misspelling."""
    assert pair.run([("publish", [event()])], publish_intervall=5) == ([True], ["InvalidConfiguration"])


def test_a_url_s_path_is_kept(pair: Pair) -> None:
    """The original posts to `/v1/events` of the host, whatever path the URL has."""
    pair.run([("publish", [event()])], path="/samsara/")
    assert [c.requests()[0].path for c in pair.collectors.values()] == ["/v1/events", "/samsara/v1/events"]


def test_a_body_of_a_few_bytes_is_not_compressed(pair: Pair) -> None:
    """It would grow; both are right by the header that says so."""
    pair.run([("publish", [event()])])
    said = [collector.requests()[0].headers["Content-Encoding"] for collector in pair.collectors.values()]
    assert said == ["gzip", "identity"]


def test_publishing_nothing_makes_no_request(pair: Pair) -> None:
    """The original posts an empty array."""
    assert pair.run([("publish", [])]) == ([True], [True])
    assert [len(collector.requests()) for collector in pair.collectors.values()] == [1, 0]


def test_publishing_keeps_the_order_behind_what_waits(pair: Pair) -> None:
    """The original's call overtakes its own buffer: events of one source arrive out of order."""
    calls: Calls = [("record", {**event("first")}), ("publish", [event("second")]), ("flush", None)]
    pair.run(calls)
    original, ours = pair.arrived()
    assert [each["eventName"] for each in original] == ["second", "first"]
    assert [each["eventName"] for each in ours] == ["first", "second"]
