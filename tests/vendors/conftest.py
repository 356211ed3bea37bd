"""What the vendors' tests share: a real server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgespool.testing import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector for this test alone."""
    with Collector() as made:
        yield made
