"""PaltaBrain's SDK as its users see it: names, arguments, defaults, attributes, errors."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from paltabrain_kit import KEY, MakeSdk, bodies, isolate, numbers, posts, sdks, wait_until

from edgespool.errors import ConfigError, QueueClosed, QueueFull
from edgespool.interfaces import Watch
from edgespool.testing import Collector
from edgespool.vendors.paltabrain import api, sdk_pb2
from edgespool.vendors.paltabrain.api import PaltabrainSdk
from edgespool.vendors.paltabrain.device import Device
from edgespool.vendors.paltabrain.example import (
    Context,
    EventEveryType,
    EventPageOpen,
    EventPermissionsRequest,
    EventReading,
    EventSessionStart,
)


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


def fill(sdk: PaltabrainSdk[Context]) -> None:
    for _ in range(100):
        sdk.track(EventPageOpen(page_id="x" * 50_000))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(tmp_path: Path, collector: Collector) -> Iterator[MakeSdk]:
    with sdks(tmp_path, collector.base_url) as made:
        yield made


def test_the_constructor_takes_what_the_original_took_with_its_defaults() -> None:
    parameters = list(inspect.signature(PaltabrainSdk).parameters.values())
    positional = [(each.name, each.default) for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    empty = inspect.Parameter.empty
    assert positional == [
        ("hostname", empty), ("api_key", empty), ("context", empty), ("instance_id", None), ("session_id", None),
        ("start_session", False), ("flush_buffer_size", 100), ("flush_interval_ms", 5000), ("flush_max_retries", 5),
    ]  # fmt: skip


def test_the_document_s_example_works(make: MakeSdk, collector: Collector) -> None:
    with make() as sdk:
        sdk.context.set_application(app_id="com.example", app_platform="iOS", app_version="0.1.0")
        sdk.context.set_os(os_name="iOS", os_version="15.3.1")
        sdk.track(EventSessionStart())
        sdk.track(EventPermissionsRequest(is_granted=True, type="CAMERA"))
        event = EventPageOpen(page_id="abc")
        sdk.track(event.set_parent(parent_elements=["main_screen", "first_block"]))
    events = collector.events()
    assert [event["payload"] for event in events] == [
        {"event_1": {}}, {"event_3": {"is_granted": True, "type": "CAMERA"}}, {"event_2": {"page_id": "abc"}},
    ]  # fmt: skip
    assert events[2]["header"] == {"parent": {"parent_elements": ["main_screen", "first_block"]}}
    assert events[0]["context"] == {
        "application": {"app_id": "com.example", "app_platform": "iOS", "app_version": "0.1.0"},
        "os": {"os_name": "iOS", "os_version": "15.3.1"},
    }
    assert [each.name for each in collector.arrived()] == [
        "EventSessionStart", "EventPermissionsRequest", "EventPageOpen",
    ]  # fmt: skip


def test_context_and_header_are_updated_by_what_is_given_alone() -> None:
    context = Context()
    context.set_user(user_id="123", country_code="GB", is_trial=True)
    assert context.asdict() == {"user": {"user_id": "123", "country_code": "GB", "is_trial": True}}
    context.set_user(is_paying=True)
    assert context.asdict()["user"] == {"user_id": "123", "country_code": "GB", "is_trial": True, "is_paying": True}
    context.set_user(user_id=None, country_code=None, is_trial=False, is_paying=False)
    assert context.asdict() == {"user": {"is_trial": False, "is_paying": False}}
    event = EventPageOpen(page_id="abc").set_onboarding(onboarding_id=1).set_onboarding(onboarding_version="v2")
    assert event.asdict() == {
        "header": {"onboarding": {"onboarding_id": 1, "onboarding_version": "v2"}}, "payload": {"page_id": "abc"},
    }  # fmt: skip
    event.set_onboarding(onboarding_id=None)
    assert event.asdict()["header"] == {"onboarding": {"onboarding_version": "v2"}}
    assert EventPageOpen().asdict() == {"header": {}, "payload": {}}


def test_asdict_is_a_copy() -> None:
    context = Context().set_user(user_id="1")
    context.asdict()["user"]["user_id"] = "2"
    assert context.asdict() == {"user": {"user_id": "1"}}


def test_an_unset_property_is_gone_from_the_wire(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    sdk.context.set_user(user_id="123", is_trial=True)
    sdk.track(EventSessionStart())
    sdk.context.set_user(user_id=None)
    sdk.track(EventSessionStart())
    sdk.context.set_user(is_trial=None)
    sdk.track(EventSessionStart())
    assert sdk.flush(10)
    assert [each["context"] for each in collector.events()] == [
        {"user": {"user_id": "123", "is_trial": True}}, {"user": {"is_trial": True}}, {},
    ]  # fmt: skip


def test_a_context_of_one_event_goes_with_that_event_alone(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    sdk.context.set_user(user_id="own")
    sdk.track(EventReading(number=1))
    sdk.track(EventReading(number=2), Context().set_user(user_id="other"))
    sdk.track(EventReading(number=3), context=Context())
    sdk.track(EventReading(number=4))
    assert sdk.flush(10)
    assert [(each["context"].get("user", {}).get("user_id"), each["payload"]["event_4"]["number"])
            for each in collector.events()] == [("own", 1), ("other", 2), (None, 3), ("own", 4)]  # fmt: skip


def test_ids_are_made_when_none_is_given_and_kept_when_one_is(make: MakeSdk, tmp_path: Path) -> None:
    sdk = make()
    assert uuid.UUID(sdk.instance_id).version == 7
    assert make(path=tmp_path / "other").instance_id != sdk.instance_id
    assert sdk.session_id is None
    assert make(path=tmp_path / "third", instance_id="mine").instance_id == "mine"
    given = uuid.UUID("f1a1d6ae-0369-496a-8de9-2afcc964207b")
    assert make(path=tmp_path / "fourth", instance_id=given).instance_id == str(given)


def test_an_event_that_cannot_be_serialized_is_warned_of_and_skipped(
    make: MakeSdk, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    sdk = make()
    assert sdk.last_serialization_error is None
    sdk.track(EventReading(number=1))
    for broken in ("no number", 1.5, 1 << 63, object()):
        sdk.last_serialization_error = None
        sdk.track(EventReading(number=broken))  # type: ignore[arg-type]
        assert isinstance(sdk.last_serialization_error, (TypeError, ValueError))
        assert "number" in str(sdk.last_serialization_error)
    sdk.track(EventReading(number=2))
    assert sdk.flush(10)
    assert numbers(collector) == [1, 2]
    warned = [each for each in caplog.records if each.name == "paltabrain_sdk" and each.levelno == logging.WARNING]
    assert len(warned) == 4
    assert "EventReading cannot be serialized and is skipped" in warned[0].getMessage()


def test_a_context_that_cannot_be_serialized_is_no_end_either(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    sdk.context.set_user(user_id=5)  # type: ignore[arg-type]
    sdk.track(EventReading(number=1))
    assert isinstance(sdk.last_serialization_error, TypeError)
    sdk.context.set_user(user_id="5")
    sdk.track(EventReading(number=2))
    assert sdk.flush(10)
    assert numbers(collector) == [2]


def test_an_event_larger_than_a_batch_is_skipped_with_its_reason(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    sdk.track(EventPageOpen(page_id="x" * 600_000))
    assert "bytes encoded, more than" in str(sdk.last_serialization_error)
    sdk.track(EventPageOpen(page_id="x" * 500_000))
    assert sdk.flush(10)
    assert collector.count() == 1
    assert posts(collector)[0].size <= 512 * 1024


def test_no_room_on_the_disk_is_said_not_swallowed(make: MakeSdk) -> None:
    sdk = make(start=False, max_bytes=1 << 20)
    with pytest.raises(QueueFull):
        fill(sdk)


def test_shutdown_sends_what_is_left_and_can_be_called_again(make: MakeSdk, collector: Collector) -> None:
    sdk = make(flush_interval=3600)
    for number in range(5):
        sdk.track(EventReading(number=number))
    sdk.shutdown()
    sdk.shutdown()
    assert numbers(collector) == list(range(5))
    with pytest.raises(QueueClosed):
        sdk.track(EventReading(number=6))


def test_the_context_manager_shuts_down_also_after_an_exception(make: MakeSdk, collector: Collector) -> None:
    def fails() -> None:
        with make(flush_interval=3600) as sdk:
            sdk.track(EventReading(number=1))
            raise RuntimeError("the program's own")

    with pytest.raises(RuntimeError, match="own"):
        fails()
    assert numbers(collector) == [1]


def test_flush_sends_at_once_and_does_not_wait_unless_asked_to(make: MakeSdk, collector: Collector) -> None:
    sdk = make(flush_interval=3600)
    assert sdk.flush() is True  # nothing waits
    sdk.track(EventReading(number=1))
    sdk.flush()
    wait_until(lambda: collector.count() == 1)
    sdk.track(EventReading(number=2))
    assert sdk.flush(10) is True


def test_a_full_buffer_is_sent_before_the_interval(make: MakeSdk, collector: Collector) -> None:
    sdk = make(flush_interval=3600, flush_buffer_size=3)
    sdk.track(EventReading(number=0))
    assert sdk.flush(10)  # what waits when it starts is sent at once: that is over now
    for number in range(1, 4):
        sdk.track(EventReading(number=number))
    wait_until(lambda: collector.count() == 4)
    assert [len(batch.events) for batch in bodies(collector)] == [1, 3]


def test_options_map_to_the_client_s_settings(make: MakeSdk, tmp_path: Path) -> None:
    defaults = PaltabrainSdk("host.example.com", KEY, Context(), path=tmp_path / "d", start=False)
    assert (defaults._client.settings.batch_size, defaults._client.settings.flush_interval) == (100, 5.0)
    defaults.shutdown()
    given = PaltabrainSdk(
        "host.example.com", KEY, Context(), flush_buffer_size=150, flush_interval_ms=10_000,
        path=tmp_path / "g", start=False, durability="process", max_bytes="2 MiB",
    )  # fmt: skip
    assert (given._client.settings.batch_size, given._client.settings.flush_interval) == (150, 10.0)
    assert (given._client.settings.durability, given._client.settings.max_bytes) == ("process", 2 << 20)
    given.shutdown()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hostname": ""}, "hostname"),
        ({"hostname": None}, "hostname"),
        ({"hostname": "ftp://host"}, "hostname"),
        ({"hostname": "http://"}, "hostname"),
        ({"hostname": "host/?a=b"}, "hostname"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": None}, "api_key"),
        ({"api_key": "with\nbreak"}, "API key"),
        ({"api_key": "schlüssel"}, "API key"),
        ({"context": None}, "context"),
        ({"instance_id": 5}, "instance_id"),
        ({"instance_id": "\ud800"}, "instance_id"),
        ({"session_id": "no id"}, "session_id"),
        ({"session_id": 1 << 63}, "session_id"),
        ({"session_id": True}, "session_id"),
        ({"session_id": 1.5}, "session_id"),
        ({"flush_buffer_size": 0}, "flush_buffer_size"),
        ({"flush_buffer_size": "5"}, "flush_buffer_size"),
        ({"flush_interval_ms": -1}, "flush_interval_ms"),
        ({"flush_max_retries": -1}, "flush_max_retries"),
        ({"flush_max_retries": True}, "flush_max_retries"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(make: MakeSdk, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make(**given)
    assert isinstance(caught.value, ValueError)
    assert KEY not in str(caught.value)
    assert str(given.get("api_key") or "-nothing-") not in str(caught.value)


@pytest.mark.parametrize(
    ("hostname", "url"),
    [
        ("telemetry.example.com", "https://telemetry.example.com/v2/paltabrain"),
        ("telemetry.example.com:8443/", "https://telemetry.example.com:8443/v2/paltabrain"),
        ("http://127.0.0.1:9/base", "http://127.0.0.1:9/base/v2/paltabrain"),
        ("https://h.example.com/v2/paltabrain", "https://h.example.com/v2/paltabrain"),
    ],
)
def test_a_bare_host_is_spoken_to_by_https(tmp_path: Path, hostname: str, url: str) -> None:
    sdk = PaltabrainSdk(hostname, KEY, Context(), path=tmp_path / "queue", start=False)
    assert sdk._client._destination.url == url  # type: ignore[attr-defined]
    sdk.shutdown()


def test_two_accounts_of_one_program_never_share_a_queue(collector: Collector) -> None:
    first = PaltabrainSdk(collector.base_url, "first-key", Context(), start=False)
    second = PaltabrainSdk(collector.base_url, "second-key", Context(), start=False)
    assert first._client.directory != second._client.directory
    first.shutdown()
    second.shutdown()


def test_many_threads_track_while_the_context_changes(make: MakeSdk, collector: Collector) -> None:
    sdk = make()
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for number in range(20):
                sdk.context.set_user(labels={f"l{number}": "x"}, user_id=str(number), is_trial=None)
                sdk.context.set_os(os_name="a")
                sdk.context._context.pop("os")
                sdk.context._context.pop("user")

    def track(number: int) -> None:
        for each in range(25):
            sdk.track(EventReading(number=100 * number + each))

    changer = threading.Thread(target=change)
    threads = [threading.Thread(target=track, args=(number,)) for number in range(4)]
    changer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    changer.join()
    assert sdk.last_serialization_error is None
    assert sdk.flush(10)
    assert sorted(numbers(collector)) == sorted(100 * number + each for number in range(4) for each in range(25))


def test_a_context_that_another_thread_changes_is_read_as_it_was() -> None:
    context = Context().set_user(user_id="1").set_os(os_name="a")
    for group, properties in context._context.items():
        context._context[f"new {group}"]["x"] = 1
        for name, _ in properties.items():
            properties[f"new {name}"] = 1


def test_the_watch_of_the_user_is_told_as_well(make: MakeSdk, collector: Collector) -> None:
    told: list[str] = []
    watch = Watch(lambda batch, request: told.append("request"), lambda *exchange: told.append("reply"))
    sdk = make(watch=watch)
    sdk.track(EventReading(number=1))
    assert sdk.flush(10)
    assert told == ["request", "reply"]
    assert sdk.batch_counters["SUCCESS"] == 1


def test_batches_are_logged_where_the_original_s_users_look(
    make: MakeSdk, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "paltabrain_sdk")
    sdk = make()
    sdk.track(EventReading(number=1))
    assert sdk.flush(10)
    collector.set_fault(status=503, times=1)
    sdk.track(EventReading(number=2))
    wait_until(lambda: collector.count() == 2)
    assert sdk.flush(10)
    said = [each.getMessage() for each in caplog.records if each.name == "paltabrain_sdk"]
    assert [text.rsplit(": ", 1)[-1] for text in said if "SUCCESS" in text] == ["SUCCESS", "SUCCESS"]
    assert any("not taken, kept" in text for text in said)
    assert KEY not in "".join(said)


def test_nothing_is_printed_but_the_warning_and_no_handler_of_the_program_s_is_touched(
    collector: Collector, tmp_path: Path
) -> None:
    code = """if True:
        import logging, signal, sys, threading
        before = (threading.excepthook, sys.excepthook, signal.getsignal(signal.SIGTERM), logging.root.handlers[:])
        from edgespool.vendors.paltabrain.device import Device
        device = Device(sys.argv[1], path=sys.argv[2])
        device.track(1)
        device.sdk.track(object())
        device.close()
        after = (threading.excepthook, sys.excepthook, signal.getsignal(signal.SIGTERM), logging.root.handlers[:])
        assert before == after
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, collector.base_url, str(tmp_path / "queue")],
        capture_output=True, check=False, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("object cannot be serialized and is skipped")
    assert numbers(collector) == [1]


