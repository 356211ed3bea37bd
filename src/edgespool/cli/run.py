"""`edgespool run`: a script that was written for another SDK, as it is, on edgespool's queue."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import click

from .. import dropin
from .exits import Exit, epilog
from .options import Command
from .output import warn

__all__ = ["run"]


@click.command(
    cls=Command,
    epilog=epilog(
        {Exit.OK: "the script ended; its own exit code, where it gives one", Exit.ATTENTION: "the script failed"}
    ),
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m MODULE` would, in place of a script.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def run(module: str | None, command: tuple[str, ...]) -> int:
    """Run SCRIPT as `python SCRIPT ARGS` would, with the vendors' modules leading to edgespool.

    SCRIPT is a file, or a folder or zip file with a `__main__.py`. ISStreamer, samsara_sdk, paltabrain_sdk,
    ironsource.atom and panoply are served whether or not they are installed, to the script and to its children by
    multiprocessing; nothing in the script has to be changed. Settings come from EDGESPOOL_<NAME> and the TOML file.
    """
    dropin.install()
    dropin.serve_children()
    program = _module(module) if module is not None else _script(command)
    sys.argv = [program.name, *command[module is None :]]
    sys.path[0] = program.folder
    return _execute(program)


class _Program(NamedTuple):
    """What is to be run as `__main__`."""

    name: str  # sys.argv[0]
    file: str
    folder: str  # sys.path[0]
    spec: ModuleSpec | None
    code: Callable[[], CodeType | None]


def _script(command: tuple[str, ...]) -> _Program:
    if not command:
        raise click.UsageError("Missing argument 'SCRIPT'.")
    name = command[0]
    path = os.path.abspath(name)
    if os.path.isfile(path) and (spec := PathFinder.find_spec("__main__", [path])) is None:
        return _Program(name, path, os.path.dirname(path), None, lambda: _compiled(path))
    if not os.path.exists(path):
        raise click.UsageError(f"There is no file {name!r}.")
    spec = PathFinder.find_spec("__main__", [path])
    if spec is None:
        raise click.UsageError(f"There is no __main__.py in {name!r}.")
    return _of_spec(spec, name, path)


def _module(name: str) -> _Program:
    sys.path[0] = folder = os.getcwd()
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:  # a package above it that is not there, or no name at all
        raise click.UsageError(f"There is no module {name!r} to run: {error}") from None
    if spec is None:
        raise click.UsageError(f"There is no module {name!r} to run.")
    return _of_spec(spec, spec.origin or name, folder)


def _of_spec(spec: ModuleSpec, name: str, folder: str) -> _Program:
    loader: Any = spec.loader
    if not spec.has_location or isinstance(loader, ExtensionFileLoader) or not hasattr(loader, "get_code"):
        raise click.UsageError(f"{name!r} cannot be run: it is not written in Python.")
    return _Program(name, spec.origin or name, folder, spec, lambda: loader.get_code(spec.name))


def _compiled(path: str) -> CodeType:
    with io.open_code(path) as file:
        code: CodeType = compile(file.read(), path, "exec", dont_inherit=True)
    return code


def _execute(program: _Program) -> int:
    main = ModuleType("__main__")
    spec = program.spec
    vars(main).update(
        __builtins__=builtins,
        __file__=program.file,
        __loader__=spec.loader if spec else None,
        __package__=spec.parent if spec else None,
        __spec__=spec,
    )
    sys.modules["__main__"] = main  # for good: threads may outlive the script, and pickle looks there
    try:
        code = program.code()
        assert code is not None
        exec(code, vars(main))  # noqa: S102 - it is what the user asked for
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
        while trace is not None and trace.tb_frame.f_globals is not vars(main):
            trace = trace.tb_next
        assert kind is not None
        assert value is not None
        sys.excepthook(kind, value.with_traceback(trace), trace)
        return 1
    return Exit.OK
