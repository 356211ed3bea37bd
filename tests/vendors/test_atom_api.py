"""Atom's public interface: names, defaults, limits, errors, callbacks, and backlogs of the user's own."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atom_kit import KEY, clean_environment, data_of, give_key, message, trackers, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgespool.vendors.atom as package
from edgespool.errors import ConfigError, EventError, QueueClosed, QueueUnavailable
from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.vendors.atom import config
from edgespool.vendors.atom.api import IronSourceAtom, IronSourceAtomTracker
from edgespool.vendors.atom.backlog import Mover, Room
from edgespool.vendors.atom.backoff import AtomBackoff
from edgespool.vendors.atom.direct import Response
from edgespool.vendors.atom.event_storage import Event, EventStorage, QueueEventStorage

MakeTracker = Callable[..., IronSourceAtomTracker]


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(collector: Collector, tmp_path: Path) -> Iterator[MakeTracker]:
    with trackers(collector.base_url + "/", tmp_path / "queue") as made:
        yield made


# --- names and defaults -----------------------------------------------------------------------------------------------


def test_every_import_name_of_the_original_has_its_module() -> None:
    wanted = {
        "ironsource.atom.ironsource_atom_tracker": ["IronSourceAtomTracker"],
        "ironsource.atom.ironsource_atom": ["IronSourceAtom"],
        "ironsource.atom.event_storage": ["EventStorage"],
        "ironsource.atom.queue_event_storage": ["QueueEventStorage"],
        "ironsource.atom.event": ["Event"],
        "ironsource.atom.response": ["Response"],
        "ironsource.atom.config": [
            "ATOM_ENDPOINT", "ATOM_URL", "BACKLOG_SIZE", "BATCH_BYTES_SIZE", "BATCH_POOL_SIZE", "BATCH_SIZE",
            "BATCH_WORKER_COUNT", "FLUSH_INTERVAL", "RETRY_EXPO_BACKOFF_BASE", "RETRY_MAX_COUNT", "RETRY_MAX_TIME",
        ],
    }  # fmt: skip
    for name, members in wanted.items():
        module = importlib.import_module(package.IMPORTS[name])
        assert all(hasattr(module, member) for member in members)
    assert package.IMPORTS.keys() - wanted.keys() == {"ironsource", "ironsource.atom"}


def test_the_package_is_cheap_to_import() -> None:
    code = "import sys; import edgespool.vendors.atom; print('requests' in sys.modules, 'sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_the_constructors_have_the_original_s_options_and_defaults() -> None:
    tracker = {
        "batch_worker_count": 1, "batch_pool_size": 1, "event_backlog": None, "backlog_size": 500,
        "flush_interval": 10000, "retry_max_time": 1800, "retry_max_count": 12, "batch_size": 64,
        "batch_bytes_size": 65536, "is_debug": False, "endpoint": "http://track.atom-data.io/", "auth_key": "",
        "callback": None,
    }  # fmt: skip
    low = {"is_debug": False, "endpoint": "http://track.atom-data.io/", "auth_key": ""}
    for made, wanted in ((IronSourceAtomTracker, tracker), (IronSourceAtom, low)):
        found = {
            name: each.default
            for name, each in inspect.signature(made).parameters.items()
            if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        }
        assert found == wanted
        assert list(found) == list(wanted)
    assert list(inspect.signature(IronSourceAtomTracker.track).parameters) == ["self", "stream", "data", "auth_key"]
    assert list(inspect.signature(IronSourceAtom.put_event).parameters) == [
        "self", "stream", "data", "method", "auth_key",
    ]  # fmt: skip
    assert list(inspect.signature(IronSourceAtom.put_events).parameters) == ["self", "stream", "data", "auth_key"]


def test_the_options_reach_the_queue_and_the_sender(tmp_path: Path) -> None:
    tracker = IronSourceAtomTracker(start=False, path=tmp_path / "q", max_bytes="8 MiB", durability="process")
    policy = tracker._client._worker._policy
    assert (policy.batch_size, policy.flush_interval, policy.max_attempts) == (64, 10.0, None)
    assert policy.backoff == AtomBackoff(3, 1800, rounds=12)
    settings = tracker._client.settings
    assert (settings.overflow, settings.max_bytes, settings.durability) == ("block", 8 << 20, "process")
    assert "track.atom-data.io" in repr(tracker._client)
    tracker.stop()
    tracker = IronSourceAtomTracker(
        batch_size=7, batch_bytes_size=2048, flush_interval=2000, retry_max_time=120, retry_max_count=3,
        path=tmp_path / "q", start=False, url="http://127.0.0.1:9", overflow="reject",
    )  # fmt: skip
    policy = tracker._client._worker._policy
    assert (policy.batch_size, policy.flush_interval) == (7, 2.0)
    assert policy.backoff == AtomBackoff(3, 120, rounds=3)
    assert tracker._client._format.batch_bytes == 2048  # type: ignore[attr-defined]
    assert tracker._client.settings.overflow == "reject"
    tracker.stop()


def test_the_address_and_the_key_can_come_from_the_environment(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPOOL_URL", collector.base_url)
    monkeypatch.setenv("EDGESPOOL_AUTH", "a:key")
    tracker = IronSourceAtomTracker(path=tmp_path / "q")
    tracker.track("s", {"n": 1})
    tracker.flush()
    assert collector.wait_for(1, 20)
    tracker.stop()
    assert "auth" in message(collector.requests()[0])
    low = IronSourceAtom()
    assert low.get_auth() == "a:key"
    assert low.put_event("s", "x").status == 200
    assert IronSourceAtom(auth_key="mine").get_auth() == "mine"


@pytest.mark.parametrize(
    ("option", "bad", "good"),
    [
        ("batch_worker_count", [0, "2", True, None], [1]),
        ("batch_pool_size", [0, 1.5], [1]),
        ("backlog_size", [0, -1, "x"], [1, 12000]),
        ("flush_interval", [999, "x", None], [1000, 60000.0]),
        ("retry_max_time", [119, "x"], [120, 86400]),
        ("retry_max_count", [0, 1.5], [1, 100]),
        ("batch_size", [0, 2001, "64", 1.5, False], [1, 2000]),
        ("batch_bytes_size", [1023, 512 * 1024 + 1, None], [1024, 512 * 1024, 2000.5]),
    ],
)
def test_an_option_out_of_range_is_warned_of_and_the_default_taken(
    option: str, bad: list[Any], good: list[Any], make: MakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    def state(tracker: IronSourceAtomTracker) -> tuple[Any, ...]:
        policy = tracker._client._worker._policy
        return (
            policy.batch_size, tracker._client.settings.flush_interval, policy.backoff, tracker._room,
            tracker._client._format.batch_bytes,  # type: ignore[attr-defined]
        )  # fmt: skip

    usual = state(make(start=False, backoff=None))
    for value in bad:
        caplog.clear()
        assert state(make(start=False, backoff=None, **{option: value})) == usual
        assert f"atom: {option} must be" in caplog.text
    for value in good:
        caplog.clear()
        made = state(make(start=False, backoff=None, **{option: value}))
        assert "must be" not in caplog.text
        assert (made != usual) == (option not in ("batch_worker_count", "batch_pool_size"))


def test_options_without_effect_say_so(make: MakeTracker, caplog: pytest.LogCaptureFixture) -> None:
    make(start=False, batch_worker_count=4, batch_pool_size=3000)
    assert "batch_worker_count=4 changes nothing" in caplog.text
    assert "batch_pool_size=3000 changes nothing" in caplog.text


def test_the_waits_are_the_documented_ones() -> None:
    backoff = AtomBackoff(cap=1800, rounds=12)
    ceilings = [backoff.wait(attempt, 1.0) for attempt in range(1, 14)]
    assert ceilings == [3, 6, 12, 24, 48, 96, 192, 384, 768, 1536, 1800, 1800, 3]
    assert [backoff.wait(attempt, 0.0) for attempt in (1, 5, 40)] == [0, 0, 0]
    assert backoff.wait(1, 0.0, after=70.0) == 70.0  # what the server asks for wins


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "data", "key", "says"),
    [
        ("", 1, "", "stream"), (None, 1, "", "stream"), (5, 1, "", "stream"), ("\ud800", 1, "", "surrogate"),
        ("s", float("nan"), "", "nan"), ("s", {"a": {1, 2}}, "", r"data\.a"), ("s", b"x", "", "bytes"),
        ("s", "\ud800", "", "surrogate"), ("s", {"k": "\ud800"}, "", "surrogate"), ("s", 1, 5, "auth_key"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_raises_at_the_call_and_stores_nothing(
    make: MakeTracker, stream: Any, data: Any, key: Any, says: str
) -> None:
    tracker = make(start=False)
    with pytest.raises(EventError, match=says):
        tracker.track(stream, data, key)
    assert tracker._client.stats().accepted == 0
    for name, value in ((10**5000, 1), ("s", 10**5000)):  # more digits than Python turns into text
        with pytest.raises(EventError):
            tracker.track(name, value)  # type: ignore[arg-type]


def test_a_cycle_raises_and_none_is_no_key(make: MakeTracker) -> None:
    tracker = make(start=False)
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(EventError, match="contains itself"):
        tracker.track("s", cycle)
    tracker.track("s", None, None)  # type: ignore[arg-type]
    assert tracker._client.stats().accepted == 1


@pytest.mark.parametrize("call", [
    lambda api: api.put_event("", "x"), lambda api: api.put_event("s", ""), lambda api: api.put_event("s", {}),
    lambda api: api.put_event("s", None), lambda api: api.put_events("s", []), lambda api: api.put_events("s", "x"),
    lambda api: api.put_events("s", {"a": 1}), lambda api: api.put_events("", ["x"]),
    lambda api: api.put_events("s", [float("inf")]), lambda api: api.put_event("s", {1: {2}}),
    lambda api: api.put_event("s", "x", "post", 5), lambda api: api.put_event(5, "x"),
])  # fmt: skip
def test_the_low_level_class_raises_for_what_is_missing(collector: Collector, call: Callable[..., object]) -> None:
    with pytest.raises(EventError):
        call(IronSourceAtom(endpoint=collector.base_url))
    assert not collector.requests()


def test_a_bad_address_or_setting_raises_at_once(tmp_path: Path) -> None:
    for made in (IronSourceAtom, functools.partial(IronSourceAtomTracker, path=tmp_path / "q")):
        with pytest.raises(ConfigError, match="http"):
            made(endpoint="no address")
        with pytest.raises(ConfigError, match="colour"):
            made(endpoint="http://127.0.0.1:9/", colour="red")
    with pytest.raises(ConfigError, match=r"event_backlog: an EventStorage is needed; list has no add_event\(\)"):
        IronSourceAtomTracker(endpoint="http://127.0.0.1:9/", path=tmp_path / "q", event_backlog=[])


def test_the_response_says_what_the_server_said(collector: Collector) -> None:
    api = IronSourceAtom(endpoint=collector.base_url, timeout=(2.0, 2.0))
    for status in (400, 401, 429, 500):
        collector.set_fault(status=status, body="said so")
        response = api.put_event("s", "x")
        assert (response.status, response.data, response.error) == (status, None, b"said so")
    collector.set_fault(redirect="http://127.0.0.1:9/portal")
    assert api.put_event("s", "x").status == 307  # not followed: nothing was taken
    assert collector.count() == 0
    collector.close_port()
    response = api.put_event("s", "x", auth_key=KEY)
    assert (response.status, response.data) == (500, None)
    assert "no connection" in str(response.error)
    assert KEY not in str(response.error)
    assert Response("an error", b"data", 200) == Response(error="an error", data=b"data", status=200)


# --- manners ----------------------------------------------------------------------------------------------------------


def test_it_prints_nothing_and_takes_over_no_signal_and_no_logging(
    make: MakeTracker, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (
        [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], threading.excepthook,
        list(logging.root.handlers), logging.getLogger("edgespool").level,
    )  # fmt: skip
    tracker = make(is_debug=True)
    tracker.set_debug(True)
    tracker.track("s", {"n": 1})
    assert collector.wait_for(1, 20)
    tracker.stop()
    assert before == (
        [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], threading.excepthook,
        list(logging.root.handlers), logging.getLogger("edgespool").level,
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_debug_logs_events_and_answers_but_no_key(
    make: MakeTracker, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "edgespool")
    tracker = make()
    tracker.track("s", {"n": "quiet"}, auth_key=KEY)
    tracker.set_debug(True)
    tracker.track("s", {"n": "loud"}, auth_key=KEY)
    wait_until(lambda: "delivered" in caplog.text)
    tracker.set_debug("yes")  # type: ignore[arg-type]  # no bool: off, as in the original
    tracker.track("s", {"n": "soft"})
    assert "loud" in caplog.text
    assert "quiet" not in caplog.text
    assert "soft" not in caplog.text
    api = IronSourceAtom(True, collector.base_url, KEY)
    api.put_event("low", "x")
    assert "stream 'low': status 200" in caplog.text
    assert KEY not in caplog.text


def test_stop_is_idempotent_and_track_raises_after_it(make: MakeTracker, collector: Collector) -> None:
    tracker = make()
    tracker.track("s", 1)
    tracker.stop()
    tracker.graceful_kill(15, None)
    assert data_of(collector) == [1]
    with pytest.raises(QueueClosed):
        tracker.track("s", 2)


def test_flush_sends_before_the_interval_is_over(make: MakeTracker, collector: Collector) -> None:
    tracker = make(interval=3600.0)
    wait_until(lambda: not tracker._client._worker._draining)  # the first look at the queue is over
    tracker.track("a", 2)
    tracker.track("b", 3)
    tracker.flush()
    assert collector.wait_for(2, 20)


# --- callbacks --------------------------------------------------------------------------------------------------------


class Callee:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def four(self, unix_time: float, http_code: int, error_msg: str, sent_data: list[str]) -> None:
        self.told.append((unix_time, http_code, error_msg, sent_data))

    def five(self, unix_time: float, http_code: int, error_msg: str, sent_data: list[str], stream: str) -> None:
        self.told.append((unix_time, http_code, error_msg, sent_data, stream))

    def both(
        self, unix_time: float, http_code: int, error_msg: str, sent_data: list[str], stream: str = ""
    ) -> None:
        self.told.append((unix_time, http_code, error_msg, sent_data, stream))

    def any(self, *told: Any) -> None:
        self.told.append(told)

    __call__ = four


@pytest.mark.parametrize(
    ("choose", "count"),
    [
        (lambda c: c.four, 4), (lambda c: c.five, 5), (lambda c: c.both, 5), (lambda c: c.any, 4), (lambda c: c, 4),
        (lambda c: functools.partial(c.five, stream="mine"), 4), (lambda c: lambda a, b, d, e: c.four(a, b, d, e), 4),
    ],
)  # fmt: skip
def test_the_callback_gets_as_many_arguments_as_it_takes(
    make: MakeTracker, collector: Collector, choose: Callable[[Callee], Any], count: int
) -> None:
    callee = Callee()
    collector.set_fault(status=400, body="bad data")
    tracker = make(callback=choose(callee))
    tracker.track("the stream", {"n": 1})
    wait_until(lambda: callee.told)
    told = callee.told[0]
    assert told[1:4] == (400, "HTTP 400: bad data", ['{"n":1}'])
    assert isinstance(told[0], float)
    assert len(told) == (5 if count == 5 or told[-1] == "mine" else 4)
    assert told[4:] in ((), ("the stream",), ("mine",))


@pytest.mark.parametrize("callback", ["a text", lambda a, b, c: None, lambda a, b, c, d, e, f: None])
def test_what_cannot_be_called_back_is_warned_of(
    make: MakeTracker, caplog: pytest.LogCaptureFixture, callback: Any
) -> None:
    assert make(start=False, callback=callback)._callback is None
    assert "there is none now" in caplog.text


def test_a_callback_that_raises_hurts_nobody(
    make: MakeTracker, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(*told: Any) -> None:
        raise RuntimeError("in the callback")

    collector.set_fault(status=503, times=1)
    make(callback=callback).track("s", 1)
    assert collector.wait_for(1, 20)
    assert "callback raised RuntimeError: in the callback" in caplog.text


def test_the_callback_hears_of_each_failure_and_only_of_culprits(make: MakeTracker, collector: Collector) -> None:
    callee = Callee()
    tracker = make(start=False, callback=callee.five)
    for n in range(8):
        tracker.track("s", {"n": n})
    collector.set_fault(poison={"field": "data.n", "value": 5})
    tracker._client.start()
    wait_until(lambda: tracker._client.stats().pending == 0)
    assert [told[1:] for told in callee.told] == [
        (400, 'HTTP 400: {"error": "told to refuse a batch that holds such an event"}', ['{"n":5}'], "s")
    ]
    callee.told.clear()
    collector.set_fault(status=503, times=2)
    tracker.track("s", {"n": 9})
    wait_until(lambda: tracker._client.stats().pending == 0)
    assert [told[1] for told in callee.told] == [503, 503]
    callee.told.clear()
    collector.close_port()
    tracker.track("s", {"n": 10})
    wait_until(lambda: callee.told)
    assert callee.told[0][1] == 500
    assert callee.told[0][3:] == (['{"n":10}'], "s")


# --- backlogs ---------------------------------------------------------------------------------------------------------


class Popping(EventStorage):
    """As the original's own: get_event removes."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.lock = threading.Lock()
        self.added = 0

    def add_event(self, event_object: Event) -> None:
        with self.lock:
            self.added += 1
            self.events.append(event_object)

    def get_event(self, stream: str) -> Event | None:
        with self.lock:
            for event in self.events:
                if event.stream == stream:
                    self.events.remove(event)
                    return event
            return None

    def remove_event(self, stream: str) -> None:
        self.get_event(stream)

    def is_empty(self) -> bool:
        return not self.events


