"""`edgespool replay`, which is `replay-failed`: sends what a server refused once more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from ..errors import QueueUnavailable
from ..replay import FileResult, Pace, Progress, Replay, Report, Selection
from .exits import Exit, epilog
from .options import Command, Place, json_option, place_options, warn_root
from .output import count, json_line, say, seconds_text, terminal, warn
from .parse import Moment

__all__ = ["replay"]

_NOTE = """
A file is moved to the folder `replayed` once every event in it was delivered. Events that
are refused again stay in their file. Stopped at any point and run again it loses nothing;
at worst some events arrive twice, with the same ids.

TIME is a date, a date and time, or how long ago: 2026-03-01, 2026-03-01T14:30Z, 2h, 7d.
"""


@click.command(
    cls=Command,
    epilog=epilog(
        {
            Exit.OK: "everything selected was delivered, or there was nothing to replay",
            Exit.ATTENTION: "events were refused again, files are broken, or another replay is at work",
            Exit.SERVER: "stopped: the server refuses everything, or cannot be reached",
        },
        _NOTE,
    ),
)
@click.argument("files", nargs=-1, type=click.Path(exists=True), metavar="[FILE | FOLDER]...")
@click.option("--dry-run", is_flag=True, help="Read and check the files and say what would be sent; send nothing.")
@click.option("--since", type=Moment(), metavar="TIME", help="Only events that failed then or later.")
@click.option("--until", type=Moment(), metavar="TIME", help="Only events that failed before then.")
@click.option("--status", "statuses", type=int, multiple=True, metavar="CODE", help="Only those refused with it.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Send N events at most.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="Send N events a second at most.")
@click.option("--tries", type=click.IntRange(1), default=5, metavar="N", help="Stop after N failures in a row; 5.")
@click.option("--url", help="Where to send.")
@click.option("--format", "format_name", metavar="NAME", help="The format of files that name none.")
@click.option("--route", default="", help="The route of files that name none.")
@place_options
@json_option
def replay(
    files: tuple[str, ...],
    dry_run: bool,
    since: float | None,
    until: float | None,
    statuses: tuple[int, ...],
    limit: int | None,
    rate: float | None,
    tries: int,
    url: str | None,
    format_name: str | None,
    route: str,
    place: Place,
    as_json: bool,
) -> int:
    """Send the events of failed payload files once more.

    Without FILE it takes the files of the queue. FILE may also be a bare JSON array of events, or hold a JSON array a
    line, as the Initial State streamer's err_missed_events.txt does. Credentials come from the configuration.
    """
    given = {"url": url, "format": format_name}
    settings = place.new(**given) if files else place.existing(**given)
    if not files and not os.path.isdir(settings.directory):
        raise QueueUnavailable(f"there is no queue in {settings.directory}")
    with _drawn(as_json or dry_run) as progress:
        run = Replay(
            settings,
            files,
            selection=Selection(since, until, frozenset(statuses), limit),
            pace=Pace(rate if rate is not None else settings.max_rate, tries),
            route=route,
            on_progress=progress,
            on_wait=None if as_json else _say_wait,
        )
        if dry_run:
            report = run.dry_run()
        else:
            warn_root(settings.directory)
            try:
                report = run.run()
            except KeyboardInterrupt:
                if as_json or run.report.files:
                    _tell(run.report, dry_run, as_json)
                raise
    _tell(report, dry_run, as_json)
    if report.stopped is not None:
        return Exit.SERVER
    return Exit.OK if report.complete else Exit.ATTENTION


def _say_wait(reason: str, seconds: float) -> None:
    warn(f"{reason}; tries again in {seconds_text(seconds)}")


@contextlib.contextmanager
def _drawn(plain: bool) -> Iterator[Any]:
    """Give the function that is told of progress: it draws a bar on a terminal, else there is none."""
    if plain or not terminal(err=True):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("file {task.fields[number]} of {task.fields[files]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("delivered {task.fields[delivered]}, refused {task.fields[refused]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, number=0, files=0, delivered=0, refused=0)

        def told(now: Progress) -> None:
            bar.update(
                task,
                completed=now.done,
                total=now.selected,
                number=now.number,
                files=now.files,
                delivered=now.delivered,
                refused=now.refused,
            )

        yield told


def _tell(report: Report, dry_run: bool, as_json: bool) -> None:
    if as_json:
        json_line(
            {
                "dry_run": dry_run,
                "delivered": 0 if dry_run else report.delivered,
                "selected": sum(each.delivered for each in report.files) if dry_run else None,
                "refused": report.refused,
                "broken": len(report.broken),
                "passed_over": report.passed_over,
                "stopped": asdict(report.stopped) if report.stopped is not None else None,
                "files": [asdict(each) for each in report.files],
            },
            indent=2,
        )
        return
    for each in report.files:
        say(_line(each))
    if report.stopped is not None:
        warn(f"stopped, {report.stopped.kind}: {report.stopped.reason}")
    if dry_run:
        say(f"{count(report.delivered, 'event')} would be sent" + _rest(report))
    elif not report.files and not report.passed_over:
        say("nothing to replay")
    else:
        say(f"{count(report.delivered, 'event')} delivered, {report.refused:,} refused" + _rest(report))


def _rest(report: Report) -> str:
    text = f", {count(len(report.broken), 'file')} broken" if report.broken else ""
    return text + (f", {count(report.passed_over, 'file')} not selected" if report.passed_over else "")


def _line(result: FileResult) -> str:
    parts = [result.state, os.path.basename(result.path)]
    if result.state == "broken":
        return "  ".join([*parts[:1], result.reason])
    parts.append(f"{result.delivered:,} of {count(result.events, 'event')}")
    if result.refused:
        parts.append(f"{result.refused:,} refused")
    if result.reason:
        parts.append(result.reason)
    return "  ".join(parts)
