"""What the tests of time start from: a clock, a device, and nothing of the user's environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from time_kit import NOW, Device, Server

from edgespool.outcome import Outcome
from edgespool.testing import FakeClock


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_"):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("edgespool")] == []


@pytest.fixture
def clock() -> FakeClock:
    """A clock that is right, though nobody keeps it."""
    return FakeClock(NOW, 1_000.0)


MakeDevice = Callable[..., Device]


@pytest.fixture
def make_device(tmp_path: Path, clock: FakeClock) -> Iterator[MakeDevice]:
    """Make a device whose server answers by a script; it is shut down at the end."""
    made: list[Device] = []

    def make(*script: Outcome | Exception, **settings: Any) -> Device:
        device = Device(tmp_path / "queue", clock, Server(*script), **settings)
        made.append(device)
        return device

    yield make
    for device in made:
        device.close()


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    """A device whose server takes everything."""
    return make_device()


@pytest.fixture(autouse=True)
def _the_kernel_is_looked_up_anew() -> Iterator[None]:
    from edgespool import clock

    clock._adjtimex.cache_clear()
    yield
    clock._adjtimex.cache_clear()
