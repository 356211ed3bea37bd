"""What `debug_level` promises: the streamer's messages, seen in the console. Goes through `logging`; prints nothing.

A program that has set up logging gets the messages there, from the logger `edgespool.initialstate`. For one that has
not, a handler on the logger `edgespool` writes them to standard error: from debug level 1 on, and at any level once a
reading could not be stored, since that must not go unseen.
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


def show(level: int = logging.DEBUG) -> None:
    """Have messages of at least that level seen from now on; a level that was lower already stays."""
    global _handler
    with _lock:
        if _handler is None:
            _handler = _Console(level)
            logging.getLogger("edgespool").addHandler(_handler)
        _handler.setLevel(min(level, _handler.level))
        if level == logging.DEBUG and log.level == logging.NOTSET:
            log.setLevel(level)
