"""What `edgespool doctor` looks at. Returns findings, prints nothing, changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from .. import destinations, failed, formats
from ..clock import SystemClock
from ..config import Settings, config_file
from ..errors import ConfigError, FailedFileError, QueueDamaged, QueueError, QueueVersionError
from ..failed import FailedFiles, public_url
from ..interfaces import CanBeAsked
from ..queue import salvage
from ..queue.quarantine import quarantined
from ..queue.view import SQLITE_NEEDED, SQLITE_VERSION, QueueView, disk_bytes, sender_alive
from ..status import StatusFile
from .mounts import mount_of, read_only
from .output import bytes_text, count, moment, seconds_text

__all__ = ["Finding", "examine"]

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "sshfs", "davfs", "virtiofs"}
_FORGETFUL = {"tmpfs": "the memory", "ramfs": "the memory", "overlay": "an overlay, as in a container"}
_PLAIN = {"vfat", "exfat", "msdos"}
_LOW_DISK = 64 << 20
_FIRST_GOOD_YEAR = 1_700_000_000  # a clock before November 2023 was never set


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level`: ok, note, or problem, which comes with `advice` in plain words."""

    check: str
    level: str
    text: str
    advice: str = ""


def _ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def _note(check: str, text: str, advice: str = "") -> Finding:
    return Finding(check, "note", text, advice)


def _problem(check: str, text: str, advice: str) -> Finding:
    return Finding(check, "problem", text, advice)


def examine(
    settings: Settings | None, directory: str, given_config: str | None, mistake: str | None, live: bool = False
) -> list[Finding]:
    """Look at everything, and return what was found.

    Args:
        settings: None when they cannot be used.
        directory: the queue's.
        given_config: the configuration file that was named.
        mistake: what is wrong with the settings.
        live: also ask whether the server can be reached.
    """
    found = [*_configuration(settings, given_config, mistake), *_sqlite(), *_clock()]
    if live and settings is not None:
        found += _server(settings)
    if not os.path.isdir(directory):
        advice = "record something first, or name another queue with --name or --path"
        return [*found, _problem("queue", f"there is no directory {directory}", advice)]
    for check in (_permissions, _filesystem, _queue, _sender, _failed_files, _leftovers):
        found += check(directory)
    found += _space(directory, settings)
    return found


def _configuration(settings: Settings | None, given: str | None, mistake: str | None) -> Iterator[Finding]:
    path = given or config_file()
    where = f"from {path}" if path else "no configuration file"
    if settings is None:
        yield _problem("configuration", str(mistake), "correct that setting")
        return
    try:
        format = formats.create(settings.format, settings.event_source)
        if settings.url:
            destinations.create(settings, format).close()
    except ConfigError as error:
        yield _problem("configuration", str(error), "correct that setting")
        return
    if not settings.url:
        yield _note("configuration", f"{where}; no url is set here", "fine if the program gives one")
    else:
        yield _ok("configuration", where)
    secret = bool(settings.auth or settings.headers)
    if settings.url and secret and _in_the_clear(settings.url):
        yield _note("configuration", "credentials go over http:// unencrypted", "use https:// if the server can")
    if path and os.name == "posix" and secret:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return
        if mode & stat.S_IROTH:
            yield _problem("configuration", f"everybody can read the credentials in {path}", f"chmod o-r {path}")


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        destination = destinations.create(settings, formats.create(settings.format, settings.event_source))
    except ConfigError as error:
        yield _note("server", f"it cannot be asked: {error}", "name the settings that the program has")
        return
    said = destination.reach() if isinstance(destination, CanBeAsked) else None
    destination.close()
    where = public_url(getattr(destination, "url", settings.url or ""))
    if said is None:
        yield _note("server", f"{where} is of a kind that cannot be asked")
    elif isinstance(said, int):
        yield _ok("server", f"{where} can be reached (HTTP {said} to a request for nothing)")
    else:
        advice = "events wait on the disk meanwhile. Are the network, the address and this device's clock right?"
        yield _problem("server", f"{where} cannot be reached: {getattr(said, 'reason', said)}", advice)


