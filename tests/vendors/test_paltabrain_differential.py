"""The same calls through the original SDK and through ours: what arrives is equal, but for what is listed here.

Skipped where the original is not importable; it is not on PyPI:
``pip install git+https://github.com/Palta-Data-Platform/paltabrain-events-python-sdk.git``.

Differences, and why: `event_ts`, `batch_id`, `X-SDK-Client-Upload-TS` and `User-Agent` are new for each; telemetry is
empty with the original; `X-SDK-Version` may be of another release.
"""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from paltabrain_kit import KEY, bodies, isolate, posts, sdks, wait_until

from edgespool.testing import Collector
from edgespool.vendors.paltabrain import example
from edgespool.vendors.paltabrain.dialect import config_module

original = pytest.importorskip("paltabrain_sdk", reason="the original SDK is not installed (it is not on PyPI)")

_HEADERS = ("Content-Type", "X-API-Key", "X-SDK-Name")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


def _track(sdk: Any, config: Any) -> None:
    sdk.context.set_application(app_id="com.example", app_version="1")
    sdk.track(config.EventSessionStart())
    sdk.track(config.EventPageOpen(page_id="abc").set_parent(parent_elements=["a", "b"]))
    sdk.context.set_user(user_id="123", is_trial=True)
    sdk.track(config.EventPermissionsRequest(is_granted=False, type="CAMERA"))
    sdk.context.set_user(user_id=None)
    sdk.track(
        config.EventEveryType(
            prop_boolean=False,
            prop_decimal=Decimal("-100.15"),
            prop_enum=config.EnumResult.RESULT_SKIP,
            prop_integer=-5,
            prop_string="\u00fc",
            prop_timestamp=datetime(2026, 3, 1, 12, 30),
            prop_integer_array=[1, 2],
            prop_decimal_map={"a": Decimal("1.5")},
        ).set_onboarding(onboarding_id=3)
    )
    sdk.track(config.EventReading(number=1), context=config.Context().set_os(os_name="x"))


def _arrived(collector: Collector) -> tuple[list[Any], list[Any]]:
    batches = [(each.common.instance_id, each.context, len(each.events)) for each in bodies(collector)]
    events = []
    for batch in bodies(collector):
        for event in batch.events:
            event.common.event_ts = 0
            events.append(event.SerializeToString(deterministic=True))
    return sorted(batches), sorted(events)


def test_the_same_calls_give_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "config_for_the_original"
    zipfile.ZipFile(io.BytesIO(config_module())).extractall(folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = importlib.import_module(folder.name)
    assert original.PaltabrainSdk.__module__ == "paltabrain_sdk.sdk"
    given = {"instance_id": "same", "session_id": 1_700_000_000_000}

    # The original always speaks https: its requests are sent to the collector's address instead.
    import requests

    real = requests.Session.post
    monkeypatch.setattr(
        requests.Session, "post",
        lambda self, url, *args, **more: real(self, url.replace("https://", "http://"), *args, **more),
    )  # fmt: skip
    with Collector(keep_bodies=True) as before, Collector(keep_bodies=True) as after:
        sdk = original.PaltabrainSdk(before.base_url.removeprefix("http://"), KEY, theirs.Context(), **given)
        try:
            _track(sdk, theirs)
            sdk.flush()
            wait_until(lambda: before.count() == 5)
        finally:
            sdk.shutdown()
        with sdks(tmp_path, after.base_url) as make:
            ours = make(**given)
            _track(ours, example)
            assert ours.flush(10)
        assert _arrived(before) == _arrived(after)
        headers = [{name: each.headers.get(name) for name in _HEADERS} for each in (*posts(before), *posts(after))]
        assert all(each == headers[0] for each in headers)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]
