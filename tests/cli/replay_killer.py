"""Kills `Replay` at every point where something changes, runs it again to its end, and prints what it did as JSON.

Called as `replay_killer.py URL DIRECTORY`. Each round is a forked child with files of its own; the child dies by
SIGKILL at its n-th chance, just before or just after a request, a write, a rename or a flush.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgespool import failed, files
from edgespool.config import Settings
from edgespool.http import HttpDestination
from edgespool.replay import Replay

left = 0


def chance() -> None:
    """Die, when it is time to."""
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        chance()
        result = function(*args, **kwargs)
        chance()
        return result

    return wrapped


def events(prefix: str) -> list[dict[str, Any]]:
    """Return the events of one file; in file a the third is poison."""
    kinds = ["good", "good", "poison" if prefix.endswith("a") else "good", "good", "good"]
    return [
        {"specversion": "1.0", "id": f"{prefix}-{n}", "source": "s", "type": kind, "data": {}}
        for n, kind in enumerate(kinds)
    ]


def replay(settings: Settings, dying: int) -> int:
    """Replay in a child that dies at its n-th chance (0: not at all), and return how the child ended."""
    global left
    child = os.fork()
    if child == 0:
        left = dying
        HttpDestination.send = deadly(HttpDestination.send)  # type: ignore[method-assign]
        for module, names in ((failed, ("rewrite", "retire", "sync_directory")), (files, ("sync_directory",))):
            for name in names:
                setattr(module, name, deadly(getattr(module, name)))
        for name in ("rename", "replace", "write"):
            setattr(os, name, deadly(getattr(os, name)))
        os.fsync = deadly(lambda fd: None)  # the kernel lives: a flush would only take time
        Replay(settings).run()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(url: str, directory: str) -> None:
    rounds = 0
    trouble: list[str] = []
    while True:
        rounds += 1
        folder = Path(directory) / str(rounds)
        (folder / "failed").mkdir(parents=True)
        for name in ("a", "b"):
            document = {"schema": 1, "format": "cloudevents", "events": events(f"{rounds}-{name}")}
            (folder / "failed" / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
        settings = Settings(path=str(folder), url=url, batch_size=4, source="s")
        status = replay(settings, rounds)
        # Whatever the moment was: what was not delivered is in a file.
        again = replay(settings, 0)
        if again != 0:
            trouble.append(f"round {rounds}: the second run ended with {again}")
        held = [each["id"] for path in (folder / "failed").glob("*.json") for each in failed.read(str(path)).events]
        retired = [path.name for path in (folder / "replayed").glob("*.json")]
        if held != [f"{rounds}-a-2"] or retired != ["b.json"]:
            trouble.append(f"round {rounds}: in the files are {held}, retired is {retired}")
        if status == 0:
            break
    print(json.dumps({"rounds": rounds, "trouble": trouble}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