def _in_the_clear(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127.")


def _sqlite() -> Iterator[Finding]:
    version, needed = (".".join(map(str, each)) for each in (SQLITE_VERSION, SQLITE_NEEDED))
    if SQLITE_VERSION < SQLITE_NEEDED:
        yield _problem("sqlite", f"SQLite {version} is too old", f"use a Python with SQLite {needed} or newer")
    else:
        yield _ok("sqlite", f"SQLite {version}, Python {sys.version.split()[0]}")


def _clock() -> Iterator[Finding]:
    now = time.time()
    if now < _FIRST_GOOD_YEAR:
        advice = "nothing is lost: times are put right once the clock is. Is the network time service running?"
        yield _problem("clock", f"the clock says {moment(now)}", advice)
    elif SystemClock().synchronized():
        yield _ok("clock", "kept by the network")
    else:
        yield _note("clock", "not known to be kept by the network", "times of events are as right as this clock")


def _permissions(directory: str) -> Iterator[Finding]:
    info = os.stat(directory)
    if os.name != "posix":
        return
    wrong = []
    for root, folders, files in os.walk(directory):
        for name in (*folders, *files):
            try:
                owner = os.lstat(os.path.join(root, name)).st_uid
            except OSError:
                continue
            if owner != info.st_uid:
                wrong.append(os.path.relpath(os.path.join(root, name), directory))
    if wrong:
        text = f"{count(len(wrong), 'file')} belong to another user than the directory, such as {wrong[0]}"
        yield _problem("permissions", text, f"sudo chown -R {info.st_uid}:{info.st_gid} {directory}")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK) and not read_only(directory):
        advice = f"run as user {info.st_uid}, or change the owner of {directory}"
        yield _problem("permissions", f"this user may not write in {directory}", advice)
    elif info.st_mode & 0o077:
        yield _problem("permissions", f"other users can look into {directory}", f"chmod 700 {directory}")
    elif not wrong:
        yield _ok("permissions", "only the owner can read and write")


def _filesystem(directory: str) -> Iterator[Finding]:
    mount = mount_of(directory)
    if mount is None:
        return
    kind, _, point = mount
    if mount.read_only:
        advice = (
            f"look for disk errors in `dmesg`, then: sudo mount -o remount,rw {point}; or unmount it, check it with "
            "fsck, and mount it again. Running programs go on by themselves"
        )
        yield _problem("filesystem", f"{point} ({kind}) is mounted read-only: nothing can be recorded or sent", advice)
    elif kind in _NETWORK or kind.startswith("fuse.sshfs"):
        advice = "put the queue on a disk of this device: over a network it can be damaged"
        yield _problem("filesystem", f"{point} is a network filesystem ({kind})", advice)
    elif kind in _FORGETFUL:
        advice = "put the queue where it outlives a restart"
        yield _note("filesystem", f"{point} is {_FORGETFUL[kind]} ({kind}): it may be gone after a restart", advice)
    elif kind in _PLAIN:
        yield _note("filesystem", f"{point} is {kind}, which a power cut can damage", "ext4 or f2fs is safer")
    else:
        yield _ok("filesystem", f"{kind} at {point}")


def _space(directory: str, settings: Settings | None) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        yield _problem("space", f"the free space cannot be read: {error}", "is the disk still there?")
        return
    budget = settings.max_bytes if settings is not None else 0
    missing = budget - disk_bytes(directory) - free
    if free < _LOW_DISK:
        yield _problem("space", f"only {bytes_text(free)} are free on the disk", "make room: delete logs, old packages")
    elif missing > 0:
        text = f"{bytes_text(free)} are free, less than max_bytes ({bytes_text(budget)}) lets the queue grow"
        yield _note("space", text, f"make room, or set max_bytes below {bytes_text(free)}")
    else:
        yield _ok("space", f"{bytes_text(free)} free")


def _queue(directory: str) -> Iterator[Finding]:
    if not os.path.exists(os.path.join(directory, "queue.db")):
        if os.path.exists(os.path.join(directory, "queue.db.salvaged")):
            advice = "start the program, or: doctor --repair. Either completes it"
            yield _problem("queue", "a repair was cut short", advice)
        else:
            yield _problem("queue", f"there is no queue file in {directory}", "record something, or name another queue")
        return
    again = (
        "start the program, or: doctor --repair. Either sets the damaged file aside and saves every readable event. "
        "Then check the disk"
    )
    try:
        with QueueView(directory) as view:
            check = view.check()
    except QueueVersionError as error:
        yield _problem("queue", str(error), "upgrade edgespool")
        return
    except QueueDamaged as error:
        yield _problem("queue", str(error).partition(";")[0], again)
        return
    except QueueError as error:
        yield _problem("queue", str(error), "see that the directory can be read and written by this user")
        return
    if check.problems:
        yield _problem("queue", f"the queue file is damaged: {check.problems[0]}", again)
    else:
        yield _ok("queue", f"the queue file is sound; {count(check.rows, 'event')} waiting")
    if check.damaged:
        advice = "they go to the folder quarantine when their turn comes, or now by doctor --repair. Check the disk"
        yield _problem("events", f"{count(check.damaged, 'waiting event')} do not fit their checksum", advice)
    else:
        yield _ok("events", f"{count(check.rows, 'checksum')} right")
    ledger = check.ledger
    dropped = sum(ledger.dropped.values())
    equation = (
        f"{ledger.accepted:,} accepted = {ledger.delivered:,} delivered + {ledger.failed:,} failed + "
        f"{dropped:,} dropped + {check.rows:,} waiting"
    )
    if ledger.pending == check.rows:
        yield _ok("ledger", equation)
    else:
        text = f"the ledger does not add up: {equation}"
        advice = "something other than edgespool wrote to the file. doctor --repair keeps it aside, and counts anew"
        yield _problem("ledger", text, advice)


