"""`edgespool doctor`: finds what is wrong, says what to do, and touches nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from cli_kit import Cli, damage, eventually, fail, record, snapshot

from edgespool import Client
from edgespool.cli import checks, mounts
from edgespool.cli.exits import Exit
from edgespool.testing import Collector


def problems(cli: Cli, *options: str) -> dict[str, str]:
    """Return what the doctor complains of: check -> text and advice."""
    shown = cli("doctor", "--json", *options)
    found = json.loads(shown.out)
    bad = {each["check"]: each for each in found["findings"] if each["level"] == "problem"}
    assert all(each["advice"] for each in bad.values())
    assert found["problems"] == sum(each["level"] == "problem" for each in found["findings"])
    assert shown.code == (Exit.ATTENTION if bad else Exit.OK)
    return {name: f"{each['text']} -> {each['advice']}" for name, each in bad.items()}


def test_a_healthy_queue(cli: Cli, home: Path) -> None:
    record(home / "q", 20)
    before = snapshot(home)
    assert problems(cli) == {}
    text = cli("doctor").out
    assert "20 accepted = 0 delivered + 0 failed + 0 dropped + 20 waiting" in text
    assert "all is well" in text
    assert snapshot(home) == before


def test_no_queue_at_that_name(cli: Cli, home: Path) -> None:
    assert "no directory" in problems(cli, "--name", "nobody")["queue"]
    (home / "empty").mkdir(parents=True)
    assert "no queue file" in problems(cli, "--name", "empty")["queue"]


def test_damaged_rows(cli: Cli, home: Path) -> None:
    record(home / "q", 5)
    damage(home / "q")
    assert "1 waiting event" in problems(cli)["events"]


def test_a_ledger_that_does_not_add_up(cli: Cli, home: Path) -> None:
    record(home / "q", 5)
    connection = sqlite3.connect(home / "q" / "queue.db")
    connection.execute("DELETE FROM ack_queue_default WHERE _id = 2")
    connection.commit()
    connection.close()
    assert set(problems(cli)) == {"ledger"}


def test_a_damaged_file_and_what_a_salvage_leaves(cli: Cli, home: Path) -> None:
    record(home / "q", 2000)
    path = home / "q" / "queue.db"
    content = bytearray(path.read_bytes())
    content[4096 * 10 : 4096 * 11] = os.urandom(4096)
    path.write_bytes(content)
    before = snapshot(home)
    assert "damaged" in problems(cli)["queue"]
    assert snapshot(home) == before
    with Client("http://127.0.0.1:9/", path=str(home / "q"), start=False) as client:
        client.record("x")  # opening alone need not meet the damaged page
        salvaged = client.stats().salvaged
    if salvaged is not None:
        assert "damaged" in problems(cli)["leftovers"]
    path.write_bytes(b"no database at all" * 1000)
    assert "damaged" in problems(cli)["queue"]
    os.rename(path, home / "q" / "queue.db.salvaged")
    assert "cut short" in problems(cli)["queue"]


def test_quarantine_and_leftovers(cli: Cli, home: Path) -> None:
    record(home / "q", 1)
    for folder in ("quarantine", "damaged", "replayed", "failed"):
        (home / "q" / folder).mkdir()
    (home / "q" / "failed" / "a.json.123.tmp").write_text("", encoding="utf-8")
    assert problems(cli) == {}
    assert "unfinished temporary file" in cli("doctor").out
    (home / "q" / "quarantine" / "x.json").write_text("{}", encoding="utf-8")
    assert "quarantine" in problems(cli)["leftovers"]


def test_failed_files_and_broken_ones(cli: Cli, home: Path, collector: Collector) -> None:
    collector.set_fault(status=422, body="no such field")
    fail(home / "q", collector.url, 1)
    found = problems(cli)["failed files"]
    assert "1 refused event in 1 file" in found
    assert "no such field" in found
    assert "replay-failed" in found
    (home / "q" / "failed" / "x.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in cli("doctor").out


def test_settings_that_cannot_be_used_do_not_hide_the_rest(cli: Cli, home: Path, tmp_path: Path) -> None:
    record(home / "q", 1)
    path = tmp_path / "c.toml"
    path.write_text("batch_sise = 3", encoding="utf-8")
    found = problems(cli, "--config", str(path))
    assert "batch_size" in found["configuration"]
    assert set(found) == {"configuration"}
    path.write_text("url = 'mailto:me'", encoding="utf-8")
    assert "http" in problems(cli, "--config", str(path))["configuration"]
    path.write_text("format = 'carrier-pigeon'", encoding="utf-8")
    assert "carrier-pigeon" in problems(cli, "--config", str(path))["configuration"]


def test_credentials_that_everybody_can_read(cli: Cli, home: Path, tmp_path: Path) -> None:
    record(home / "q", 1)
    path = tmp_path / "c.toml"
    path.write_text("auth = 'my-secret-token'\nurl = 'http://example.com/'", encoding="utf-8")
    path.chmod(0o644)
    assert "chmod" in problems(cli, "--config", str(path))["configuration"]
    path.chmod(0o600)
    shown = cli("doctor", "--config", str(path))
    assert shown.code == 0
    assert "unencrypted" in shown.out
    assert "my-secret-token" not in shown.out


def test_permissions(cli: Cli, home: Path) -> None:
    record(home / "q", 1)
    (home / "q").chmod(0o755)
    assert "chmod 700" in problems(cli)["permissions"]
    (home / "q").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(home / "q" / "queue.db", 12345, -1)
        assert "chown" in problems(cli)["permissions"]


def test_a_held_sender(cli: Cli, home: Path, collector: Collector) -> None:
    collector.set_fault(status=403)
    with Client(collector.url, path=str(home / "q"), flush_interval=0.0) as client:
        client.record("a")
        assert eventually(lambda: "sender" in problems(cli))
        found = problems(cli)["sender"]
        assert "403" in found
        assert "Nothing is lost" in found


def test_whether_the_server_can_be_reached_is_asked_when_told_to(
    cli: Cli, home: Path, tmp_path: Path, collector: Collector
) -> None:
    record(home / "q", 1)
    path = tmp_path / "c.toml"
    path.write_text(f"auth = 'my-secret-token'\nurl = '{collector.url.replace('//', '//user:word@')}?key=hidden'")
    path.chmod(0o600)
    assert problems(cli, "--config", str(path)) == {}
    assert collector.requests() == []
    assert problems(cli, "--config", str(path), "--live") == {}
    (asked,) = collector.requests()
    assert (asked.method, asked.query) == ("HEAD", "")
    assert "authorization" not in {name.lower() for name in asked.headers}
    shown = cli("doctor", "--config", str(path), "--live").out
    assert f"server: {collector.url} can be reached (HTTP " in shown
    path.write_text("auth = 'my-secret-token'\nurl = 'http://user:word@127.0.0.1:9/v1?key=hidden'")
    found = problems(cli, "--config", str(path), "--live")["server"]
    assert "http://127.0.0.1:9/v1 cannot be reached: no connection" in found
    assert "events wait on the disk" in found
    assert not any(secret in shown + found for secret in ("word", "hidden", "my-secret-token"))
    assert problems(cli, "--live") == {}, "without an address nobody is asked"
    assert "it cannot be asked" in cli("doctor", "--live").out


@pytest.mark.parametrize(
    ("line", "level", "said"),
    [
        ("server:/x {} nfs4 rw 0 0", "problem", "network"),
        ("//server/x {} cifs rw 0 0", "problem", "network"),
        ("tmpfs {} tmpfs rw,nosuid 0 0", "note", "restart"),
        ("/dev/mmcblk0p2 {} ext4 ro,noatime 0 0", "problem", "read-only"),
        ("/dev/mmcblk0p2 {} ext4 rw,noatime,emergency_ro 0 0", "problem", "read-only"),
        ("/dev/sda1 {} vfat rw 0 0", "note", "power cut"),
        ("/dev/mmcblk0p2 {} ext4 rw,noatime 0 0", "ok", "ext4"),
    ],
)
def test_filesystems(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, level: str, said: str
) -> None:
    home.mkdir()
    table = tmp_path / "mounts"
    table.write_text("/dev/root / xfs rw 0 0\n" + line.format(home) + "\n", encoding="utf-8")

    def opened(path: str, *args: object, **kwargs: object) -> object:
        return open(table if path == "/proc/self/mounts" else path, encoding="utf-8")

    monkeypatch.setattr(mounts, "open", opened, raising=False)
    (finding,) = checks._filesystem(str(home))
    assert finding.level == level
    assert said in finding.text + finding.advice


def test_little_room(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(home / "q", 1)
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert "1.0 MiB" in problems(cli)["space"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100 << 20))
    assert problems(cli) == {}
    assert "max_bytes" in cli("doctor").out
