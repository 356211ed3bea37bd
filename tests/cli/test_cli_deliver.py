"""`edgespool deliver`: what a program left in its queue goes out without it."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Cli, Start, eventually, record

from edgespool import Client, Event
from edgespool.cli.exits import Exit
from edgespool.client import _clients
from edgespool.queue.view import QueueView
from edgespool.testing import Collector
from edgespool.vendors.panoply.device import Device
from edgespool.vendors.panoply.format import STATE_ROUTE

NOBODY = "http://127.0.0.1:9"


def test_what_waits_is_delivered(cli: Cli, collector: Collector, home: Path) -> None:
    ids = record(home / "left", 3)
    shown = cli("deliver", "--url", collector.url)  # it is the only queue there is
    assert (shown.code, shown.out, shown.err) == (0, "3 events delivered\n", "")
    assert collector.ids() == ids
    shown = cli("deliver", "--url", collector.url)
    assert (shown.code, shown.out) == (0, "nothing waits\n")


@pytest.mark.parametrize("vendor", ["atom", "initialstate", "paltabrain", "panoply", "samsara"])
def test_a_vendors_queue_is_delivered_as_the_vendor_would(
    cli: Cli, collector: Collector, home: Path, monkeypatch: pytest.MonkeyPatch, vendor: str
) -> None:
    kind: Any = import_module(f"edgespool.vendors.{vendor}.device").Device
    device = kind(NOBODY, path=str(home / "left"))
    for number in range(3):
        device.track(number)
    device._client.close(0) if hasattr(device, "_client") else device.close()
    if kind.auth is not None:
        monkeypatch.setenv("EDGESPOOL_AUTH", kind.auth)
    shown = cli("deliver", "--url", collector.base_url, "--json")
    assert shown.code == 0, shown.err
    arrived = [kind.number_of(each.event) for each in collector.arrived() if each.dialect == vendor]
    assert [number for number in arrived if number is not None] == [0, 1, 2]
    assert json.loads(shown.out)["pending"] == 0


@pytest.mark.parametrize("vendor", ["atom", "initialstate", "panoply"])  # whose address is known without being given
def test_events_do_not_go_to_a_service_that_the_program_never_named(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, vendor: str
) -> None:
    kind: Any = import_module(f"edgespool.vendors.{vendor}.device").Device
    device = kind(NOBODY, path=str(home / "left"))
    device.track(1)
    assert eventually((home / "left" / "sender.json").exists)
    for client in list(_clients):
        client.close(0)
    if kind.auth is not None:
        monkeypatch.setenv("EDGESPOOL_AUTH", kind.auth)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, NOBODY)
    shown = cli("deliver", "--wait", "1")
    assert shown.code == Exit.USAGE
    assert f"these events went to {NOBODY}" in shown.err
    assert "--url" in shown.err
    shown = cli("deliver", "--wait", "1", "--url", NOBODY)
    assert shown.code == Exit.SERVER
    with QueueView(str(home / "left")) as view:
        assert view.ledger().pending >= 1
        assert view.ledger().delivered == 0


def test_it_goes_on_for_as_long_as_it_gets_on(
    cli: Cli, collector: Collector, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home / "left", 7)
    monkeypatch.setenv("EDGESPOOL_BATCH_SIZE", "1")
    collector.set_fault(latency=0.4)  # 2.8 seconds, of which no two were without an event
    assert cli("deliver", "--wait", "2", "--url", collector.url).code == 0
    assert collector.count() == 7


def test_it_ends_when_nothing_moves(start: Start, collector: Collector, home: Path) -> None:
    record(home / "left", 3)
    collector.set_fault(status=503)
    process = start("deliver", "--wait", "0.3", "--url", collector.url)
    out, err = process.communicate(timeout=30)
    assert process.returncode == Exit.SERVER
    assert b"503" in err
    assert b"3 events on disk, to be sent later" in err
    assert out == b"0 events delivered\n"


def test_it_ends_at_once_when_everything_is_refused(start: Start, collector: Collector, home: Path) -> None:
    record(home / "left", 3)
    collector.set_fault(status=401)
    process = start("deliver", "--wait", "1w", "--url", collector.url, "--json")
    said = json.loads(process.communicate(timeout=30)[0])
    assert "401" in said.pop("last_error")
    assert said == {"delivered": 0, "refused": 0, "pending": 3, "state": "held"}
    assert process.returncode == Exit.SERVER


def test_what_is_refused_is_kept(cli: Cli, collector: Collector, home: Path) -> None:
    record(home / "left", 3)
    collector.set_fault(poison={"field": "data.number", "value": 1})
    shown = cli("deliver", "--url", collector.url)
    assert (shown.code, shown.out) == (Exit.ATTENTION, "2 events delivered\n")
    assert "1 event refused" in shown.err
    assert len(os.listdir(home / "left" / "failed")) == 1


def test_a_program_at_work_on_the_queue_delivers(start: Start, collector: Collector, home: Path) -> None:
    with Client(collector.url, path=str(home / "busy"), flush_interval=1.0) as client:
        client.record("first")
        assert client.flush(10)
        client.record("second")
        process = start("deliver", "--wait", "10", "--url", collector.url + "/other")
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, b""), (out, err)
        assert collector.count() == 2
    assert {request.path for request in collector.requests()} == {"/v1/events"}


def test_a_data_sources_state_is_left_to_the_source(
    cli: Cli, collector: Collector, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Device.auth is not None
    with Client(NOBODY, path=str(home / "source-x"), format="panoply", auth=Device.auth, start=False) as client:
        client.record_event(Event(STATE_ROUTE, {"source": "x", "number": 1, "state": {}}, route=STATE_ROUTE))
    monkeypatch.setenv("EDGESPOOL_AUTH", Device.auth)
    shown = cli("deliver", "--url", collector.base_url)
    assert shown.code == Exit.SERVER
    assert "edgespool source run" in shown.err
    assert not collector.requests()


def test_no_queue_is_said_in_a_line(cli: Cli, home: Path) -> None:
    shown = cli("deliver", "--url", NOBODY)
    assert shown.code == Exit.QUEUE
    assert "there is no queue" in shown.err
    shown = cli("deliver", "--url", NOBODY, "--name", "none")
    assert shown.code == Exit.QUEUE
    assert not (home / "none").exists()


def test_without_an_address_it_says_what_to_give(cli: Cli, home: Path) -> None:
    record(home / "left", 1)
    shown = cli("deliver")
    assert shown.code == Exit.USAGE
    assert "EDGESPOOL_URL" in shown.err
