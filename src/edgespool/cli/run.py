"""`edgespool run`: a script that was written for another SDK, as it is, on edgespool's queue."""

from __future__ import annotations

import os
import runpy
import sys

import click

from .. import dropin
from .exits import Exit, epilog
from .options import Command
from .output import warn

__all__ = ["run"]


@click.command(
    cls=Command,
    epilog=epilog({Exit.OK: "the script ended; its own exit code, where it gives one"}),
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("script", type=click.Path(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def run(script: str, arguments: tuple[str, ...]) -> int:
    """Run SCRIPT as `python SCRIPT ARGS` would, with the vendors' modules leading to edgespool.

    ISStreamer, samsara_sdk, paltabrain_sdk, ironsource.atom and panoply are served whether or not they are installed;
    nothing in the script has to be changed. Settings come from EDGESPOOL_<NAME> and the TOML file.
    """
    dropin.install()
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        # As the interpreter would have it: a text goes to standard error, and means 1.
        if error.code is None or isinstance(error.code, int):
            return error.code or Exit.OK
        warn(str(error.code))
        return 1
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - also what a script may raise that is no Exception
        # The script's own failure is the script's own business: it gets the traceback that python would print, from
        # the script's first line on.
        kind, value, trace = sys.exc_info()
        while trace is not None and os.path.abspath(trace.tb_frame.f_code.co_filename) != os.path.abspath(script):
            trace = trace.tb_next
        assert kind is not None
        assert value is not None
        sys.excepthook(kind, value.with_traceback(trace), trace)
        return 1
    return Exit.OK
