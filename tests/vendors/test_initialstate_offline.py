"""The streamer's ini files and its offline mode."""

# ruff: noqa: F401, F811 - fixtures come from the kit

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from initialstate_kit import KEY, an_environment_of_its_own, collector, readings

from edgespool import ConfigError, EventError, QueueUnavailable
from edgespool.testing import Collector
from edgespool.vendors.initialstate.api import Streamer
from edgespool.vendors.initialstate.configutil import getConfig

DEFAULTS = {
    "bucket": "",
    "access_key": "",
    "offline_mode": "false",
    "offline_file": "./isstreamer_out.csv",
    "stream_api_base": "https://groker.init.st",
}


def ini(path: Path, **options: str) -> Path:
    """Write an ini file; `stream_api_base` stands in a section of its own."""
    api = {name: options.pop(name) for name in ("stream_api_base",) if name in options}
    lines = []
    for section, content in (("client_config", options), ("api_config", api)):
        if content:
            lines += [f"[isstreamer.{section}]", *(f"{name} = {value}" for name, value in content.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def rows(path: str = "isstreamer_out.csv.csv") -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- ini files --------------------------------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold() -> None:
    assert getConfig() == DEFAULTS


def test_the_home_directory_s_file_goes_before_the_current_one_s() -> None:
    ini(Path("isstreamer.ini"), access_key="here")
    assert getConfig() == {**DEFAULTS, "access_key": "here"}
    ini(Path(os.environ["HOME"], "isstreamer.ini"), default_bucket="Home")
    assert getConfig() == {**DEFAULTS, "bucket": "Home"}


def test_a_named_file_is_read_whole_and_goes_before_both(tmp_path: Path) -> None:
    ini(Path("isstreamer.ini"), access_key="here")
    given = {"access_key": "100% sure", "default_bucket": "Küche", "offline_mode": "true", "offline_file": "out"}
    path = ini(tmp_path / "my.ini", **given, stream_api_base="http://127.0.0.1:9")
    expected = {**given, "bucket": "Küche", "stream_api_base": "http://127.0.0.1:9"}
    del expected["default_bucket"]
    assert getConfig(path) == getConfig(str(path)) == expected


def test_the_api_section_is_read_without_the_client_section(tmp_path: Path) -> None:
    path = ini(tmp_path / "my.ini", stream_api_base="http://127.0.0.1:9")
    assert getConfig(path)["stream_api_base"] == "http://127.0.0.1:9"


def test_what_is_wrong_with_a_file_is_said_without_its_content(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Streamer("Kitchen", access_key=KEY, ini_file_location=str(tmp_path / "none.ini"))
    with pytest.raises(ConfigError, match="http://"):
        getConfig(ini(tmp_path / "my.ini", stream_api_base="groker.init.st"))
    broken = tmp_path / "broken.ini"
    for content in (f"access_key = {KEY}", f"[a]\n{KEY}", "[a\n", "[a]\nb=1\n[a]\n"):
        broken.write_text(content)
        with pytest.raises(ConfigError, match="no ini file") as caught:
            getConfig(broken)
        assert KEY not in str(caught.value)
    broken.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="no ini file"):
        getConfig(broken)
    with pytest.raises(ConfigError, match="cannot be read"):
        getConfig(tmp_path)


def test_a_streamer_takes_what_it_was_not_given_from_the_file(collector: Collector) -> None:
    ini(Path("isstreamer.ini"), access_key="ini-key", default_bucket="Ini", stream_api_base=collector.base_url)
    for given in ({}, {"bucket_name": "Given", "access_key": "given-key"}):
        streamer = Streamer(bucket_key="b", **given)
        streamer.log("n", 1, epoch=5)
        streamer.close()
    buckets = [each for each in collector.requests() if each.path == "/api/buckets"]
    assert [each.headers["X-IS-AccessKey"] for each in buckets] == ["ini-key", "given-key"]
    assert [b'"Ini"' in (buckets[0].body or b""), b'"Given"' in (buckets[1].body or b"")] == [True, True]
    assert readings(collector) == [("b", "n", 1)] * 2


def test_the_environment_beats_the_file_and_an_argument_beats_both(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini(Path("isstreamer.ini"), access_key="ini-key", stream_api_base="http://127.0.0.1:9")
    monkeypatch.setenv("EDGESPOOL_URL", collector.base_url)
    monkeypatch.setenv("EDGESPOOL_AUTH", "env-key")
    assert Streamer("A").AccessKey == "env-key"
    assert Streamer("A", access_key="own-key").AccessKey == "own-key"
    assert Streamer("A", url="http://127.0.0.1:10", start=False, name="x").StreamApiBase == "http://127.0.0.1:10"
    assert Streamer("A").StreamApiBase == collector.base_url


# --- offline ----------------------------------------------------------------------------------------------------------


def test_offline_readings_go_to_a_csv_file_and_nowhere_else(collector: Collector) -> None:
    streamer = Streamer("Kitchen", access_key=KEY, offline=True, url=collector.base_url)
    streamer.log("temperature", 21.5, epoch=1_419_876_021.5)
    streamer.log_object({"a": 1, "b": "x,\"y\"\nz"}, epoch=5)
    streamer.log("any", {1})
    first, *object_rows, last = rows()
    assert first == ["1419876021.5", "temperature", "21.5"]
    assert object_rows == [["5", "dict_a", "1"], ["5", "dict_b", 'x,"y"\nz']]
    assert last[1:] == ["any", "{1}"]
    streamer.flush()
    streamer.close()
    assert collector.requests() == []
    assert streamer._client is None
    assert not Path(os.environ["EDGESPOOL_DIR"], "queue.db").exists()


@pytest.mark.parametrize(
    ("mode", "given", "offline"),
    [("true", None, True), ("false", None, False), ("False", None, False), ("no", None, False), ("yes", None, True),
     ("true", False, False), ("false", True, True)],
)  # fmt: skip
def test_the_file_says_whether_it_is_offline_unless_the_program_does(
    mode: str, given: bool | None, offline: bool
) -> None:
    ini(Path("isstreamer.ini"), offline_mode=mode, offline_file="readings")
    streamer = Streamer("Kitchen", access_key=KEY, offline=given, url="http://127.0.0.1:9")
    streamer.log("n", 1)
    streamer.close(0)
    assert streamer.Offline is offline
    assert Path("readings.csv").exists() is offline


def test_a_row_is_in_the_file_when_log_returns_and_a_new_run_keeps_it() -> None:
    for number in range(3):
        streamer = Streamer("Kitchen", offline=True)
        streamer.log("n", number)
        assert [row[2] for row in rows()] == [str(each) for each in range(number + 1)]
        streamer.close()
    streamer.log("n", 3)  # opens it again
    streamer.close()
    assert [row[2] for row in rows()] == ["0", "1", "2", "3"]


def test_a_torn_last_row_does_not_run_into_the_next() -> None:
    Path("isstreamer_out.csv.csv").write_bytes(b"5.0,a,1\r\n6.0,b")
    streamer = Streamer("Kitchen", offline=True)
    streamer.log("c", 2, epoch=7)
    streamer.close()
    assert rows() == [["5.0", "a", "1"], ["6.0", "b"], ["7", "c", "2"]]


@pytest.mark.parametrize(("durability", "flushed"), [({}, True), ({"durability": "process"}, False)])
def test_rows_are_flushed_to_the_device_as_the_durability_says(
    monkeypatch: pytest.MonkeyPatch, durability: dict[str, Any], flushed: bool
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    streamer = Streamer("Kitchen", offline=True, **durability)
    streamer.log_object(list(range(10)))
    streamer.close()
    assert len(calls) == int(flushed)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits")
def test_a_row_for_which_there_is_no_room_is_not_written_in_part_and_is_told() -> None:
    """A limit on the file's size, as a disk that is nearly full, takes a part of what is written, then nothing."""
    code = """if True:
        import resource, signal
        from edgespool.vendors.initialstate.api import Streamer
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        streamer = Streamer("Kitchen", offline=True)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        for n in range(10):
            streamer.log("n", f"value {n}", epoch=1790000000)
        told = type(streamer.last_error).__name__
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        streamer.log("n", "at last", epoch=1790000000)
        print(streamer.refused, told, streamer.last_error)
        streamer.close()
    """
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    kept = [["1790000000", "n", f"value {n}"] for n in range(4)]  # 22 bytes each
    assert ran.stdout.split() == ["6", "QueueUnavailable", "None"]
    assert rows() == [*kept, ["1790000000", "n", "at last"]]


def test_a_row_that_cannot_be_taken_back_does_not_run_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    streamer = Streamer("Kitchen", offline=True)
    streamer.log("n", 1, epoch=5)
    write = os.write

    def half(fd: int, content: bytes) -> int:
        if not content.startswith(b"6,"):
            raise OSError(28, "No space left on device")
        return write(fd, content[:3])

    monkeypatch.setattr(os, "write", half)
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: write(fd, b""))
    streamer.log("n", 2, epoch=6)
    assert isinstance(streamer.last_error, QueueUnavailable)
    streamer.log("n", 3, epoch=7)
    assert isinstance(streamer.last_error, QueueUnavailable)  # the torn row cannot be ended yet
    monkeypatch.setattr(os, "write", write)
    streamer.log("n", 4, epoch=8)
    streamer.close()
    assert rows() == [["5", "n", "1"], ["6", "n"], ["8", "n", "4"]]


def test_an_epoch_is_written_as_it_was_given() -> None:
    streamer = Streamer("Kitchen", offline=True)
    for epoch in (1_790_000_000, 1_790_000_000.0, 1_790_000_000.25):
        streamer.log("n", 1, epoch=epoch)
    streamer.close()
    assert [row[0] for row in rows()] == ["1790000000", "1790000000.0", "1790000000.25"]


def test_what_cannot_be_written_is_told_and_a_bad_file_or_setting_at_the_start() -> None:
    streamer = Streamer("Kitchen", offline=True, debug_level=2)
    with pytest.raises(EventError, match="surrogate"):
        streamer.log("\ud800", 1)
    os.close(streamer.LocalFile._file.fileno())  # type: ignore[union-attr]
    with pytest.raises(QueueUnavailable, match="cannot be written"):
        streamer.log("n", 1)
    assert streamer.refused == 2
    streamer.log("n", 1)  # opens it again
    assert streamer.last_error is None
    streamer.close()
    ini(Path("isstreamer.ini"), offline_file="no/such/folder/out")
    with pytest.raises(ConfigError, match="offline_file"):
        Streamer("Kitchen", offline=True)
    with pytest.raises(ConfigError, match="no setting 'colour'"):
        Streamer("Kitchen", offline=True, colour="red")
