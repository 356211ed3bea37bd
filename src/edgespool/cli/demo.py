"""`edgespool demo`: the real thing, with real processes and real faults, in about 15 seconds."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import click

from .exits import Exit, epilog
from .interrupts import ended_by_signals
from .options import Command, json_option
from .output import json_line, table, terminal
from .stage import Stage

__all__ = ["demo"]

_RATE = 40.0

Say = Callable[[str], None]


@click.command(
    cls=Command,
    epilog=epilog({Exit.OK: "no event was lost", Exit.ATTENTION: "an event was lost, or the demo could not be run"}),
)
@click.option("--vendor", metavar="NAME", help="The device uses that vendor's SDK; NAME may be any that is served.")
@json_option
def demo(vendor: str | None, as_json: bool) -> int:
    """See events survive an outage, a SIGKILL in mid-write, a lost reply and a refusing server.

    Starts a server and a device as processes of their own, in a temporary directory. Each event that the device has
    called recorded is looked for on the server at the end.
    """
    with (
        ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="edgespool-demo-") as home,
        Stage(home, _RATE, _known(vendor)) as stage,
        _display(stage, as_json) as (say, draw),
    ):
        result = _play(stage, say, draw)
    if as_json:
        json_line(result, indent=2)
    else:
        rows = [(name.replace("_", " "), value) for name, value in result.items() if name != "unconfirmed"]
        click.echo("\n" + table(rows))
        click.echo("\nNothing was lost." if not result["lost"] else "\nEVENTS WERE LOST.")
    return Exit.OK if not result["lost"] else Exit.ATTENTION


def _known(vendor: str | None) -> str | None:
    """Return the vendor's name as it is; raises click.UsageError for one that there is not."""
    if vendor is None:
        return None
    from ..dropin import names

    if vendor not in names():
        raise click.UsageError(f"there is no vendor {vendor!r}; there are {', '.join(names())}")
    try:
        import_module(f"edgespool.vendors.{vendor}.device")
    except ImportError as error:  # what it needs is an extra
        raise click.UsageError(str(error)) from None
    return vendor


def _play(stage: Stage, say: Say, draw: Callable[[], None]) -> dict[str, Any]:
    """Let it all happen, and return the counts."""

    def watch(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not until():
            draw()
            time.sleep(0.1)

    began = time.monotonic()
    say(f"a server starts (process {stage.start_server()}): {stage.url}")
    say(f"a device starts (process {stage.start_device()}) and records {_RATE:.0f} events a second")
    watch(3)
    stage.kill_server()
    say("OUTAGE: the server is gone; the device goes on recording")
    watch(1.5)
    printed = stage.kill_device()
    say(f"CRASH: the device is killed (SIGKILL) in mid-write; it had confirmed {printed:,} events")
    watch(0.8)
    say(f"the device starts again (process {stage.start_device()})")
    watch(1.2)
    server = stage.start_server("--lose-replies", "--times", "1")
    say(f"the server is back (process {server}); its first reply gets lost")
    watch(6, lambda: stage.pending()[0] < _RATE)
    stage.poison()
    stage.spoil()
    say(f"{stage.bad} bad reading(s): the server refuses them with 400, and whatever batch they are in")
    watch(4, lambda: stage.pending()[1] >= stage.bad)
    stage.finish_device()
    _, refused = stage.pending()
    draw()
    say(f"the device has ended; {refused} refused events are in failed payload files")
    stage.heal()
    replayed = stage.replay()
    say(f"the fault is mended; replay-failed delivers {replayed} of them")
    arrived = stage.arrived()
    stage.look()
    promised = set(stage.promised)
    return {
        "accepted": len(promised),
        "delivered": len(promised & arrived),
        "repeats": stage.repeats,
        "failed_and_replayed": replayed,
        "lost": len(promised - arrived),
        "unconfirmed": len(arrived - promised),  # recorded, but killed before the id could be printed
        "seconds": round(time.monotonic() - began, 1),
    }


@contextlib.contextmanager
def _display(stage: Stage, quiet: bool) -> Iterator[tuple[Say, Callable[[], None]]]:
    """Give the functions that tell what happens, and draw the counts: live on a terminal, else lines."""
    began = time.monotonic()

    def stamped(text: str) -> str:
        return f"{time.monotonic() - began:5.1f} s  {text}"

    def counts() -> str:
        stage.look()
        waiting, refused = stage.pending()
        return (
            f"recorded {len(stage.promised):>5,}   delivered {stage.delivered:>5,}   on disk {waiting:>5,}   "
            f"repeats {stage.repeats:>3,}   refused {refused}"
        )

    if quiet:
        yield lambda text: None, lambda: None
    elif not terminal():

        def say(text: str) -> None:
            click.echo(stamped(text))
            click.echo(f"         {counts()}")

        yield say, stage.look
    else:
        from rich.live import Live
        from rich.text import Text

        with Live(Text(""), refresh_per_second=10) as live:
            yield (
                lambda text: live.console.print(stamped(text), highlight=False, markup=False),
                lambda: live.update(Text("\n" + counts(), style="bold")),
            )
