"""`edgespool doctor --repair`: sets aside what is in the way, deletes nothing, and the queue works on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Cli, Start, damage, fail, record, snapshot

from edgespool import Client
from edgespool.cli.exits import Exit
from edgespool.queue import DiskQueue
from edgespool.queue.view import QueueView
from edgespool.testing import Collector


def repaired(cli: Cli, *options: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Repair, and return what was set aside, and what the doctor complains of afterwards."""
    found = json.loads(cli("doctor", "--repair", "--json", *options).out)
    return found["repaired"], {e["check"]: e["text"] for e in found["findings"] if e["level"] == "problem"}


def everything(home: Path) -> set[bytes]:
    """Return the contents of all files but the queue's own, which change."""
    return {content for name, content in snapshot(home).items() if "queue.db" not in name and ".lock" not in name}


def spoil_page(path: Path) -> bytes:
    """Fill a page of events with noise; returns the file as it was then."""
    content = bytearray(path.read_bytes())
    content[4096 * 10 : 4096 * 11] = b"\x5a" * 4096
    path.write_bytes(content)
    return bytes(content)


def test_a_sound_queue_is_left_alone(cli: Cli, home: Path) -> None:
    record(home / "q", 5)
    shown = cli("doctor", "--repair")
    assert shown.code == 0
    assert "nothing had to be set aside" in shown.out
    assert not (home / "q" / "set-aside").exists()
    assert repaired(cli) == ([], {})


def test_a_damaged_page_is_found_and_the_file_set_aside_whole(cli: Cli, home: Path, collector: Collector) -> None:
    ids = record(home / "q", 2000)
    spoilt = spoil_page(home / "q" / "queue.db")
    (step,), left = repaired(cli)
    assert step["what"] == "the damaged queue file"
    assert "events read back" in step["saved"]
    assert (Path(step["where"]) / "queue.db").read_bytes() == spoilt
    assert set(left) == {"leftovers"}
    with QueueView(str(home / "q")) as view:
        check = view.check()
    assert not check.problems
    assert 1900 < check.rows < 2000
    assert f"1 time: {check.rows:,} events read back, {2000 - check.rows} lost; the old files" in left["leftovers"]
    with Client(collector.url, path=str(home / "q")) as client:
        assert client.flush(20)
    assert set(collector.ids()) < set(ids)
    assert repaired(cli)[0] == [], "once is enough"


def test_damage_that_no_event_shows_is_found_as_well(cli: Cli, home: Path) -> None:
    record(home / "q", 5)
    path = home / "q" / "queue.db"
    content = bytearray(path.read_bytes())
    content[36:40] = b"\x00\x00\x00\x07"  # pages that are free, by the file's head; it has none
    path.write_bytes(content)
    (step,), _ = repaired(cli)
    assert step["what"] == "the damaged queue file"
    assert step["saved"].startswith("5 events read back, 0 lost")


def test_a_ledger_that_does_not_add_up_is_counted_anew_and_the_file_kept(cli: Cli, home: Path) -> None:
    record(home / "q", 20)
    connection = sqlite3.connect(home / "q" / "queue.db")
    connection.execute("DELETE FROM ack_queue_default WHERE _id IN (3, 4)")
    connection.commit()
    connection.close()
    assert "doctor --repair" in cli("doctor").out
    (step,), left = repaired(cli)
    assert step["saved"] == "18 events read back, 2 lost"
    assert set(left) == {"leftovers"}
    assert (Path(step["where"]) / "queue.db").exists()
    queue = DiskQueue(home / "q")
    try:
        ledger = queue.ledger()
        assert (ledger.accepted, ledger.pending, dict(ledger.dropped)) == (20, 18, {"damaged": 2})
        assert queue.count_rows() == 18
    finally:
        queue.close()
    assert repaired(cli)[0] == [], "once is enough"


def test_what_was_no_database_is_replaced(cli: Cli, home: Path) -> None:
    record(home / "q", 3)
    (home / "q" / "queue.db").write_bytes(b"no database at all" * 1000)
    ((step,), _) = repaired(cli)
    assert (Path(step["where"]) / "queue.db").read_bytes() == b"no database at all" * 1000
    assert len(record(home / "q", 1)) == 1


