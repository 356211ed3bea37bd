"""`edgespool source run` under kills, signals and full queues, and its options; what a source reports, row by row."""

from __future__ import annotations

import base64
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from panoply_kit import Runs, numbers

from edgespool import Client
from edgespool.config import Settings
from edgespool.testing import Collector
from edgespool.vendors.panoply import runner
from edgespool.vendors.panoply.device import Device

#: Reads five rows at a time. `kill` names rows at whose reading the process kills itself, once each; `wait` one at
#: which it waits for a file; `size` makes the rows large, `pause` the reading slow.
SOURCE = '''
import os, signal, sys, time
import panoply

CONFIG = {"params": [{"name": "count"}, {"name": "kill"}, {"name": "wait"}, {"name": "token"}, {"name": "size"},
                     {"name": "pause"}]}


class Stream(panoply.DataSource):
    def __init__(self, source, options):
        super().__init__(source, options)
        self.next = int((source.get("state") or {}).get("next", 0))
        self.by = f"{os.getpid()} {time.time_ns()}"  # else a row read twice would pass for one sent twice
        print("began at", self.next, flush=True)

    def read(self, n=None):
        if self.next >= int(self.source["count"]):
            return None
        if str(self.next) in self.source.get("kill", "").split() and not os.path.exists(f"killed-{self.next}"):
            open(f"killed-{self.next}", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if str(self.next) == self.source.get("wait"):
            print("waiting", flush=True)
            while not os.path.exists("go on"):
                time.sleep(0.005)
        if self.source.get("token") == "old":
            self.fire("source-change", {"token": "new"})
        time.sleep(float(self.source.get("pause", 0)))
        filler = "x" * int(self.source.get("size", 1))
        rows = [{"n": number, "table": f"t{number % 2}", "filler": filler, "by": self.by, "__state": f"s{self.next}"}
                for number in range(self.next, self.next + 5)]
        self.next += 5
        self.progress(self.next, int(self.source["count"]), "numbers")
        self.state(f"s{self.next - 5}", {"next": self.next})
        return rows

    def close(self):
        open("closed", "a").write("closed\\n")
'''


@pytest.fixture
def runs(tmp_path: Path, collector: Collector) -> Runs:
    return Runs(tmp_path, collector.base_url, SOURCE)


def said_by(process: subprocess.Popen[str], what: str) -> None:
    """Read what a process says until it says this."""
    assert process.stdout is not None
    for line in process.stdout:
        if what in line:
            return
    raise AssertionError(f"it ended, and never said {what!r}")


# Kills: no row is lost, none is read twice


def test_killed_again_and_again_in_mid_read_it_loses_no_row_and_reads_none_twice(
    runs: Runs, collector: Collector
) -> None:
    kills = "0 5 15 20 35"
    ended = [runs("--param", "count=40", "--param", f"kill={kills}").returncode for _ in range(6)]
    assert ended == [-9] * 5 + [0]
    assert sorted(numbers(collector)) == list(range(40))


def test_killed_while_it_only_waits_for_the_delivery_it_is_not_read_again(runs: Runs, collector: Collector) -> None:
    collector.set_fault(status=503)
    with runs.start("--param", "count=20") as process:
        said_by(process, "20 rows stored")
        process.kill()
    collector.heal()
    done = runs("--param", "count=20")
    assert done.returncode == 0, done.stderr
    assert "began at" not in done.stdout
    assert "the last run had read all" in done.stdout
    assert sorted(numbers(collector)) == list(range(20))
    assert runs("--param", "count=20").returncode == 0  # that one came to its end: this is another
    assert sorted(numbers(collector)) == sorted([*range(20), *range(20)])


def test_killed_at_any_moment_it_loses_no_row_and_reads_none_twice(runs: Runs, collector: Collector) -> None:
    draw = random.Random(7)
    states = runner.States(str(runs.place / "queues" / "source-my_source"))
    killed = 0
    while not _ended(states):
        with runs.start("--param", "count=400", "--param", "pause=0.005") as process:
            try:
                process.wait(0.25 + draw.uniform(0.0, 0.3) if killed < 12 else 30)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
    assert killed
    settings = {"path": str(runs.place / "queues" / "source-my_source"), "auth": Device.auth, "format": "panoply"}
    with Client(runs.url, config_file=os.devnull, start=False, **settings) as client:
        assert client.stats().pending <= 2  # the last word of the run, which is nothing to send
    assert sorted(numbers(collector)) == list(range(400))


