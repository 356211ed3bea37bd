"""A program forks with a client at work: parent and children record, everything arrives once, nobody harms another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from process_kit import Program, check_ledger, check_nothing_lost, deliver_all, recorded, sender_is_taken, wait_until

from edgespool.testing import Collector

Run = Callable[..., Program]


def total(program: Program) -> int:
    return sum(map(len, recorded([program]).values()))


def acknowledged(program: Program) -> int:
    return sum(int(count) for _, count in program.said("sent"))


@pytest.mark.parametrize("by", ["os.fork", "multiprocessing"])
@pytest.mark.parametrize(("end", "code"), [("_exit", 0), ("exit", 0), ("exception", 1), ("close", 0), ("crash", -11)])
def test_children_record_and_end_as_they_like_beside_a_parent_at_work(
    run: Run, queue_path: Path, collector: Collector, by: str, end: str, code: int
) -> None:
    program = run("forks.py", scene="children", by=by, end=end, count=4)
    program.wait_for("forked")
    assert program.said("ended") == [[str(code)]] * 4
    assert program.said("failure") == []
    assert sender_is_taken(queue_path), "a child has taken the parent's lock along"
    program.tell("record")
    program.wait_for("recorded", len(program.said("recorded")))
    wait_until(lambda: recorded([program]).get("afterwards"), "a record after the forks")
    assert collector.wait_for(total(program), 30)
    assert {pid for pid, _ in program.said("sent")} == {str(program.pid)}, "a child has sent while the parent could"
    wait_until(lambda: acknowledged(program) == total(program), "the acknowledgements")
    # What the parent has stored since is in a file that is still there.
    collector.close_port()
    program.tell("record")
    wait_until(lambda: len(recorded([program])["afterwards"]) == 2, "another record")
    program.kill()
    assert not sender_is_taken(queue_path)
    collector.open_port()
    deliver_all(queue_path, collector)
    count = check_nothing_lost([program], collector)
    assert (count, collector.repeats()) == (total(program), 0)
    check_ledger(queue_path, delivered=count)


def test_the_workers_of_a_process_pool_record(run: Run, queue_path: Path, collector: Collector) -> None:
    program = run("forks.py", scene="pool")
    program.wait_for("forked")
    assert collector.wait_for(60, 30)
    assert check_nothing_lost([program], collector) == 60
    assert collector.repeats() == 0
    assert program.end() == 0
    assert program.errors == ""
    check_ledger(queue_path, delivered=60)


def test_a_child_that_outlives_a_killed_parent_becomes_the_sender(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("forks.py", scene="orphan", parent="stays")
    child = program.wait_for("child")[0][0]
    wait_until(lambda: len(recorded([program]).get("child", [])) > 5, "the child's records")
    assert {pid for pid, _ in program.said("sent")} <= {str(program.pid)}
    program.kill()
    wait_until(lambda: [child] in [line[:1] for line in program.said("sent")], "the child as the sender", 10)
    os.kill(int(child), signal.SIGKILL)
    wait_until(lambda: not sender_is_taken(queue_path), "the end of the child")
    deliver_all(queue_path, collector)
    count = check_nothing_lost([program], collector)
    check_ledger(queue_path, delivered=count)
    order = [pid for pid, _ in groupby(pid for pid, _ in program.said("sent"))]
    assert order == [str(program.pid), child]


@pytest.mark.parametrize("goodbye", ["closes", "exits"])
def test_a_parent_that_closes_takes_nothing_from_a_child_that_goes_on(
    run: Run, queue_path: Path, collector: Collector, goodbye: str
) -> None:
    program = run("forks.py", scene="orphan", parent=goodbye, start=False)
    child = int(program.wait_for("child")[0][0])
    wait_until(lambda: len(recorded([program]).get("child", [])) > 10, "the child's records")
    if goodbye == "closes":
        program.wait_for("closed")
    else:
        program.tell("exit")
        program.process.wait(30)
    known = len(recorded([program])["child"])
    wait_until(lambda: len(recorded([program])["child"]) > known + 10, "more records of the child")
    os.kill(child, signal.SIGKILL)
    program.clean_up()
    deliver_all(queue_path, collector)
    count = check_nothing_lost([program], collector)
    check_ledger(queue_path, delivered=count)


def test_threads_that_fork_while_others_record_end_in_no_deadlock_and_leak_no_files(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("forks.py", scene="storm", count=25)
    program.wait_for("forked")
    assert program.said("ended") == [["0"]] * 53
    ((before, after),) = program.said("descriptors")
    assert int(after) <= int(before) + 1, "open files add up"
    assert collector.wait_for(total(program), 30)
    assert check_nothing_lost([program], collector) == total(program)
    assert collector.repeats() == 0
    assert program.end() == 0
    assert program.errors == ""
    check_ledger(queue_path, delivered=total(program))


def test_generations_of_children_hold_no_more_and_no_more_files_open(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    program = run("forks.py", scene="generations", count=6)
    program.wait_for("forked")
    open_files = [int(count) for _, count in program.said("descriptors")]
    assert len(open_files) == 7
    assert max(open_files[1:]) <= open_files[0] + 1
    assert collector.wait_for(21, 30)
    assert check_nothing_lost([program], collector) == 21
    assert program.end() == 0
    check_ledger(queue_path, delivered=21)


def test_a_hook_may_fork(run: Run, queue_path: Path, collector: Collector) -> None:
    program = run("forks.py", scene="in_a_hook")
    program.wait_for("forked")
    assert program.said("ended") == [["0"]]
    assert collector.wait_for(6, 30)
    assert check_nothing_lost([program], collector) == 6
    assert program.end() == 0
    check_ledger(queue_path, delivered=6)
