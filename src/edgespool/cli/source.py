"""`edgespool source run`: runs a data source, durably. What a run does is in `vendors.panoply.runner`."""

from __future__ import annotations

import contextlib
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from .. import jsontext
from ..client import Client
from ..config import Settings
from ..errors import EdgespoolError, QueueError, QueueFull
from . import delivery
from .exits import Exit, epilog
from .interrupts import ended_by_signals
from .options import Command, Place, place_options, warn_root
from .output import count, say, seconds_text, terminal, visible, warn
from .parse import Duration

if TYPE_CHECKING:
    from ..vendors.panoply.runner import States

__all__ = ["source"]

_OWN = "edgespool.source.own"  # where a context keeps the options that the module itself asked for

_EXAMPLES = """
Examples:
  edgespool source run my_source --param user=me --destination readings
  edgespool source run my_source.py --params-file params.json --keep-state
"""

_NOTE = """
MODULE has `Stream`, a panoply.DataSource, and `CONFIG`; each of CONFIG["params"] is an
option of its own, shown by `edgespool source run MODULE --help`. Secrets belong into a
file: a command line can be read by everybody on the machine.

Key and secret of the account come from the settings: EDGESPOOL_AUTH=APIKEY:APISECRET.
The queue is called source-MODULE unless --name or --path says otherwise; a source that
is run with several sets of parameters needs a --name for each.
"""


@click.group(epilog=epilog(before=_EXAMPLES), context_settings={"help_option_names": ["-h", "--help"]})
def source() -> None:
    """Run a data source of Panoply's kind, and store what it reads."""


