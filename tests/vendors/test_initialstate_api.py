"""The streamer's interface: names, defaults, what is logged where, and what becomes of errors."""

# ruff: noqa: F401, F811 - fixtures come from the kit

from __future__ import annotations

import contextlib
import dataclasses
import gc
import inspect
import itertools
import logging
import subprocess
import sys
import threading
import time
import uuid
from collections import OrderedDict, deque, namedtuple
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from initialstate_kit import (
    KEY,
    MakeStreamer,
    an_environment_of_its_own,
    collector,
    failed_files,
    make_streamer,
    readings,
    sent,
    wait_until,
)

from edgespool import ConfigError, EventError, QueueClosed, QueueFull
from edgespool.testing import Collector
from edgespool.vendors.initialstate import IMPORTS
from edgespool.vendors.initialstate.api import Streamer
from edgespool.vendors.initialstate.device import Device


def test_the_constructor_and_the_methods_have_the_original_s_arguments_and_defaults() -> None:
    def arguments(function: Any) -> list[tuple[str, Any]]:
        given = inspect.signature(function).parameters.values()
        return [(each.name, each.default) for each in given if each.name != "self" and each.kind != each.VAR_KEYWORD]

    none = inspect.Parameter.empty
    assert arguments(Streamer.__init__) == [
        ("bucket_name", ""), ("bucket_key", ""), ("access_key", ""), ("ini_file_location", None), ("debug_level", 0),
        ("buffer_size", 10), ("offline", None), ("use_async", True),
    ]  # fmt: skip
    assert arguments(Streamer.log) == [("key", none), ("value", none), ("epoch", None)]
    assert arguments(Streamer.log_object) == [("obj", none), ("key_prefix", None), ("epoch", None)]
    assert arguments(Streamer.set_bucket) == [("bucket_name", ""), ("bucket_key", ""), ("retries", 3)]
    assert arguments(Streamer.console_message) == [("message", none), ("level", 1)]
    for name in ("flush", "close"):
        assert all(default is not none for _, default in arguments(getattr(Streamer, name))), name


def test_the_import_names_lead_to_modules_and_importing_the_vendor_is_cheap() -> None:
    assert IMPORTS["ISStreamer"] == ""
    assert import_module(IMPORTS["ISStreamer.Streamer"]).Streamer is Streamer
    for name in filter(None, IMPORTS.values()):
        assert import_module(name)
    heavy = ["requests", "sqlite3", "persistqueue", "filelock", "edgespool.client", "configparser", "csv"]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\nimport edgespool.vendors.initialstate\n"
         f"print([name for name in {heavy!r} if name in sys.modules])"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr


def test_the_readme_s_basic_usage(collector: Collector) -> None:
    streamer = Streamer(
        bucket_name="Some Bucket Name", bucket_key="bucket_key", access_key="YourAccessKey", url=collector.base_url
    )
    streamer.log("test", "hi")
    streamer.log("temperature", 32)
    streamer.flush()
    assert readings(collector) == [("bucket_key", "test", "hi"), ("bucket_key", "temperature", 32)]
    streamer.close()