def test_a_repair_that_was_cut_short_is_completed(cli: Cli, home: Path) -> None:
    ids = record(home / "q", 2000)
    spoil_page(home / "q" / "queue.db")
    code = f"""
import os
from edgespool.queue import DiskQueue, salvage
real = os.rename
def rename(*given, **more):
    real(*given, **more)
    if given[0].endswith("/queue.db"):
        os._exit(9)  # the damaged file is away, and the fresh one has not taken its name
os.rename = rename
DiskQueue({str(home / "q")!r}).repair()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (home / "q" / "queue.db.salvaged").exists()
    (step,), _ = repaired(cli)
    assert step["what"] == "the damaged queue file"
    assert not (home / "q" / "queue.db.salvaged").exists()
    with QueueView(str(home / "q")) as view:
        assert 1900 < view.check().rows < len(ids)


def test_damaged_events_go_to_the_quarantine_and_are_counted(cli: Cli, home: Path) -> None:
    record(home / "q", 200)
    with sqlite3.connect(home / "q" / "queue.db") as connection:
        connection.execute("UPDATE ack_queue_default SET data = X'00' WHERE _id % 50 = 7")
    connection.close()
    (step,), left = repaired(cli)
    assert (step["what"], step["where"]) == ("4 damaged events", str(home / "q" / "quarantine"))
    assert os.listdir(home / "q" / "quarantine")
    assert set(left) == {"leftovers"}
    assert "4 damaged events in 3 files in" in left["leftovers"]
    queue = DiskQueue(home / "q")
    try:
        ledger = queue.ledger()
        assert (ledger.pending, dict(ledger.dropped), ledger.balanced) == (196, {"damaged": 4}, True)
    finally:
        queue.close()


def test_a_damaged_event_is_set_aside_beside_a_running_program(cli: Cli, home: Path, collector: Collector) -> None:
    collector.set_fault(status=503)
    with Client(collector.url, path=str(home / "q"), flush_interval=0.0) as client:
        for number in range(3):
            client.record("reading", number=number)
        with sqlite3.connect(home / "q" / "queue.db") as connection:
            connection.execute("UPDATE ack_queue_default SET data = X'00' WHERE _id = 2")
        connection.close()
        (step,), _ = repaired(cli)
        assert step["what"] == "1 damaged event"
        collector.heal()
        client.record("more")
        assert client.flush(20)
        assert client.stats().dropped == {"damaged": 1}
    assert collector.count() == 3


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"neither": 1}', b'{"events": 5}', b""])
def test_failed_files_that_hold_no_events_are_set_aside(
    cli: Cli, home: Path, collector: Collector, content: bytes
) -> None:
    collector.set_fault(status=422)
    fail(home / "q", collector.url, 1)
    (home / "q" / "failed" / "x.json").write_bytes(content)
    before = everything(home)
    (step,), left = repaired(cli)
    assert step["what"] == "1 failed payload file that cannot be read"
    assert (Path(step["where"]) / "x.json").read_bytes() == content
    assert everything(home) == before, "nothing is deleted"
    assert "1 refused event in 1 file" in left["failed files"]
    assert "set-aside" in cli("doctor").out


def test_a_failed_file_that_only_cannot_be_opened_stays(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(home / "q", 1)
    (home / "q" / "failed").mkdir()
    (home / "q" / "failed" / "x.json").symlink_to(home / "q" / "failed" / "nothing")  # for root, too
    steps, left = repaired(cli)
    assert steps == []
    assert "cannot be read" in left["failed files"]


def test_what_a_crash_has_left_is_set_aside_and_what_a_living_program_writes_is_not(
    cli: Cli, home: Path, start: Start
) -> None:
    record(home / "q", 1)
    (home / "q" / "failed").mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    living: Any = start("send", "-")
    mine = [home / "q" / "failed" / f"a.json.{gone.pid}.tmp", home / "q" / f"sender.json.{gone.pid}.tmp"]
    theirs = home / "q" / "failed" / f"b.json.{living.pid}.tmp"
    for path in (*mine, theirs):
        path.write_text(path.name)
    (step,), left = repaired(cli)
    assert step["what"] == "2 unfinished temporary files"
    assert sorted(os.listdir(step["where"])) == sorted(path.name for path in mine)
    assert theirs.exists()
    assert left == {}


def test_a_newer_queue_is_not_touched(cli: Cli, home: Path) -> None:
    record(home / "q", 1)
    with sqlite3.connect(home / "q" / "queue.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = (home / "q" / "queue.db").read_bytes()
    shown = cli("doctor", "--repair")
    assert shown.code == Exit.QUEUE
    assert "newer" in shown.err
    assert (home / "q" / "queue.db").read_bytes() == before
    assert not (home / "q" / "damaged").exists()


def test_nothing_is_made_where_there_is_no_queue(cli: Cli, home: Path) -> None:
    (home / "empty").mkdir(parents=True)
    for name in ("empty", "nobody"):
        assert cli("doctor", "--repair", "--name", name).code == Exit.ATTENTION
    assert os.listdir(home / "empty") == []
    assert os.listdir(home) == ["empty"]


def test_it_says_what_it_has_done(cli: Cli, home: Path) -> None:
    record(home / "q", 5)
    damage(home / "q")
    shown = cli("doctor", "--repair")
    assert f"set aside  1 damaged event: it is in {home}/q/quarantine" in shown.out
    assert shown.code == Exit.ATTENTION
