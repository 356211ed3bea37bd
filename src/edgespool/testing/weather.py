"""What a network does wrong, and when: the settings of `FaultProxy`, as values. Knows no sockets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["HEALTHY", "STORMS", "NetworkFaults", "weather"]


@dataclass(frozen=True)
class NetworkFaults:
    """One set of faults. The defaults are a healthy network. Each applies to whole exchanges: a request and its reply.

    `reset`         `"before"`: reset the connection when the request begins, of which the server gets nothing;
                    `"during"`: after a part of the request; `"after"`: when the server's reply arrives, in its place
    `lost_reply`    close the connection when the server's reply arrives, in its place
    `half_reply`    hand on the first half of the reply, then close
    `stall`         `"before"`: swallow the request and never answer; `"after"`: swallow the reply
    `rate`          pass on so many bytes a second, either way, heads included; 0: as fast as it goes
    `garbage`       answer with bytes that are neither TLS nor HTTP; the server gets nothing
    `wrong_length`  make the reply's Content-Length so many bytes more (or, negative, fewer) than it has, then close
    `huge_reply`    pad the reply's body to this many bytes, made up as they are sent
    `redirects`     answer with a chain of so many redirects that ends in a friendly page; the server gets nothing
    `times`         be healthy again after this many exchanges; None means until healed

    With TLS each to and fro of the handshake counts as an exchange. Raises ValueError for a value out of range.
    """

    reset: Literal["", "before", "during", "after"] = ""
    lost_reply: bool = False
    half_reply: bool = False
    stall: Literal["", "before", "after"] = ""
    rate: float = 0.0
    garbage: bool = False
    wrong_length: int = 0
    huge_reply: int = 0
    redirects: int = 0
    times: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.reset not in ("", "before", "during", "after"):
            raise ValueError('reset is "before", "during" or "after"')
        if self.stall not in ("", "before", "after"):
            raise ValueError('stall is "before" or "after"')
        for name, value in (("rate", self.rate), ("huge_reply", self.huge_reply), ("redirects", self.redirects)):
            if value < 0:
                raise ValueError(f"{name} is negative")
        if self.times is not None and self.times < 1:
            raise ValueError("times is at least 1")


HEALTHY = NetworkFaults()
#: What `weather` draws from unless told otherwise; None is a closed port.
STORMS: tuple[NetworkFaults | None, ...] = (
    None,
    NetworkFaults(reset="before"),
    NetworkFaults(reset="during"),
    NetworkFaults(reset="after"),
    NetworkFaults(lost_reply=True),
    NetworkFaults(half_reply=True),
    NetworkFaults(stall="before"),
    NetworkFaults(stall="after"),
    NetworkFaults(rate=20_000),
)


def weather(
    seed: int,
    *,
    good: tuple[float, float] = (0.2, 1.0),
    bad: tuple[float, float] = (0.1, 0.5),
    storms: Sequence[NetworkFaults | None] = STORMS,
) -> Iterator[tuple[float, NetworkFaults | None]]:
    """Yield for ever what `FaultProxy.flap` takes: good and bad times in turn, the same ones for the same seed.

    Args:
        seed: what the dice start from.
        good, bad: the shortest and the longest that each lasts, in seconds.
        storms: what the bad times are drawn from; None is a closed port.
    """
    dice = random.Random(seed)  # noqa: S311 - it picks faults, not secrets
    while True:
        yield dice.uniform(*good), HEALTHY
        yield dice.uniform(*bad), dice.choice(storms)
