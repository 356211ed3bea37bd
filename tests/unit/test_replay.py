"""Replay: a file leaves its folder only after the yes to every event in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespool import ConfigError, FailedFileError, failed
from edgespool.config import Settings
from edgespool.event import Batch, StoredEvent, id_text, new_id
from edgespool.failed import FailedFiles
from edgespool.formats import create
from edgespool.outcome import Delivered, Hold, Outcome, Reject, Retry, TooLarge
from edgespool.replay import Pace, Progress, Replay, ReplayBusy, Selection, find
from edgespool.testing import FakeClock, FakeDestination

NOW = 1_700_000_000.0
FORMAT = create("cloudevents", "device")


class Bench:
    """A queue's folder with failed payload files, and replays over it without a network or real waits."""

    def __init__(self, directory: Path, clock: FakeClock) -> None:
        self.directory = directory
        self.clock = clock
        self.destination = FakeDestination()
        self.waits: list[float] = []
        self.settings = Settings(path=str(directory), url="http://127.0.0.1:9/", source="device")

    def file(self, count: int, *, failed_at: float = NOW, status: int = 400, route: str = "", first: int = 0) -> str:
        """Write a failed payload file of so many events, whose data is their number."""
        events = []
        for number in range(first, first + count):
            value = {"type": "reading", "data": {"number": number}}
            events.append(FORMAT.restore(value, id_text(new_id()), NOW + number))
        return FailedFiles(str(self.directory)).write(
            Batch(route, events), FORMAT.render, format="cloudevents", endpoint="http://example.com/", reason="no",
            status=status, attempts=1, now=failed_at,
        )  # fmt: skip

    def text(self, name: str, content: str) -> str:
        """Write any file beside the others."""
        path = self.directory / "failed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
        return str(path)

    def replay(self, *given: str, settings: Settings | None = None, **options: Any) -> Replay:
        def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            self.clock.advance(seconds)

        return Replay(
            settings or self.settings, given, destination=lambda format: self.destination, clock=self.clock,
            sleep=sleep, fraction=lambda: 0.5, **options,
        )  # fmt: skip

    def left(self) -> list[str]:
        """Return the names of the files that are still to be replayed."""
        return sorted(p.name for p in (self.directory / "failed").glob("*"))

    def retired(self) -> list[str]:
        return sorted(p.name for p in (self.directory / "replayed").glob("*") if p.suffix != ".lock")


@pytest.fixture
def bench(tmp_path: Path, clock: FakeClock) -> Bench:
    return Bench(tmp_path / "queue", clock)


def numbers(events: Sequence[StoredEvent]) -> list[int]:
    return [json.loads(FORMAT.render(event))["data"]["number"] for event in events]


def poisoned(*bad: int, outcome: Outcome | None = None) -> Callable[[Batch], Outcome]:
    """Refuse every batch that holds one of these numbers."""
    refusal = outcome or Reject("HTTP 400: bad", 400)
    return lambda batch: refusal if set(numbers(batch.events)) & set(bad) else Delivered()


# --- the way of a file ------------------------------------------------------------------------------------------------


def test_a_delivered_file_is_retired_and_its_events_keep_ids_times_and_route(bench: Bench) -> None:
    path = bench.file(3, route="kitchen")
    ids, times = failed.read(path).ids, failed.read(path).times
    report = bench.replay().run()
    assert [batch.route for batch in bench.destination.delivered] == ["kitchen"]
    assert bench.destination.delivered_ids == ids
    assert [event.time for event in bench.destination.batches[0].events] == times
    assert bench.left() == []
    assert bench.retired() == [os.path.basename(path)]
    assert (report.delivered, report.refused, report.complete) == (3, 0, True)
    assert report.files[0].state == "replayed"
    assert report.files[0].retired_to == str(bench.directory / "replayed" / os.path.basename(path))
    assert bench.destination.closed == 1


def test_a_file_is_still_there_while_it_is_sent(bench: Bench) -> None:
    path = bench.file(4)
    seen = []

    def answer(batch: Batch) -> Outcome:
        seen.append(len(failed.read(path).events))
        return Delivered()

    bench.destination.answer = answer
    bench.replay(settings=dataclasses.replace(bench.settings, batch_size=2)).run()
    assert seen == [4, 4]


def test_files_are_sent_oldest_event_first(bench: Bench) -> None:
    for first in (20, 0, 10):
        bench.file(2, first=first)
    bench.replay().run()
    assert [numbers(batch.events) for batch in bench.destination.batches] == [[0, 1], [10, 11], [20, 21]]