class Showing(Popping):
    """As the documentation can be read: get_event shows, remove_event removes."""

    def get_event(self, stream: str) -> Event | None:
        return next((event for event in self.events if event.stream == stream), None)

    def remove_event(self, stream: str) -> None:
        with self.lock:
            self.events.remove(next(event for event in self.events if event.stream == stream))


@pytest.mark.parametrize("kind", [Popping, Showing, lambda: QueueEventStorage(queue_size=2)])
def test_events_pass_through_a_backlog_of_the_user_s_own(
    make: MakeTracker, collector: Collector, kind: Callable[[], Any]
) -> None:
    backlog = kind()
    tracker = make(start=False, event_backlog=backlog)
    for n in range(20):
        tracker.track("ab"[n % 2], {"n": n}, auth_key=KEY)
    assert backlog.is_empty()
    assert tracker._client.stats().accepted == 20  # on the disk when track() returned
    tracker._client.start()
    assert collector.wait_for(20, 20)
    order = {stream: [e["data"]["n"] for e in collector.events() if e["table"] == stream] for stream in "ab"}
    assert order == {"a": list(range(0, 20, 2)), "b": list(range(1, 20, 2))}
    assert all("auth" in message(each) for each in collector.requests())


def test_what_is_added_to_the_backlog_beside_the_tracker_is_taken_at_flush_and_stop(
    make: MakeTracker, collector: Collector
) -> None:
    backlog = Popping()
    tracker = make(event_backlog=backlog)
    tracker.track("s", 1)
    backlog.add_event(Event("s", {"n": 2}))
    tracker.flush()
    assert collector.wait_for(2, 20)
    backlog.add_event(Event("s", "3"))
    tracker.stop()
    assert data_of(collector) == [1, {"n": 2}, 3]


