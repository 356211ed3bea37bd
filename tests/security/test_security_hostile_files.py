"""Nothing in the files beside the queue is trusted: failed payloads, what the sender says of itself, settings."""

from __future__ import annotations

import base64
import json
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from security_kit import command, make_queue

from edgespool import Client, config, failed, formats
from edgespool.config import Settings
from edgespool.errors import ConfigError, EdgespoolError, FailedFileError
from edgespool.event import Batch
from edgespool.replay import Replay
from edgespool.status import StatusFile
from edgespool.testing import FakeDestination

MIB = 1 << 20

# JSON with what JSON can do: numbers of any size, lone surrogates, NaN, the names that our own files use.
numbers = st.one_of(st.integers(-(10**40), 10**40), st.floats(), st.booleans(), st.none())
names = st.sampled_from(
    ["schema", "format", "endpoint", "route", "reason", "status", "text", "attempts", "failed_at", "ids", "times",
     "events", "type", "id", "time", "data", "source", "base64", "timecorrected", "specversion", "pid", "state",
     "since", "held", "last_error", "next_attempt_at"]
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["\ud800", "\0", "2026-11-22T10:57:07Z", "0001-01-01T00:00:00+23:59",
                     "9999-12-31T23:59:59.9999999Z", "cloudevents", "json", "../../x", "\x1b[31m", "AAAA", "=", "NaN",
                     "1e999"]),
)  # fmt: skip
values = st.recursive(
    st.one_of(numbers, texts),
    lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(st.one_of(names, texts), below, max_size=4)),
    max_leaves=12,
)
EVENT = {
    "time": "2026-11-22T10:57:07.25Z",
    "id": "a",
    "specversion": "1.0",
    "source": "pi",
    "type": "t",
    "data": {"v": 1},
}
DOCUMENT = {
    "schema": 1, "format": "cloudevents", "endpoint": "https://h/", "route": "",
    "reason": {"status": 422, "text": "no"}, "attempts": 1, "failed_at": "2026-11-22T10:57:07+00:00",
    "ids": ["a"], "times": [1.5], "events": [EVENT],
}  # fmt: skip
SENDER = {"pid": 1, "state": "ok", "since": 1.5, "last_error": None, "next_attempt_at": 5.0, "held": [], "endpoint": ""}


@st.composite
def documents(draw: st.DrawFn, sound: dict[str, Any]) -> str:
    """Give a sound document with something wrong in it, or something else."""
    made = json.loads(json.dumps(sound))
    for name, value in draw(
        st.dictionaries(st.one_of(st.sampled_from(sorted(made)), names), values, max_size=3)
    ).items():
        made[name] = value
    if "events" in made and draw(st.booleans()):
        event = {**EVENT, **draw(st.dictionaries(names, values, max_size=2))}
        made["events"] = [event] * draw(st.integers(1, 2))
    text = json.dumps(draw(st.sampled_from([made, [made], made.get("events", [])])))
    cut = draw(st.one_of(st.none(), st.integers(0, len(text))))
    return text if cut is None else text[:cut] + draw(texts) + text[cut + 1 :]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


# Failed payload files


def replayed(path: Path) -> None:
    """Do with a file all that is done with one; what it raises must be ours."""
    try:
        payload = failed.read(str(path))
    except FailedFileError:
        return
    for name in ("cloudevents", "json"):
        format = formats.create(name, "pi")
        try:
            events = payload.restored(format.restore)
        except FailedFileError:
            continue
        for event in events:
            format.render(event)
        format.request(Batch(payload.route, events))
    if payload.events:
        failed.rewrite(payload, [0])
        failed.read(str(path))


@settings(max_examples=80)
@given(content=documents(DOCUMENT))
def test_any_failed_payload_file_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    folder = tmp_path_factory.mktemp("hostile") / "failed"
    folder.mkdir()
    (folder / "x.json").write_text(content, "utf-8", errors="surrogatepass")
    (folder / "y.txt").write_text(content.replace(" ", "\n"), "utf-8", errors="surrogatepass")
    settings = Settings(path=str(folder.parent), url="http://127.0.0.1:9/", source="pi")
    report = Replay(settings, sleep=lambda seconds: None, destination=lambda format: FakeDestination()).run()
    assert all(each.state in ("replayed", "partly", "kept", "broken") for each in report.files)
    path = folder / "z.json"
    path.write_text(content, "utf-8", errors="surrogatepass")
    replayed(path)