def _ended(states: runner.States) -> bool:
    """Whether the last run has come to its end."""
    known = states.load("my_source")
    return known.number > 0 and not known.read and not known.state


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_request_to_end_closes_the_source_and_keeps_what_was_read(
    runs: Runs, collector: Collector, number: signal.Signals, code: int
) -> None:
    with runs.start("--param", "count=20", "--param", "wait=10") as process:
        said_by(process, "waiting")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert runs.closed == 1
    (runs.place / "go on").touch()
    done = runs("--param", "count=20")
    assert done.returncode == 0, done.stderr
    assert "began at 10" in done.stdout
    assert sorted(numbers(collector)) == list(range(20))


# A full queue


def test_a_full_queue_that_is_held_ends_the_run_and_the_next_one_goes_on(runs: Runs, collector: Collector) -> None:
    collector.set_fault(status=403)
    big = ("--param", "count=200", "--param", "size=20000")
    first = runs(*big, "--wait", "30", max_bytes="1MiB")
    assert first.returncode == 4, first.stderr
    assert "the queue is full; waiting for the delivery" in first.stderr
    assert "403" in first.stderr
    assert "run it again to go on" in first.stderr
    assert runs.closed == 1
    collector.heal()
    second = runs(*big, max_bytes="1MiB")
    assert second.returncode == 0, second.stderr
    assert "began at 0" not in second.stdout
    assert sorted(numbers(collector)) == list(range(200))


def test_a_full_queue_whose_delivery_gets_nowhere_ends_the_run_after_the_wait(runs: Runs, collector: Collector) -> None:
    collector.set_fault(status=503)
    done = runs("--param", "count=200", "--param", "size=20000", "--wait", "0.5", max_bytes="1MiB")
    assert done.returncode == 4, done.stderr
    assert "503" in done.stderr
    assert "not delivered" in done.stderr


def test_a_full_queue_that_empties_only_slows_the_run_down(runs: Runs, collector: Collector) -> None:
    done = runs("--param", "count=200", "--param", "size=20000", max_bytes="1MiB")
    assert done.returncode == 0, done.stderr
    assert sorted(numbers(collector)) == list(range(200))


def test_what_is_on_disk_at_the_end_is_counted_in_rows(runs: Runs, collector: Collector) -> None:
    collector.set_fault(status=503)
    done = runs("--param", "count=15", "--wait", "0.3")
    assert done.returncode == 4
    assert "15 rows on disk" in done.stderr


# Options


@pytest.mark.parametrize(
    "arguments",
    [
        ("--count", "5", "./my_source.py"),
        ("--count=5", "./my_source.py"),
        ("--param", "count=5", "--keep-state", "./my_source.py", "--wait", "20"),
        ("./my_source.py", "--count", "5"),
        ("--verbose", "--count", "5", "--", "./my_source.py"),
    ],
)
def test_the_sources_own_options_may_stand_before_it(
    runs: Runs, collector: Collector, arguments: tuple[str, ...]
) -> None:
    done = runs(*arguments)
    assert done.returncode == 0, done.stderr
    assert numbers(collector) == list(range(5))


def test_a_kept_state_is_where_the_next_run_goes_on_unless_it_restarts(runs: Runs, collector: Collector) -> None:
    assert runs("--param", "count=10", "--keep-state").returncode == 0
    done = runs("--param", "count=20", "--keep-state")
    assert "began at 10" in done.stdout
    assert numbers(collector) == list(range(20))
    done = runs("--param", "count=5", "--keep-state", "--restart")
    assert "began at 0" in done.stdout
    assert numbers(collector) == [*range(20), *range(5)]


def test_a_run_that_came_to_its_end_is_not_gone_on_with(runs: Runs, collector: Collector) -> None:
    for _ in range(2):
        done = runs("--param", "count=10")
        assert "began at 0" in done.stdout
    assert numbers(collector) == [*range(10), *range(10)]


def test_what_the_source_changes_is_saved_in_the_file_of_its_parameters(runs: Runs) -> None:
    file = runs.place / "params.json"
    file.write_text(json.dumps({"count": 5, "token": "old", "mine": [1]}))
    done = runs("--params-file", "params.json")
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text()) == {"count": 5, "token": "new", "mine": [1]}
    assert file.stat().st_mode & 0o777 == 0o600
    done = runs("--param", "count=5", "--param", "token=old")
    assert "for this run only; give a --params-file to keep it" in done.stderr
    assert "new" not in done.stderr


def test_two_runs_of_one_source_are_one_too_many(runs: Runs, collector: Collector) -> None:
    with runs.start("--param", "count=10", "--param", "wait=5") as process:
        said_by(process, "waiting")
        second = runs("--param", "count=10")
        (runs.place / "go on").touch()
        assert process.wait(30) == 0
    assert second.returncode == 1
    assert "another process runs the source" in second.stderr
    assert "Traceback" not in second.stderr
    assert sorted(numbers(collector)) == list(range(10))


