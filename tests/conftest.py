"""Settings that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from edgespool.testing import FakeClock

# The same examples at every run, few enough for a small machine. EDGESPOOL_TEST_LONG=1 looks further, at random; a
# failure it finds is printed with the way to repeat it.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "short", max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile(
    "long", max_examples=1000, stateful_step_count=100, deadline=None, print_blob=True, suppress_health_check=_SLOW
)
settings.load_profile("long" if os.environ.get("EDGESPOOL_TEST_LONG") else "short")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves only when the test moves it."""
    return FakeClock()