def test_importing_the_package_needs_no_protobuf_and_the_api_says_what_is_missing() -> None:
    code = """if True:
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "google":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        import edgespool.vendors.paltabrain as package
        assert package.IMPORTS["paltabrain_sdk"] == "edgespool.vendors.paltabrain.api"
        import edgespool.vendors.paltabrain.download
        from edgespool import formats
        from edgespool.testing.dialects import find_dialects
        assert "paltabrain" in formats.names()
        assert "paltabrain" not in [each.name for each in find_dialects()]
        try:
            formats.create("paltabrain", "pi")
        except ValueError as error:
            assert "pip install 'edgespool[paltabrain]'" in str(error), error
        else:
            raise AssertionError
        try:
            import edgespool.vendors.paltabrain.api
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    assert "pip install 'edgespool[paltabrain]'" in done.stdout


def test_every_import_name_of_the_original_has_its_names() -> None:
    from importlib import import_module

    from edgespool.vendors.paltabrain import IMPORTS

    wanted = {
        "paltabrain_sdk": {"BaseContext", "BaseEnum", "BaseEvent", "BaseSentinel", "PaltabrainSdk", "set_proto",
                           "__version__"},
        "paltabrain_sdk.base": {"BaseContext", "BaseEnum", "BaseEvent", "BaseSentinel"},
        "paltabrain_sdk.sdk": {"PaltabrainSdk"},
        "paltabrain_sdk.sdk_pb2": {"Batch", "BatchCommon", "BatchTelemetry", "Event", "EventCommon"},
        "paltabrain_sdk.utils": {"set_proto"},
    }  # fmt: skip
    assert set(IMPORTS) == set(wanted)
    for name, names in wanted.items():
        assert names <= set(dir(import_module(IMPORTS[name])))
    assert api.__version__ == "0.7.2"
    assert sdk_pb2.Batch().ByteSize() == 0


def test_the_device_tells_its_readings(collector: Collector, tmp_path: Path) -> None:
    device = Device(collector.base_url, path=tmp_path / "queue", flush_interval=0.01)
    for number in range(3):
        device.track(number)
    device.sdk.track(EventEveryType(prop_decimal=Decimal("1.5")))
    device.close()
    assert [device.number_of(event) for event in collector.events()] == [0, 1, 2, None]
    assert device.poison(2) == {"field": "payload.event_4.number", "value": 2}


def test_the_sdk_s_repr_holds_no_key(make: MakeSdk) -> None:
    sdk = make(start=False)
    assert KEY not in repr(sdk) + repr(sdk._client) + repr(sdk._client._format) + str(vars(sdk))