def test_what_is_refused_stays_in_the_file_with_everything_known_of_it(bench: Bench) -> None:
    path = bench.file(5, route="r")
    before = failed.read(path)
    bench.destination.answer = poisoned(1, 3)
    report = bench.replay().run()
    after = failed.read(path)
    assert [event["data"]["number"] for event in after.events] == [1, 3]
    assert after.ids == [before.ids[1], before.ids[3]]
    assert after.times == [before.times[1], before.times[3]]
    assert (after.route, after.status, after.failed_at) == ("r", 400, NOW)
    assert (report.delivered, report.refused, report.complete) == (3, 2, False)
    assert (report.files[0].state, report.files[0].reason) == ("partly", "HTTP 400: bad")
    assert bench.retired() == []
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_file_of_which_nothing_is_taken_is_not_touched(bench: Bench) -> None:
    path = bench.file(3)
    content, info = Path(path).read_bytes(), os.stat(path)
    bench.destination.answer = Reject("HTTP 400", 400)
    report = bench.replay().run()
    assert Path(path).read_bytes() == content
    assert os.stat(path).st_ino == info.st_ino
    assert (report.files[0].state, report.files[0].refused) == ("kept", 3)


def test_one_culprit_among_a_thousand_costs_at_most_21_requests(bench: Bench) -> None:
    bench.file(1000)
    bench.destination.answer = poisoned(617)
    report = bench.replay(settings=dataclasses.replace(bench.settings, batch_size=1000)).run()
    assert (report.delivered, report.refused) == (999, 1)
    assert len(bench.destination.batches) <= 21


def test_too_large_halves_the_batch_and_remembers_it(bench: Bench) -> None:
    bench.file(8)
    bench.destination.answer = lambda batch: Delivered() if len(batch) <= 2 else TooLarge("HTTP 413", 413)
    report = bench.replay().run()
    assert [len(batch) for batch in bench.destination.batches] == [8, 4, 2, 2, 2, 2]
    assert report.delivered == 8
    assert [n for batch in bench.destination.delivered for n in numbers(batch.events)] == list(range(8))


def test_an_event_that_is_too_large_alone_stays_in_the_file(bench: Bench) -> None:
    path = bench.file(3)
    bench.destination.answer = poisoned(1, outcome=TooLarge("HTTP 413", 413))
    report = bench.replay().run()
    assert (report.delivered, report.refused) == (2, 1)
    assert [event["data"]["number"] for event in failed.read(path).events] == [1]


def test_batches_keep_to_the_limits_of_count_bytes_and_destination(bench: Bench) -> None:
    bench.file(10)
    size = len(FORMAT.restore({"type": "reading", "data": {"number": 1}}, id_text(new_id()), NOW).payload)
    bench.replay(settings=dataclasses.replace(bench.settings, batch_size=4)).run()
    bench.file(10, first=100)
    bench.replay(settings=dataclasses.replace(bench.settings, batch_bytes=3 * size + 20)).run()
    bench.file(3, first=200)
    bench.destination.most = 2
    bench.replay().run()
    bench.file(2, first=300)
    bench.replay(settings=dataclasses.replace(bench.settings, batch_bytes=1)).run()  # one at least
    assert [len(batch) for batch in bench.destination.batches] == [4, 4, 2, 3, 3, 3, 1, 2, 1, 1, 1]


def test_a_file_without_events_is_retired(bench: Bench) -> None:
    bench.text("empty.json", "[]")
    assert bench.replay().run().complete
    assert bench.retired() == ["empty.json"]
    assert bench.destination.batches == []


def test_a_name_that_was_retired_before_is_not_overwritten(bench: Bench) -> None:
    for value in (1, 2):
        bench.text("a.json", json.dumps([{"type": "t", "number": value}]))
        assert bench.replay().run().delivered == 1
    assert bench.retired() == ["a.2.json", "a.json"]


# --- passing faults, held servers -------------------------------------------------------------------------------------


def test_a_passing_fault_is_waited_out_and_the_tries_count_anew_after_a_success(bench: Bench) -> None:
    bench.file(4)
    down = Retry("no connection", everywhere=True)
    bench.destination.script.extend([down, down, Delivered(), down, Retry("HTTP 503", 503, after=7.0)])
    said: list[tuple[str, float]] = []
    settings = dataclasses.replace(bench.settings, batch_size=2)
    report = bench.replay(
        settings=settings, pace=Pace(tries=3), on_wait=lambda reason, seconds: said.append((reason, seconds))
    ).run()
    assert report.complete
    assert bench.waits == [0.5, 1.0, 0.5, 8.0]
    assert [reason for reason, _ in said] == ["no connection", "no connection", "no connection", "HTTP 503"]
    assert bench.left() == []


