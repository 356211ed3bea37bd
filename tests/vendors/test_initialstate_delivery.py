"""Initial State through every fault: what was logged arrives, in order, once it is over, and secrets stay secret."""

# ruff: noqa: F401, F811 - fixtures come from the kit

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from initialstate_kit import (
    DEADLINE,
    KEY,
    QUICK,
    MakeStreamer,
    an_environment_of_its_own,
    collector,
    failed_files,
    make_streamer,
    readings,
    sent,
    wait_until,
)

from edgespool.config import Settings
from edgespool.outcome import Backoff
from edgespool.replay import Replay
from edgespool.testing import Collector
from edgespool.vendors.initialstate.api import Streamer

REMOVED = '{"message": {"error": {"type": "BUCKET_REMOVED", "message": "it is gone"}}}'


def settings_of(streamer: Streamer, **changed: Any) -> Settings:
    """Return the settings that `replay-failed` would have for the streamer's queue."""
    return replace(Settings(path=streamer._client.directory, url=streamer.StreamApiBase, auth=KEY), **changed)


def values(collector: Collector) -> list[Any]:
    return [value for _, _, value in readings(collector)]


def drained(streamer: Streamer) -> None:
    wait_until(lambda: streamer._client.stats().pending == 0, "an empty queue")
    assert streamer._client._queue.ledger().balanced


# --- the process ------------------------------------------------------------------------------------------------------

LOGGER = """
import json, sys
from edgespool.vendors.initialstate.api import Streamer
given = json.loads(sys.argv[1])
streamer = Streamer("Bucket " + given["bucket"], given.pop("bucket"), "sesame-access-key", debug_level=0, **given)
number = 0
while True:
    streamer.log("n", f"{streamer.BucketKey}/{number}")
    print(streamer.BucketKey, number, flush=True)
    number += 1
    if number % 7 == 0:
        streamer.log_object([number], key_prefix="object")
    if number % 20 == 0:
        streamer.set_bucket("Next", f"{streamer.BucketKey}+")
"""


@pytest.mark.parametrize("sending", [True, False])
@pytest.mark.parametrize("durability", ["power", "process"])
def test_what_a_killed_program_had_logged_arrives_after_a_restart(
    make_streamer: MakeStreamer, collector: Collector, tmp_path: Path, durability: str, sending: bool
) -> None:
    logged: list[str] = []
    for life in range(2):
        given = {"bucket": f"life{life}", "path": str(tmp_path / "queue"), "url": collector.base_url,
                 "durability": durability, "start": sending, "flush_interval": 0.01}  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "-c", LOGGER, json.dumps(given)], stdout=subprocess.PIPE, text=True
        ) as program:
            assert program.stdout is not None
            try:
                for _ in range(45):
                    bucket, number = program.stdout.readline().split()
                    logged.append(f"{bucket}/{number}")
            finally:
                program.send_signal(signal.SIGKILL)
            program.wait(DEADLINE)
    streamer = make_streamer()
    drained(streamer)
    arrived = [value for _, key, value in readings(collector) if key == "n"]
    assert set(logged) <= set(arrived)
    assert len(arrived) == len(set(arrived))
    for each in collector.arrived():
        assert each.extra["bucket_name"] is not None, "a bucket is made before its first event"
    for bucket in {value.split("/")[0] for value in logged}:
        order = [int(value.split("/")[1]) for value in arrived if value.split("/")[0] == bucket]
        assert order == sorted(order)