@settings(max_examples=50)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("hostile") / "x.json"
    path.write_bytes(content)
    replayed(path)


BOMBS = {
    "nested": lambda levels: deep(levels),
    "nested in a reason": lambda levels: json.dumps({**DOCUMENT, "reason": {"text": 0}}).replace(
        "0}", deep(levels) + "}"
    ),
    "nested in an event": lambda levels: json.dumps(DOCUMENT).replace('{"v": 1}', deep(levels)),
    "nested in a bare event": lambda levels: f'[{{"type": "t", "data": {deep(levels)}}}]',
    "a long number": lambda digits: f"[{'9' * digits}]",
    "a long number in an event": lambda digits: json.dumps(DOCUMENT).replace('{"v": 1}', "9" * digits),
    "a long exponent": lambda digits: f'[{{"type": "t", "id": "x", "data": 1e{"9" * digits}}}]',
    "schema": lambda digits: json.dumps(DOCUMENT).replace('"schema": 1', f'"schema": {"9" * digits}'),
    "times": lambda digits: json.dumps(DOCUMENT).replace("[1.5]", f"[{'9' * digits}]"),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("size", [100, 500, 900, 980, 995, 1000, 4299, 4301, 100_000])
def test_a_file_that_is_nested_or_counts_without_end_is_read_or_refused(tmp_path: Path, bomb: Any, size: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(bomb(size))
    replayed(path)
    make_queue(tmp_path / "queue", count=1)
    (tmp_path / "queue" / "failed").mkdir()
    (tmp_path / "queue" / "failed" / "x.json").write_text(bomb(size))
    for name in ("doctor", "status", "replay"):
        command(name, "--path", str(tmp_path / "queue"), *(["--dry-run"] if name == "replay" else []))


@pytest.fixture
def memory() -> Iterator[None]:
    """Fail when a test takes more than 100 MiB at any moment."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * MIB


@pytest.mark.usefixtures("memory")
def test_a_file_too_large_for_a_small_memory_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(FailedFileError, match="larger than 64 MiB"):
        failed.read(str(path))


@pytest.mark.usefixtures("memory")
def test_base64_takes_no_more_memory_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"base64": base64.b64encode(bytes(6 * MIB)).decode()}]))
    replayed(path)


# What the sender says of itself


@settings(max_examples=100)
@given(content=documents(SENDER))
def test_any_sender_file_is_read_or_passed_over(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "sender.json").write_text(content, "utf-8", errors="surrogatepass")
    said = StatusFile(str(folder)).read()
    if said is not None:
        assert math.isfinite(said.since)
        assert said.next_attempt_at is None or math.isfinite(said.next_attempt_at)
        shown = "".join([said.state, said.last_error or "", said.endpoint, *said.held])
        assert shown.isprintable(), "it is shown on a terminal"


@pytest.mark.parametrize(
    "wrong",
    [{"since": 1e400}, {"since": "nan"}, {"since": 10**400}, {"pid": 1e400}, {"next_attempt_at": "inf"}, {"held": 5},
     {"state": ["held"]}, {"last_error": "\x1b]0;owned\x07\n\x9b31m"}, {"held": ["a\nb"]}, {"since": -1e11},
     {"since": 9e11, "state": "held"}, {"state": "x" * 100_000}],
    ids=lambda wrong: str(wrong)[:30],
)  # fmt: skip
def test_the_commands_show_any_sender_file(
    tmp_path: Path, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_queue(tmp_path / "queue", count=1)
    (tmp_path / "queue" / "sender.json").write_text(json.dumps({**SENDER, **wrong}))
    for arguments in (["status"], ["status", "--json"], ["doctor"], ["doctor", "--json"]):
        assert command(*arguments, "--path", str(tmp_path / "queue")) in (0, 1, 3, 4)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.replace("\n", "").isprintable()
    assert len(out) < 20_000


@pytest.mark.parametrize(
    "wrong", [{"since": "nan"}, {"since": "inf"}, {"since": 1e300}, {"next_attempt_at": "-inf"}], ids=str
)
def test_a_sender_file_with_a_time_that_is_none_is_passed_over(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (tmp_path / "sender.json").write_text(json.dumps(SENDER))
    assert StatusFile(str(tmp_path)).read() is not None
    (tmp_path / "sender.json").write_text(json.dumps({**SENDER, **wrong}))
    assert StatusFile(str(tmp_path)).read() is None


@pytest.mark.parametrize("content", ["", "[]", "5", "{", deep(100_000), '{"kept": 1e999}', '{"kept": [1]}', "\xff"])
def test_a_report_of_a_salvage_that_makes_no_sense_is_passed_over(tmp_path: Path, content: str) -> None:
    make_queue(tmp_path / "queue")
    with (tmp_path / "queue" / "queue.db").open("r+b") as file:
        file.write(bytes(4096))
    with Client(path=tmp_path / "queue", destination=FakeDestination(), start=False) as client:
        assert client.stats().salvaged
    (report,) = (tmp_path / "queue" / "damaged").glob("*/report.json")
    report.write_text(content, "latin-1")
    with Client(path=tmp_path / "queue", destination=FakeDestination(), start=False) as client:
        client.record("a")
        client.stats()
    for name in ("status", "doctor"):
        command(name, "--path", str(tmp_path / "queue"))


# Settings


toml_values = st.one_of(
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(lambda number: str(number).replace("e+", "e")),
    st.sampled_from(
        ["true", "false", "1979-05-27T07:32:00Z", "[]", "{}", "[1, 2]", "['a', 'b']", "{a = 1}", "{a = 'b'}", "''",
         "'x'", "'1e400 MiB'", "'64 MiB'", "'nan GiB'", "'../..'", "'a b'", "'reject'", "'gzip'", "'none'",
         "'user:pass'", "'http://127.0.0.1:9/'", "\"\\u0000\"", "\"a\\nb\"", "'5,30'", "'5,5,5'",
         "9e999", "-0.0", "1e17", "[[1], 2]"]
    ),
    st.text(alphabet="abc-._/\\\"'\n\0é=[]{}#", max_size=6),
)  # fmt: skip
settings_names = st.sampled_from([each.name for each in fields(Settings)] + ["clients", "[clients.default]", "x"])


@settings(max_examples=200)
@given(lines=st.lists(st.tuples(settings_names, toml_values), min_size=1, max_size=3))
def test_any_settings_file_is_used_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    file = folder / "edgespool.toml"
    file.write_text("\n".join(f"{name} = {value}" for name, value in lines))
    try:
        made = config.load({}, file)
    except ConfigError:
        return
    made = config.load({"path": str(folder / "queue")}, file)
    assert made.directory == str(folder / "queue")
    try:
        with Client(
            path=folder / "queue", config_file=file, destination=FakeDestination(), flush_interval=0.0
        ) as client:
            client.record("a")
    except EdgespoolError:
        pass


@pytest.mark.parametrize(
    "content",
    [b"a = " + b"[" * 100_000, b"batch_size = " + b"9" * 5000, b"batch_size = " + b"9" * 4000, b"\xff\xfe", b"\0",
     b"name = [1]\n[clients.x]\nurl = 'a'", b"clients = 1", b"[clients]\nx = 1", b"url = 'x'\nurl = 'y'", b"[" * 10_000,
     b"timeout = 1e300", b"sync_interval = 1e300", b"flush_interval = 9e999", b"max_bytes = '1e400 MiB'",
     b'"\\u0000" = 1'],
    ids=lambda content: content[:20].decode("latin-1"),
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_in_words(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "edgespool.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load({}, file)
    assert len(str(caught.value)) < 10_000
