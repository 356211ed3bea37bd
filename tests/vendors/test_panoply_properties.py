"""Panoply's SDK: any record, of any table, arrives as it was written, in order."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespool.event import Batch, StoredEvent
from edgespool.vendors.panoply.device import _KEY, _SECRET
from edgespool.vendors.panoply.format import Panoply

text = st.text(st.characters(exclude_categories=("Cs",)))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)
records = st.dictionaries(text.filter(lambda name: name != "__table"), values, max_size=5)


@pytest.fixture
def form() -> Panoply:
    from edgespool.config import Settings

    made = Panoply()
    made.configure(Settings(auth=(_KEY, _SECRET)))
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(text.filter(bool), records), min_size=1, max_size=6))
def test_any_records_come_out_of_the_message_as_they_were(
    form: Panoply, tmp_path: Path, written: list[tuple[str, dict[str, Any]]]
) -> None:
    numbers = itertools.count(1)
    events = [
        StoredEvent(number, form.encode(table, record, str(number), 0.0), 0.0, str(number), False)
        for (table, record), number in zip(written, numbers, strict=False)
    ]
    body = form.request(Batch("", events)).body
    message = dict(parse_qsl(body.decode("ascii"), strict_parsing=True))["MessageBody"]
    assert [json.loads(line) for line in message.splitlines()] == [
        {**record, "__table": table} for table, record in written
    ]
    for event in events:  # and through a failed payload file
        assert form.restore(json.loads(form.render(event)), None, None).payload == event.payload