@pytest.mark.parametrize("kind", [Popping, Showing])
def test_what_the_disk_does_not_take_is_stored_first_and_in_order_later(kind: Callable[[], Any]) -> None:
    backlog, stored, broken = kind(), [], [True]

    def store(event: Event) -> None:
        if broken and event.data == "2":
            raise QueueUnavailable("told to fail")
        stored.append(event.data)

    mover = Mover(backlog, store)
    for data in "123":
        backlog.add_event(Event("s", data))
    with pytest.raises(QueueUnavailable):
        mover.move(["s"])
    assert stored == ["1"]
    backlog.add_event(Event("s", "4"))
    broken.clear()
    mover.move(["s"])
    assert stored == ["1", "2", "3", "4"]
    assert mover.empty


def test_track_waits_while_the_given_backlog_size_is_reached(make: MakeTracker, collector: Collector) -> None:
    collector.set_fault(status=503)
    tracker = make(backlog_size=3)
    for n in range(3):
        tracker.track("s", n)
    tracker.track("other", 0)  # each stream has its own
    done = threading.Event()
    entered = threading.Event()
    enter = tracker._room.enter  # type: ignore[union-attr]

    def watched(stream: str, id: str) -> None:
        entered.set()
        enter(stream, id)

    tracker._room.enter = watched  # type: ignore[union-attr,method-assign]
    thread = threading.Thread(target=lambda: (tracker.track("s", 3), done.set()))
    thread.start()
    assert entered.wait(20)
    assert tracker._client.stats().accepted == 4
    assert not done.is_set()
    collector.heal()
    assert done.wait(20)
    thread.join(20)
    assert collector.wait_for(5, 20)


