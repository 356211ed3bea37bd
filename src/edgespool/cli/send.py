"""`edgespool send`: records events durably, from arguments or from standard input, and delivers them if asked to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import IO

import click

from ..client import Client
from ..errors import EventError, QueueError
from ..event import Batch, StoredEvent
from ..outcome import Hold, Outcome
from . import delivery
from .exits import Exit, epilog
from .options import Place, command_with, place_options, warn_root
from .output import count, drop_stdout, warn
from .parse import Duration, Moment, event_of_arguments, event_of_line

__all__ = ["send"]

_LONGEST_LINE = 16 << 20

_EXAMPLES = """
Examples:
  edgespool send door state=open battery:=3.71
  sensor-program | edgespool send -            one JSON object a line:
  {"name": "temperature", "data": {"value": 21.5}, "time": 1772373600}
"""


class _Nowhere:
    """The destination of a client that only records: a URL is not needed for that."""

    def take(self, events: Sequence[StoredEvent]) -> int:
        return len(events)

    def send(self, batch: Batch) -> Outcome:
        return Hold("this client only records")

    def close(self) -> None:
        """There is nothing to close."""


@click.command(
    cls=command_with(wait="30"),
    epilog=epilog(
        {
            Exit.OK: "recorded; with --wait: delivered",
            Exit.ATTENTION: "bad lines, a full queue, events refused, or with --wait not all delivered in time",
            Exit.SERVER: "with --wait: the server refuses everything, or cannot be reached; the events are on disk",
        },
        _EXAMPLES,
    ),
)
@click.argument("event_name", metavar="[NAME | -]", required=False)
@click.argument("pairs", nargs=-1, metavar="[KEY=TEXT | KEY:=JSON]...")
@click.option("--stdin", is_flag=True, help="Read JSON lines from standard input; so does '-' as the event's name.")
@click.option("--strict", is_flag=True, help="Stop at the first bad line instead of passing over it.")
@click.option("--wait", type=Duration(), metavar="[SECONDS]", help="Deliver, and wait for it; 30 seconds unless given.")
@click.option("--quiet", "-q", is_flag=True, help="Do not print the events' ids.")
@click.option("--data", metavar="JSON", help="The event's values as a JSON object; pairs are added to it.")
@click.option("--time", "when", type=Moment(), metavar="TIME", help="When it happened; now unless given.")
@click.option("--id", "event_id", metavar="ID", help="An id of your own, unique for this device.")
@click.option("--route", default="", help="Events of one route stay in order and wait for no other.")
@click.option("--url", help="Where to deliver, with --wait.")
@place_options
def send(
    event_name: str | None,
    pairs: tuple[str, ...],
    stdin: bool,
    strict: bool,
    wait: float | None,
    quiet: bool,
    data: str | None,
    when: float | None,
    event_id: str | None,
    route: str,
    url: str | None,
    place: Place,
) -> int:
    """Record an event NAME with values, or JSON lines from standard input.

    An event is on disk when its id is printed; of standard input, each line before the next one is read. Without --wait
    nothing is sent: another process of the same queue does that, or a later `send --wait`. The queue is called
    'default' unless --name or --path says otherwise.
    """
    lines = stdin or event_name == "-"
    if lines and (pairs or (stdin and event_name not in (None, "-"))):
        raise click.UsageError("give either an event or --stdin, not both")
    if lines and (data is not None or when is not None or event_id is not None or route):
        raise click.UsageError("--data, --time, --id and --route are for one event; a line has keys of these names")
    if strict and not lines:
        raise click.UsageError("--strict is for --stdin")
    if url is not None and wait is None:
        raise click.UsageError("--url is for --wait: without it nothing is sent")
    if not lines and not event_name:
        raise click.UsageError("an event's name is missing; or '-' to read JSON lines from standard input")
    if lines and sys.stdin is None:
        raise click.UsageError("there is no standard input to read: it is closed")
    event = None if lines else event_of_arguments(str(event_name), pairs, data, when, event_id, route)
    settings = place.new(url=url)
    warn_root(settings.directory)
    client = Client(
        settings.url,
        name=settings.name,
        path=settings.path,
        config_file=place.config,
        destination=_Nowhere() if wait is None else None,
        start=wait is not None,
    )
    try:
        refused_before = client.stats().failed
        if event is not None:
            event_id = client.record_event(event)
            if not quiet:
                click.echo(event_id)
            code = Exit.OK
        else:
            code = _record_lines(client, sys.stdin.buffer, strict, quiet)
        if wait is not None:
            code = max(code, _deliver(client, wait, refused_before))
    finally:
        client.close(0.0)
    return code


def _record_lines(client: Client, stream: IO[bytes], strict: bool, quiet: bool) -> Exit:
    """Record each line before the next is read."""
    bad = 0
    for number, line in _lines(stream):
        try:
            if line is None:
                raise EventError(f"longer than {_LONGEST_LINE >> 20} MiB")
            event_id = client.record_event(event_of_line(line))
        except EventError as error:
            warn(f"line {number}: {error}")
            bad += 1
            if strict:
                warn(f"stopped; what comes after line {number} was not read")
                return Exit.ATTENTION
            continue
        except QueueError:
            warn(f"stopped at line {number}; it and what comes after it was not recorded")
            raise
        if quiet:
            continue
        try:
            click.echo(event_id)
        except BrokenPipeError:
            drop_stdout()
            warn(f"standard output was closed; stopped after line {number}")
            return Exit.ATTENTION
    if bad:
        warn(f"{count(bad, 'bad line')} passed over")
    return Exit.ATTENTION if bad else Exit.OK


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not empty with their numbers; None for one that is too long to be held."""
    number = 0
    while line := stream.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            while rest := stream.readline(_LONGEST_LINE):
                if rest.endswith(b"\n"):
                    break
            yield number, None
        elif line.strip():
            yield number, line


def _deliver(client: Client, seconds: float, refused_before: int) -> Exit:
    """Wait until what was recorded has left the queue, and say what kept it."""
    result = delivery.wait(client, seconds)
    if not result.empty:
        delivery.say_undelivered(result, client.stats().pending)
        return result.code
    refused = client.stats().failed - refused_before
    if refused > 0:
        delivery.say_refused(client, refused)
        return Exit.ATTENTION
    return Exit.OK
