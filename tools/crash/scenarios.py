"""The scenarios: which steps follow each other, and which of them is killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crash import steps
from crash.programs import Program

__all__ = ["CONTROLS", "KILLED", "SCENARIOS", "Kill", "Scenario"]


@dataclass(frozen=True)
class Kill:
    """A SIGKILL at the `when`-th call of this name, by the first thread that comes so far."""

    call: str
    when: int


@dataclass(frozen=True)
class Scenario:
    """What is recorded under one name. `kills` says which steps are killed, and where."""

    name: str
    about: str
    steps: Sequence[Callable[[Program], None]]
    kills: Sequence[Kill | None] = ()
    durability: str = "power"
    weight: float = 1.0  # share of the states
    damaged: bool = False  # a salvage is what must happen

    def kill(self, step: int) -> Kill | None:
        """Return where a step is killed; None: not at all."""
        return self.kills[step] if step < len(self.kills) else None


# Within the very first start. First those that have found something.
_AT_START = (
    Kill("fsync", 1), Kill("fsync", 3), Kill("fdatasync", 6), Kill("unlink", 2), Kill("fsync", 2), Kill("mkdir", 3),
    Kill("fsync", 4), Kill("fdatasync", 1), Kill("fdatasync", 2), Kill("fdatasync", 4), Kill("fdatasync", 8),
    Kill("unlink", 1),
)  # fmt: skip
# Within the writing of a failed payload file: its folder made, not flushed; the file not named; named, not flushed.
_AT_FAILED = (Kill("chmod", 1), Kill("rename", 2), Kill("fsync", 3))

SCENARIOS: dict[str, Scenario] = {
    each.name: each
    for each in (
        Scenario("fresh", "from the first system call on", (steps.fresh,)),
        Scenario("append", "one event at a time", (steps.append,)),
        Scenario("many", "batches", (steps.many,)),
        Scenario("threads", "several threads share flushes", (steps.threads,)),
        Scenario("deliver", "record and send at once", (steps.deliver,)),
        Scenario("refused", "failed payload files", (steps.refused,)),
        Scenario("replay", "failed payload files are sent again", (steps.refused_all, steps.replay)),
        Scenario("checkpoint", "the WAL goes round", (steps.checkpoint,)),
        Scenario("drain", "pages are given back", (steps.drain,), weight=0.5),
        Scenario("reopen", "opened again and again", (steps.reopen, steps.abandoned, steps.reopen)),
        Scenario("routes", "several routes", (steps.routes,)),
        Scenario("lost-reply", "an answer is lost", (steps.lost_reply,)),
        Scenario("processes", "two processes record, a third sends", (steps.processes,)),
        Scenario(
            "salvage", "a damaged file is salvaged", (steps.append_few, steps.spoil, steps.write_two), damaged=True
        ),
        Scenario("process", 'durability "process"', (steps.relaxed,), durability="process"),
    )
}


def _killed(name: str, kill: Kill, *steps: Callable[[Program], None]) -> Scenario:
    """Return a scenario whose last step but one is killed; the last finds what that left."""
    kills = (*[None] * (len(steps) - 2), kill)
    about = "a kill, a start, a power cut"
    return Scenario(f"{name} killed at {kill.call} {kill.when}", about, steps, kills, weight=0.15)


KILLED: list[Scenario] = [
    *(_killed("refused", kill, steps.write_two, steps.send_refused, steps.send_refused) for kill in _AT_FAILED),
    *(_killed("fresh", kill, steps.fresh, steps.write_two) for kill in _AT_START),
]
CONTROLS = {"without-psow": Scenario("without-psow", "", (steps.without_psow,))}
