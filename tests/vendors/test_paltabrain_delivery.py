"""PaltaBrain's wire and its delivery: fields, headers, batches, outages, refusals, kills, credentials."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from paltabrain_kit import (
    KEY,
    MakeSdk,
    bodies,
    failed_files,
    files_below,
    isolate,
    numbers,
    posts,
    sdks,
    start_python,
    wait_until,
)

from edgespool import config
from edgespool.outcome import Backoff
from edgespool.replay import Pace, Replay
from edgespool.testing import Collector, FakeClock
from edgespool.vendors.paltabrain import sdk_pb2
from edgespool.vendors.paltabrain.example import Context, EventPageOpen, EventReading, EventSessionStart


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(tmp_path: Path, collector: Collector) -> Iterator[MakeSdk]:
    with sdks(tmp_path, collector.base_url) as made:
        yield made


# --- the wire -------------------------------------------------------------------------------------------------------


def test_the_request_has_the_service_s_path_and_headers_and_no_others_of_ours(
    make: MakeSdk, collector: Collector
) -> None:
    before = time.time_ns() // 1_000_000
    sdk = make()
    for number in range(50):  # enough to be worth compressing
        sdk.track(EventReading(number=number))
    assert sdk.flush(10)
    for request in posts(collector):
        assert (request.method, request.path, request.query) == ("POST", "/v2/paltabrain", "")
        headers = dict(request.headers)
        upload = int(headers.pop("X-SDK-Client-Upload-TS"))
        assert before <= upload <= time.time_ns() // 1_000_000
        ours = {
            name: headers.pop(name) for name in ("Content-Type", "X-API-Key", "X-SDK-Name", "X-SDK-Version")
        }  # fmt: skip
        assert ours == {
            "Content-Type": "application/protobuf",
            "X-API-Key": KEY,
            "X-SDK-Name": "PALTABRAIN_PYTHON",
            "X-SDK-Version": "0.7.2",
        }
        assert set(headers) == {"Host", "User-Agent", "Accept-Encoding", "Accept", "Connection", "Content-Length"}


def test_the_body_is_a_batch_field_by_field(make: MakeSdk, collector: Collector) -> None:
    before = time.time_ns() // 1_000_000
    sdk = make(instance_id="sensor-7", session_id=1_700_000_000_123)
    sdk.context.set_user(user_id="123")
    event = EventPageOpen(page_id="abc").set_parent(parent_elements=["a"])
    sdk.track(event)
    assert sdk.flush(10)
    (batch,) = bodies(collector)
    assert batch.common.instance_id == "sensor-7"
    assert uuid.UUID(batch.common.batch_id).version == 7
    assert not batch.common.HasField("country_code")
    assert not batch.common.HasField("locale")
    assert not batch.common.HasField("utc_offset")
    assert batch.context == sdk.context.serialize_context() != b""
    (sent,) = batch.events
    assert before <= sent.common.event_ts <= time.time_ns() // 1_000_000
    assert (sent.common.session_id, sent.common.session_event_seq_num) == (1_700_000_000_123, 1)
    assert (sent.header, sent.payload) == (event.serialize_header(), event.serialize_payload())
    assert batch.HasField("telemetry")


def test_without_a_session_neither_it_nor_a_number_is_sent(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    sdk.track(EventSessionStart())
    assert sdk.flush(10)
    common = bodies(collector)[0].events[0].common
    assert not common.HasField("session_id")
    assert not common.HasField("session_event_seq_num")


def test_a_batch_is_of_one_context_and_in_order(make: MakeSdk, collector: Collector) -> None:
    sdk = make(start=False)
    users = ["a", "a", "b", "b", "b", "a", "c"]
    for number, user in enumerate(users):
        sdk.context.set_user(user_id=user)
        sdk.track(EventReading(number=number))
    sdk._client.start()
    assert sdk.flush(10)
    assert [len(batch.events) for batch in bodies(collector)] == [2, 3, 1, 1]
    assert numbers(collector) == list(range(7))
    assert [each["context"]["user"]["user_id"] for each in collector.events()] == users


def test_a_batch_is_of_one_sender(make: MakeSdk, collector: Collector) -> None:
    for instance in ("one", "two", "one"):
        sdk = make(start=False, instance_id=instance)
        sdk.track(EventReading(number=1))
        sdk.track(EventReading(number=2))
        sdk.shutdown(0)
    sdk = make()
    assert sdk.flush(10)
    assert [(each.common.instance_id, len(each.events)) for each in bodies(collector)] == [
        ("one", 2), ("two", 2), ("one", 2),
    ]  # fmt: skip


def test_batches_hold_at_most_the_buffer_s_size_and_512_kib(make: MakeSdk, collector: Collector) -> None:
    sdk = make(start=False, flush_buffer_size=10)
    sdk.context.set_user(user_id="u" * 1000)
    for number in range(25):
        sdk.track(EventReading(number=number))
    for _ in range(8):
        sdk.track(EventPageOpen(page_id="x" * 120_000))
    sdk._client.start()
    assert sdk.flush(10)
    exchanges = zip(bodies(collector), posts(collector), strict=True)
    sizes = [(len(batch.events), request.size) for batch, request in exchanges]
    assert sum(count for count, _ in sizes) == 33
    assert max(count for count, _ in sizes) == 10
    assert 360_000 < max(size for _, size in sizes) <= 512 * 1024


def test_a_shared_context_does_not_make_batches_small(make: MakeSdk, collector: Collector) -> None:
    """Building a batch is linear: the context that each event is stored with stands in the request once."""
    sdk = make(start=False)
    sdk.context.set_user(user_id="u" * 3000)
    for number in range(100):
        sdk.track(EventReading(number=number))
    sdk._client.start()
    assert sdk.flush(10)
    assert [len(each.events) for each in bodies(collector)] == [100]
    assert posts(collector)[0].size < 100 * 40 + 5000


def test_a_lost_reply_repeats_the_batch_under_its_id(make: MakeSdk, collector: Collector) -> None:
    sdk = make(start=False)
    for number in range(3):
        sdk.track(EventReading(number=number))
    collector.set_fault(lost_reply=True, times=1)
    sdk._client.start()
    wait_until(lambda: len(collector.requests()) >= 2)
    assert sdk.flush(10)
    first, second = bodies(collector)
    assert (len(first.events), len(second.events)) == (3, 3)
    assert first.common.batch_id == second.common.batch_id
    assert second.telemetry.trigger_type == "RETRY"
    assert (collector.count(), collector.repeats()) == (3, 3)


def test_equal_events_are_all_told_apart_by_the_collector(make: MakeSdk, collector: Collector) -> None:
    sdk = make(start=False)
    for _ in range(20):
        sdk.track(EventSessionStart())
    sdk._client.start()
    assert sdk.flush(10)
    assert (collector.count(), collector.repeats()) == (20, 0)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_an_outage_longer_than_the_retries_loses_nothing_and_is_counted(make: MakeSdk, collector: Collector) -> None:
    sdk = make(flush_max_retries=2)
    collector.close_port()
    for number in range(10):
        sdk.track(EventReading(number=number))
    wait_until(lambda: sdk.batch_counters["EXCEPTION"] >= 3)
    assert isinstance(sdk.last_request_error, Exception)
    assert sdk.last_request_error.status is None  # type: ignore[attr-defined]
    assert sdk._client.stats().pending == 10
    collector.open_port()
    assert sdk.flush(10)
    assert numbers(collector) == list(range(10))
    assert failed_files(sdk) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_server_that_is_unwell_gets_everything_later(make: MakeSdk, collector: Collector, status: int) -> None:
    sdk = make(flush_max_retries=3)
    collector.set_fault(status=status)
    for number in range(5):
        sdk.track(EventReading(number=number))
    wait_until(lambda: sdk.batch_counters["REJECT"] >= 2)
    assert sdk.batch_counters["SUCCESS"] == sdk.batch_counters["EXCEPTION"] == 0
    assert sdk.last_request_error.status == status  # type: ignore[union-attr]
    collector.heal()
    assert sdk.flush(10)
    assert numbers(collector) == list(range(5))
    assert failed_files(sdk) == []


def test_the_counters_count_what_they_are_documented_to(make: MakeSdk, collector: Collector) -> None:
    sdk = make(flush_max_retries=5)
    assert sdk.batch_counters == {"SUCCESS": 0, "REJECT": 0, "EXCEPTION": 0}
    assert sdk.last_request_error is None
    collector.set_fault(status=503, times=4)
    sdk.track(EventReading(number=1))
    wait_until(lambda: collector.count() == 1)
    assert sdk.flush(10)
    assert sdk.batch_counters == {"SUCCESS": 1, "REJECT": 0, "EXCEPTION": 0}
    sdk.batch_counters["SUCCESS"] = 99  # a copy
    assert sdk.batch_counters["SUCCESS"] == 1


def test_a_refused_event_stands_alone_in_a_failed_file_and_a_replay_sends_it(
    make: MakeSdk, collector: Collector, tmp_path: Path
) -> None:
    sdk = make(start=False, instance_id="pi", session_id=7)
    sdk.context.set_user(user_id="123")
    collector.set_fault(poison={"field": "payload.event_4.number", "value": 5})
    for number in range(16):
        sdk.track(EventReading(number=number))
    sdk._client.start()
    assert sdk.flush(10)
    assert sorted(numbers(collector)) == [number for number in range(16) if number != 5]
    assert sdk.batch_counters["REJECT"] == 1
    (file,) = failed_files(sdk)
    assert (file["format"], file["reason"]["status"], len(file["events"])) == ("paltabrain", 400, 1)
    batch = sdk_pb2.Batch.FromString(base64.b64decode(file["events"][0]["base64"]))
    assert (batch.common.instance_id, batch.events[0].common.session_event_seq_num) == ("pi", 6)
    assert KEY not in json.dumps(file)
    original = batch.events[0].common.event_ts
    sdk.shutdown()

    collector.heal()
    settings = config.load({"path": str(tmp_path / "queue"), "url": collector.base_url, "auth": KEY})
    report = Replay(settings, pace=Pace(backoff=Backoff(0.01, 0.01))).run()
    assert report.complete
    assert sorted(numbers(collector)) == list(range(16))
    last = collector.arrived()[-1]
    assert last.event["common"] == {"event_ts": original, "session_id": 7, "session_event_seq_num": 6}
    assert last.event["context"] == {"user": {"user_id": "123"}}
    assert last.event["instance_id"] == "pi"
    request = posts(collector)[-1]
    assert request.headers["X-API-Key"] == KEY
    assert "Authorization" not in request.headers


def test_the_replay_command_takes_the_key_from_the_environment(
    make: MakeSdk, collector: Collector, tmp_path: Path
) -> None:
    sdk = make()
    collector.set_fault(status=422)
    sdk.track(EventReading(number=1))
    wait_until(lambda: failed_files(sdk))
    sdk.shutdown()
    collector.heal()
    command = [os.path.join(os.path.dirname(sys.executable), "replay-failed"), "--path", str(tmp_path / "queue")]
    env = {**os.environ, "EDGESPOOL_URL": collector.base_url}
    without = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert without.returncode == 2
    assert "EDGESPOOL_AUTH" in without.stderr
    env["EDGESPOOL_AUTH"] = "colons:are:part-of-it"
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert numbers(collector) == [1]
    assert posts(collector)[-1].headers["X-API-Key"] == "colons:are:part-of-it"


def test_a_failed_event_can_be_posted_by_hand(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    collector.set_fault(status=400)
    sdk.track(EventReading(number=1))
    wait_until(lambda: failed_files(sdk))
    collector.heal()
    raw = base64.b64decode(failed_files(sdk)[0]["events"][0]["base64"])
    batch = sdk_pb2.Batch.FromString(raw)
    batch.common.batch_id = str(uuid.uuid4())
    headers = {"Content-Type": "application/protobuf", "X-API-Key": "k", "X-SDK-Name": "PALTABRAIN_PYTHON",
               "X-SDK-Version": "0.7.2", "X-SDK-Client-Upload-TS": "1"}  # fmt: skip
    url = f"{collector.base_url}/v2/paltabrain"
    assert requests.post(url, batch.SerializeToString(), headers=headers, timeout=5).status_code == 200
    assert numbers(collector) == [1]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_holds_delivery_until_a_right_one_comes(
    make: MakeSdk, collector: Collector, status: int
) -> None:
    sdk = make(api_key="old-key-of-the-account")
    collector.set_fault(status=status)
    for number in range(3):
        sdk.track(EventReading(number=number))
    wait_until(lambda: sdk._client.stats().state == "held")
    assert sdk.batch_counters["REJECT"] == 1
    assert sdk.last_request_error.status == status  # type: ignore[union-attr]
    assert (sdk._client.stats().pending, failed_files(sdk)) == (3, [])
    sdk.shutdown()
    collector.heal()
    again = make()
    assert again.flush(10)
    assert numbers(collector) == [0, 1, 2]
    assert posts(collector)[-1].headers["X-API-Key"] == KEY


def test_the_key_is_looked_at_by_the_collector(collector: Collector) -> None:
    url = f"{collector.base_url}/v2/paltabrain"
    headers = {"Content-Type": "application/protobuf"}
    assert requests.post(url, b"", headers=headers, timeout=5).status_code == 401
    headers["X-API-Key"] = "k"
    assert requests.post(url, b"", headers=headers, timeout=5).status_code == 400
    headers |= {"X-SDK-Name": "PALTABRAIN_PYTHON", "X-SDK-Version": "0.7.2"}
    assert requests.post(url, b"", headers=headers, timeout=5).status_code == 400
    headers |= {"X-SDK-Client-Upload-TS": "1"}
    for body in (b"", b"\xff", b"\x0a\x03\x0a\x01x"):
        assert requests.post(url, body, headers=headers, timeout=5).status_code == 400
    assert requests.post(url, bytes(600_000), headers=headers, timeout=5).status_code == 413
    assert collector.count() == 0


def test_events_of_another_schema_arrive_as_they_are(make: MakeSdk, collector: Collector) -> None:
    class Foreign:
        def serialize_header(self) -> bytes:
            return b"\xff\xff"

        def serialize_payload(self) -> bytes:
            return b"\x9a\x06\x01x"  # field 99

    sdk = make()
    sdk.track(Foreign())  # type: ignore[arg-type]
    assert sdk.flush(10)
    (event,) = collector.events()
    assert base64.b64decode(event["header"]["base64"]) == b"\xff\xff"
    assert base64.b64decode(event["payload"]["base64"]) == b"\x9a\x06\x01x"
    assert collector.arrived()[0].name == "event"


def test_a_413_is_answered_by_smaller_batches(make: MakeSdk, collector: Collector) -> None:
    sdk = make(start=False)
    for number in range(60):
        sdk.track(EventReading(number=number))
    collector.set_fault(max_bytes=700)
    sdk._client.start()
    assert sdk.flush(10)
    assert sorted(numbers(collector)) == list(range(60))
    assert failed_files(sdk) == []


def test_close_is_bounded_while_the_server_is_silent(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    collector.close_port()
    for number in range(5):
        sdk.track(EventReading(number=number))
    wait_until(lambda: sdk._client.stats().state == "backing off")
    sdk.shutdown(timeout=60)  # would be noticed: the test's folder has 25 s
    assert not sdk._client._worker.running
    collector.open_port()
    assert make().flush(10)
    assert numbers(collector) == list(range(5))


def test_close_does_not_wait_for_an_answer_that_does_not_come(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    collector.set_fault(latency=3600)
    sdk.track(EventReading(number=1))
    wait_until(collector.count)
    sdk.shutdown(0.05)
    assert sdk._client._worker.running, "it waited for the answer"
    collector.close_port()


_KILLED = """
import sys
from edgespool.vendors.paltabrain.api import PaltabrainSdk
from edgespool.vendors.paltabrain.example import Context, EventReading
sdk = PaltabrainSdk[Context](sys.argv[1], "key", Context(), path=sys.argv[2], session_id=77, durability=sys.argv[3],
                             start=sys.argv[4] == "sending", flush_interval=0.01)
