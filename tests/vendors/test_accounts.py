"""A queue belongs to one account: what was recorded for one never goes out with another's credentials."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgespool import Client
from edgespool.client import _clients
from edgespool.testing import Collector
from edgespool.vendors import common
from edgespool.vendors.initialstate.api import Streamer

NOBODY = "http://127.0.0.1:9/"
Open = Callable[..., Client]


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("EDGESPOOL_DIR", str(tmp_path / "queues"))
    monkeypatch.setattr(sys, "argv", ["sensors.py"])
    yield
    for client in list(_clients):
        client.close(0)


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Forget what one process knows; at the end, too."""

    def forget() -> None:
        for client in list(_clients):
            client.close(0)
        common._accounts.clear()

    forget()
    yield forget
    forget()


def opened(account: str) -> str:
    """Open the queue of an account, record an event, and return the name of the queue."""
    client = common.open_client("samsara", account, NOBODY, start=False)
    client.record("reading")
    return Path(client.directory).name


def test_each_account_finds_its_own_queue_again_whichever_comes_first(restart: Callable[[], None]) -> None:
    first, second = opened("a"), opened("b")
    assert first == "sensors.samsara" != second
    restart()
    assert (opened("b"), opened("a")) == (second, first)
    restart()
    assert (opened("c"), opened("a"), opened("b")) == (opened("c"), first, second)
    assert len({first, second, opened("c")}) == 3


def test_a_new_key_takes_over_what_waits_and_says_so(
    restart: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    name = opened("old")
    restart()
    with caplog.at_level(logging.WARNING, "edgespool"):
        assert opened("new") == name
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("1 event(s) in ")
    assert "edgespool deliver" in said
    restart()
    caplog.clear()
    assert opened("new") == name
    assert not caplog.records


def test_a_new_key_of_an_empty_queue_is_no_news(
    restart: Callable[[], None], caplog: pytest.LogCaptureFixture, collector: Collector
) -> None:
    with common.open_client("samsara", "old", collector.base_url) as client:
        client.record("reading")
        assert client.flush(10)
    restart()
    with caplog.at_level(logging.WARNING, "edgespool"):
        assert opened("new") == "sensors.samsara"
    assert not caplog.records


def test_two_programs_of_one_name_and_two_accounts_do_not_meet(
    restart: Callable[[], None], collector: Collector
) -> None:
    opened("a")
    restart()
    place = os.path.join(os.environ["EDGESPOOL_DIR"], "sensors.samsara")
    with Client(collector.base_url, path=place, format="samsara") as other:  # as another process would have it
        other.record("reading")
        assert other.flush(10)
        assert opened("b") != "sensors.samsara"


def test_what_says_whose_it_is_tells_nothing_of_the_key(restart: Callable[[], None]) -> None:
    opened("a very secret key")
    file = Path(os.environ["EDGESPOOL_DIR"]) / "sensors.samsara" / "account"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "secret" not in file.read_text()
    before = json.loads(file.read_text())
    file.unlink()
    restart()
    opened("a very secret key")
    assert json.loads(file.read_text())["digest"] != before["digest"], "salted"


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"salt": "zz", "digest": 5}', b"\xff" * 5000, b"null"])
def test_a_damaged_one_is_made_anew(restart: Callable[[], None], damage: bytes) -> None:
    name = opened("a")
    file = Path(os.environ["EDGESPOOL_DIR"]) / name / "account"
    file.write_bytes(damage)
    restart()
    assert opened("a") == name
    restart()
    assert opened("a") == name
    assert json.loads(file.read_text())["digest"]


def test_events_go_out_with_the_key_they_were_recorded_with(restart: Callable[[], None], collector: Collector) -> None:
    for bucket, key in (("a", "key-one"), ("b", "key-two")):
        Streamer(bucket, bucket, key, url=NOBODY).log("bucket", bucket)
    restart()
    for bucket, key in (("d", "key-two"), ("c", "key-one")):
        streamer = Streamer(bucket, bucket, key, url=collector.base_url)
        streamer.log("bucket", bucket)
        assert streamer._client.flush(10)
    keys = {each.headers["X-IS-BucketKey"]: each.headers["X-IS-AccessKey"] for each in collector.requests()}
    assert keys == {"a": "key-one", "b": "key-two", "c": "key-one", "d": "key-two"}