def test_the_attributes_say_what_was_given(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer("Some Name", "some_key", "a:b", debug_level=1, buffer_size=7, use_async=False)
    assert (streamer.BucketName, streamer.BucketKey, streamer.AccessKey) == ("Some Name", "some_key", "a:b")
    assert (streamer.DebugLevel, streamer.BufferSize, streamer.Async, streamer.Offline) == (1, 7, False, False)
    assert (streamer.StreamApiBase, streamer.ApiVersion) == (collector.base_url, "<=0.0.4")
    assert not streamer.IsClosed
    streamer.close()
    assert streamer.IsClosed


@pytest.mark.parametrize("key", ["", None])
def test_a_missing_bucket_key_is_a_new_uuid4(make_streamer: MakeStreamer, key: str | None) -> None:
    streamer = make_streamer("New", "")
    first = streamer.BucketKey
    streamer.set_bucket("Newer", key)
    assert uuid.UUID(first).version == uuid.UUID(streamer.BucketKey).version == 4
    assert first != streamer.BucketKey


def test_each_reading_goes_to_the_bucket_that_was_set_when_it_was_logged(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer("Starting Bucket", "first", start=False)
    streamer.log("key1", "starting")
    streamer.set_bucket(bucket_name="New Bucket", bucket_key="second")
    streamer.log("key1", "starting")
    streamer._client.start()
    assert collector.wait_for(2, 10)
    assert sorted(readings(collector)) == [("first", "key1", "starting"), ("second", "key1", "starting")]
    assert {each.extra["bucket_name"] for each in collector.arrived()} == {"Starting Bucket", "New Bucket"}


@pytest.mark.parametrize("value", ["text", "Grüße 🌡\n\0", "", True, False, 0, -3, 21.5, 1e300, 10**30, None])
def test_a_value_arrives_as_it_was(make_streamer: MakeStreamer, collector: Collector, value: Any) -> None:
    make_streamer().log("key", value)
    assert collector.wait_for(1, 10)
    [event] = collector.events()
    assert (event["key"], event["value"], type(event["value"])) == ("key", value, type(value))


@pytest.mark.parametrize(("key", "text"), [("Küche 🌡", "Küche 🌡"), ("", ""), ("k" * 300, "k" * 300), (5, "5")])
def test_a_key_arrives_as_text(make_streamer: MakeStreamer, collector: Collector, key: Any, text: str) -> None:
    make_streamer().log(key, 1)
    assert collector.wait_for(1, 10)
    assert collector.events()[0]["key"] == text


def test_a_reading_has_the_time_of_the_call_or_the_one_given(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer()
    before = time.time()
    streamer.log("now", 1)
    after = time.time()
    streamer.log("then", 2, epoch=1_419_876_021.778477)
    streamer.log("whole", 3, 1_419_876_021)
    streamer.log("early", 4, epoch=0)
    assert collector.wait_for(4, 10)
    epochs = {event["key"]: event["epoch"] for event in collector.events()}
    assert before <= epochs.pop("now") <= after
    assert epochs == {"then": 1_419_876_021.778477, "whole": 1_419_876_021, "early": 0}


@pytest.mark.parametrize("epoch", ["yesterday", "1419876021", 1.7e12, float("nan"), float("inf"), [1], 10**400])
def test_what_is_no_time_is_replaced_by_the_current_one(
    make_streamer: MakeStreamer, collector: Collector, epoch: Any
) -> None:
    before = time.time()
    make_streamer().log("key", 1, epoch=epoch)
    assert collector.wait_for(1, 10)
    assert before <= collector.events()[0]["epoch"] <= time.time()


# --- log_object -------------------------------------------------------------------------------------------------------


class Sensor:
    """An object as the original took them: with properties."""

    constant = "of the class"

    def __init__(self) -> None:
        self._hidden = 1
        self.place = "roof"
        self.lock = threading.Lock()

    @property
    def temperature(self) -> float:
        return 21.5

    @property
    def history(self) -> list[int]:
        return [1, 2]

    def method(self) -> int:
        return 1


Memory = namedtuple("Memory", ["total", "free"])


@dataclasses.dataclass
class Wind:
    speed: float
    gusts: list[int]


class Slotted:
    __slots__ = ("_private", "depth", "unset")

    def __init__(self) -> None:
        self.depth = 3
        self._private = 1


@pytest.mark.parametrize(
    ("obj", "prefix", "expected"),
    [
        ([1, "b"], None, {"list_0": 1, "list_1": "b"}),
        ([1, "b"], "room", {"room_0": 1, "room_1": "b"}),
        ([1, "b"], "", {"0": 1, "1": "b"}),
        ({"a": 1, 2: True}, None, {"dict_a": 1, "dict_2": True}),
        ({"a": 1}, "some_dict", {"some_dict_a": 1}),
        ({"a": 1}, "", {"a": 1}),
        (Sensor(), None, {"Sensor_history": [1, 2], "Sensor_place": "roof", "Sensor_temperature": 21.5}),
        (Sensor(), "s", {"s_history": [1, 2], "s_place": "roof", "s_temperature": 21.5}),
        ((1, 2), None, {"tuple_0": 1, "tuple_1": 2}),
        (OrderedDict(a=1), None, {"OrderedDict_a": 1}),
        (Memory(8, 3), None, {"Memory_free": 3, "Memory_total": 8}),
        (Wind(3.5, [4, 5]), "wind", {"wind_gusts": [4, 5], "wind_speed": 3.5}),
        (Slotted(), None, {"Slotted_depth": 3}),
    ],
)
def test_log_object_names_the_values_of_lists_dicts_and_objects(
    make_streamer: MakeStreamer, collector: Collector, obj: Any, prefix: str | None, expected: dict[str, Any]
) -> None:
    make_streamer().log_object(obj, key_prefix=prefix)
    assert collector.wait_for(len(expected), 10)
    assert {event["key"]: event["value"] for event in collector.events()} == expected
    assert [event["key"] for event in collector.events()] == list(expected)


def test_all_values_of_an_object_share_one_moment(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer()
    streamer.log_object(list(range(50)))
    streamer.log_object({"a": 1, "b": 2}, "dict", 1_419_876_021.5)
    assert collector.wait_for(52, 10)
    epochs = [event["epoch"] for event in collector.events()]
    assert len(set(epochs[:50])) == 1
    assert set(epochs[50:]) == {1_419_876_021.5}


@pytest.mark.parametrize("obj", [[], {}, object(), 5, "text"])
def test_an_object_without_values_logs_nothing(make_streamer: MakeStreamer, obj: Any) -> None:
    streamer = make_streamer(debug_level=2)
    streamer.log_object(obj)
    assert streamer._client.stats().accepted == 1, "the bucket only"


# --- buffer, flush, close ---------------------------------------------------------------------------------------------


def test_a_full_buffer_is_sent_without_waiting_and_the_rest_with_a_flush(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer(buffer_size=4, flush_interval=3600)
    wait_until(lambda: len(collector.requests()) == 1, "the bucket")
    wait_until(lambda: streamer._client.stats().state == "idle", "rest")
    for number in range(3):
        streamer.log("n", number)
    assert streamer._client.stats().pending == 3
    streamer.log("n", 3)
    assert collector.wait_for(4, 10)
    wait_until(lambda: streamer._client.stats().state == "idle", "rest")
    streamer.log("n", 4)
    streamer.flush()
    assert [value for _, _, value in readings(collector)] == [0, 1, 2, 3, 4]
    assert [len(body) for path, _, _, body in sent(collector) if path == "/api/events"] == [4, 1]


def test_a_buffer_that_fills_does_not_hasten_what_the_server_put_off(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    collector.set_fault(status=429, headers={"Retry-After": "600"})
    streamer = make_streamer(buffer_size=1)
    wait_until(lambda: streamer._client.stats().state == "backing off", "the wait")
    for number in range(30):
        streamer.log("n", number)
        streamer.flush(10)  # returns at once
    assert len(collector.requests()) == 1
    assert streamer._client.stats().pending == 31


def test_without_async_a_full_buffer_is_sent_before_log_returns(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer(use_async=False, buffer_size=2, flush_interval=3600)
    streamer.log("n", 1)
    streamer.log("n", 2)
    assert [value for _, _, value in readings(collector)] == [1, 2]
    streamer.set_bucket("Next", "next")
    assert sent(collector)[-1] == ("/api/buckets", 201, "next", {"bucketKey": "next", "bucketName": "Next"})


def test_flush_and_close_can_be_called_again_and_in_any_order(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer()
    streamer.log("n", 1)
    streamer.close()
    streamer.close()
    streamer.flush()
    assert [value for _, _, value in readings(collector)] == [1]


def test_a_reading_after_close_opens_the_streamer_again(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer()
    streamer.close()
    streamer.log("n", 1)
    assert not streamer.IsClosed
    streamer.close()
    streamer.set_bucket("Next", "next")
    streamer.log_object([2])
    streamer.close()
    assert readings(collector) == [("kitchen", "n", 1), ("next", "list_0", 2)]


def test_a_streamer_that_is_forgotten_is_closed(collector: Collector) -> None:
    streamer = Streamer("Kitchen", "kitchen", KEY, url=collector.base_url, flush_interval=3600)
    client = streamer._client
    streamer.log("n", 1)
    del streamer
    gc.collect()
    assert [value for _, _, value in readings(collector)] == [1]
    with pytest.raises(QueueClosed):
        client.record("x", value=1)


def test_two_streamers_of_one_account_share_a_queue_and_of_two_accounts_do_not(collector: Collector) -> None:
    with contextlib.ExitStack() as opened:
        made = []
        for bucket, key in (("a", "key-one"), ("b", "key-one"), ("c", "key-two")):
            streamer = Streamer(bucket, bucket, key, url=collector.base_url)
            opened.callback(streamer.close)
            streamer.log("bucket", bucket)
            made.append(streamer)
        folders = [streamer._client.directory for streamer in made]
        assert folders[0] == folders[1] != folders[2]
    wait_until(lambda: collector.count() == 3)
    keys = {each.headers["X-IS-BucketKey"]: each.headers["X-IS-AccessKey"] for each in collector.requests()}
    assert keys == {"a": "key-one", "b": "key-one", "c": "key-two"}
    assert all(bucket == value for bucket, _, value in readings(collector))


def test_what_is_logged_of_a_reading_is_one_printable_line(
    make_streamer: MakeStreamer, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = make_streamer(debug_level=1)
    caplog.clear()
    streamer.log("key", "a\x1b[31m\nERROR edgespool: forged \ud800")
    said = [record.getMessage() for record in caplog.records]
    assert any("ERROR edgespool: forged" in line for line in said)
    assert all(line.isprintable() for line in said)


# --- errors -----------------------------------------------------------------------------------------------------------

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
UNSAYABLE = [float("nan"), float("inf"), {1, 2}, object(), b"bytes", "\ud800", CYCLE, {"a": {(1, 2): 3}}]


@pytest.mark.parametrize("value", UNSAYABLE, ids=lambda value: type(value).__name__)
def test_from_debug_level_2_on_what_json_cannot_say_is_raised_at_the_call(
    make_streamer: MakeStreamer, value: Any
) -> None:
    streamer = make_streamer(debug_level=2)
    with pytest.raises(EventError, match="value"):
        streamer.log("key", value)
    with pytest.raises(ValueError, match="value"):
        streamer.log_object({"good": 1, "bad": value})
    assert streamer._client.stats().accepted == 1, "the bucket, and nothing of the object"
    assert isinstance(streamer.last_error, EventError)


@pytest.mark.parametrize("value", UNSAYABLE, ids=lambda value: type(value).__name__)
def test_below_it_is_logged_and_counted_and_spoils_nothing_else(
    make_streamer: MakeStreamer, collector: Collector, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    streamer = make_streamer()
    streamer.log("bad", value)
    assert isinstance(streamer.last_error, EventError)
    streamer.log_object({"a": 1, "bad": value, "b": 2})
    assert streamer.refused == 2
    streamer.log("c", 3)
    assert streamer.last_error is None
    assert collector.wait_for(3, 10)
    assert [event["key"] for event in collector.events()] == ["dict_a", "dict_b", "c"]
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.name.startswith("edgespool")
    assert "not stored" in line.message


def test_a_value_that_is_too_large_spoils_nothing_else(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer(batch_bytes=1024)
    for size in (900, 950, 960, 970, 980, 990, 1000, 1010, 1020, 1030, 5000):
        streamer.log_object({"a": 1, "large": "x" * size, "b": 2}, "o", epoch=1_419_876_021.778477 + size)
    streamer.flush()
    assert [event["key"] for event in collector.events() if event["key"] != "o_large"] == ["o_a", "o_b"] * 11
    assert streamer.refused == 11 - sum(event["key"] == "o_large" for event in collector.events()) >= 2


def test_a_full_queue_is_raised_or_counted_and_never_stops_the_program(make_streamer: MakeStreamer) -> None:
    streamer = make_streamer(max_bytes=1 << 20, start=False, debug_level=2)
    fill = [("n", "x" * 1000)] * 10_000
    with pytest.raises(QueueFull):
        deque(itertools.starmap(streamer.log, fill), maxlen=0)
    streamer.DebugLevel = 0
    streamer.log("n", "x" * 1000)
    assert isinstance(streamer.last_error, QueueFull)
    assert streamer.refused == 2


def test_a_bucket_for_which_there_was_no_room_is_made_before_its_next_reading(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer(max_bytes=1 << 20, start=False)
    for size in (1000, 0):  # the last gaps, too
        streamer.last_error = None
        while streamer.last_error is None:
            streamer.log("n", "x" * size)
    streamer.set_bucket("Late", "late")
    streamer.set_bucket("Later", "later")
    assert [event.data["bucketKey"] for event in streamer._unmade] == ["late", "later"]
    streamer._client.start()
    wait_until(lambda: streamer._client.stats().pending == 0)
    streamer.log("n", "at last")
    streamer.flush()
    assert readings(collector)[-1] == ("later", "n", "at last")
    assert [body["bucketKey"] for path, _, _, body in sent(collector) if path == "/api/buckets"] == [
        "kitchen", "late", "later",
    ]  # fmt: skip
    assert collector.arrived()[-1].extra["bucket_name"] == "Later"


@pytest.mark.parametrize("level", [0, 2])
def test_a_bucket_that_no_request_can_name_is_refused_and_the_old_one_stays(
    make_streamer: MakeStreamer, collector: Collector, level: int
) -> None:
    streamer = make_streamer(debug_level=level)
    for key in (" a", "a ", "a\nX-Evil: 1", "台所", "a\0", "a\x85", "\xa0a", "\t", "\ud800"):
        with pytest.raises(ConfigError, match="bucket_key"):
            streamer.set_bucket("Name", key)
        with pytest.raises(ConfigError, match="bucket_key"):
            Streamer("Name", key, KEY, url=collector.base_url)
    for name in ("\ud800", "x" * 600_000):
        with pytest.raises(ConfigError, match="bucket_name"):
            streamer.set_bucket(name, "new")
    streamer.log("n", 1)
    streamer.set_bucket("Café", "Café: 'a \"b\"")
    streamer.log("n", 2)
    assert collector.wait_for(2, 10)
    assert {bucket: value for bucket, _, value in readings(collector)} == {"kitchen": 1, "Café: 'a \"b\"": 2}


@pytest.mark.parametrize(("key", "text"), [(5, "5"), (0, "0"), (2.5, "2.5")])
def test_a_bucket_key_may_be_a_number(
    make_streamer: MakeStreamer, collector: Collector, key: float, text: str
) -> None:
    streamer = make_streamer(bucket_key=key)
    streamer.log("n", 1)
    streamer.set_bucket("Another", 7)  # type: ignore[arg-type]
    streamer.log("n", 2)
    assert collector.wait_for(2, 10)
    assert {bucket: value for bucket, _, value in readings(collector)} == {text: 1, "7": 2}
    for other in (True, [1], 10**5000):
        with pytest.raises(ConfigError, match="bucket_key"):
            streamer.set_bucket("Name", other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["\ud800", "x" * 600_000, 10**5000], ids=["surrogate", "long", "digits"])
def test_a_bucket_that_cannot_be_made_takes_no_other_with_it(
    make_streamer: MakeStreamer, collector: Collector, name: Any
) -> None:
    streamer = make_streamer(max_bytes=1 << 20, start=False, overflow="reject")
    for size in (1000, 0):  # the last gaps, too
        streamer.last_error = None
        while streamer.last_error is None:
            streamer.log("n", "x" * size)
    streamer.set_bucket("Two", "two")
    with pytest.raises(ConfigError, match="bucket_name"):
        streamer.set_bucket(name, "three")
    assert (streamer.BucketKey, streamer.BucketName) == ("two", "Two")
    streamer._client.start()
    wait_until(lambda: streamer._client.stats().pending == 0)
    streamer.log("n", "at last")
    streamer.flush()
    assert readings(collector)[-1] == ("two", "n", "at last")
    assert collector.arrived()[-1].extra["bucket_name"] == "Two"


class Mute:
    """A value that cannot be said in any way."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Odd(int):
    """A number that raises what it likes."""

    def __float__(self) -> float:
        raise RuntimeError("no float")

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("offline", [False, True])
def test_what_cannot_even_be_turned_into_text_is_counted_and_the_program_goes_on(
    make_streamer: MakeStreamer, offline: bool, level: int
) -> None:
    if offline:
        streamer = Streamer("Kitchen", offline=True, debug_level=level)
    else:
        streamer = make_streamer(start=False, debug_level=level)
    for count, (key, value) in enumerate([(10**5000, 1), (Mute(), 1), ("a", 10**5000), ("a", Mute())], 1):
        streamer.log(key, value)
        assert streamer.refused == count
        assert isinstance(streamer.last_error, EventError)
    for epoch in (10**5000, -(10**5000), Odd(5)):
        streamer.log("a", 1, epoch)  # type: ignore[arg-type]
        assert streamer.last_error is None
    streamer.refused = 0
    streamer.log_object({10**5000: 1, "b": 2})
    assert streamer.refused == 1
    streamer.log_object({"a": Mute(), "b": 2, "c": "\ud800"})  # only what cannot be said is left out
    assert streamer.refused == 3
    streamer.DebugLevel = 2
    for key, value in ((10**5000, 1), (Mute(), 1), ("a", 10**5000), ("a", Mute())):
        with pytest.raises(EventError):
            streamer.log(key, value)
    streamer.close(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colour": "red"}, "there is no setting 'colour'"),
        ({"access_key": "line\nbreak"}, "access key"),
        ({"access_key": 5}, "access_key"),
        ({"buffer_size": "ten"}, "buffer_size"),
        ({"url": "ftp://example.com"}, "http"),
    ],
)
def test_what_cannot_be_used_is_a_config_error_that_tells_no_secret(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Streamer("Kitchen", **{"access_key": KEY, **given})
    assert KEY not in str(caught.value)
    assert "line" not in str(caught.value).replace("a line break", "")


# --- what is seen -----------------------------------------------------------------------------------------------------

SHOWN = """
from edgespool.vendors.initialstate.api import Streamer
import logging, signal, sys, threading
hooks = threading.excepthook, sys.excepthook, [signal.getsignal(n) for n in sorted(signal.valid_signals())]
streamer = Streamer("Kitchen", "kitchen", "sesame-key", debug_level={level}, url="http://127.0.0.1:9", start=False)
streamer.log("temperature", 21.5, epoch=0)
streamer.log("bad", {bad})
streamer.close(0)
assert hooks == (threading.excepthook, sys.excepthook, [signal.getsignal(n) for n in sorted(signal.valid_signals())])
assert not logging.getLogger().handlers
"""


@pytest.mark.parametrize("level", [0, 1, 3])
def test_the_debug_level_shows_readings_in_the_console_and_else_only_a_lost_one_is_seen(level: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHOWN.format(level=level, bad="{1}" if level < 2 else "1")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "sesame" not in done.stderr
    assert ("temperature 21.5" in done.stderr) == (level >= 1)
    assert ("close: 3 event(s) wait" in done.stderr) == (level == 3)
    if level < 2:  # a reading that is lost is seen at any level
        assert done.stderr.splitlines()[-1].startswith("1 reading(s) not stored: value: ")
    assert len(done.stderr.splitlines()) == {0: 1, 1: 4}.get(level, len(done.stderr.splitlines()))


def test_a_program_that_has_set_up_logging_gets_the_messages_there(
    make_streamer: MakeStreamer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    streamer = make_streamer(debug_level=1)
    streamer.log("temperature", 21.5)
    streamer.log("early", 1, epoch=-62_135_596_800)
    streamer.console_message("for level 2", level=2)
    texts = [record.getMessage() for record in caplog.records if record.name == "edgespool.initialstate"]
    assert any(text.endswith("temperature 21.5") for text in texts)
    assert "for level 2" not in texts
    assert capfd.readouterr() == ("", "")


def test_no_thread_ever_raises_whatever_the_debug_level(
    make_streamer: MakeStreamer, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    collector.set_fault(status=402, body='{"message": "limit"}')
    streamer = make_streamer(debug_level=3, buffer_size=1)
    streamer.log("n", 1)
    wait_until(lambda: streamer._client.stats().state == "held")
    collector.close_port()
    streamer.log("n", 2)
    wait_until(lambda: streamer._client.stats().state == "backing off")
    streamer.flush()
    streamer.close()
    assert raised == []


# --- the original's plumbing ------------------------------------------------------------------------------------------


def test_messages_can_be_shipped_by_hand(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer()
    streamer.ship_messages([{"key": "a", "value": 1, "epoch": 5.0}, {"key": "b", "value": 2}])
    streamer.ship_to_api("/api/events", [{"key": "c", "value": 3, "epoch": 6.0}])
    streamer.ship_to_api("/api/buckets", {"bucketKey": "other", "bucketName": "Other"})
    with pytest.raises(ValueError, match="resource"):
        streamer.ship_to_api("/api/else", [])
    streamer.flush()
    assert readings(collector) == [("kitchen", "a", 1), ("kitchen", "b", 2), ("kitchen", "c", 3)]
    assert sent(collector)[-1][3] == {"bucketKey": "other", "bucketName": "Other"}


def test_the_device_tracks_numbers(collector: Collector, tmp_path: Path) -> None:
    device = Device(collector.base_url, path=tmp_path / "device", flush_interval=0.01)
    for number in range(5):
        device.track(number)
    device.close()
    numbers = [Device.number_of(event) for event in collector.events()]
    assert numbers == list(range(5))
    assert Device.number_of({"key": "else", "value": 1}) is None
    collector.set_fault(poison=dict(Device.poison(7)))
    device.track(7)
    device.track(8)
    wait_until(lambda: device.streamer._client.stats().failed == 1)
    device.close()
    assert failed_files(device.streamer)[0]["events"][0]["value"] == 7
    with pytest.raises(EventError):
        device.track(float("nan"))  # type: ignore[arg-type]
