"""What came of a sending, and what follows from it: pure values and pure functions.

The set of outcomes is closed. A destination or a format turns whatever happened into one of them; `decide()` turns an
outcome into a decision; only the worker and the replay act on decisions. An outcome nobody foresaw is a Retry: a
mistake in this table may then cost time, but never an event.

    Delivered   the server has the events
    Retry       a passing fault: wait and send the same again
    Hold        nothing that is sent now would be taken (a wrong key, a wrong address): pause, say so, probe
    TooLarge    fewer at a time
    Reject      the server refuses something in this batch for good
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "Action",
    "Backoff",
    "Decision",
    "Delivered",
    "Hold",
    "Outcome",
    "Reject",
    "Reply",
    "Retry",
    "TooLarge",
    "decide",
    "one_line",
    "outcome_of_status",
    "retry_after",
]


@dataclass(frozen=True)
class Delivered:
    """The server has taken every event of the batch."""


@dataclass(frozen=True)
class Retry:
    """A passing fault. `everywhere`: it concerns the whole destination (no connection), not only this route."""

    reason: str
    status: int | None = None
    after: float | None = None  # seconds the server asked us to wait
    everywhere: bool = False


@dataclass(frozen=True)
class Hold:
    """The server refuses whatever is sent now, and a person must mend it; nothing is wrong with the events."""

    reason: str
    status: int | None = None
    everywhere: bool = False


@dataclass(frozen=True)
class TooLarge:
    """The batch is larger than the server takes."""

    reason: str
    status: int | None = None


@dataclass(frozen=True)
class Reject:
    """The server refuses at least one event of this batch for good."""

    reason: str
    status: int | None = None


Outcome = Delivered | Retry | Hold | TooLarge | Reject


@dataclass(frozen=True)
class Reply:
    """A server's reply: the status, the headers (names in lower case) and the beginning of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def excerpt(self, limit: int = 300) -> str:
        """Return the beginning of the body as one printable line of at most `limit` characters."""
        return one_line(self.body[: 4 * limit].decode("utf-8", "replace"), limit)


def one_line(text: str, limit: int = 300) -> str:
    """Return foreign text as one printable line of at most `limit` characters: what a log can take."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


# RFC 9110, section 15, read for the question "what should happen to the events".
_RETRY = frozenset({408, 425, 429})
_HOLD = frozenset({401, 402, 403, 404, 405, 407, 410})
_TOO_LARGE = frozenset({413})


def outcome_of_status(reply: Reply) -> Outcome:
    """Return the outcome that an HTTP status stands for; a format may say otherwise for its service."""
    status = reply.status
    said = reply.excerpt()
    reason = f"HTTP {status}" + (f": {said}" if said else "")
    if 200 <= status < 300:
        return Delivered()
    if 300 <= status < 400:
        where = one_line(reply.headers.get("location", ""))
        return Hold(f"HTTP {status}: redirected{' to ' + where if where else ''}; redirects are not followed", status)
    if status in _HOLD:
        return Hold(reason, status)
    if status in _TOO_LARGE:
        return TooLarge(reason, status)
    if status in _RETRY or not 400 <= status < 500:
        return Retry(reason, status, after=retry_after(reply.headers))
    return Reject(reason, status)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (RFC 9110, section 10.2.3), or None.

    A date is read against the server's own `Date` header: the device's clock may be wrong by years.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:12])
    from email.utils import parsedate_to_datetime  # slow to import, and seldom needed

    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"])
        return max(0.0, (until - now).total_seconds())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


@dataclass(frozen=True)
class Backoff:
    """How long to wait after the n-th failure in a row: full jitter below a doubling ceiling. All in seconds.

    The ceiling keeps doubling from `base` to `cap`; the wait is drawn evenly below it, so that a fleet which lost its
    server at one moment does not come back at one moment. What a server asks for by Retry-After is kept to (up to
    `after_cap`) and spread by up to a quarter on top.
    """

    base: float = 1.0
    cap: float = 300.0
    after_cap: float = 3600.0

    def wait(self, attempt: int, fraction: float, after: float | None = None) -> float:
        """Return the seconds to wait after failure number `attempt` (from 1); `fraction` is random in [0, 1)."""
        ceiling = min(self.cap, self.base * 2.0 ** min(attempt - 1, 40))
        drawn = ceiling * fraction
        if after is None:
            return drawn
        after = min(after, self.after_cap)
        return after + min(drawn, max(1.0, after / 4))


class Action(enum.Enum):
    """What the worker does next with the batch."""

    ACK = "ack"  # it has arrived: delete it
    WAIT = "wait"  # leave it, send it again later
    PAUSE = "pause"  # leave it, say so loudly, probe later
    SPLIT = "split"  # halve it
    GIVE_UP = "give up"  # to a failed payload file


@dataclass(frozen=True)
class Decision:
    """An action, when the next attempt is due (monotonic seconds), why, and whether it concerns every route."""

    action: Action
    due: float = 0.0
    reason: str = ""
    status: int | None = None
    everywhere: bool = False


def decide(
    outcome: Outcome,
    attempt: int,
    now: float,
    *,
    size: int,
    fraction: float,
    backoff: Backoff,
    max_attempts: int | None = None,
) -> Decision:
    """Return what follows from an outcome.

    Args:
        outcome: what came of the sending.
        attempt: how often in a row this batch has now failed, this time included (from 1).
        now: monotonic seconds.
        size: how many events the batch holds.
        fraction: a random number in [0, 1), for the jitter.
        backoff: how long to wait.
        max_attempts: give up a batch that failed so often by Retry; None: never.
    """
    if isinstance(outcome, Delivered):
        return Decision(Action.ACK)
    if isinstance(outcome, (Reject, TooLarge)):
        action = Action.SPLIT if size > 1 else Action.GIVE_UP
        return Decision(action, now, outcome.reason, outcome.status)
    if isinstance(outcome, Hold):
        due = now + backoff.wait(attempt, fraction)
        return Decision(Action.PAUSE, due, outcome.reason, outcome.status, outcome.everywhere)
    if isinstance(outcome, Retry):
        if max_attempts is not None and attempt >= max_attempts:
            return Decision(Action.GIVE_UP, now, outcome.reason, outcome.status)
        due = now + backoff.wait(attempt, fraction, outcome.after)
        return Decision(Action.WAIT, due, outcome.reason, outcome.status, outcome.everywhere)
    # Nothing foresaw this value (a third party's destination returned it): the events stay, and we try again.
    return Decision(Action.WAIT, now + backoff.wait(attempt, fraction), f"unknown outcome {outcome!r}")
