"""What `edgespool doctor --repair` does: it sets aside what is in the way. Deletes nothing, prints nothing."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from .. import failed
from ..config import Settings
from ..errors import FailedFileError
from ..failed import FailedFiles
from ..files import make_directory, sync_directory, writer_of
from ..queue import DiskQueue
from .output import count

__all__ = ["Step", "repair"]

_FOLDER = "set-aside"


@dataclass(frozen=True)
class Step:
    """Something that was set aside."""

    what: str
    where: str  # the folder it is in now
    saved: str = ""  # what could be saved of it


def repair(directory: str, settings: Settings | None) -> list[Step]:
    """Set aside what is damaged or left over in a queue's directory, and return what that was.

    Args:
        directory: the queue's.
        settings: None when they cannot be used; then the default limits hold.

    Raises:
        QueueError: the queue does not work, or is of a newer version.
        OSError: a file cannot be moved.
    """
    return [*_queue(directory, settings), *_files(directory)]


def _queue(directory: str, settings: Settings | None) -> list[Step]:
    names = ("queue.db", "queue.db.salvaged")
    if not any(os.path.exists(os.path.join(directory, name)) for name in names):
        return []
    before = set(_inside(os.path.join(directory, "damaged")))
    cut_short = os.path.exists(os.path.join(directory, names[1]))  # opening the queue completes that
    queue = DiskQueue(directory, max_bytes=(settings or Settings()).max_bytes)
    try:
        damaged = queue.repair()
        report = queue.salvaged
    finally:
        queue.close()
    steps = []
    if report is not None and (cut_short or os.path.basename(report.aside) not in before):
        again = f", {report.again:,} may be sent again" if report.again else ""
        saved = f"{count(report.kept, 'event')} read back, {report.lost:,} lost{again}"
        steps.append(Step("the damaged queue file", report.aside, saved))
    if damaged > 0:
        steps.append(Step(count(damaged, "damaged event"), os.path.join(directory, "quarantine")))
    return steps


def _files(directory: str) -> list[Step]:
    """Move files that nobody can read, or that a crash has left unfinished."""
    broken = [path for path in _paths(directory) if _is_broken(path)]
    unfinished = [
        os.path.join(folder, name)
        for folder in (directory, os.path.join(directory, "failed"))
        for name in _inside(folder)
        if _is_left_over(name)
    ]
    if not broken and not unfinished:
        return []
    aside = _fresh_folder(os.path.join(directory, _FOLDER))
    for path in (*broken, *unfinished):
        with contextlib.suppress(FileNotFoundError):  # its writer was not dead after all
            os.rename(path, os.path.join(aside, os.path.basename(path)))
            sync_directory(os.path.dirname(path))
    sync_directory(aside)
    steps = []
    if broken:
        steps.append(Step(f"{count(len(broken), 'failed payload file')} that cannot be read", aside))
    if unfinished:
        steps.append(Step(f"{count(len(unfinished), 'unfinished temporary file')}", aside))
    return steps


def _paths(directory: str) -> list[str]:
    try:
        return FailedFiles(directory).paths()
    except FailedFileError:
        return []  # the doctor says so


def _is_broken(path: str) -> bool:
    """Whether a file holds no events. One that only cannot be read now, or is too large, stays where it is."""
    try:
        failed.read(path)
    except FailedFileError as error:
        return not isinstance(error.__cause__, OSError) and os.path.getsize(path) <= failed.LARGEST
    return False


def _is_left_over(name: str) -> bool:
    """Whether a file is temporary, and its writer is no more."""
    writer = writer_of(name)
    if writer is None:
        return False
    try:
        os.kill(writer, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it lives, and is another user's
        return False
    return writer == os.getpid()


def _fresh_folder(parent: str) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path, number = os.path.join(parent, stamp), 1
    while os.path.exists(path):
        number += 1
        path = os.path.join(parent, f"{stamp}-{number}")
    make_directory(path)
    return path


def _inside(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
