"""`edgespool status`: how a queue and its sender fare, whoever is working on it."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from ..failed import FailedFiles
from ..queue.view import QueueView, disk_bytes, sender_alive
from ..status import StatusFile
from .exits import Exit, epilog
from .mounts import read_only
from .options import Place, command_with, json_option, place_options
from .output import bytes_text, count, json_line, moment, say, seconds_text, table, terminal, visible
from .parse import Duration

__all__ = ["gather", "status"]


@click.command(
    cls=command_with(watch="2"),
    epilog=epilog(
        {
            Exit.ATTENTION: "there are failed payload files, events were damaged, or the disk takes no events",
            Exit.SERVER: "the sender is held, or cannot reach the server",
        }
    ),
)
@click.option("--watch", type=Duration(), metavar="[SECONDS]", help="Show it again and again, until Ctrl-C.")
@place_options
@json_option
def status(watch: float | None, place: Place, as_json: bool) -> int:
    """Show how a queue and its sender fare.

    Changes nothing, and can be used while other processes work on the queue.
    """
    settings = place.existing()
    if watch is None:
        found = gather(settings.directory)
        if as_json:
            json_line(found, indent=2)
        else:
            say(_text(found))
        return _code(found)
    if terminal() and not as_json:
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as live:
            while terminal():  # rich takes one that has gone for a file, and draws nothing, for ever
                shown = visible(f"{_text(gather(settings.directory))}\n\n{moment(time.time())}, Ctrl-C ends")
                live.update(Text(shown), refresh=True)
                time.sleep(max(0.1, watch))
        return Exit.OK
    while True:
        found = gather(settings.directory)
        if as_json:
            json_line(found)
        else:
            say(f"{moment(time.time())}  {_line(found)}")
        time.sleep(max(0.1, watch))


def gather(directory: str) -> dict[str, Any]:
    """Return all that is known of a queue as JSON values, times in seconds; raises QueueError."""
    alive = sender_alive(directory)
    told = StatusFile(directory).read()
    with QueueView(directory) as view:
        ledger, age = view.ledger(), view.oldest_age()
    now = time.time()
    state = "unknown" if alive is None else "none" if not alive else told.state if told is not None else "starting"
    no_writes = read_only(directory)
    if no_writes and state == "none":
        state = "unavailable"  # the sender has let go of the lock, and cannot say so
    sender: dict[str, Any] = {"running": alive, "state": state}
    if told is not None:
        due = told.next_attempt_at
        sender |= {
            "pid": told.pid,
            "since": told.since,
            "last_error": told.last_error,
            "next_attempt": max(0.0, due - now) if due is not None and alive else None,
            "held": list(told.held),
            "endpoint": told.endpoint,
        }
    return {
        "queue": directory,
        "accepted": ledger.accepted,
        "delivered": ledger.delivered,
        "failed": ledger.failed,
        "dropped": dict(ledger.dropped),
        "pending": ledger.pending,
        "oldest_age": age,
        "bytes_on_disk": disk_bytes(directory),
        "sender": sender,
        "failed_files": len(FailedFiles(directory).paths()),
        "replayed_files": _entries(directory, "replayed"),
        "quarantine_files": _entries(directory, "quarantine"),
        "damaged_folders": _entries(directory, "damaged"),
        "read_only": no_writes,
    }


def _entries(directory: str, folder: str) -> int:
    try:
        return sum(not name.endswith((".tmp", ".lock")) for name in os.listdir(os.path.join(directory, folder)))
    except OSError:
        return 0


def _code(found: dict[str, Any]) -> Exit:
    if found["sender"]["state"] in ("held", "backing off"):
        return Exit.SERVER
    if found["read_only"] or found["sender"]["state"] == "unavailable":
        return Exit.ATTENTION
    trouble = found["failed_files"] or found["quarantine_files"] or found["damaged_folders"]
    return Exit.ATTENTION if trouble else Exit.OK


def _sender_words(sender: dict[str, Any]) -> str:
    words = {
        "none": "none is running",
        "ok": "running",
        "unknown": "unknown (this user may not look)",
        "starting": "running, has said nothing yet",
        "unavailable": "waits for the disk",
    }
    text: str = words.get(sender["state"], sender["state"])
    if sender["running"] and "pid" in sender:
        text += f", process {sender['pid']}, for {seconds_text(time.time() - sender['since'])}"
    if sender.get("next_attempt") is not None:
        text += f", tries again in {seconds_text(sender['next_attempt'])}"
    return text


def _text(found: dict[str, Any]) -> str:
    sender = found["sender"]
    dropped = found["dropped"]
    age = found["oldest_age"]
    rows: list[tuple[str, object]] = [
        ("queue", found["queue"]),
        ("accepted", f"{found['accepted']:,}"),
        ("delivered", f"{found['delivered']:,}"),
        ("failed", f"{found['failed']:,}" + _files(found["failed_files"])),
        ("dropped", ", ".join(f"{number:,} {why}" for why, number in sorted(dropped.items())) or "0"),
        ("waiting", f"{found['pending']:,}" + (f", the oldest for {seconds_text(age)}" if age is not None else "")),
        ("on disk", bytes_text(found["bytes_on_disk"])),
        ("sender", _sender_words(sender)),
    ]
    if found["read_only"]:
        rows.append(("disk", "mounted READ-ONLY: nothing can be recorded or sent (see `edgespool doctor`)"))
    if sender.get("last_error"):
        rows.append(("last error", sender["last_error"]))
    if any(sender.get("held", ())):
        rows.append(("held routes", ", ".join(sender["held"])))
    if sender.get("endpoint"):
        rows.append(("sends to", sender["endpoint"]))
    if found["quarantine_files"]:
        rows.append(("quarantine", f"{count(found['quarantine_files'], 'file')} (see `edgespool doctor`)"))
    if found["damaged_folders"]:
        rows.append(("damaged", f"{count(found['damaged_folders'], 'folder')} (see `edgespool doctor`)"))
    return table(rows)


def _files(number: int) -> str:
    return f", {count(number, 'file')} to replay (see `replay-failed`)" if number else ""


def _line(found: dict[str, Any]) -> str:
    return (
        f"waiting {found['pending']}  delivered {found['delivered']}  failed {found['failed']}  "
        f"dropped {sum(found['dropped'].values())}  sender {found['sender']['state']}"
    )
