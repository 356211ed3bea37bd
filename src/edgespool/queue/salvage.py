"""A damaged queue file: set aside whole, every sound row read back into a fresh file, every loss counted.

Order of the steps, so that a crash between any two of them loses nothing (`finish` completes them at the next start):

1. a fresh file is written beside the damaged one and flushed;
2. a report of what was found is written to `damaged/<time>/`;
3. the fresh file, which holds that name, gets one that says that it is whole;
4. the damaged file, then its WAL, move to `damaged/<time>/`, each move flushed;
5. the fresh file takes the queue's name.

Two counts are bounds, since what is gone cannot be asked: `lost` is what is missing from the number that the ledger
says were waiting, `again` is every row of which it is not certain that it was still waiting.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any
from zlib import crc32

from ..files import make_directory, open_private, sync_directory, write_whole
from . import schema
from .pages import Pages

__all__ = ["Report", "finish", "holds_events", "newest", "report_of", "reports", "salvage"]

_log = logging.getLogger("edgespool")
_UNFINISHED = schema.FILE_NAME + ".new"
_WHOLE = schema.FILE_NAME + ".salvaged"
_SIDE_FILES = (schema.FILE_NAME + "-wal", schema.FILE_NAME + "-shm")
_REPORT = "report.json"
_FOLDER = "damaged"


@dataclass(frozen=True)
class Report:
    """What a salvage found."""

    kept: int  # events read back
    lost: int  # events that the ledger says were waiting and that could not be read
    again: int  # events read back although they may have been delivered before
    aside: str  # the directory that holds the damaged files
    unknown: int = 0  # events of which nobody knows what became of them: the ledger could not be read
    why: str = ""  # what showed the damage
    when: str = ""  # ISO 8601, by the device's clock


@dataclass
class _Found:
    """What could be read of a damaged file, but for the events."""

    routes: dict[int, str]
    sessions: list[tuple[Any, ...]]
    format_name: str | None
    counts: dict[str, int]
    ledger_whole: bool  # the counts are the newest that were written
    sure: list[int]  # pages with events
    doubtful: list[int]  # pages whose events may have been deleted


def salvage(directory: str, why: object) -> Report:
    """Replace a damaged queue file by a fresh one with all its sound rows. The caller holds the write lock.

    Connections that this process has open on the damaged file may stay open until it has moved, and should: the last
    one to close would fold the WAL into it.

    Args:
        directory: the queue's directory.
        why: what showed the damage, for the log.

    Raises:
        OSError, sqlite3.Error: the disk would not take the fresh file; nothing has been moved then.
    """
    fresh = os.path.join(directory, _UNFINISHED)
    now = datetime.now(timezone.utc)
    stamp = now.strftime("%Y%m%dT%H%M%S.%fZ")
    while os.path.exists(os.path.join(directory, _FOLDER, stamp)):
        stamp += "-again"  # a clock that stands still
    aside = os.path.join(directory, _FOLDER, stamp)
    try:
        with newest(os.path.join(directory, schema.FILE_NAME)) as pages:
            report = _build(fresh, pages, _look(pages), stamp)
        report = replace(report, aside=aside, why=str(why), when=now.isoformat())
        write_whole(os.path.join(aside, _REPORT), json.dumps(asdict(report), indent=1).encode())
        os.rename(fresh, os.path.join(directory, _WHOLE))
        sync_directory(directory)
    except BaseException:
        for name in (fresh, fresh + "-journal", os.path.join(aside, _REPORT)):
            with contextlib.suppress(OSError):
                os.unlink(name)
        with contextlib.suppress(OSError):
            os.rmdir(aside)
        raise
    _swap(directory, stamp)
    _log.error(
        "the queue file in %s was damaged (%s); it was set aside whole in %s, and %d event(s) were read back, %d lost, "
        "%d may be sent again%s",
        directory, why, aside, report.kept, report.lost, report.again,
        f", {report.unknown} unaccounted for since the ledger was lost" if report.unknown else "",
    )  # fmt: skip
    return report


def holds_events(pages: Pages) -> bool:
    """Whether there is any event to be read back."""
    return any(_event(rowid, values) is not None for rowid, values in pages.rows(pages.existing()))


# --- reading -----------------------------------------------------------------------------------------------------


def newest(path: str) -> Pages:
    """Return the newest version of each page of a queue's file and its WAL.

    A WAL that has lost its header no longer says which of its frames are of the present round. Those of an earlier one
    are in the file, and pages that are newer may be, too: then the WAL is left out.
    """
    pages = Pages(path, schema.PAGE_SIZE)
    with contextlib.ExitStack() as left_open:
        left_open.callback(pages.close)
        if not pages.wal.sound_header and pages.wal.proven:
            with Pages(path, schema.PAGE_SIZE, wal=False) as alone:
                older = _is_older(pages, alone)
            if older:
                return Pages(path, schema.PAGE_SIZE, wal=False)
        left_open.pop_all()
        return pages


def _is_older(pages: Pages, alone: Pages) -> bool:
    """Whether a file holds what its WAL does, or more. Two things only ever grow: events accepted, and events gone."""
    if pages.folded():
        return True  # as much, at least
    roots = _roots(alone)
    ledger, logged = roots["edgespool_ledger"], pages.logged()
    certain = [number for number in logged if pages.certain(number)]
    in_file = _progress(alone, ledger, alone, logged)
    in_log = _progress(pages if pages.certain(ledger) else alone, ledger, pages, certain)
    if in_file != in_log:
        # Where one says this and the other that, frames are broken, too, and all is kept.
        return in_file[0] >= in_log[0] and in_file[1] >= in_log[1]
    # What is left in the WAL tells neither. A file that has all that waits needs none of it.
    sure, _ = alone.leaves(roots[schema.TABLE])
    return len(set(_events_on(alone, sure))) == in_file[0] - in_file[1]


def _progress(counted: Pages, ledger: int, shown: Pages, numbers: list[int]) -> tuple[int, int]:
    """Return how many events had been accepted, and how many had left, by a ledger and the events on some pages."""
    counts, _ = _ledger(counted, ledger)
    accepted = counts.pop("seq", 0)
    newest = max((rowid & schema.SEQUENCE_MASK for rowid in _events_on(shown, numbers)), default=0)
    return max(accepted, newest), sum(counts.values())


def _events_on(pages: Pages, numbers: list[int]) -> Iterator[int]:
    """Yield the row ids of the sound events on some pages."""
    return (rowid for rowid, values in pages.rows(numbers) if _event(rowid, values) is not None)


def _look(pages: Pages) -> _Found:
    roots = _roots(pages)
    small = {name: pages.tree(root)[0] for name, root in roots.items() if name != schema.TABLE}
    sure, doubtful = pages.leaves(roots[schema.TABLE])
    # A route's name stands in the table and in its index, which lie on different pages.
    routes = {
        values[1]: values[0]
        for number in small["sqlite_autoindex_edgespool_route_1"]
        for _, values in pages.cells(pages.page(number))
        if len(values) == 2 and isinstance(values[0], str) and isinstance(values[1], int) and 0 < values[1] < 1 << 23
    }
    for rowid, values in pages.rows(small["edgespool_route"]):
        if len(values) == 2 and values[0] is None and isinstance(values[1], str) and 0 < rowid < 1 << 23:
            routes[rowid] = values[1]
    format_name = None
    for _, values in pages.rows(small["edgespool_meta"]):
        if len(values) == 2 and values[0] == "format" and isinstance(values[1], str):
            format_name = values[1]
    sessions = [
        (rowid, *values[1:])
        for rowid, values in pages.rows(small["edgespool_session"])
        if len(values) == 5 and values[0] is None and isinstance(values[1], str)
    ]
    counts, whole = _ledger(pages, roots["edgespool_ledger"])
    return _Found(routes, sessions, format_name, counts, whole, sure, doubtful)


def _roots(pages: Pages) -> dict[str, int]:
    """Return the root page of each table and index: as the file says, else as they are in every new file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        schema.create(connection)
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage > 0").fetchall())
    finally:
        connection.close()
    for _, values in pages.rows((1,)):
        if len(values) == 5 and values[1] in roots and isinstance(values[3], int) and 1 < values[3] <= pages.count:
            roots[values[1]] = values[3]
    return roots


