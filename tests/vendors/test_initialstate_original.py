"""The same calls through the original package and through ours: what arrives is equal, but for what is listed here.

Runs where `ISStreamer==2.0.0` is installed. What differs on purpose, each with a test below:

* readings logged before `set_bucket` go to the bucket that was set then (as documented; the original sends
  what it has not shipped yet to the new one)
* named tuples, tuples, other mappings and plain attributes have values for `log_object` (the original finds none)
* a key is text (documented); the original sends a number as a number
* a value that JSON cannot say spoils nothing else; the original sends `NaN`, which is no JSON, or loses the batch
* an outage, 401, 402, 403, 429 lose nothing; the original gives up
"""

# ruff: noqa: F401, F811 - fixtures come from the kit

from __future__ import annotations

import collections
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from initialstate_kit import KEY, an_environment_of_its_own, collector, readings, sent, wait_until

from edgespool.testing import Collector
from edgespool.vendors.initialstate.api import Streamer

original = pytest.importorskip("ISStreamer.Streamer")

Class = type[Any]
T = 1_419_876_021.778477


class Room:
    @property
    def temperature(self) -> float:
        return 21.5

    @property
    def humidity(self) -> int:
        return 40


@pytest.fixture
def ini(collector: Collector) -> str:
    """The path of an ini file that both read."""
    path = Path("both.ini")
    path.write_text(
        f"[isstreamer.client_config]\naccess_key = {KEY}\ndefault_bucket = From the file\n"
        f"[isstreamer.api_config]\nstream_api_base = {collector.base_url}\n"
    )
    return str(path)


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare us the second between the original's tries."""
    waitless = types.SimpleNamespace(time=original.time.time, sleep=lambda seconds: None)
    monkeypatch.setattr(original, "time", waitless)


def plain(s: Any) -> None:
    s.log("text", "hi")
    s.log("number", 32)
    s.log("Küche 🌡", True, T)
    s.log("nested", {"a": [1, None, "é"]}, epoch=5)
    s.flush()


def objects(s: Any) -> None:
    s.log_object([1, "b", 2.5], epoch=T)
    s.log_object([1], "prefix", T)
    s.log_object({"a": 1, 2: "x"}, key_prefix="", epoch=T)
    s.log_object({"a": 1}, epoch=T)
    s.log_object(Room(), epoch=T)
    s.log_object(Room(), "room", T)
    s.flush()


def buckets(s: Any) -> None:
    s.log("n", 1, T)
    s.flush()
    s.set_bucket("Second", "second")
    s.log("n", 2, T)
    s.flush()
    s.set_bucket(bucket_name="Third", bucket_key="third")
    s.log("n", 3, T)


def many(s: Any) -> None:
    for number in range(37):
        s.log("n", number, T + number)


def strange_epochs(s: Any) -> None:
    for epoch in ("yesterday", 1.7e12, math.nan, [1]):
        s.log("n", 1, epoch=epoch)


def epoch_of(event: dict[str, Any]) -> Any:
    """Return the epoch when the calls gave it, else only its type: it is the time of the call."""
    return event["epoch"] if event["epoch"] in (5, *(T + n for n in range(37))) else float


def arrivals(collector: Collector, since: int) -> list[Any]:
    return [
        (each.extra, {**each.event, "epoch": epoch_of(each.event)}) for each in collector.arrived(offset=since)
    ]


@pytest.mark.parametrize("calls", [plain, objects, buckets, many, strange_epochs])
def test_the_same_calls_arrive_as_the_same_events(
    collector: Collector, ini: str, calls: Callable[[Any], None]
) -> None:
    got = []
    for kind in (original.Streamer, Streamer):
        before, requests = collector.count(), len(collector.requests())
        # Another account each: what one sends must be no repeat of the other's.
        s = kind("Kitchen", "kitchen", f"{KEY}-{kind.__module__}", ini, use_async=False)
        calls(s)
        s.close()
        made = [(each.path, each.headers["X-IS-BucketKey"], json.loads(each.body or b""))
                for each in collector.requests()[requests:] if each.path == "/api/buckets"]  # fmt: skip
        got.append((arrivals(collector, before), made))
    assert got[0] == got[1]
    assert got[0][0]


def test_the_headers_are_the_same(collector: Collector, ini: str) -> None:
    names = ("Content-Type", "User-Agent", "Accept-Version", "X-IS-AccessKey", "X-IS-BucketKey")
    got = []
    for kind in (original.Streamer, Streamer):
        before = len(collector.requests())
        s = kind(bucket_key="kitchen", ini_file_location=ini, use_async=False)
        s.log("n", 1, T)
        s.close()
        got.append([
            (each.method, each.path, each.query, [each.headers[name] for name in names])
            for each in collector.requests()[before:]
        ])  # fmt: skip
    assert got[0] == got[1]
    assert len(got[0]) == 2


