"""What one run explores: which recordings, under which profiles, with how many states, and what must come of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from crash.explore import Pool, Result
from crash.recording import Recording, load, record, slug
from crash.recovery import recoveries
from crash.scenarios import KILLED, SCENARIOS, Scenario

__all__ = ["COLUMNS", "Cell", "Column", "Row", "cells", "prepare"]


@dataclass(frozen=True)
class Column:
    """One way to look at a recording. `share`: of the states; `again`: a second crash, during the recovery."""

    title: str
    share: float
    block: int = 0
    again: bool = False
    reported: bool = False  # what is broken is told, and is no failure


COLUMNS = (
    Column("power cut", 0.58),
    Column("4 KiB torn", 0.12, block=4096),
    Column("twice", 0.14, again=True),
    Column("twice, torn", 0.12, block=4096, again=True),
    Column("16 KiB torn", 0.04, block=16384, reported=True),
)


@dataclass
class Row:
    """The recordings of one scenario, or of several that are told of together."""

    title: str
    about: str
    weight: float = 0.0
    durability: str = "power"
    paths: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)  # the recoveries
    result: Result = field(default_factory=Result)  # of the survey


@dataclass
class Cell:
    """One row under one column."""

    row: Row
    column: Column
    states: int
    result: Result = field(default_factory=Result)

    @property
    def paths(self) -> list[str]:
        """The recordings to explore."""
        return self.row.again if self.column.again else self.row.paths

    @property
    def must_hold(self) -> bool:
        """Whether nothing may be broken here.

        At durability "process" nothing keeps a flushed commit out of the block that the next one is written to.
        """
        return not self.column.reported and not (self.column.block and self.row.durability == "process")


def prepare(
    pool: Pool, wanted: Sequence[str], traces: str, *, jobs: int, seed: str, second: int, killed: int
) -> list[Row]:
    """Record scenarios, survey them, and record recoveries from them.

    Args:
        pool: for the surveys.
        wanted: names of scenarios; empty: all.
        traces: the directory to keep the recordings in.
        jobs: how many programs to record at a time.
        seed: for the choice of the states that are recovered.
        second: recoveries a scenario.
        killed: how many of the scenarios with a kill.
    """
    rows: dict[str, Row] = {}
    chosen: list[tuple[Row, Scenario]] = []
    for scenario in (*SCENARIOS.values(), *KILLED[:killed]):
        alone = scenario.name in SCENARIOS
        if wanted and scenario.name not in wanted:
            continue
        title = scenario.name if alone or wanted else "killed, then cut"
        row = rows.setdefault(title, Row(title, scenario.about, durability=scenario.durability))
        row.weight += scenario.weight
        chosen.append((row, scenario))

    def make(place: int) -> str:
        scenario = chosen[place][1]
        recording = record(scenario, os.path.join(pool.directory, f"recording-{place}"))
        return recording.save(os.path.join(traces, f"{slug(scenario.name)}.rec"))

    def recover(path: str) -> list[Recording]:
        directory = os.path.join(pool.directory, f"recovery-{slug(os.path.basename(path))}")
        return recoveries(load(path), second, directory, seed)

    with ThreadPoolExecutor(jobs) as threads:
        made = list(threads.map(make, range(len(chosen))))
        for (row, _), path, (known, result) in zip(chosen, made, pool.survey(made), strict=True):
            recording = load(path)
            recording.rows = known
            row.paths.append(recording.save(path))
            row.result.add(result)
        for (row, scenario), found in zip(chosen, threads.map(recover, made), strict=True):
            if scenario.name in SCENARIOS:
                row.again += [each.save(os.path.join(traces, f"{slug(each.name)}.rec")) for each in found]
    return list(rows.values())


def cells(rows: Sequence[Row], states: int, block: int | None) -> list[Cell]:
    """Return what is to be explored, row by row; with `block`, only under such profiles."""
    columns = [each for each in COLUMNS if block is None or each.block == block]
    if block is not None and not columns:
        columns = [Column(f"{block} torn", 0.7, block, reported=True)]
        columns.append(Column(f"{block} torn, twice", 0.3, block, again=True, reported=True))
    made: list[Cell] = []
    for column in columns:
        there = [row for row in rows if (row.again if column.again else row.paths)]
        weight = sum(row.weight for row in there)
        share = column.share / sum(each.share for each in columns)
        made += [Cell(row, column, max(1, round(states * share * row.weight / weight))) for row in there]
    return sorted(made, key=lambda cell: rows.index(cell.row))
