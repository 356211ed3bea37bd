"""What all commands have in common: help, exit codes, errors in one line, closed pipes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cli_kit import Cli, Result, Start, call, record

from edgespool import __version__
from edgespool.cli import app
from edgespool.cli.exits import Exit

COMMANDS = [
    "send", "deliver", "status", "peek", "export", "purge", "doctor", "replay", "source", "collector", "run", "demo",
]  # fmt: skip


def test_the_group_lists_every_command(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in shown.out
    assert list(app._COMMANDS) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_its_exit_codes(cli: Cli, name: str) -> None:
    shown = cli(name, "--help")
    assert shown.code == 0
    assert shown.err == ""
    assert shown.out.startswith(f"Usage: edgespool {name}")
    assert "Exit codes:" in shown.out
    for code in Exit:
        assert f"\n    {code.value} " in shown.out


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").out.strip() == f"edgespool {__version__}"


def test_no_command_at_all_shows_the_help(cli: Cli) -> None:
    shown = cli()
    assert shown.code == 2
    assert "Commands:" in shown.err


MISTAKES = {
    "unknown command": ["sned"],
    "unknown option": ["status", "--nope"],
    "no event": ["send"],
    "bad pair": ["send", "door", "open"],
    "pair without a key": ["send", "door", "=1"],
    "bad JSON": ["send", "door", "a:=[1"],
    "bad data": ["send", "door", "--data", "[1]"],
    "bad data text": ["send", "door", "--data", "{"],
    "NaN": ["send", "door", "a:=NaN"],
    "bad time": ["send", "door", "--time", "yesterday"],
    "event and stdin": ["send", "--stdin", "door"],
    "pairs and stdin": ["send", "-", "a=1"],
    "route and stdin": ["send", "-", "--route", "x"],
    "a url without wait": ["send", "door", "--url", "http://127.0.0.1:9/"],
    "strict alone": ["send", "door", "--strict"],
    "bad name": ["send", "door", "--name", "a/b"],
    "wait without a url": ["send", "door", "--wait", "1"],
    "bad url": ["send", "door", "--wait", "1", "--url", "ftp://example.com"],
    "no configuration": ["send", "door", "--config", "/nowhere.toml"],
    "bad wait": ["send", "door", "--wait=soon"],
    "bad since": ["replay", "--since", "yesterday"],
    "bad limit": ["replay", "--limit", "0"],
    "bad rate": ["replay", "--rate", "0"],
    "missing file": ["replay", "/nowhere.json"],
    "bad number": ["peek", "0"],
    "bad port": ["collector", "--port", "99999"],
    "faults that do nothing": ["collector", "--times", "3"],
    "bad share": ["collector", "--fail-rate", "2"],
    "bad age": ["purge", "--older-than", "old"],
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_a_line_and_exit_code_2(cli: Cli, arguments: list[str], home: Path) -> None:
    shown = cli(*arguments)
    assert shown.code == Exit.USAGE
    assert shown.out == ""
    assert "Error: " in shown.err
    assert "Traceback" not in shown.err
    assert not home.exists()  # nothing was made


@pytest.mark.parametrize("name", ["status", "peek", "export", "purge", "doctor", "replay"])
def test_without_a_queue_the_exit_code_is_3(cli: Cli, name: str, home: Path) -> None:
    shown = cli(name)
    assert shown.code == Exit.QUEUE
    assert f"Error: there is no queue in {home}" in shown.err
    named = cli(name, "--name", "kitchen")
    assert named.code == (Exit.ATTENTION if name == "doctor" else Exit.QUEUE)
    assert not home.exists()


def test_a_bad_configuration_file_is_named(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    for content in ("x =", "batch_sise = 5", "batch_size = 'many'"):
        path.write_text(content, encoding="utf-8")
        shown = cli("status", "--config", str(path))
        assert shown.code == Exit.USAGE
        assert str(path) in shown.err


def test_settings_come_from_the_configuration_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"path = '{tmp_path / 'mine'}'\n", encoding="utf-8")
    assert cli("send", "door", "--config", str(path)).code == 0
    assert json.loads(cli("status", "--json", "--config", str(path)).out)["queue"] == str(tmp_path / "mine")


def test_the_only_queue_is_meant_and_of_several_one_must_be_named(cli: Cli, home: Path) -> None:
    record(home / "kitchen", 1)
    assert json.loads(cli("status", "--json").out)["queue"] == str(home / "kitchen")
    record(home / "cellar", 2)
    shown = cli("status")
    assert shown.code == Exit.USAGE
    assert "cellar, kitchen" in shown.err
    assert json.loads(cli("status", "--json", "--name", "cellar").out)["pending"] == 2


def test_a_queue_of_a_newer_version_is_left_alone(cli: Cli, home: Path) -> None:
    import sqlite3

    record(home / "q", 1)
    connection = sqlite3.connect(home / "q" / "queue.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for name in ("status", "peek", "export"):
        assert cli(name).code == Exit.QUEUE
    assert cli("send", "x", "--path", str(home / "q")).code == Exit.QUEUE
    assert cli("doctor").code == Exit.ATTENTION


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from edgespool.cli.app import edgespool, run; run(edgespool, 'edgespool', ['--help']);"
        "print([m for m in ('requests', 'rich', 'sqlite3', 'persistqueue', 'filelock', 'http') if m in sys.modules])"
    )
    shown = call([sys.executable, "-c", code])
    assert shown.out.endswith("[]\n"), shown.out[-200:] + shown.err


def test_both_scripts_and_the_module_run(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['x', '--help']; from edgespool.cli import replay_failed; replay_failed()"
    shown = call([sys.executable, "-c", code])
    assert shown.code == 0
    assert shown.out.startswith("Usage: replay-failed ")
    code = "import sys; sys.argv = ['edgespool', '--version']; from edgespool.cli import main; main()"
    assert call([sys.executable, "-c", code]).out.strip() == f"edgespool {__version__}"
    assert call([sys.executable, "-m", "edgespool", "nope"]).code == Exit.USAGE


def test_a_closed_pipe_is_no_error(home: Path, start: Start) -> None:
    record(home / "q", 5000, text="x" * 50)
    process = start("export")
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["event"]["type"] == "reading"
    process.stdout.close()
    process.wait(20)
    assert process.returncode == 0
    assert process.stderr.read() == b""


def test_output_survives_a_locale_that_knows_no_letters(home: Path) -> None:
    record(home / "q", 1, text="Küche ☃")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for name in (["peek"], ["export"]):
        shown = call([sys.executable, "-m", "edgespool", *name], env=environment)
        assert shown.code == 0, shown.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_is_warned_of_a_queue_that_belongs_to_somebody(cli: Cli, home: Path) -> None:
    record(home / "default", 1)
    os.chown(home / "default", 12345, -1)
    assert "belongs to user 12345" in cli("send", "door").err
    assert "belongs to user 12345" in cli("purge", "-y").err
    assert cli("status").err == ""


def test_a_vendor_whose_extra_is_missing_is_said_in_a_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError("it needs protobuf: pip install 'edgespool[paltabrain]'")

    monkeypatch.setattr("edgespool.cli.demo.import_module", absent)
    shown = cli("demo", "--vendor", "paltabrain")
    assert shown.code == Exit.USAGE
    assert "pip install 'edgespool[paltabrain]'" in shown.err
    assert "Traceback" not in shown.err


# Standard files that the caller has closed


def shell(line: str) -> Result:
    """Run a line of shell in which $E is `edgespool`."""
    return call(["bash", "-c", line], {**os.environ, "E": f"{sys.executable} -m edgespool"})


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_an_event_is_recorded_once_though_standard_files_are_closed(cli: Cli, closed: str) -> None:
    done = shell(f"$E send door state=open {closed}")
    assert (done.code, done.err) == (0, "")
    done = shell(f"echo '{{\"name\": \"door\"}}' | $E send - {closed.replace('<&-', '')}")
    assert (done.code, done.err) == (0, "")
    assert json.loads(cli("status", "--json").out)["pending"] == 2


@pytest.mark.parametrize("line", ["$E send -", "$E send --stdin --wait 1", "$E collector --port 0 --until-eof"])
def test_without_a_standard_input_to_read_one_is_told_so(line: str) -> None:
    done = shell(f"{line} <&-")
    assert (done.code, done.out) == (2, "")
    assert "there is no standard input" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_what_has_something_to_say_says_it_nowhere(cli: Cli, home: Path, tmp_path: Path) -> None:
    record(home / "default", 3)
    for command in ("status", "status --json", "peek", "doctor", "--help", "export -o $HOME.jsonl", "purge --yes"):
        done = shell(f"$E {command} >&-")
        assert (done.code, done.out) == (0, ""), command
        assert "Traceback" not in done.err
    assert len((tmp_path / "home.jsonl").read_bytes().splitlines()) == 3
    done = shell("$E export >&-")
    assert done.code == 2
    assert "there is no standard output" in done.err.splitlines()[-1]
    assert shell("$E statux 2>&-") == Result(2, "", "")


def test_a_collector_and_a_demo_run_without_a_standard_output(tmp_path: Path) -> None:
    done = shell("timeout --preserve-status -s TERM 2 $E collector --port 0 >&-")
    assert (done.code, done.err) == (0, "")
    done = shell("$E demo >&-")
    assert (done.code, done.err) == (0, "")


def test_no_file_takes_the_place_of_a_closed_standard_file(home: Path) -> None:
    look = "import os, sys; from edgespool.cli.output import fill_standard_files as fill; fill(); fill()\n"
    look += "sys.exit(any(os.readlink(f'/proc/self/fd/{n}') != os.devnull for n in range(3)))"
    assert call(["bash", "-c", f'{sys.executable} -c "{look}" <&- >&- 2>&-']).code == 0