def test_whoever_waits_for_room_is_woken_by_stop(make: MakeTracker, collector: Collector) -> None:
    collector.set_fault(status=503)
    tracker = make(backlog_size=1)
    tracker.track("s", 0)
    raised: list[BaseException] = []

    def more() -> None:
        try:
            tracker.track("s", 1)
        except QueueClosed as error:
            raised.append(error)

    thread = threading.Thread(target=more)
    thread.start()
    tracker.stop()
    thread.join(20)
    assert len(raised) == 1


def test_refused_events_and_those_that_could_not_be_stored_make_room(
    make: MakeTracker, collector: Collector
) -> None:
    collector.set_fault(status=400)
    tracker = make(backlog_size=2)
    for n in range(6):
        tracker.track("s", n)  # each waits until one before it is in a failed file
    wait_until(lambda: tracker._client.stats().failed == 6)
    tracker.stop()
    for _ in range(3):
        with pytest.raises(QueueClosed):
            tracker.track("s", 1)


def test_a_held_stream_takes_no_room_from_another(make: MakeTracker, collector: Collector) -> None:
    give_key(collector, "held", KEY)
    tracker = make(backlog_size=2)
    for n in range(2):
        tracker.track("held", n, auth_key="a wrong key")
    thread = threading.Thread(target=lambda: [tracker.track("s", n) for n in range(6)], daemon=True)
    thread.start()
    assert collector.wait_for(6, 20)
    thread.join(20)
    assert data_of(collector) == list(range(6))


