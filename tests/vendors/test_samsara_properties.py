"""Samsara's client under whatever a program may do: any values, any text, any order of calls."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samsara_kit import DEADLINE, SOURCE, isolate, quicken

from edgespool.event import Batch, StoredEvent
from edgespool.testing import Collector
from edgespool.vendors.samsara.api import InvalidConfiguration, InvalidEvent, SamsaraClient, validate_events
from edgespool.vendors.samsara.format import SamsaraEvents, endpoint, fault, seconds

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXT, below, max_size=4),
    max_leaves=12,
)
KEYS = st.dictionaries(TEXT.filter(lambda key: key not in ("sourceId", "source_id", "timestamp")), JSON, max_size=5)
STAMPS = st.integers(0, 2**70)
ANYTHING = st.recursive(
    JSON | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.builds(object) | st.frozensets(st.integers()),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.integers() | TEXT | st.tuples(), below, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def client(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamsaraClient]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, home)
        made = SamsaraClient(
            url=collector.base_url, sourceId=SOURCE, min_buffer_size=1, publish_interval=10, path=home / "queue",
            durability="process",
        )  # fmt: skip
        quicken(made._client)
        yield made
        made.close(0)


@given(data=KEYS, name=TEXT, source=TEXT.filter(bool), stamp=STAMPS)
def test_whatever_json_can_say_arrives_as_it_was(
    client: SamsaraClient, collector: Collector, data: dict[str, Any], name: str, source: str, stamp: int
) -> None:
    wanted = {**data, "eventName": name, "sourceId": source, "timestamp": stamp}
    before = collector.count() + collector.repeats()
    client.record_event(**wanted)
    assert client.publish_events([wanted])
    assert collector.count() + collector.repeats() == before + 2
    assert wanted in collector.events()


@given(value=ANYTHING)
def test_a_value_is_taken_or_refused_at_the_call_with_one_kind_of_error(client: SamsaraClient, value: Any) -> None:
    before = client.stats().accepted
    try:
        client.record_event(eventName="any", value=value)
        taken = 1
    except InvalidEvent:
        taken = 0
    assert client.stats().accepted == before + taken


@given(event=st.dictionaries(st.sampled_from(["eventName", "sourceId", "timestamp", "x"]), ANYTHING | STAMPS))
def test_validation_says_what_the_fault_says(event: dict[str, Any]) -> None:
    good = (
        isinstance(event.get("eventName"), str) and isinstance(event.get("sourceId"), str)
        and type(event.get("timestamp")) is int and event["timestamp"] >= 0
    )  # fmt: skip
    assert (fault(event) is None) == good
    if good:
        assert validate_events(event) is event
    else:
        with pytest.raises(InvalidEvent):
            validate_events([event])


@given(data=KEYS, time=st.floats(0, 253_402_300_799), right=st.floats(0, 253_402_300_799), own=st.none() | STAMPS)
def test_only_a_time_of_ours_is_ever_put_right(
    data: dict[str, Any], time: float, right: float, own: int | None
) -> None:
    form = SamsaraEvents("pi")
    if own is not None:
        data = {**data, "timestamp": own}
    data.pop("eventName", None)
    stored = StoredEvent(1, form.encode("a", data, "id", time), time, "id", False)
    fixed = stored._replace(time=right, corrected=True)
    (before,), (after,) = (json.loads(form.request(Batch("", [each])).body) for each in (stored, fixed))
    assert before.pop("timestamp") == (own if own is not None else round(time * 1000))
    assert after.pop("timestamp") == (own if own is not None else round(right * 1000))
    assert before == after
    restored = form.restore(json.loads(form.render(fixed)), "id", None)
    assert json.loads(form.render(restored)) == json.loads(form.render(fixed))


@given(stamp=st.integers(0, 10**40))
def test_every_timestamp_has_a_time_in_the_queue(stamp: int) -> None:
    assert 0 <= seconds(stamp) <= 253_402_300_799


@given(url=st.from_regex(r"https?://[a-z]{1,8}(:[0-9]{2,4})?(/[a-z0-9/]{0,12})?(\?[a-z=]{0,5})?", fullmatch=True))
def test_the_endpoint_of_an_endpoint_is_itself(url: str) -> None:
    posted = endpoint(url)
    assert posted.partition("?")[0].endswith("/v1/events")
    assert endpoint(posted) == posted


OPTION = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 100_000), st.floats(), TEXT, st.sampled_from(["gzip", "none"]),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@given(config=st.dictionaries(
    st.sampled_from(["sourceId", "source_id", "publish_interval", "max_buffer_size", "min_buffer_size", "send_timeout",
                     "compression", "send_client_stats"]), OPTION))  # fmt: skip
def test_any_options_make_a_client_or_an_invalid_configuration(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    place = tmp_path_factory.mktemp("options") / "queue"
    try:
        client = SamsaraClient(url="http://127.0.0.1:9/", path=place, start_publishing_thread=False, **config)
    except InvalidConfiguration:
        return
    settings = client._client.settings
    assert settings.flush_interval > 0
    assert settings.max_events is None or settings.min_events <= settings.max_events
    assert math.isfinite(settings.timeout[0])
    client.close(0)


def arrived(collector: Collector) -> list[int]:
    return [each["number"] for each in collector.events() if each["eventName"] == "reading"]


CALLS = st.lists(
    st.sampled_from(["record", "publish", "start", "stop", "reopen", "down", "up", "stats"]) | st.just("record"),
    max_size=20,
)


@given(calls=CALLS, least=st.sampled_from([1, 3]), stats=st.booleans())
def test_in_any_order_of_calls_nothing_is_lost_and_the_order_stays(
    tmp_path_factory: pytest.TempPathFactory, calls: list[str], least: int, stats: bool
) -> None:
    with Collector() as collector, pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("calls")
        isolate(patch, place)

        def opened() -> SamsaraClient:
            made = SamsaraClient(
                url=collector.base_url, sourceId=SOURCE, min_buffer_size=least, publish_interval=1,
                path=place / "queue", durability="process", send_client_stats=stats, send_timeout=2000,
            )  # fmt: skip
            quicken(made._client)
            return made

        client = opened()
        number = 0
        try:
            for call in calls:
                if call == "record":
                    client.record_event(eventName="reading", number=number)
                    number += 1
                elif call == "publish":
                    two = [{"sourceId": SOURCE, "timestamp": n, "eventName": "reading", "number": n}
                           for n in (number, number + 1)]  # fmt: skip
                    number += 2
                    if client.publish_events(two):
                        assert arrived(collector) == list(range(number))
                elif call == "start":
                    client.start_consuming()
                elif call == "stop":
                    client.stop_consuming()
                elif call == "reopen":
                    client.close(0)
                    client = opened()
                elif call == "down":
                    collector.set_fault(status=503)
                elif call == "up":
                    collector.heal()
                else:
                    assert client.stats().ledger.balanced
            collector.heal()
            client.start_consuming()
            assert client.flush(DEADLINE)
            assert arrived(collector) == list(range(number))
        finally:
            client.close(0)
