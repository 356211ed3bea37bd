"""The config module's side: base classes, values as protobuf fields, the .proto files and what is made of them."""

from __future__ import annotations

import importlib
import importlib.util
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paltabrain_kit import isolate, sdks

from edgespool.testing import Collector
from edgespool.vendors.paltabrain import IMPORTS, api, base, convert
from edgespool.vendors.paltabrain.api import BaseContext, BaseEnum, BaseEvent, BaseSentinel, set_proto
from edgespool.vendors.paltabrain.convert import milliseconds
from edgespool.vendors.paltabrain.dialect import config_module, plain
from edgespool.vendors.paltabrain.example import Context, EnumResult, EventEveryType
from edgespool.vendors.paltabrain.example import config_v2_pb2 as schema

_TOOL = Path(__file__).parents[2] / "tools" / "paltabrain_proto.py"


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


# --- base classes ---------------------------------------------------------------------------------------------------


def test_the_sentinel_is_falsy_and_filtered_out() -> None:
    undefined = BaseSentinel()
    assert not undefined
    assert BaseSentinel.filter({"a": undefined, "b": None, "c": False, "d": 0}) == {"b": None, "c": False, "d": 0}


def test_enums_are_int_enums() -> None:
    assert issubclass(EnumResult, BaseEnum)
    assert EnumResult.RESULT_SKIP == 2
    assert EnumResult.RESULT_SKIP.name == "RESULT_SKIP"


def test_the_base_classes_are_abstract_and_any_group_is_there() -> None:
    for kind in (BaseContext, BaseEvent):
        with pytest.raises(TypeError):
            kind()  # type: ignore[abstract]
    assert BaseEvent.event_type_id == 0
    context = Context()
    context._context["a group of a newer schema"].update({"x": 1})
    assert context.asdict() == {"a group of a newer schema": {"x": 1}}


# --- values ---------------------------------------------------------------------------------------------------------

_MOMENT = datetime(2026, 3, 1, 12, 30, 15, 123_999)
_MS = 1_772_368_215_123


def test_the_data_types_table() -> None:
    event = EventEveryType(
        prop_boolean=False,
        prop_decimal=Decimal("-100.15"),
        prop_enum=EnumResult.RESULT_ERROR,
        prop_integer=-100,
        prop_string="abc \u00fc \U0001f600",
        prop_timestamp=_MOMENT,
        prop_boolean_array=[False, True],
        prop_decimal_array=[Decimal("100.25"), Decimal("1E+3"), Decimal("0")],
        prop_enum_array=[EnumResult.RESULT_ERROR, EnumResult.UNKNOWN],
        prop_integer_array=[10, -(1 << 63), (1 << 63) - 1],
        prop_string_array=["abc", ""],
        prop_timestamp_array=[_MOMENT, _MOMENT + timedelta(seconds=10)],
        prop_boolean_map={"foo": False, "bar": True},
        prop_decimal_map={"foo": Decimal("100.25")},
        prop_enum_map={"foo": EnumResult.RESULT_SUCCESS},
        prop_integer_map={"foo": 10, "": -20},
        prop_string_map={"foo": "abc"},
        prop_timestamp_map={"foo": _MOMENT},
    )
    assert plain(schema.EventPayload.FromString(event.serialize_payload()))["event_5"] == {
        "prop_boolean": False,
        "prop_decimal": "-100.15",
        "prop_enum": 3,
        "prop_integer": -100,
        "prop_string": "abc \u00fc \U0001f600",
        "prop_timestamp": _MS,
        "prop_boolean_array": [False, True],
        "prop_decimal_array": ["100.25", "1000", "0"],
        "prop_enum_array": [3, 0],
        "prop_integer_array": [10, -(1 << 63), (1 << 63) - 1],
        "prop_string_array": ["abc", ""],
        "prop_timestamp_array": [_MS, _MS + 10_000],
        "prop_boolean_map": {"foo": False, "bar": True},
        "prop_decimal_map": {"foo": "100.25"},
        "prop_enum_map": {"foo": 1},
        "prop_integer_map": {"foo": 10, "": -20},
        "prop_string_map": {"foo": "abc"},
        "prop_timestamp_map": {"foo": _MS},
    }


def test_none_is_skipped_and_false_zero_and_empty_text_are_not() -> None:
    message = schema.EventPayloadEveryType()
    set_proto(message, {"prop_string": None, "prop_integer": 0, "prop_boolean": False, "prop_decimal": ""})
    assert [field.name for field, _ in message.ListFields()] == ["prop_boolean", "prop_decimal", "prop_integer"]
    assert not message.HasField("prop_string")


@pytest.mark.parametrize("hours", [-11, 0, 2, 5.5])
def test_a_time_with_a_zone_is_converted_and_one_without_is_utc(hours: float) -> None:
    zone = timezone(timedelta(hours=hours))
    aware = _MOMENT.replace(tzinfo=timezone.utc).astimezone(zone)
    assert milliseconds(aware) == milliseconds(_MOMENT) == _MS


@given(st.datetimes())
def test_every_datetime_is_exact_to_the_millisecond(moment: datetime) -> None:
    again = datetime(1970, 1, 1) + timedelta(milliseconds=milliseconds(moment))
    assert timedelta(0) <= moment - again < timedelta(milliseconds=1)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**18), max_value=10**18))
def test_every_decimal_is_written_out_exactly(value: Decimal) -> None:
    message = schema.EventPayloadReading()
    set_proto(message, {"value": value})
    assert Decimal(message.value) == value
    assert "E" not in message.value


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal("-sNaN")])
def test_what_is_no_number_is_no_decimal(value: Decimal) -> None:
    with pytest.raises(ValueError, match=r"value: .*decimal"):
        set_proto(schema.EventPayloadReading(), {"value": value})


