"""Sessions and the numbers of their events: one after the other, in threads, forks and processes, after a restart."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paltabrain_kit import MakeSdk, isolate, sdks, start_python

from edgespool.testing import Collector
from edgespool.vendors.paltabrain.api import _session_number
from edgespool.vendors.paltabrain.example import EventSessionStart
from edgespool.vendors.paltabrain.sessions import SessionNumbers


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector(keep_bodies=True) as made:
        yield made


@pytest.fixture
def make(tmp_path: Path, collector: Collector) -> Iterator[MakeSdk]:
    with sdks(tmp_path, collector.base_url) as made:
        yield made


def sessions(collector: Collector) -> list[tuple[int | None, int | None]]:
    found = [event["common"] for event in collector.events()]
    return [(each.get("session_id"), each.get("session_event_seq_num")) for each in found]


def test_a_new_session_is_started_when_asked_for(make: MakeSdk, collector: Collector) -> None:
    before = time.time_ns() // 1_000_000
    sdk = make(start_session=True)
    assert isinstance(sdk.session_id, int)
    assert before <= sdk.session_id <= time.time_ns() // 1_000_000 + 1
    for _ in range(3):
        sdk.track(EventSessionStart())
    assert sdk.flush(10)
    assert sessions(collector) == [(sdk.session_id, 1), (sdk.session_id, 2), (sdk.session_id, 3)]


def test_a_given_session_goes_on_after_a_restart(make: MakeSdk, collector: Collector) -> None:
    for _ in range(3):
        with make(session_id=1_700_000_000_000) as sdk:
            assert sdk.session_id == 1_700_000_000_000
            sdk.track(EventSessionStart())
            sdk.track(EventSessionStart())
    assert sessions(collector) == [(1_700_000_000_000, number) for number in range(1, 7)]


def test_a_session_goes_on_when_it_is_resumed(make: MakeSdk, collector: Collector) -> None:
    first = make(resume_session=True)
    assert first.session_id is None, "there is none to resume"
    first.shutdown()
    second = make(resume_session=True, start_session=True)
    second.track(EventSessionStart())
    second.shutdown()
    third = make(resume_session=True, start_session=True)
    assert third.session_id == second.session_id
    third.track(EventSessionStart())
    assert third.flush(10)
    assert sessions(collector) == [(second.session_id, 1), (second.session_id, 2)]


def test_without_being_asked_no_session_is_resumed_and_a_new_one_is_another(make: MakeSdk) -> None:
    first = make(start_session=True)
    first.track(EventSessionStart())
    first.shutdown()
    assert make().session_id is None
    assert make(start_session=True).session_id != first.session_id


def test_a_session_s_uuid_is_sent_as_a_number(make: MakeSdk, collector: Collector) -> None:
    text = "f1a1d6ae-0369-496a-8de9-2afcc964207b"
    sdk = make(session_id=text)
    assert sdk.session_id == text
    sdk.track(EventSessionStart())
    assert sdk.flush(10)
    assert sessions(collector) == [(uuid.UUID(text).int >> 65, 1)]


@pytest.mark.parametrize(
    ("given_id", "number"),
    [
        (5, 5),
        ("5", 5),
        ("-5", -5),
        ((1 << 63) - 1, (1 << 63) - 1),
        ("018bcfe5-687b-7000-8000-000000000000", 0x018BCFE5687B),
        (uuid.UUID("018bcfe5-687b-7000-8000-000000000000"), 0x018BCFE5687B),
    ],
)
def test_session_ids_of_all_kinds(given_id: object, number: int) -> None:
    assert _session_number(given_id) == number


@given(st.uuids())
def test_every_uuid_is_a_number_that_the_wire_takes(value: uuid.UUID) -> None:
    assert 0 <= _session_number(value) < 1 << 63
    assert _session_number(str(value)) == _session_number(value)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_numbers_of_a_session_go_on_with_a_new_object_without_a_gap(tmp_path: Path) -> None:
    given_out = []
    for _ in range(4):
        numbers = SessionNumbers(str(tmp_path), "boot")
        given_out += [numbers.next(1) for _ in range(300)]
        numbers.close()
    assert given_out == list(range(1, 1201))


def test_an_object_that_was_never_closed_leaves_no_gap_either(tmp_path: Path) -> None:
    given_out = []
    for _ in range(3):
        numbers = SessionNumbers(str(tmp_path), "boot")
        given_out += [numbers.next(1) for _ in range(5)]
    assert given_out == list(range(1, 16))


def test_after_a_power_cut_no_number_is_used_again(tmp_path: Path) -> None:
    numbers = SessionNumbers(str(tmp_path), "boot 1")
    assert [numbers.next(1) for _ in range(3)] == [1, 2, 3]
    stale = (tmp_path / "paltabrain-sessions").read_bytes()
    given_out = {numbers.next(1) for _ in range(200)}
    (tmp_path / "paltabrain-sessions").write_bytes(stale)  # what was not flushed is gone
    after = SessionNumbers(str(tmp_path), "boot 2")
    assert after.next(1) > max(given_out)


def test_an_orderly_end_before_a_reboot_leaves_no_gap(tmp_path: Path) -> None:
    numbers = SessionNumbers(str(tmp_path), "boot 1")
    assert [numbers.next(1) for _ in range(3)] == [1, 2, 3]
    numbers.close()
    assert SessionNumbers(str(tmp_path), "boot 2").next(1) == 4


def test_sessions_do_not_disturb_each_other_and_the_oldest_makes_room(tmp_path: Path) -> None:
    numbers = SessionNumbers(str(tmp_path), "boot")
    for session in range(100):
        assert numbers.next(session) == 1
    assert (tmp_path / "paltabrain-sessions").stat().st_size == 64 * 64
    fresh = SessionNumbers(str(tmp_path), "boot")
    assert fresh.next(99) == 2
    assert fresh.next(50) == 2
    assert fresh.next(0) == 1, "long forgotten"
    assert numbers.next(1) == 2, "remembered by who used it"
    assert SessionNumbers(str(tmp_path), "boot").last() == 1


def test_two_sessions_are_never_begun_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    begun = [SessionNumbers(str(tmp_path), "boot").begin() for _ in range(5)]
    assert begun == [1_700_000_000_000 + number for number in range(5)]


def test_threads_never_get_the_same_number(tmp_path: Path) -> None:
    objects = [SessionNumbers(str(tmp_path), "boot") for _ in range(2)]
    got: list[int] = []

    def take(numbers: SessionNumbers) -> None:
        mine = [numbers.next(1) for _ in range(100)]
        assert mine == sorted(mine)
        got.extend(mine)

    threads = [threading.Thread(target=take, args=(objects[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 401))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_processes_and_forks_never_get_the_same_number(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from edgespool.vendors.paltabrain.sessions import SessionNumbers
        numbers = SessionNumbers(sys.argv[1])
        mine = [numbers.next(1)]
        child = os.fork()
        mine += [numbers.next(1) for _ in range(100)]
        sys.stdout.write("".join(f"{number}\\n" for number in mine[0 if child else 1:]))
        sys.stdout.flush()
        if child:
            os.waitpid(child, 0)
        os._exit(0)
    """
    programs = [start_python(code, str(tmp_path)) for _ in range(2)]
    got = [int(line) for each in programs for line in each.communicate(timeout=30)[0].split()]
    assert sorted(got) == list(range(1, 403))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """With the parent's descriptor it would hold the parent's lock, and both would be let in at once."""
    code = """if True:
        import fcntl, os, sys
        from edgespool.vendors.paltabrain.sessions import SessionNumbers
        numbers = SessionNumbers(sys.argv[1])
        numbers.next(1)
        numbers._guard.acquire()
        numbers._lock.acquire()  # as another thread of the parent's may, at the moment of the fork
        child = os.fork()
        if not child:
            lock = os.open(sys.argv[1] + "/paltabrain-sessions.lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("held by the parent", numbers._fd, numbers._lock._fd, numbers._guard._is_owned(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    assert start_python(code, str(tmp_path)).communicate(timeout=30)[0] == "held by the parent -1 -1 False\n"


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"\xff" * 4096, b"\0" * 4096])
def test_a_damaged_file_costs_no_event(tmp_path: Path, damage: bytes) -> None:
    numbers = SessionNumbers(str(tmp_path), "boot")
    assert [numbers.next(1) for _ in range(3)] == [1, 2, 3]
    (tmp_path / "paltabrain-sessions").write_bytes(damage)
    assert numbers.next(1) == 4, "who used it remembers"
    assert SessionNumbers(str(tmp_path), "boot").next(1) == 5
    (tmp_path / "paltabrain-sessions").write_bytes(damage)
    assert SessionNumbers(str(tmp_path), "boot").next(1) >= 1


def test_a_file_that_cannot_be_written_is_said_once_and_costs_no_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "paltabrain-sessions").mkdir()
    numbers = SessionNumbers(str(tmp_path), "boot")
    assert [numbers.next(1) for _ in range(3)] == [1, 2, 3]
    assert numbers.last() is None
    assert numbers.begin() > 0
    numbers.close()
    assert len([each for each in caplog.records if "cannot be kept over a restart" in each.getMessage()]) == 1


def test_the_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    SessionNumbers(str(tmp_path), "boot").next(1)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_handler_may_do_the_same_at_any_point(tmp_path: Path) -> None:
    """A signal comes at each line of a call in turn; its handler takes a number, and closes the file."""
    code = """if True:
        import signal, sys
        from edgespool.vendors.paltabrain import sessions
        got, broken = [], []
        def handle(sig, frame):
            got.append(numbers.next(1))
            numbers.close()
        signal.signal(signal.SIGTERM, handle)
        point = 0
        while True:
            left = point
            def trace(frame, event, arg):
                global left
                if frame.f_code.co_filename != sessions.__file__:
                    return None
                if event == "line":
                    left -= 1
                    if left == 0:
                        signal.raise_signal(signal.SIGTERM)
                return trace
            numbers = sessions.SessionNumbers(sys.argv[1])
            before = len(got)
            sys.settrace(trace)
            number = numbers.next(1)
            numbers.close()
            sys.settrace(None)
            if number in got or got[before:] and got[-1] <= max(got[:before], default=0):
                broken.append((point, number, got[-5:]))
            got.append(number)
            if numbers._fd >= 0 or numbers._busy or numbers._ending:
                broken.append((point, "left open"))
            if left > 0:
                break
            point += 1
        print(point > 50, len(got) == len(set(got)), max(got) - len(got) < 10, broken, flush=True)
    """
    program = start_python(code, str(tmp_path))
    try:
        assert program.communicate(timeout=60)[0] == "True True True []\n"
    finally:
        program.kill()


def test_a_shutdown_in_a_signal_handler_that_interrupts_track_in_a_session_ends(tmp_path: Path) -> None:
    code = """if True:
        import signal, sys
        from edgespool import QueueClosed
        from edgespool.vendors.paltabrain.api import PaltabrainSdk
        from edgespool.vendors.paltabrain.example import Context, EventSessionStart
        sdk = PaltabrainSdk("http://127.0.0.1:9", "key", Context(), path=sys.argv[1], start=False, start_session=True)
        sdk.track(EventSessionStart())
        signal.signal(signal.SIGTERM, lambda sig, frame: sdk.shutdown(0))
        find = sdk._sessions._find
        def found(session):
            sdk._sessions._find = find
            signal.raise_signal(signal.SIGTERM)
            return find(session)
        sdk._sessions._find = found
        try:
            sdk.track(EventSessionStart())
        except QueueClosed:
            print("closed", sdk._sessions._fd, flush=True)
    """
    program = start_python(code, str(tmp_path))
    try:
        assert program.communicate(timeout=30)[0] == "closed -1\n"
    finally:
        program.kill()
