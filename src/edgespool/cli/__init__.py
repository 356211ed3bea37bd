"""The commands `edgespool` and `replay-failed`: the only part of the package that prints. One module a command."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main", "replay_failed"]


def main(program: str = "edgespool") -> NoReturn:
    """Run the command `edgespool` with the program's arguments, and exit."""
    from .app import edgespool, run

    sys.exit(run(edgespool, program))


def replay_failed() -> NoReturn:
    """Run the command `replay-failed`, which is `edgespool replay`, and exit."""
    from .app import run
    from .replay import replay

    sys.exit(run(replay, "replay-failed"))
