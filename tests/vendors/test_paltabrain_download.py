"""The command paltabrain-sdk-download-config: what it fetches, and what it does not let a zip do."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paltabrain_kit import KEY, files_below, isolate

from edgespool.cli.app import run
from edgespool.cli.paltabrain_config import paltabrain_config
from edgespool.errors import ConfigError
from edgespool.testing import Collector
from edgespool.vendors.paltabrain import download as module
from edgespool.vendors.paltabrain.dialect import config_module
from edgespool.vendors.paltabrain.download import DownloadError, download, fetch, read_zip, unpack

Serve = Callable[[int, Mapping[str, str], bytes], str]


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer every GET with a status, headers and a body; give the address."""
    servers: list[HTTPServer] = []

    def start(status: int, headers: Mapping[str, str], body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass  # the client has had enough

            def log_message(self, *args: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members:
            file.writestr(name, content)
    return made.getvalue()


def named(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name
    info.external_attr = mode << 16
    return info


INIT = ("__init__.py", b"# config")


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(paltabrain_config, "paltabrain-sdk-download-config", list(arguments))
    out, err = capsys.readouterr()
    return int(code), out, err


# --- the command ----------------------------------------------------------------------------------------------------


def test_it_puts_the_module_into_the_folder(collector: Collector, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "config"
    command = [os.path.join(os.path.dirname(sys.executable), "paltabrain-sdk-download-config")]
    done = subprocess.run(
        [*command, f"--hostname={collector.base_url}", f"--api-key={KEY}", str(target)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{target}: 2 files\n"
    assert sorted(os.listdir(target)) == ["__init__.py", "config_v2_pb2.py"]
    assert os.listdir(tmp_path / "deep") == ["config"]
    (request,) = collector.requests()
    assert (request.method, request.path) == ("GET", "/v2/schema/sdk_python.zip")
    sent = {name: request.headers[name] for name in ("X-API-Key", "X-SDK-Name", "X-SDK-Version", "Content-Type")}
    assert sent == {
        "X-API-Key": KEY, "X-SDK-Name": "PALTABRAIN_PYTHON", "X-SDK-Version": "0.7.2",
        "Content-Type": "application/protobuf",
    }  # fmt: skip


def test_host_and_key_come_from_the_environment_too(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = cli(capsys, str(tmp_path / "config"))
    assert code == 2
    assert "PALTABRAIN_SDK_HOSTNAME" in err
    monkeypatch.setenv("PALTABRAIN_SDK_HOSTNAME", collector.base_url)
    code, _, err = cli(capsys, str(tmp_path / "config"))
    assert code == 2
    assert "PALTABRAIN_SDK_API_KEY" in err
    monkeypatch.setenv("PALTABRAIN_SDK_API_KEY", KEY)
    assert cli(capsys, str(tmp_path / "config"))[0] == 0
    assert collector.requests()[-1].headers["X-API-Key"] == KEY


def test_a_folder_that_is_not_empty_is_replaced_only_when_asked_for(
    collector: Collector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config"
    target.mkdir()
    (target / "__init__.py").write_text("old")
    (target / "old.py").write_text("old")
    arguments = [f"--hostname={collector.base_url}", f"--api-key={KEY}", str(target)]
    code, _, err = cli(capsys, *arguments)
    assert code == 1
    assert "--overwrite" in err
    assert not collector.requests(), "found out before anything is fetched"
    assert (target / "old.py").exists()
    assert cli(capsys, "--overwrite", *arguments)[0] == 0
    assert sorted(os.listdir(target)) == ["__init__.py", "config_v2_pb2.py"]
    assert sorted(os.listdir(tmp_path)) == ["config"]


def test_a_folder_that_holds_something_else_is_never_replaced(collector: Collector, tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "cat.jpg").write_text("cat")
    with pytest.raises(DownloadError, match="no config module"):
        download(collector.base_url, KEY, str(target), overwrite=True)
    assert (target / "cat.jpg").read_text() == "cat"
    (tmp_path / "file").write_text("x")
    with pytest.raises(DownloadError, match="no folder"):
        download(collector.base_url, KEY, str(tmp_path / "file"), overwrite=True)


def test_an_empty_folder_is_as_good_as_none_and_a_link_is_followed(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    download(collector.base_url, KEY, str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "__init__.py").exists()


def test_a_failure_in_the_midst_leaves_the_old_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "config"
    unpack({"__init__.py": b"old"}, str(target))
    real = os.rename

    def fails(source: str, goal: str) -> None:
        if source.endswith("new"):
            raise OSError(28, "No space left on device")
        real(source, goal)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(DownloadError, match="No space left"):
        unpack({"__init__.py": b"new"}, str(target), overwrite=True)
    assert (target / "__init__.py").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["config"]


@pytest.mark.parametrize("status", [204, 301, 401, 404, 500])
def test_an_answer_that_is_no_success_is_said(
    serve: Serve, tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(status, {"Location": "http://127.0.0.1:9/"}, KEY.encode())
    code, _, err = cli(capsys, f"--hostname={url}", f"--api-key={KEY}", str(tmp_path / "config"))
    assert code == 1
    assert f"answered {status}" in err
    assert KEY not in err
    assert not (tmp_path / "config").exists()


def test_the_key_is_not_taken_along_to_where_a_redirect_points(serve: Serve, collector: Collector) -> None:
    url = serve(302, {"Location": f"{collector.base_url}/v2/schema/sdk_python.zip"}, b"")
    with pytest.raises(DownloadError, match="answered 302"):
        fetch(url, KEY)
    assert collector.requests() == []


def test_nobody_there_is_said_without_the_key(tmp_path: Path, serve: Serve) -> None:
    with pytest.raises(DownloadError, match="cannot be reached") as caught:
        fetch("http://127.0.0.1:1", KEY)
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match="api_key") as refused:
        fetch("http://127.0.0.1:1", "key\nX-More: 1")
    assert "X-More" not in str(refused.value)
    with pytest.raises(ConfigError, match="api_key"):
        fetch("http://127.0.0.1:1", "\u00fc")
    with pytest.raises(ConfigError, match="hostname"):
        fetch("ftp://host", KEY)


def test_a_reply_without_an_end_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_ZIP", 1 << 20)
    with pytest.raises(DownloadError, match="more than 1 MiB"):
        fetch(serve(200, {}, bytes(2 << 20)), KEY)


# --- the zip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py", "a/../../evil.py", "/etc/evil.py", "//host/evil.py", "..", "a/..", "./a.py", "a//b.py",
        "\\evil.py", "..\\evil.py", "a\\..\\..\\evil.py", "C:evil.py", "C:\\evil.py", "c:/evil.py", "a/b:stream",
        "evil\0.py", "con.", "dot./a.py", "space /a.py", "new\nline.py", "\u202eevil.py", "a*.py", "x" * 600,
    ],
)  # fmt: skip
def test_a_name_that_could_lead_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    content = zipped(INIT, (named(name), b"evil"))
    with pytest.raises(DownloadError, match="could lead out"):
        read_zip(content)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int) -> None:
    with pytest.raises(DownloadError, match="a link or a device"):
        read_zip(zipped(INIT, (named("passwd", kind | 0o777), b"/etc/passwd")))


def test_the_modes_of_files_are_not_taken_over(tmp_path: Path) -> None:
    files = read_zip(zipped((named("__init__.py", stat.S_IFREG | 0o6777), b""), (named("sub/"), b""),
                            (named("sub/a.py", 0o100000), b"a")))  # fmt: skip
    unpack(files, str(tmp_path / "config"))
    assert (tmp_path / "config" / "__init__.py").stat().st_mode & 0o7111 == 0
    assert (tmp_path / "config" / "sub" / "a.py").read_bytes() == b"a"


def test_a_zip_that_unfolds_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(INIT, *((f"{number}.py", bytes(20 << 20)) for number in range(4)))
    assert len(bomb) < 100_000
    with pytest.raises(DownloadError, match="unfolds to more than 64 MiB"):
        read_zip(bomb)
    with pytest.raises(DownloadError, match="1001 files"):
        read_zip(zipped(INIT, *((f"{number}.py", b"") for number in range(1000))))


def test_a_zip_that_lies_about_its_sizes_is_refused_or_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_MODULE", 1000)
    content = bytearray(zipped(INIT, ("big.py", bytes(100_000))))
    lie = struct.pack("<I", 10)
    content = bytearray(bytes(content).replace(struct.pack("<I", 100_000), lie))
    with pytest.raises(DownloadError):
        read_zip(bytes(content))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([INIT, ("a.py", b""), ("a.py", b"")], "twice"),
        ([INIT, ("a.py", b""), ("A.py", b"")], "twice"),
        ([INIT, ("a", b""), ("a/b.py", b"")], "as a file and as a folder"),
        ([("module.py", b"")], "no config module"),
        ([], "no config module"),
    ],
)
def test_a_zip_that_makes_no_module_is_refused(members: list[tuple[str, bytes]], said: str) -> None:
    with pytest.raises(DownloadError, match=said):
        read_zip(zipped(*members))


def test_a_zip_with_a_password_is_refused() -> None:
    content = bytearray(zipped(INIT))
    content[6] |= 1  # the local header's flags
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DownloadError, match="no zip that can be read"):
        read_zip(bytes(content))


@given(st.data())
def test_a_damaged_zip_gives_safe_names_or_an_error_of_ours(data: Any) -> None:
    content = bytearray(config_module())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        files = read_zip(bytes(content))
    except DownloadError:
        return
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in files)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"<html>captive portal</html>"])
def test_what_is_no_zip_is_said(content: bytes) -> None:
    with pytest.raises(DownloadError, match="no zip"):
        read_zip(content)


def test_nothing_is_written_when_something_is_refused(serve: Serve, tmp_path: Path) -> None:
    url = serve(200, {}, zipped(INIT, (named("../evil.py"), b"evil")))
    with pytest.raises(DownloadError):
        download(url, KEY, str(tmp_path / "config"))
    assert files_below(tmp_path) == {}
