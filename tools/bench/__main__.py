"""Measure every claim on speed and wear, each against a peer in the same run.

    python tools/bench                      all figures, on the disk that holds the temporary directory
    python tools/bench --directory /data    on another disk
    python tools/bench record card          some of them
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterable

import delivery
import frontends
import record
import size
from common import Figure, workspace


def main() -> int:
    """Run the benchmarks and print one line a figure; return 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups_there = "record, threads, card, drain, bytes, waiting, import, vendors (default: all)"
    parser.add_argument("groups", nargs="*", help=groups_there)
    parser.add_argument("--directory", help="where to write; must be on the disk to be measured")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--events", type=int, default=1_000_000, help="events waiting, for the group 'waiting'")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with workspace(args.directory) as directory:

        def card() -> list[Figure]:
            if shutil.which("strace") is None:
                print("skipped: the group 'card' needs strace", file=sys.stderr)
                return []
            return [record.on_a_card(directory, min(args.rounds, 5))]

        groups: dict[str, Callable[[], Iterable[Figure]]] = {
            "record": lambda: [
                *record.single(directory, args.rounds),
                record.process(directory, args.rounds),
                record.many(directory, args.rounds),
            ],
            "threads": lambda: [
                record.threaded(directory, args.rounds, 8, 2.5),
                record.threaded(directory, args.rounds, 16, 3.5),
            ],
            "card": card,
            "drain": lambda: [delivery.drain(directory, args.rounds, each) for each in ("none", "gzip")],
            "bytes": lambda: [delivery.bytes_written(directory, args.rounds)],
            "waiting": lambda: size.waiting(directory, args.rounds, args.events),
            "import": lambda: size.importing(args.rounds),
            "vendors": lambda: frontends.throughput(directory, args.rounds),
        }
        unknown = set(args.groups) - set(groups)
        if unknown:
            parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
        if not args.json:
            print(
                f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, "
                f"medians of {args.rounds} rounds"
            )
        figures: list[Figure] = []
        for name, run in groups.items():
            if not args.groups or name in args.groups:
                for each in run():
                    figures.append(each)
                    if not args.json:
                        print(each.line(), flush=True)
        if args.json:
            print(json.dumps([{**vars(each), "reached": each.reached} for each in figures], indent=1))
        return 0 if all(each.reached for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
