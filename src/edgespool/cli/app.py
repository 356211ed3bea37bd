"""The group `edgespool`, and what happens around every command: errors become a line and an exit code.

A command's module is imported when the command is run: on a small board that is most of the time `--help` takes.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import Any

import click

from .. import __version__
from ..errors import ConfigError, EdgespoolError, EventError, QueueError, QueueFull
from .exits import Exit, epilog
from .options import ClosedPipe
from .output import drop_stdout, fill_standard_files, warn

__all__ = ["edgespool", "run"]

# name -> what `edgespool --help` says of it; the module and the command in it are called the same
_COMMANDS = {
    "send": "Record events, from arguments or as JSON lines.",
    "deliver": "Send what waits in a queue whose program does not run.",
    "status": "Show how a queue and its sender fare.",
    "peek": "Show the next events that wait.",
    "export": "Write the waiting events as JSON lines.",
    "purge": "Delete waiting events.",
    "doctor": "Check a queue offline, and say what to do.",
    "replay": "Send what a server refused once more (replay-failed).",
    "source": "Run a data source of Panoply's kind, and store what it reads.",
    "collector": "Run a server on this machine that takes events.",
    "run": "Run a script written for another SDK, as it is.",
    "demo": "See events survive an outage and a crash, in 15 seconds.",
}


class _Lazy(click.Group):
    """A group that knows its commands' names, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__package__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, epilog=epilog(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgespool", message="%(prog)s %(version)s")
def edgespool() -> None:
    """Events that survive crashes, power cuts and outages.

    Every setting can also come from EDGESPOOL_<NAME> or from a TOML file (--config).
    """


def run(command: click.Command, program: str, arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; whatever the user did wrong is one line on standard error.

    Args:
        command: the command or group.
        program: how the user called it.
        arguments: None: those of the process.
    """
    fill_standard_files()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            # A terminal that cannot show a letter is no reason to fail.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run(command, program, arguments)
        if sys.stdout is not None:  # else the caller has closed it (`>&-`): what is said goes nowhere
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        drop_stdout()
        return Exit.OK


def _run(command: click.Command, program: str, arguments: list[str] | None) -> int:
    try:
        result: Any = command.main(arguments, prog_name=program, standalone_mode=False)
        return result if isinstance(result, int) else Exit.OK
    except click.exceptions.NoArgsIsHelpError as error:
        _show(error)
        return Exit.USAGE
    except click.ClickException as error:
        _show(error)
        return Exit.USAGE if isinstance(error, click.UsageError) else Exit.ATTENTION
    except (click.Abort, KeyboardInterrupt, EOFError):
        warn("Interrupted")
        return Exit.INTERRUPTED
    except ClosedPipe as error:
        raise BrokenPipeError from error
    except (ConfigError, EventError) as error:
        warn(f"Error: {error}")
        return Exit.USAGE
    except QueueError as error:
        warn(f"Error: {error}")
        return Exit.ATTENTION if isinstance(error, QueueFull) else Exit.QUEUE
    except (EdgespoolError, OSError) as error:
        warn(f"Error: {error}")
        return Exit.ATTENTION


def _show(error: click.ClickException) -> None:
    if sys.stderr is not None:  # else click would write to standard output
        error.show()