def _ledger(pages: Pages, root: int) -> tuple[dict[str, int], bool]:
    """Return the counts of the newest copy of their page that can be read, and whether that is the newest at all."""
    whole = root not in pages.stale
    for page in pages.versions(root):
        counts = {
            values[0]: values[1]
            for _, values in pages.cells(page)
            if len(values) == 2 and _counts(values[0])
            if isinstance(values[1], int) and 0 <= values[1] <= schema.SEQUENCE_MASK
        }
        gone = sum(count for name, count in counts.items() if name != "seq")
        if page[:1] == b"\x0a" and gone <= counts.get("seq", -1):
            return counts, whole and int.from_bytes(page[3:5], "big") == len(counts)
        whole = False
    return {}, False


def _counts(name: Any) -> bool:
    return isinstance(name, str) and (name in ("seq", "delivered", "failed") or name.startswith("dropped:"))


def _event(rowid: int, values: list[Any]) -> tuple[Any, ...] | None:
    """Return the row as it is to be inserted, or None when it is no sound event."""
    if len(values) != 8 or rowid <= 0:
        return None
    _, payload, when, status, event_id, session, mono, crc = values
    if isinstance(when, int):
        when = float(when)  # SQLite stores a float without a fraction as an integer
    if status != 0 or not isinstance(payload, bytes) or not isinstance(crc, int):
        return None
    try:
        raw = event_id.encode("utf-8") if isinstance(event_id, str) else event_id
        if crc != crc32(payload, crc32(raw, crc32(schema.pack_head(rowid, when, mono, session)))):
            return None
    except (TypeError, ValueError, AttributeError, schema.PackError):
        return None
    return rowid, payload, when, event_id, session, mono, crc


