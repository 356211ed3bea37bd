"""`edgespool peek`: the next waiting events, as they would be sent."""

from __future__ import annotations

from itertools import islice

import click

from .. import formats
from ..queue.view import QueueView
from .exits import Exit, epilog
from .options import Command, Place, json_option, place_options
from .output import as_value, count, json_line, moment, say, warn

__all__ = ["peek"]


@click.command(cls=Command, epilog=epilog({Exit.ATTENTION: "some events are damaged"}))
@click.argument("number", metavar="[N]", type=click.IntRange(1), default=10)
@click.option("--route", help="Only events of this route.")
@place_options
@json_option
def peek(number: int, route: str | None, place: Place, as_json: bool) -> int:
    """Show the first N events that wait (10 unless given), as they would be sent. They stay where they are."""
    settings = place.existing()
    with QueueView(settings.directory) as view:
        format = formats.create(view.format_name or settings.format, settings.event_source)
        found = [as_value(name, event, format) for name, event in islice(view.events(route), number)]
        pending, damaged = view.ledger().pending, view.damaged
    if as_json:
        json_line({"queue": settings.directory, "pending": pending, "damaged": damaged, "events": found}, indent=2)
    else:
        import json

        for each in found:
            where = f"  [{each['route']}]" if each["route"] else ""
            say(f"{moment(each['time'])}  {each['id']}{where}")
            say(f"  {json.dumps(each['event'], ensure_ascii=False)}")
        warn(f"{len(found)} of {count(pending, 'event')} waiting in {settings.directory}")
        if damaged:
            warn(f"{count(damaged, 'damaged event')} passed over: run `edgespool doctor`")
    return Exit.ATTENTION if damaged else Exit.OK
