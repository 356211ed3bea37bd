"""`edgespool doctor`: looks at a queue without changing it, says in plain words what to do, and does it if asked to."""

from __future__ import annotations

import textwrap
from dataclasses import asdict

import click

from ..errors import ConfigError
from .checks import examine
from .exits import Exit, epilog
from .options import Command, Place, json_option, place_options, warn_root
from .output import count, json_line, say
from .repair import repair as set_aside

__all__ = ["doctor"]

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


@click.command(cls=Command, epilog=epilog({Exit.ATTENTION: "something needs attention, damage included"}))
@click.option("--repair", is_flag=True, help="Set aside what is damaged or left over; nothing is ever deleted.")
@click.option("--live", is_flag=True, help="Also see whether the server can be reached (HEAD, without credentials).")
@place_options
@json_option
def doctor(repair: bool, live: bool, place: Place, as_json: bool) -> int:
    """Check a queue: its files, every event's checksum, the ledger, the disk, the settings.

    Works offline, and can be used while other processes work on the queue. Without --repair it changes nothing, and
    without --live it sends nothing.

    With --repair a damaged queue file is set aside whole and every readable event is read back, damaged events go to
    the folder quarantine, and failed payload files that hold no events, and files left over by a crash, to the folder
    set-aside.
    """
    settings, mistake = None, None
    try:
        settings = place.existing()
        directory = settings.directory
    except ConfigError as error:
        mistake = str(error)
        directory = place.without_settings()
    done = []
    if repair:
        warn_root(directory)
        done = set_aside(directory, settings)
    findings = examine(settings, directory, place.config, mistake, live)
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        report = {"queue": directory, "problems": problems, "findings": [asdict(each) for each in findings]}
        json_line({**report, "repaired": [asdict(each) for each in done]} if repair else report, indent=2)
    else:
        say(f"queue in {directory}\n")
        for step in done:
            say(f"set aside  {step.what}: it is in {step.where}" + (f"; {step.saved}" if step.saved else ""))
        if repair:
            say("" if done else "nothing had to be set aside\n")
        for each in findings:
            say(f"{_MARKS[each.level]}  {each.check}: {each.text}")
            if each.advice:
                say(textwrap.indent(f"-> {each.advice}", " " * 9))
        say(f"\n{count(problems, 'problem')}" if problems else "\nall is well")
    return Exit.ATTENTION if problems else Exit.OK
