"""A sender dies in the middle of deliveries: nothing is lost, and only what was in flight is sent again."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from process_kit import Program, check_ledger, deliver_all, wait_until

from edgespool import Client
from edgespool.testing import Collector

Run = Callable[..., Program]
KILLS, BATCH, EVENTS = 12, 20, 3000


def senders(collector: Collector) -> set[str]:
    """Return the process ids of those whose requests have come in."""
    return {request.headers.get("X-Pid", "") for request in collector.requests()}


def test_a_killed_sender_loses_nothing_and_repeats_only_the_batch_in_flight(
    run: Run, queue_path: Path, collector: Collector
) -> None:
    dice = random.Random(6)
    with Client(collector.url, path=queue_path, source="pi", start=False) as client:
        ids = client.record_many([("reading", {"n": n}) for n in range(EVENTS)])
    collector.set_fault(latency=0.004)  # so that kills hit a request, its reply, and what comes between two
    for _ in range(KILLS):
        sender = run("writer.py", count=0, batch_size=BATCH)
        # Its own: what the last one had in flight may still come in.
        wait_until(lambda pid=str(sender.pid): pid in senders(collector), "a delivery")
        time.sleep(dice.uniform(0.0, 0.06))
        sender.kill()
    assert collector.count() < EVENTS, "the senders were killed too late"
    collector.heal()
    deliver_all(queue_path, collector)

    assert collector.ids() == ids, "something was lost, or came out of order"
    sent: dict[str, list[list[str]]] = defaultdict(list)
    for request in collector.requests():
        sent[request.headers.get("X-Pid", "")].append([event["id"] for event in json.loads(request.body or b"[]")])
    assert len(sent) == KILLS + 1
    seen: set[str] = set()
    for batches in sent.values():
        for batch in batches:
            assert not seen.intersection(batch), "a batch was sent again although its sender went on to the next"
            assert len(batch) <= BATCH or batches is list(sent.values())[-1]
        # The last batch of a killed sender was in flight: the next may send it again, whole or cut differently.
        seen.update(id for batch in batches[:-1] for id in batch)
    assert collector.repeats() <= KILLS * BATCH
    check_ledger(queue_path, delivered=EVENTS)
