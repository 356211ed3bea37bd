"""How long Atom's tracker waits after a failure: pure arithmetic, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from ...outcome import Backoff
from . import config

__all__ = ["AtomBackoff"]


@dataclass(frozen=True)
class AtomBackoff(Backoff):
    """Full jitter below `base * 2**n`, n counting retries from 0; after `rounds` of them it begins anew.

    The original puts a batch back at the end of its queue after so many retries, and starts over. Seconds.
    """

    base: float = config.RETRY_EXPO_BACKOFF_BASE
    cap: float = config.RETRY_MAX_TIME
    rounds: int = config.RETRY_MAX_COUNT

    def wait(self, attempt: int, fraction: float, after: float | None = None) -> float:
        """Return the seconds to wait after failure number `attempt` (from 1); `fraction` is random in [0, 1)."""
        return super().wait((attempt - 1) % self.rounds + 1, fraction, after)
