"""The command: arguments, tables, exit codes. The only module here that prints."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence

from crash import kill, strace
from crash.controls import Control, controls, relaxed
from crash.explore import Finding, Pool, look
from crash.plan import Cell, Row, cells, prepare
from crash.recording import RecordingFailed, slug
from crash.scenarios import KILLED, SCENARIOS
from crash.steps import RELAXED_INTERVAL

__all__ = ["main"]

_ABOUT = """\
Record what programs do to their files, rebuild what a crash could leave of them, open each such state as a fresh
program would, and look whether anything is lost. `kill` as the first word: SIGKILL anywhere; see `kill --help`.
"""
_EPILOG = """\
Each cell of the table says how many states were opened and, if any, in how many something was broken.
  power cut     any part of what was written since the last flush, in sectors of 512 bytes, in any order
  4 KiB torn    besides, whole blocks around writes in flight are destroyed
  twice         a second crash, during the recovery from the first
  16 KiB torn   as 4 KiB; reported, no failure: SQLite pads to 4 KiB
Exit status: 0, 1 when something was broken or a control found nothing, 2 when nothing could be run.
"""


def main() -> int:
    """Run the command; return its exit status."""
    if sys.argv[1:2] == ["kill"]:
        return kill.main(sys.argv[2:])
    args = _arguments()
    why = strace.missing()
    if why is not None and args.state is None:
        print(f"cannot record: {why}", file=sys.stderr)
        return 2
    try:
        return _replay(args) if args.state is not None else _explore(args)
    except (strace.Unmodelled, RecordingFailed) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tools/crash", description=_ABOUT, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--states", type=int, default=20_000, help="how many states, about (default: 20000)")
    parser.add_argument("--scenario", action="append", default=[], help="only this one; can be given again")
    parser.add_argument("--block", type=int, help="only with blocks of so many bytes torn; 0: none torn")
    parser.add_argument("--seed", default="0", help="text from which random states are drawn (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--recoveries", type=int, default=8, help="recoveries recorded a scenario (default: 8)")
    parser.add_argument("--killed", type=int, default=6, help=f"kills recorded, at most {len(KILLED)} (default: 6)")
    parser.add_argument("--traces", help="where to keep the recordings (default: kept when something was broken)")
    parser.add_argument("--state", metavar="POINT.NUMBER", help="look at one state of a recording kept in --traces")
    parser.add_argument("--keep", metavar="DIRECTORY", help="with --state: leave the state's files there")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    args = parser.parse_args()
    if args.list:
        for scenario in (*SCENARIOS.values(), *KILLED):
            print(f"{scenario.name:32} {scenario.about}")
        sys.exit(0)
    names = {*SCENARIOS, *(each.name for each in KILLED)}
    if args.state is None and not set(args.scenario) <= names:
        parser.error(f"there is no scenario {', '.join(sorted(set(args.scenario) - names))}; see --list")
    if args.state is not None and (len(args.scenario) != 1 or not args.traces):
        parser.error("--state needs --scenario, and --traces with the recordings")
    return args


# --- exploring --------------------------------------------------------------------------------------------------------


def _explore(args: argparse.Namespace) -> int:
    began = time.monotonic()
    traces = args.traces or tempfile.mkdtemp(prefix="edgespool-crash-traces-")
    os.makedirs(traces, exist_ok=True)
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"{versions}, seed {args.seed}, {args.jobs} processes", flush=True)
    with Pool(args.jobs) as pool:
        rows = prepare(
            pool, args.scenario, traces, jobs=args.jobs, seed=args.seed, second=args.recoveries, killed=args.killed
        )
        print(f"{sum(len(row.paths) + len(row.again) for row in rows)} recordings, {time.monotonic() - began:.0f} s\n")
        plan = cells(rows, args.states, args.block)
        _run(pool, plan, args.seed)
        judged = [] if args.scenario or args.block is not None else controls(pool, rows, traces, args.seed)
    for cell in plan:
        if cell.row.durability == "process" and not cell.column.block and not cell.column.again:
            judged.append(relaxed(cell.row, cell.result, RELAXED_INTERVAL))
    broken = _summary(plan, rows, judged)
    states = sum(cell.result.states for cell in plan) + sum(row.result.states for row in rows)
    more = sum(each.states for each in judged)
    print(f"\n{states:,} states and {more:,} of controls, {time.monotonic() - began:.0f} s")
    for finding in broken:
        _tell(finding, traces, args.seed)
    if not broken and not args.traces:
        shutil.rmtree(traces, ignore_errors=True)
    return 1 if broken or any(each.failed for each in judged) else 0


def _run(pool: Pool, plan: Sequence[Cell], seed: str) -> None:
    """Explore everything, and print each row as soon as it is done."""
    columns = list(dict.fromkeys(cell.column for cell in plan))
    print(f"{'scenario':18}{'points':>8}" + "".join(f"{column.title:>15}" for column in columns))
    tasks, owners = [], []
    for cell in plan:
        for path in cell.paths:
            cut = pool.cut(path, -(-cell.states // len(cell.paths)), block=cell.column.block, seed=seed)
            tasks += cut
            owners += [cell] * len(cut)
    left = {id(cell): owners.count(cell) for cell in plan}
    done: dict[str, int] = {}
    for (_, result), cell in zip(pool.explore(tasks), owners, strict=True):
        cell.result.add(result)
        left[id(cell)] -= 1
        if not left[id(cell)]:
            row = [each for each in plan if each.row is cell.row]
            done[cell.row.title] = done.get(cell.row.title, 0) + 1
            if done[cell.row.title] == len(row):
                _print_row(cell.row, row, columns)


def _print_row(row: Row, there: Sequence[Cell], columns: Sequence[object]) -> None:
    texts = []
    for column in columns:
        found = [cell for cell in there if cell.column is column]
        text = ""
        if found:
            result = found[0].result
            mark = "" if found[0].must_hold else "*"
            text = f"{result.states:,}" + (f" !{result.violations:,}{mark}" if result.violations else "")
        texts.append(f"{text:>15}")
    points = max(cell.result.points for cell in there if not cell.column.again)
    print(f"{row.title:18}{points:>8,}" + "".join(texts), flush=True)


def _summary(plan: Sequence[Cell], rows: Sequence[Row], judged: Sequence[Control]) -> list[Finding]:
    """Print totals and controls; return the first counter-example of each cell in which something is broken."""
    broken: list[Finding] = []
    for row in rows:
        broken += sorted(row.result.findings, key=lambda finding: finding.point)[:1]
    for cell in plan:
        if cell.result.violations:
            result = cell.result
            mark = "BROKEN" if cell.must_hold else "*"
            print(f"\n{mark} {cell.row.title}, {cell.column.title}: {result.violations:,} states: {result.kinds()}")
            if cell.must_hold:
                broken += sorted(cell.result.findings, key=lambda finding: finding.point)[:1]
    salvaged = sum(cell.result.salvaged for cell in plan)
    if salvaged:
        print(f"\nin {salvaged:,} states with torn blocks the file was salvaged")
    if judged:
        print("\ncontrols")
    for control in judged:
        verdict = f"FAILED: {control.failed}" if control.failed else "as it must"
        print(f"  {control.name}: {control.found}; {verdict}")
    return broken


def _tell(finding: Finding, traces: str, seed: str) -> None:
    path = os.path.join(traces, f"{slug(finding.recording)}.rec")
    print(f"\n{finding.recording}, state {finding.state}: {finding.problem.kind}: {finding.problem.text}")
    with tempfile.TemporaryDirectory() as scratch:
        _, words, _ = look(path, finding.point, finding.number, finding.block, seed, os.path.join(scratch, "state"))
    for line in words:
        print(f"    {line}")
    print(
        f"  again: python tools/crash --scenario '{finding.recording}' --state {finding.state} --block {finding.block} "
        f"--seed {seed} --traces {traces}"
    )


# --- one state --------------------------------------------------------------------------------------------------------


def _replay(args: argparse.Namespace) -> int:
    path = os.path.join(args.traces, f"{slug(args.scenario[0])}.rec")
    point, _, number = args.state.partition(".")
    with tempfile.TemporaryDirectory() as scratch:
        where = args.keep or os.path.join(scratch, "state")
        _, words, verdict = look(path, int(point), int(number), args.block or 0, args.seed, where)
        for line in words:
            print(line)
        for problem in verdict.problems:
            print(f"{problem.kind}: {problem.text}")
        print("nothing is broken" if not verdict.problems else "", end="\n" if not verdict.problems else "")
        if args.keep:
            print(f"the files are in {where}")
    return 1 if verdict.problems else 0
