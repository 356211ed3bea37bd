"""A program that simply ends: what it recorded is on the disk, it is not held up, and nothing is said on stderr."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from process_kit import Program, check_ledger, check_nothing_lost, deliver_all, recorded

from edgespool.testing import Collector

Run = Callable[..., Program]
AT_EXIT = 2.0  # seconds that the end of a program may be held up
GRANTED = 2.0  # seconds more, for a machine that is busy with other tests


@contextmanager
def closed_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}/"


@contextmanager
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


@contextmanager
def full_backlog() -> Iterator[str]:
    """A server that does not even take the connection: the kernel drops what comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/"
        for each in waiting:
            each.close()


@contextmanager
def half_a_reply() -> Iterator[str]:
    """A server that begins to answer, and never ends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    taken.append(connection)
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")

        taken: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in taken:
            each.close()


@pytest.fixture(autouse=True)
def _warnings_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to be collected: a socket that nobody closed, for example, is said on stderr."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")


def held_up(program: Program) -> float:
    """Wait for the end of the program; return how long after its last line that was."""
    ((said,),) = program.wait_for("leaves")
    program.process.wait(30)
    return time.monotonic() - float(said)


def everything_arrives(program: Program, path: Path, collector: Collector) -> int:
    deliver_all(path, collector)
    count = check_nothing_lost([program], collector)
    check_ledger(path, delivered=count)
    return count


@pytest.mark.parametrize("server", [closed_port, silent_server, full_backlog, half_a_reply])
@pytest.mark.parametrize("linger", [0.0, 0.5])
def test_a_program_ends_in_time_though_the_server_is_away(
    run: Run, queue_path: Path, collector: Collector, server: Callable[[], Iterator[str]], linger: float
) -> None:
    with server() as url:  # type: ignore[attr-defined]
        program = run("leaver.py", url=url, way="plainly", linger=linger)
        assert held_up(program) < AT_EXIT + GRANTED
    assert (program.process.returncode, program.errors) == (0, "")
    assert len(recorded([program])["main"]) == 5
    assert everything_arrives(program, queue_path, collector) == 5


def test_a_program_that_ends_delivers_what_it_can(run: Run, queue_path: Path, collector: Collector) -> None:
    program = run("leaver.py", way="plainly", flush_interval=60)
    assert held_up(program) < AT_EXIT + GRANTED
    assert (program.process.returncode, program.errors) == (0, "")
    assert collector.count() == 5, "there was time enough"
    assert everything_arrives(program, queue_path, collector) == 5


def test_several_clients_share_the_time_at_exit(run: Run, collector: Collector) -> None:
    with silent_server() as url:
        program = run("leaver.py", url=url, way="many clients")
        assert held_up(program) < AT_EXIT + GRANTED
    assert (program.process.returncode, program.errors) == (0, "")


@pytest.mark.parametrize("durability", ["power", "process"])
def test_daemon_threads_that_record_to_the_last_moment_give_no_traceback(
    run: Run, queue_path: Path, collector: Collector, durability: str
) -> None:
    program = run("leaver.py", way="daemons", durability=durability)
    assert held_up(program) < AT_EXIT + GRANTED
    assert (program.process.returncode, program.errors) == (0, "")
    assert len(recorded([program])["daemon-3"]) > 10
    everything_arrives(program, queue_path, collector)


def test_a_thread_that_outlives_the_main_thread_still_records(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("leaver.py", way="thread")
    program.process.wait(30)
    assert (program.process.returncode, program.errors) == (0, "")
    assert len(recorded([program])["thread"]) == 1
    assert everything_arrives(program, queue_path, collector) == 6


@pytest.mark.parametrize("way", ["hook first", "hook last"])
def test_an_exit_hook_that_raises_does_not_keep_the_client_from_closing(
    run: Run, queue_path: Path, collector: Collector, way: str
) -> None:
    program = run("leaver.py", way=way)
    assert held_up(program) < AT_EXIT + GRANTED
    assert "an exit hook of the program's" in program.errors
    assert "edgespool" not in program.errors.replace("edgespool/tests", "").replace(str(queue_path), "")
    assert collector.count() == 5
    assert everything_arrives(program, queue_path, collector) == 5


@pytest.mark.parametrize("way", ["hook records", "early hook records"])
def test_an_exit_hook_may_record(run: Run, queue_path: Path, collector: Collector, way: str) -> None:
    program = run("leaver.py", way=way)
    program.process.wait(30)
    assert (program.process.returncode, program.errors) == (0, "")
    assert everything_arrives(program, queue_path, collector) == 6


def test_a_client_that_an_exit_hook_closes_is_closed_once(run: Run, queue_path: Path, collector: Collector) -> None:
    program = run("leaver.py", way="hook closes")
    assert held_up(program) < 5 + GRANTED
    assert (program.process.returncode, program.errors) == (0, "")
    assert everything_arrives(program, queue_path, collector) == 5


def test_an_exception_that_ends_the_program_is_all_that_is_said(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("leaver.py", way="exception")
    assert held_up(program) < AT_EXIT + GRANTED
    assert program.process.returncode == 1
    assert program.errors.startswith("Traceback")
    assert program.errors.endswith("SystemError: on purpose\n")
    assert everything_arrives(program, queue_path, collector) == 5
