"""`status`, `peek`, `export`, `purge`: looking at a queue changes nothing; purging counts what it deletes."""

from __future__ import annotations

import json
import os
import pty
import time
from pathlib import Path

import pytest
from cli_kit import Cli, Start, damage, eventually, fail, interrupt, on_terminal, record, snapshot

from edgespool import Client, Event
from edgespool.cli.exits import Exit
from edgespool.queue import DiskQueue
from edgespool.testing import Collector

# --- status -----------------------------------------------------------------------------------------------------------


def test_status_of_a_queue_that_nobody_works_on(cli: Cli, home: Path) -> None:
    record(home / "q", 3)
    before = snapshot(home)
    shown = cli("status", "--json")
    found = json.loads(shown.out)
    assert shown.code == 0
    assert (found["accepted"], found["pending"], found["delivered"], found["failed"]) == (3, 3, 0, 0)
    assert 0 <= found["oldest_age"] < 60
    assert found["bytes_on_disk"] > 0
    assert found["sender"]["running"] is False
    assert found["failed_files"] == found["quarantine_files"] == found["damaged_folders"] == 0
    text = cli("status").out
    assert "none is running" in text
    assert "\x1b" not in text
    assert snapshot(home) == before


def test_status_of_a_queue_with_a_live_sender(cli: Cli, home: Path, collector: Collector) -> None:
    with Client(collector.url, path=str(home / "q"), flush_interval=0.0) as client:
        client.record("a")
        assert client.flush(10)
        found = json.loads(cli("status", "--json").out)
        assert found["sender"]["running"] is True
        assert found["sender"]["state"] == "ok"
        assert found["sender"]["pid"] == os.getpid()
        assert (found["delivered"], found["pending"]) == (1, 0)
        assert "running, process" in cli("status").out
    assert json.loads(cli("status", "--json").out)["sender"]["running"] is False


def test_status_says_when_the_sender_is_held_or_the_server_away(cli: Cli, home: Path, collector: Collector) -> None:
    collector.set_fault(status=402)
    with Client(collector.url, path=str(home / "q"), flush_interval=0.0) as client:
        client.record("a")
        assert eventually(lambda: cli("status").code == Exit.SERVER)
        shown = cli("status")
        assert shown.code == Exit.SERVER
        assert "held" in shown.out
        assert "402" in shown.out
        assert "tries again in" in shown.out
        assert json.loads(cli("status", "--json").out)["sender"]["last_error"].startswith("HTTP 402")


def test_status_points_to_failed_files_and_damage(cli: Cli, home: Path, collector: Collector) -> None:
    collector.set_fault(status=400)
    fail(home / "q", collector.url, 1)
    (home / "q" / "quarantine").mkdir()
    (home / "q" / "quarantine" / "x.json").write_text("{}", encoding="utf-8")
    (home / "q" / "damaged" / "2026").mkdir(parents=True)
    shown = cli("status")
    assert shown.code == Exit.ATTENTION
    assert "1 file to replay" in shown.out
    found = json.loads(cli("status", "--json").out)
    assert (found["failed_files"], found["quarantine_files"], found["damaged_folders"]) == (1, 1, 1)


@pytest.mark.parametrize("as_json", [False, True])
def test_watch_shows_it_again_and_again(home: Path, start: Start, as_json: bool) -> None:
    record(home / "q", 1)
    process = start("status", "--watch", "0.1", *(["--json"] if as_json else []))
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    if as_json:
        assert [json.loads(line)["pending"] for line in lines] == [1, 1, 1]
    else:
        assert all(b"waiting 1 " in line for line in lines)
    ended = interrupt(process)
    assert ended.code == Exit.INTERRUPTED
    assert "Traceback" not in ended.err


def test_watch_on_a_terminal_is_drawn_in_place(home: Path) -> None:
    record(home / "q", 1)
    shown = on_terminal("status", "--watch=0.1", until=b"Ctrl-C ends")
    assert shown.code == Exit.INTERRUPTED
    assert "\x1b[" in shown.out
    assert "none is running" in shown.out


