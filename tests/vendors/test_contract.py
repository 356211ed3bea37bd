"""What every vendor's SDK must keep on our queue, whatever it is called there: one suite, a parameter each."""

from __future__ import annotations

import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import edgespool
from edgespool import Client, config, vendors
from edgespool.cli.app import edgespool as edgespool_command
from edgespool.cli.app import run
from edgespool.client import _clients
from edgespool.outcome import Backoff
from edgespool.replay import Replay
from edgespool.testing import Collector

NAMES = sorted(place.name for place in pkgutil.iter_modules(vendors.__path__) if place.ispkg)
TRACKER = Path(__file__).parent / "programs" / "tracker.py"
DEADLINE = 30.0

@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield
    for client in list(_clients):
        client.close(0)


@pytest.fixture(params=NAMES)
def vendor(request: pytest.FixtureRequest) -> Any:
    return request.param


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        pause.wait(0.01)


def client_at(path: Path) -> Client:
    """Return the client behind a vendor's object."""
    (found,) = [client for client in list(_clients) if client.directory == str(path)]
    return found


def device_of(vendor: str) -> Any:
    return import_module(f"edgespool.vendors.{vendor}.device").Device


def open_device(vendor: str, url: str, path: Path, **given: Any) -> Any:
    """Open a vendor's SDK whose waits after failures are short."""
    device = device_of(vendor)(url, path=str(path), **given)
    worker = client_at(path)._worker
    worker._policy = replace(worker._policy, backoff=Backoff(base=0.01, cap=0.05), flush_interval=0.02)
    return device


def arrived(vendor: str, collector: Collector) -> list[int]:
    found = (device_of(vendor).number_of(each.event) for each in collector.arrived())
    return [number for number in found if number is not None]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_what_was_tracked_before_a_sigkill_arrives_after_the_restart(
    vendor: str, tmp_path: Path, collector: Collector
) -> None:
    path = tmp_path / "queue"
    source = str(Path(edgespool.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, str(TRACKER), vendor, closed_port(), str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
        text=True,
    )
    assert process.stdout is not None
    promised = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    promised += [int(line) for line in process.stdout.read().splitlines()]
    process.stdout.close()
    process.wait(DEADLINE)
    device = open_device(vendor, collector.base_url, path)
    assert client_at(path).flush(DEADLINE)
    device.close()
    got = arrived(vendor, collector)
    assert set(promised) <= set(got)
    assert got == sorted(set(got)), "in order, and each once"


def test_an_outage_loses_nothing(vendor: str, tmp_path: Path, collector: Collector) -> None:
    collector.set_fault(status=503)
    path = tmp_path / "queue"
    device = open_device(vendor, collector.base_url, path)
    for number in range(700):  # more than the original's buffer
        device.track(number)
    until(lambda: client_at(path).stats().last_error, "the outage")
    collector.heal()
    assert client_at(path).flush(DEADLINE)
    device.close()
    assert arrived(vendor, collector) == list(range(700))


def test_events_arrive_once_unless_a_reply_was_lost(vendor: str, tmp_path: Path, collector: Collector) -> None:
    path = tmp_path / "queue"
    device = open_device(vendor, collector.base_url, path)
    for number in range(20):
        device.track(number)
    assert client_at(path).flush(DEADLINE)
    assert collector.repeats() == 0
    collector.set_fault(lost_reply=True, times=1)
    for number in range(20, 40):
        device.track(number)
    assert client_at(path).flush(DEADLINE)
    device.close()
    assert collector.repeats() > 0
    assert arrived(vendor, collector) == list(range(40))


def test_a_refused_event_stands_alone_in_a_failed_file_and_is_replayed(
    vendor: str, tmp_path: Path, collector: Collector
) -> None:
    path = tmp_path / "queue"
    device = open_device(vendor, collector.base_url, path)
    collector.set_fault(poison=device.poison(7))
    for number in range(20):
        device.track(number)
    assert client_at(path).flush(DEADLINE)
    assert client_at(path).stats().failed == 1
    device.close()
    assert arrived(vendor, collector) == [number for number in range(20) if number != 7]
    (file,) = (path / "failed").iterdir()
    assert len(json.loads(file.read_text())["events"]) == 1
    collector.heal()
    given = {"url": collector.base_url, "path": str(path), "auth": device_of(vendor).auth, "format": vendor}
    settings = config.load(given)
    report = Replay(settings).run()
    assert (report.delivered, report.complete) == (1, True)
    assert sorted(arrived(vendor, collector)) == list(range(20))
    assert (path / "replayed").is_dir()


@pytest.mark.parametrize("status", [400, 401, 503])
def test_no_credential_is_kept_or_said_though_the_server_repeats_it(
    vendor: str, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], status: int,
) -> None:  # fmt: skip
    caplog.set_level("NOTSET")
    path = tmp_path / "queue"
    url = collector.base_url.replace("//", "//anna:pass-in-the-address@")
    device = open_device(vendor, url, path)
    client = client_at(path)
    secrets = [*client._format.secrets(), "pass-in-the-address"]  # type: ignore[attr-defined]
    collector.set_fault(status=status, body=f"you sent {' and '.join(secrets)}")
    for number in range(3):
        device.track(number)
    until(lambda: client.stats().last_error or (client.stats().failed and not client.stats().pending), "an answer")
    texts = {"stats and reprs": f"{client.stats()} {client!r} {client.settings} {client._format!r} {vars(device)}"}
    texts |= _files(tmp_path, "while it works")
    device.close()
    texts |= _files(tmp_path, "at the end")
    monkeypatch.setenv("EDGESPOOL_FORMAT", vendor)
    monkeypatch.setenv("EDGESPOOL_URL", url)
    if device_of(vendor).auth:
        monkeypatch.setenv("EDGESPOOL_AUTH", device_of(vendor).auth)
    for command in ("status", "peek", "doctor", "replay"):
        run(edgespool_command, "edgespool", [command, "--json", "--path", str(path)])
        run(edgespool_command, "edgespool", [command, "--path", str(path)])
    run(edgespool_command, "edgespool", ["export", "--path", str(path)])
    texts |= _files(tmp_path, "after the commands")
    texts["standard output"], texts["standard error"] = capfd.readouterr()
    texts["logs"] = caplog.text
    assert [(where, each) for where, text in texts.items() for each in secrets if each in text] == []
    assert "you sent [redacted]" in "".join(texts.values()), "the rest of what was said is told"


def _files(directory: Path, when: str) -> dict[str, str]:
    found = {}
    for each in directory.rglob("*"):
        try:
            found[f"{each} {when}"] = each.read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, IsADirectoryError):  # a file that was there for a moment only
            continue
    return found


def test_closing_in_an_outage_is_bounded_and_keeps_everything(
    vendor: str, tmp_path: Path, collector: Collector
) -> None:
    path = tmp_path / "queue"
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:  # takes requests, and says nothing
        device = open_device(vendor, f"http://127.0.0.1:{silent.getsockname()[1]}", path, timeout=(5.0, 60.0))
        for number in range(5):
            device.track(number)
        closing = threading.Thread(target=device.close, daemon=True)
        closing.start()
        closing.join(DEADLINE)
        assert not closing.is_alive(), "close() waits for a server that says nothing"
    until(lambda: not any(thread.name == "edgespool-worker" for thread in threading.enumerate()), "the worker's end")
    device = open_device(vendor, collector.base_url, path)
    assert client_at(path).flush(DEADLINE)
    device.close()
    assert arrived(vendor, collector) == list(range(5))
