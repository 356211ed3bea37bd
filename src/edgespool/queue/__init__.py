"""The disk queue: append, lease, ack. The only part of the package that touches SQLite.

    locks     who may write, who may send
    commit    many threads, one flush
    schema    tables, statements, pragmas
    store     the files: open, transact, reopen, flush
    space     the disk budget and the ballast
    salvage   a damaged file: set aside whole, every sound row read back
    persist   persist-queue's own methods
    disk      DiskQueue
"""

from .disk import DiskQueue
from .locks import SenderLock

__all__ = ["DiskQueue", "SenderLock"]
