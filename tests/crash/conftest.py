"""The crash-state explorer lives in `tools`, not in the package; these tests find it there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))


@pytest.fixture(scope="session")
def tool() -> Path:
    """The directory that `python` runs as the explorer."""
    return TOOLS / "crash"


@pytest.fixture(scope="session")
def can_trace() -> None:
    """Skip where programs cannot be traced."""
    from crash import strace

    why = strace.missing()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(autouse=True)
def _loud_again() -> Iterator[None]:
    """The explorer silences the library's logger in its own processes; tests run in ours, where others listen to it."""
    logger = logging.getLogger("edgespool")
    before = logger.disabled
    yield
    logger.disabled = before
