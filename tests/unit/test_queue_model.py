"""The disk queue against a model of it in plain Python, step by step, through crashes, reboots and a full budget.

The model knows what was accepted, what is leased and what ought to be left; after each step the table, its checksums
and the ledger must say the same. Its time is the true time, which the device's clock may not know.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from unit_kit import MIB, checksum, copy_files, table

from edgespool.errors import QueueFull
from edgespool.event import Batch, Record
from edgespool.queue import DiskQueue
from edgespool.queue.schema import SEQUENCE_MASK
from edgespool.testing import FakeClock

ROUTES = ["", "kitchen", "held", "ü"]
BEGIN = 1_700_000_000.0  # the true time at the start


@dataclass
class Item:
    id: str
    route: str
    payload: bytes
    noted: float  # what the device's clock said
    true_time: float  # when it was
    boot: str
    given: bool  # the time was given by the user
    leased: bool = False


class QueueModel(RuleBasedStateMachine):
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="edgespool-model-"))
        self.stays = count()
        self.names = count(1)
        self.items: dict[int, Item] = {}  # what ought to be in the table, by sequence number
        self.accepted = 0
        self.counts: Counter[str] = Counter()
        self.now = 0.0  # true seconds since the start
        self.clock = FakeClock(BEGIN)
        self.queue: DiskQueue | None = None

    @initialize(durability=st.sampled_from(["power", "process"]), overflow=st.sampled_from(["reject", "drop_oldest", "drop_newest"]))  # fmt: skip # noqa: E501
    def begin(self, durability: str, overflow: str) -> None:
        self.settings = {"durability": durability, "overflow": overflow, "max_bytes": MIB, "clock": self.clock}
        self.path = self.top / "queue0"
        self.queue = DiskQueue(self.path, **self.settings)

    def teardown(self) -> None:
        if self.queue is not None:
            self.queue.close()
        shutil.rmtree(self.top)

    # Recording

    def make(self, route: str, size: int, given: bool) -> tuple[Record, Item]:
        id = f"event-{next(self.names)}"
        payload = id.encode() + b"." * size
        noted = 12_345.5 if given else self.clock.time()
        mono = int(self.clock.monotonic() * 1_000_000)
        item = Item(id, route, payload, noted, BEGIN + self.now, self.clock.boot_id, given)
        return Record(payload, id, noted, mono, route, given), item

    def store(self, queue: DiskQueue, made: list[tuple[Record, Item]]) -> None:
        try:
            queue.append([record for record, _ in made])
        except QueueFull:
            assert self.settings["overflow"] == "reject"
            return
        dropped = queue.ledger().dropped.get("overflow", 0) - self.counts["dropped:overflow"]
        if dropped:
            assert self.settings["overflow"] != "reject"
            self.counts["dropped:overflow"] += dropped
        if dropped and self.settings["overflow"] == "drop_newest":
            assert dropped == len(made)
            self.accepted += dropped
            return
        for seq in sorted(self.items)[:dropped]:  # drop_oldest: exactly the first that were recorded
            del self.items[seq]
        for _, item in made:
            self.accepted += 1
            self.items[self.accepted] = item

    @rule(route=st.sampled_from(ROUTES), size=st.integers(0, 300), given=st.booleans())
    def append_one(self, route: str, size: int, given: bool) -> None:
        self.store(self.queue, [self.make(route, size, given)])

    @rule(made=st.lists(st.tuples(st.sampled_from(ROUTES), st.integers(0, 300), st.booleans()), max_size=12))
    def append_many(self, made: list[tuple[str, int, bool]]) -> None:
        self.store(self.queue, [self.make(*each) for each in made])

    @rule(route=st.sampled_from(ROUTES), times=st.integers(1, 4))
    def append_large(self, route: str, times: int) -> None:
        for _ in range(times):
            self.store(self.queue, [self.make(route, 90_000, False)])

    @rule(route=st.sampled_from(ROUTES), number=st.integers(1, 3))
    def append_from_another_process(self, route: str, number: int) -> None:
        other = DiskQueue(self.path, **self.settings)
        with contextlib.closing(other):
            self.store(other, [self.make(route, 50, False) for _ in range(number)])

    # Leasing

    @rule(
        target=batches,
        limit=st.integers(1, 8),
        max_bytes=st.sampled_from([1, 300, 1000, MIB]),
        exclude=st.sets(st.sampled_from(ROUTES), max_size=3),
        only=st.none() | st.sampled_from(ROUTES),
    )
    def lease(self, limit: int, max_bytes: int, exclude: set[str], only: str | None):  # type: ignore[no-untyped-def]
        batch = self.take(limit, max_bytes, exclude, only)
        return multiple() if batch is None else batch

    def take(self, limit: int, max_bytes: int, exclude: set[str], only: str | None = None) -> Batch | None:
        """Lease, and see that what comes is what should."""
        waiting = [
            (seq, item)
            for seq, item in sorted(self.items.items())
            if not item.leased and item.route not in exclude and only in (None, item.route)
        ]
        batch = self.queue.lease(limit, max_bytes, exclude, only)
        if not waiting:
            assert batch is None
            return None
        expected, size = [], 0
        for seq, item in waiting:
            if item.route != waiting[0][1].route:
                continue
            size += len(item.payload)
            if expected and (len(expected) >= limit or size > max_bytes):
                break
            expected.append((seq, item))
        assert batch is not None
        assert batch.route == waiting[0][1].route
        assert [(e.rowid & SEQUENCE_MASK, e.id, e.payload) for e in batch.events] == [
            (seq, item.id, item.payload) for seq, item in expected
        ]
        for event, (_, item) in zip(batch.events, expected, strict=True):
            item.leased = True
            if event.corrected:
                assert not item.given
                assert abs(event.time - item.true_time) < 0.01
            else:
                assert event.time == item.noted
                if self.clock.is_synchronized and not item.given and item.boot == self.clock.boot_id:
                    assert abs(item.noted - item.true_time) < 1.51
        return batch

    def leased(self, batch: Batch) -> list[int]:
        """Return the sequence numbers of the batch that are leased now; a batch may be an old one."""
        numbers = [event.rowid & SEQUENCE_MASK for event in batch.events]
        return [seq for seq in numbers if seq in self.items and self.items[seq].leased]

    def settle(self, batch: Batch, ledger: str) -> None:
        numbers = self.leased(batch)
        assert self.queue.ack(batch, ledger) == len(numbers)
        for seq in numbers:
            del self.items[seq]
        self.counts[ledger] += len(numbers)

    def put_back(self, batch: Batch) -> None:
        numbers = self.leased(batch)
        self.queue.requeue(batch)
        for seq in numbers:
            self.items[seq].leased = False

    @rule(batch=batches, ledger=st.sampled_from(["delivered", "delivered", "failed", "dropped:purged"]))
    def ack(self, batch: Batch, ledger: str) -> None:
        self.settle(batch, ledger)

    @rule(limit=st.integers(1, 20), exclude=st.sets(st.sampled_from(ROUTES), max_size=2), times=st.integers(1, 5))
    def deliver(self, limit: int, exclude: set[str], times: int) -> None:
        while times and (batch := self.take(limit, MIB, exclude)) is not None:
            self.settle(batch, "delivered")
            times -= 1

    @rule(batch=batches)
    def requeue(self, batch: Batch) -> None:
        self.put_back(batch)

    @rule(batch=batches, share=st.floats(0, 1))
    def ack_a_part_and_requeue_the_rest(self, batch: Batch, share: float) -> None:
        first, rest = batch.cut(round(len(batch) * share))
        self.put_back(rest)
        self.settle(first, "delivered")

    # Time, limits, housekeeping

    @rule(seconds=st.sampled_from([0.5, 30.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-1e9, -5.0, 0.4, 3600.0, 1e9]))
    def the_clock_is_turned(self, seconds: float) -> None:
        self.clock.is_synchronized = False
        self.clock.jump_wall(seconds)

    @rule()
    def the_clock_is_put_right(self) -> None:
        self.clock.jump_wall(BEGIN + self.now - self.clock.time())
        self.clock.is_synchronized = True

    @rule(max_age=st.sampled_from([60.0, 7200.0, 1e5]), limit=st.sampled_from([2, 1000]))
    def expire(self, max_age: float, limit: int) -> None:
        dropped = self.queue.expire(max_age, limit)
        assert dropped <= limit
        left = {row[0] & SEQUENCE_MASK for row in table(self.queue)}
        gone = [seq for seq in self.items if seq not in left]
        assert len(gone) == dropped
        for seq in gone:
            assert BEGIN + self.now - self.items[seq].true_time > max_age - 0.01
            del self.items[seq]
        self.counts["dropped:max_age"] += dropped
        if dropped < limit:  # then nothing is left that is certainly too old: at the head of its route, of this boot
            heads = {item.route: item for _, item in sorted(self.items.items(), reverse=True)}
            for item in heads.values():
                if item.boot == self.clock.boot_id:
                    assert BEGIN + self.now - item.true_time <= max_age + 0.01

    @rule(idle=st.booleans(), a_minute_later=st.booleans())
    def maintain(self, idle: bool, a_minute_later: bool) -> None:
        if a_minute_later:
            self.queue._last_touch -= 61
        self.queue.maintain(idle)

    # Ends and beginnings

    def open_again(self) -> None:
        self.queue = DiskQueue(self.path, **self.settings)
        for item in self.items.values():
            item.leased = False

    @rule()
    def close_and_open(self) -> None:
        self.queue.close()
        self.open_again()

    @rule(reboot=st.booleans(), off=st.sampled_from([0.0, 100.0, 1e6]))
    def crash(self, reboot: bool, off: float) -> None:
        """The process dies: what stands in its files is all there is."""
        left = copy_files(self.path, self.top / f"queue{next(self.stays) + 1}")
        self.queue.close()
        shutil.rmtree(self.path)
        self.path = left
        if reboot:
            self.now += off
            self.clock.reboot()
            self.clock.is_synchronized = False
        self.open_again()

    # What holds at every moment

    @invariant()
    def the_table_holds_what_was_accepted_and_not_settled(self) -> None:
        if self.queue is None:
            return
        rows = table(self.queue)
        assert all(row[6] == checksum(row) for row in rows)
        assert self.queue.count_rows() == len(rows)
        rows.sort(key=lambda row: row[0] & SEQUENCE_MASK)
        assert [(row[0] & SEQUENCE_MASK, row[3], row[1]) for row in rows] == [
            (seq, item.id, item.payload) for seq, item in sorted(self.items.items())
        ]
        assert self.queue.oldest_sequence() == min(self.items, default=None)

    @invariant()
    def the_ledger_counts_what_happened(self) -> None:
        if self.queue is None:
            return
        ledger = self.queue.ledger()
        assert ledger.balanced
        assert (ledger.accepted, ledger.pending) == (self.accepted, len(self.items))
        assert (ledger.delivered, ledger.failed) == (self.counts["delivered"], self.counts["failed"])
        dropped = {name[8:]: number for name, number in self.counts.items() if name[:7] == "dropped" and number}
        assert ledger.dropped == dropped

    @invariant()
    def the_budget_is_kept(self) -> None:
        if self.queue is not None:
            assert self.queue._store.read(self.queue._budget.room) > -64 * 1024


TestQueueModel = QueueModel.TestCase
if settings().max_examples <= 100:  # the short profile
    TestQueueModel.settings = settings(max_examples=80, stateful_step_count=40)
