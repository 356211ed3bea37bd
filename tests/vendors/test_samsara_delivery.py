"""Samsara's events through crashes, outages, refusals and lost replies: none is lost; what is refused can be resent."""

# ruff: noqa: F811
from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
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

from edgespool import config
from edgespool.replay import Replay
from edgespool.testing import Collector
from edgespool.vendors.common import Device as DeviceProtocol
from edgespool.vendors.samsara.api import SamsaraClient
from edgespool.vendors.samsara.device import Device


def numbers(collector: Collector) -> list[int]:
    return [each["number"] for each in collector.events() if "number" in each]


def failed_files(client: SamsaraClient) -> list[dict[str, Any]]:
    folder = Path(client._client.directory, "failed")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


# Crashes

_CHILD = """
import os, signal, sys
from edgespool.vendors.samsara.api import SamsaraClient
client = SamsaraClient(url=sys.argv[1], sourceId="child", path=sys.argv[2], min_buffer_size=1, publish_interval=10,
                       start_publishing_thread=sys.argv[3] == "send")
for number in range(10_000):
    client.record_event(eventName="reading", number=number)
    print(number, flush=True)
"""


@pytest.mark.parametrize("sending", ["send", "store"])
def test_after_kill_9_every_recorded_event_arrives_once_the_program_runs_again(
    make: MakeSamsara, collector: Collector, tmp_path: Path, sending: str
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, collector.base_url, str(tmp_path / "queue"), sending],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    recorded = [int(child.stdout.readline()) for _ in range(300)]
    os.kill(child.pid, signal.SIGKILL)
    recorded += [int(line) for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    assert child.wait(DEADLINE) == -signal.SIGKILL
    client = make()
    assert client.flush(DEADLINE)
    arrived = numbers(collector)
    assert arrived[: len(recorded)] == recorded
    assert len(arrived) <= len(recorded) + 1  # one more may have been stored whose call had not returned


def test_a_program_that_ends_without_closing_leaves_nothing_behind_unsent_for_good(
    make: MakeSamsara, collector: Collector, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from edgespool.vendors.samsara.api import SamsaraClient\n"
        "client = SamsaraClient(url=sys.argv[1], sourceId='c', path=sys.argv[2], start_publishing_thread=False)\n"
        "client.record_event(eventName='reading', number=1)\n"
        "client.stop_consuming()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, collector.base_url, str(tmp_path / "queue")],
        timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    client = make()
    assert client.flush(DEADLINE)
    assert numbers(collector) == [1]


def test_a_program_that_only_ends_does_end_and_sends_what_it_has(collector: Collector, tmp_path: Path) -> None:
    """The original's thread keeps the process alive, and never sends fewer events than `min_buffer_size`."""
    code = (
        "import sys\n"
        "from edgespool.vendors.samsara.api import SamsaraClient\n"
        "client = SamsaraClient(url=sys.argv[1], sourceId='c', path=sys.argv[2])\n"
        "client.record_event(eventName='reading', number=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, collector.base_url, str(tmp_path / "queue")],
        timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(collector) == [1]


# Outages


def test_an_outage_loses_nothing_and_keeps_the_order(make: MakeSamsara, collector: Collector) -> None:
    """In the original the first failure kills the publishing thread."""
    client = make(batch_size=7)
    collector.set_fault(status=500)
    for number in range(40):
        client.record_event(eventName="reading", number=number)
    wait_until(lambda: len(collector.requests()) >= 4, "some attempts")
    collector.close_port()
    for number in range(40, 60):
        client.record_event(eventName="reading", number=number)
    wait_until(lambda: "no connection" in (client.stats().last_error or ""))
    collector.heal()
    collector.open_port()
    for number in range(60, 80):
        client.record_event(eventName="reading", number=number)
    assert client.flush(DEADLINE)
    assert numbers(collector) == list(range(80))
    stats = client.stats()
    assert (stats.delivered, stats.failed, stats.dropped, stats.pending) == (80, 0, {}, 0)


def test_it_never_gives_up_by_itself(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    collector.set_fault(status=503, times=25)
    client.record_event(eventName="reading", number=1)
    assert collector.wait_for(1, DEADLINE)
    assert client.stats().failed == 0
    assert len(collector.requests()) == 26


def test_a_lost_reply_repeats_the_same_events_and_no_others(make: MakeSamsara, collector: Collector) -> None:
    client = make(start_publishing_thread=False)
    for number in range(10):
        client.record_event(eventName="reading", number=number)
    collector.set_fault(lost_reply=True, times=1)
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert numbers(collector) == list(range(10))
    assert collector.repeats() == 10
    bodies = {record.body for record in collector.requests()}
    assert len(bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_a_person_must_mend_holds_the_events(make: MakeSamsara, collector: Collector, status: int) -> None:
    client = make(auth="user:sesame-street")
    collector.set_fault(status=status)
    client.record_event(eventName="reading", number=1)
    wait_until(lambda: client.stats().state == "held")
    assert failed_files(client) == []
    collector.heal()
    assert client.flush(DEADLINE)
    assert numbers(collector) == [1]


def test_closing_during_an_outage_is_bounded(make: MakeSamsara, collector: Collector) -> None:
    client = make(send_timeout=60_000)
    collector.set_fault(latency=60.0)
    client.record_event(eventName="reading", number=1)
    wait_until(lambda: client.stats().state == "sending")
    begin = time.monotonic()
    report = client.close(0.2)
    assert time.monotonic() - begin < DEADLINE
    assert report.pending == 1
    collector.close_port()  # ends the request


# Refusals


def test_a_400_sets_the_culprit_aside_and_delivers_the_others(make: MakeSamsara, collector: Collector) -> None:
    client = make(start_publishing_thread=False)
    for number in range(50):
        client.record_event(eventName="reading", number=number)
    collector.set_fault(poison={"field": "number", "value": 31})
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert numbers(collector) == [n for n in range(50) if n != 31]
    (file,) = failed_files(client)
    assert (file["format"], file["route"], file["reason"]["status"]) == ("samsara", "", 400)
    assert file["endpoint"] == collector.base_url + "/v1/events"
    (kept,) = file["events"]
    assert (kept["number"], kept["eventName"], kept["sourceId"]) == (31, "reading", SOURCE)
    stats = client.stats()
    assert (stats.delivered, stats.failed) == (49, 1)


@pytest.mark.parametrize("address", ["/", "/v1/events"])
def test_a_failed_file_can_be_replayed(
    make: MakeSamsara, collector: Collector, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    client = make()
    collector.set_fault(poison={"field": "number", "value": 1})
    for number in range(3):
        client.record_event(eventName="reading", number=number, timestamp=1000 + number)
    assert client.flush(DEADLINE)
    directory = client._client.directory
    client.close()
    collector.heal()
    monkeypatch.setenv("EDGESPOOL_URL", collector.base_url + address)
    report = Replay(config.load({"path": directory})).run()
    assert (report.delivered, report.refused, report.stopped) == (1, 0, None)
    assert collector.events()[-1] == {"sourceId": SOURCE, "timestamp": 1001, "eventName": "reading", "number": 1}
    assert os.listdir(os.path.join(directory, "failed")) == []


def test_the_command_replays_it_too(make: MakeSamsara, collector: Collector) -> None:
    client = make()
    collector.set_fault(poison={"field": "eventName", "value": "bad"})
    client.record_event(eventName="bad")
    assert client.flush(DEADLINE)
    directory = client._client.directory
    client.close()
    collector.heal()
    done = subprocess.run(
        [sys.executable, "-c", "from edgespool.cli import replay_failed; replay_failed()", "--path", directory],
        env={**os.environ, "EDGESPOOL_URL": collector.base_url}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert names(collector) == ["bad"]


def test_an_array_that_the_original_s_user_kept_can_be_replayed(collector: Collector, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text(json.dumps([event("a"), {"eventName": "b", "timestamp": 5}]))
    settings = config.load({"url": collector.base_url, "path": tmp_path / "queue", "format": "samsara", "source": "pi"})
    assert Replay(settings, [str(path)]).run().delivered == 2
    assert collector.events() == [event("a"), {"eventName": "b", "timestamp": 5, "sourceId": "pi"}]


def test_a_body_that_is_too_large_goes_in_pieces(make: MakeSamsara, collector: Collector) -> None:
    client = make(start_publishing_thread=False, compression=None)
    for number in range(30):
        client.record_event(eventName="reading", number=number, text="x" * 200)
    collector.set_fault(max_bytes=2000)
    client.start_consuming()
    assert client.flush(DEADLINE)
    assert numbers(collector) == list(range(30))


# Secrets


def test_credentials_of_a_proxy_are_nowhere_on_the_disk_nor_said(
    make: MakeSamsara, collector: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sesame-street"
    url = collector.base_url.replace("http://", f"http://user:{secret}@")
    client = make(url, headers={"X-Key": f"{secret}-2"})
    collector.set_fault(status=401, body=f"wrong: {secret}, {secret}-2")
    client.record_event(eventName="reading", number=1)
    wait_until(lambda: client.stats().state == "held")
    assert secret not in str(client.stats())
    assert secret not in repr(client)
    collector.set_fault(poison={"field": "number", "value": 1})
    assert client.flush(DEADLINE)
    client.close()
    assert secret not in caplog.text
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "ballast":
            assert secret.encode() not in path.read_bytes(), path


# Memory


def test_a_backlog_is_on_the_disk_and_not_in_memory(make: MakeSamsara) -> None:
    """The original holds its buffer in memory, and a copy of all of it while it publishes."""
    client = make("http://127.0.0.1:9/", start_publishing_thread=False)
    client.record_event(eventName="reading", text="x" * 2000)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(1500):
            client.record_event(eventName="reading", text="x" * 2000)
        assert tracemalloc.get_traced_memory()[0] < 500_000  # bytes, of three million recorded
    finally:
        tracemalloc.stop()


# The device


def test_the_device_tracks_numbers(collector: Collector, tmp_path: Path) -> None:
    make_device: Callable[..., DeviceProtocol] = Device
    device = make_device(collector.base_url, path=tmp_path / "queue", flush_interval=0.01)
    collector.set_fault(poison=dict(device.poison(2)))
    for number in range(4):
        device.track(number)
    assert collector.wait_for(3, DEADLINE)
    device.close()
    assert [device.number_of(each) for each in collector.events()] == [0, 1, 3]
    assert device.number_of({"eventName": "other", "number": 1}) is None
    assert device.number_of({}) is None


def test_what_the_device_tracked_is_durable(collector: Collector, tmp_path: Path) -> None:
    device = Device(collector.base_url, path=tmp_path / "queue", start=False)
    device.track(7)
    device.close()
    device = Device(collector.base_url, path=tmp_path / "queue")
    device.close()
    assert [device.number_of(each) for each in collector.events()] == [7]
