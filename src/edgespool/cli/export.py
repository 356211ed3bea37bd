"""`edgespool export`: all waiting events as JSON lines, without removing them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO

import click

from .. import formats
from ..files import open_private, sync_directory
from ..queue.view import QueueView
from .exits import Exit, epilog
from .options import Command, Place, place_options
from .output import as_value, count, json_bytes, warn

__all__ = ["export"]

_EXAMPLE = """
A line is {"id": ..., "time": ..., "route": ..., "event": {...}}; `event` is what would be sent.
To send an export from elsewhere:
  jq -c '[.event]' export.jsonl > events.txt && replay-failed --url URL events.txt
"""


@click.command(cls=Command, epilog=epilog({Exit.ATTENTION: "some events are damaged"}, _EXAMPLE))
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write it there, all or nothing.")
@click.option("--route", help="Only events of this route.")
@place_options
def export(output: str | None, route: str | None, place: Place) -> int:
    """Write all events that wait as JSON lines, in the order they were recorded. They stay where they are.

    Events that are delivered or recorded meanwhile may or may not be among them.
    """
    if output is None and sys.stdout is None:
        raise click.UsageError("there is no standard output to write to: it is closed. Name a file with --output")
    settings = place.existing()
    with QueueView(settings.directory) as view, _opened(output) as file:
        format = formats.create(view.format_name or settings.format, settings.event_source)
        number = 0
        for number, (name, event) in enumerate(view.events(route), 1):  # noqa: B007 - it is the count afterwards
            file.write(json_bytes(as_value(name, event, format)))
        file.flush()
        damaged = view.damaged
    warn(f"{count(number, 'event')} written" + (f" to {output}" if output else ""))
    if damaged:
        warn(f"{count(damaged, 'damaged event')} left out: run `edgespool doctor`")
    return Exit.ATTENTION if damaged else Exit.OK


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[IO[bytes]]:
    """Give a file that appears at `path` when all of it is written and flushed; None: standard output."""
    if path is None:
        yield sys.stdout.buffer
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(os.path.abspath(path)))
