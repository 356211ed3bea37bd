"""The client with a destination that is no server: closing, two clients on one queue, hooks that record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespool import Client, QueueFull
from edgespool.errors import ConfigError
from edgespool.event import Batch
from edgespool.outcome import Delivered, Retry
from edgespool.testing import FakeDestination

Make = Callable[..., Client]
URL = "http://127.0.0.1:9/"
PATIENCE = 20.0  # seconds until a test gives up


@pytest.fixture
def make(tmp_path: Path, _nothing_is_left_behind: None) -> Iterator[Make]:
    """Make a client that sends to a FakeDestination; it is closed at the end."""
    made: list[Client] = []

    def make(url: str = URL, **given: Any) -> Client:
        made.append(Client(url, **{"path": tmp_path / "queue", "destination": FakeDestination(), **given}))
        return made[-1]

    yield make
    for client in made:
        client.close(PATIENCE)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**30])
def test_closing_may_take_as_long_as_it_takes(make: Make, timeout: float) -> None:
    client = make()
    client.record("reading")
    assert client.close(timeout).delivered == 1
    assert client.closed
    assert client._queue._store.closed


@pytest.mark.parametrize("timeout", [None, "soon", float("nan"), pytest.param(10**400, id="huge")])
def test_a_timeout_that_is_no_number_leaves_the_client_as_it_is(make: Make, timeout: Any) -> None:
    client = make(flush_interval=600)
    with pytest.raises(ValueError, match="number of seconds"):
        client.close(timeout)
    client.record("reading")
    assert client.flush(PATIENCE)
    assert client.close().delivered == 1


def test_a_queue_behind_a_symbolic_link_is_the_same(make: Make, tmp_path: Path) -> None:
    client = make(flush_interval=600)
    (tmp_path / "link").symlink_to("queue")
    with pytest.raises(ConfigError, match="is in use for"):
        make("http://127.0.0.1:8/", path=tmp_path / "link")
    other = make(path=tmp_path / "link", flush_interval=600)
    assert other.directory == str(tmp_path / "link")
    other.record("reading")
    assert other.flush(PATIENCE)
    other.record("reading")
    assert other.drain(PATIENCE)
    assert client.stats().delivered == 2


@pytest.mark.parametrize("same", [True, False])
def test_a_hook_that_records_into_a_full_queue_does_not_wait_for_itself(
    make: Make, tmp_path: Path, same: bool
) -> None:
    called = threading.Event()
    raised: list[Exception] = []

    def hook(error: Exception, batch: Batch) -> None:
        try:
            recorder.record("trouble", why=str(error))
        except QueueFull as full:
            raised.append(full)
        called.set()

    destination = FakeDestination(answer=Retry("down", everywhere=True))
    given: dict[str, Any] = {"overflow": "block", "max_events": 1, "flush_interval": 0}
    client = make(destination=destination, on_error=hook, start=False, **given)
    recorder = client if same else make(start=False, **given)
    client.record("reading")
    client.start()
    try:
        assert called.wait(PATIENCE), "the sender's thread waits for itself"
        assert "cannot wait" in str(raised[0])
        waiting = threading.Thread(target=recorder.record, args=("reading",))  # another's may wait
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        destination.answer = Delivered()
        assert client.flush(PATIENCE)
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
    finally:
        client._queue.close()
        recorder._queue.close()
