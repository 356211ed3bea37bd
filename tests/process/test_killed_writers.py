"""A writer dies at any moment: what record() returned for is delivered, and nothing that was never recorded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_kit import Program, check_ledger, check_nothing_lost, deliver_all, recorded

from edgespool.testing import Collector

Run = Callable[..., Program]
ROUNDS = 9  # of three kills each, for each level of durability
SIZE = 25
MODES: list[dict[str, Any]] = [{"mode": "single"}, {"mode": "threads"}, {"mode": "many", "size": SIZE}]


@pytest.mark.parametrize("durability", ["power", "process"])
def test_every_id_that_a_killed_writer_had_printed_is_delivered(
    run: Run, queue_path: Path, collector: Collector, durability: str
) -> None:
    dice = random.Random(durability)
    programs: list[Program] = []
    kills = 0
    for number in range(ROUNDS):
        given = {"durability": durability, "start": False}
        three = [run("writer.py", who=f"{mode['mode']}-{number}", **mode, **given) for mode in MODES]
        programs += three
        if number % 3 == 2:  # also while it starts, makes its first connection, writes its first event
            time.sleep(dice.uniform(0.0, 0.6))
        else:
            for program in three:
                program.wait_for("recorded")
        for program in dice.sample(three, 3):
            time.sleep(dice.uniform(0.0, 0.1))
            program.kill()
            kills += 1
    assert kills == 3 * ROUNDS
    told = recorded(programs)
    assert sum(map(len, told.values())) > 1000, "the writers hardly got to write"

    deliver_all(queue_path, collector)
    count = check_nothing_lost(programs, collector, in_flight=lambda who: SIZE if who.startswith("many") else 1)
    assert (collector.count(), collector.repeats()) == (count, 0)
    check_ledger(queue_path, delivered=count)
