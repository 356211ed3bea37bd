"""What a reply means and what follows from it: the whole table, the headers, the waits."""

from __future__ import annotations

from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgespool.outcome import (
    Action,
    Backoff,
    Decision,
    Delivered,
    Hold,
    Outcome,
    Reject,
    Reply,
    Retry,
    TooLarge,
    decide,
    outcome_of_status,
    retry_after,
)

NOW = 5_000.0


def verdict(outcome: Any, size: int = 10, attempt: int = 1, **how: Any) -> Decision:
    settings = {"fraction": 0.5, "backoff": Backoff(), **how}
    return decide(outcome, attempt, NOW, size=size, **settings)


# Statuses


def expected(status: int) -> type[Outcome]:
    """Return what the design says of a status, written down a second time."""
    if status < 200:
        return Retry
    if status < 300:
        return Delivered
    if status < 400:
        return Hold
    if status in (401, 402, 403, 404, 405, 407, 410):
        return Hold
    if status in (408, 425, 429):
        return Retry
    if status == 413:
        return TooLarge
    return Reject if status < 500 else Retry


@pytest.mark.parametrize("status", [*range(100, 600), 0, 99, 600, 999])
def test_every_status_means_what_the_design_says(status: int) -> None:
    outcome = outcome_of_status(Reply(status, {}, b"words of the server"))
    if status > 599 or status < 100:
        assert isinstance(outcome, Retry)
        return
    assert type(outcome) is expected(status)
    if not isinstance(outcome, Delivered):
        assert outcome.status == status
        assert f"HTTP {status}" in outcome.reason
        assert ("words of the server" in outcome.reason) is not (300 <= status < 400)
        assert not getattr(outcome, "everywhere", False)


def test_a_redirect_says_where_to() -> None:
    outcome = outcome_of_status(Reply(302, {"location": "https://login.example/"}))
    assert isinstance(outcome, Hold)
    assert "https://login.example/" in outcome.reason


def test_what_a_server_says_is_told_on_one_short_printable_line() -> None:
    reply = Reply(400, {}, b"\x1b[31mfirst\r\n\tsecond \x00\xff third" + b"x" * 5000)
    said = reply.excerpt()
    assert said.startswith("[31mfirst second \ufffd third")
    assert len(said) == 300
    assert said.isprintable()
    assert reply.excerpt(10) == "[31mfirst…"
    assert Reply(400, {}, b"").excerpt() == ""


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 50, float("9" * 12)),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_against_the_servers_own_date(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": "Wed, 21 Oct 2015 07:27:00 GMT"}) == seconds


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 21 Oct 2015 07:27:00"])
def test_a_date_to_retry_after_says_nothing_without_a_date_to_read_it_against(date: str | None) -> None:
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(headers if date is None else {**headers, "date": date}) is None


def test_no_retry_after_is_none() -> None:
    assert retry_after({}) is None
    outcome = outcome_of_status(Reply(503, {"retry-after": "30"}))
    assert isinstance(outcome, Retry)
    assert outcome.after == 30.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_however_odd_raises(value: str, date: str) -> None:
    seconds = retry_after({"retry-after": value, "date": date})
    assert seconds is None or seconds >= 0


# Waits


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_drawn_below_a_ceiling_that_doubles_up_to_the_cap(attempt: int, fraction: float) -> None:
    backoff = Backoff()
    ceiling = min(300.0, 2.0 ** (attempt - 1)) if attempt < 100 else 300.0
    wait = backoff.wait(attempt, fraction)
    assert 0 <= wait < ceiling
    assert wait == pytest.approx(ceiling * fraction)


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True), st.floats(0, 1e9))
def test_what_the_server_asks_for_is_kept_to_within_a_quarter_and_capped(
    attempt: int, fraction: float, after: float
) -> None:
    wait = Backoff().wait(attempt, fraction, after)
    asked = min(after, 3600.0)
    assert asked <= wait <= asked + max(1.0, asked / 4)


# Decisions


@pytest.mark.parametrize(
    ("outcome", "size", "action"),
    [
        (Delivered(), 1, Action.ACK),
        (Delivered(), 10, Action.ACK),
        (Retry("r", 503), 1, Action.WAIT),
        (Retry("r", 503), 10, Action.WAIT),
        (Hold("r", 401), 1, Action.PAUSE),
        (Hold("r", 401), 10, Action.PAUSE),
        (TooLarge("r", 413), 10, Action.SPLIT),
        (TooLarge("r", 413), 2, Action.SPLIT),
        (TooLarge("r", 413), 1, Action.GIVE_UP),
        (Reject("r", 400), 10, Action.SPLIT),
        (Reject("r", 400), 2, Action.SPLIT),
        (Reject("r", 400), 1, Action.GIVE_UP),
    ],
)
def test_each_outcome_has_its_action(outcome: Outcome, size: int, action: Action) -> None:
    for attempt in (1, 2, 50):
        decision = verdict(outcome, size, attempt)
        assert decision.action is action
        if action is not Action.ACK:
            assert (decision.reason, decision.status) == (outcome.reason, outcome.status)  # type: ignore[union-attr]


def test_the_table_above_knows_every_outcome() -> None:
    assert set(get_args(Outcome)) == {Delivered, Retry, Hold, TooLarge, Reject}


@pytest.mark.parametrize("outcome", [None, "delivered", 200, object(), Delivered])
def test_an_outcome_that_nobody_foresaw_is_a_retry(outcome: Any) -> None:
    decision = verdict(outcome, attempt=3)
    assert decision.action is Action.WAIT
    assert decision.due == NOW + 2.0
    assert "unknown outcome" in decision.reason


def test_a_wait_is_due_after_its_backoff_and_a_retry_after() -> None:
    assert verdict(Retry("r"), attempt=4).due == NOW + 4.0
    assert verdict(Hold("r"), attempt=4).due == NOW + 4.0
    assert verdict(Retry("r", after=100.0), attempt=1).due == NOW + 100.5


def test_what_concerns_every_route_is_passed_on() -> None:
    for outcome in (Retry("r", everywhere=True), Hold("r", everywhere=True)):
        assert verdict(outcome).everywhere
    assert not verdict(Retry("r")).everywhere


@pytest.mark.parametrize(("attempt", "action"), [(1, Action.WAIT), (2, Action.WAIT), (3, Action.GIVE_UP)])
def test_a_limit_on_attempts_gives_up_a_batch_that_failed_so_often(attempt: int, action: Action) -> None:
    assert verdict(Retry("r"), attempt=attempt, max_attempts=3).action is action
    assert verdict(Retry("r"), attempt=attempt).action is Action.WAIT


def test_a_limit_on_attempts_never_gives_up_what_a_person_must_mend() -> None:
    assert verdict(Hold("r"), attempt=1000, max_attempts=3).action is Action.PAUSE