def _sender(directory: str) -> Iterator[Finding]:
    alive, told = sender_alive(directory), StatusFile(directory).read()
    if alive is None:
        yield _note("sender", "this user may not see whether a sender is running")
    elif not alive and read_only(directory):
        yield _note("sender", "no process can send while the disk is read-only", "mend that first")
    elif not alive:
        yield _note("sender", "no process is sending now", "start the program that does")
    elif told is not None and told.state == "unavailable":
        since = seconds_text(time.time() - told.since)
        text = f"the disk has refused process {told.pid} for {since}: {told.last_error or 'no reason known'}"
        yield _problem("sender", text, "look at the kernel's log (`dmesg`) for errors of that disk, and replace it")
    elif told is not None and told.state in ("held", "backing off"):
        since = seconds_text(time.time() - told.since)
        mend = "mend what the server complains of (key, address, account)." if told.state == "held" else "is it up?"
        text = f"process {told.pid} has been {told.state} for {since}: {told.last_error or 'no reason known'}"
        yield _problem("sender", text, f"{mend} Nothing is lost meanwhile")
    else:
        yield _ok("sender", f"process {told.pid} is sending" if told is not None else "a process is sending")


def _failed_files(directory: str) -> Iterator[Finding]:
    try:
        paths = FailedFiles(directory).paths()
    except FailedFileError as error:
        yield _problem("failed files", str(error), "see that this user can read the folder")
        return
    broken = 0
    events = 0
    reason = ""
    for path in paths:
        try:
            payload = failed.read(path)
            events += len(payload.events)
            reason = payload.reason or reason
        except FailedFileError:
            broken += 1
    if broken:
        text = f"{count(broken, 'failed payload file')} cannot be read"
        advice = "`replay-failed --dry-run` says which and why; mend them, or: doctor --repair"
        yield _problem("failed files", text, advice)
    if events:
        text = f"{count(events, 'refused event')} in {count(len(paths), 'file')}" + (f": {reason}" if reason else "")
        yield _problem("failed files", text, "once the cause is mended: replay-failed")
    elif not paths:
        yield _ok("failed files", "none")


def _leftovers(directory: str) -> Iterator[Finding]:
    quarantine, damaged = _inside(directory, "quarantine"), _inside(directory, "damaged")
    if damaged:
        text = (
            f"the queue file was damaged {count(len(damaged), 'time')}{_salvaged(directory)}; the old files are in "
            f"{directory}/damaged"
        )
        yield _problem("leftovers", text, "its events were saved; check the disk or card, then delete that folder")
    if quarantine:
        text = (
            f"{count(quarantined(directory), 'damaged event')} in {count(len(quarantine), 'file')} in "
            f"{directory}/quarantine"
        )
        yield _problem("leftovers", text, "look at them, check the disk or card, then delete them")
    temporary = [*_ending(directory), *_ending(os.path.join(directory, "failed"))]
    if temporary:
        text = f"{count(len(temporary), 'unfinished temporary file')}, such as {temporary[0]}"
        yield _note("leftovers", text, "left by a crash; nothing needs them. doctor --repair sets them aside")
    aside = _inside(directory, "set-aside")
    if aside:
        text = f"what `doctor --repair` has set aside {count(len(aside), 'time')} is in {directory}/set-aside"
        yield _note("leftovers", text, "look at it, and delete it when you like")
    replayed = _inside(directory, "replayed")
    if replayed:
        text = f"{count(len(replayed), 'replayed file')} kept in {directory}/replayed"
        yield _note("leftovers", text, "delete them when you like")
    if not (quarantine or damaged or temporary):
        yield _ok("leftovers", "none")


def _salvaged(directory: str) -> str:
    """Return what was found each time, added up."""
    reports = salvage.reports(directory)
    if not reports:
        return ""
    again, unknown = sum(each.again for each in reports), sum(each.unknown for each in reports)
    return (
        f": {count(sum(each.kept for each in reports), 'event')} read back, {sum(each.lost for each in reports):,} lost"
        + (f", {again:,} perhaps sent again" if again else "")
        + (f", {unknown:,} unaccounted for since the ledger was lost" if unknown else "")
    )


def _names(folder: str, takes: Callable[[str], bool]) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if takes(name))
    except OSError:
        return []


def _inside(directory: str, folder: str) -> list[str]:
    return _names(os.path.join(directory, folder), lambda name: not name.endswith((".tmp", ".lock")))


def _ending(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in _names(folder, lambda name: name.endswith(".tmp"))]
