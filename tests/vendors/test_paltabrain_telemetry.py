"""What batches say of their sender: BatchTelemetry, field by field, which the original left empty."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paltabrain_kit import MakeSdk, bodies, isolate, sdks, start_python, wait_until

from edgespool.errors import QueueFull
from edgespool.event import Batch, StoredEvent
from edgespool.interfaces import Request
from edgespool.outcome import Delivered, Reply, Retry
from edgespool.status import Stats
from edgespool.testing import Collector
from edgespool.vendors.paltabrain import sdk_pb2
from edgespool.vendors.paltabrain.example import EventPageOpen, EventReading
from edgespool.vendors.paltabrain.format import LARGEST_TELEMETRY
from edgespool.vendors.paltabrain.telemetry import Telemetry


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


class Bench:
    """A Telemetry whose clock and counts are the test's."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.stats = Stats(0, 0, 0, {}, bytes_on_disk=4096)
        self.telemetry = Telemetry(str(folder), lambda: self.stats, 10, lambda: self.now)

    def exchange(self, events: int = 1, took: float = 0.0, outcome: Any = None, first: int = 0) -> Any:
        """Send a batch; return what it told."""
        batch = Batch("", [StoredEvent(n, b"", 0.0, f"id-{first + n}", False) for n in range(events)])
        raw = self.telemetry(batch)
        assert len(raw) <= LARGEST_TELEMETRY
        request = Request(b"x" * 1000)
        self.telemetry.on_request(batch, request)
        self.now += took
        outcome = outcome or Delivered()
        self.telemetry.on_reply(batch, request, Reply(200, {}) if isinstance(outcome, Delivered) else None, outcome)
        return sdk_pb2.BatchTelemetry.FromString(raw)


def test_the_first_batch_tells_only_what_is_known(tmp_path: Path) -> None:
    told = Bench(tmp_path).exchange()
    assert {field.name for field, _ in told.ListFields()} == {"events_dropped", "storage_used", "trigger_type"}
    assert (told.events_dropped, told.storage_used, told.trigger_type) == (0, "4096", "INTERVAL")


