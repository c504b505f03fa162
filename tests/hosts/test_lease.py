"""Until when may a host act? On a clock of the test, with a switch of the test."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bulkcert.hosts.lease import Lease, stand_still_in_time

TTL_S = 6.0
STAND_STILL_S = 1.5
NEVER = float("-inf")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Switch:
    """Records when it would kill."""

    kills_at: float | None = None
    calls: list[str] = field(default_factory=list)

    def arm(self, at_s: float) -> None:
        self.kills_at = at_s
        self.calls.append("arm")

    def disarm(self) -> None:
        self.kills_at = None
        self.calls.append("disarm")


class Life:
    """A lease with its clock and its switch."""

    def __init__(self, *, has_switch: bool = True) -> None:
        self.clock = Clock()
        self.switch = Switch()
        self.lease = Lease(
            uuid.UUID(int=1),
            ttl_s=TTL_S,
            stand_still_s=STAND_STILL_S,
            switch=self.switch if has_switch else None,
            clock=self.clock,
        )


def test_nothing_may_leave_before_the_first_commit() -> None:
    life = Life()
    assert not life.lease.may_act()
    assert not life.lease.begin_write()
    assert life.switch.calls == []


def test_a_lease_counts_from_the_begin_of_a_commit() -> None:
    life = Life()
    begun = life.clock.now
    life.clock.now += 2
    life.lease.extend(begun)
    assert life.lease.deadline_s == life.switch.kills_at == begun + TTL_S
    assert life.lease.left_s == TTL_S - STAND_STILL_S - 2
    life.clock.now = begun + TTL_S - STAND_STILL_S - 0.001
    assert life.lease.may_act()
    life.clock.now += 0.001
    assert not life.lease.may_act()
    assert not life.lease.begin_write()


def test_an_older_commit_does_not_shorten_a_lease() -> None:
    life = Life()
    life.lease.extend(life.clock.now)
    life.lease.extend(life.clock.now - 1)
    assert life.lease.deadline_s == life.switch.kills_at == life.clock.now + TTL_S


def test_a_commit_that_took_too_long_neither_permits_nor_kills() -> None:
    life = Life()
    life.lease.extend(life.clock.now - TTL_S + STAND_STILL_S)
    assert not life.lease.may_act()
    assert life.switch.calls == []


def test_whoever_stands_still_is_not_killed_and_goes_on_with_the_next_commit() -> None:
    life = Life()
    life.lease.extend(life.clock.now)
    life.lease.stand_still()
    assert life.lease.may_act()  # it is not time yet
    life.clock.now += TTL_S - STAND_STILL_S
    life.lease.stand_still()
    assert life.switch.kills_at is None
    assert life.lease.deadline_s == NEVER
    life.clock.now += 60
    life.lease.extend(life.clock.now)
    assert life.lease.may_act()
    assert life.switch.kills_at == life.lease.deadline_s


@pytest.mark.parametrize("ends", ["stands still", "is over"])
def test_the_switch_stays_armed_until_a_request_is_written(ends: str) -> None:
    life = Life()
    life.lease.extend(life.clock.now)
    killed_at = life.switch.kills_at
    assert life.lease.begin_write()
    assert life.lease.begin_write()
    life.clock.now += TTL_S - STAND_STILL_S
    life.lease.stand_still() if ends == "stands still" else life.lease.end()
    assert not life.lease.begin_write()
    life.lease.end_write()
    assert life.switch.kills_at == killed_at
    life.lease.end_write()
    assert life.switch.kills_at is None


def test_what_is_over_stays_over() -> None:
    life = Life()
    life.lease.extend(life.clock.now)
    life.lease.end()
    assert life.switch.kills_at is None
    life.lease.extend(life.clock.now)
    assert life.lease.over
    assert not life.lease.may_act()
    assert life.switch.kills_at is None


def test_the_deadline_is_the_same_without_a_switch() -> None:
    life = Life(has_switch=False)
    life.lease.extend(life.clock.now)
    assert life.lease.begin_write()
    life.lease.end_write()
    life.clock.now += TTL_S - STAND_STILL_S
    life.lease.stand_still()
    life.lease.end()
    assert not life.lease.begin_write()


def test_a_host_stands_still_in_time() -> None:
    """Its commits come for ten seconds, stay away for twenty, and come again."""
    life, acts = Life(), []
    begun = life.clock.now
    life.lease.extend(begun)

    def wait(seconds: float) -> bool:
        life.clock.now += seconds
        assert life.switch.kills_at is None or life.clock.now < life.switch.kills_at
        passed = life.clock.now - begun
        acts.append((passed, life.lease.may_act()))
        if not 10 <= passed < 30:
            life.lease.extend(life.clock.now)
        return passed > 45

    life.lease.wait = wait  # type: ignore[method-assign]
    stand_still_in_time(life.lease)
    stood = [passed for passed, acted in acts if not acted]
    assert (stood[0], stood[-1]) == (14.25, 30.0)  # the last one came after 9.75 s
    assert life.switch.calls.count("disarm") == 1


def test_nobody_waits_for_a_lease_that_is_over() -> None:
    life = Life()
    assert not life.lease.wait(0)
    watching = threading.Thread(target=stand_still_in_time, args=(life.lease,))
    watching.start()
    life.lease.end()
    watching.join()
    assert life.lease.wait(3600)


class Host(RuleBasedStateMachine):
    """A host that may be stopped between any two steps, and what the kernel does to it meanwhile.

    The store would let others take over at `ends_at`, the end of the lease by the last commit that
    was applied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.switch = _Strict(self)
        self.lease = Lease(
            uuid.UUID(int=1),
            ttl_s=TTL_S,
            stand_still_s=STAND_STILL_S,
            switch=self.switch,
            clock=self.clock,
        )
        self.commits: list[float] = []  # begun, and not known to be applied
        self.ends_at = NEVER
        self.writing = 0
        self.dead = False

    @rule(seconds=st.sampled_from([0.001, 0.5, 1.0, 1.5, 4.5, 6.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.killed_if_due()

    def killed_if_due(self) -> None:
        if self.switch.kills_at is not None and self.clock.now >= self.switch.kills_at:
            self.dead = True

    @precondition(lambda self: not self.dead)
    @rule()
    def begin_commit(self) -> None:
        self.commits.append(self.clock.now)

    @precondition(lambda self: not self.dead and self.commits)
    @rule(data=st.data())
    def commit_is_applied(self, data: st.DataObject) -> None:
        begun = self.commits.pop(data.draw(st.integers(0, len(self.commits) - 1)))
        self.ends_at = max(self.ends_at, begun + TTL_S)
        self.lease.extend(begun)
        self.killed_if_due()

    @precondition(lambda self: not self.dead)
    @rule()
    def check(self) -> None:
        if self.lease.begin_write():
            assert self.clock.now < self.ends_at - STAND_STILL_S
            self.writing += 1

    @precondition(lambda self: not self.dead and self.writing)
    @rule()
    def write(self) -> None:
        """However long ago the check was."""
        assert self.clock.now < self.ends_at
        self.lease.end_write()
        self.writing -= 1

    @precondition(lambda self: not self.dead)
    @rule()
    def stand_still(self) -> None:
        self.lease.stand_still()

    @precondition(lambda self: not self.dead)
    @rule()
    def end(self) -> None:
        self.lease.end()

    @invariant()
    def never_killed_later_than_the_lease_ends(self) -> None:
        if self.lease.deadline_s != NEVER or self.writing:
            assert self.switch.kills_at is not None
            assert self.lease.deadline_s <= self.switch.kills_at <= self.ends_at


class _Strict(Switch):
    """Refuses to be used in a wrong order."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def arm(self, at_s: float) -> None:
        assert self._host.lease.deadline_s < at_s, "published before it was armed"
        assert at_s <= self._host.ends_at
        super().arm(at_s)

    def disarm(self) -> None:
        assert self._host.lease.deadline_s == NEVER, "something may still be permitted"
        # one that is written at this moment has reached the kernel
        assert self._host.lease._writing == 0, "something is permitted and not written"
        super().disarm()


TestHost = Host.TestCase
