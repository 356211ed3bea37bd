"""What the command line's tests share: a home of their own, and the commands run in this process or another."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Cli, Result

import edgespool
from edgespool.cli.app import edgespool as group
from edgespool.cli.app import run
from edgespool.testing import Collector


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which there is nothing, so that the user's own is never touched; returns where queues live."""
    for name in list(os.environ):
        if name.startswith(("EDGESPOOL_", "XDG_")) or name.lower().endswith("_proxy") or name == "STATE_DIRECTORY":
            monkeypatch.delenv(name)
    queues = tmp_path / "queues"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    monkeypatch.setenv("EDGESPOOL_DIR", str(queues))
    monkeypatch.setenv("EDGESPOOL_FLUSH_INTERVAL", "0.05")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(edgespool.__file__).parents[1])]))
    return queues


@pytest.fixture
def cli(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `edgespool ARGUMENTS` in this process."""

    def call(*arguments: str, stdin: bytes | str = b"") -> Result:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        capsysbinary.readouterr()
        code = run(group, "edgespool", list(arguments))
        out, err = capsysbinary.readouterr()
        return Result(int(code), out.decode(), err.decode())

    return call


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `python -m edgespool ARGUMENTS`; it is killed at the end if it still runs."""
    scratch = str(tmp_path_factory.mktemp("scratch"))  # what is killed cannot take its temporary files away
    running: list[subprocess.Popen[bytes]] = []

    def call(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        pipes["env"] = {**(options.get("env") or os.environ), "TMPDIR": scratch}
        running.append(subprocess.Popen([sys.executable, "-m", "edgespool", *arguments], **pipes))
        return running[-1]

    yield call
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
