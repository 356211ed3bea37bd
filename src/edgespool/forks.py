"""Locks that a forked child finds free: the thread that held one may not be there. A leaf; knows the process alone.

A lock of `threading` that some thread of the parent held at the moment of a fork is held in the child for ever. What
such a lock guards must be of use half-way done, for so the child may find it.
"""

from __future__ import annotations

import os
import threading
from typing import Any, cast

__all__ = ["Lock", "condition"]


class Lock:
    """A reentrant lock, for use with `with` or in a `threading.Condition`; in a forked child it begins anew, unheld.

    Reentrant, so that a signal handler may come in while its own thread holds it.
    """

    def __init__(self) -> None:
        self._maker = os.getpid()
        self._of = {self._maker: threading.RLock()}  # by process; there is one, but for a moment after a fork

    def _mine(self) -> Any:
        pid = os.getpid()
        found = self._of.get(pid)
        return found if found is not None else self._anew(pid)

    def _anew(self, pid: int) -> Any:
        found = self._of.setdefault(pid, threading.RLock())  # one step: of two threads that come first, both get one
        for other in list(self._of):
            if other != pid:  # else a later process that is given this number would find it held
                self._of.pop(other, None)
        return found

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, as `threading.RLock.acquire`: seconds to wait at most; return whether it was taken."""
        return bool(self._mine().acquire(blocking, timeout))

    def release(self) -> None:
        """Give it back. In a child that was forked while its thread held the lock there is nothing to give back.

        Raises:
            RuntimeError: this thread does not hold it, and no fork is to blame.
        """
        held = self._mine()
        if held._is_owned() or os.getpid() == self._maker:
            held.release()

    def __enter__(self) -> bool:
        return bool(self._mine().acquire())

    def __exit__(self, *exc: object) -> None:
        self.release()

    # --- what threading.Condition asks of a lock that can be held more than once ------------------------------------

    def _is_owned(self) -> bool:
        return bool(self._mine()._is_owned())

    def _release_save(self) -> Any:
        return self._mine()._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._mine()._acquire_restore(state)


def condition() -> threading.Condition:
    """Return a condition on such a lock."""
    return threading.Condition(cast("Any", Lock()))
