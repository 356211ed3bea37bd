"""A disk whose flush fails, once and for ever: nothing is taken for stored that is not, and nothing comes twice.

strace makes `fdatasync` of an unmodified program fail with EIO, and its record of the calls says what was on the disk
at each moment: after a flush that failed, Linux takes the pages for written, so only what is written again counts.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_kit import check_file, environment

from edgespool import Client
from edgespool.testing import Collector

PROGRAM = Path(__file__).parent / "programs" / "counting.py"
EVENTS = 12
_HEX = r"((?:\\x[0-9a-f]{2})*)"
_OPENED = re.compile(rf'^\d+ +openat\([^,]*, "{_HEX}", .*\) = \d')
_CALL = re.compile(rf'^\d+ +(\w+)\(\d+<{_HEX}>(?:, "{_HEX}")?(?:, .*?(\d+))?\) += (-?\d+)')


@pytest.fixture(autouse=True)
def _strace() -> None:
    """Skip where programs cannot be traced."""
    if shutil.which("strace") is None or subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("needs strace, and the right to trace")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


def run(path: Path, log: Path, when: str, *url: str) -> list[list[Any]]:
    """Run the program on a queue with flushes that fail as `when` says (strace's words); return what it told."""
    Client("http://127.0.0.1:9/", path=str(path), start=False).close()
    done = subprocess.run(
        [
            "strace", "-f", "-y", "-xx", "-s", "1000000", "-o", str(log), "-e", "signal=none",
            "-e", "trace=openat,pwrite64,write,fdatasync", "-e", f"inject=fdatasync:error=EIO:when={when}",
            sys.executable, str(PROGRAM), str(path), str(EVENTS), *url,
        ],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def look(log: Path) -> tuple[int, int]:
    """See that what "stored" was said of was on the disk; return how many that were, and how many flushes failed."""
    content, durable = bytearray(), bytearray()
    pending: list[tuple[int, bytes]] = []
    flushed: bytes | None = None  # the WAL as it was when it was last flushed; None: not since the last "stored"
    stored = failed = 0
    anew = True  # whether the database was opened since a flush last failed
    for line in log.read_text().splitlines():
        if (opened := _OPENED.match(line)) is not None:
            anew = anew or _bytes(opened[1]).endswith(b"/queue.db")
        call = _CALL.match(line)
        if call is None:
            continue
        name, path, data, offset, result = call.groups()
        if name == "write" and _bytes(data or "").startswith(b'["stored"'):
            assert flushed is not None, "told to be stored without a flush"
            assert bytes(durable[: len(flushed)]) == flushed, "told to be stored, and not all of it was on the disk"
            assert anew, "the connection that failed was used again"
            flushed = None
            stored += 1
        if not _bytes(path).endswith(b"-wal"):
            continue
        if name == "pwrite64" and int(result) > 0:
            pending.append((int(offset), _bytes(data)[: int(result)]))
            _put(content, *pending[-1])
        elif name == "fdatasync":
            if int(result) == 0:
                for each in pending:
                    _put(durable, *each)
                flushed = bytes(content)
            else:
                failed += 1
                flushed, anew = None, False
            pending.clear()  # after a failure too: the kernel tries no second time
    return stored, failed


def _put(image: bytearray, at: int, data: bytes) -> None:
    image.extend(bytes(max(0, at + len(data) - len(image))))
    image[at : at + len(data)] = data


def arrived(path: Path, collector: Collector) -> Counter[int]:
    """Let a healthy program deliver the rest; return how many ids each event has come under."""
    with Client(collector.url, path=str(path), flush_interval=0.0) as client:
        assert client.stats().salvaged is None
        assert client.flush(30)
        assert client.stats().ledger.balanced
        client.record("reading", number=EVENTS)
        assert client.flush(30)
    check_file(path)
    events = {event["id"]: event["data"]["number"] for event in collector.events()}
    return Counter(events.values())


@pytest.mark.parametrize("when", [3, 4, 7])
def test_a_flush_that_fails_once(tmp_path: Path, collector: Collector, when: int) -> None:
    path, log = tmp_path / "queue", tmp_path / "log"
    told = run(path, log, str(when))
    stats = told.pop()
    outcomes = Counter(each[0] for each in told)
    assert outcomes == {"stored": EVENTS - 1, "OutcomeUnknown": 1}
    (unknown,) = (each for each in told if each[0] == "OutcomeUnknown")
    assert "may or may not be stored" in unknown[2]
    assert stats[1:3] == ["stopped", None], "the next one was stored: the trouble is over"
    assert look(log) == (EVENTS - 1, 1)
    came = arrived(path, collector)
    assert {each[1] for each in told if each[0] == "stored"} | {EVENTS} <= set(came) <= set(range(EVENTS + 1))
    assert set(came.values()) == {1}, "an event came under two ids"
    assert {each[2] for each in told if each[0] == "stored"} <= set(collector.ids())


def test_a_flush_that_fails_for_ever(tmp_path: Path, collector: Collector) -> None:
    path, log = tmp_path / "queue", tmp_path / "log"
    told = run(path, log, "6+", collector.url)
    stats, cpu = told.pop(), told.pop()
    kinds = [each[0] for each in told]
    stored = kinds.index("OutcomeUnknown")
    assert stored > 0
    assert kinds == ["stored"] * stored + ["OutcomeUnknown"] + ["QueueUnavailable"] * (EVENTS - stored - 1)
    assert "failed to flush" in told[-1][2]
    assert "nothing was stored" in told[-1][2]
    assert stats[1] == "unavailable"
    assert "failed to flush" in stats[2]
    assert set(collector.ids()) >= {each[2] for each in told[:stored]}, "what is there is delivered all the same"
    assert cpu[1] < 1.0, "it spins"
    came = arrived(path, collector)
    assert set(range(stored)) | {EVENTS} <= set(came) <= {*range(stored + 1), EVENTS}, "said not to be stored, and came"
    assert set(came.values()) == {1}, "an event came under two ids"


def test_what_is_there_is_delivered_and_acknowledged_while_one_flush_fails(
    tmp_path: Path, collector: Collector
) -> None:
    path, log = tmp_path / "queue", tmp_path / "log"
    told = run(path, log, "8", collector.url)
    stats = told[-1]
    assert stats[5] == 0
    assert {each[2] for each in told if each[0] == "stored"} <= set(collector.ids())
    assert set(arrived(path, collector).values()) == {1}, "an event came under two ids"
