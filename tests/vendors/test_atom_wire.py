"""Atom on the wire: every field and header of single and bulk requests, signatures, and batches by stream."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atom_kit import KEY, clean_environment, data_of, give_key, message, sent_texts, trackers, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespool.errors import ConfigError
from edgespool.event import Batch, StoredEvent
from edgespool.interfaces import Unready
from edgespool.outcome import Delivered, Hold, Reject, Reply, Retry, TooLarge
from edgespool.testing import Collector
from edgespool.testing import dialects as wire
from edgespool.vendors.atom.api import IronSourceAtom, IronSourceAtomTracker
from edgespool.vendors.atom.dialect import DIALECT
from edgespool.vendors.atom.format import AtomFormat, Tracked, text_of

MakeTracker = Callable[..., IronSourceAtomTracker]


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(collector: Collector, tmp_path: Path) -> Iterator[MakeTracker]:
    with trackers(collector.base_url + "/", tmp_path / "queue") as made:
        yield made


def signed(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


HEADERS = {
    "content-type": "application/json",
    "x-ironsource-atom-sdk-type": "python",
    "x-ironsource-atom-sdk-version": "1.5.1",
}


def check_headers(headers: wire.Headers) -> None:
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    for absent in ("Idempotency-Key", "Content-Encoding", "Authorization"):
        assert absent not in headers


# --- the tracker ------------------------------------------------------------------------------------------------------


def test_the_tracker_s_request_field_by_field(make: MakeTracker, collector: Collector) -> None:
    tracker = make(start=False)
    events = [{"id": 123, "event_name": "é"}, {"id": 124, "more": ["x" * 600, None, 1.5]}]
    for event in events:
        tracker.track("YOUR_STREAM_NAME", event, auth_key=KEY)
    tracker._client.start()
    assert collector.wait_for(2, 20)
    (request,) = collector.requests()
    assert (request.method, request.path, request.query) == ("POST", "/bulk", "")
    check_headers(request.headers)
    assert request.body is not None
    assert request.body.isascii()
    told = message(request)
    assert told.keys() == {"table", "data", "auth", "bulk"}
    assert told["table"] == "YOUR_STREAM_NAME"
    assert told["bulk"] is True
    assert told["auth"] == signed(KEY, told["data"])
    assert [json.loads(text) for text in json.loads(told["data"])] == events
    assert all(isinstance(text, str) and text.isascii() for text in json.loads(told["data"]))


def test_without_a_key_nothing_is_signed(make: MakeTracker, collector: Collector) -> None:
    make().track("open", {"n": 1})
    assert collector.wait_for(1, 20)
    assert message(collector.requests()[0]).keys() == {"table", "data", "bulk"}


def test_text_goes_out_as_it_is(make: MakeTracker, collector: Collector) -> None:
    texts = ['{"a":  1 }', "no JSON at all", "", "čau \U0001f600 \x00 \n", "[1, 2]"]
    tracker = make(start=False)
    for text in texts:
        tracker.track("s", text, auth_key=KEY)
    tracker._client.start()
    assert collector.wait_for(5, 20)
    assert sent_texts(collector.requests()[0]) == texts


def test_each_stream_has_its_own_requests_and_its_own_key(make: MakeTracker, collector: Collector) -> None:
    for stream in ("a", "b"):
        give_key(collector, stream, f"key of {stream}")
    tracker = make(start=False, auth_key="key of the rest")
    for n in range(6):
        stream = "abc"[n % 3]
        tracker.track(stream, {"n": n}, **({} if stream == "c" else {"auth_key": f"key of {stream}"}))
    tracker._client.start()
    assert collector.wait_for(6, 20)
    requests = {message(each)["table"]: message(each) for each in collector.requests()}
    assert len(collector.requests()) == 3  # many events a request, not one a turn
    assert requests["c"]["auth"] == signed("key of the rest", requests["c"]["data"])
    order = {stream: [e["data"]["n"] for e in collector.events() if e["table"] == stream] for stream in "abc"}
    assert order == {"a": [0, 3], "b": [1, 4], "c": [2, 5]}


def test_a_batch_holds_batch_size_events_at_most(make: MakeTracker, collector: Collector) -> None:
    tracker = make(start=False, batch_size=4)
    for n in range(10):
        tracker.track("s", {"n": n})
    tracker._client.start()
    assert collector.wait_for(10, 20)
    assert [each.events for each in collector.requests()] == [4, 4, 2]


def test_a_batch_holds_batch_bytes_size_bytes_and_a_larger_event_goes_alone(
    make: MakeTracker, collector: Collector
) -> None:
    tracker = make(start=False, batch_bytes_size=2000)
    for size in (900, 900, 900, 300_000, 10, 10):
        tracker.track("s", {"size": size, "text": "x" * size})
    tracker._client.start()
    assert collector.wait_for(5, 20)
    wait_until(lambda: tracker._client.stats().pending == 0)
    assert [each.events for each in collector.requests()] == [2, 1, 1, 2]


def test_the_endpoint_may_lack_its_slash_and_have_a_path(make: MakeTracker, collector: Collector) -> None:
    make(endpoint=collector.base_url + "/atom/v1").track("s", 1)
    assert collector.wait_for(1, 20)
    assert collector.requests()[0].path == "/atom/v1/bulk"


def test_signed_and_unsigned_events_of_a_stream_never_share_a_request(
    make: MakeTracker, collector: Collector
) -> None:
    tracker = make(start=False)
    tracker.track("s", 1)
    tracker.track("s", 2)
    tracker.track("s", 3, auth_key=KEY)
    tracker.track("s", 4)  # as in the original, a stream keeps its key
    tracker._client.start()
    assert collector.wait_for(4, 20)
    assert data_of(collector) == [1, 2, 3, 4]
    assert ["auth" in message(each) for each in collector.requests()] == [False, True]


def test_a_key_that_is_given_anew_signs_from_then_on(make: MakeTracker, collector: Collector) -> None:
    give_key(collector, "s", "the new key")
    tracker = make()
    tracker.track("s", {"n": 1}, auth_key="the old key")
    wait_until(lambda: tracker._client.stats().held == ("s",))
    tracker.track("s", {"n": 2}, auth_key="the new key")
    assert collector.wait_for(2, 20)


# --- the low-level class ----------------------------------------------------------------------------------------------


def test_put_event_by_post_field_by_field(collector: Collector) -> None:
    api = IronSourceAtom(endpoint=collector.base_url + "/", auth_key="the default key")
    response = api.put_event(stream="S", data={"event_name": "é", "n": 1}, method="post", auth_key=KEY)
    assert (response.status, response.data, response.error) == (200, b"OK", None)
    api.put_event(stream="S", data="a text")
    first, second = collector.requests()
    assert (first.method, first.path) == ("POST", "/")
    check_headers(first.headers)
    assert message(first).keys() == {"table", "data", "auth"}
    assert json.loads(message(first)["data"]) == {"event_name": "é", "n": 1}
    assert message(first)["data"].isascii()
    assert message(first)["auth"] == signed(KEY, message(first)["data"])
    assert message(second) == {"table": "S", "data": "a text", "auth": signed("the default key", "a text")}


@pytest.mark.parametrize("method", ["get", "GET"])
def test_put_event_by_get(collector: Collector, method: str) -> None:
    api = IronSourceAtom(endpoint=collector.base_url + "/")
    value = {"text": "ÿ?>~\U0001f600" * 40}  # base64 of it has + and /
    response = api.put_event("S", value, method, KEY)
    assert (response.status, response.error) == (200, None)
    (request,) = collector.requests()
    assert (request.method, request.path, request.size) == ("GET", "/", 0)
    check_headers(request.headers)
    assert message(request)["auth"] == signed(KEY, message(request)["data"])
    assert collector.events() == [{"table": "S", "data": value}]


def test_put_events_field_by_field(collector: Collector) -> None:
    api = IronSourceAtom(endpoint=collector.base_url + "/", auth_key=KEY)
    data = [{"strings": "data: test 1"}, "a text", {"strings": "data: test 2"}]
    assert api.put_events(stream="S", data=data).status == 200
    (request,) = collector.requests()
    assert (request.method, request.path) == ("POST", "/bulk")
    check_headers(request.headers)
    assert message(request).keys() == {"table", "data", "auth", "bulk"}
    assert message(request)["bulk"] is True
    assert json.loads(message(request)["data"]) == data
    assert message(request)["auth"] == signed(KEY, message(request)["data"])


# --- the format by itself ---------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


class _NoState(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        raise AssertionError


def stored(form: AtomFormat, value: Any, flag: bool | None) -> StoredEvent:
    data = {"value": value} if flag is None else Tracked(text_of(value), flag)
    return StoredEvent(1, form.encode("event", data, "id", 0.0), 0.0, "id", False)


def decoded(form: AtomFormat, batch: Batch, key: str = "") -> list[wire.Arrival]:
    """Send a batch through the dialect, without a network."""
    made = form.request(batch)
    headers = wire.Headers(list(made.headers.items()))
    request = wire.Request(made.method, "/" + made.path, "", headers, made.body)
    assert DIALECT.matches(request)
    return DIALECT.decode(request, _NoState({f"key/{batch.route}": key}))  # type: ignore[arg-type]


def no_constant(name: str) -> Any:
    raise ValueError(name)


@settings(max_examples=200, deadline=None)
@given(stream=names, values=st.lists(json_values, min_size=1, max_size=5), key=st.text(max_size=20))
def test_any_json_value_in_any_stream_under_any_key_arrives(stream: str, values: list[Any], key: str) -> None:
    key = key.encode("utf-8", "replace").decode()
    form = AtomFormat()
    form.keys.give(stream, key)
    batch = Batch(stream, [stored(form, value, bool(key)) for value in values])
    for arrival, value in zip(decoded(form, batch, key), values, strict=True):
        want = value
        if isinstance(value, str):  # text is sent as it is, and the dialect reads it as JSON where it is
            try:
                want = json.loads(value, parse_constant=no_constant)
            except ValueError:
                want = value
        assert arrival.data == want
        assert arrival.name == stream


@settings(max_examples=200, deadline=None)
@given(value=json_values, flag=st.sampled_from([True, False, None]))
def test_a_failed_file_holds_all_that_a_resend_needs(value: Any, flag: bool | None) -> None:
    form = AtomFormat()
    event = stored(form, value, flag)
    shown = json.loads(form.render(event))
    assert shown["signed"] is flag
    again = form.restore(shown, "id", 0.0)
    assert (again.payload, again.id) == (event.payload, "id")


@given(value=json_values)
def test_what_other_programs_keep_can_be_replayed_and_is_signed_when_a_key_is_known(value: Any) -> None:
    form = AtomFormat()
    event = form.restore(value, None, None)
    assert event.id
    batch = Batch("s", [event])
    assert "auth" not in json.loads(form.request(batch).body)
    form.keys.set_default(KEY)
    told = json.loads(form.request(batch).body)
    assert told["auth"] == signed(KEY, told["data"])
    if not isinstance(value, str):
        assert json.loads(json.loads(told["data"])[0]) == value


@pytest.mark.parametrize("value", [b"binary", {"signed": 1, "data": "x"}])
def test_what_is_no_event_is_not_restored(value: Any) -> None:
    with pytest.raises(ValueError, match="no Atom event"):
        AtomFormat().restore(value, "id", 0.0)


def test_a_stream_whose_key_is_missing_is_unready_and_the_message_says_what_to_do() -> None:
    form = AtomFormat()
    batch = Batch("s", [stored(form, 1, True)])
    with pytest.raises(Unready, match=r"stream 's' is not known.*give it to track"):
        form.request(batch)
    with pytest.raises(Unready, match="no stream"):
        form.request(Batch("", batch.events))
    with pytest.raises(ValueError, match="cannot share"):
        form.request(Batch("s", [stored(form, 1, False), stored(form, 1, True)]))


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Delivered), (204, Delivered), (302, Hold), (304, Hold), (400, Reject), (401, Hold), (403, Hold),
        (404, Hold), (413, TooLarge), (415, Reject), (422, Reject), (429, Retry), (500, Retry), (503, Retry),
    ],
)  # fmt: skip
def test_what_each_status_means(status: int, outcome: type) -> None:
    assert type(AtomFormat().outcome(Reply(status, {}))) is outcome


def test_the_settings_bring_the_keys_and_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespool import config

    form = AtomFormat()
    made = form.configure(config.load({"auth": "a:key:of:colons", "keys": {"s": "own"}}))
    assert (made.auth, made.keys, made.url) == (None, None, "http://track.atom-data.io/")
    assert (form.keys.get("s"), form.keys.get("other")) == ("own", "a:key:of:colons")
    assert set(form.secrets()) == {"own", "a:key:of:colons"}
    assert "own" not in repr(form.keys)
    with pytest.raises(ConfigError, match="auth key is a text"):
        form.configure(config.load({"auth": lambda request: request}))


# --- the dialect by itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", b"[]"), ("/", b"{}"), ("/", b'{"table":"","data":"x"}'), ("/", b'{"table":"s","data":{}}'),
        ("/", b'{"table":"s","data":"x","bulk":true}'), ("/bulk", b'{"table":"s","data":"[1]"}'),
        ("/bulk", b'{"table":"s","data":"[]","bulk":true}'), ("/bulk", b'{"table":"s","data":"{}","bulk":true}'),
        ("/", b"[" * 100_000),
    ],
)  # fmt: skip
def test_the_dialect_takes_nothing_that_is_not_atom_s(path: str, body: bytes) -> None:
    request = wire.Request("POST", path, "", wire.Headers([("X-IronSource-Atom-SDK-Type", "python")]), body)
    assert DIALECT.matches(request)
    with pytest.raises(ValueError, match=r".+"):
        DIALECT.decode(request, _NoState())  # type: ignore[arg-type]


def test_the_dialect_leaves_others_alone_and_tells_repeats_by_content(collector: Collector) -> None:
    import requests

    other = wire.Headers([("Content-Type", "application/json")])
    assert not DIALECT.matches(wire.Request("POST", "/bulk", "", other, b""))
    api = IronSourceAtom(endpoint=collector.base_url + "/")
    for _ in range(2):
        api.put_events("s", [{"n": 1}, {"n": 1}, {"n": 2}])
    api.put_events("t", [{"n": 1}])
    assert (collector.count(), collector.repeats()) == (4, 3)
    bare = requests.get(collector.base_url + "/", headers={"x-ironsource-atom-sdk-type": "python"}, timeout=5)
    assert bare.status_code == 400


def test_the_dialect_checks_signatures_by_a_key_in_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPOOL_COLLECTOR_ATOM_KEY", KEY)
    api = IronSourceAtom(endpoint=collector.base_url + "/")
    assert [api.put_event("s", "x", auth_key=key).status for key in ("", "wrong", KEY)] == [401, 401, 200]
    give_key(collector, "s", "its own")
    assert [api.put_event("s", "y", auth_key=key).status for key in (KEY, "its own")] == [401, 200]
    assert collector.count() == 2
