"""The device's clocks. A leaf.

Three readings, each for one purpose:

* `time()`: the wall clock, for the time written into events, never for waits: it jumps on a board without a clock chip.
* `monotonic()`: seconds since boot, including suspend where the system can tell; for waits, ages and retries.
* `boot_id`: which boot the monotonic reading belongs to.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["SystemClock"]

_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"  # Linux, random(4)

_COUNTS_SUSPEND = hasattr(time, "CLOCK_BOOTTIME")  # asked here: in the class, `time` is its method


class SystemClock:
    """The real clocks of this machine."""

    def __init__(self) -> None:
        self.boot_id = _read_boot_id()

    def time(self) -> float:
        """Return the wall clock, seconds since 1970."""
        return time.time()

    if _COUNTS_SUSPEND:
        # CLOCK_MONOTONIC stands still while the machine sleeps; a laptop's events would look too young.
        def monotonic(self) -> float:
            """Return seconds since boot; never goes back, not touched by clock jumps."""
            return time.clock_gettime(time.CLOCK_BOOTTIME)
    else:  # pragma: no cover - macOS and Windows

        def monotonic(self) -> float:
            """Return seconds since some fixed moment; never goes back, not touched by clock jumps."""
            return time.monotonic()

    def synchronized(self) -> bool:
        """Return whether the wall clock is known to be right: the kernel says that NTP keeps it (Linux).

        Somebody setting the clock by hand ends that state. Elsewhere, and where the kernel will not say: False.
        """
        return _ntp_keeps_time()


_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized; below: it is; -1: the kernel will not say (seccomp)


@lru_cache(1)  # to look the call up costs ten times as much as to make it
def _adjtimex() -> tuple[Callable[[Any], int], Callable[[int], Any]]:
    import ctypes  # an interpreter may come without it

    return ctypes.CDLL(None).adjtimex, ctypes.create_string_buffer


def _ntp_keeps_time() -> bool:
    if not sys.platform.startswith("linux"):  # pragma: no cover
        return False
    try:
        adjtimex, buffer = _adjtimex()
        # struct timex, zeroed (modes = 0: only ask); 208 bytes on 64-bit machines, less on others.
        state = adjtimex(buffer(512))
    except (ImportError, OSError, AttributeError):
        return False
    return bool(0 <= state < _TIME_ERROR)


def _read_boot_id() -> str:
    try:
        with open(_BOOT_ID_FILE, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        # Elsewhere the boot is told by when it began, to ten seconds. Should this come out different within one boot,
        # times and ages of events are only taken for less certain than they are.
        began = int((time.time() - time.monotonic()) // 10)
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{began}:{os.name}"))
