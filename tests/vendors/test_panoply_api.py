"""Panoply's SDK: what users call, what goes over the wire, what handlers are told."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

import edgespool.vendors.panoply.api as panoply
from edgespool import ConfigError, EventError
from edgespool.outcome import Backoff
from edgespool.testing import Collector
from edgespool.vendors.panoply.device import _KEY, _SECRET
from edgespool.vendors.panoply.format import Account


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "EDGESPOOL_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def sdk(collector: Collector, tmp_path: Path) -> Iterator[panoply.SDK]:
    made = panoply.SDK(_KEY, _SECRET, url=collector.base_url, path=str(tmp_path / "queue"), start=False)
    worker = made._client._worker
    worker._policy = replace(worker._policy, backoff=Backoff(base=0.01, cap=0.03), flush_interval=0.01)
    yield made
    made.close(0)


def form_of(collector: Collector, number: int = 0) -> dict[str, str]:
    return dict(parse_qsl((collector.requests()[number].body or b"").decode(), strict_parsing=True))


def test_the_wire_is_an_sqs_message_field_by_field(sdk: panoply.SDK, collector: Collector) -> None:
    sdk.write("tablename", {"foo": "bar"})
    sdk.write("other", {"n": 1, "text": "é & = + % \u2028"})
    sdk._client.start()
    assert sdk.flush(20)
    (request,) = collector.requests()
    assert request.method == "POST"
    assert request.path == Account(_KEY, _SECRET).path
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Idempotency-Key" not in request.headers
    assert "Content-Encoding" not in request.headers
    form = form_of(collector)
    lines = form.pop("MessageBody").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"foo": "bar", "__table": "tablename"}, {"n": 1, "text": "é & = + % \u2028", "__table": "other"},
    ]  # fmt: skip
    assert form.pop("MessageAttribute.3.Value.StringValue").startswith("panoply-python-sdk-")
    assert form == {
        "Action": "SendMessage",
        "MessageAttribute.1.Name": "key", "MessageAttribute.1.Value.DataType": "String",
        "MessageAttribute.1.Value.StringValue": _KEY,
        "MessageAttribute.2.Name": "secret", "MessageAttribute.2.Value.DataType": "String",
        "MessageAttribute.2.Value.StringValue": _SECRET,
        "MessageAttribute.3.Name": "sdk", "MessageAttribute.3.Value.DataType": "String",
    }  # fmt: skip


def test_a_plus_in_the_secret_arrives_as_a_plus(sdk: panoply.SDK, collector: Collector) -> None:
    assert "+" in _SECRET or "/" in _SECRET, "the test proves nothing"
    sdk.write("t", {"a": 1})
    sdk._client.start()
    assert sdk.flush(20)
    raw = (collector.requests()[0].body or b"").decode()
    assert "+" not in raw
    assert form_of(collector)["MessageAttribute.2.Value.StringValue"] == _SECRET


def test_the_queues_address_comes_from_key_and_secret(tmp_path: Path) -> None:
    import base64

    secret = base64.b64encode(b"rand2/uuid/123/us-east-1").decode()
    with panoply.SDK("acc/rand1", secret, path=str(tmp_path / "q"), start=False) as made:
        assert made.qurl == "https://sqs.us-east-1.amazonaws.com/123/sdk-acc-rand2"
        assert (made.apikey, made.apisecret) == ("acc/rand1", secret)


@pytest.mark.parametrize(
    ("key", "secret"), [("", _SECRET), ("acc/r", "no base64!"), ("acc/r", "YWJj"), (5, _SECRET), (_KEY, None)]
)
def test_a_key_that_is_none_is_an_error_without_the_secret_in_it(tmp_path: Path, key: Any, secret: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        panoply.SDK(key, secret, path=str(tmp_path / "q"))
    assert str(secret) not in str(caught.value) or secret is None


def test_no_message_is_larger_than_sqs_takes(sdk: panoply.SDK, collector: Collector) -> None:
    for number in range(12):
        sdk.write("t", {"n": number, "text": "x" * 60_000})
    sdk._client.start()
    assert sdk.flush(20)
    bodies = [form_of(collector, number)["MessageBody"] for number in range(len(collector.requests()))]
    assert len(bodies) == 3
    assert max(map(len, bodies)) <= panoply.MAXSIZE <= 256 * 1024
    with pytest.raises(EventError, match="the most that SQS takes"):
        sdk.write("t", {"text": "x" * 260_000})


@pytest.mark.parametrize("bad", [float("nan"), {1, 2}, object(), "\ud800"])
def test_what_json_cannot_say_is_an_error_at_the_call(sdk: panoply.SDK, bad: Any) -> None:
    with pytest.raises(ValueError, match="a"):
        sdk.write("t", {"a": bad})
    with pytest.raises(EventError):
        sdk.write("", {"a": 1})
    with pytest.raises(EventError):
        sdk.write("t", [("a", 1)])  # type: ignore[arg-type]
    assert sdk._client.stats().accepted == 0


def test_handlers_hear_of_sending_arrival_and_failure(sdk: panoply.SDK, collector: Collector) -> None:
    heard: list[tuple[str, Any]] = []
    sdk.on("send", lambda data: heard.append(("send", data["req"].full_url)))
    sdk.on("flush", lambda data: heard.append(("flush", (data["req"].get_method(), data["res"].status))))
    sdk.on("error", lambda error: heard.append(("error", error.code)))
    every: list[str] = []
    sdk.on("*", lambda name, data: every.append(name))
    collector.set_fault(status=503, times=1)
    sdk.write("t", {"a": 1})
    sdk._client.start()
    assert sdk.flush(20)
    sdk.close()
    assert heard == [("send", sdk.qurl), ("error", 503), ("send", sdk.qurl), ("flush", ("POST", 200))]
    assert every == ["send", "error", "send", "flush"]


def test_a_handler_that_raises_hurts_nobody(
    sdk: panoply.SDK, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "edgespool")

    def fail(data: Any) -> None:
        raise RuntimeError("mine")

    sdk.on("send", fail).on("flush", fail)
    sdk.write("t", {"a": 1})
    sdk._client.start()
    assert sdk.flush(20)
    assert collector.count() == 1
    assert "raised RuntimeError: mine" in caplog.text


def test_an_error_of_the_service_holds_and_tells_no_secret(sdk: panoply.SDK, collector: Collector) -> None:
    body = f"<Error><Code>InvalidClientTokenId</Code><Message>{_SECRET}</Message></Error>"
    collector.set_fault(status=403, body=body)
    errors: list[Any] = []
    sdk.on("error", errors.append)
    sdk.write("t", {"a": 1})
    sdk._client.start()
    assert not sdk.flush(0.3)
    stats = sdk._client.stats()
    assert (stats.pending, stats.failed) == (1, 0)
    assert _SECRET not in str(stats.last_error)
    assert errors
    assert _SECRET not in str(errors[0])
    assert _SECRET.encode() not in errors[0].read()
    collector.heal()
    sdk._client.send_now()
    assert sdk.flush(20)


def test_a_400_that_means_throttled_is_waited_for(sdk: panoply.SDK, collector: Collector) -> None:
    collector.set_fault(status=400, body="<Error><Code>RequestThrottled</Code></Error>", times=1)
    sdk.write("t", {"a": 1})
    sdk._client.start()
    assert sdk.flush(20)
    assert sdk._client.stats().failed == 0
    assert collector.count() == 1
