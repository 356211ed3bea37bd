"""Atom when things go wrong: kills, outages, lost replies, refusals, missing keys; and secrets, which go nowhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from atom_kit import (
    KEY,
    clean_environment,
    data_of,
    failed_files,
    give_key,
    message,
    on_disk,
    sent_texts,
    trackers,
    wait_until,
)

from edgespool import config
from edgespool.outcome import Backoff
from edgespool.replay import Pace, Replay
from edgespool.testing import Collector
from edgespool.vendors.atom import api
from edgespool.vendors.atom.api import IronSourceAtom, IronSourceAtomTracker
from edgespool.vendors.atom.device import Device

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


def replay(collector: Collector, tmp_path: Path, **given: Any) -> Any:
    """Replay the queue's failed files as `replay-failed` would: by the format's name, and with the settings alone."""
    settings = config.load({"path": tmp_path / "queue", "url": collector.base_url, "format": "atom", **given})
    return Replay(settings, pace=Pace(tries=2, backoff=Backoff(0.01, 0.02))).run()


def numbers(collector: Collector) -> list[int]:
    return [data["n"] for data in data_of(collector)]


# --- nothing is lost --------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from edgespool.vendors.atom import api
from edgespool.vendors.atom.api import IronSourceAtomTracker
tracker = IronSourceAtomTracker(endpoint=sys.argv[1], path=sys.argv[2], flush_interval=1000, durability=sys.argv[3])
n = 0
while True:
    tracker.track("s", {"n": n}, auth_key="the key of s")
    print(n, flush=True)
    n += 1
"""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_killed_program_loses_nothing_that_track_has_taken(
    collector: Collector, make: MakeTracker, tmp_path: Path, durability: str
) -> None:
    give_key(collector, "s", "the key of s")
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, collector.base_url + "/", str(tmp_path / "queue"), durability],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    for _ in range(150):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    rest = child.stdout.read().split("\n")
    child.stdout.close()
    last = max([149, *(int(line) for line in rest[:-1] if line)])
    tracker = make()
    tracker.track("s", {"n": -1}, auth_key="the key of s")
    assert tracker._client.flush(20)
    got = numbers(collector)
    assert got[-1] == -1
    assert set(got) >= set(range(last + 1))
    assert got[:-1] == sorted(set(got[:-1]))


def test_an_outage_of_any_kind_loses_nothing_and_keeps_the_order(make: MakeTracker, collector: Collector) -> None:
    tracker = make(retry_max_count=1)  # more failures than the original would have tried
    collector.set_fault(status=503)
    for n in range(30):
        tracker.track("s", {"n": n})
        if n == 10:
            wait_until(lambda: len(collector.requests()) > 5)
            collector.close_port()
        if n == 20:
            wait_until(lambda: "no connection" in str(tracker._client.stats().last_error))
            collector.open_port()
            collector.set_fault(reset="midway", times=2)
    assert tracker._client.flush(20)
    assert numbers(collector) == list(range(30))
    stats = tracker._client.stats()
    assert (stats.delivered, stats.failed, sum(stats.dropped.values())) == (30, 0, 0)


def test_after_retry_max_count_failures_nothing_is_given_up(make: MakeTracker, collector: Collector) -> None:
    tracker = make(retry_max_count=2, backoff=None)
    worker = tracker._client._worker
    quick = replace(worker._policy.backoff, base=0.001, cap=0.004)
    worker._policy = replace(worker._policy, backoff=quick)
    collector.set_fault(status=500, times=9)
    tracker.track("s", {"n": 1})
    assert tracker._client.flush(20)
    assert [each.status for each in collector.requests()] == [500] * 9 + [200]


def test_a_lost_reply_repeats_and_never_loses(make: MakeTracker, collector: Collector) -> None:
    collector.set_fault(lost_reply=True, times=1)
    tracker = make(start=False)
    for n in range(5):
        tracker.track("s", {"n": n})
    tracker._client.start()
    assert tracker._client.flush(20)
    assert numbers(collector) == list(range(5))
    assert collector.repeats() == 5


