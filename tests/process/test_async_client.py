"""AsyncClient: many tasks record at once, are cancelled, and close; nothing that was stored is lost over it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_kit import check_ledger, environment, wait_until

from edgespool import AsyncClient, Client, Event
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


def test_it_has_the_methods_of_the_client() -> None:
    for name, _ in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.iscoroutinefunction(getattr(AsyncClient, name)), name


def test_sending_can_be_started_paused_and_asked_for(make: Make, collector: Collector) -> None:
    async def main() -> None:
        async with make(start=False) as client:
            await client.record("reading", call=1, self=2)  # names that a helper's own arguments might have
            await client.start()
            assert await client.drain(20)
            await client.pause()
            await client.record("reading")
            await client.send_now()
            assert not await client.drain()
            assert collector.count() == 1
            await client.start()
            assert await client.flush(20)

    asyncio.run(main())
    assert collector.count() == 2


BLOCKED = """
import asyncio, sys
from edgespool import AsyncClient
from edgespool.errors import QueueClosed

async def main():
    client = AsyncClient("http://127.0.0.1:9/", path=sys.argv[1], overflow="block", max_events=2, start=False)
    kept = [asyncio.ensure_future(client.record("reading", n=n)) for n in range(12)]
    while (await client.stats()).pending < 2:
        await asyncio.sleep(0.01)
    done, waiting = await asyncio.wait(kept, timeout=0.3)
    assert len(done) == 2, done
    for task in list(waiting)[:8]:
        task.cancel()
    assert (await client.stats()).pending == 2
    if sys.argv[2] == "close":
        assert (await client.close(0.5)).pending == 2
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError, QueueClosed}, ends
    print("done", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["close", "leave"])
def test_records_that_wait_for_room_keep_neither_the_others_nor_the_program(
    tmp_path: Path, queue_path: Path, how: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(queue_path), how],
        capture_output=True, text=True, timeout=30, check=False, env=environment(tmp_path),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_cancelled_flushes_hold_up_no_record(make: Make, collector: Collector) -> None:
    collector.close_port()

    async def main() -> None:
        client = make(threads=2)
        await client.record("reading")
        flushes = [asyncio.ensure_future(client.flush(60)) for _ in range(20)]
        await asyncio.sleep(0.2)
        for task in flushes[1:]:
            task.cancel()
        await asyncio.wait_for(client.record("reading"), 10)
        await asyncio.wait_for(client.stats(), 10)
        await asyncio.wait_for(client.close(0.1), 10)
        with contextlib.suppress(QueueClosed):  # or it has seen first that nobody sends any more
            assert not await asyncio.wait_for(flushes[0], 10)

    asyncio.run(main())
