"""`edgespool collector` and `edgespool demo`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests
from cli_kit import Cli, Start, eventually, interrupt

from edgespool import dropin
from edgespool.cli.exits import Exit

EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "reading", "data": {"state": "bad"}}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def url_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def post(url: str, **headers: str) -> int:
    return requests.post(url, data=json.dumps([EVENT]), headers={**BATCH, **headers}, timeout=10).status_code


def test_it_prints_its_url_then_a_line_for_each_request(start: Start) -> None:
    process = start("collector", "--port", "0")
    url = url_of(process)
    assert url.startswith("http://127.0.0.1:")
    assert post(url) == 200
    assert process.stdout is not None
    assert process.stdout.readline().split() == [b"1", b"POST", b"/v1/events", b"1", b"event,", b"95", b"B", b"200"]
    assert requests.post(url, timeout=10).status_code == 415
    assert process.stdout.readline().split()[-1] == b"415"
    ended = interrupt(process)
    assert (ended.code, ended.err) == (0, "")


def test_json_lines_and_a_file_that_is_continued(start: Start, tmp_path: Path) -> None:
    for repeats in (0, 1):
        process = start("collector", "--port", "0", "--json", "--until-eof", "--path", str(tmp_path / "c.db"))
        url = json.loads(url_of(process))["url"]
        assert post(url) == 200
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert (line["status"], line["events"], line["path"]) == (200, 1, "/v1/events")
        counts = requests.get(url.replace("/v1/events", "/_collector/stats"), timeout=10).json()
        assert (counts["unique"], counts["repeats"]) == (1, repeats)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--fail-rate", "1"], 503),
        (["--fail-rate", "1", "--status", "500"], 500),
        (["--max-bytes", "10"], 413),
        (["--poison", "reading"], 400),
        (["--poison", "data.state=bad"], 400),
        (["--poison", "data.state=good"], 200),
        (["--status", "503", "--times", "1"], 503),
    ],
)
def test_it_misbehaves_as_told(start: Start, options: list[str], status: int) -> None:
    process = start("collector", "--port", "0", *options)
    url = url_of(process)
    assert post(url) == status
    if "--times" in options:
        assert post(url) == 200


def test_it_loses_replies_is_slow_and_refuses_gzip(start: Start) -> None:
    url = url_of(start("collector", "--port", "0", "--lose-replies"))
    with pytest.raises(requests.ConnectionError):
        post(url)
    url = url_of(start("collector", "--port", "0", "--latency", "0.3", "--refuse-gzip"))
    began = time.monotonic()
    assert post(url, **{"Content-Encoding": "gzip"}) == 415
    assert time.monotonic() - began >= 0.3


def test_a_port_that_is_taken_is_said(start: Start, cli: Cli) -> None:
    port = url_of(start("collector", "--port", "0")).split(":")[2].split("/")[0]
    shown = cli("collector", "--port", port)
    assert shown.code == Exit.ATTENTION
    assert shown.err.startswith("Error: ")


def test_it_ends_quietly_when_nobody_reads_its_lines(start: Start) -> None:
    process = start("collector", "--port", "0")
    url = url_of(process)
    assert process.stdout is not None
    process.stdout.close()
    assert post(url) == 200
    assert process.wait(10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


# --- the demo ---------------------------------------------------------------------------------------------------------


def children(parent: int) -> list[int]:
    """Return the process ids of a process's children."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(name))
    return found


def test_the_demo_loses_nothing_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = start("demo", "--json", env={**os.environ, "TMPDIR": str(temporary)})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    found = json.loads(out)
    assert found["lost"] == 0
    assert found["accepted"] == found["delivered"] > 100
    assert found["failed_and_replayed"] == 3
    assert found["repeats"] > 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("vendor", sorted(dropin.names()))
def test_each_vendors_sdk_survives_the_demo(start: Start, vendor: str) -> None:
    process = start("demo", "--vendor", vendor, "--json")
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, b"")
    found = json.loads(out)
    assert found["lost"] == 0
    assert found["accepted"] == found["delivered"] > 100
    assert found["failed_and_replayed"] == 1


def test_the_demo_says_which_vendors_there_are(start: Start) -> None:
    process = start("demo", "--vendor", "posthog")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"there is no vendor 'posthog'; there are atom, " in err


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_ending_the_demo_ends_its_processes(start: Start, tmp_path: Path, number: int, code: int) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = start("demo", env={**os.environ, "TMPDIR": str(temporary)})
    assert process.stdout is not None
    while b"a device starts" not in process.stdout.readline():
        pass
    begun = children(process.pid)
    assert len(begun) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"Traceback" not in err
    assert eventually(lambda: not any(os.path.exists(f"/proc/{child}") for child in begun), 15)
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []
