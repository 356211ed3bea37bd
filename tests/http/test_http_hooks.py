"""Hooks hear of everything once, and what they raise hurts nobody; a fault is logged once, not at each attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from http_kit import record_many, wait_until

from edgespool import Client, CloseReport
from edgespool.event import Batch
from edgespool.interfaces import Watch
from edgespool.testing import Collector

MakeClient = Callable[..., Client]


def test_on_delivery_gets_each_batch_after_the_yes(make_client: MakeClient, collector: Collector) -> None:
    batches: list[Batch] = []
    client = make_client(start=False, batch_size=4, on_delivery=batches.append)
    ids = record_many(client, 10)
    client.start()
    assert client.flush(20)
    wait_until(lambda: len(batches) == 3)
    assert [id for batch in batches for id in batch.ids] == ids == collector.ids()


def test_on_error_is_called_for_what_is_given_up(make_client: MakeClient, collector: Collector) -> None:
    heard: list[tuple[str, list[str]]] = []
    collector.set_fault(poison={"field": "data.n", "value": 1})
    client = make_client(start=False, on_error=lambda error, batch: heard.append((str(error), batch.ids)))
    ids = record_many(client, 3)
    client.start()
    assert client.flush(20)
    wait_until(lambda: heard)
    ((text, culprits),) = heard
    assert culprits == [ids[1]]
    assert "HTTP 400" in text
    assert "failed" in text, "it does not say where the events are"


def explode(*args: Any) -> None:
    raise RuntimeError("a hook of the user's")


def exit_program(*args: Any) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("hook", [explode, exit_program])
def test_what_a_hook_raises_stops_nothing(
    make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture, hook: Callable[..., None]
) -> None:
    collector.set_fault(status=503, times=2)
    client = make_client(start=False, batch_size=2, on_delivery=hook, on_error=hook)
    ids = record_many(client, 10)
    client.start()
    assert collector.wait_for(10, 20)
    assert client.flush(20)
    assert (collector.ids(), collector.repeats()) == (ids, 0)
    assert client.stats().delivered == 10
    told = [record for record in caplog.records if "hook" in record.getMessage()]
    assert 1 <= len(told) <= 2, "once for each hook"


def test_a_hook_may_close_and_what_has_arrived_is_acknowledged_all_the_same(
    make_client: MakeClient, collector: Collector
) -> None:
    reports: list[CloseReport] = []
    watch = Watch(on_reply=lambda *_: reports.append(client.close(60)))
    client = make_client(start=False, watch=watch)
    client.record("a")
    client.start()
    wait_until(lambda: reports and not client._worker.running)
    assert client.closed
    again = make_client()
    assert again.stats().pending == 0
    assert again.stats().delivered == 1
    again.record("b")
    assert again.flush(10)
    assert (collector.count(), collector.repeats()) == (2, 0)


def test_a_hook_that_flushes_does_not_wait_for_itself(make_client: MakeClient, collector: Collector) -> None:
    flushed: list[bool] = []
    client = make_client(start=False, on_delivery=lambda batch: flushed.append(client.flush(600)), batch_size=1)
    client.record("a")
    client.record("b")
    client.start()
    wait_until(lambda: len(flushed) == 2)
    assert flushed == [False, True]


def test_a_hook_may_record(make_client: MakeClient, collector: Collector) -> None:
    made: list[Client] = []

    def note(batch: Batch) -> None:
        if len(batch) > 1:
            made[0].record("delivered", count=len(batch))

    client = make_client(start=False, on_delivery=note)
    made.append(client)
    record_many(client, 5)
    client.start()
    assert collector.wait_for(6, 20)
    assert collector.events()[-1]["data"] == {"count": 5}


def test_a_fault_that_goes_on_is_logged_once_and_its_end_too(
    make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgespool")
    collector.set_fault(status=503)
    client = make_client()
    record_many(client, 5)
    wait_until(lambda: len(collector.requests()) >= 6, "six attempts")
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert "503" in warned[0].getMessage()
    collector.heal()
    assert client.flush(20)
    wait_until(lambda: any("goes on" in record.getMessage() for record in caplog.records))


def test_a_pause_says_what_is_wrong_and_that_nothing_is_lost(
    make_client: MakeClient, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.set_fault(status=401)
    client = make_client()
    client.record("reading")
    wait_until(lambda: client.stats().state == "held")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "401" in record.getMessage()
    assert "hold" in record.getMessage()


def test_without_a_handler_nothing_is_printed(
    make_client: MakeClient, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("edgespool").handlers)
    collector.set_fault(status=401)
    client = make_client()
    client.record("reading")
    wait_until(lambda: client.stats().state == "held")
    assert capfd.readouterr() == ("", "")