@pytest.mark.parametrize("after", [{}, {"Retry-After": "0"}])
def test_429_is_waited_for(make: MakeTracker, collector: Collector, after: dict[str, str]) -> None:
    collector.set_fault(status=429, headers=after, times=3)
    tracker = make()
    tracker.track("s", {"n": 1})
    assert tracker._client.flush(20)
    assert [each.status for each in collector.requests()] == [429, 429, 429, 200]
    assert failed_files(tracker) == []


def test_a_captive_portal_s_redirect_is_no_success(make: MakeTracker, collector: Collector) -> None:
    collector.set_fault(redirect="http://127.0.0.1:9/login", status=302)
    tracker = make()
    tracker.track("s", {"n": 1})
    wait_until(lambda: tracker._client.stats().held == ("s",))
    assert tracker._client.stats().pending == 1
    collector.heal()
    assert tracker._client.flush(20)
    assert numbers(collector) == [1]


def test_what_stop_could_not_deliver_goes_out_at_the_next_start(make: MakeTracker, collector: Collector) -> None:
    collector.close_port()
    tracker = make()
    for n in range(20):
        tracker.track("s", {"n": n})
    tracker.stop()
    collector.open_port()
    tracker = make()
    assert tracker._client.flush(20)
    assert numbers(collector) == list(range(20))