number = 0
while True:
    sdk.track(EventReading(number=number))
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize(("durability", "mode"), [("power", "recording"), ("process", "recording"),
                                                  ("process", "sending")])  # fmt: skip
def test_everything_a_killed_program_had_tracked_is_delivered_after_its_restart(
    make: MakeSdk, collector: Collector, tmp_path: Path, durability: str, mode: str
) -> None:
    process = start_python(_KILLED, collector.base_url, str(tmp_path / "queue"), durability, mode)
    assert process.stdout is not None
    assert process.stdin is not None
    told = [int(process.stdout.readline()) for _ in range(40)]
    process.kill()
    told += [int(line) for line in process.stdout]
    process.wait()
    process.stdout.close()
    process.stdin.close()
    sdk = make(session_id=77)
    sdk.track(EventReading(number=-1))
    assert sdk.flush(10)
    arrived = collector.events()
    found = {event["payload"]["event_4"].get("number") for event in arrived}
    assert set(told) - {0} <= found  # proto3 shows 0 too, as the field has presence
    assert 0 in found
    assert found - set(told) <= {-1, told[-1] + 1}
    sequence = sorted(event["common"]["session_event_seq_num"] for event in arrived)
    # One number may have been taken for an event that the kill came before.
    assert len(set(sequence)) == len(sequence)
    assert sequence[-1] - len(sequence) <= 1
    last = next(event for event in arrived if event["payload"]["event_4"].get("number") == -1)
    assert last["common"]["session_event_seq_num"] == sequence[-1]


