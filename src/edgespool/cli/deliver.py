"""`edgespool deliver`: sends what waits in a queue whose program does not run any more, or not now."""

from __future__ import annotations

from typing import Any

import click

from ..client import Client
from ..errors import ConfigError
from ..queue.view import QueueView
from ..status import StatusFile
from . import delivery
from .exits import Exit, epilog
from .options import Command, Place, json_option, place_options, warn_root
from .output import count, json_line, say
from .parse import Duration

__all__ = ["deliver"]


@click.command(
    cls=Command,
    epilog=epilog(
        {
            Exit.OK: "all of it was delivered",
            Exit.ATTENTION: "events were refused, or nothing moved for as long as --wait says",
            Exit.SERVER: "the server refuses everything, or cannot be reached; the events are on disk",
        }
    ),
)
@click.option("--wait", type=Duration(), default="60s", show_default=True, metavar="SECONDS", help=(
    "How long to wait without an event having gone. As long as it gets on, it goes on."
))  # fmt: skip
@click.option("--url", help="Where to deliver to.")
@click.option("--format", "format_name", metavar="NAME", help="The events' format; the queue knows it by itself.")
@place_options
@json_option
def deliver(wait: float, url: str | None, format_name: str | None, place: Place, as_json: bool) -> int:
    """Deliver the events that wait in a queue.

    For the queue of a program that ended for good, or will not run for a while. While a program is at work on the
    queue, that one delivers, and this command waits for it. Credentials come from the configuration.
    """
    given: dict[str, Any] = {"url": url, "format": format_name}
    settings = place.existing(**given)
    warn_root(settings.directory)
    if format_name is None:
        with QueueView(settings.directory) as view:
            format_name = view.format_name
    with Client(
        url, name=settings.name, path=settings.path, config_file=place.config, format=format_name, start=False
    ) as client:  # fmt: skip
        if settings.url is None:
            _check_address(client)
        client.start()
        before = client.stats()
        try:
            result = delivery.wait(client, wait, as_it_goes=True)
            stats = client.stats()
        finally:
            client.close(0.0)
    delivered, refused = stats.delivered - before.delivered, stats.failed - before.failed
    code = max(result.code, Exit.ATTENTION if refused else Exit.OK)
    if as_json:
        json_line(
            {
                "delivered": delivered, "refused": refused, "pending": stats.pending,
                "state": result.state, "last_error": None if result.empty else result.last_error,
            }
        )  # fmt: skip
        return code
    if refused:
        delivery.say_refused(client, refused)
    if not result.empty:
        delivery.say_undelivered(result, stats.pending)
    say(f"{count(delivered, 'event')} delivered" if delivered or not result.empty else "nothing waits")
    return code


def _check_address(client: Client) -> None:
    """See that a service's own address, which stands in when none is given, is the one the program had sent to."""
    told = StatusFile(client.directory).read()
    if told is not None and told.endpoint not in ("", client.endpoint):
        raise ConfigError(
            f"url: these events went to {told.endpoint} until now, and would go to {client.endpoint}. "
            "Say with --url which is meant"
        )
