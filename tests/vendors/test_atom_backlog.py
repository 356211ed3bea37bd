"""Backlogs of the user's own, of every kind, on a disk that is full; and backlog_size when another process sends."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atom_kit import KEY, clean_environment, data_of, trackers, wait_until

from edgespool.errors import EventError, QueueClosed, QueueFull
from edgespool.testing import Collector
from edgespool.vendors.atom.api import IronSourceAtomTracker
from edgespool.vendors.atom.backlog import Mover
from edgespool.vendors.atom.event_storage import Event, EventStorage, QueueEventStorage

MakeTracker = Callable[..., IronSourceAtomTracker]


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(collector: Collector, tmp_path: Path) -> Iterator[MakeTracker]:
    with trackers(collector.base_url + "/", tmp_path / "queue") as made:
        yield made
    assert not any(thread.name.startswith("edgespool-atom") for thread in threading.enumerate())


class Slow(QueueEventStorage):
    """In memory, and slow to add: another thread comes in between."""

    def add_event(self, event_object: Event) -> None:
        time.sleep(0.002)
        super().add_event(event_object)


class Rows(EventStorage):
    """A backlog in a database: each event that it gives is a new object. `removes`: whether get_event does."""

    def __init__(self, removes: bool) -> None:
        super().__init__()
        self.removes = removes
        self.lock = threading.Lock()
        self.rows = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.rows.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, stream TEXT, data TEXT)")

    def add_event(self, event_object: Event) -> None:
        with self.lock:
            self.rows.execute(
                "INSERT INTO events (stream, data) VALUES (?, ?)", (event_object.stream, event_object.data)
            )

    def get_event(self, stream: str) -> Event | None:
        with self.lock:
            found = self.rows.execute("SELECT stream, data FROM events WHERE stream = ? ORDER BY id", (stream,))
            row = found.fetchone()
        if self.removes:
            self.remove_event(stream)
        return Event(*row) if row else None

    def remove_event(self, stream: str) -> None:
        with self.lock:
            self.rows.execute("DELETE FROM events WHERE id = (SELECT min(id) FROM events WHERE stream = ?)", (stream,))

    def is_empty(self) -> bool:
        with self.lock:
            return not self.rows.execute("SELECT count(*) FROM events").fetchone()[0]


def in_threads(count: int, work: Callable[[int], object]) -> list[threading.Thread]:
    """Start so many threads, each with its number."""
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def all_end(threads: list[threading.Thread]) -> bool:
    """Wait for them; return whether all have ended."""
    for thread in threads:
        thread.join(20)
    return not any(thread.is_alive() for thread in threads)


def empty(backlog: EventStorage) -> None:
    """Empty a backlog until nobody waits for room in it any more: a tracker that was stopped may."""

    def nobody_waits() -> bool:
        while backlog.get_event("s") is not None:
            pass
        return not any(thread.name == "edgespool-atom-stop" for thread in threading.enumerate())

    wait_until(nobody_waits, "the end of those who wait")


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_events_that_the_disk_did_not_take_keep_their_order(make: MakeTracker, collector: Collector) -> None:
    backlog = Slow(99)
    tracker = make(event_backlog=backlog, overflow="reject", max_events=2)
    for n in range(6):
        backlog.add_event(Event("s", str(n)))
    tracker._streams.add("s")
    end = time.monotonic() + 20
    while not tracker._mover.empty and time.monotonic() < end:  # type: ignore[union-attr]
        try:
            tracker.flush()
        except QueueFull:
            time.sleep(0.005)
    assert collector.wait_for(6, 20)
    assert data_of(collector) == list(range(6))


def test_threads_that_track_on_a_full_disk_end_and_lose_nothing(make: MakeTracker, collector: Collector) -> None:
    tracker = make(event_backlog=Slow(1), overflow="reject", max_events=5, start=False)
    tracked: list[str] = []

    def track(number: int) -> None:
        for n in range(25):
            text = f"{number}:{n:02d}"
            try:
                tracker.track("s", text)
                tracked.append(text)
            except QueueFull:
                time.sleep(0.001)

    assert all_end(in_threads(4, track))
    assert tracker._client.stats().pending == 5
    tracker._client.start()
    end = time.monotonic() + 20
    while not tracker._mover.empty and time.monotonic() < end:  # type: ignore[union-attr]
        try:
            tracker.flush()
        except QueueFull:
            time.sleep(0.005)
    wait_until(lambda: tracker._client.stats().pending == 0)
    arrived = data_of(collector)
    assert set(tracked) <= set(arrived)
    assert len(arrived) == len(set(arrived))
    for number in range(4):
        mine = [each for each in arrived if each.startswith(f"{number}:")]
        assert mine == sorted(mine)


def test_stop_wakes_all_who_wait_for_room_and_says_what_has_none(
    make: MakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    backlog = Slow(1)
    tracker = make(event_backlog=backlog, max_events=5, start=False)
    ends: list[BaseException] = []

    def track(number: int) -> None:
        try:
            while True:
                tracker.track("s", str(number))
        except QueueClosed as error:
            ends.append(error)

    threads = in_threads(4, track)
    wait_until(lambda: tracker._client.stats().pending == 5 and not backlog.is_empty())
    with caplog.at_level(logging.WARNING, "edgespool"):
        tracker.stop()
    assert all_end(threads)
    assert len(ends) == 4
    homeless = sum(map(len, tracker._mover._kept.values()))  # type: ignore[union-attr]
    assert not backlog.is_empty()
    assert homeless == 0 or f"{homeless} event(s) have no room on the disk or in the event_backlog" in caplog.text
    with pytest.raises(QueueClosed):
        tracker.track("s", "more")
    tracker.stop()
    empty(backlog)


@pytest.mark.parametrize("size", [99, 2])
def test_stop_puts_back_what_is_kept_in_order_as_far_as_there_is_room(
    make: MakeTracker, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    backlog = QueueEventStorage(size)
    tracker = make(event_backlog=backlog, overflow="reject", max_events=1, start=False)
    tracker.track("s", "0")
    with pytest.raises(QueueFull):
        tracker.track("s", "1")
    with pytest.raises(QueueFull):
        tracker.track("s", "refused before it was added")
    for text in "23":
        backlog.add_event(Event("s", text))
    assert [event.data for event in tracker._mover._kept["s"]] == ["1"]  # type: ignore[union-attr]
    tracker.stop()
    back = [event.data for event in backlog._events["s"]]
    assert back == ["1", "2", "3"][:size]
    assert ("1 event(s) have no room" in caplog.text) == (size == 2)
    assert "keeps what could not be stored" in caplog.text
    empty(backlog)


def test_an_event_that_can_never_be_stored_stands_in_nobody_s_way(
    make: MakeTracker, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    for backlog in (QueueEventStorage(9), Rows(False), Rows(True)):
        tracker = make(event_backlog=backlog)
        with pytest.raises(EventError, match="batch_bytes"):
            tracker.track("s", "x" * (9 << 20))
        backlog.add_event(Event("s", "x" * (9 << 20)))
        tracker.track("s", f"fine with {backlog}")
        assert tracker._mover.empty  # type: ignore[union-attr]
        assert "is dropped" in caplog.text
        caplog.clear()
    assert collector.wait_for(3, 20)


# --- kinds of backlogs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removes", [False, True])
@pytest.mark.parametrize("before", [[], ["a"], ["a", "a"], ["a"] * 50, ["a", "b"], ["b", "a", "a"]])
def test_an_event_is_told_from_a_copy_of_it(removes: bool, before: list[str]) -> None:
    backlog, stored = Rows(removes), []
    for data in before:
        backlog.add_event(Event("s", data))
    mover = Mover(backlog, lambda event: stored.append(event.data) if len(stored) < 200 else pytest.fail("no end"))
    mover.move(["s", "t"])
    for data in "aaba":
        mover.add(Event("s", data))
    assert stored == [*before, *"aaba"]
    assert mover.empty


def test_one_object_that_was_added_twice_is_two_events() -> None:
    backlog, stored = QueueEventStorage(9), []
    same = Event("s", "a")
    for _ in range(3):
        backlog.add_event(same)
    mover = Mover(backlog, stored.append)
    for data in "bc":
        mover.add(Event("s", data))
    assert [event.data for event in stored] == list("aaabc")


@pytest.mark.parametrize("removes", [False, True])
def test_threads_that_add_equal_events_confuse_nobody(removes: bool) -> None:
    for _ in range(20):
        backlog, stored = Rows(removes), []
        mover = Mover(backlog, stored.append)
        threads = in_threads(6, lambda number, mover=mover: [mover.add(Event("s", "a")) for _ in range(5)])
        assert all_end(threads)
        assert len(stored) == 30
        assert mover.empty


def test_a_backlog_that_shows_keeps_what_is_not_stored() -> None:
    backlog, broken = Rows(False), [True]
    stored: list[Any] = []

    def store(event: Event) -> None:
        if broken:
            raise QueueFull("told to fail")
        stored.append(event.data)

    mover = Mover(backlog, store)
    with pytest.raises(QueueFull):
        mover.add(Event("s", "1"))
    assert backlog.get_event("s").data == "1"  # type: ignore[union-attr]
    broken.clear()
    mover.add(Event("s", "2"))
    assert stored == ["1", "2"]
    assert backlog.is_empty()


# --- backlog_size -----------------------------------------------------------------------------------------------------


def test_a_stream_that_another_process_has_sent_has_room_again(
    make: MakeTracker, collector: Collector, tmp_path: Path
) -> None:
    tracker = make(start=False, backlog_size=2)
    for n in range(2):
        tracker.track("held", n, auth_key=KEY)  # the other process does not know the key
        tracker.track("s", n)
    code = """if True:
        import sys
        from edgespool.vendors.atom.api import IronSourceAtomTracker
        tracker = IronSourceAtomTracker(endpoint=sys.argv[1], path=sys.argv[2], flush_interval=1000)
        while tracker._client.stats().pending > 2:
            tracker._client.flush(0.1)
    """
    arguments = [sys.executable, "-c", code, tracker._client.endpoint, tracker._client.directory]
    other = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    try:
        assert other.wait(30) == 0
    finally:
        other.kill()
        other.wait()
    assert tracker._client.stats().pending == 2
    assert all_end(in_threads(1, lambda number: tracker.track("s", 2)))

    def one_too_many(number: int) -> None:
        with pytest.raises(QueueClosed):
            tracker.track("held", 2)

    late = in_threads(1, one_too_many)
    late[0].join(1.5)
    assert late[0].is_alive()  # of this one as many wait as may
    tracker.stop()
    assert all_end(late)
