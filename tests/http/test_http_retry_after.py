"""Retry-After is kept to in both its forms, and no jump of the wall clock shortens or lengthens a wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from http_kit import Got, ScriptedServer, wait_until

from edgespool import Client
from edgespool.clock import SystemClock
from edgespool.outcome import Backoff
from edgespool.testing import Collector

MakeClient = Callable[..., Client]
TEN_YEARS = 10 * 365 * 86400.0


class JumpyClock(SystemClock):
    """The real clocks, but for a wall clock that somebody sets, and a boot clock that can be hurried."""

    def __init__(self) -> None:
        super().__init__()
        self.jump = 0.0
        self.hurried = 0.0

    def time(self) -> float:
        return super().time() + self.jump

    def monotonic(self) -> float:
        return super().monotonic() + self.hurried

    def synchronized(self) -> bool:
        return False


def asked_to_wait(client: Client) -> float:
    """Return the seconds until the next attempt, once the client waits."""
    wait_until(lambda: client.stats().state == "backing off", "the wait")
    left = client.stats().next_attempt
    assert left is not None
    return left


@pytest.mark.parametrize("status", [429, 503])
def test_seconds_are_waited_for(make_client: MakeClient, collector: Collector, status: int) -> None:
    collector.set_fault(status=status, headers={"Retry-After": "100"})
    client = make_client()
    client.record("reading")
    assert 95 < asked_to_wait(client) <= 100 + 25, "no sooner, and spread by a quarter at most"
    assert len(collector.requests()) == 1


def test_a_date_is_waited_for_by_the_servers_own_clock(make_client: MakeClient) -> None:
    # The server lives ten years ahead of this device; only its own Date tells what its Retry-After means.
    now = time.time() + TEN_YEARS

    def answer(got: Got) -> tuple[int, dict[str, str], bytes]:
        return 503, {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(now + 200, usegmt=True)}, b""

    with ScriptedServer(answer) as server:
        client = make_client(server.url)
        client.record("reading")
        assert 195 < asked_to_wait(client) <= 200 + 50


def test_an_absurd_wait_is_capped(make_client: MakeClient, collector: Collector) -> None:
    collector.set_fault(status=503, headers={"Retry-After": "999999999999"})
    client = make_client()
    client.record("reading")
    assert 3500 < asked_to_wait(client) <= 3600 * 1.25


@pytest.mark.parametrize("value", ["soon", "-5", "1e9", "Mon, 99 Foo 2099", ""])
def test_nonsense_is_no_wait_of_its_own(make_client: MakeClient, collector: Collector, value: str) -> None:
    collector.set_fault(status=503, headers={"Retry-After": value}, times=2)
    client = make_client()
    event = client.record("reading")
    assert collector.wait_for(1, 20)
    assert collector.ids() == [event]


def test_a_second_that_is_asked_for_really_passes(make_client: MakeClient, collector: Collector) -> None:
    moments: list[float] = []
    collector._on_request = lambda record: moments.append(time.monotonic())
    collector.set_fault(status=429, headers={"Retry-After": "1"}, times=1)
    client = make_client()
    client.record("reading")
    assert collector.wait_for(1, 20)
    wait_until(lambda: len(moments) == 2)
    assert moments[1] - moments[0] >= 0.99


def test_the_wait_is_over_when_its_time_has_come(make_client: MakeClient, collector: Collector) -> None:
    clock = JumpyClock()
    collector.set_fault(status=503, headers={"Retry-After": "500"}, times=1)
    client = make_client(clock=clock)
    event = client.record("reading")
    asked_to_wait(client)
    clock.hurried = 490.0
    time.sleep(1.2)  # longer than the worker ever sleeps at once
    assert collector.count() == 0
    clock.hurried = 700.0
    assert collector.wait_for(1, 20)
    assert collector.ids() == [event]


@pytest.mark.parametrize("jump", [TEN_YEARS, -TEN_YEARS])
def test_a_jump_of_the_wall_clock_during_a_wait_changes_nothing(
    make_client: MakeClient, collector: Collector, jump: float
) -> None:
    clock = JumpyClock()
    collector.set_fault(status=503)
    client = make_client(clock=clock, backoff=Backoff(base=300.0, cap=300.0), start=False, max_age=3600.0)
    client._worker._fraction = lambda: 0.9
    ids = [client.record("before")]
    client.start()
    left = asked_to_wait(client)
    clock.jump = jump
    ids.append(client.record("after"))
    time.sleep(0.2)
    assert left - 30 < asked_to_wait(client) <= left
    assert len(collector.requests()) == 1, "it was tried again before its time"
    collector.heal()
    clock.hurried = 300.0
    assert collector.wait_for(2, 20), "it was not tried again in its time"
    assert collector.ids() == ids
    assert dict(client.stats().dropped) == {}, "the jump made an event look old"


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspend")
def test_waits_go_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 123.0, time.CLOCK_MONOTONIC: 23.0}.get)
    assert SystemClock().monotonic() == 123.0