def test_a_program_that_just_ends_loses_nothing(collector: Collector, tmp_path: Path) -> None:
    code = (
        "from edgespool.vendors.initialstate.api import Streamer\n"
        f"s = Streamer('K', 'k', {KEY!r}, url={collector.base_url!r}, path={str(tmp_path / 'q')!r})\n"
        "for n in range(25): s.log('n', n)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert values(collector) == list(range(25))


# --- the network ------------------------------------------------------------------------------------------------------


def test_an_outage_loses_nothing_and_keeps_the_order(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer(buffer_size=3)
    streamer.log("n", 0)
    assert collector.wait_for(1, 10)
    collector.close_port()
    for number in range(1, 60):
        streamer.log("n", number)
        if number % 20 == 0:
            streamer.flush()
            streamer.set_bucket(f"Bucket {number}", f"bucket{number}")
    wait_until(lambda: streamer._client.stats().state == "backing off", "the outage")
    collector.open_port()
    drained(streamer)
    assert sorted(values(collector)) == list(range(60))
    for bucket in ("kitchen", "bucket20", "bucket40"):
        own = [value for name, _, value in readings(collector) if name == bucket]
        assert own == sorted(own)
        assert own
    assert all(each.extra["bucket_name"] for each in collector.arrived())
    assert failed_files(streamer) == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
def test_a_server_in_trouble_is_asked_until_it_takes_the_events(
    make_streamer: MakeStreamer, collector: Collector, status: int
) -> None:
    """The original gave up after three tries, and dropped a batch that met a 429 without Retry-After at once."""
    collector.set_fault(status=status, times=12)
    streamer = make_streamer()
    streamer.log("n", 1)
    drained(streamer)
    assert values(collector) == [1]
    assert len(collector.requests()) >= 14
    assert failed_files(streamer) == []
    assert not Path("err_missed_events.txt").exists()


def test_a_lost_reply_repeats_the_events_and_the_receiver_can_tell(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer(start=False)
    streamer.log_object([1, 2, 3])
    collector.set_fault(lost_reply=True, times=2, path="/api/events")
    streamer._client.start()
    drained(streamer)
    assert (collector.count(), collector.repeats()) == (3, 6)
    assert values(collector) == [1, 2, 3]


def test_a_retry_after_is_waited_for(make_streamer: MakeStreamer, collector: Collector) -> None:
    collector.set_fault(status=429, headers={"Retry-After": "1"}, path="/api/events", times=1)
    streamer = make_streamer(backoff=Backoff(base=0.0, cap=0.0))
    told: list[float] = []
    streamer._client._worker._on_state = lambda state: told.append(state.next_attempt or 0.0)
    before = streamer._client._clock.monotonic()
    streamer.log("n", 1)
    drained(streamer)
    assert max(told) >= before + 1.0
    assert values(collector) == [1]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "body"), [(401, ""), (402, ""), (403, '"ACCESS_DENIED_KEY"'), (400, REMOVED)])
@pytest.mark.parametrize("path", ["/api/", "/api/events", "/api/buckets"])
def test_what_a_person_must_mend_holds_the_events_and_then_they_arrive(
    make_streamer: MakeStreamer, collector: Collector, status: int, body: str, path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The original dropped a batch that met 400, 401 or 403 without a word, and raised in a thread for 402."""
    collector.set_fault(status=status, body=body, path=path)
    streamer = make_streamer()
    for number in range(30):
        streamer.log("n", number)
    wait_until(lambda: streamer._client.stats().state == "held", "the hold")
    assert streamer._client.stats().held == ("kitchen",)
    assert "on hold" in caplog.text
    collector.heal()
    drained(streamer)
    assert values(collector) == list(range(30))
    assert {each.extra["bucket_name"] for each in collector.arrived()} == {"Kitchen"}
    assert failed_files(streamer) == []


def test_a_removed_bucket_holds_its_own_events_only(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer("Old", "old", start=False)
    streamer.log("n", 1)
    streamer.set_bucket("New", "new")
    streamer.log("n", 2)
    collector.set_fault(status=400, body=REMOVED, times=1)  # the first request is for the oldest
    streamer._client._worker._policy = replace(streamer._client._worker._policy, backoff=Backoff(base=600, cap=600))
    streamer._client._worker._fraction = lambda: 0.9
    streamer._client.start()
    assert collector.wait_for(1, 10)
    assert readings(collector) == [("new", "n", 2)]
    assert streamer._client.stats().held == ("old",)
    streamer._client.send_now()
    drained(streamer)
    assert readings(collector) == [("new", "n", 2), ("old", "n", 1)]


def test_a_missing_access_key_holds_the_events_and_says_what_to_do(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    streamer = make_streamer(access_key="")
    streamer.log("n", 1)
    wait_until(lambda: streamer._client.stats().state == "held", "the hold")
    assert "EDGESPOOL_AUTH" in str(streamer._client.stats().last_error)
    assert collector.requests() == []
    streamer.close()
    again = make_streamer()
    drained(again)
    assert values(collector) == [1]


def test_a_refused_event_goes_to_a_file_its_neighbours_arrive_and_the_replay_brings_it_home(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    collector.set_fault(poison={"field": "value", "value": 13})
    streamer = make_streamer(start=False)
    for number in range(50):
        streamer.log("n", number, epoch=1_419_876_000.5 + number)
    streamer._client.start()
    drained(streamer)
    assert values(collector) == [number for number in range(50) if number != 13]
    assert len(collector.requests()) <= 1 + 21
    [document] = failed_files(streamer)
    assert document["events"] == [{"key": "n", "value": 13, "epoch": 1_419_876_013.5}]
    assert (document["route"], document["format"], document["reason"]["status"]) == ("kitchen", "initialstate", 400)
    collector.heal()
    report = Replay(settings_of(streamer)).run()
    assert (report.delivered, report.complete) == (1, True)
    assert readings(collector)[-1] == ("kitchen", "n", 13)
    last = collector.requests()[-1]
    assert last.body == b'[{"key":"n","value":13,"epoch":1419876013.5}]'
    assert (last.path, last.headers["X-IS-AccessKey"]) == ("/api/events", KEY)


def test_a_refused_bucket_goes_to_a_file_its_events_stay_in_order_and_the_replay_makes_it(
    make_streamer: MakeStreamer, collector: Collector
) -> None:
    collector.set_fault(status=400, body='{"message": "bad name"}', path="/api/buckets")
    streamer = make_streamer("A bad name", "kitchen")
    for number in range(30):
        streamer.log("n", number)
    drained(streamer)
    assert values(collector) == list(range(30))
    [document] = failed_files(streamer)
    assert document["events"] == [{"bucketKey": "kitchen", "bucketName": "A bad name"}]
    collector.heal()
    assert Replay(settings_of(streamer)).run().complete
    assert sent(collector)[-1] == (
        "/api/buckets", 201, "kitchen", {"bucketKey": "kitchen", "bucketName": "A bad name"},
    )  # fmt: skip


def test_a_batch_that_is_too_large_is_sent_in_pieces(make_streamer: MakeStreamer, collector: Collector) -> None:
    collector.set_fault(max_bytes=2000)
    streamer = make_streamer(start=False)
    for number in range(100):
        streamer.log("n", number)
    streamer.log("n", "x" * 3000)
    streamer._client.start()
    drained(streamer)
    assert values(collector) == list(range(100))
    assert failed_files(streamer)[0]["events"][0]["value"] == "x" * 3000


def test_failed_files_of_several_starts_are_all_kept(make_streamer: MakeStreamer, collector: Collector) -> None:
    """The original opened its file anew after each start, and wiped what it held."""
    collector.set_fault(status=422, path="/api/events")
    for number in range(3):
        streamer = make_streamer()
        streamer.log("n", number)
        drained(streamer)
        streamer.close()
    assert [event["value"] for document in failed_files(streamer) for event in document["events"]] == [0, 1, 2]


# --- replay of what the original left ---------------------------------------------------------------------------------


def replay_failed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edgespool.cli import replay_failed; replay_failed()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_the_original_s_missed_events_are_replayed_to_the_bucket_that_is_named(collector: Collector) -> None:
    batches = [[{"key": "a", "value": 1, "epoch": 5.5}, {"key": "b", "value": "ü", "epoch": 6}],
               [{"key": "a", "value": True, "epoch": 7.25}]]  # fmt: skip
    Path("err_missed_events.txt").write_text("".join(json.dumps(batch) + "\n" for batch in batches))
    given = ("--format", "initialstate", "--route", "old-bucket", "err_missed_events.txt")
    settings = {"EDGESPOOL_AUTH": KEY, "EDGESPOOL_URL": collector.base_url}
    done = replay_failed("--dry-run", *given, **settings)
    assert done.returncode == 0, done.stderr
    assert "3 events would be sent" in done.stdout
    done = replay_failed(*given, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert collector.events() == [each for batch in batches for each in batch]
    assert {each.extra["bucket"] for each in collector.arrived()} == {"old-bucket"}
    assert {each.headers["X-IS-AccessKey"] for each in collector.requests()} == {KEY}
    assert Path("replayed/err_missed_events.txt").exists()


def test_a_replay_without_bucket_or_key_says_so_and_changes_nothing(collector: Collector) -> None:
    Path("err_missed_events.txt").write_text('[{"key": "a", "value": 1, "epoch": 5.5}]\n')
    settings = {"EDGESPOOL_AUTH": KEY, "EDGESPOOL_URL": collector.base_url}
    done = replay_failed("--format", "initialstate", "err_missed_events.txt", **settings)
    assert done.returncode != 0
    assert "--route" in done.stdout + done.stderr
    done = replay_failed(
        "--format", "initialstate", "--route", "b", "err_missed_events.txt", EDGESPOOL_URL=collector.base_url
    )
    assert "EDGESPOOL_AUTH" in done.stdout + done.stderr
    assert collector.requests() == []
    assert Path("err_missed_events.txt").exists()


# --- closing, secrets, threads ----------------------------------------------------------------------------------------


def test_close_is_bounded_while_the_server_says_nothing(make_streamer: MakeStreamer, collector: Collector) -> None:
    collector.set_fault(latency=1.5)
    streamer = make_streamer(timeout=(5, 30))
    streamer.log("n", 1)
    begun = threading.Event()
    streamer._client._worker._on_state = lambda state: begun.set() if state.name == "sending" else None
    wait_until(lambda: streamer._client.stats().state == "sending", "a request under way")
    stopped_by_close = streamer._client.close(0.05)
    assert stopped_by_close.pending == 2, "close came back before the server had answered"
    assert streamer._client.close() is stopped_by_close


def test_flush_is_bounded_while_the_server_says_nothing(make_streamer: MakeStreamer, collector: Collector) -> None:
    collector.set_fault(latency=1.5)
    streamer = make_streamer(timeout=(5, 30))
    streamer.log("n", 1)
    streamer.flush(timeout=0.05)
    assert streamer._client.stats().pending == 2, "flush came back before the server had answered"


@pytest.mark.parametrize("path", ["held", "failed"])
def test_the_access_key_is_nowhere_on_disk_nor_in_any_message(
    make_streamer: MakeStreamer, collector: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level("DEBUG")
    said = f'{{"message": "not with {KEY}"}}'
    collector.set_fault(status=401 if path == "held" else 400, body=said, path="/api/events")
    streamer = make_streamer(debug_level=3)
    for number in range(3):
        streamer.log("n", number)
    if path == "held":
        wait_until(lambda: streamer._client.stats().state == "held", "the hold")
    else:
        drained(streamer)
        assert "not with" in failed_files(streamer)[0]["reason"]["text"]
    assert KEY not in str(streamer._client.stats()) + repr(streamer) + repr(vars(streamer)["_client"]) + caplog.text
    assert "[redacted]" in caplog.text
    streamer.close()
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert len(files) >= 2
    for each in files:
        assert KEY.encode() not in each.read_bytes(), each


def test_many_threads_log_at_once_and_each_keeps_its_order(make_streamer: MakeStreamer, collector: Collector) -> None:
    streamer = make_streamer(durability="process")

    def work(who: int) -> None:
        for number in range(50):
            streamer.log(f"thread{who}", number)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        streamer.set_bucket(f"Bucket {number}", f"bucket{number}")
        streamer.flush(0.01)
    for thread in threads:
        thread.join()
    drained(streamer)
    assert collector.count() == 200
    assert all(each.extra["bucket_name"] for each in collector.arrived()), "each bucket was made before its events"
    for bucket in {each.extra["bucket"] for each in collector.arrived()}:
        for who in range(4):
            own = [value for name, key, value in readings(collector) if (name, key) == (bucket, f"thread{who}")]
            assert own == sorted(own)


def test_one_thread_sends_one_request_at_a_time(make_streamer: MakeStreamer, collector: Collector) -> None:
    """The original had a thread for each full buffer, and they overtook each other."""
    streamer = make_streamer(buffer_size=1)
    for number in range(40):
        streamer.log("n", number)
        workers = [each for each in threading.enumerate() if each.name.startswith("edgespool-worker")]
        assert len(workers) == 1
    drained(streamer)
    assert values(collector) == list(range(40))
    assert collector.connections == 1