def test_a_field_in_the_table_stands_for_that_field_of_each_row(runs: Runs, collector: Collector) -> None:
    assert runs("--param", "count=5", "--destination", "numbers_{table}").returncode == 0
    assert [event["__table"] for event in collector.events()] == [f"numbers_t{n % 2}" for n in range(5)]
    done = runs("--param", "count=5", "--destination", "numbers_{nothing}", "--restart")
    assert done.returncode == 1
    assert "row 1 has no field 'nothing'" in done.stderr


def test_on_a_terminal_a_bar_shows_the_progress(runs: Runs, collector: Collector) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            runs.command("--param", "count=10"), stdout=subprocess.DEVNULL, stderr=theirs, cwd=runs.place,
            env={**runs.environment(), "TERM": "xterm", "COLUMNS": "80"},
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux: the other end was closed
                break
            if not part:
                break
            shown += part
        assert process.wait(30) == 0
    finally:
        os.close(ours)
    assert b"10/10" in shown
    assert b"numbers" in shown


# Two accounts

#: Another account's key and secret; invented.
OTHER = "other/k3y:" + base64.b64encode(b"q1w2e3/0-other-0000/123456789012/us-east-1").decode()


def accounts(collector: Collector, since: int = 0) -> set[str]:
    """Return whose queues were sent to; the collector sees to it that key and secret were the same account's."""
    return {each.path.split("/sdk-")[1].split("-")[0] for each in collector.requests()[since:]}


def test_rows_of_one_account_never_go_out_with_the_key_of_another(runs: Runs, collector: Collector) -> None:
    collector.set_fault(status=503)
    assert runs("--param", "count=10", "--wait", "0.3").returncode == 4
    collector.heal()
    before = len(collector.requests())
    refused = runs("--param", "count=5", auth=OTHER)
    assert refused.returncode == 2, refused.stderr
    assert "10 row(s) in " in refused.stderr
    assert "edgespool deliver --path" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert OTHER.split(":")[1] not in refused.stderr
    assert len(collector.requests()) == before
    place = runs.place / "queues" / "source-my_source"
    delivered = subprocess.run(
        [sys.executable, "-m", "edgespool", "deliver", "--path", str(place), "--wait", "1"],
        env=runs.environment(), cwd=runs.place, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert accounts(collector) == {"demo"}, delivered.stderr
    assert sorted(numbers(collector)) == list(range(10))
    before = len(collector.requests())
    taken = runs("--param", "count=5", "--restart", auth=OTHER)
    assert taken.returncode == 0, taken.stderr
    assert accounts(collector, before) == {"other"}
    assert sorted(numbers(collector)) == sorted([*range(10), *range(5)])


def test_a_new_key_is_no_news_where_no_row_waits(runs: Runs, collector: Collector) -> None:
    assert runs("--param", "count=5").returncode == 0
    done = runs("--param", "count=5", auth=OTHER)
    assert done.returncode == 0, done.stderr
    assert accounts(collector) == {"demo", "other"}


def test_a_run_with_another_key_is_refused_while_one_is_at_work(runs: Runs, collector: Collector) -> None:
    with runs.start("--param", "count=10", "--param", "wait=5") as process:
        said_by(process, "waiting")
        second = runs("--param", "count=10", auth=OTHER)
        (runs.place / "go on").touch()
        assert process.wait(30) == 0
    assert second.returncode == 2
    assert "takes the events of another account. Give this run a --name" in second.stderr
    assert accounts(collector) == {"demo"}


# Which state belongs to which rows

Step = dict[str, Any]


class Script:
    """A source that reports and returns what a script says, step by step."""

    def __init__(self, source: dict[str, Any], options: dict[str, Any], steps: Iterator[Step]) -> None:
        self.handed = source.get("state")
        self._tell = options["events"]["source-state"]
        self._steps = steps

    def read(self, n: int | None = None) -> Any:
        step = next(self._steps, None)
        if step is None:
            return None
        for name, state in step.get("states", {}).items():
            self._tell({"stateId": name, "state": state})
        if "fails" in step:
            raise step["fails"]
        return step["rows"]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Play steps, and return the run's report, the runner's states and the client."""
    path = str(tmp_path / "queue")
    settings = Settings(url="http://127.0.0.1:9/", format="panoply", auth=tuple(Device.auth.split(":", 1)), path=path)
    opened: list[Client] = []

    def one(*steps: Step, fails: type[Exception] | None = None, ends: bool = False, **given: Any) -> Any:
        client, states = runner.open_queue(settings, os.devnull)
        opened.append(client)
        left = iter(steps)
        job = runner.Runner(
            "s", lambda source, options: Script(source, options, left), {}, client, states, sleep=lambda s: None,
            **given,
        )  # fmt: skip
        with job:
            if fails is None:
                job.run()
            else:
                with pytest.raises(fails):
                    job.run()
            if ends:
                job.end()
        client.close(0)
        return job.report, states.load("s")

    yield one
    for client in opened:
        client.close(0)


class Stop(Exception):
    """Ends a script's run at once."""

    retryable = False


def rows(*states: str | None) -> list[dict[str, Any]]:
    return [{"n": n} if state is None else {"n": n, "__state": state} for n, state in enumerate(states)]


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ([{"states": {"a": {"x": 1}}, "rows": rows("a")}], {"x": 1}),
        ([{"states": {"a": {"x": 1}}, "rows": rows(None)}], {"x": 1}),
        # reported ahead of its rows: not before they are stored
        ([{"states": {"a": {"x": 1}, "b": {"x": 2}}, "rows": rows("a", "a")}], {"x": 1}),
        ([{"states": {"a": {"x": 1}, "b": {"x": 2}}, "rows": rows("a")}, {"rows": rows("b")}], {"x": 2}),
        # reported behind its rows
        ([{"rows": rows("a")}, {"states": {"a": {"x": 1}}, "rows": rows("b")}], {"x": 1}),
        # merged, deeply
        ([{"states": {"a": {"p": {"x": 1, "y": 1}}}, "rows": rows("a")},
          {"states": {"b": {"p": {"y": 2}}}, "rows": rows("b")}], {"p": {"x": 1, "y": 2}}),
        # of rows that are raw, the id stands in their metadata
        ([{"states": {"a": {"x": 1}, "b": {"x": 2}},
           "rows": [{"type": "raw", "tag": "t", "raw": "AA==", "metadata": {"__state": "a", "k": 1}}]}], {"x": 1}),
        ([{"states": {"a": {"x": 1}}, "rows": []}], {}),
    ],
)  # fmt: skip
def test_a_state_is_stored_with_the_rows_it_belongs_to(
    play: Callable[..., Any], steps: list[Step], kept: dict[str, Any]
) -> None:
    report, stored = play(*steps, {"fails": Stop()}, fails=Stop)
    assert stored.state == kept == report.state
    assert not stored.read