def test_a_monstrous_decimal_fills_no_memory() -> None:
    message = schema.EventPayloadReading()
    set_proto(message, {"value": Decimal("1E+999999")})
    assert message.value == "1E+999999"


@pytest.mark.parametrize(
    "value", [{"prop_integer": 1.5}, {"prop_integer": "1"}, {"prop_string": 1}, {"prop_integer_array": ["x"]},
              {"prop_integer_map": {1: 1}}, {"prop_string": "\ud800"}, {"prop_string_array": [None]},
              {"prop_integer": {1, 2}}, {"prop_integer": 1 << 63}],
)  # fmt: skip
def test_a_wrong_value_names_its_property(value: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(value))):
        set_proto(schema.EventPayloadEveryType(), value)


def test_an_unknown_property_is_an_error() -> None:
    with pytest.raises(AttributeError):
        set_proto(schema.EventPayloadEveryType(), {"no_such": 1})


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.decimals() | st.datetimes()
    | st.binary() | st.sampled_from(EnumResult),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([field.name for field in schema.EventPayloadEveryType.DESCRIPTOR.fields]), _ANY))
def test_any_value_is_written_or_raises_and_never_more(properties: dict[str, Any]) -> None:
    message = schema.EventPayloadEveryType()
    try:
        set_proto(message, properties)
    except (TypeError, ValueError, AttributeError):
        return
    assert {field.name for field, _ in message.ListFields()} <= {
        name for name, value in properties.items() if value is not None
    }  # fmt: skip


# --- the module as the service hands it out -------------------------------------------------------------------------


@pytest.fixture
def original_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our modules under the original's import names, as `edgespool run` and `edgespool.dropin` put them."""
    for name, target in IMPORTS.items():
        monkeypatch.setitem(sys.modules, name, importlib.import_module(target))


@pytest.fixture
def config(tmp_path: Path, original_names: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path / "config_of_the_service"
    zipfile.ZipFile(io.BytesIO(config_module())).extractall(folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(folder.name)
    for name in list(sys.modules):
        if name.startswith(folder.name):
            del sys.modules[name]


def test_a_generated_module_works_unchanged(config: Any, tmp_path: Path) -> None:
    source = Path(config.__file__).read_text()
    assert "from paltabrain_sdk import BaseContext, BaseEnum, BaseEvent, BaseSentinel, set_proto" in source
    assert "edgespool" not in source + Path(config.__file__).with_name("config_v2_pb2.py").read_text()
    assert config.Context.__mro__[1] is base.BaseContext
    with Collector() as collector, sdks(tmp_path, collector.base_url) as make:
        sdk: Any = make(context=config.Context())
        sdk.context.set_user(user_id="123")
        sdk.track(config.EventPageOpen(page_id="x").set_parent(parent_elements=["a", "b"]))
        assert sdk.flush(10)
        (event,) = collector.events()
    assert event["context"] == {"user": {"user_id": "123"}}
    assert event["payload"] == {"event_2": {"page_id": "x"}}
    assert event["header"] == {"parent": {"parent_elements": ["a", "b"]}}


def test_the_zip_is_the_same_at_every_call() -> None:
    assert config_module() == config_module()


def test_the_original_s_names_are_ours(original_names: None) -> None:
    import paltabrain_sdk  # type: ignore[import-not-found,unused-ignore]

    assert paltabrain_sdk.PaltabrainSdk is api.PaltabrainSdk
    assert importlib.import_module("paltabrain_sdk.utils").set_proto is convert.set_proto


# --- the .proto files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("paltabrain_proto", _TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _published(made: Path) -> Path:
    """Return the module that is under test: the tree's, or the installed one where `src` is out of the way."""
    name = "config_v2_pb2" if made.name.startswith("config") else "sdk_pb2"
    package = schema if name == "config_v2_pb2" else importlib.import_module("edgespool.vendors.paltabrain.sdk_pb2")
    return Path(str(package.__file__))


def test_the_modules_are_what_the_proto_files_say(tool: Any) -> None:
    for made in tool.FILES.values():
        published = _published(made)
        assert published.read_text() == tool.module(published.with_name(made.name.replace("_pb2.py", ".proto")))


def test_the_tool_says_what_is_stale(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = tmp_path / "a.proto"
    proto.write_text('syntax = "proto3";\npackage a.b;\nmessage A { optional bool x = 1; }\n')
    monkeypatch.setattr(tool, "FILES", {proto: tmp_path / "a_pb2.py"})
    monkeypatch.setattr(tool, "_FOLDER", tmp_path)
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    proto.write_text(proto.read_text().replace("bool x", "bool y"))
    assert tool.main(["--check"]) == 1


@pytest.mark.parametrize(
    "text", ["enum A { }", 'syntax = "proto2";', "message A { int32 x = ; }", "message A ?", "message A {"]
)
def test_what_the_tool_does_not_understand_it_refuses(tool: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.proto"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"."):
        tool.parse(path)


def test_protoc_reads_the_same_out_of_the_files(tool: Any, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    from google.protobuf import descriptor_pb2

    for made in tool.FILES.values():
        proto = _published(made).with_name(made.name.replace("_pb2.py", ".proto"))
        out = tmp_path / "out"
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--descriptor_set_out={out}", proto.name],
            check=True, timeout=60,
        )  # fmt: skip
        (said,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
        for message in said.message_type:
            for part in (message, *message.nested_type):
                for field in part.field:
                    field.ClearField("json_name")
        assert said == tool.parse(proto)
