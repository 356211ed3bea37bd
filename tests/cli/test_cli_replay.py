"""`edgespool replay` and `replay-failed`, against a real server, killed at every point."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from cli_kit import Cli, Start, call, eventually, fail, interrupt, on_terminal

from edgespool.cli.exits import Exit
from edgespool.testing import Collector


@pytest.fixture
def refused(home: Path, collector: Collector) -> list[str]:
    """Three events in failed payload files, and a server that would take them now."""
    collector.set_fault(status=400, body="no")
    ids = fail(home / "q", collector.url, 3)
    collector.heal()
    return ids


def files(home: Path, folder: str = "failed") -> list[str]:
    path = home / "q" / folder
    return sorted(os.listdir(path)) if path.exists() else []


def test_refused_events_are_delivered_with_their_ids_once_the_fault_is_mended(
    cli: Cli, home: Path, collector: Collector, refused: list[str]
) -> None:
    before = files(home)
    shown = cli("replay", "--url", collector.url)
    assert shown.code == 0
    assert shown.err == ""
    assert shown.out.splitlines()[-1] == "3 events delivered, 0 refused"
    assert sorted(collector.ids()) == sorted(refused)
    assert (files(home), files(home, "replayed")) == ([], before)
    again = cli("replay", "--url", collector.url)
    assert (again.code, again.out) == (0, "nothing to replay\n")


def test_json_says_what_became_of_each_file(cli: Cli, home: Path, collector: Collector, refused: list[str]) -> None:
    bad = home / "q" / "failed" / "zzz.json"
    bad.write_text("{", encoding="utf-8")
    shown = cli("replay", "--url", collector.url, "--json")
    found = json.loads(shown.out)
    assert shown.code == Exit.ATTENTION
    assert (found["delivered"], found["refused"], found["broken"], found["stopped"]) == (3, 0, 1, None)
    assert {each["state"] for each in found["files"]} == {"replayed", "broken"}
    assert bad.read_text(encoding="utf-8") == "{"


def test_what_is_refused_again_stays(cli: Cli, home: Path, collector: Collector, refused: list[str]) -> None:
    collector.set_fault(poison={"field": "data.number", "value": 1})
    shown = cli("replay", "--url", collector.url)
    assert shown.code == Exit.ATTENTION
    assert "2 events delivered, 1 refused" in shown.out
    assert "HTTP 400" in shown.out
    assert len(files(home)) == 1


def test_a_dry_run_sends_nothing(cli: Cli, home: Path, collector: Collector, refused: list[str]) -> None:
    requests = len(collector.requests())
    shown = cli("replay", "--dry-run")
    assert (shown.code, shown.out.splitlines()[-1]) == (0, "3 events would be sent")
    found = json.loads(cli("replay", "--dry-run", "--json", "--limit", "2").out)
    assert (found["dry_run"], found["selected"], found["delivered"]) == (True, 2, 0)
    assert len(collector.requests()) == requests
    assert len(files(home)) == 3


def test_selection_by_time_status_and_limit(cli: Cli, home: Path, collector: Collector, refused: list[str]) -> None:
    url = ["--url", collector.url]
    others = ["--status", "422", "--status", "413"]
    for options in (["--since", "2099-01-01"], ["--until", "2h"], others[:2], others):
        shown = cli("replay", *url, *options)
        assert (shown.code, shown.out) == (0, "0 events delivered, 0 refused, 3 files not selected\n")
    assert "1 event delivered" in cli("replay", *url, "--limit", "1", "--since", "1h", "--status", "400").out
    assert "2 events delivered" in cli("replay", *url, "--since", "2020-01-01T00:00Z", "--until", "2099-01-01").out


def test_the_rate_is_kept(cli: Cli, collector: Collector, refused: list[str]) -> None:
    began = time.monotonic()
    assert cli("replay", "--url", collector.url, "--rate", "10").code == 0
    assert time.monotonic() - began >= 0.2


def test_a_held_or_missing_server_is_code_4(cli: Cli, home: Path, collector: Collector, refused: list[str]) -> None:
    collector.set_fault(status=401)
    shown = cli("replay", "--url", collector.url)
    assert shown.code == Exit.SERVER
    assert "stopped, held: HTTP 401" in shown.err
    collector.close_port()
    found = cli("replay", "--url", collector.url, "--json", "--tries", "1")
    assert found.code == Exit.SERVER
    assert json.loads(found.out)["stopped"]["kind"] == "unreachable"
    assert len(files(home)) == 3


def test_waits_are_told(cli: Cli, collector: Collector, refused: list[str]) -> None:
    collector.set_fault(status=503, times=1)
    shown = cli("replay", "--url", collector.url)
    assert shown.code == 0
    assert "HTTP 503" in shown.err
    assert "tries again in" in shown.err


def test_without_a_url_it_says_so(cli: Cli, refused: list[str]) -> None:
    shown = cli("replay")
    assert shown.code == Exit.USAGE
    assert "EDGESPOOL_URL" in shown.err


def test_events_do_not_go_to_a_service_that_never_refused_them(
    cli: Cli, home: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgespool.vendors.atom.device import Device

    collector.set_fault(status=400, body="no")
    device = Device(collector.base_url, path=str(home / "q"))
    device.track(1)
    assert eventually(lambda: files(home))
    device.close()
    collector.heal()
    with monkeypatch.context() as patch:
        for name in ("http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        shown = cli("replay")
    assert shown.code == Exit.ATTENTION
    assert f"refused by {collector.base_url}" in shown.out
    assert "--url" in shown.out
    assert len(files(home)) == 1
    assert Device.auth is not None
    monkeypatch.setenv("EDGESPOOL_AUTH", Device.auth)
    assert cli("replay", "--url", collector.base_url).code == Exit.OK
    assert collector.count() == 1


def test_credentials_come_from_the_configuration(
    cli: Cli, home: Path, collector: Collector, refused: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"url = '{collector.url}'\nauth = 'secret-token'\nname = 'q'\n", encoding="utf-8")
    path.chmod(0o600)
    assert cli("replay", "--config", str(path)).code == 0
    assert collector.requests()[-1].headers["Authorization"] == "Bearer secret-token"
    for name in files(home, "replayed"):
        assert "secret-token" not in (home / "q" / "replayed" / name).read_text(encoding="utf-8")


def test_the_streamers_file_and_a_bare_array(cli: Cli, home: Path, collector: Collector, tmp_path: Path) -> None:
    lines = tmp_path / "err_missed_events.txt"
    lines.write_text('[{"key": "a", "epoch": 1.5}]\n[{"key": "b", "epoch": 2.5}]\n', encoding="utf-8")
    array = tmp_path / "array.json"
    array.write_text('[{"key": "c"}]', encoding="utf-8")
    shown = cli("replay", "--format", "json", "--url", collector.url, str(lines), str(array))
    assert shown.code == 0
    assert [event["key"] for event in collector.events()] == ["a", "b", "c"]
    assert not lines.exists()
    assert not array.exists()
    assert not home.exists()  # no queue was made for it


def test_two_at_once_do_not_both_send(cli: Cli, collector: Collector, refused: list[str], start: Start) -> None:
    collector.set_fault(latency=1.0)
    before = len(collector.requests())
    process = start("replay", "--url", collector.url)
    assert eventually(lambda: len(collector.requests()) > before)
    shown = cli("replay", "--url", collector.url)
    assert shown.code == Exit.ATTENTION
    assert "another replay is at work" in shown.err
    collector.heal()
    assert process.wait(20) == 0
    assert (collector.count(), collector.repeats()) == (3, 0)


def test_ctrl_c_keeps_what_was_achieved(home: Path, collector: Collector, refused: list[str], start: Start) -> None:
    before = collector.count()
    process = start("replay", "--url", collector.url, "--rate", "0.5")
    assert eventually(lambda: collector.count() > before)
    assert eventually(lambda: len(files(home)) == 2)
    ended = interrupt(process)
    assert ended.code == Exit.INTERRUPTED
    assert "Traceback" not in ended.err
    assert " delivered, 0 refused" in ended.out
    assert (len(files(home)), len(files(home, "replayed"))) == (2, 1)


def test_on_a_terminal_there_is_a_bar(collector: Collector, refused: list[str]) -> None:
    shown = on_terminal("replay", "--url", collector.url, "--rate", "10")
    assert shown.code == 0
    assert "file 1 of 3" in shown.out
    assert "3 events delivered" in shown.out


def test_killed_at_every_point_and_run_again_it_loses_nothing(collector: Collector, tmp_path: Path) -> None:
    collector.set_fault(poison={"name": "poison"})
    killer = Path(__file__).with_name("replay_killer.py")
    shown = call([sys.executable, str(killer), collector.url, str(tmp_path / "rounds")])
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert found["trouble"] == []
    assert found["rounds"] > 40
    whole = [f"a-{k}" for k in (0, 1, 3, 4)] + [f"b-{k}" for k in range(5)]
    expected = {f"{n}-{each}" for n in range(1, found["rounds"] + 1) for each in whole}
    assert set(collector.ids()) == expected
