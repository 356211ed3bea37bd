"""AsyncClient: the Client, for asyncio. Thin: each call runs in a thread, so no flush stops the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .client import Client, CloseReport
from .event import Event
from .status import Stats

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """Records events from coroutines. The arguments and errors are those of `edgespool.Client`.

    Coroutines that record at the same time share one flush of the disk. A record whose task is cancelled may still be
    stored.
    """

    def __init__(self, url: str | None = None, *, threads: int = 8, **settings: Any) -> None:
        self._client = Client(url, **settings)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="edgespool-async")

    @property
    def client(self) -> Client:
        """The client underneath."""
        return self._client

    async def _run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        job = functools.partial(call, *args, **kwargs)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, job)
        except RuntimeError:
            return job()  # the pool ended with the client, which has its answer at once
        return await future

    async def record(self, name: str, /, **data: Any) -> str:
        """See `Client.record`."""
        return await self._run(self._client.record, name, **data)

    async def record_event(self, event: Event) -> str:
        """See `Client.record_event`."""
        return await self._run(self._client.record_event, event)

    async def record_many(self, events: Iterable[Event | tuple[str, Mapping[str, Any]]]) -> list[str]:
        """See `Client.record_many`."""
        return await self._run(self._client.record_many, events)

    async def flush(self, timeout: float = 10.0) -> bool:
        """See `Client.flush`."""
        return await self._run(self._client.flush, timeout)

    async def stats(self) -> Stats:
        """See `Client.stats`."""
        return await self._run(self._client.stats)

    async def close(self, timeout: float = 5.0) -> CloseReport:
        """See `Client.close`."""
        report = await self._run(self._client.close, timeout)
        self._pool.shutdown(wait=False)
        return report

    shutdown = close

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        # Not through the pool's own future after a cancellation: closing must happen.
        await asyncio.shield(self.close())
