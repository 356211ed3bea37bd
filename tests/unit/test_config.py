"""Settings: three places, one order, and errors that say which setting stands wrong where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from edgespool import config
from edgespool.config import Settings, load
from edgespool.errors import ConfigError

# setting: (a keyword's value, what it comes to), (the environment's text, …), (TOML, …); all three different
SETTINGS: dict[str, tuple[tuple[Any, Any], tuple[str, Any], tuple[str, Any]]] = {
    "url": (("http://a", "http://a"), ("http://b", "http://b"), ('"http://c"', "http://c")),
    "path": ((Path("/a"), "/a"), ("/b", "/b"), ('"/c"', "/c")),
    "name": (("a", "a"), ("b-1", "b-1"), ('"c.x"', "c.x")),
    "source": (("a", "a"), ("b", "b"), ('"c"', "c")),
    "format": (("json", "json"), ("other", "other"), ('"cloudevents"', "cloudevents")),
    "headers": (
        ({"A": "1"}, {"A": "1"}),
        ("B = 2 , C=x=y", {"B": "2", "C": "x=y"}),
        ('{D = "3"}', {"D": "3"}),
    ),
    "auth": ((("u", "p"), ("u", "p")), ("u:p:q", ("u", "p:q")), ('"token"', "token")),
    "keys": (({"A": "1"}, {"A": "1"}), ("B=2,C=x=y", {"B": "2", "C": "x=y"}), ('{D = "3"}', {"D": "3"})),
    "durability": (("process", "process"), ("power", "power"), ('"process"', "process")),
    "sync_interval": ((2, 2.0), ("0.5", 0.5), ("3", 3.0)),
    "batch_size": ((10, 10), ("20", 20), ("30", 30)),
    "batch_bytes": ((4096, 4096), ("2 KiB", 2048), ('"1 MiB"', 1 << 20)),
    "flush_interval": ((0, 0.0), ("1.5", 1.5), ("60", 60.0)),
    "timeout": (((1, 2), (1.0, 2.0)), ("3,4", (3.0, 4.0)), ("5", (5.0, 5.0))),
    "compression": (("none", "none"), ("gzip", "gzip"), ('"none"', "none")),
    "verify": ((False, False), ("no", False), ('"/ca.pem"', "/ca.pem")),
    "cert": ((("c", "k"), ("c", "k")), ("/cert.pem", "/cert.pem"), ('["/c", "/k"]', ("/c", "/k"))),
    "max_bytes": ((1 << 21, 1 << 21), ("5mib", 5 << 20), ('"1.5 GiB"', 3 << 29)),
    "max_events": ((7, 7), ("none", None), ("5", 5)),
    "min_events": ((7, 7), ("1", 1), ("5", 5)),
    "max_age": ((60, 60.0), ("none", None), ("3600", 3600.0)),
    "overflow": (("block", "block"), ("drop_oldest", "drop_oldest"), ('"drop_newest"', "drop_newest")),
    "max_attempts": ((3, 3), ("none", None), ("5", 5)),
    "max_rate": ((10, 10.0), ("0.5", 0.5), ("3", 3.0)),
}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(config.PREFIX + name.upper(), raising=False)
    for name in ("EDGESPOOL_CONFIG", "EDGESPOOL_DIR", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_setting_is_tested_here() -> None:
    assert set(SETTINGS) == {each.name for each in fields(Settings)}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_can_be_given_in_three_places_and_the_nearest_wins(
    name: str, toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (keyword, by_keyword), (variable, by_variable), (text, by_file) = SETTINGS[name]
    file = toml(f"{name} = {text}\n")
    assert getattr(load({}, file), name) == by_file
    monkeypatch.setenv(f"EDGESPOOL_{name.upper()}", variable)
    assert getattr(load({}, file), name) == by_variable
    assert getattr(load({name: keyword}, file), name) == by_keyword
    assert getattr(load({name: None}, file), name) == by_variable  # None is no value


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_nobody_gives_has_its_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"EDGESPOOL_{name.upper()}", "")  # as good as unset
    assert getattr(load({}), name) == getattr(Settings(), name)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"docs/configuration.md has {len(rows)} rows for {name}"
    assert f"`EDGESPOOL_{name.upper()}`" in rows[0]


def test_another_default_gives_way_to_everybody(
    toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"flush_interval": 30.0}
    assert load({}, None, other).flush_interval == 30.0
    assert load({}, toml("flush_interval = 5\n"), other).flush_interval == 5.0
    monkeypatch.setenv("EDGESPOOL_FLUSH_INTERVAL", "5")
    assert load({}, None, other).flush_interval == 5.0
    assert load({"flush_interval": 7}, None, other).flush_interval == 7.0
    with pytest.raises(ConfigError, match="no setting 'flush'"):
        load({}, None, {"flush": 1})


# The file


def test_a_clients_own_table_beats_the_top_level(toml: Callable[[str], Path]) -> None:
    file = toml('batch_size = 1\nsource = "all"\n[clients.kitchen]\nbatch_size = 2\n[clients.hall]\nbatch_size = 3\n')
    assert load({"name": "kitchen"}, file).batch_size == 2
    assert load({"name": "hall"}, file).batch_size == 3
    assert load({"name": "hall"}, file).source == "all"
    assert load({"name": "attic"}, file).batch_size == 1


def test_the_file_may_name_the_client_whose_table_counts(
    toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml('name = "kitchen"\n[clients.kitchen]\nbatch_size = 2\n[clients.hall]\nbatch_size = 3\n')
    assert load({}, file).batch_size == 2
    monkeypatch.setenv("EDGESPOOL_NAME", "hall")
    assert load({}, file).batch_size == 3


def test_the_file_is_found_by_the_environment_or_in_the_users_folder(
    toml: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load({}).batch_size == 500
    if sys.platform.startswith("linux"):
        own = tmp_path / "home" / "edgespool" / "edgespool.toml"
        own.parent.mkdir(parents=True)
        own.write_text("batch_size = 7")
        assert load({}).batch_size == 7
    monkeypatch.setenv("EDGESPOOL_CONFIG", str(toml("batch_size = 8")))
    assert load({}).batch_size == 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"batch_size = ", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"clients = 3", "'clients' must hold a table"),
        (b"[clients]\nkitchen = 3", "'clients' must hold a table"),
        (b"batch_sise = 3", "no setting 'batch_sise'; did you mean 'batch_size'?"),
        (b"[clients.hall]\nurls = 3", r"\[clients.hall\]: there is no setting 'urls'; did you mean 'url'?"),
        (b"batch_size = 0", "batch_size: at least 1"),
        (b"batch_size = 2020-01-01", "batch_size: a whole number is needed"),
        (b"[batch_size]\na = 1", "batch_size: a whole number is needed"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load({}, path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load({}, path)
        assert str(path) in str(caught.value)
    monkeypatch.setenv("EDGESPOOL_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read"):
        load({})


# Mistakes

BAD: dict[str, list[Any]] = {
    "url": ["", 5, b"http://a", "http://\udcff"],
    "path": ["", 5, "a\0b", b"/a"],
    "name": ["", "a/b", "..", ".hidden", "x" * 101, 5],
    "source": ["", 5, "caf\udce9"],
    "format": ["", 5],
    "headers": ["no pair", {"A": 1}, {1: "A"}, 5],
    "keys": ["no pair", {"A": 1}, {1: "A"}, 5],
    "auth": ["", 5, ("u",), ("u", 5)],
    "durability": ["maybe", 5, ["power"]],
    "sync_interval": [0, -1, "x", True, "nan", [1]],
    "batch_size": [0, -5, 1.5, "1.5", 10**9, True, "many"],
    "batch_bytes": [10, "33 MiB", "1 B", "1 KiB KiB", 0.5, "inf KiB", float("inf"), float("nan"), True],
    "flush_interval": [-1, "inf", "", [1]],
    "timeout": [0, (1,), (1, 2, 3), "1,2,3", "a,b", (1, None), True],
    "compression": ["zip", True],
    "verify": ["", 5],
    "cert": [5, ("a", "b", "c"), (1, 2)],
    "max_bytes": ["1 KiB", 1000, "lots", "nan GiB", "1e400 GiB"],
    "max_events": [0, -1, 1.5, True, "many"],
    "min_events": [0, -1, 1.5, True, "many"],
    "max_age": [0, -5, "old", True],
    "overflow": ["spill", 5],
    "max_attempts": [0, "x", 1.5],
    "max_rate": [0, "fast", float("nan")],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_value_that_cannot_be_used_is_refused_and_named(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        load({name: value})
    if isinstance(value, str) and value and "\0" not in value:
        monkeypatch.setenv(f"EDGESPOOL_{name.upper()}", value)
        with pytest.raises(ConfigError, match=f"^EDGESPOOL_{name.upper()}: "):
            load({})


def test_every_setting_has_its_mistakes_tested() -> None:
    assert set(BAD) == set(SETTINGS)


def test_an_unknown_keyword_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"keyword: there is no setting 'flush_intervall'; did you mean 'flush_int"):
        load({"flush_intervall": 3})
    with pytest.raises(ConfigError, match=r"no setting 'zzz'$"):
        load({"zzz": 3})


def test_config_errors_are_value_errors_too() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        load({"batch_size": 0})


# Secrets


def test_secrets_are_neither_shown_nor_repeated_in_errors(toml: Callable[[str], Path]) -> None:
    settings = load({
        "url": "https://user:hunter2@example.com/?key=hunter2", "auth": "hunter2", "headers": {"X-Key": "hunter2"},
    })  # fmt: skip
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    for bad in ({"headers": "hunter2"}, {"auth": ["hunter2"]}, {"url": b"hunter2"}, {"headers": {"hunter2": 5}}):
        with pytest.raises(ConfigError) as caught:
            load(bad)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load({}, toml('auth = ["hunter2"]'))
    assert re.search(r"settings\.toml: auth: ", str(caught.value))
    assert "hunter2" not in str(caught.value)


# Where things are


def test_the_directory_is_the_path_or_named_after_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"path": "here", "name": "x"}).directory == str(tmp_path / "here")
    assert load({"path": "~/here"}).directory == str(tmp_path / "home" / "here")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/sensors:/var/lib/other")
    assert load({"name": "x"}).directory == "/var/lib/sensors/x"
    monkeypatch.setenv("EDGESPOOL_DIR", "/data")
    assert load({"name": "x"}).directory == "/data/x"


def test_without_any_hint_the_users_data_folder_is_taken(tmp_path: Path) -> None:
    assert str(tmp_path / "home") in load({"name": "x"}).directory


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/opt/my sensors.py"], "my-sensors"),
        ([".hidden"], "hidden"),
        (["-c"], "default"),
        ([""], "default"),
        ([], "default"),
        (["x" * 300 + ".py"], "x" * 100),
        (["/opt/greenhouse/__main__.py"], "greenhouse"),  # python -m greenhouse
        (["/__main__.py"], "default"),
    ],
)
def test_a_client_without_a_name_is_named_after_the_script(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], name: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert load({}).client_name == name
    assert load({"name": "own"}).client_name == "own"


def test_events_come_from_the_source_or_else_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.platform, "node", lambda: "pi-7")
    assert load({}).event_source == "pi-7"
    assert load({"source": "kitchen"}).event_source == "kitchen"
    monkeypatch.setattr(config.platform, "node", lambda: "")
    assert load({"name": "own"}).event_source == "own"


HOMELESS = """
import os, pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
"""


def without_home(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user who is only a number: no HOME, and no line in the file of passwords."""
    kept = {
        name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith(("XDG", "EDGE"))
    }
    return subprocess.run(
        [sys.executable, "-c", HOMELESS + program, *arguments],
        env={**kept, "PYTHONPATH": str(Path(config.__file__).parents[1]), **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_without_a_home_a_client_with_a_path_works(tmp_path: Path) -> None:
    record = """
import edgespool
with edgespool.Client(path=os.environ.pop("QUEUE", None), name="x", start=False, url="http://127.0.0.1:9/") as client:
    client.record("reading")
    print(client.stats().pending, client.directory)
"""
    done = without_home(record, QUEUE=str(tmp_path / "queue"))
    assert (done.stdout, done.stderr) == (f"1 {tmp_path / 'queue'}\n", "")
    done = without_home(record, EDGESPOOL_DIR=str(tmp_path / "all"))
    assert (done.stdout, done.stderr) == (f"1 {tmp_path / 'all' / 'x'}\n", "")


def test_without_a_home_the_error_says_what_to_give() -> None:
    done = without_home("from edgespool.cli import main\nmain()", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: path: ")
    assert done.stderr.count("\n") == 1
    assert "EDGESPOOL_DIR" in done.stderr
