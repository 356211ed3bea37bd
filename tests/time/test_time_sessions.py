"""What a boot came to know of the time is written down at once, and seldom: a card wears by what is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from time_kit import DAY, NOW, Device

from edgespool.queue import DiskQueue, schema
from edgespool.testing import FakeClock

MakeDevice = Callable[..., Device]


def sessions(path: Path) -> list[tuple[Any, ...]]:
    """Return (boot clock's last known reading in seconds, what to add to it) of each boot, from the files."""
    with sqlite3.connect(f"file:{path / schema.FILE_NAME}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT last_mono, wall_offset FROM edgespool_session ORDER BY id").fetchall()
    connection.close()
    return [(last / 1e6, None if offset is None else offset / 1e6) for last, offset in rows]


def test_the_first_time_that_is_right_is_kept_at_once_and_flushed(
    device: Device, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.record(1)
    device.drain()
    assert sessions(device.path) == [(1000.0, None)]
    used: list[str] = []
    write = device.queue._store.write
    monkeypatch.setattr(device.queue._store, "write", lambda which, work: (used.append(which), write(which, work))[1])
    clock.is_synchronized = True
    device.step()
    assert sessions(device.path) == [(1000.0, pytest.approx(NOW - 1000))]
    assert used == ["append"], "by the connection that flushes at each commit"
    for _ in range(100):
        clock.advance(0.1)
        device.step()
    assert used == ["append"], "once is enough"


def test_it_is_kept_during_an_outage_as_well(make_device: MakeDevice, clock: FakeClock) -> None:
    device = make_device()
    device.record(1)
    device.step()
    device.worker._down_due = clock.monotonic() + 300.0
    clock.is_synchronized = True
    device.step()
    assert sessions(device.path)[0][1] == pytest.approx(NOW - 1000)


def test_a_clock_that_nobody_keeps_is_never_written_down(device: Device, clock: FakeClock) -> None:
    device.record(1)
    for _ in range(5):
        device.queue._last_touch -= 61
        clock.advance(61)
        device.step()
    device.close()
    assert sessions(device.path) == [(1305.0, None)]


def test_closing_writes_only_news(device: Device, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.is_synchronized = True
    device.record(1)
    device.drain()
    kept = sessions(device.path)
    touched: list[str] = []
    touch = device.queue._touch_session
    monkeypatch.setattr(device.queue, "_touch_session", lambda which: (touched.append(which), touch(which)))
    device.close()
    assert (touched, sessions(device.path)) == ([], kept)


def test_scripts_that_live_for_moments_still_tell_how_long_the_boot_lasted(
    make_device: MakeDevice, clock: FakeClock
) -> None:
    """Else their events would seem younger than they are, and max_age would keep them for longer than it must."""
    device = make_device(max_age=DAY)
    for number in range(5):
        device.record(number)
        device.close()
        clock.advance(3600)
        device.boot()
    assert sessions(device.path) == [(1000.0 + 4 * 3600, None)]
    device.pull_the_plug()
    device.boot()
    assert device.queue.expire(DAY) == 0
    clock.advance(DAY - 4 * 3600 - 1)
    assert device.queue.expire(DAY) == 0
    clock.advance(2)
    assert device.queue.expire(DAY) == 1, "the oldest of them is a day old, the time between the boots apart"


def test_a_queue_that_cannot_be_written_closes_all_the_same(
    device: Device, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgespool.errors import QueueFull

    device.record(1)
    clock.is_synchronized = True

    def full(*given: object) -> None:
        raise QueueFull("no room")

    monkeypatch.setattr(device.queue._store, "write", full)
    device.close()
    assert device.queue._store.closed


def test_a_queue_that_was_only_looked_at_writes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    clock.is_synchronized = True
    DiskQueue(tmp_path / "queue", clock=clock).close()
    assert sessions(tmp_path / "queue") == []
    queue = DiskQueue(tmp_path / "queue", clock=clock)
    assert queue.lease(10, 1 << 20) is None
    queue.maintain(True)
    queue.close()
    assert sessions(tmp_path / "queue") == []


def test_one_boot_is_one_session_however_often_the_program_starts(device: Device, clock: FakeClock) -> None:
    for number in range(4):
        device.record(number)
        device.close()
        clock.jump_wall(-5 * DAY)
        device.boot()
    assert len(sessions(device.path)) == 1
    device.pull_the_plug()
    device.boot()
    device.record(9)
    assert len(sessions(device.path)) == 2


def test_events_whose_boot_was_lost_by_damage_are_no_other_boots(device: Device, clock: FakeClock) -> None:
    """Its number given to the next boot, they would get that one's age, and times that never were."""
    device.record(1)
    device.pull_the_plug()
    with sqlite3.connect(device.path / schema.FILE_NAME) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'edgespool_session'").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    with open(device.path / schema.FILE_NAME, "r+b") as file:
        file.seek((page - 1) * schema.PAGE_SIZE)
        file.write(bytes(schema.PAGE_SIZE))
    clock.advance(10 * DAY)
    clock.is_synchronized = True
    device.boot()
    assert device.client.stats().salvaged is not None
    device.record(2)
    assert device.queue.expire(DAY) == 0, "nobody can tell how old it is"
    batch = device.queue.lease(10, 1 << 20)
    assert batch is not None
    assert [(event.time, event.corrected) for event in batch.events] == [(NOW, False), (clock.time(), False)]
