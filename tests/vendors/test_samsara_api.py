"""SamsaraClient as its documentation has it: options, defaults, events, errors."""

# ruff: noqa: F811
from __future__ import annotations

import importlib
import inspect
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from samsara_kit import (  # noqa: F401
    DEADLINE,
    SOURCE,
    MakeSamsara,
    _an_environment_of_its_own,
    collector,
    event,
    make,
    names,
    quicken,
    wait_until,
)

from edgespool.errors import ConfigError, EdgespoolError, EventError, QueueClosed, QueueFull
from edgespool.interfaces import Watch
from edgespool.testing import Collector
from edgespool.vendors import samsara
from edgespool.vendors.samsara import api, helpers
from edgespool.vendors.samsara.api import (
    InvalidConfiguration,
    InvalidEvent,
    RefusedEvents,
    SamsaraClient,
    validate_events,
)

# Names


def test_the_original_s_import_names_are_answered() -> None:
    wanted = {
        "samsara_sdk": ["SamsaraClient"],
        "samsara_sdk.client": ["SamsaraClient", "InvalidConfiguration", "validate_events", "DEFAULT_CONFIG"],
        "samsara_sdk.constants": ["DEFAULT_CONFIG", "API_PATH", "PUBLISHED_TIMESTAMP_HEADER"],
        "samsara_sdk.helpers": [
            "InvalidEvent", "InvalidConfiguration", "InvalidArguement", "current_time_millis", "millis_to_seconds",
            "seconds_to_millis", "validate_events", "COMPRESSION",
        ],
    }  # fmt: skip
    assert set(samsara.IMPORTS) == set(wanted)
    for name, attributes in wanted.items():
        module = importlib.import_module(samsara.IMPORTS[name])
        assert all(hasattr(module, attribute) for attribute in attributes)