def test_room_that_is_closed_lets_nobody_in() -> None:
    room = Room(1, on_disk=lambda stream: ["a"])
    room.enter("s", "a")
    room.close()
    for stream in "st":
        with pytest.raises(QueueClosed, match="nothing was stored"):
            room.enter(stream, "b")


def test_room_that_another_process_made_is_found() -> None:
    asked: list[str] = []

    def on_disk(stream: str) -> list[str] | None:  # the other process has sent all, and could not tell us
        asked.append(stream)
        return None if len(asked) == 1 else ["another's"]

    room = Room(1, on_disk)
    room.enter("s", "a")
    room.stored("a")
    room.enter("s", "b")
    assert asked == ["s", "s"]  # not for each event: when a wait was in vain


def test_without_a_backlog_size_an_outage_does_not_stop_the_program(make: MakeTracker, collector: Collector) -> None:
    collector.close_port()
    for size in ({}, {"backlog_size": config.BACKLOG_SIZE}):
        tracker = make(durability="process", **size)
        for n in range(600):
            tracker.track("s", n)
    assert tracker._client.stats().pending == 1200


def test_track_waits_when_the_disk_budget_is_used_up(make: MakeTracker, collector: Collector) -> None:
    collector.close_port()
    tracker = make(max_bytes="1 MiB", durability="process")
    done = threading.Event()
    text = "x" * 20_000
    stored = [0]

    def fill() -> None:
        for n in range(100):
            tracker.track("s", {"n": n, "text": text})
            stored[0] = n + 1
        done.set()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    wait_until(lambda: 20 < stored[0] < 100)
    collector.open_port()
    assert done.wait(20)
    thread.join(20)
    assert collector.wait_for(100, 20)
    assert [event["data"]["n"] for event in collector.events()] == list(range(100))


