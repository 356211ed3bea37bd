"""The SDK's defaults, under the names of the original's module `config`. A leaf: values only."""

from __future__ import annotations

__all__ = [
    "ATOM_ENDPOINT",
    "ATOM_URL",
    "BACKLOG_SIZE",
    "BATCH_BYTES_SIZE",
    "BATCH_POOL_SIZE",
    "BATCH_SIZE",
    "BATCH_WORKER_COUNT",
    "FLUSH_INTERVAL",
    "RETRY_EXPO_BACKOFF_BASE",
    "RETRY_MAX_COUNT",
    "RETRY_MAX_TIME",
    "SDK_TYPE",
    "SDK_VERSION",
]


class _Default(int):
    """A number that can be told from an equal one of the user's."""


SDK_TYPE = "python"
SDK_VERSION = "1.5.1"

ATOM_ENDPOINT = "http://track.atom-data.io/"
ATOM_URL = ATOM_ENDPOINT  # the README calls it by both names

BATCH_SIZE = 64  # events in a request, at most
BATCH_BYTES_SIZE = 64 * 1024  # bytes in a request, at most
FLUSH_INTERVAL = 10000  # milliseconds

BATCH_WORKER_COUNT = 1
BATCH_POOL_SIZE = 1

#: Events of a stream in the backlog. The number of the original, whose backlog is in memory. Ours is on the disk: this
#: very object means "as many as the disk budget holds"; a number of the user's own is kept to.
BACKLOG_SIZE: int = _Default(500)

RETRY_MAX_TIME = 1800  # seconds
RETRY_MAX_COUNT = 12
RETRY_EXPO_BACKOFF_BASE = 3  # seconds