def test_the_lists_of_names_are_true() -> None:
    for module in (api, helpers):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_importing_it_changes_nothing_of_the_program_s() -> None:
    """The original calls logging.basicConfig(DEBUG) when it is imported."""
    code = (
        "import logging, signal, sys, threading\n"
        "before = signal.getsignal(signal.SIGTERM), threading.excepthook, sys.excepthook, threading.active_count()\n"
        "import edgespool.vendors.samsara.api\n"
        "assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING\n"
        "assert before == (\n"
        "    signal.getsignal(signal.SIGTERM), threading.excepthook, sys.excepthook, threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, edgespool.vendors.samsara as it; assert it.IMPORTS; print(it.__name__ + '.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_the_helpers_do_what_they_say() -> None:
    assert helpers.seconds_to_millis(1.5) == 1500
    assert helpers.millis_to_seconds(2999) == 2
    assert abs(helpers.current_time_millis() - time.time() * 1000) < 60_000
    assert helpers.API_PATH == "/v1/events"
    assert helpers.COMPRESSION.GZIP == "gzip"
    given = [event()]
    assert validate_events(given) is given
    assert validate_events(given[0]) is given[0]
    assert validate_events(each for each in given) == given
    for bad in (None, 5, [None], "text", [event(sourceId=5)]):
        with pytest.raises(InvalidEvent):
            validate_events(bad)


# Options


def test_the_defaults_are_those_of_the_documentation(make: MakeSamsara, collector: Collector, tmp_path: Path) -> None:
    client = SamsaraClient(url=collector.base_url, path=tmp_path / "queue")
    try:
        assert client.config == {
            "url": collector.base_url,
            "sourceId": None,
            "start_publishing_thread": True,
            "publish_interval": 30_000,
            "max_buffer_size": 10_000,
            "min_buffer_size": 100,
            "send_timeout": 30_000,
            "compression": "gzip",
            "send_client_stats": False,
            "endpoint": collector.base_url + "/v1/events",
            "publish_interval_secs": 30.0,
            "send_timeout_secs": 30.0,
        }
        settings = client._client.settings
        assert (settings.flush_interval, settings.timeout) == (30.0, (30.0, 30.0))
        assert (settings.max_events, settings.min_events, settings.overflow) == (10_000, 100, "drop_oldest")
        assert (settings.compression, settings.max_attempts, settings.max_age) == ("gzip", None, None)
    finally:
        client.close(0)


@pytest.mark.parametrize(
    ("given", "setting", "value"),
    [
        ({"publish_interval": 1500}, "flush_interval", 1.5),
        ({"publish_interval": 500}, "flush_interval", 0.5),
        ({"publish_interval": 0}, "flush_interval", 30.0),
        ({"publish_interval": None}, "flush_interval", 30.0),
        ({"send_timeout": 250}, "timeout", (0.25, 0.25)),
        ({"send_timeout": 0}, "timeout", (30.0, 30.0)),
        ({"max_buffer_size": 7}, "max_events", 7),
        ({"max_buffer_size": None}, "max_events", None),
        ({"min_buffer_size": 5}, "min_events", 5),
        ({"min_buffer_size": 0}, "min_events", 1),
        ({"min_buffer_size": 8, "max_buffer_size": 7}, "min_events", 1),
        ({"min_buffer_size": 7, "max_buffer_size": 7}, "min_events", 7),
        ({"compression": "gzip"}, "compression", "gzip"),
        ({"compression": "none"}, "compression", "none"),
        ({"compression": None}, "compression", "none"),
        ({"flush_interval": 2, "publish_interval": 99_000}, "flush_interval", 2.0),  # our own keyword is the nearer one
        ({"overflow": "reject"}, "overflow", "reject"),
        ({"batch_size": 3}, "batch_size", 3),
    ],
)
def test_an_option_becomes_a_setting(given: dict[str, Any], setting: str, value: Any, tmp_path: Path) -> None:
    client = SamsaraClient(
        url="http://127.0.0.1:9/", path=tmp_path / "queue", **{"start_publishing_thread": False, **given}
    )
    assert getattr(client._client.settings, setting) == value
    client.close(0)


def test_the_environment_beats_a_default_and_not_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPOOL_FLUSH_INTERVAL", "5")
    monkeypatch.setenv("EDGESPOOL_MAX_EVENTS", "50")
    monkeypatch.setenv("EDGESPOOL_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("EDGESPOOL_SOURCE", "from outside")
    client = SamsaraClient(path=tmp_path / "queue", max_buffer_size=60, start_publishing_thread=False)
    settings = client._client.settings
    assert (settings.flush_interval, settings.max_events) == (5.0, 60)
    assert client.config["endpoint"] == "http://127.0.0.1:9/v1/events"
    assert client.config["sourceId"] == "from outside"
    client.record_event(eventName="a")
    client.close(0)
    client = SamsaraClient(path=tmp_path / "queue", source_id="own", start_publishing_thread=False)
    assert client.config["sourceId"] == client._client.settings.source == "own"
    client.close(0)


@pytest.mark.parametrize(
    "bad",
    [
        {"url": None},
        {"url": ""},
        {"url": 5},
        {"url": "no address"},
        {"url": "ftp://host/"},
        {"url": "http://[half/"},
        {"sourceId": 5},
        {"sourceId": ""},
        {"source_id": b"x"},
        {"sourceId": "a", "source_id": "b"},
        {"publish_interval": -1},
        {"publish_interval": "soon"},
        {"publish_interval": True},
        {"publish_interval": float("nan")},
        {"send_timeout": -1},
        {"send_timeout": [30]},
        {"max_buffer_size": 0},
        {"max_buffer_size": -5},
        {"max_buffer_size": 1.5},
        {"max_buffer_size": True},
        {"min_buffer_size": None},
        {"min_buffer_size": "few"},
        {"compression": "zip"},
        {"compression": True},
        {"start_publishing_thread": "yes"},
        {"start_publishing_thread": None},
        {"send_client_stats": 1, "sourceId": "a"},
        {"send_client_stats": True},
        {"publish_intervall": 5},
        {"durability": "maybe"},
    ],
)
def test_a_wrong_option_is_an_invalid_configuration(bad: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration):
        SamsaraClient(**{"url": "http://127.0.0.1:9/", "path": tmp_path / "queue", **bad})
    assert not any(thread.name.startswith("edgespool") for thread in threading.enumerate())


def test_the_error_of_a_missing_url_says_so() -> None:
    with pytest.raises(InvalidConfiguration, match="Missing Samsara's ingestion api endpoint url"):
        SamsaraClient(sourceId="a")


def test_the_errors_are_of_both_families() -> None:
    assert issubclass(InvalidConfiguration, ConfigError)
    assert issubclass(InvalidEvent, EventError)
    assert issubclass(InvalidEvent, ValueError)
    assert issubclass(RefusedEvents, InvalidEvent)
    assert issubclass(InvalidEvent, EdgespoolError)


def test_the_calls_have_the_original_s_signatures() -> None:
    def kinds(call: Any) -> list[tuple[str, str]]:
        return [(name, each.kind.name) for name, each in inspect.signature(call).parameters.items() if name != "self"]

    assert kinds(SamsaraClient.__init__) == [("config", "VAR_KEYWORD")]
    assert kinds(SamsaraClient.record_event) == [("event", "VAR_KEYWORD")]
    assert kinds(SamsaraClient.publish_events) == [("events", "POSITIONAL_OR_KEYWORD")]
    assert kinds(SamsaraClient.start_consuming) == kinds(SamsaraClient.stop_consuming) == []


@pytest.mark.parametrize("spelling", ["sourceId", "source_id"])
def test_both_spellings_of_the_source_are_one_option(
    make: MakeSamsara, collector: Collector, spelling: str
) -> None:
    client = make(**{"sourceId": None, spelling: "pi"})
    client.record_event(eventName="a")
    assert client.flush(DEADLINE)
    assert collector.events()[0]["sourceId"] == "pi"
    assert client.config["sourceId"] == "pi"


def test_every_option_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "vendors" / "samsara.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for option in (*api.DEFAULT_CONFIG, "url", "sourceId", "source_id"):
        assert any(f"`{option}`" in row.split("|")[1] for row in rows), option
    for name, default in api.DEFAULT_CONFIG.items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}`")]
        assert str(default) in row.split("|")[2]


# record_event


def test_an_event_gets_a_source_and_a_time_and_keeps_its_own_keys(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    before = int(time.time() * 1000)
    assert client.record_event(eventName="user.logged", color="blue", level=10) is None
    after = int(time.time() * 1000) + 1
    assert client.flush(DEADLINE)
    (arrived,) = collector.events()
    assert before <= arrived.pop("timestamp") <= after
    assert arrived == {"eventName": "user.logged", "sourceId": SOURCE, "color": "blue", "level": 10}


@pytest.mark.parametrize("stamp", [0, 1, 1234567890, 1_431_261_991_023, 10**15, 2**63, 10**30])
def test_a_given_source_and_timestamp_arrive_as_they_are(
    make: MakeSamsara, collector: Collector, stamp: int
) -> None:
    client = make()
    client.record_event(eventName="user.logged", sourceId="device1", timestamp=stamp)
    assert client.flush(DEADLINE)
    assert collector.events() == [{"eventName": "user.logged", "sourceId": "device1", "timestamp": stamp}]


def test_source_id_in_an_event_is_its_source_unless_it_has_one(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    client.record_event(eventName="a", source_id="s", timestamp=1)
    client.record_event(eventName="b", sourceId="x", source_id="mine", timestamp=2)
    client.record_event(eventName="c", sourceId=None, timestamp=None)
    client.record_event(eventName="d", sourceId="", timestamp=4)
    assert client.flush(DEADLINE)
    arrived = collector.events()
    assert arrived[0] == {"eventName": "a", "sourceId": "s", "timestamp": 1}
    assert arrived[1] == {"eventName": "b", "sourceId": "x", "source_id": "mine", "timestamp": 2}
    assert arrived[2]["sourceId"] == arrived[3]["sourceId"] == SOURCE
    assert arrived[2]["timestamp"] > 10**12


def test_keys_that_clash_with_names_of_python_s_are_only_keys(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    client.record_event(eventName="a", timestamp=1, self=1, name=2, data=3, event=4, __id__=5)
    client.record_event(eventName="", self=1, time=2, id=3, route=4, timestamp=1)
    assert client.flush(DEADLINE)
    assert collector.events() == [
        {"sourceId": SOURCE, "timestamp": 1, "eventName": "a", "self": 1, "name": 2, "data": 3, "event": 4,
         "__id__": 5},
        {"sourceId": SOURCE, "timestamp": 1, "eventName": "", "self": 1, "time": 2, "id": 3, "route": 4},
    ]


def test_what_is_changed_after_the_call_is_not_sent(make: MakeSamsara, collector: Collector) -> None:
    client = make(start_publishing_thread=False)
    values = [1]
    client.record_event(eventName="a", values=values)
    values.append(2)
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert collector.events()[0]["values"] == [1]


cycle: list[Any] = []
cycle.append(cycle)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"eventName": None},
        {"eventName": 5},
        {"eventName": "a", "sourceId": 5},
        {"eventName": "a", "timestamp": -1},
        {"eventName": "a", "timestamp": "1234"},
        {"eventName": "a", "timestamp": 1.5},
        {"eventName": "a", "timestamp": True},
        {"eventName": "a", "timestamp": float("nan")},
        {"eventName": "a", "x": float("nan")},
        {"eventName": "a", "x": float("inf")},
        {"eventName": "a", "x": {1, 2}},
        {"eventName": "a", "x": object()},
        {"eventName": "a", "x": b"bytes"},
        {"eventName": "a", "x": cycle},
        {"eventName": "a", "x": {"y": [{(1, 2): 3}]}},
        {"eventName": "a\ud800"},
        {"eventName": "a", "x": "\udfff"},
        {"eventName": "a", "sourceId": "\ud800"},
        {"eventName": "a", "x": 10**5000},
        {"eventName": "a", "x": "x" * 600_000},
    ],
)
def test_an_invalid_event_raises_at_the_call_and_nothing_is_stored(make: MakeSamsara, bad: dict[str, Any]) -> None:
    client = make(start_publishing_thread=False)
    with pytest.raises(InvalidEvent, match="Invalid event found: "):
        client.record_event(**bad)
    if bad.get("eventName") is not None:
        with pytest.raises(InvalidEvent):
            client.publish_events([event(), {**event(), **bad}])
    assert client.stats().accepted == 0


def test_a_number_with_more_digits_than_python_turns_into_text_is_an_invalid_event(make: MakeSamsara) -> None:
    client = make(start_publishing_thread=False)
    for wrong in ({"eventName": 10**5000}, {"timestamp": -(10**5000)}, {"timestamp": 10**5000}, {"a": 10**5000}):
        with pytest.raises(InvalidEvent, match="Invalid event found: "):
            client.record_event(**{"eventName": "a", **wrong})
        with pytest.raises(InvalidEvent, match="Invalid event found: "):
            client.publish_events([event(**wrong) if "eventName" not in wrong else {**event(), **wrong}])
    assert client.stats().accepted == 0


def test_an_event_without_any_source_is_invalid(make: MakeSamsara) -> None:
    client = make(sourceId=None, start_publishing_thread=False)
    with pytest.raises(InvalidEvent, match="sourceId: text is needed, and it is missing"):
        client.record_event(eventName="a")
    client.record_event(eventName="a", sourceId="own")
    assert client.stats().pending == 1


def test_the_message_names_the_field_and_not_long_values(make: MakeSamsara) -> None:
    client = make(start_publishing_thread=False)
    with pytest.raises(InvalidEvent, match=r"event\.x\.y\[1\]: nan is not a number that JSON can say"):
        client.record_event(eventName="a", x={"y": [0, float("nan")]})
    with pytest.raises(InvalidEvent, match=r"timestamp: a whole number .* not str$"):
        client.record_event(eventName="a", timestamp="secret")


# publish_events


def test_events_are_published_at_once_whatever_the_interval(make: MakeSamsara, collector: Collector) -> None:
    client = make(publish_interval=3_600_000, min_buffer_size=100)
    assert client.publish_events([event("a"), event("b", n=1)]) is True
    assert collector.events() == [event("a"), event("b", n=1)]
    assert [record.events for record in collector.requests()] == [2]


def test_publishing_takes_tuples_generators_and_nothing(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    assert client.publish_events((event("a"),))
    assert client.publish_events(event(name) for name in "bc")
    assert client.publish_events([]) is True
    assert names(collector) == ["a", "b", "c"]
    assert len(collector.requests()) == 2


@pytest.mark.parametrize(
    "bad",
    [
        event(), "text", [event(), 5], [event(), None], 5, [{"eventName": "a", "timestamp": 1}],
        [{"eventName": "a", "sourceId": "b"}], [{"sourceId": "a", "timestamp": 1}],
    ],
)  # fmt: skip
def test_publishing_what_is_invalid_raises_and_sends_nothing(
    make: MakeSamsara, collector: Collector, bad: Any
) -> None:
    client = make()
    with pytest.raises(InvalidEvent):
        client.publish_events(bad)
    assert client.stats().accepted == 0
    assert collector.requests() == []


def test_publishing_sends_what_waits_first_so_that_the_order_stays(make: MakeSamsara, collector: Collector) -> None:
    client = make(publish_interval=3_600_000, min_buffer_size=100)
    client.record_event(eventName="a")
    client.record_event(eventName="b")
    assert client.publish_events([event("c")])
    client.record_event(eventName="d")
    assert client.publish_events([event("e")])
    assert names(collector) == list("abcde")


def test_publishing_works_without_the_publishing_thread_and_leaves_it_off(
    make: MakeSamsara, collector: Collector
) -> None:
    client = make(start_publishing_thread=False)
    assert client.publish_events([event("a")])
    client.record_event(eventName="b")
    wait_until(lambda: client.stats().state == "paused")
    assert client.flush(0.1) is False
    assert names(collector) == ["a"]
    assert client.publisher is None


def test_publishing_in_an_outage_says_false_and_loses_nothing(make: MakeSamsara, collector: Collector) -> None:
    """The original raises, with the bare `raise` of a program that has no exception, or what requests raised."""
    client = make(publish_interval=3_600_000, send_timeout=3_600_000)  # it does not wait for that long
    collector.set_fault(status=503)
    assert client.publish_events([event("a")]) is False
    collector.close_port()
    assert client.publish_events([event("b")]) is False
    assert client.stats().pending == 2
    collector.open_port()
    collector.heal()
    assert client.publish_events([event("c")]) is True
    assert names(collector) == ["a", "b", "c"]


def test_publishing_waits_no_longer_than_the_time_out(make: MakeSamsara, collector: Collector) -> None:
    client = make(send_timeout=300)
    collector.set_fault(latency=30.0)
    assert client.publish_events([event("a")]) is False
    assert client.stats().pending == 1


def test_publishing_what_the_server_refuses_raises_and_keeps_it_in_a_file(
    make: MakeSamsara, collector: Collector
) -> None:
    client = make()
    collector.set_fault(poison={"field": "eventName", "value": "bad"})
    with pytest.raises(RefusedEvents, match="refused 1 event") as caught:
        client.publish_events([event("a"), event("bad"), event("c")])
    assert caught.value.count == 1
    assert len(list(Path(caught.value.directory).glob("*.json"))) == 1
    assert names(collector) == ["a", "c"]
    assert client.publish_events([event("d")]) is True  # of what was refused before, nothing is said again


def test_a_refusal_of_other_events_is_not_told_of_these(make: MakeSamsara, collector: Collector) -> None:
    client = make(start_publishing_thread=False)
    collector.set_fault(poison={"field": "eventName", "value": "bad"})
    client.record_event(eventName="bad")
    assert client.publish_events([event("a")]) is True
    assert client.stats().failed == 1


def test_files_of_earlier_refusals_are_not_read_again(
    make: MakeSamsara, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make()
    collector.set_fault(poison={"field": "eventName", "value": "bad"})
    read = api.failed.read
    seen: list[str] = []
    monkeypatch.setattr(api.failed, "read", lambda path: seen.append(path) or read(path))
    for _ in range(3):
        with pytest.raises(RefusedEvents):
            client.publish_events([event("bad")])
    assert len(seen) == len(set(seen)) == 3


def test_events_that_newer_ones_pushed_out_are_not_said_to_have_arrived(
    make: MakeSamsara, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(max_buffer_size=2, start_publishing_thread=False)
    collector.close_port()

    def flush(timeout: float) -> bool:
        for number in range(3):
            client.record_event(eventName="newer", number=number)
        return True

    monkeypatch.setattr(client._client, "flush", flush)
    assert client.publish_events([event("a")]) is False


def test_more_than_the_buffer_holds_is_refused_whole(make: MakeSamsara) -> None:
    client = make(max_buffer_size=5, start_publishing_thread=False)
    client.record_event(eventName="a")
    with pytest.raises(QueueFull, match="max_events"):
        client.publish_events([event(n=n) for n in range(6)])
    assert client.stats().pending == 1


# Publishing in the background


def test_nothing_is_sent_before_so_many_events_wait(make: MakeSamsara, collector: Collector) -> None:
    client = make(min_buffer_size=3)
    client.record_event(eventName="a")
    client.record_event(eventName="b")
    asked = threading.Event()
    ready = client._client._worker._ready
    assert ready is not None
    client._client._worker._ready = lambda: ready() or bool(asked.set())
    assert asked.wait(DEADLINE)  # the worker has looked, and found too few
    assert collector.requests() == []
    client.record_event(eventName="c")
    assert collector.wait_for(3, DEADLINE)
    assert [record.events for record in collector.requests()] == [3]


def test_what_an_earlier_run_left_counts_as_waiting(make: MakeSamsara, collector: Collector) -> None:
    client = make(min_buffer_size=3, start_publishing_thread=False)
    client.record_event(eventName="a")
    client.record_event(eventName="b")
    client.close(0)
    client = make(min_buffer_size=3)
    client.record_event(eventName="c")
    assert collector.wait_for(3, DEADLINE)
    assert names(collector) == ["a", "b", "c"]


def test_consuming_can_be_stopped_and_started_again_and_again(make: MakeSamsara, collector: Collector) -> None:
    client = make(start_publishing_thread=False)
    expected = []
    for round in range(3):
        client.stop_consuming()
        client.stop_consuming()
        client.record_event(eventName=f"e{round}")
        expected.append(f"e{round}")
        assert client.flush(0.02) is False
        assert names(collector) == expected[:-1]
        client.start_consuming()
        client.start_consuming()
        assert client.flush(DEADLINE)
        assert names(collector) == expected


def test_after_stop_consuming_no_request_is_made(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    client.record_event(eventName="a")
    assert client.flush(DEADLINE)
    client.stop_consuming()
    wait_until(lambda: client.stats().state == "paused")
    for number in range(50):
        client.record_event(eventName="b", number=number)
    assert client.close(5).pending == 50
    assert len(collector.requests()) == 1


def test_the_publisher_is_there_while_it_publishes(make: MakeSamsara) -> None:
    client = make(start_publishing_thread=False)
    assert client.publisher is None
    client.start_consuming()
    publisher = client.publisher
    assert publisher is not None
    assert publisher.is_alive()
    assert publisher.interval == 0.01
    publisher.stop()
    assert client.publisher is None
    assert not publisher.is_alive()


def test_a_full_buffer_keeps_the_newest_and_counts_the_others(make: MakeSamsara, collector: Collector) -> None:
    client = make(max_buffer_size=10, start_publishing_thread=False)
    for number in range(25):
        client.record_event(eventName="reading", number=number)
    stats = client.stats()
    assert (stats.accepted, stats.pending, stats.dropped) == (25, 10, {"overflow": 15})
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert [each["number"] for each in collector.events()] == list(range(15, 25))


def test_closing_sends_what_is_left_even_if_it_is_little(make: MakeSamsara, collector: Collector) -> None:
    with make(min_buffer_size=100, publish_interval=3_600_000) as client:
        client.record_event(eventName="a")
    assert names(collector) == ["a"]
    assert client.close() == client.close(0)
    for call in (lambda: client.record_event(eventName="b"), lambda: client.publish_events([event()]),
                 client.start_consuming):
        with pytest.raises(QueueClosed):
            call()


def test_events_of_many_threads_arrive_each_once_in_the_order_of_their_thread(
    make: MakeSamsara, collector: Collector
) -> None:
    client = make()

    def work(source: str) -> None:
        for number in range(60):
            client.record_event(eventName="reading", sourceId=source, number=number)

    threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(DEADLINE)
    for source in ("s0", "s1", "s2", "s3"):
        assert [e["number"] for e in collector.events() if e["sourceId"] == source] == list(range(60))


def test_hooks_of_the_client_are_called_too(make: MakeSamsara, collector: Collector) -> None:
    told: list[str] = []
    client = make(
        watch=Watch(lambda batch, request: told.append("request"), lambda *_: told.append("reply")),
        on_delivery=lambda batch: told.append("delivery"),
    )
    assert client.publish_events([event()])
    wait_until(lambda: told == ["request", "reply", "delivery"])


def test_accounts_of_one_program_do_not_meet_in_one_queue(collector: Collector) -> None:
    made = [
        SamsaraClient(url=url, sourceId=source, start_publishing_thread=False)
        for url, source in ((collector.base_url, "a"), (collector.base_url, "b"), ("http://127.0.0.1:9/", "a"))
    ]
    assert len({client._client.directory for client in made}) == 3
    assert Path(made[0]._client.directory).name.endswith(".samsara")
    for client in made:
        client.close(0)


def test_nothing_is_printed_and_the_log_is_ours(
    make: MakeSamsara, collector: Collector, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = make()
    collector.set_fault(status=503)
    client.record_event(eventName="a")
    wait_until(lambda: client.stats().last_error)
    collector.heal()
    assert client.flush(DEADLINE)
    client.close()
    assert capsys.readouterr() == ("", "")
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"edgespool", "urllib3"}


# Statistics of the client


def test_statistics_are_off_unless_asked_for(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    client.record_event(eventName="a")
    assert client.flush(DEADLINE)
    assert names(collector) == ["a"]


def test_statistics_describe_themselves(make: MakeSamsara, collector: Collector) -> None:
    client = make(send_client_stats=True, max_buffer_size=50, min_buffer_size=2, publish_interval=3_600_000)
    client.record_event(eventName="a", sourceId="other")
    client.record_event(eventName="b")
    assert client.flush(DEADLINE)
    assert names(collector) == ["a", "samsara.client.stats", "b"]
    told = collector.events()[1]
    assert told.pop("timestamp") > 10**12
    assert told.pop("oldestBufferedAge") >= 0
    assert told.pop("bufferBytes") > 0
    assert told.pop("state") in ("idle", "sending")
    assert told.pop("sdk").startswith("edgespool/")
    assert told == {
        "eventName": "samsara.client.stats", "sourceId": SOURCE, "accepted": 1, "delivered": 0, "failed": 0,
        "dropped": 0, "buffered": 1, "maxBufferSize": 50, "minBufferSize": 2, "publishInterval": 3_600_000,
        "sendTimeout": 5000, "compression": "gzip",
    }  # fmt: skip


def test_statistics_come_at_most_once_an_interval(
    make: MakeSamsara, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(api.time, "monotonic", lambda: now)
    client = make(send_client_stats=True, publish_interval=60_000, start_publishing_thread=False)
    for number in range(5):
        client.record_event(eventName="a", number=number)
    now += 59.0
    client.record_event(eventName="a")
    now += 1.0
    client.record_event(eventName="b", number=1)
    client.record_event(eventName="b", number=2)
    monkeypatch.undo()
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert "".join(name[0] for name in names(collector)) == "asaaaaabsb"


def test_statistics_never_push_a_reading_out(make: MakeSamsara) -> None:
    client = make(send_client_stats=True, max_buffer_size=1, start_publishing_thread=False)
    client.record_event(eventName="a")
    assert client.stats().dropped == {}
    assert client.stats().accepted == 1


def test_statistics_that_cannot_be_stored_hurt_nobody(make: MakeSamsara, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make(send_client_stats=True, start_publishing_thread=False)

    def full(*args: Any, **data: Any) -> str:
        if args[0] == api.STATS_EVENT:
            raise QueueFull("no room")
        return record(*args, **data)

    record = client._client.record
    monkeypatch.setattr(client._client, "record", full)
    client.record_event(eventName="a")
    assert client.stats().pending == 1
