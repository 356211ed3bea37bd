"""What `debug_level` promises: the streamer's messages, seen in the console. Goes through `logging`; prints nothing.

A program that has set up logging gets the messages there, from the logger `edgespool.initialstate`. For one that has
not, a debug level of 1 or more puts a handler on the logger `edgespool`, which writes to standard error.
"""

from __future__ import annotations

import logging
import sys
import threading

__all__ = ["log", "show"]

#: The streamer's own logger; a child, so that its level can be changed without touching the rest of edgespool.
log = logging.getLogger("edgespool.initialstate")

_lock = threading.Lock()
_handler: logging.Handler | None = None


class _Console(logging.Handler):
    """Writes to what is standard error at the time, unless the program has handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if logging.getLogger().handlers:
            return
        try:
            sys.stderr.write(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - a closed stream is the business of logging
            self.handleError(record)


def show() -> None:
    """Have the messages seen from now on. Does nothing the second time."""
    global _handler
    with _lock:
        if _handler is None:
            _handler = _Console()
            logging.getLogger("edgespool").addHandler(_handler)
        if log.level == logging.NOTSET:
            log.setLevel(logging.DEBUG)