class _Run(Command):
    """A command with the options that the module named among its arguments asks for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        name = self._module_among(args)
        if name is not None and not ctx.resilient_parsing:
            from .. import dropin
            from ..vendors.panoply import runner

            dropin.install("panoply")
            module = runner.load_module(name)
            ctx.meta[_OWN] = (module, self._own(module))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *ctx.meta.get(_OWN, (None, []))[1]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = ctx.meta.get(_OWN, (None, []))[1]
        for title, params in (("Parameters", own), ("Options", super().get_params(ctx))):
            options = [each for each in params if isinstance(each, click.Option)]
            rows = [row for each in options if (row := each.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _module_among(self, args: Sequence[str]) -> str | None:
        """Return the first argument that is neither an option nor an option's value.

        Options that are not known here are the module's own, and each of those takes a value.
        """
        options = [each for each in self.params if isinstance(each, click.Option)]
        valued = {text for each in options if not each.is_flag for text in each.opts}
        flags = {text for each in options if each.is_flag for text in (*each.opts, *each.secondary_opts)}
        flags |= {"-h", "--help"}
        left = iter(args)
        for text in left:
            if text == "--":
                return next(left, None)
            if not text.startswith("-") or text == "-":
                return text
            if text in valued or (text.startswith("--") and "=" not in text and text not in flags):
                next(left, None)
        return None

    def _own(self, module: ModuleType) -> list[click.Option]:
        taken = {text for each in self.params for text in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
        made = []
        for number, param in enumerate(_params(module)):
            name = param["name"]
            if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name) and f"--{name}" not in taken:
                said = [str(param[key]).strip() for key in ("title", "help", "placeholder") if param.get(key)]
                said += ["[required]"] if param.get("required") is True else []
                made.append(
                    click.Option(
                        [f"--{name}", f"own_{number}"],
                        metavar="VALUE",
                        help=visible(" - ".join(said)),
                        multiple=param.get("type") == "list",
                    )
                )
        return made


def _params(module: ModuleType) -> list[Mapping[str, Any]]:
    """Return the parameters that a module says it takes."""
    config = getattr(module, "CONFIG", None)
    params = config.get("params") if isinstance(config, Mapping) else None
    listed = params if isinstance(params, (list, tuple)) else []
    return [each for each in listed if isinstance(each, Mapping) and isinstance(each.get("name"), str)]


@source.command(
    cls=_Run,
    epilog=epilog(
        {
            Exit.OK: "the source has no more, and all of it was delivered",
            Exit.ATTENTION: "the source failed, rows were refused, or not all was delivered in time",
            Exit.SERVER: "the service refuses everything, or cannot be reached; what was read is on disk",
            Exit.INTERRUPTED: "interrupted; 143 and 129 by SIGTERM and SIGHUP. What was read is on disk",
        },
        _NOTE,
    ),
)
@click.argument("module_name", metavar="MODULE")
@click.option("--param", "-p", "pairs", multiple=True, metavar="NAME=TEXT|NAME:=JSON", help="A parameter.")
@click.option(
    "--params-file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A JSON object of parameters. What the source changes, such as a new token, is saved there.",
)
@click.option(
    "--options-file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A JSON object that the source gets as its `options`.",
)
@click.option("--destination", metavar="TABLE", help="The table; {field} in it stands for that field of each row.")
@click.option("--batch", "size", type=click.IntRange(1), default=1000, metavar="N", help="Rows to ask for; 1000.")
@click.option("--keep-state", is_flag=True, help="After a complete run let the next one go on, not begin anew.")
@click.option("--restart", is_flag=True, help="Begin anew, whatever an earlier run has left.")
@click.option("--wait", type=Duration(), default=30.0, metavar="SECONDS", help="Wait for the delivery at the end; 30.")
@click.option("--verbose", "-v", is_flag=True, help="Show what the source logs, and tracebacks.")
@click.option("--url", help="Another server than Amazon's.")
@place_options
def run(
    module_name: str,
    pairs: tuple[str, ...],
    params_file: str | None,
    options_file: str | None,
    destination: str | None,
    size: int,
    keep_state: bool,
    restart: bool,
    wait: float,
    verbose: bool,
    url: str | None,
    place: Place,
    **own: Any,
) -> int:
    """Read all that the data source MODULE has, and store it as records for Panoply.

    Each batch is on disk, together with the source's state, before the next one is read. Stopped at any point and run
    again, the source goes on from there. A read that fails is tried again three times. When the queue is full the run
    waits for the delivery to make room, and ends when nothing has moved for as long as --wait says.
    """
    from ..vendors.panoply import runner

    module: ModuleType = click.get_current_context().meta[_OWN][0]
    from_file = runner.read_object(params_file) if params_file else {}
    params = {**from_file, **_given(module, own), **_pairs(module, pairs)}
    missing = [each["name"] for each in _params(module) if each.get("required") is True and each["name"] not in params]
    if missing:
        raise click.UsageError(f"the source needs the parameter {missing[0]!r}: --param {missing[0]}=…")
    options = runner.read_object(options_file) if options_file else {}
    name = module.__name__
    settings = _settings(place, url, name)
    warn_root(settings.directory)
    client, states = runner.open_queue(settings, place.config)
    told: set[str] = set()

    def changed(changes: dict[str, Any]) -> None:
        if params_file:
            runner.save_changes(params_file, changes)
        elif not told:
            told.update(changes)
            warn(f"the source has changed {', '.join(changes)}: for this run only; give a --params-file to keep it")

    with contextlib.ExitStack() as stack:
        stack.callback(client.close, 0.0)
        stack.enter_context(ended_by_signals())
        job = stack.enter_context(
            runner.Runner(
                name, module.Stream, params, client, states,
                destination=destination, options=options, size=size, keep_state=keep_state, restart=restart,
            )
        )  # fmt: skip
        refused_before = client.stats().failed
        client.start()
        with _drawn() as progress:
            job.hooks = runner.Hooks(
                progress=progress,
                log=(lambda msgs: warn(" ".join(map(str, msgs)))) if verbose else None,
                change=changed,
                retry=_say_retry,
                event=(lambda event, data: warn(f"event {event}: {data}")) if verbose else None,
                full=_Patience(client, wait).wait,
            )
            code = _read(job, verbose)
        code = max(code, _deliver(client, states, wait, refused_before))
        job.end()
        return code


class _Patience:
    """Waits for room in a full queue as long as the delivery gets on, and says why it waits.

    Args:
        client: whose queue is full.
        seconds: to wait for any progress.
    """

    _PAUSE = 0.2  # seconds between tries

    def __init__(self, client: Client, seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._gone = -1  # events that have left the queue
        self._since = 0.0
        self._said: str | None = None

    def wait(self, error: QueueFull) -> bool:
        """Wait a moment; return whether it is worth trying again."""
        self._client.drain()  # not only when the interval is over
        stats = self._client.stats()
        gone, now = stats.accepted - stats.pending, time.monotonic()
        if gone != self._gone:
            self._gone, self._since = gone, now
        why = stats.last_error or "the delivery is slower than the source"
        if why != self._said:
            self._said = why
            warn(f"the queue is full; waiting for the delivery: {why}")
        if stats.state == "held" or now - self._since >= self._seconds:
            return False
        time.sleep(self._PAUSE)
        return True


def _settings(place: Place, url: str | None, name: str) -> Settings:
    given = {"url": url, "format": "panoply"}
    settings = place.load(**given)
    if settings.path or settings.name:
        return settings
    return place.load(**given, name="source-" + re.sub(r"[^A-Za-z0-9._-]", "-", name)[:80])


def _given(module: ModuleType, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that came as options of their own."""
    names = [each["name"] for each in _params(module)]
    values = {names[int(key.removeprefix("own_"))]: value for key, value in own.items() if value not in (None, ())}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _pairs(module: ModuleType, pairs: Sequence[str]) -> dict[str, Any]:
    known = [each["name"] for each in _params(module)]
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        is_json = key.endswith(":")
        name = key[:-1] if is_json else key
        if not equals or not name:
            # Without its value: it may be a secret.
            raise click.UsageError(f"--param {name}: NAME=text or NAME:=json is needed")
        if known and name not in known:
            raise click.UsageError(f"--param: the source knows no {name!r}; it knows {', '.join(known)}")
        try:
            found[name] = jsontext.loads(text) if is_json else text
        except ValueError:
            raise click.UsageError(f"--param {name}: no JSON after ':='") from None
    return found


