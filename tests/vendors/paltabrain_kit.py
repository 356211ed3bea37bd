"""What PaltaBrain's tests share: an environment of their own, SDKs with short waits, and patience."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.vendors.paltabrain import sdk_pb2
from edgespool.vendors.paltabrain.api import PaltabrainSdk
from edgespool.vendors.paltabrain.example import Context

DEADLINE = 20.0  # seconds after which a test gives up waiting
QUICK = Backoff(base=0.01, cap=0.03)
KEY = "key-1237c694a824422a88e2a3c5a90510e3"

MakeSdk = Callable[..., "PaltabrainSdk[Context]"]


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing of the user's environment, and put the home below the test's folder."""
    for name in list(os.environ):
        mine = name.startswith(("EDGESPOOL_", "PALTABRAIN_")) or name == "STATE_DIRECTORY"
        if mine or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def wait_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.002)


@contextmanager
def sdks(tmp_path: Path, hostname: str) -> Iterator[MakeSdk]:
    """Give a function that opens SDKs whose waits are short; they are closed at the end."""
    made: list[PaltabrainSdk[Context]] = []

    def make(*, start: bool = True, **given: Any) -> PaltabrainSdk[Context]:
        settings = {"hostname": hostname, "api_key": KEY, "path": tmp_path / "queue", "flush_interval": 0.01, **given}
        settings.setdefault("context", Context())
        sdk = PaltabrainSdk[Context](start=False, **settings)
        made.append(sdk)
        worker = sdk._client._worker
        worker._policy = replace(worker._policy, backoff=QUICK)
        if start:
            sdk._client.start()
        return sdk

    yield make
    for sdk in made:
        sdk.shutdown(0)
    wait_until(lambda: not any(each.name.startswith("edgespool-worker") for each in threading.enumerate()), "the end")


def bodies(collector: Collector) -> list[Any]:
    """Return the batches that the collector answered, decoded."""
    return [sdk_pb2.Batch.FromString(each.body or b"") for each in posts(collector)]


def posts(collector: Collector) -> list[Any]:
    """Return the records of the requests that carried events."""
    return [each for each in collector.requests() if each.method == "POST"]


def numbers(collector: Collector) -> list[int]:
    """Return the numbers of the readings that arrived, in order, each once."""
    return [event["payload"]["event_4"].get("number", 0) for event in collector.events()]


def failed_files(sdk: PaltabrainSdk[Context]) -> list[dict[str, Any]]:
    """Return what the failed payload files hold, oldest first."""
    folder = Path(sdk._client.directory, "failed")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program that prints lines; read what it prints from `stdout`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