@pytest.mark.parametrize("terminal", [True, False], ids=["a terminal", "a pipe"])
def test_watch_ends_when_nobody_can_see_it(home: Path, start: Start, terminal: bool) -> None:
    record(home / "q", 1)
    ours, theirs = pty.openpty() if terminal else os.pipe()
    # In a session of its own: no SIGHUP tells it.
    process = start("status", "--watch=0.1", stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while b"waiting" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    process.wait(20)


# --- peek and export --------------------------------------------------------------------------------------------------


def test_peek_shows_events_of_all_routes_in_order_as_they_would_be_sent(cli: Cli, home: Path) -> None:
    with Client("http://127.0.0.1:9/", path=str(home / "q"), start=False, source="pi") as client:
        ids = [client.record_event(Event("n", {"i": i}, route=("", "b", "a")[i % 3])) for i in range(7)]
    before = snapshot(home)
    found = json.loads(cli("peek", "5", "--json").out)
    assert found["pending"] == 7
    assert [each["id"] for each in found["events"]] == ids[:5]
    event = found["events"][1]
    assert event["route"] == "b"
    assert event["event"]["id"] == ids[1]
    assert (event["event"]["source"], event["event"]["data"]) == ("pi", {"i": 1})
    assert abs(event["time"] - time.time()) < 60
    assert [each["id"] for each in json.loads(cli("peek", "--json", "--route", "a").out)["events"]] == ids[2::3]
    assert json.loads(cli("peek", "--json", "--route", "nobody").out)["events"] == []
    text = cli("peek")
    assert text.out.count("\n") == 14
    assert "7 of 7 events" in text.err
    assert snapshot(home) == before


def test_export_writes_every_event_and_removes_none(cli: Cli, home: Path, tmp_path: Path) -> None:
    ids = record(home / "q", 1203, text="Küche")
    ids += record(home / "q", 2, route="other")
    before = snapshot(home)
    shown = cli("export")
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["id"] for line in lines] == ids
    assert lines[0]["event"]["data"]["text"] == "Küche"
    assert shown.err == "1,205 events written\n"
    assert [json.loads(line)["id"] for line in cli("export", "--route", "other").out.splitlines()] == ids[-2:]
    target = tmp_path / "out.jsonl"
    assert cli("export", "-o", str(target)).out == ""
    assert target.read_text(encoding="utf-8") == shown.out
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
    assert snapshot(home) == before


def test_export_to_where_nothing_can_be_written_is_an_error(cli: Cli, home: Path) -> None:
    record(home / "q", 1)
    shown = cli("export", "-o", "/nowhere/out.jsonl")
    assert shown.code == Exit.ATTENTION
    assert "/nowhere/out.jsonl" in shown.err


def test_an_export_can_be_sent_from_elsewhere(cli: Cli, home: Path, tmp_path: Path, collector: Collector) -> None:
    ids = record(home / "q", 3)
    events = [json.loads(line)["event"] for line in cli("export").out.splitlines()]
    path = tmp_path / "events.txt"
    path.write_text("".join(json.dumps([event]) + "\n" for event in events), encoding="utf-8")
    assert cli("replay", "--url", collector.url, str(path)).code == 0
    assert collector.ids() == ids


def test_damaged_events_are_passed_over_and_said(cli: Cli, home: Path) -> None:
    ids = record(home / "q", 3)
    damage(home / "q")
    for name in ("peek", "export"):
        shown = cli(name)
        assert shown.code == Exit.ATTENTION
        assert "1 damaged event" in shown.err
    assert [json.loads(line)["id"] for line in cli("export").out.splitlines()] == ids[1:]
    assert json.loads(cli("peek", "--json").out)["damaged"] == 1