def test_it_stops_after_so_many_tries_and_leaves_the_files(bench: Bench) -> None:
    path = bench.file(2)
    bench.file(2, first=10)
    content = Path(path).read_bytes()
    bench.destination.answer = Retry("no connection", everywhere=True)
    report = bench.replay(pace=Pace(tries=3)).run()
    assert report.stopped is not None
    assert (report.stopped.kind, report.stopped.reason) == ("unreachable", "no connection (tried 3 times)")
    assert len(bench.destination.batches) == 3
    assert len(bench.waits) == 2
    assert Path(path).read_bytes() == content
    assert len(bench.left()) == 2
    assert not report.complete


def test_it_does_not_sit_out_a_wait_of_an_hour(bench: Bench) -> None:
    bench.file(1)
    bench.destination.answer = Retry("HTTP 429", 429, after=3600.0)
    report = bench.replay(pace=Pace(longest_wait=300)).run()
    assert report.stopped is not None
    assert report.stopped.kind == "unreachable"
    assert bench.waits == []


def test_a_held_server_stops_everything_but_what_arrived_is_taken_out_of_the_file(bench: Bench) -> None:
    path = bench.file(4)
    other = bench.file(2, first=10)
    bench.destination.script.extend([Delivered(), Hold("HTTP 401: who are you", 401)])
    report = bench.replay(settings=dataclasses.replace(bench.settings, batch_size=2)).run()
    assert report.stopped is not None
    assert (report.stopped.kind, report.stopped.reason) == ("held", "HTTP 401: who are you")
    assert len(bench.destination.batches) == 2
    assert [event["data"]["number"] for event in failed.read(path).events] == [2, 3]
    assert len(failed.read(other).events) == 2
    bench.destination.script.clear()
    assert bench.replay().run().delivered == 4
    assert bench.left() == []


def test_an_outcome_nobody_knows_costs_time_but_no_event(bench: Bench) -> None:
    bench.file(1)
    bench.destination.answer = lambda batch: "fine"  # type: ignore[assignment,return-value]
    report = bench.replay(pace=Pace(tries=2)).run()
    assert report.stopped is not None
    assert len(bench.left()) == 1


def test_an_interrupted_replay_keeps_what_it_has_achieved(bench: Bench) -> None:
    path = bench.file(4)

    def answer(batch: Batch) -> Outcome:
        if 2 in numbers(batch.events):
            raise KeyboardInterrupt
        return Delivered()

    bench.destination.answer = answer
    run = bench.replay(settings=dataclasses.replace(bench.settings, batch_size=2))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.report.delivered == 2
    assert [event["data"]["number"] for event in failed.read(path).events] == [2, 3]
    assert bench.destination.closed == 1


# --- which, and how fast ----------------------------------------------------------------------------------------------


def test_files_are_selected_by_the_time_of_failure_and_by_status(bench: Bench) -> None:
    bench.file(1, failed_at=NOW, status=400, first=0)
    bench.file(1, failed_at=NOW + 100, status=422, first=10)
    bench.file(1, failed_at=NOW + 200, status=400, first=20)

    def sent(**fields: Any) -> list[int]:
        report = bench.replay(selection=Selection(**fields)).dry_run()
        names = [each.path for each in report.files]
        assert report.passed_over == 3 - len(names)
        return [failed.read(name).events[0]["data"]["number"] for name in names]

    assert sent() == [0, 10, 20]
    assert sent(since=NOW + 100) == [10, 20]
    assert sent(until=NOW + 100) == [0]
    assert sent(since=NOW + 1, until=NOW + 200) == [10]
    assert sent(statuses={400}) == [0, 20]
    assert sent(statuses={400, 422}) == [0, 10, 20]
    assert sent(statuses={500}) == []


def test_a_file_that_does_not_say_when_it_failed_counts_by_its_own_time(bench: Bench) -> None:
    path = bench.text("a.json", '[{"type": "t"}]')
    os.utime(path, (NOW, NOW))
    assert bench.replay(selection=Selection(since=NOW + 1)).run().passed_over == 1
    assert bench.replay(selection=Selection(since=NOW)).run().delivered == 1
    assert bench.destination.batches[0].events[0].time == NOW