# --- writing -----------------------------------------------------------------------------------------------------


def _build(path: str, pages: Pages, found: _Found, stamp: str) -> Report:
    """Write the fresh file, flushed, and return what will be reported of it."""
    for name in (path, path + "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    os.close(open_private(path, os.O_RDWR | os.O_EXCL))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = EXTRA")
        schema.create(connection)
        connection.execute("BEGIN IMMEDIATE")
        insert = schema.INSERT.replace("INSERT", "INSERT OR IGNORE", 1)
        most = _Most(pages)
        connection.executemany(insert, most.events(found.sure))
        certain = _count(connection)
        connection.executemany(insert, most.events(found.doubtful))
        kept = _count(connection)
        counts, report = _account(found, kept, kept - certain, most, pages.nameless)
        connection.execute("DELETE FROM edgespool_ledger")
        connection.executemany("INSERT INTO edgespool_ledger VALUES (?, ?)", sorted(counts.items()))
        connection.executemany("INSERT OR IGNORE INTO edgespool_route VALUES (?, ?)", sorted(found.routes.items()))
        # A route whose name is lost keeps its number, and so its events their order.
        for rid in sorted(most.routes - {0} - set(found.routes)):
            connection.execute("INSERT OR IGNORE INTO edgespool_route VALUES (?, ?)", (rid, f"route-{rid}"))
        if found.format_name is not None:
            connection.execute(schema.SET_FORMAT, (found.format_name,))
        connection.execute("INSERT INTO edgespool_meta VALUES ('salvaged', ?)", (stamp,))
        for row in found.sessions:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("INSERT OR IGNORE INTO edgespool_session VALUES (?, ?, ?, ?, ?)", row)
        # A boot of which nothing is known keeps its number: the next one's clock has nothing to do with these events.
        for sid, mono in sorted(most.sessions.items()):
            row = (sid, f"lost-{sid}", mono, mono, None)
            connection.execute("INSERT OR IGNORE INTO edgespool_session VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    finally:
        connection.close()
    return report


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {schema.TABLE}").fetchone()[0])


class _Most:
    """The sound events of some pages, and the highest of what they show."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.sequence = 0
        self.on_a_page = 0
        self.routes: set[int] = set()
        self.sessions: dict[int, int] = {}  # boot -> the last reading of its clock

    def events(self, numbers: list[int]) -> Iterator[tuple[Any, ...]]:
        """Yield each sound event on these pages."""
        for number in numbers:
            here = 0
            for rowid, values in self._pages.rows((number,)):
                row = _event(rowid, values)
                if row is not None:
                    here += 1
                    self.sequence = max(self.sequence, rowid & schema.SEQUENCE_MASK)
                    self.routes.add(rowid >> schema.SEQUENCE_BITS)
                    session, mono = abs(row[4]), row[5]
                    if session < 1 << 63:
                        self.sessions[session] = max(self.sessions.get(session, mono), mono)
                    yield row
            self.on_a_page = max(self.on_a_page, here)


def _account(
    found: _Found, kept: int, doubtful: int, most: _Most, nameless: int
) -> tuple[dict[str, int], Report]:
    """Return the fresh ledger, which balances, and the report."""
    counts = dict(found.counts)
    sequence = counts["seq"] = max(counts.get("seq", 0), most.sequence)
    missing = sequence - sum(count for name, count in counts.items() if name != "seq") - kept
    again = max(doubtful, -missing)
    if nameless:  # each may have been a newer copy of any page, without events that had been delivered
        again = max(again, min(kept, doubtful + nameless * most.on_a_page - min(missing, 0)))
    unknown = 0
    if missing < 0:  # more rows than were waiting: some had been delivered, and their deletion was lost
        for name in sorted(counts, key=lambda each: (each != "delivered", each)):
            if name != "seq" and missing < 0:
                step = min(counts[name], -missing)
                counts[name] -= step
                missing += step
        counts["seq"] -= missing
    elif missing and not found.ledger_whole:
        unknown, missing = missing, 0
        counts["dropped:ledger_lost"] = counts.get("dropped:ledger_lost", 0) + unknown
    elif missing:
        counts["dropped:damaged"] = counts.get("dropped:damaged", 0) + missing
    return counts, Report(kept, max(missing, 0), again, "", unknown)


# --- changing places ---------------------------------------------------------------------------------------------


def _swap(directory: str, stamp: str) -> None:
    aside = os.path.join(directory, _FOLDER, stamp)
    make_directory(aside)
    for name in (schema.FILE_NAME, *_SIDE_FILES):
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(directory, name), os.path.join(aside, name))
            sync_directory(aside)
            sync_directory(directory)
    os.rename(os.path.join(directory, _WHOLE), os.path.join(directory, schema.FILE_NAME))
    sync_directory(directory)


def finish(directory: str) -> bool:
    """Complete a salvage that a crash cut short; return whether there was one. The caller holds the write lock.

    Raises:
        OSError: the files cannot be moved.
    """
    whole = os.path.join(directory, _WHOLE)
    if not os.path.exists(whole):
        return False
    stamp = _stamp_of(whole)
    aside = os.path.join(directory, _FOLDER, stamp)
    if stamp and not os.path.exists(os.path.join(directory, schema.FILE_NAME)):
        _swap(directory, stamp)
        return True
    # The damaged file still stands in its place: the salvage begins again. What it made is only a copy.
    os.unlink(whole)
    with contextlib.suppress(OSError):
        if stamp and os.listdir(aside) == [_REPORT]:
            os.unlink(os.path.join(aside, _REPORT))
            os.rmdir(aside)
    return False


def _stamp_of(path: str) -> str:
    """Return the name of the folder that belongs to a fresh file; empty when it cannot be told."""
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"{schema.uri_of(path)}?mode=ro", uri=True)
        try:
            return schema.salvaged(connection) or ""
        finally:
            connection.close()
    return ""


def reports(directory: str) -> list[Report]:
    """Return what all salvages of a queue found that are still there to be read, by the time they say of themselves."""
    folder = os.path.join(directory, _FOLDER)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [report for name in names if (report := report_of(directory, name)) is not None]


def report_of(directory: str, stamp: str) -> Report | None:
    """Return what the salvage of that name found; None when its report is not there or cannot be understood."""
    aside = os.path.join(directory, _FOLDER, stamp)
    try:
        with open(os.path.join(aside, _REPORT), "rb") as file:
            said = json.loads(file.read(1 << 16))
        kept, lost, again, unknown = (int(said[each]) for each in ("kept", "lost", "again", "unknown"))
        return Report(kept, lost, again, aside, unknown, str(said["why"]), str(said["when"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
