"""`edgespool collector`: a server on this machine that takes events, and misbehaves when told to."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import asdict
from typing import Any

import click

from .. import jsontext
from .exits import Exit, epilog
from .options import Command, json_option
from .output import bytes_text, count, drop_stdout, json_line, say, warn
from .parse import Duration

__all__ = ["collector"]

_NOTE = """
It keeps each event once and counts the repeats. While it runs:
  GET    /_collector/stats      the counts
  GET    /_collector/events     what arrived
  POST   /_collector/faults     misbehave from now on: {"status": 503, "times": 3}
  DELETE /_collector/faults     behave again
"""


@click.command(
    cls=Command,
    epilog=epilog({Exit.OK: "ended by Ctrl-C or SIGTERM", Exit.ATTENTION: "port or file cannot be used"}, _NOTE),
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 means any free one.")
@click.option("--path", metavar="FILE", type=click.Path(), help="Keep what arrives in this SQLite file.")
@click.option("--status", type=click.IntRange(200, 599), help="Answer with this status and store nothing.")
@click.option("--fail-rate", type=click.FloatRange(0, 1), help="Fail this share of requests only (503, or --status).")
@click.option("--latency", type=Duration(), metavar="SECONDS", help="Wait so long before each reply.")
@click.option("--max-bytes", type=click.IntRange(0), help="Answer 413 to a larger body.")
@click.option("--poison", metavar="RULE", help=(
    "Answer 400 to a batch with such an event: its NAME, or FIELD=JSON, a field of the event as it is shown decoded."
))  # fmt: skip
@click.option("--lose-replies", is_flag=True, help="Store, then hang up without a reply.")
@click.option("--refuse-gzip", is_flag=True, help="Answer 415 to a compressed body.")
@click.option("--times", type=click.IntRange(1), help="Behave again after so many requests.")
@click.option("--until-eof", is_flag=True, help="End when standard input does, for programs that start a collector.")
@json_option
def collector(
    port: int,
    path: str | None,
    status: int | None,
    fail_rate: float | None,
    latency: float | None,
    max_bytes: int | None,
    poison: str | None,
    lose_replies: bool,
    refuse_gzip: bool,
    times: int | None,
    until_eof: bool,
    as_json: bool,
) -> int:
    """Run a server on 127.0.0.1 that takes events, for trying things out.

    Prints its URL, then a line for each request.
    """
    from ..testing.collector import Collector, serve
    from ..testing.faults import Faults
    from ..testing.store import RequestRecord

    fields: dict[str, Any] = {
        "status": status,
        "failure_rate": fail_rate,
        "latency": latency,
        "max_bytes": max_bytes,
        "poison": _rule(poison) if poison else None,
        "lost_reply": lose_replies or None,
        "refuse_gzip": refuse_gzip or None,
        "times": times,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    if set(given) == {"times"}:
        raise click.UsageError("--times says how long to misbehave; say how, too")
    if until_eof and sys.stdin is None:
        raise click.UsageError("--until-eof: there is no standard input: it is closed")
    try:
        faults = Faults(**given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    def ready(server: Collector) -> None:
        if as_json:
            json_line({"url": server.url})
        else:
            click.echo(server.url)
        if until_eof:
            threading.Thread(target=_end_with_input, daemon=True).start()

    def request(record: RequestRecord) -> None:
        try:
            if as_json:
                line = asdict(record)
                json_line({name: line[name] for name in ("number", "method", "path", "size", "status", "events")})
            else:
                answer = str(record.status) if record.status is not None else "no reply"
                say(
                    f"{record.number:>5}  {record.method} {record.path}  {count(record.events, 'event')}, "
                    f"{bytes_text(record.size)}  {answer}"
                )
        except BrokenPipeError:
            drop_stdout()
            _end()

    try:
        serve(path, port=port, on_ready=ready, on_request=request, faults=faults)
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        warn(f"Error: {error}")
        return Exit.ATTENTION
    return Exit.OK


def _rule(text: str) -> dict[str, Any]:
    field, equals, value = text.partition("=")
    if not equals:
        return {"name": text}
    try:
        return {"field": field, "value": jsontext.loads(value)}
    except ValueError:
        return {"field": field, "value": value}


def _end_with_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    _end()


def _end() -> None:
    """Ask the main thread to end; it is to wake up for it, which a signal that this thread gets would not see to."""
    if sys.platform == "win32":  # pragma: no cover
        signal.raise_signal(signal.SIGTERM)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
