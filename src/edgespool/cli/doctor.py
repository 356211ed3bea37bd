"""`edgespool doctor`: looks at a queue without changing it, and says in plain words what to do."""

from __future__ import annotations

import textwrap
from dataclasses import asdict

import click

from ..errors import ConfigError
from .checks import examine
from .exits import Exit, epilog
from .options import Command, Place, json_option, place_options
from .output import count, json_line, say

__all__ = ["doctor"]

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


@click.command(cls=Command, epilog=epilog({Exit.ATTENTION: "something needs attention, damage included"}))
@place_options
@json_option
def doctor(place: Place, as_json: bool) -> int:
    """Check a queue: its files, every event's checksum, the ledger, the disk, the settings.

    Works offline, changes nothing, and can be used while other processes work on the queue.
    """
    settings, mistake = None, None
    try:
        settings = place.existing()
        directory = settings.directory
    except ConfigError as error:
        mistake = str(error)
        directory = place.without_settings()
    findings = examine(settings, directory, place.config, mistake)
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        json_line({"queue": directory, "problems": problems, "findings": [asdict(each) for each in findings]}, indent=2)
    else:
        say(f"queue in {directory}\n")
        for each in findings:
            say(f"{_MARKS[each.level]}  {each.check}: {each.text}")
            if each.advice:
                say(textwrap.indent(f"-> {each.advice}", " " * 9))
        say(f"\n{count(problems, 'problem')}" if problems else "\nall is well")
    return Exit.ATTENTION if problems else Exit.OK
