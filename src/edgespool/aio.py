"""AsyncClient: the Client, for asyncio. Thin: each call runs in a thread, so no flush stops the event loop."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from .client import Client, CloseReport
from .event import Event
from .status import Stats

__all__ = ["AsyncClient"]

T = TypeVar("T")
_NAME = "edgespool-async"


def _do(call: Callable[[], T], future: Future[T]) -> None:
    """Make the call, unless nobody waits for it any more, and put into `future` what came of it."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
        future.set_exception(error)


def _alone(call: Callable[[], T]) -> Future[T]:
    """Make the call in a thread of its own: it may wait, and must not wait for others that do."""
    future: Future[T] = Future()
    threading.Thread(target=_do, args=(call, future), name=_NAME, daemon=True).start()
    return future


class _Threads:
    """Up to so many threads that make calls in the order in which they come.

    They are daemon threads: those of an executor would be waited for at the end of the program, and a record that waits
    for room (overflow "block") would keep it from ending.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"threads: at least 1 is needed, not {most!r}")
        self._most = most
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        self._idle = threading.Semaphore(0)
        self._ended = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have the call made; raises RuntimeError after `end`."""
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError("the threads have ended")
            self._jobs.put(functools.partial(_do, call, future))
            if not self._idle.acquire(blocking=False) and self._count < self._most:
                self._count += 1
                threading.Thread(target=self._work, name=_NAME, daemon=True).start()
        return future

    def end(self) -> None:
        """Let the threads end once they have made the calls that were submitted; returns at once."""
        with self._lock:
            if not self._ended:
                self._ended = True
                for _ in range(self._count):
                    self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it holds is not to live until the next one comes
            self._idle.release()


class AsyncClient:
    """Records events from coroutines. The methods, arguments and errors are those of `edgespool.Client`.

    Coroutines that record at the same time share one flush of the disk. A call goes on when its task is cancelled: a
    record may still be stored.

    Args:
        url, settings: as of `Client`.
        threads: how many may record at the same time. All other calls have a thread each.
    """

    def __init__(self, url: str | None = None, *, threads: int = 8, **settings: Any) -> None:
        self._recorders = _Threads(threads)
        self._client = Client(url, **settings)

    @property
    def client(self) -> Client:
        """The client underneath."""
        return self._client

    async def _record(self, call: Callable[[], T]) -> T:
        try:
            future = self._recorders.submit(call)
        except RuntimeError:
            return call()  # the threads ended with the client, which has its answer at once
        return await asyncio.wrap_future(future)

    async def record(self, name: str, /, **data: Any) -> str:
        """See `Client.record`."""
        return await self._record(functools.partial(self._client.record, name, **data))

    async def record_event(self, event: Event) -> str:
        """See `Client.record_event`."""
        return await self._record(functools.partial(self._client.record_event, event))

    async def record_many(self, events: Iterable[Event | tuple[str, Mapping[str, Any]]]) -> list[str]:
        """See `Client.record_many`."""
        return await self._record(functools.partial(self._client.record_many, events))

    async def start(self) -> None:
        """See `Client.start`."""
        await asyncio.wrap_future(_alone(self._client.start))

    async def pause(self) -> None:
        """See `Client.pause`."""
        await asyncio.wrap_future(_alone(self._client.pause))

    async def send_now(self) -> None:
        """See `Client.send_now`."""
        await asyncio.wrap_future(_alone(self._client.send_now))

    async def flush(self, timeout: float = 10.0) -> bool:
        """See `Client.flush`."""
        return await asyncio.wrap_future(_alone(functools.partial(self._client.flush, timeout)))

    async def drain(self, timeout: float = 0.0) -> bool:
        """See `Client.drain`."""
        return await asyncio.wrap_future(_alone(functools.partial(self._client.drain, timeout)))

    async def stats(self) -> Stats:
        """See `Client.stats`."""
        return await asyncio.wrap_future(_alone(self._client.stats))

    async def close(self, timeout: float = 5.0) -> CloseReport:
        """See `Client.close`. What waits in other calls, for room or for a delivery, ends with it."""
        return await asyncio.wrap_future(_alone(functools.partial(self._close, timeout)))

    def _close(self, timeout: float) -> CloseReport:
        report = self._client.close(timeout)
        self._recorders.end()  # here, not in the coroutine, which may be cancelled
        return report

    shutdown = close

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        # Not through the pool's own future after a cancellation: closing must happen.
        await asyncio.shield(self.close())
