"""Options that commands share: which queue is meant, and with what settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from .. import config
from ..config import Settings
from ..errors import QueueUnavailable
from .output import warn
from .parse import seconds_of

__all__ = ["ClosedPipe", "Command", "Place", "command_with", "json_option", "place_options", "warn_root"]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, and nothing else.")


class ClosedPipe(Exception):
    """Standard output was closed by its reader."""


class Command(click.Command):
    """A command that can tell a closed pipe from other failures: click itself would exit there and then."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ClosedPipe from error


def command_with(**bare: str) -> type[Command]:
    """Return a command class in which these options, given without a value, mean the one named here.

    click itself would take whatever comes next for the value, were it the name of an event.
    """

    class Bare(Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            given = list(args)
            end = given.index("--") if "--" in given else len(given)
            for place, text in enumerate(given[:end]):
                value = bare.get(text[2:]) if text.startswith("--") else None
                if value is not None and (place + 1 >= end or seconds_of(given[place + 1]) is None):
                    given[place] = f"{text}={value}"
            return super().parse_args(ctx, given)

    return Bare


@dataclass(frozen=True)
class Place:
    """Which queue the user means: what was given of name, directory and configuration file."""

    name: str | None = None
    path: str | None = None
    config: str | None = None

    def load(self, **given: Any) -> Settings:
        """Return the settings with these keywords on top; raises ConfigError."""
        return config.load({"name": self.name, "path": self.path, **given}, self.config)

    def new(self, **given: Any) -> Settings:
        """Return the settings for a queue that may be made: the one named, or `default`."""
        settings = self.load(**given)
        return settings if settings.path or settings.name else self.load(**{**given, "name": "default"})

    def existing(self, **given: Any) -> Settings:
        """Return the settings for a queue that is there: the one named, or the only one on this machine.

        Raises:
            ConfigError: a setting cannot be used.
            QueueUnavailable: none was named, and there is none.
            click.UsageError: none was named, and there are several.
        """
        settings = self.load(**given)
        if settings.path or settings.name:
            return settings
        home = config.data_directory()
        names = _queues(home)
        if not names:
            raise QueueUnavailable(f"there is no queue in {home}; say which one is meant with --name or --path")
        if len(names) > 1:
            raise click.UsageError(f"there are several queues in {home}; choose one with --name: {', '.join(names)}")
        return self.load(**{**given, "name": names[0]})

    def without_settings(self) -> str:
        """Return the queue's directory when the settings cannot be used: by what was typed, or the only one."""
        if self.path:
            return os.path.abspath(self.path)
        home = config.data_directory()
        names = [self.name] if self.name else _queues(home)
        return os.path.join(home, names[0]) if len(names) == 1 else home


def _queues(home: str) -> list[str]:
    try:
        names = sorted(os.listdir(home))
    except OSError:
        return []
    parts = ("queue.db", "queue.db.salvaged", "failed")
    return [name for name in names if any(os.path.exists(os.path.join(home, name, part)) for part in parts)]


def place_options(command: F) -> F:
    """Give a command the options --name, --path and --config, handed on as `place`."""

    @click.option("--name", metavar="NAME", help="The client's name, which is the name of its queue.")
    @click.option("--path", metavar="DIR", type=click.Path(), help="The queue's directory, instead of a name.")
    @click.option(
        "--config",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="A TOML file with settings.",
    )
    @functools.wraps(command)
    def wrapped(name: str | None, path: str | None, config: str | None, **options: Any) -> Any:
        return command(place=Place(name, path, config), **options)

    return wrapped  # type: ignore[return-value]


def warn_root(directory: str) -> None:
    """Say that files made by root would shut out the queue's owner."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    try:
        owner = os.stat(directory).st_uid
    except OSError:
        return
    if owner != 0:
        warn(f"Warning: {directory} belongs to user {owner}; what root makes there may be closed to its owner")