def test_the_limit_counts_events_across_files(bench: Bench) -> None:
    bench.file(2)
    path = bench.file(3, first=10)
    bench.file(2, first=20)
    assert bench.replay(selection=Selection(limit=4)).dry_run().delivered == 4
    report = bench.replay(selection=Selection(limit=4)).run()
    assert [n for batch in bench.destination.batches for n in numbers(batch.events)] == [0, 1, 10, 11]
    assert [event["data"]["number"] for event in failed.read(path).events] == [12]
    assert (report.delivered, report.complete) == (4, True)
    assert bench.replay().run().delivered == 3


def test_the_rate_is_kept_without_bursts(bench: Bench) -> None:
    bench.file(25)
    began = bench.clock.monotonic()
    bench.replay(pace=Pace(rate=10.0)).run()
    assert [len(batch) for batch in bench.destination.batches] == [10, 10, 5]
    assert bench.clock.monotonic() - began == pytest.approx(2.0)
    bench.file(3, first=100)
    bench.waits.clear()
    bench.replay(pace=Pace(rate=0.5)).run()
    assert bench.waits == pytest.approx([2.0, 2.0])


def test_the_configured_rate_is_the_default(bench: Bench) -> None:
    bench.file(4)
    bench.replay(settings=dataclasses.replace(bench.settings, max_rate=2.0)).run()
    assert [len(batch) for batch in bench.destination.batches] == [2, 2]


def test_progress_is_told_after_each_batch(bench: Bench) -> None:
    bench.file(3)
    path = bench.file(1, first=10)
    bench.destination.answer = poisoned(0)
    told: list[Progress] = []
    bench.replay(on_progress=told.append, settings=dataclasses.replace(bench.settings, batch_size=1)).run()
    assert [(each.done, each.selected, each.delivered, each.refused) for each in told] == [
        (1, 3, 0, 1), (2, 3, 1, 1), (3, 3, 2, 1), (1, 1, 3, 1),
    ]  # fmt: skip
    assert (told[-1].path, told[-1].number, told[-1].files) == (path, 2, 2)


def test_a_dry_run_needs_no_url_sends_nothing_and_changes_nothing(bench: Bench) -> None:
    bench.file(2)
    bench.text("bad.json", "{")
    before = {p: p.stat() for p in bench.directory.rglob("*")}
    report = bench.replay(settings=dataclasses.replace(bench.settings, url=None)).dry_run()
    assert [(each.state, each.delivered) for each in report.files] == [("would replay", 2), ("broken", 0)]
    assert {p: p.stat() for p in bench.directory.rglob("*")} == before
    assert bench.destination.batches == []


# --- files of every kind ----------------------------------------------------------------------------------------------