def test_times_and_speeds_are_those_of_the_last_exchanges(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.exchange(events=4, took=0.5)
    bench.now += 1.5
    told = bench.exchange(events=6, took=0.5)
    assert (told.prev_request_time, told.prev_connection_speed) == (500, "2000")
    assert told.time_since_last_batch == 1500
    assert not told.HasField("events_reporting_speed")
    assert bench.exchange().events_reporting_speed == "3.00"


def test_a_failed_exchange_is_no_last_batch(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.exchange()
    bench.now += 1
    bench.exchange(took=1, outcome=Retry("no"))
    assert bench.exchange().time_since_last_batch == 2000


@pytest.mark.parametrize(("events", "trigger"), [(10, "BUFFER_SIZE"), (9, "INTERVAL")])
def test_the_trigger_is_the_size_or_the_interval(tmp_path: Path, events: int, trigger: str) -> None:
    assert Bench(tmp_path).exchange(events).trigger_type == trigger


def test_the_trigger_says_what_the_user_asked_for_until_it_is_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.telemetry.asked("FLUSH")
    assert bench.exchange(10).trigger_type == "FLUSH"
    assert bench.exchange(3, first=10).trigger_type == "FLUSH"
    assert bench.exchange(3, first=20).trigger_type == "INTERVAL"


def test_the_trigger_says_that_a_batch_is_sent_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.exchange(3, outcome=Retry("no"))
    assert bench.exchange(3).trigger_type == "RETRY"
    assert bench.exchange(3).trigger_type == "INTERVAL"


def test_drops_are_told_once_each_also_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.stats = Stats(9, 0, 0, {"max_age": 3, "overflow": 1})
    assert bench.exchange(outcome=Retry("no")).events_dropped == 4
    assert bench.exchange().events_dropped == 4
    assert bench.exchange().events_dropped == 0
    again = Bench(tmp_path)
    again.stats = Stats(9, 0, 0, {"max_age": 5, "overflow": 1})
    assert again.exchange().events_dropped == 2


def test_errors_are_told_until_a_batch_has_arrived(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.telemetry.serialization_error(TypeError("a"))
    bench.telemetry.storage_error(QueueFull("b"))
    assert list(bench.exchange(outcome=Retry("no")).serialization_errors) == ["TypeError: a"]
    bench.telemetry.serialization_error(TypeError("c"))
    told = bench.exchange()
    assert list(told.serialization_errors) == ["TypeError: a", "TypeError: c"]
    assert list(told.storage_errors) == ["QueueFull: b"]
    assert not bench.exchange().serialization_errors


def test_errors_without_end_stay_within_bounds(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(1000):
        bench.telemetry.serialization_error(TypeError(f"{number}: " + "ü\ud800" * 10_000))
        bench.telemetry.storage_error(QueueFull("€" * 10_000))
    told = bench.exchange()
    assert len(told.serialization_errors) == len(told.storage_errors) == 10
    assert told.serialization_errors[-1].startswith("TypeError: 999: ")


def test_a_salvaged_queue_is_told_of_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.stats = Stats(9, 0, 0, {}, salvaged={"kept": 5, "lost": 1, "again": 0, "unknown": 0})
    assert "5 kept, 1 lost" in bench.exchange(outcome=Retry("no")).storage_errors[0]
    assert "5 kept, 1 lost" in bench.exchange().storage_errors[0]
    assert not bench.exchange().storage_errors


def test_a_damaged_memory_of_what_was_told_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "paltabrain-reported").write_bytes(b"\xff nonsense")
    assert Bench(tmp_path).exchange().events_dropped == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_does_not_have(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from edgespool.vendors.paltabrain.telemetry import Telemetry
        telemetry = Telemetry(sys.argv[1], lambda: None, 10)
        telemetry._lock.acquire()
        child = os.fork()
        if not child:
            print("locked" if telemetry._lock._is_owned() else "free", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    assert start_python(code, str(tmp_path)).communicate(timeout=30)[0] == "free\n"


def test_the_sdk_fills_it(make: MakeSdk, collector: Collector) -> None:
    sdk = make(flush_interval=3600, overflow="drop_oldest", max_bytes=1 << 20, start=False)
    sdk.track(EventReading(number="bad"))  # type: ignore[arg-type]
    for _ in range(30):
        sdk.track(EventPageOpen(page_id="x" * 50_000))
    dropped = sum(sdk._client.stats().dropped.values())
    assert dropped > 0
    sdk.flush()  # asked for before anything is sent: it is what has the first batch sent
    sdk._client.start()
    assert sdk.flush(10)
    told = [batch.telemetry for batch in bodies(collector)]
    assert told[0].trigger_type == "FLUSH"
    assert sum(each.events_dropped for each in told) == dropped
    assert len(told[0].serialization_errors) == 1
    assert "number" in told[0].serialization_errors[0]
    assert int(told[0].storage_used) > 500_000
    assert told[1].prev_request_time >= 0
    assert told[1].time_since_last_batch >= 0
    assert not told[1].serialization_errors
    sdk.track(EventReading(number=1))
    sdk.shutdown()
    assert bodies(collector)[-1].telemetry.trigger_type == "SHUTDOWN"


def test_events_that_the_disk_did_not_take_are_told_of(make: MakeSdk, collector: Collector) -> None:
    sdk = make(start=False, max_bytes=1 << 20)

    def fill() -> None:
        for _ in range(100):
            sdk.track(EventPageOpen(page_id="x" * 50_000))

    with pytest.raises(QueueFull):
        fill()
    sdk._client.start()
    wait_until(collector.count)
    assert bodies(collector)[0].telemetry.storage_errors[0].startswith("QueueFull: ")
