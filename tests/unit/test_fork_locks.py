"""Locks that a forked child finds free."""

from __future__ import annotations

import os
import threading

import pytest

from edgespool import forks


def in_another_thread(lock: forks.Lock) -> bool:
    """Return whether another thread can take the lock, and give it back."""
    got: list[bool] = []

    def attempt() -> None:
        got.append(lock.acquire(blocking=False))
        if got[0]:
            lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return got[0]


def test_it_is_held_by_one_thread_and_as_often_as_that_likes() -> None:
    lock = forks.Lock()
    with lock, lock:
        assert not in_another_thread(lock)
    assert in_another_thread(lock)
    with pytest.raises(RuntimeError):
        lock.release()


def test_a_condition_waits_and_is_told() -> None:
    changed, said = forks.condition(), []
    with changed:
        thread = threading.Thread(target=lambda: tell(changed, said))
        thread.start()
        assert changed.wait_for(lambda: said, 20)
        assert not changed.wait(0.001)
    thread.join()


def tell(changed: threading.Condition, said: list[str]) -> None:
    with changed:
        said.append("it")
        changed.notify_all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_in_a_child_it_is_free_and_works_and_the_parent_keeps_its_own() -> None:
    lock, changed = forks.Lock(), forks.condition()
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock, changed:
            held.set()
            go.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert lock.acquire(timeout=10)
            lock.release()
            assert in_another_thread(lock)
            test_a_condition_waits_and_is_told()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert not lock.acquire(blocking=False)
    go.set()
    thread.join()
    assert in_another_thread(lock)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_whose_own_thread_held_it_at_the_fork_gives_nothing_back() -> None:
    lock = forks.Lock()
    with lock:
        child = os.fork()
    if not child:
        os._exit(0 if in_another_thread(lock) else 1)
    assert os.waitpid(child, 0)[1] == 0