BROKEN = {
    "no JSON": "{",
    "text": "hello\nworld\n",
    "empty": "",
    "a number": "5",
    "another document": '{"some": "thing"}',
    "no array": '{"schema": 1, "events": {}}',
    "no schema": '{"events": []}',
    "a newer schema": '{"schema": 99, "events": []}',
    "ids that do not fit": '{"schema": 1, "events": [{"type": "t"}], "ids": ["a", "b"]}',
    "ids of the wrong type": '{"schema": 1, "events": [{"type": "t"}], "ids": [7]}',
    "times of the wrong type": '{"schema": 1, "events": [{"type": "t"}], "times": [true]}',
    "a time beyond calendars": '{"schema": 1, "events": [{"type": "t"}], "times": [1e300]}',
    "a time that is none": '{"schema": 1, "events": [{"type": "t"}], "times": [NaN]}',
    "no event": '[{"name": "there is no type"}]',
    "one that is none": '[{"type": "t"}, 7]',
    "an unknown format": '{"schema": 1, "format": "nobody-knows", "events": [{"type": "t"}]}',
    "lines of which one is broken": '[{"type": "t"}]\n[{"type": \n',
    "too deep": "[" * 100_000,
    "a time in the event that is none": '[{"type": "t", "time": "yesterday"}]',
    "base64 that is none": '[{"base64": "?"}]',
    "a lone surrogate": '[{"type": "\\ud800"}]',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_reported_and_left_and_the_others_are_sent(bench: Bench, content: str) -> None:
    path = bench.text("0-broken.json", content)
    bench.file(2)
    report = bench.replay().run()
    assert [(each.state, each.delivered) for each in report.files] == [("broken", 0), ("replayed", 2)]
    assert report.files[0].reason
    assert not report.complete
    assert bench.left() == ["0-broken.json"]
    assert Path(path).read_text(encoding="utf-8") == content


def test_a_file_that_is_no_text_is_broken(bench: Bench) -> None:
    (bench.directory / "failed").mkdir(parents=True)
    (bench.directory / "failed" / "a.json").write_bytes(b"\xff\xfe\x00")
    (bench.directory / "failed" / "b.json").mkdir()
    assert [each.state for each in bench.replay().run().files] == ["broken", "broken"]


def test_a_bare_array_of_which_some_is_refused_keeps_the_ids_it_was_sent_under(bench: Bench) -> None:
    same = {"type": "t", "data": {"number": 7}}
    path = bench.text("a.json", json.dumps([same, {"type": "t", "data": {"number": 1}}, same]))
    bench.destination.answer = poisoned(7)
    bench.replay().run()
    first = [id for batch in bench.destination.batches if len(batch) == 1 for id in batch.ids]
    bench.destination.answer = Delivered()
    bench.destination.delivered.clear()
    bench.replay().run()
    assert bench.destination.delivered_ids == [first[0], first[2]]
    assert first[0] != first[2]  # equal events are two events
    assert bench.retired() == [os.path.basename(path)]


def test_a_file_of_arrays_a_line_is_replayed(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "err_missed_events.txt"
    lines: list[list[dict[str, object]]] = [
        [{"key": "a", "value": "x\u2028y", "epoch": 1.5}],
        [],
        [{"key": "b", "value": 1}, {"key": "c", "value": 2}],
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    settings = dataclasses.replace(bench.settings, format="json")
    bench.destination.answer = lambda batch: (
        Reject("no") if b'{"key":"b","value":1}' in [event.payload for event in batch.events] else Delivered()
    )
    report = bench.replay(str(path), settings=settings, route="bucket").run()
    assert (report.delivered, report.refused) == (2, 1)
    assert {batch.route for batch in bench.destination.batches} == {"bucket"}
    bench.destination.answer = Delivered()
    assert bench.replay(str(path), settings=settings).run().delivered == 1
    assert sorted(p.name for p in (tmp_path / "replayed").iterdir()) == ["err_missed_events.txt", "replay.lock"]
    assert not path.exists()


def test_an_event_whose_only_field_is_called_base64_is_an_event(bench: Bench) -> None:
    bench.text("a.json", '[{"base64": "aGVsbG8="}]')
    assert bench.replay(settings=dataclasses.replace(bench.settings, format="json")).run().delivered == 1
    assert bench.destination.batches[0].events[0].payload == b'{"base64":"aGVsbG8="}'


def test_a_file_that_is_written_to_meanwhile_is_left_alone(bench: Bench) -> None:
    path = bench.text("a.json", '[{"type": "t"}]')

    def answer(batch: Batch) -> Outcome:
        Path(path).write_text('[{"type": "t"}, {"type": "late"}]', encoding="utf-8")
        return Delivered()

    bench.destination.answer = answer
    report = bench.replay().run()
    assert report.files[0].state == "kept"
    assert "run the replay again" in report.files[0].reason
    assert not report.complete
    bench.destination.answer = Delivered()
    assert bench.replay().run().delivered == 2


def test_a_disk_that_takes_no_rewrite_costs_repeats_but_no_event(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.file(2)
    content = Path(path).read_bytes()
    bench.destination.answer = poisoned(1)

    def full(path: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failed, "write_whole", full)
        report = bench.replay().run()
    assert (report.files[0].state, report.delivered, report.complete) == ("kept", 1, False)
    assert "No space left" in report.files[0].reason
    assert Path(path).read_bytes() == content


def test_a_file_that_cannot_be_moved_is_reported(bench: Bench) -> None:
    path = bench.file(1)
    (bench.directory / "replayed").write_text("in the way", encoding="utf-8")
    report = bench.replay().run()
    assert (report.files[0].state, report.complete) == ("kept", False)
    assert os.path.exists(path)


def test_paths_are_files_queues_or_folders_and_none_is_taken_twice(bench: Bench, tmp_path: Path) -> None:
    path = bench.file(1)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("b.txt", "a.json", "c.csv"):
        (folder / name).write_text("[]", encoding="utf-8")
    assert find(str(bench.directory)) == [path]
    assert find("/nowhere", [str(bench.directory), path]) == [path]
    assert find("/nowhere", [str(folder)]) == [str(folder / "a.json"), str(folder / "b.txt")]
    assert find("/nowhere") == []


def test_a_missing_queue_is_nothing_to_replay_and_makes_none(bench: Bench) -> None:
    assert bench.replay().run().files == []
    assert not bench.directory.exists()


def test_two_replays_of_one_queue_do_not_both_send(bench: Bench) -> None:
    bench.file(1)

    def answer(batch: Batch) -> Outcome:
        with pytest.raises(ReplayBusy):
            bench.replay().run()
        return Delivered()

    bench.destination.answer = answer
    assert bench.replay().run().delivered == 1
    assert len(bench.destination.batches) == 1
    assert os.stat(bench.directory / "replay.lock").st_mode & 0o777 == 0o600


def test_without_a_url_nothing_is_sent(bench: Bench) -> None:
    bench.file(1)
    with pytest.raises(ConfigError, match="url"):
        Replay(dataclasses.replace(bench.settings, url=None)).run()
    assert len(bench.left()) == 1


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("", encoding="utf-8")
    with pytest.raises(FailedFileError):
        Replay(Settings(path=str(tmp_path))).run()


# --- nothing is ever lost ---------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    bad=st.sets(st.integers(0, 40)),
    script=st.lists(st.sampled_from(["yes", "retry", "lost", "large", "hold", "crash"]), max_size=12),
    batch_size=st.integers(1, 7),
    limit=st.none() | st.integers(1, 10),
)
def test_every_event_is_delivered_or_in_a_file_whatever_happens(
    sizes: list[int], bad: set[int], script: list[str], batch_size: int, limit: int | None
) -> None:
    # Nothing here loses its power: without flushes there is time for more examples.
    with tempfile.TemporaryDirectory() as directory, mock.patch("os.fsync"):
        bench = Bench(Path(directory), FakeClock())
        numbered: dict[str, int] = {}
        for place, size in enumerate(sizes):
            if size:
                payload = failed.read(bench.file(size, first=place * 13))
                numbered.update(zip(payload.ids, range(place * 13, place * 13 + size), strict=True))
        arrived: set[str] = set()
        happens = deque(script)

        def answer(batch: Batch) -> Outcome:
            what = happens.popleft() if happens else "yes"
            if what == "crash":
                raise KeyboardInterrupt
            if what in ("yes", "lost"):
                if set(numbers(batch.events)) & bad:
                    return Reject("HTTP 400", 400)
                arrived.update(batch.ids)
                return Delivered() if what == "yes" else Retry("no reply", everywhere=True)
            if what == "large":
                return TooLarge("HTTP 413", 413)
            return Hold("HTTP 401", 401) if what == "hold" else Retry("HTTP 503", 503)

        bench.destination.answer = answer
        settings = dataclasses.replace(bench.settings, batch_size=batch_size)
        while True:
            last = not happens
            selection = Selection(limit=None if last else limit)
            with contextlib.suppress(KeyboardInterrupt):
                bench.replay(settings=settings, pace=Pace(tries=2), selection=selection).run()
            kept = {id for path in find(directory) for id in failed.read(path).ids}
            assert arrived | kept == set(numbered)
            if last or not kept:
                break
        assert kept == {id for id, number in numbered.items() if number in bad}
        assert arrived == set(numbered) - kept


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_event = st.just({"type": "t"}) | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("type", "id", "time", "source", "data", "base64", "timecorrected"), _values)
)
_document = st.fixed_dictionaries(
    {"schema": st.just(1) | _values, "events": st.lists(_event, max_size=3) | _values},
    optional=dict.fromkeys(("ids", "times", "reason", "failed_at", "route", "format", "endpoint", "attempts"), _values),
)


_contents = (_document | st.lists(_event, max_size=3) | _values).map(json.dumps) | st.text(max_size=30)


@given(content=_contents, bad=st.booleans())
def test_whatever_is_in_a_file_it_is_replayed_or_reported_and_never_gone(content: str, bad: bool) -> None:
    with tempfile.TemporaryDirectory() as directory, mock.patch("os.fsync"):
        bench = Bench(Path(directory), FakeClock())
        path = bench.text("a.json", content)
        bench.destination.answer = lambda batch: Reject("no") if bad and len(batch) != 2 else Delivered()
        (result,) = bench.replay().run().files
        assert result.state in ("replayed", "partly", "kept", "broken")
        if result.state in ("kept", "broken"):
            assert Path(path).read_bytes() == content.encode()
        elif result.state == "replayed":
            assert bench.retired() == ["a.json"]
        else:
            assert len(failed.read(path).events) == result.events - result.delivered