def test_a_file_that_is_no_queue_is_code_3(cli: Cli, home: Path) -> None:
    (home / "q").mkdir(parents=True)
    (home / "q" / "queue.db").write_bytes(b"garbage" * 1000)
    for name in ("status", "peek", "export"):
        shown = cli(name)
        assert shown.code == Exit.QUEUE
        assert "damaged" in shown.err
    assert (home / "q" / "queue.db").read_bytes() == b"garbage" * 1000


def test_looking_works_while_another_process_writes(home: Path, cli: Cli, start: Start) -> None:
    process = start("send", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"name": "n"}\n' * 500)
    process.stdin.flush()
    process.stdout.readline()
    for _ in range(5):
        found = json.loads(cli("status", "--json").out)
        assert found["accepted"] == found["pending"]
        assert len(cli("export").out.splitlines()) >= found["pending"]
        assert cli("doctor", "--json").code in (0, 1)
    process.stdin.close()
    assert process.wait(20) == 0
    assert json.loads(cli("status", "--json").out)["pending"] == 500


# --- purge ------------------------------------------------------------------------------------------------------------


def test_purge_asks_first(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(home / "q", 3)
    assert cli("purge").code == Exit.USAGE  # nobody to ask
    assert cli("purge", "--json").code == Exit.USAGE
    monkeypatch.setattr("os.isatty", lambda fd: True)
    refused = cli("purge", stdin="n\n")
    assert refused.code == Exit.ATTENTION
    assert "Delete 3 waiting events" in refused.err
    assert json.loads(cli("status", "--json").out)["pending"] == 3
    assert cli("purge", stdin="y\n").code == 0
    assert json.loads(cli("status", "--json").out)["pending"] == 0


def test_purged_events_are_counted_as_dropped(cli: Cli, home: Path) -> None:
    record(home / "q", 2500)
    assert json.loads(cli("purge", "--yes", "--json").out)["purged"] == 2500
    found = json.loads(cli("status", "--json").out)
    assert (found["accepted"], found["pending"], found["dropped"]) == (2500, 0, {"purged": 2500})
    assert cli("doctor", "--json").code == 0
    assert cli("purge").out == "0 events deleted\n"  # nothing to ask about
    assert record(home / "q", 1)
    assert json.loads(cli("status", "--json").out)["accepted"] == 2501


def test_purge_can_be_limited_to_a_route_and_an_age(cli: Cli, home: Path) -> None:
    now = time.time()
    with Client("http://127.0.0.1:9/", path=str(home / "q"), start=False) as client:
        for route in ("", "r"):
            for hours in (50, 1, 30):
                client.record_event(Event("n", {"hours": hours}, time=now - hours * 3600, route=route))
    assert cli("purge", "-y", "--route", "r", "--older-than", "2d").out == "1 event deleted\n"
    assert cli("purge", "-y", "--older-than", "24h").out == "3 events deleted\n"
    left = [(each["route"], each["event"]["data"]["hours"]) for each in json.loads(cli("peek", "--json").out)["events"]]
    assert left == [("", 1), ("r", 1)]
    assert cli("purge", "-y", "--route", "nobody").out == "0 events deleted\n"
    assert json.loads(cli("doctor", "--json").out)["problems"] == 0


def test_purging_under_a_live_sender_keeps_the_ledger(cli: Cli, home: Path, collector: Collector) -> None:
    collector.set_fault(latency=0.5)
    with Client(collector.url, path=str(home / "q"), flush_interval=0.0, batch_size=10) as client:
        client.record_many([("n", {})] * 100)
        assert eventually(lambda: collector.stats()["requests"] >= 1)
        assert cli("purge", "-y").code == 0
        collector.heal()
        client.record("after")
        assert client.flush(10)
        stats = client.stats()
    assert stats.ledger.balanced
    assert stats.accepted == 101
    assert stats.delivered + stats.dropped["purged"] == 101
    assert collector.count() >= stats.delivered
    queue = DiskQueue(home / "q")
    assert queue.count_rows() == 0
    queue.close()
