"""Messages seen in the console by a program that has not set up `logging`, as with the originals.

A library says nothing by itself; but these front ends stand in scripts that have never heard of edgespool, and there a
wrong key or a full disk must not go unseen. A handler on the logger writes to standard error, for as long as the root
logger has none: a program that has set up logging gets the messages there, and once.
"""

from __future__ import annotations

import logging
import sys

from .. import forks

__all__ = ["hide", "show"]

_lock = forks.Lock()
_handlers: dict[str, logging.Handler] = {}


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


def show(level: int = logging.WARNING, logger: str = "edgespool") -> None:
    """Have the logger's messages of at least that level seen from now on; a level that was lower already stays."""
    with _lock:
        handler = _handlers.get(logger)
        if handler is None:
            handler = _handlers[logger] = _Console(level)
            logging.getLogger(logger).addHandler(handler)
        handler.setLevel(min(level, handler.level))


def hide() -> None:
    """End what `show` began."""
    with _lock:
        for name, handler in _handlers.items():
            logging.getLogger(name).removeHandler(handler)
        _handlers.clear()