def _read(job: Any, verbose: bool) -> Exit:
    """Run the source, and say how it went."""
    code = Exit.OK
    try:
        job.run()
    except QueueFull as error:
        warn(f"Error: {error}")
        code = Exit.SERVER
    except (QueueError, click.ClickException):
        raise
    except Exception as error:  # noqa: BLE001 - it is the user's code
        kind = "" if isinstance(error, EdgespoolError) else f"{type(error).__name__}: "
        warn(f"Error: the source failed: {kind}{error}")
        if verbose:
            warn(traceback.format_exc().rstrip())
        code = Exit.ATTENTION
    finally:
        report = job.report
        began = "went on where the last run was; " if report.resumed else ""
        if report.read_before:
            say("the last run had read all; what it did not come to is the delivery")
        else:
            say(f"{began}{count(report.rows, 'row')} stored")
        if not report.complete:
            warn("the source was not read to its end; run it again to go on")
    return code


def _say_retry(error: Exception, number: int, seconds: float) -> None:
    warn(f"reading failed: {type(error).__name__}: {error}; retry {number} of 3 in {seconds_text(seconds)}")


def _deliver(client: Client, states: States, seconds: float, refused_before: int) -> Exit:
    """Wait until what was stored has left the queue, and say what keeps it."""
    result = delivery.wait(client, seconds)
    if not result.empty:
        waiting = max(0, client.stats().pending - states.waiting())
        delivery.say_undelivered(result, waiting, "row", "at the next run")
        return result.code
    refused = client.stats().failed - refused_before
    if refused > 0:
        delivery.say_refused(client, refused, "row")
        return Exit.ATTENTION
    return Exit.OK



@contextlib.contextmanager
def _drawn() -> Iterator[Callable[[Any, Any, str], None] | None]:
    """Give the function that is told of progress: it draws a bar on a terminal, else there is none."""
    if not terminal(err=True):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=None)

        def told(loaded: Any, total: Any, msg: str) -> None:
            done, whole = (value if isinstance(value, (int, float)) else None for value in (loaded, total))
            bar.update(task, completed=done, total=whole, description=visible(str(msg)) or "reading")

        yield told
