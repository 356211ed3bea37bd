"""persist-queue's own methods, spoken on top of append, lease and ack.

Whoever holds a DiskQueue as a `persistqueue.SQLiteAckQueue` gets what that class promises, without its traps: an item
with a key `"pqid"` is no id, a lease is no row on the disk, an unknown id is not acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persistqueue import SQLiteAckQueue
from persistqueue.exceptions import Empty

from ..errors import QueueError
from ..event import Batch, Record, StoredEvent, new_id
from ..interfaces import Ledger

__all__ = ["PersistQueueMethods"]


class PersistQueueMethods(SQLiteAckQueue):
    """The methods that persist-queue's users call. The subclass brings the queue itself."""

    _taken: dict[int, tuple[Any, Batch]]  # row id -> the decoded item and its lease, for what `get` handed out

    def append(self, records: Sequence[Record]) -> None:
        """See `edgespool.interfaces.Queue`."""
        raise NotImplementedError

    def settle(self, batch: Batch, ledger: str) -> int:
        """Acknowledge a leased batch."""
        raise NotImplementedError

    def requeue(self, batch: Batch) -> None:
        """See `edgespool.interfaces.Queue`."""
        raise NotImplementedError

    def lease_one(self, rowid: int | None) -> tuple[str, StoredEvent] | None:
        """Lease one event: the next, or the one with this row id."""
        raise NotImplementedError

    def ledger(self) -> Ledger:
        """See `edgespool.interfaces.Queue`."""
        raise NotImplementedError

    def stamp(self) -> tuple[float, int]:
        """Return the time for a new item: seconds since 1970, and microseconds of the boot clock."""
        raise NotImplementedError

    def put(self, item: Any) -> None:
        """Store an item, encoded by the serializer, durably."""
        self.append([Record(self._serializer.dumps(item), new_id(), *self.stamp())])
        self.put_event.set()

    def _pop(  # type: ignore[override]
        self, rowid: int | None = None, next_in_order: bool = False, raw: bool = False
    ) -> Any:
        if next_in_order:
            raise QueueError("get(next_in_order=True) is not served: events are handed out in order anyway")
        leased = self.lease_one(rowid)
        if leased is None:
            return None
        route, event = leased
        item = self._serializer.loads(event.payload)
        self._taken[event.rowid] = (item, Batch(route, (event,)))
        return {"pqid": event.rowid, "data": item, "timestamp": event.time} if raw else item

    def _take_back(self, item: Any, rowid: int | None) -> tuple[int, Batch]:
        if (item is None) == (rowid is None):
            raise ValueError("give an item or an id, not both")
        if rowid is None:
            for key, (taken, batch) in self._taken.items():
                if taken is item:
                    return key, batch
            if isinstance(item, dict) and set(item) == {"pqid", "data", "timestamp"}:  # what get(raw=True) returned
                rowid = item["pqid"]
        if rowid not in self._taken:
            raise ValueError("this item was not got from this queue, or was settled before")
        return rowid, self._taken[rowid][1]

    def ack(self, item: Any = None, id: int | None = None) -> int:
        """Remove an item that `get` returned; return its id."""
        key, batch = self._take_back(item, id)
        self.settle(batch, "delivered")
        del self._taken[key]
        return key

    def ack_failed(self, item: Any = None, id: int | None = None) -> int:
        """Remove an item that `get` returned and count it as dropped; return its id."""
        key, batch = self._take_back(item, id)
        self.settle(batch, "dropped:ack_failed")
        del self._taken[key]
        return key

    def nack(self, item: Any = None, id: int | None = None) -> int:
        """Put an item that `get` returned back; return its id."""
        key, batch = self._take_back(item, id)
        del self._taken[key]
        self.requeue(batch)
        return key

    def get_nowait(self, id: int | None = None, raw: bool = False) -> Any:
        """Return the next item at once; raises `persistqueue.Empty`."""
        item = self._pop(rowid=id, raw=raw)
        if item is None:
            raise Empty
        return item

    def update(self, item: Any, id: int | None = None) -> int:
        """Stored events are never changed: raises QueueError."""
        raise QueueError("a stored event cannot be changed")

    def clear_acked_data(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: what is acknowledged is gone."""

    def resume_unack_tasks(self) -> None:
        """Nothing to do: leases live in memory and end with the process."""

    def unack_count(self) -> int:
        """Return how many items were got and not yet settled."""
        return len(self._taken)

    def _count(self) -> int:
        return self.ledger().pending

    @property
    def size(self) -> int:
        """How many items wait, leased ones included."""
        return self.ledger().pending

    def active_size(self) -> int:
        """How many items wait, leased ones included."""
        return self.size

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self.size == 0

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True  # an empty queue is still a queue
