"""`edgespool purge`: deletes waiting events at the user's word, and counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import click

from ..config import Settings
from ..event import Batch, StoredEvent
from ..queue import DiskQueue, SenderLock
from ..queue.view import QueueView
from .exits import Exit, epilog
from .options import Command, Place, json_option, place_options, warn_root
from .output import count, json_line, warn
from .parse import Duration

__all__ = ["purge"]

_BATCH = 1000
_REASON = "dropped:purged"
_NOTE = """
Deleted events are counted in the ledger as dropped (purged). What a running sender has
under way at that moment may still arrive. `edgespool export` first keeps a copy.
"""


@click.command(cls=Command, epilog=epilog({Exit.ATTENTION: "nothing was deleted: the answer was no"}, _NOTE))
@click.option("--route", help="Only events of this route.")
@click.option("--older-than", type=Duration(), metavar="TIME", help="Only events whose time is that long ago: 12h, 7d.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@place_options
@json_option
def purge(route: str | None, older_than: float | None, yes: bool, place: Place, as_json: bool) -> int:
    """Delete waiting events for good. Failed payload files are not touched."""
    settings = place.existing()
    warn_root(settings.directory)
    before = time.time() - older_than if older_than is not None else None

    def chosen(event: StoredEvent) -> bool:
        return before is None or event.time < before

    with QueueView(settings.directory) as view:
        if before is None and route is None:
            found = view.ledger().pending
        else:
            found = sum(chosen(event) for _, event in view.events(route))
    if found and not yes:
        if as_json or not os.isatty(0):
            raise click.UsageError(f"{count(found, 'event')} would be deleted; say --yes to do so")
        if not click.confirm(f"Delete {count(found, 'waiting event')} in {settings.directory} for good?", err=True):
            warn("nothing was deleted")
            return Exit.ATTENTION
    deleted = _delete(settings, route, chosen, found) if found else 0
    if as_json:
        json_line({"queue": settings.directory, "purged": deleted})
    else:
        click.echo(f"{count(deleted, 'event')} deleted")
    return Exit.OK


def _delete(settings: Settings, route: str | None, chosen: Callable[[StoredEvent], bool], at_most: int) -> int:
    """Delete what is chosen, no more than was counted, so that events recorded meanwhile do not keep it going."""
    queue = DiskQueue(settings.directory, durability=settings.durability, max_bytes=settings.max_bytes)
    # With this lock nobody begins to send meanwhile; a sender that holds it goes on, and what it acknowledges of
    # events that are gone counts for nothing.
    election = SenderLock(os.path.join(settings.directory, "sender.lock"))
    election.acquire()
    deleted = 0
    try:
        # Leased events that are not chosen stay leased, which ends with this process.
        while deleted < at_most:
            batch = queue.lease(_BATCH, 1 << 30, route=route)
            if batch is None:
                break
            gone = [event for event in batch.events if chosen(event)][: at_most - deleted]
            if gone:
                deleted += queue.settle(Batch(batch.route, gone), _REASON)
        size = None
        while deleted and (left := queue.disk_bytes()) != size:  # hand the room back, a piece at a time
            size = left
            queue.maintain(True)
    finally:
        election.release()
        queue.close()
    return deleted