def test_the_attributes_are_the_same(collector: Collector, ini: str) -> None:
    ours, theirs = (
        kind("", "kitchen", ini_file_location=ini, use_async=False) for kind in (Streamer, original.Streamer)
    )
    names = [name for name in vars(original.Streamer) if name[0].isupper()]
    assert all(hasattr(ours, name) for name in dir(original.Streamer) if not name.startswith("_"))
    for name in set(names) - {"LogQueue"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    for each in (ours, theirs):
        each.close()


def test_offline_rows_are_the_same(ini: str) -> None:
    files = []
    for kind in (original.Streamer, Streamer):
        s = kind("Kitchen", "kitchen", KEY, ini, offline=True)
        s.log("temperature", 21.5, epoch=T)
        s.log_object({"a": 'x,"y"\n', "b": None}, epoch=T)
        s.close()
        files.append(Path("isstreamer_out.csv.csv").read_bytes())
        Path("isstreamer_out.csv.csv").unlink()
    assert files[0] == files[1]


def test_a_missing_ini_file_is_an_exception_in_both() -> None:
    for kind in (original.Streamer, Streamer):
        with pytest.raises(Exception, match="exist"):
            kind("Kitchen", access_key=KEY, ini_file_location="none.ini")


# --- what differs -----------------------------------------------------------------------------------------------------


def test_differs_what_was_logged_before_set_bucket_stays_in_its_bucket(collector: Collector, ini: str) -> None:
    got = []
    for kind in (original.Streamer, Streamer):
        before = collector.count()
        s = kind("A", "a", KEY, ini, use_async=False)
        s.log("n", kind.__module__)
        s.set_bucket("B", "b")
        s.close()
        got.append([each.extra["bucket"] for each in collector.arrived(offset=before)])
    assert got == [["b"], ["a"]]


Point = collections.namedtuple("Point", ["x", "y"])


class Plain:
    def __init__(self) -> None:
        self.level = 3


@pytest.mark.parametrize(
    ("obj", "keys"),
    [(Point(1, 2), ["Point_x", "Point_y"]), ((1,), ["tuple_0"]), (Plain(), ["Plain_level"]),
     (collections.OrderedDict(a=1), ["OrderedDict_a"])],
)  # fmt: skip
def test_differs_objects_without_properties_have_values_too(
    collector: Collector, ini: str, obj: Any, keys: list[str]
) -> None:
    got = []
    for kind in (original.Streamer, Streamer):
        before = collector.count()
        s = kind("A", "a", KEY, ini, use_async=False)
        s.log_object(obj)
        s.close()
        got.append([each.event["key"] for each in collector.arrived(offset=before)])
    assert got == [[], keys]


def test_differs_a_value_that_json_cannot_say_spoils_nothing_else(
    collector: Collector, ini: str, no_waits: None
) -> None:
    got = []
    for kind in (original.Streamer, Streamer):
        before = collector.count()
        s = kind("A", "a", KEY, ini, use_async=False)
        s.log("good", 1, T)
        s.log("bad", math.nan, T)
        s.close()
        got.append([each.event["key"] for each in collector.arrived(offset=before)])
    assert got == [[], ["good"]]


def test_differs_a_key_that_is_a_number_is_sent_as_text(
    collector: Collector, ini: str, no_waits: None
) -> None:
    bodies = []
    for kind in (original.Streamer, Streamer):
        s = kind("A", "a", KEY, ini, use_async=False)
        s.log(5, 1, T)
        s.close()
        bodies.append(json.loads(collector.requests()[-1].body or b""))
    assert [type(body[0]["key"]) for body in bodies] == [int, str]


@pytest.mark.parametrize("status", [400, 401, 403, 429])
def test_differs_a_refusal_that_passes_loses_nothing(
    collector: Collector, ini: str, status: int, no_waits: None
) -> None:
    removed = '{"message": {"error": {"type": "BUCKET_REMOVED", "message": ""}}}'
    got = []
    for kind in (original.Streamer, Streamer):
        before = collector.count()
        s = kind("A", "a", KEY, ini)
        collector.set_fault(status=status, body=removed if status == 400 else "{}", path="/api/events")
        s.log("n", kind.__module__)
        s.flush()
        collector.heal()
        if kind is Streamer:
            s._client.send_now()
            wait_until(lambda: s._client.stats().pending == 0)  # noqa: B023 - called at once
        s.close()
        got.append(collector.count() - before)
    assert got == [0, 1]


def test_differs_the_missed_events_of_two_starts_are_all_there_and_ours_can_send_them(
    collector: Collector, ini: str, no_waits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = Path("err_missed_events.txt")
    collector.close_port()
    for number in range(2):  # the second start wipes what the first one wrote
        s = original.Streamer("A", "a", KEY, ini, use_async=False)
        s.log("n", number, T)
        s.close()
    lines = [json.loads(line) for line in missed.read_text().splitlines()]
    assert lines == [{"bucketKey": "a", "bucketName": "A"}, [{"key": "n", "value": 1, "epoch": T}]]
    for number in range(2):
        ours = Streamer("A", "b", KEY, ini, path="queue")
        ours.log("n", number, T)
        ours.close(0)
    collector.open_port()
    ours = Streamer("A", "b", KEY, ini, path="queue")
    wait_until(lambda: ours._client.stats().pending == 0)
    ours.close()
    assert readings(collector) == [("b", "n", 0), ("b", "n", 1)]
    done = subprocess.run(
        [sys.executable, "-c", "from edgespool.cli import replay_failed; replay_failed()",
         "--format", "initialstate", "--route", "a", str(missed)],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "EDGESPOOL_AUTH": KEY, "EDGESPOOL_URL": collector.base_url},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert readings(collector)[-1] == ("a", "n", 1)
    assert collector.arrived()[-1].extra["bucket_name"] == "A", "its bucket was made as well, and before"
