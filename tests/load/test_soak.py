"""Many threads and processes record while the network flaps: the short form of `python tools/soak`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """The tool's own `run`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    from soak.run import run

    yield run
    for name in [each for each in sys.modules if each.partition(".")[0] == "soak"]:
        del sys.modules[name]


@pytest.mark.parametrize(("processes", "threads", "seed"), [(8, 8, 1), (1, 64, 2)])
def test_nothing_is_lost_while_the_network_flaps_and_the_books_balance(
    run: Callable[..., Any], tmp_path: Path, processes: int, threads: int, seed: int
) -> None:
    report = run(4.0, processes=processes, threads=threads, seed=seed, directory=str(tmp_path))
    assert report.sound, report
    assert report.recorded > 1000
    assert report.faulted > 0
    # A batch for each reply that was lost on the way, and for each process that ended in the midst of a request.
    assert report.repeats <= 500 * (report.unanswered + processes)
    assert report.wal_peak < 24 * MIB
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "home"])
