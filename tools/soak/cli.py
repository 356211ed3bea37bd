"""The command: arguments, the table, exit codes."""

from __future__ import annotations

import argparse

from soak.run import Report, run

__all__ = ["main"]


def main() -> int:
    """Run the soak and print the books; return 1 when anything was lost or the books do not balance."""
    parser = argparse.ArgumentParser(
        prog="python tools/soak", description="Record from many processes while the network flaps, and count."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is recorded (default: %(default)g)")
    parser.add_argument("--processes", type=int, default=8, help="processes that record (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=8, help="threads in each of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the network and the writers (default: %(default)s)")
    parser.add_argument("--durability", choices=("power", "process"), default="power")
    parser.add_argument("--reader", action="store_true", help="let somebody read the queue file and never let go")
    parser.add_argument("--directory", help="where to write; the temporary directory if not given")
    args = parser.parse_args()
    report = run(
        args.seconds, processes=args.processes, threads=args.threads, seed=args.seed, durability=args.durability,
        directory=args.directory, reader=args.reader,
    )  # fmt: skip
    print(_table(report))
    return 0 if report.sound else 1


def _table(report: Report) -> str:
    ledger = report.ledger
    dropped = sum(ledger.dropped.values())
    lines = [
        f"recorded  {report.recorded:>10,}",
        f"unique    {report.unique:>10,}",
        f"repeats   {report.repeats:>10,}",
        f"lost      {report.lost:>10,}",
        f"unknown   {report.unknown:>10,}",
        f"ledger    accepted {ledger.accepted:,} = delivered {ledger.delivered:,} + failed {ledger.failed:,}"
        f" + dropped {dropped:,} + pending {ledger.pending:,}",
        f"network   {report.connections:,} connections, {report.exchanges:,} exchanges, {report.faulted:,} faulted,"
        f" {report.unanswered:,} unanswered",
        f"time      {report.seconds:.1f} s, of which {report.drain:.1f} s to deliver what was left",
        f"WAL       {report.wal_peak / (1 << 20):.1f} MiB at most",
        *report.trouble,
        "sound" if report.sound else "NOT SOUND",
    ]
    return "\n".join(lines)
