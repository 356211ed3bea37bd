"""The crash-state explorer lives in `tools`, not in the package; these tests find it there."""

from __future__ import annotations

import sys
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
