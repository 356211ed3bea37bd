"""Runs that must find something. A harness whose control does not fail proves nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crash.explore import Pool, Result, walk
from crash.plan import Row
from crash.recording import load, record
from crash.scenarios import CONTROLS

__all__ = ["Control", "controls", "relaxed"]

_STATES = 600  # at most, for each recording
_ENOUGH = 3  # violations are


@dataclass
class Control:
    """One control: what was taken away, and what was found. `failed` says what should have been found and was not."""

    name: str
    states: int = 0
    found: str = ""
    failed: str = ""


def controls(pool: Pool, rows: Sequence[Row], traces: str, seed: str) -> list[Control]:
    """Run the controls on recordings that have been made, and on one of their own."""
    by_name = {row.title: row for row in rows}
    done: list[Control] = []
    for name in ("append", "replay", "checkpoint"):
        for flushes, about in (("none", "no flush does anything"), ("files", "flushes of directories do nothing")):
            if name in by_name and not (flushes == "files" and name == "checkpoint"):
                path = _without(by_name[name].paths[0], flushes, traces)
                done.append(_broken(pool, f"{name}: {about}", path, 0, seed))
    careless = record(CONTROLS["without-psow"], os.path.join(pool.directory, "control"))
    path = careless.save(os.path.join(traces, "without-psow.rec"))
    done.append(_broken(pool, "append without psow=0, 4 KiB torn", path, 4096, seed))
    return done


def _without(path: str, flushes: str, traces: str) -> str:
    recording = load(path)
    changed = replace(recording, name=f"{recording.name}, flushes {flushes}", flushes=flushes)
    return changed.save(os.path.join(traces, f"control-{flushes}-{os.path.basename(path)}"))


def _broken(pool: Pool, name: str, path: str, block: int, seed: str) -> Control:
    total = Result()
    for _, result in pool.explore(pool.cut(path, _STATES, block=block, seed=seed, enough=_ENOUGH)):
        total.add(result)
    control = Control(name, total.states, f"{total.violations} broken ({total.kinds()})")
    if not total.violations:
        control.failed = "nothing was found broken"
    return control


def relaxed(row: Row, result: Result, interval: float, patience: float = 2.0) -> Control:
    """Judge the exploration of durability "process": it must lose, and only what was not flushed in time.

    Args:
        row: the recording.
        result: of its exploration.
        interval: seconds between flushes that the program asked for.
        patience: seconds more that a flush may take under strace.
    """
    control = Control('durability "process"', result.states)
    last = None
    for _, _, expectation in walk(load(row.paths[0]), 1 << 60):
        last = expectation
    slowest = last.slowest if last is not None else 0.0
    control.found = f"{result.lossy} states without events of the last {slowest:.2f} s, {result.violations} broken"
    if not result.lossy:
        control.failed = "nothing was lost, though nothing had been flushed"
    elif slowest > interval + patience:
        control.failed = f"an event was flushed {slowest:.2f} s after its receipt, not within {interval} s"
    return control