def test_a_read_that_failed_leaves_no_state_behind(play: Callable[..., Any]) -> None:
    report, stored = play(
        {"states": {"a": {"x": 1}}, "rows": rows("a")},
        {"states": {"b": {"x": 2}}, "fails": OSError("passing")},
        {"rows": rows(None)},
        {"fails": Stop()},
        fails=Stop,
    )
    assert (report.retries, stored.state) == (1, {"x": 1})


def test_a_first_read_that_failed_leaves_no_state_behind_either(play: Callable[..., Any]) -> None:
    """There is no stored state to begin anew from: the source goes on as it is, and its rows are still to come."""
    report, stored = play(
        {"states": {"a": {"x": 1}}, "fails": OSError("passing")}, {"rows": rows(None)}, {"fails": Stop()}, fails=Stop
    )
    assert (report.retries, report.rows, stored.state) == (1, 1, {})


def test_a_read_that_fails_is_tried_again_three_times_and_no_more(play: Callable[..., Any]) -> None:
    report, _ = play(*[{"fails": OSError("down")}] * 3, {"rows": rows(None)})
    assert (report.retries, report.rows, report.complete) == (3, 1, True)
    report, _ = play(*[{"fails": OSError("down")}] * 4, fails=OSError, restart=True)
    assert (report.retries, report.complete) == (3, False)


def test_a_run_that_read_all_and_did_not_end_is_gone_on_with(play: Callable[..., Any]) -> None:
    _, stored = play({"states": {"a": {"x": 1}}, "rows": rows("a")}, keep_state=True)
    assert stored[1:] == ({"x": 1}, True)
    report, stored = play({"rows": rows(None)}, keep_state=True, ends=True)
    assert (report.rows, report.read_before) == (0, True)
    assert stored[1:] == ({"x": 1}, False)
    report, stored = play({"rows": rows(None)}, ends=True)
    assert (report.rows, report.resumed, stored.state) == (1, True, {})


@pytest.mark.parametrize("bad", ["text", b"bytes", {"n": 1}, 7, [1], ["row"]])
def test_what_is_no_list_of_rows_is_said_so(play: Callable[..., Any], bad: Any) -> None:
    report, _ = play({"rows": bad}, fails=runner.SourceError)
    assert report.rows == 0
