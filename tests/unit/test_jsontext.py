"""JSON text: what goes in comes out, and what cannot be said is refused by name."""

from __future__ import annotations

import enum
import json
import math
import threading
from collections import ChainMap, OrderedDict
from dataclasses import dataclass, field
from datetime import date, datetime, time, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgespool import jsontext
from edgespool.errors import EventError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda below: st.lists(below, max_size=6) | st.dictionaries(TEXT, below, max_size=6),
    max_leaves=30,
)


@given(VALUES)
def test_any_value_that_json_can_say_comes_back(value: Any) -> None:
    encoded = jsontext.encode(value)
    assert jsontext.loads(encoded) == value
    assert b"\n" not in encoded


@given(VALUES)
def test_the_text_is_what_the_standard_library_writes(value: Any) -> None:
    assert jsontext.encode(value).decode() == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# What JSON has no word for


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Reading:
    value: float
    unit: str = "C"
    tags: list[str] = field(default_factory=list)


class Scalar:
    """What numpy's scalars look like from outside."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "2020-01-02T03:04:05+00:00"),
        (date(2020, 1, 2), "2020-01-02"),
        (time(3, 4), "03:04:00"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1e400"), "1E+400"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Reading(21.5, tags=["x"]), {"value": 21.5, "unit": "C", "tags": ["x"]}),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (MappingProxyType({"a": Decimal(1)}), {"a": "1"}),
        (ChainMap({"a": 1}), {"a": 1}),
        (Scalar(2.5), 2.5),
        (Scalar(Decimal(7)), "7"),
        ({2: "a", None: "b", True: "c", 1.5: "d"}, {"2": "a", "null": "b", "true": "c", "1.5": "d"}),
        (10**400, 10**400),
        (True, True),
    ],
)
def test_values_of_other_types_are_said_in_their_usual_form(value: Any, said: Any) -> None:
    assert jsontext.loads(jsontext.encode({"x": value})) == {"x": said}


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 250])
def test_values_encoded_together_are_what_each_would_be_alone(count: int) -> None:
    values = [{"n": n, "text": f'a, "quoted" {n}', "deep": [{}, [], "", n]} for n in range(count)]
    assert jsontext.texts(values) == [jsontext.encode(value).decode() for value in values]


# What cannot be said


def a_cycle() -> dict[str, Any]:
    cycle: dict[str, Any] = {"deep": []}
    cycle["deep"].append(cycle)
    return cycle


def a_dataclass_cycle() -> Reading:
    reading = Reading(1.0)
    reading.tags.append(reading)  # type: ignore[arg-type]
    return reading


def nested(depth: int, inner: Any = None) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


class Stubborn(Scalar):
    def item(self) -> Any:
        return self


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, r"data\.a\[1\]: nan is not a number"),
        (-math.inf, r"data\.a\[1\]: -inf is not a number"),
        (Decimal("NaN"), r"data\.a\[1\]: NaN is not a finite number"),
        ({1, 2}, r"data\.a\[1\]: set cannot be said"),
        (b"bytes", r"data\.a\[1\]: bytes cannot be said"),
        (object(), r"data\.a\[1\]: object cannot be said"),
        (Reading, r"data\.a\[1\]: type cannot be said"),
        (threading.Lock(), r"data\.a\[1\]: lock cannot be said"),
        (1j, r"data\.a\[1\]: complex cannot be said"),
        (Stubborn(1), r"data\.a\[1\]: Stubborn cannot be said"),
        ("\ud800", r"data\.a\[1\]: '\\ud800' holds a lone surrogate"),
        ({"\udfff": 1}, r"data\.a\[1\], key '\\udfff': .* lone surrogate"),
        ({(1, 2): 3}, r"data\.a\[1\]: a key of type tuple"),
        ({b"k": 3}, r"data\.a\[1\]: a key of type bytes"),
        ({math.nan: 3}, r"data\.a\[1\], key nan: nan is not a number"),
        (a_cycle(), r"data\.a\[1\]\.deep\[0\]: a value contains itself"),
        (a_dataclass_cycle(), r"contains itself|nested too deeply"),
        (nested(100_000), r"nested too deeply"),
        (Reading(math.nan), r"data\.a\[1\]\.value: nan"),
        (Scalar(math.nan), r"data\.a\[1\]: nan"),
    ],
)
def test_what_cannot_be_said_is_refused_and_the_field_named(value: Any, said: str) -> None:
    with pytest.raises(EventError, match=said):
        jsontext.encode({"fine": 1, "a": ["fine", value]})


@pytest.fixture
def _no_c_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    monkeypatch.setattr(jsontext, "_text", jsontext._make_encoder())


@pytest.mark.usefixtures("_no_c_encoder")
@pytest.mark.parametrize("value", [math.nan, math.inf, b"", {1}, "\ud800", object(), a_cycle(), nested(100_000)])
def test_an_interpreter_without_the_c_encoder_refuses_the_same(value: Any) -> None:
    with pytest.raises(EventError, match="data"):
        jsontext.encode({"a": value})


@pytest.mark.usefixtures("_no_c_encoder")
def test_an_interpreter_without_the_c_encoder_says_the_same() -> None:
    value = {"ü": [1, 2.5, None, True, "\u2028\n", {"d": Decimal("1.10"), "r": Reading(1.0)}], "n": 10**30}
    assert jsontext.encode(value).decode() == (
        '{"ü":[1,2.5,null,true,"\u2028\\n",{"d":"1.10","r":{"value":1.0,"unit":"C","tags":[]}}],'
        '"n":1000000000000000000000000000000}'
    )


@given(VALUES, st.sampled_from([math.nan, b"", {1}, "\ud800", object()]))
def test_one_bad_value_anywhere_is_an_event_error(value: Any, bad: Any) -> None:
    for mixed in ({"a": value, "b": bad}, [value, bad, value], {"a": [{"b": [bad]}]}):
        with pytest.raises(EventError):
            jsontext.encode(mixed)


def test_deep_but_bearable_nesting_comes_back() -> None:
    value = nested(150, "core")
    assert jsontext.loads(jsontext.encode(value)) == value


def test_text_that_is_no_json_or_nested_too_deeply_is_a_value_error() -> None:
    for text in ("", "{", "nope", b"\xff\xfe\xff", "[" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own, of several kinds
            jsontext.loads(text)


@given(st.lists(st.binary(max_size=3), max_size=4))
def test_an_array_is_its_elements_between_brackets(parts: list[bytes]) -> None:
    before = list(parts)
    assert jsontext.array(parts) == jsontext.array(iter(parts)) == b"[" + b",".join(parts) + b"]"
    assert parts == before
