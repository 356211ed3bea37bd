"""Every exception a caller can meet. Knows nothing of the rest of the package.

    EdgespoolError
    ├── ConfigError (ValueError)     a setting is unknown, of the wrong type or out of range
    ├── EventError (ValueError)      an event cannot be encoded; nothing was stored
    ├── FailedFileError              a failed payload file cannot be read or written
    └── QueueError
        ├── QueueFull                the disk, or the budget `max_bytes`, has no room; nothing was stored
        ├── QueueClosed              the client or queue was closed before the call
        ├── QueueVersionError        the file was written by a newer edgespool; it is left as it is
        ├── QueueUnavailable         the file cannot be opened, read or written (permissions, read-only disk)
        ├── QueueDamaged             the file is not a healthy SQLite database
        └── OutcomeUnknown           the disk failed in mid-commit; the event may or may not be stored

Foreign errors (sqlite3, OSError, requests) are translated once, where they arise; none of them leaks out.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "EdgespoolError",
    "EventError",
    "FailedFileError",
    "OutcomeUnknown",
    "QueueClosed",
    "QueueDamaged",
    "QueueError",
    "QueueFull",
    "QueueUnavailable",
    "QueueVersionError",
]


class EdgespoolError(Exception):
    """The base of all errors of this package."""


class ConfigError(EdgespoolError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class EventError(EdgespoolError, ValueError):
    """An event cannot be encoded. Nothing was stored."""


class FailedFileError(EdgespoolError):
    """A failed payload file cannot be read or written."""


class QueueError(EdgespoolError):
    """The base of all errors of the disk queue."""


class QueueFull(QueueError):
    """There is no room for the event: the disk is full, or the queue has reached `max_bytes`. Nothing was stored."""


class QueueClosed(QueueError):
    """The queue was closed. Nothing was stored."""


class QueueVersionError(QueueError):
    """The queue file was written by a newer edgespool. It is left untouched."""


class QueueUnavailable(QueueError):
    """The queue file cannot be opened, read or written: permissions, a read-only disk, a lock that never frees."""


class QueueDamaged(QueueError):
    """The queue file is not a healthy SQLite database."""


class OutcomeUnknown(QueueError):
    """The disk failed in the middle of a commit. The event may or may not be stored; its id stays the same."""
