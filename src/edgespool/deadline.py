"""Time and size limits for a whole HTTP exchange, which requests and urllib3 do not have.

Their time-out is for each piece of a reply: a server that sends a byte now and then, or one interim reply after
another, would hold the sender for ever. Here the request has the reply time-out to be sent (with urllib3 it would be
the one for connections, too short for a slow network), and then the whole reply has it; and of a reply, head and
framing included, no more than `REPLY_LIMIT` bytes is taken in.
"""

from __future__ import annotations

import http.client
import io
from time import monotonic
from typing import Any

from requests.adapters import HTTPAdapter

__all__ = ["REPLY_LIMIT", "DeadlineAdapter"]

REPLY_LIMIT = 256 * 1024


class DeadlineAdapter(HTTPAdapter):
    """The transport of requests, with a limit on whole exchanges.

    Args:
        seconds: how long a request may take to be sent.
        more: see `requests.adapters.HTTPAdapter`.
    """

    def __init__(self, seconds: float, **more: Any) -> None:
        self._seconds = seconds
        super().__init__(**more)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._limit(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        self._limit(manager)
        return manager

    def close(self) -> None:
        """Close the connections that nobody uses, here and now.

        urllib3 leaves that to a finalizer of the pool, and at the end of a program these have run before our last
        requests are made: their connections would never be closed.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()
        super().close()

    def _limit(self, manager: Any) -> None:
        """Let the manager's pools make connections of ours, whatever kind they made before."""
        pools = manager.pool_classes_by_scheme
        if not any(issubclass(pool.ConnectionCls, _Limits) for pool in pools.values()):
            manager.pool_classes_by_scheme = {scheme: self._limited(pool) for scheme, pool in pools.items()}

    def _limited(self, pool: Any) -> Any:
        kind = type("Connection", (_Limits, pool.ConnectionCls), {"seconds": self._seconds})
        return type("Pool", (pool,), {"ConnectionCls": kind})


class _Reply(http.client.HTTPResponse):
    """A reply that has to be over within the time-out that its socket has now."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Stream(self.fp.detach(), sock))


class _Limits:
    """What is added to urllib3's connections."""

    seconds: float
    response_class = _Reply

    def send(self, data: Any) -> None:
        """Send the data within the time limit; connects first, when there is no connection."""
        connection: Any = super()
        sock = getattr(self, "sock", None)
        if sock is None:
            connection.send(data)  # the head of a first request: it never has to wait
            return
        before = sock.gettimeout()
        sock.settimeout(self.seconds)  # for all of the data: of `sendall` it is the time-out as a whole
        try:
            connection.send(data)
        finally:
            sock.settimeout(before)


class _Stream(io.RawIOBase):
    """A socket's stream that ends at a moment, and at a size."""

    def __init__(self, raw: io.RawIOBase, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        seconds = sock.gettimeout()
        self._end = None if seconds is None else monotonic() + seconds
        self._room = REPLY_LIMIT

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what there is, in time."""
        if self._room <= 0:
            raise OSError("the reply is too long")
        if self._end is not None:
            left = self._end - monotonic()
            if left <= 0:
                raise TimeoutError("the reply did not come to an end in time")
            self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        self._room -= count or 0
        return count

    def fileno(self) -> int:
        """Return the socket's."""
        return self._raw.fileno()

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()