def test_the_abstract_backlog_must_be_whole() -> None:
    class Half(EventStorage):
        def add_event(self, event_object: Event) -> None:
            pass

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_the_queue_backlog_waits_when_it_is_full() -> None:
    backlog = QueueEventStorage(queue_size=1)
    backlog.add_event(Event("s", "1"))
    thread = threading.Thread(target=backlog.add_event, args=(Event("s", "2"),))
    thread.start()
    backlog.add_event(Event("other", "3"))
    assert backlog.get_event("s").data == "1"  # type: ignore[union-attr]
    thread.join(20)
    assert not thread.is_alive()
    backlog.remove_event("s")
    assert backlog.get_event("s") is None
    assert backlog.get_event("never") is None
    assert not backlog.is_empty()
    backlog.remove_event("other")
    assert backlog.is_empty()


# --- any order of calls -----------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.just("track"), st.sampled_from("abc"), st.sampled_from(["", "k1", "k2"]))
    | st.tuples(st.sampled_from(["flush", "restart", "outage", "heal"])),
    max_size=20,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_whatever_the_order_of_calls_every_event_arrives(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, ...]]
) -> None:
    collector.heal()
    path = tmp_path_factory.mktemp("queue")
    before = collector.count()
    want: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    with trackers(collector.base_url + "/", path) as make:
        tracker = make(durability="process", auth_key="d")
        for number, step in enumerate(steps):
            if step[0] == "track":
                # The path makes texts unlike those of other examples, which would be taken for repeats.
                tracker.track(step[1], {"n": number, "of": str(path)}, auth_key=step[2])
                want[step[1]].append(number)
            elif step[0] == "flush":
                tracker.flush()
            elif step[0] == "restart":
                tracker.stop()
                tracker = make(durability="process", auth_key="d")
            elif step[0] == "outage":
                collector.set_fault(status=503)
            else:
                collector.heal()
        collector.heal()
        assert tracker._client.flush(20)
    arrived = [event for event in collector.events()[before:] if event["data"]["of"] == str(path)]
    got = {stream: [e["data"]["n"] for e in arrived if e["table"] == stream] for stream in want}
    assert got == want


def test_the_waits_between_tries_follow_the_tracker_s_options() -> None:
    assert isinstance(AtomBackoff(), Backoff)
    assert json.dumps(config.BACKLOG_SIZE) == "500"
