"""AsyncClient: many tasks record at once, are cancelled, and close; nothing that was stored is lost over it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_kit import check_ledger, wait_until

from edgespool import AsyncClient, Event
from edgespool.errors import EventError, QueueClosed
from edgespool.testing import Collector

Make = Callable[..., AsyncClient]


@pytest.fixture
def make(queue_path: Path, collector: Collector) -> Make:
    def make(**settings: Any) -> AsyncClient:
        return AsyncClient(collector.url, path=queue_path, source="pi", flush_interval=0.02, **settings)

    return make


def test_many_tasks_record_at_once(make: Make, queue_path: Path, collector: Collector) -> None:
    async def main() -> list[str]:
        async with make() as client:
            ids = await asyncio.gather(*(client.record("reading", n=n) for n in range(300)))
            ids += await client.record_many([("reading", {"n": 300 + n}) for n in range(50)])
            ids.append(await client.record_event(Event("reading", {"n": 350})))
            assert await client.flush(20)
            stats = await client.stats()
            assert (stats.accepted, stats.delivered, stats.pending) == (351, 351, 0)
            return ids

    ids = asyncio.run(main())
    assert sorted(collector.ids()) == sorted(ids)
    assert collector.repeats() == 0
    check_ledger(queue_path, delivered=351)


def test_one_task_that_awaits_each_record_keeps_its_order(make: Make, collector: Collector) -> None:
    async def main() -> list[str]:
        async with make() as client:
            return [await client.record("reading", n=n) for n in range(100)]

    assert asyncio.run(main()) == collector.ids()


def test_the_event_loop_runs_on_while_records_wait_for_the_disk(make: Make) -> None:
    async def main() -> int:
        ticks = 0
        async with make() as client:
            lock = client.client._queue._store.gate  # a disk that takes its time
            lock.acquire()
            task = asyncio.ensure_future(client.record("reading"))
            for _ in range(10):
                await asyncio.sleep(0.01)
                ticks += not task.done()
            lock.release()
            await task
        return ticks

    assert asyncio.run(main()) == 10


def test_errors_come_through(make: Make) -> None:
    async def main() -> None:
        async with make() as client:
            with pytest.raises(EventError, match="value"):
                await client.record("reading", value=float("nan"))
            with pytest.raises(EventError):
                await client.record_many([("a", {}), ("", {})])

    asyncio.run(main())


def test_cancelled_tasks_leave_the_client_sound(make: Make, queue_path: Path, collector: Collector) -> None:
    async def main() -> tuple[list[str], int]:
        kept: list[str] = []
        async with make(threads=2) as client:
            for round in range(10):
                tasks = [asyncio.ensure_future(client.record("reading", n=n)) for n in range(20)]
                await asyncio.sleep(0.001 * round)
                for task in tasks[::2]:
                    task.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, str):
                        kept.append(result)
                    else:
                        assert isinstance(result, asyncio.CancelledError)
            kept.append(await client.record("last"))
            assert await client.flush(20)
            return kept, (await client.stats()).accepted

    kept, accepted = asyncio.run(main())
    assert set(kept) <= set(collector.ids()), "an event whose record() returned is missing"
    assert len(kept) >= 101
    assert collector.count() == accepted
    check_ledger(queue_path, delivered=accepted)


def test_close_delivers_what_is_left_and_can_be_called_again(make: Make, collector: Collector) -> None:
    async def main() -> None:
        client = make()
        await client.record("reading")
        report = await client.close(20)
        assert (report.delivered, report.pending) == (1, 0)
        assert await client.close() == report
        assert await client.shutdown() == report
        with pytest.raises(QueueClosed):
            await client.record("late")
        with pytest.raises(QueueClosed):
            await client.flush()

    asyncio.run(main())
    assert collector.count() == 1


def test_a_client_that_was_closed_inside_its_with_statement_is_no_error(make: Make) -> None:
    async def main() -> None:
        async with make() as client:
            await client.record("reading")
            await client.close(20)

    asyncio.run(main())


def test_a_task_that_is_cancelled_inside_its_with_statement_still_closes(make: Make, collector: Collector) -> None:
    kept: list[AsyncClient] = []

    async def work() -> None:
        async with make() as client:
            kept.append(client)
            await client.record("reading")
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.ensure_future(work())
        while not collector.count():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    with pytest.raises(QueueClosed):
        kept[0].client.record("late")


def test_close_is_bounded_and_no_thread_stays(make: Make, collector: Collector) -> None:
    collector.close_port()

    async def main() -> float:
        client = make()
        await client.record("reading")
        began = time.monotonic()
        report = await client.close(0.3)
        assert report.pending == 1
        return time.monotonic() - began

    assert asyncio.run(main()) < 0.3 + 2
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("edgespool-")], "the threads' end")


def test_two_event_loops_one_after_the_other_use_one_client(make: Make, collector: Collector) -> None:
    client = make()
    ids = [asyncio.run(client.record("reading", n=n)) for n in range(3)]
    asyncio.run(client.close(20))
    assert collector.ids() == ids
