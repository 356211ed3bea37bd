"""Failed payload files: whole or not at all, the same name for the same events, no secrets, nothing taken on trust."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from unit_kit import stored

from edgespool import failed
from edgespool.errors import FailedFileError
from edgespool.event import Batch, StoredEvent, new_id
from edgespool.failed import FailedFiles, public_url
from edgespool.files import make_directory, write_whole
from edgespool.formats.cloudevents import CloudEvents
from edgespool.formats.json import PlainJson

NOW = 1_700_000_000.5


def batch_of(*values: Any, route: str = "kitchen", ids: list[Any] | None = None, time: float = 5.25) -> Batch:
    payloads = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    ids = ids or [f"id{n}" for n in range(len(values))]
    events = [StoredEvent(n, p, time + n, id, False) for n, (p, id) in enumerate(zip(payloads, ids, strict=True))]
    return Batch(route, events)


def write(top: Path, batch: Batch, **given: Any) -> Path:
    settings = {
        "format": "json", "endpoint": "https://example.com/v1", "reason": "HTTP 400: no", "status": 400, "attempts": 3,
        "now": NOW, **given,
    }  # fmt: skip
    render = settings.pop("render", PlainJson().render)
    return Path(FailedFiles(str(top)).write(batch, render, **settings))


# Writing


def test_a_file_says_all_there_is_to_know(tmp_path: Path) -> None:
    path = write(tmp_path, batch_of({"a": 1}, {"b": "ü"}))
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document == {
        "schema": 1,
        "format": "json",
        "endpoint": "https://example.com/v1",
        "route": "kitchen",
        "reason": {"status": 400, "text": "HTTP 400: no"},
        "attempts": 3,
        "failed_at": "2023-11-14T22:13:20.500000+00:00",
        "ids": ["id0", "id1"],
        "times": [5.25, 6.25],
        "events": [{"a": 1}, {"b": "ü"}],
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent == tmp_path / "failed"


def test_events_stand_in_it_as_they_were_sent_one_a_line(tmp_path: Path) -> None:
    form = CloudEvents("pi")
    payloads = [form.encode("t", {"v": n, "text": "line\nfeed \u2028"}, f"id{n}", 5.0) for n in range(3)]
    path = write(tmp_path, batch_of(*payloads), render=form.render)
    lines = path.read_bytes().split(b"\n")
    assert [line.rstrip(b",") for line in lines if line.startswith(b'{"time"')] == payloads


def test_the_same_events_make_the_same_name_and_others_another(tmp_path: Path) -> None:
    path = write(tmp_path, batch_of({"a": 1}))
    assert write(tmp_path, batch_of({"a": 1}), reason="another", now=NOW + 100) == path
    others = {
        write(tmp_path, batch_of({"a": 1}, {"b": 1})),
        write(tmp_path, batch_of({"a": 1}, ids=["other"])),
        write(tmp_path, batch_of({"a": 1}, time=6.0)),
    }
    assert len(others | {path}) == 4
    assert len(FailedFiles(str(tmp_path)).paths()) == 4


def test_names_sort_by_the_time_of_their_first_event(tmp_path: Path) -> None:
    times = [-62_135_596_800.0, -1.5, 0.0, 0.25, NOW, 253_402_300_798.0]
    written = [str(write(tmp_path, batch_of({"a": 1}, ids=[str(t)], time=t))) for t in reversed(times)]
    assert FailedFiles(str(tmp_path)).paths() == sorted(written) == written[::-1]


@pytest.mark.parametrize("hostile", ["../../etc/passwd", "a/b", "\0", "x" * 5000, "\n", "..", "-rf", "ü\u202e"])
def test_no_route_or_id_can_lead_out_of_the_folder(tmp_path: Path, hostile: str) -> None:
    path = write(tmp_path, batch_of({"a": 1}, route=hostile, ids=[hostile]), reason=hostile)
    assert path.parent == tmp_path / "failed"
    assert path.name.isascii()
    assert len(path.name) < 60
    payload = failed.read(str(path))
    assert (payload.route, payload.ids, payload.reason) == (hostile, [hostile], hostile)


def test_what_is_no_json_is_kept_as_base64(tmp_path: Path) -> None:
    batch = batch_of(b"\x00\xff binary", b"", b"{not json")
    payload = failed.read(str(write(tmp_path, batch)))
    assert [base64.b64decode(value["base64"]) for value in payload.events] == [e.payload for e in batch.events]

    def restore(value: Any, id: str | None, time: float | None) -> StoredEvent:
        assert isinstance(value, bytes)
        return StoredEvent(0, value, time or 0.0, id or "", False)

    assert [event.payload for event in payload.restored(restore)] == [event.payload for event in batch.events]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@example.com:8443/v1?key=secret#secret", "https://example.com:8443/v1"),
        ("https://secret@example.com", "https://example.com"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://example.com:secret/", ""),
        ("http://[broken", ""),
        ("", ""),
    ],
)
def test_no_secret_of_the_address_is_written(tmp_path: Path, url: str, shown: str) -> None:
    assert public_url(url) == shown
    path = write(tmp_path, batch_of({"a": 1}), endpoint=url)
    assert json.loads(path.read_text())["endpoint"] == shown
    assert "secret" not in path.read_text()


# Whole or not at all


def test_a_file_that_cannot_be_written_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, batch_of({"other": 1}, ids=["other"]))
    for name in ("write", "fsync", "replace"):

        def refuse(*args: Any) -> Any:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(FailedFileError, match=r"could not be written: .*No space left"):
                write(tmp_path, batch_of({"a": 1}))
        assert len(list((tmp_path / "failed").iterdir())) == 1


def test_a_file_is_flushed_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_directory(str(tmp_path / "failed"))
    steps: list[str] = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def noted(*args: Any, name: str = name, real: Any = real) -> Any:
            steps.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, noted)
    write(tmp_path, batch_of({"a": 1}))
    assert steps == ["write", "fsync", "replace", "fsync"]


def test_a_disk_that_writes_in_small_pieces_gets_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:7])))
    write_whole(str(tmp_path / "file"), b"0123456789" * 10)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 10


def test_a_directory_that_another_makes_at_the_same_moment_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def mkdir_twice(path: str, mode: int) -> None:
        real(path, mode)
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir_twice)
    make_directory(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists|directory"):  # noqa: RUF043
        make_directory(str(tmp_path / "file" / "b"))


def test_a_directory_may_lie_deeper_than_python_can_call(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    deep = str(tmp_path) + "/d" * (sys.getrecursionlimit() + 50)
    make_directory(deep)
    assert os.path.isdir(deep)
    os.removedirs(deep)  # up to what is not empty; neither pytest nor shutil can
    assert os.listdir(tmp_path) == ["kept"]
    with pytest.raises(OSError, match="too long"):
        make_directory(str(tmp_path) + "/d" * 2100)
    assert os.listdir(tmp_path) == ["kept"]


# Reading


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), min_size=1, max_size=5))  # fmt: skip # noqa: E501
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, Any]]) -> None:
    top = tmp_path_factory.mktemp("failed")
    batch = batch_of(*values, ids=[new_id() for _ in values])
    payload = failed.read(str(write(top, batch)))
    assert list(payload.events) == values
    assert (payload.ids, payload.times) == (batch.ids, [event.time for event in batch.events])
    assert (payload.status, payload.attempts, payload.failed_at, payload.format) == (400, 3, NOW, "json")
    restored = payload.restored(PlainJson().restore)
    assert [(event.id, event.time, event.rowid) for event in restored] == [
        (event.id, event.time, event.rowid) for event in batch.events
    ]


def test_a_bare_array_and_an_array_a_line_are_read_and_their_events_get_lasting_ids(tmp_path: Path) -> None:
    bare, lines = tmp_path / "bare.json", tmp_path / "err_missed_events.txt"
    bare.write_text('\ufeff[{"a": 1}, {"a": 1}]', encoding="utf-8")
    # Of a bucket that could not be made the streamer leaves an object, not an array.
    lines.write_text('{"a": 1}\n\n[{"b": "x\u2028y"}, {"c": 3}]\n', encoding="utf-8")
    for path, events in ((bare, [{"a": 1}, {"a": 1}]), (lines, [{"a": 1}, {"b": "x\u2028y"}, {"c": 3}])):
        payload = failed.read(str(path))
        assert payload.events == events
        assert payload.lines is (path == lines)
        ids = [event.id for event in payload.restored(PlainJson().restore)]
        assert len(set(ids)) == len(events)
        assert [event.id for event in failed.read(str(path)).restored(PlainJson().restore)] == ids


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no events"),
        (b"\n\n", "no events"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"{", "line 1: no JSON"),
        (b"[1]\nnope\n", "line 2: no JSON"),
        (b"[1]\n7\n", "line 2: a JSON array or object is needed"),
        (b"null", "neither a failed payload file nor"),
        (b'{"a": 1}', "neither a failed payload file nor"),
        (b'{"events": []}', "'schema' is missing"),
        (b'{"schema": "1", "events": []}', "'schema' is missing"),
        (b'{"schema": 2, "events": []}', "newer edgespool"),
        (b'{"schema": 1, "events": {}}', "'events' is no array"),
        (b'{"schema": 1, "events": [1], "ids": ["a", "b"]}', "'ids' does not go with"),
        (b'{"schema": 1, "events": [1], "ids": "a"}', "'ids' does not go with"),
        (b'{"schema": 1, "events": [1], "ids": [7]}', "'ids' holds something"),
        (b'{"schema": 1, "events": [1], "ids": ["\\ud800"]}', "'ids' holds what is not valid Unicode"),
        (b'{"schema": 1, "events": [1], "times": ["now"]}', "'times' holds something"),
        (b'{"schema": 1, "events": [1], "times": [NaN]}', "'times' holds what is no time"),
        (b'{"schema": 1, "events": [1], "times": [1e300]}', "'times' holds what is no time"),
        (b'{"schema": 1, "events": [1], "route": 7}', "'route' is no text"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_file_is_refused_and_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(FailedFileError, match=said) as caught:
        failed.read(str(path))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_file_cut_short_anywhere_is_refused_or_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    whole = write(tmp_path, batch_of({"a": 1}, {"b": 2})).read_bytes()
    path = tmp_path / "cut.json"
    for size in range(len(whole.rstrip())):
        path.write_bytes(whole[:size])
        with pytest.raises(FailedFileError):
            failed.read(str(path))


@pytest.mark.parametrize("reason", [None, "text", {"status": "400"}, {"status": None, "text": 5}, {}])
@pytest.mark.parametrize("failed_at", [None, 5, "yesterday", "9999-12-31T23:59:59-23:59"])
def test_what_only_informs_may_be_odd(tmp_path: Path, reason: Any, failed_at: Any) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"schema": 1, "events": [{"a": 1}], "reason": reason, "failed_at": failed_at}))
    payload = failed.read(str(path))
    assert (payload.events, payload.status) == ([{"a": 1}], None)
    (event,) = payload.restored(PlainJson().restore)
    assert event.id


def test_a_file_that_is_missing_or_a_folder_is_refused_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(FailedFileError, match="cannot be read"):
            failed.read(str(path))
    assert FailedFiles(str(tmp_path / "nowhere")).paths() == []
    (tmp_path / "failed").write_text("a file")
    with pytest.raises(FailedFileError, match="cannot be read"):
        FailedFiles(str(tmp_path)).paths()


def test_an_event_that_is_none_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "mixed.json"
    path.write_text('[{"a": 1}, 7]')
    with pytest.raises(FailedFileError, match="event 2: no event"):
        failed.read(str(path)).restored(PlainJson().restore)


@pytest.mark.parametrize("value", [{"base64": "AAE="}, {"base64": "not base64!"}, {"base64": 7}])
def test_an_event_whose_only_field_is_called_base64_stays_an_event(tmp_path: Path, value: Any) -> None:
    payload = failed.read(str(write(tmp_path, batch_of(value))))
    (event,) = payload.restored(PlainJson().restore)
    assert json.loads(event.payload) == value


def test_only_payload_files_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, batch_of({"a": 1}))
    for name in ("x.json.123.tmp", "notes", ".hidden"):
        (path.parent / name).write_text("")
    assert FailedFiles(str(tmp_path)).paths() == [str(path)]


# After a replay


def test_a_file_is_rewritten_with_what_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, batch_of({"a": 1}, {"b": 2}, {"c": 3}))
    failed.rewrite(failed.read(str(path)), [0, 2])
    again = failed.read(str(path))
    assert (again.events, again.ids, again.times) == ([{"a": 1}, {"c": 3}], ["id0", "id2"], [5.25, 7.25])
    assert (again.route, again.reason, again.failed_at) == ("kitchen", "HTTP 400: no", NOW)


@pytest.mark.parametrize("content", ['[{"a": 1}, {"b": 2}]', '[{"a": 1}]\n[{"b": 2}]\n'])
def test_a_foreign_file_is_rewritten_in_its_own_form_or_with_its_ids(tmp_path: Path, content: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(content)
    payload = failed.read(str(path))
    failed.rewrite(payload, [1])
    assert failed.read(str(path)).events == [{"b": 2}]
    path.write_text(content)
    ids = [event.id for event in payload.restored(PlainJson().restore)]
    failed.rewrite(payload, [1], ids)
    (event,) = failed.read(str(path)).restored(PlainJson().restore)
    assert event.id == ids[1]


def test_a_rewrite_that_the_disk_refuses_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, batch_of({"a": 1}, {"b": 2}))
    before = path.read_bytes()

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(FailedFileError, match="could not be rewritten"):
            failed.rewrite(failed.read(str(path)), [1])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_replayed_file_is_moved_aside_and_never_over_another(tmp_path: Path) -> None:
    moved = []
    for number in range(3):
        path = write(tmp_path, batch_of({"a": 1}), now=NOW + number)
        moved.append(Path(failed.retire(str(path))))
        assert not path.exists()
    assert {each.parent for each in moved} == {tmp_path / "replayed"}
    assert len(set(moved)) == 3
    assert [failed.read(str(each)).failed_at for each in moved] == [NOW, NOW + 1, NOW + 2]


def test_a_foreign_file_is_moved_to_a_folder_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "err_missed_events.txt"
    path.parent.mkdir()
    path.write_text("[1]\n")
    assert failed.retire(str(path)) == str(tmp_path / "logs" / "replayed" / "err_missed_events.txt")


def test_a_file_that_cannot_be_moved_says_that_it_was_replayed(tmp_path: Path) -> None:
    with pytest.raises(FailedFileError, match="was replayed but could not be moved"):
        failed.retire(str(tmp_path / "failed" / "missing.json"))


def test_the_kit_makes_batches_as_queues_do() -> None:
    assert stored("ab").ids == ["a", "b"]