def test_no_secret_is_on_the_disk(make: MakeSdk, collector: Collector, tmp_path: Path) -> None:
    sdk = make()
    collector.set_fault(status=400, body=f"your key {KEY} is fine")
    sdk.track(EventReading(number=1))
    wait_until(lambda: failed_files(sdk))
    collector.set_fault(status=401, body=f"no such key: {KEY}")
    sdk.track(EventReading(number=2))
    wait_until(lambda: sdk._client.stats().state == "held")
    assert KEY not in str(sdk.last_request_error)
    assert KEY not in str(sdk._client.stats())
    sdk.shutdown()
    found = files_below(tmp_path)
    assert len(found) > 3
    for path, content in found.items():
        assert KEY.encode() not in content, path
        assert base64.b64encode(KEY.encode())[:-4] not in content, path


def test_what_was_in_the_queue_when_the_clock_was_wrong_is_sent_with_the_right_time(
    make: MakeSdk, collector: Collector
) -> None:
    clock = FakeClock(1000.0)
    sdk = make(clock=clock, start=False)
    sdk.context.set_user(user_id="1")
    sdk.track(EventReading(number=1))
    clock.advance(5)
    clock.jump_wall(1_750_000_000)
    clock.is_synchronized = True
    sdk.track(EventReading(number=2))
    sdk._client.start()
    assert sdk.flush(10)
    events = {each["payload"]["event_4"]["number"]: each["common"]["event_ts"] for each in collector.events()}
    assert events == {1: 1_750_001_000_000, 2: 1_750_001_005_000}
    assert [each["context"] for each in collector.events()] == [{"user": {"user_id": "1"}}] * 2


def test_a_programs_own_context_class_need_not_be_the_generated_one(make: MakeSdk, collector: Collector) -> None:
    class Fixed(Context):
        def serialize_context(self) -> bytes:
            return b""

    sdk: Any = make(context=Fixed())
    sdk.track(EventReading(number=3))
    assert sdk.flush(10)
    assert collector.events()[0]["context"] == {}
