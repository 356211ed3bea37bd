"""The commands `edgespool`, `replay-failed` and `paltabrain-sdk-download-config`. One module a command.

The only part of the package that prints.
"""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main", "paltabrain_download_config", "replay_failed"]


def main(program: str = "edgespool") -> NoReturn:
    """Run the command `edgespool` with the program's arguments, and exit."""
    from .app import edgespool, run

    sys.exit(run(edgespool, program))


def replay_failed() -> NoReturn:
    """Run the command `replay-failed`, which is `edgespool replay`, and exit."""
    from .app import run
    from .replay import replay

    sys.exit(run(replay, "replay-failed"))


def paltabrain_download_config() -> NoReturn:
    """Run the command `paltabrain-sdk-download-config` with the program's arguments, and exit."""
    from .app import run
    from .paltabrain_config import paltabrain_config

    sys.exit(run(paltabrain_config, "paltabrain-sdk-download-config"))
