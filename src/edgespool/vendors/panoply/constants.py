"""Numbers and names of the protocol, under the names that the original has for them. A leaf."""

from __future__ import annotations

__all__ = ["FLUSH_TIMEOUT", "MAXSIZE"]

# What the message attribute `sdk` says. The platform may read records by it, so it names the client whose wire this is.
__package_name__ = "panoply-python-sdk"
__version__ = "1.6.3"

MAXSIZE = 250 * 1024  # bytes of records in one message; SQS takes 256 KiB, the attributes included
FLUSH_TIMEOUT = 2.0  # seconds that a record waits for others, at most
