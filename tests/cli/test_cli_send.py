"""`edgespool send`: an id that was printed is a promise."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from cli_kit import Cli, Start, interrupt, record

from edgespool import Client
from edgespool.cli.exits import Exit
from edgespool.testing import Collector


def waiting(cli: Cli, *options: str) -> list[dict[str, object]]:
    events: list[dict[str, object]] = json.loads(cli("peek", "1000", "--json", *options).out)["events"]
    return events


def test_an_event_from_arguments(cli: Cli, home: Path) -> None:
    shown = cli("send", "door", "state=open", "n:=3", "list:=[1, null]", "url=http://x/?a:=b", "empty=", "v:=-1.5")
    assert (shown.code, shown.err) == (0, "")
    (event,) = waiting(cli)
    assert shown.out == f"{event['id']}\n"
    assert event["event"]["type"] == "door"  # type: ignore[index]
    assert event["event"]["data"] == {  # type: ignore[index]
        "state": "open", "n": 3, "list": [1, None], "url": "http://x/?a:=b", "empty": "", "v": -1.5,
    }  # fmt: skip
    assert (home / "default" / "queue.db").exists()


def test_an_event_with_everything(cli: Cli) -> None:
    options = ["--data", '{"a": 1, "b": 2}', "--time", "2026-03-01T12:00:00Z", "--id", "mine", "--route", "r"]
    assert cli("send", "door", "b=3", *options, "--name", "k").out == "mine\n"
    (event,) = waiting(cli)
    assert (event["id"], event["time"], event["route"]) == ("mine", 1772366400.0, "r")
    assert event["event"]["data"] == {"a": 1, "b": "3"}  # type: ignore[index]


def test_quiet_prints_no_id(cli: Cli) -> None:
    assert cli("send", "-q", "door").out == ""
    assert cli("send", "-q", "-", stdin='{"name": "a"}').out == ""
    assert len(waiting(cli)) == 2


GOOD = [
    '{"name": "a", "data": {"x": 1}}',
    '{"name": "b", "time": 1.5, "id": "my-id", "route": "r", "data": {}}',
    '{"name": "c", "time": "2026-03-01T12:00:00+01:00"}',
    '{"name": "d", "data": null, "time": null, "id": null, "route": null}',
]
BAD = [
    "{",
    "[]",
    "5",
    '"text"',
    "{}",
    '{"name": ""}',
    '{"name": 5}',
    '{"name": "a", "data": [1]}',
    '{"name": "a", "vaule": 1}',
    '{"name": "a", "time": "noon"}',
    '{"name": "a", "time": true}',
    '{"name": "a", "time": 1e300}',
    '{"name": "a", "data": {"x": NaN}}',
    '{"name": "a", "id": 7}',
    '{"name": "a", "route": 7}',
    '{"name": "\\ud800"}',
    "[" * 100_000,
]


def test_lines_from_standard_input(cli: Cli) -> None:
    text = "\ufeff" + "\n".join([GOOD[0], "", "  ", *GOOD[1:]])
    shown = cli("send", "--stdin", stdin=text)
    assert (shown.code, shown.err) == (0, "")
    events = waiting(cli)
    assert shown.out.split() == [event["id"] for event in events]
    assert [event["event"]["type"] for event in events] == ["a", "b", "c", "d"]  # type: ignore[index]
    assert [event["time"] for event in events][1:3] == [1.5, 1772362800.0]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_reported_with_its_number_and_passed_over(cli: Cli, line: str) -> None:
    shown = cli("send", "-", stdin="\n".join([GOOD[0], "", line, GOOD[0]]))
    assert shown.code == Exit.ATTENTION
    assert len(shown.out.split()) == 2
    assert shown.err.startswith("line 3: ")
    assert shown.err.endswith("1 bad line passed over\n")


def test_bytes_that_are_no_text_and_lines_without_end_are_bad_lines(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespool.cli import send

    monkeypatch.setattr(send, "_LONGEST_LINE", 1000)
    long = b'{"name": "a", "data": {"x": "' + b"x" * 5000 + b'"}}'
    shown = cli("send", "-", stdin=b'\xff\n{"name": "a"}\n' + long + b'\n{"name": "b"}\n' + long)
    assert shown.code == Exit.ATTENTION
    assert [line.split(":")[0] for line in shown.err.splitlines()[:-1]] == ["line 1", "line 3", "line 5"]
    assert len(shown.out.split()) == 2


def test_strict_stops_at_the_first_bad_line(cli: Cli) -> None:
    shown = cli("send", "-", "--strict", stdin="\n".join([GOOD[0], "{", GOOD[0]]))
    assert shown.code == Exit.ATTENTION
    assert len(waiting(cli)) == 1
    assert "line 2" in shown.err


def test_an_event_that_is_too_large_is_refused(cli: Cli) -> None:
    shown = cli("send", "a", "x=" + "x" * 600_000)
    assert shown.code == Exit.USAGE
    assert waiting(cli) == []


def test_a_full_queue_is_said_and_nothing_is_claimed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPOOL_MAX_BYTES", "1 MiB")
    line = json.dumps({"name": "a", "data": {"x": "x" * 50_000}})
    shown = cli("send", "-", stdin="\n".join([line] * 40))
    assert shown.code == Exit.ATTENTION
    accepted = shown.out.split()
    assert 5 < len(accepted) < 40
    assert f"stopped at line {len(accepted) + 1}" in shown.err
    assert [event["id"] for event in waiting(cli)] == accepted


def test_each_line_is_on_disk_before_the_next_is_read(start: Start, cli: Cli) -> None:
    process = start("send", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    ids = []
    for number in range(3):
        process.stdin.write(b'{"name": "n", "data": {"number": %d}}\n' % number)
        process.stdin.flush()
        ids.append(process.stdout.readline().decode().strip())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [event["id"] for event in waiting(cli)] == ids


def test_sending_stops_when_nobody_reads_the_ids(start: Start, cli: Cli) -> None:
    process = start("send", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"name": "n"}\n')
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b'{"name": "n"}\n' * 5)
    process.stdin.close()
    process.wait(20)
    assert process.returncode == Exit.ATTENTION
    assert process.stderr is not None
    assert process.stderr.read() == b"standard output was closed; stopped after line 2\n"
    assert len(waiting(cli)) == 2


def test_ctrl_c_ends_it_with_130_and_no_traceback(start: Start) -> None:
    process = start("send", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"name": "n"}\n')
    process.stdin.flush()
    process.stdout.readline()
    ended = interrupt(process)
    assert ended.code == Exit.INTERRUPTED
    assert ended.err.strip() == "Interrupted"


# --- --wait -----------------------------------------------------------------------------------------------------------


def test_wait_delivers_what_is_new_and_what_was_there(cli: Cli, collector: Collector, home: Path) -> None:
    before = record(home / "default", 2)
    shown = cli("send", "--wait", "door", "a=1", "--url", collector.url)
    assert (shown.code, shown.err) == (0, "")
    assert collector.ids() == [*before, shown.out.strip()]
    shown = cli("send", "--wait", "5", "-", "--url", collector.url, stdin="\n".join(GOOD))
    assert shown.code == 0
    assert sorted(collector.ids()[3:]) == sorted(shown.out.split())  # in order within a route


def test_a_name_after_wait_is_a_name(cli: Cli, collector: Collector) -> None:
    assert cli("send", "--wait", "door", "--url", collector.url).code == 0
    assert cli("send", "--wait=5s", "door", "--url", collector.url).code == 0
    assert cli("send", "door", "--url", collector.url, "--wait").code == 0
    assert [event["type"] for event in collector.events()] == ["door"] * 3


def test_wait_says_when_the_server_cannot_be_reached(cli: Cli) -> None:
    shown = cli("send", "door", "--wait", "0.3", "--url", "http://127.0.0.1:9/")
    assert shown.code == Exit.SERVER
    assert "no connection" in shown.err
    assert "1 event on disk" in shown.err
    assert len(waiting(cli)) == 1


def test_wait_does_not_wait_for_a_server_that_refuses_everything(cli: Cli, collector: Collector) -> None:
    collector.set_fault(status=401)
    shown = cli("send", "door", "--wait", "60", "--url", collector.url)
    assert shown.code == Exit.SERVER
    assert "401" in shown.err
    assert len(waiting(cli)) == 1


def test_wait_says_what_was_refused(cli: Cli, collector: Collector, home: Path) -> None:
    collector.set_fault(poison={"name": "bad"})
    text = '{"name": "bad"}\n{"name": "good"}\n'
    shown = cli("send", "-", "--wait", "10", "--url", collector.url, stdin=text)
    assert shown.code == Exit.ATTENTION
    assert "1 event refused" in shown.err
    assert [event["type"] for event in collector.events()] == ["good"]
    assert len(os.listdir(home / "default" / "failed")) == 1


def test_wait_leaves_the_sending_to_another_sender(start: Start, collector: Collector, home: Path) -> None:
    with Client(collector.url, path=str(home / "default"), flush_interval=0.0) as client:
        client.record("first")
        assert client.flush(10)
        process = start("send", "door", "--wait", "10", "--name", "default", "--url", collector.url + "/other")
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, b"")
        assert collector.ids()[1:] == out.decode().split()
    assert {record.path for record in collector.requests()} == {"/v1/events"}
