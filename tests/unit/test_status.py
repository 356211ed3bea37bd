"""What is told of a queue, to the program and to other processes, and what is known of the network."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edgespool import network
from edgespool.interfaces import Ledger
from edgespool.status import SenderStatus, Stats, StatusFile

FULL = SenderStatus(7, "held", 1.5, "HTTP 401", 9.0, ("x", "ü"), "https://example.com/")


@pytest.mark.parametrize("status", [FULL, SenderStatus(1, "ok", 0.0)])
def test_what_the_sender_says_is_read_by_others(tmp_path: Path, status: SenderStatus) -> None:
    file = StatusFile(str(tmp_path))
    assert file.read() is None
    file.write(SenderStatus(2, "older", 0.0))
    file.write(status)
    assert file.read() == status
    assert [path.name for path in tmp_path.iterdir()] == ["sender.json"]
    assert stat.S_IMODE((tmp_path / "sender.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b'{"pid": 1}', b'{"pid": "x", "state": 1}', b"\xff"])
def test_a_file_that_cannot_be_understood_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sender.json").write_bytes(content)
    assert StatusFile(str(tmp_path)).read() is None


def test_a_disk_that_takes_no_status_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StatusFile(str(tmp_path / "missing")).write(FULL)

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    StatusFile(str(tmp_path)).write(FULL)
    assert list(tmp_path.iterdir()) == []


def test_the_counts_balance_or_they_do_not() -> None:
    stats = Stats(accepted=10, delivered=4, failed=1, dropped={"overflow": 2, "max_age": 1}, pending=2)
    assert stats.ledger == Ledger(10, 4, 1, {"overflow": 2, "max_age": 1}, 2)
    assert stats.ledger.balanced
    assert not Ledger(accepted=1).balanced


def test_the_ways_out_of_a_machine_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_TABLES", (str(tmp_path / "route"), str(tmp_path / "ipv6_route")))
    assert network.routes_fingerprint() == frozenset()
    head = "Iface\tDestination\tGateway\tFlags\n"
    (tmp_path / "route").write_text(head + "wlan0\t00000000\t0101A8C0\t0003\nwlan0\t0001A8C0\t00000000\t0001\n")
    first = network.routes_fingerprint()
    assert first == {"4 wlan0 0101A8C0"}
    zero = "0" * 32
    (tmp_path / "ipv6_route").write_text(
        f"{zero} 00 {zero} 00 fe80{'0' * 28} 00000400 1 0 3 eth0\n{zero} 00 {zero} 00 {zero} ffffffff 1 0 200200 lo\n"
    )
    assert network.routes_fingerprint() == first | {f"6 eth0 fe80{'0' * 28}"}
    (tmp_path / "route").write_bytes(b"\xff\xff")
    assert len(network.routes_fingerprint()) == 1