def test_stop_delivers_what_is_left_and_is_bounded_when_the_server_is_mute(
    make: MakeTracker, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = make(interval=3600.0)
    wait_until(lambda: not tracker._client._worker._draining)
    tracker.track("s", {"n": 1})
    tracker.stop()
    assert numbers(collector) == [1]
    monkeypatch.setattr("edgespool.vendors.atom.api._STOP", 0.1)
    collector.set_fault(latency=1.0)  # a stop that waited for it would end delivered
    tracker = make(timeout=(5.0, 10.0))
    tracker.track("s", {"n": 2})
    wait_until(lambda: tracker._client.stats().state == "sending")
    tracker.stop()
    assert tracker._client.close().pending == 1


def test_stop_is_bounded_when_a_backlog_of_one_s_own_cannot_be_stored(
    make: MakeTracker, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgespool.vendors.atom.event_storage import Event, QueueEventStorage

    monkeypatch.setattr("edgespool.vendors.atom.api._STOP", 0.2)
    collector.close_port()
    backlog = QueueEventStorage(queue_size=1000)
    tracker = make(event_backlog=backlog, max_bytes="1 MiB", durability="process")
    tracker.track("s", {"n": 0})
    for n in range(100):
        backlog.add_event(Event("s", json.dumps({"n": n, "text": "x" * 20_000})))
    tracker.stop()  # the disk is full, and its policy is to wait
    left = 0
    while backlog.get_event("s") is not None:
        left += 1
    with Collector() as other:  # nothing is lost between the two
        settings = {"endpoint": other.base_url + "/"}
        again = make(**settings)
        assert again._client.flush(20)
        assert other.count() == 101 - left
    assert left > 0


# --- refusals, and replay ---------------------------------------------------------------------------------------------


def test_a_refused_event_stands_alone_in_a_failed_file_and_replay_sends_it(
    make: MakeTracker, collector: Collector, tmp_path: Path
) -> None:
    give_key(collector, "s", KEY)
    tracker = make(start=False)
    for n in range(20):
        tracker.track("s", {"n": n, "é": "ü"}, auth_key=KEY)
    collector.set_fault(poison={"field": "data.n", "value": 7})
    tracker._client.start()
    wait_until(lambda: tracker._client.stats().pending == 0)
    assert numbers(collector) == [n for n in range(20) if n != 7]
    (file,) = failed_files(tracker)
    assert (file["format"], file["route"], file["reason"]["status"]) == ("atom", "s", 400)
    assert [event["signed"] for event in file["events"]] == [True]
    assert json.loads(file["events"][0]["data"]) == {"n": 7, "é": "ü"}
    tracker.stop()
    assert replay(collector, tmp_path, auth=KEY).refused == 1  # still refused: it stays
    collector.heal()
    stopped = replay(collector, tmp_path).stopped
    assert stopped.kind == "held" if hasattr(stopped, "kind") else stopped is not None
    assert "auth key of stream 's' is not known" in stopped.reason
    assert replay(collector, tmp_path, keys={"s": KEY}).delivered == 1
    assert sorted(numbers(collector)) == list(range(20))
    assert replay(collector, tmp_path, auth=KEY).delivered == 0


def test_replay_takes_the_default_key_and_sends_unsigned_what_was_recorded_so(
    make: MakeTracker, collector: Collector, tmp_path: Path
) -> None:
    collector.set_fault(status=400)
    tracker = make()
    tracker.track("open", {"n": 1})
    tracker.track("closed", {"n": 2}, auth_key=KEY)
    wait_until(lambda: tracker._client.stats().failed == 2)
    tracker.stop()
    collector.heal()
    assert replay(collector, tmp_path, auth=KEY).delivered == 2
    told = {message(each)["table"]: message(each) for each in collector.requests()[-2:]}
    assert {stream: "auth" in each for stream, each in told.items()} == {"open": False, "closed": True}


def test_replay_takes_the_sent_data_that_a_callback_has_saved(collector: Collector, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(['{"n":1}', '{"n":2}']))
    settings = config.load({"path": tmp_path / "queue", "url": collector.base_url, "format": "atom", "auth": KEY})
    assert Replay(settings, [str(file)], route="s").run().delivered == 2
    assert sent_texts(collector.requests()[0]) == ['{"n":1}', '{"n":2}']
    assert "auth" in message(collector.requests()[0])


def test_a_large_batch_that_is_too_large_is_halved(make: MakeTracker, collector: Collector) -> None:
    collector.set_fault(max_bytes=3000)
    tracker = make(start=False)
    for n in range(20):
        tracker.track("s", {"n": n, "text": "x" * (5000 if n == 7 else 400)})
    tracker._client.start()
    wait_until(lambda: tracker._client.stats().pending == 0)
    assert numbers(collector) == [n for n in range(20) if n != 7]
    assert [file["reason"]["status"] for file in failed_files(tracker)] == [413]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_credentials_hold_the_stream_and_lose_nothing(
    make: MakeTracker, collector: Collector, status: int
) -> None:
    collector.set_fault(status=status)
    tracker = make()
    tracker.track("s", {"n": 1})
    wait_until(lambda: tracker._client.stats().held == ("s",))
    assert failed_files(tracker) == []
    collector.heal()
    assert tracker._client.flush(20)


# --- keys -------------------------------------------------------------------------------------------------------------


def forget_keys() -> None:
    """Forget what the trackers of this process share: as if the program had been started anew."""
    api._by_directory.clear()


def leave_behind(make: MakeTracker, collector: Collector) -> None:
    """Leave a signed backlog in the streams "s" and "t", and an unsigned one in "open"."""
    for stream in "st":
        give_key(collector, stream, f"key of {stream}")
    tracker = make(start=False)
    tracker.track("s", {"n": 1}, auth_key="key of s")
    tracker.track("t", {"n": 2}, auth_key="key of t")
    tracker.track("open", {"n": 3})
    tracker.stop()
    forget_keys()
    assert collector.requests() == []


def test_after_a_restart_a_stream_waits_for_its_key_and_the_others_go_on(
    make: MakeTracker, collector: Collector
) -> None:
    leave_behind(make, collector)
    tracker = make(backoff=Backoff(base=3600.0, cap=3600.0))  # only the key will let it go in time
    wait_until(lambda: tracker._client.stats().held == ("s", "t"))
    wait_until(lambda: numbers(collector) == [3])
    assert "auth" not in message(collector.requests()[0])
    assert "is not known to this program" in str(tracker._client.stats().last_error)
    tracker.track("s", {"n": 4}, auth_key="key of s")
    assert collector.wait_for(3, 20)
    assert numbers(collector) == [3, 1, 4]
    wait_until(lambda: tracker._client.stats().pending == 1)
    tracker.track("t", {"n": 5}, auth_key="key of t")
    assert collector.wait_for(5, 20)
    assert all(each.status == 200 for each in collector.requests())


def test_a_backlog_that_the_tracker_s_key_does_not_fit_goes_out_once_its_own_is_given(
    make: MakeTracker, collector: Collector
) -> None:
    leave_behind(make, collector)
    tracker = make(auth_key="the key of others", backoff=Backoff(base=3600.0, cap=3600.0))
    wait_until(lambda: tracker._client.stats().held == ("s", "t"))
    wait_until(lambda: numbers(collector) == [3])
    assert sorted(each.status or 0 for each in collector.requests()) == [200, 401, 401]
    tracker.track("s", {"n": 4}, auth_key="key of s")
    wait_until(lambda: {1, 4} <= set(numbers(collector)))


@pytest.mark.parametrize("how", ["constructor", "keys", "auth", "environment"])
def test_the_key_can_come_from_the_constructor_and_the_settings(
    make: MakeTracker, collector: Collector, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_key(collector, "s", "key of s")
    tracker = make(start=False)
    tracker.track("s", {"n": 1}, auth_key="key of s")
    tracker.stop()
    forget_keys()
    if how == "environment":
        monkeypatch.setenv("EDGESPOOL_KEYS", "s=key of s")
        make()
    elif how == "keys":
        make(keys={"s": "key of s"})
    else:
        make(**{"auth_key" if how == "constructor" else "auth": "key of s"})
    assert collector.wait_for(1, 20)
    assert [each.status for each in collector.requests()] == [200]


def test_trackers_of_one_queue_share_their_keys_and_each_callback_hears_of_its_own_streams(
    make: MakeTracker, collector: Collector
) -> None:
    told: dict[str, list[str]] = {"first": [], "second": []}
    give_key(collector, "b", "key of b")
    first = make(callback=lambda when, code, error, data, stream: told["first"].append(stream))
    second = make(callback=lambda when, code, error, data, stream: told["second"].append(stream))
    second.track("b", {"n": 1}, auth_key="key of b")  # the first one sends it
    assert collector.wait_for(1, 20)
    collector.set_fault(status=400)
    first.track("a", {"n": 2})
    second.track("b", {"n": 3})
    wait_until(lambda: first._client.stats().failed == 2)
    assert told == {"first": ["a"], "second": ["b"]}


def test_trackers_of_two_accounts_have_queues_of_their_own(collector: Collector) -> None:
    one = IronSourceAtomTracker(endpoint=collector.base_url + "/", auth_key="one", start=False)
    two = IronSourceAtomTracker(endpoint=collector.base_url + "/", auth_key="two", start=False)
    again = IronSourceAtomTracker(endpoint=collector.base_url + "/", auth_key="one", start=False)
    assert one._client.directory == again._client.directory != two._client.directory
    for each in (one, two, again):
        each.stop()


def test_no_key_is_on_the_disk_in_a_log_or_in_an_error(
    make: MakeTracker, collector: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    secrets = [KEY, "the-default-key-of-all", "configured-key-of-u"]
    errors: list[Any] = []
    tracker = make(
        auth_key=secrets[1], keys={"u": secrets[2]}, is_debug=True, callback=lambda *told: errors.append(told)
    )
    statuses = iter([(400, 1), (401, 2), (503, 2)])
    for status, times in statuses:
        collector.set_fault(status=status, body=f"you sent {' '.join(secrets)}", times=times)
        for stream, key in (("s", secrets[0]), ("t", ""), ("u", "")):
            tracker.track(stream, {"status": status}, auth_key=key)
        assert tracker._client.flush(20)
        assert not any(secret in str(tracker._client.stats()) for secret in secrets)
    low = IronSourceAtom(True, "http://127.0.0.1:9/", KEY, timeout=0.5)
    assert KEY not in str(low.put_event("s", "x", "get").error)
    assert len(errors) >= 3
    assert failed_files(tracker)
    assert on_disk(tmp_path, "status")  # the search works
    for secret in secrets:
        assert on_disk(tmp_path, secret) == []
        assert secret not in caplog.text
        assert secret not in str(errors)
        assert secret not in repr([tracker, tracker._client, tracker._shared.keys, tracker._client._format, low])
    tracker.stop()
    for secret in secrets:
        assert on_disk(tmp_path, secret) == []


# --- the faults of the original, one by one ---------------------------------------------------------------------------


def test_many_events_of_a_stream_take_few_requests_and_no_processor_time_while_idle(
    make: MakeTracker, collector: Collector
) -> None:
    tracker = make(start=False)
    for n in range(300):
        tracker.track("s", {"n": n})
    tracker._client.start()
    assert collector.wait_for(300, 20)
    assert len(collector.requests()) == 5  # of 64 at most
    steps = []
    step = tracker._client._worker.step
    tracker._client._worker.step = lambda: (steps.append(1), step())[1]  # type: ignore[method-assign]
    wait_until(lambda: tracker._client.stats().state == "idle")
    threading.Event().wait(0.3)  # a polling loop would have turned thousands of times
    assert len(steps) < 20


def test_a_client_error_needs_no_callback_to_be_kept(make: MakeTracker, collector: Collector) -> None:
    collector.set_fault(status=400, body="no")
    tracker = make()
    for n in range(3):
        tracker.track("s", {"n": n})
    wait_until(lambda: tracker._client.stats().failed == 3)
    assert sorted(json.loads(file["events"][0]["data"])["n"] for file in failed_files(tracker)) == [0, 1, 2]


def test_many_threads_may_track(make: MakeTracker, collector: Collector) -> None:
    tracker = make(durability="process")

    def work(stream: str) -> None:
        for n in range(50):
            tracker.track(stream, {"n": n}, auth_key=f"key of {stream}")

    threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert tracker._client.flush(20)
    for number in range(6):
        stream = f"s{number}"
        assert [e["data"]["n"] for e in collector.events() if e["table"] == stream] == list(range(50))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_track(make: MakeTracker, collector: Collector) -> None:
    tracker = make()
    tracker.track("s", {"n": 1}, auth_key=KEY)
    child = os.fork()
    if not child:
        try:
            tracker.track("s", {"n": 2}, auth_key=KEY)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert collector.wait_for(2, 20)


# --- the device -------------------------------------------------------------------------------------------------------


def test_the_device_drives_the_tracker(collector: Collector, tmp_path: Path) -> None:
    device = Device(collector.base_url, path=tmp_path / "queue", flush_interval=0.1)
    for number in range(5):
        device.track(number)
    assert device._client.stats().accepted == 5
    collector.set_fault(poison=Device.poison(3))
    assert device._client.flush(20)
    device.close()
    assert [Device.number_of(event) for event in collector.events()] == [0, 1, 2, 4]
    assert Device.number_of({"table": "another", "data": {"number": 1}}) is None
    assert Device.number_of({"data": "text"}) is None


def test_times_are_left_to_the_data(make: MakeTracker, collector: Collector) -> None:
    """Atom has no field for an event's time: nothing to put right, and nothing is put in."""
    tracker = make()
    before = time.time()
    tracker.track("s", {"at": before})
    assert collector.wait_for(1, 20)
    assert collector.events() == [{"table": "s", "data": {"at": before}}]
