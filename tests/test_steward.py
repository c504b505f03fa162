"""One host runs the outside commands for all; all of them obey what the check says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from shared_run import SharedRun

from bulkcert.errors import StoreError
from bulkcert.event_log import EventType
from bulkcert.hosts.steward import Steward
from bulkcert.rules import NO_RULES, Check
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Gate
from bulkcert.store.base import Host, Seen
from bulkcert.store.claims import Claims
from bulkcert.store.postgresql import PostgresStore
from tests.virtual_time import run_virtually, settle

# ---- who it is


class Checks:
    """Stands in for the check of a host, and notes what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def start(self) -> None:
        self.asked.append("start")

    def request(self) -> None:
        self.asked.append("request")

    def stop(self) -> None:
        self.asked.append("stop")

    async def close(self) -> None:
        self.asked.append("close")


class Place:
    """Who the steward is: one of some hosts."""

    def __init__(self) -> None:
        self.steward = ""
        self.is_broken = False

    def host(self, name: str, check: Checks | None) -> Steward:
        async def be_steward() -> bool:
            if self.is_broken:
                raise StoreError("gone")
            self.steward = self.steward or name
            return self.steward == name

        return Steward(be_steward, lambda: setattr(self, "steward", ""), check, every_s=1.0)


def test_one_host_runs_the_check_and_when_it_stops_another_one_does() -> None:
    async def scene() -> None:
        place, first, second = Place(), Checks(), Checks()
        one, other = place.host("a", first), place.host("b", second)
        for each in (one, other):
            each.start()
        await asyncio.sleep(10)
        for each in (one, other):
            each.request()
        assert (first.asked, second.asked) == (["start", "request"], [])
        one.stop()
        await asyncio.sleep(1.1)
        assert (place.steward, second.asked) == ("b", ["start"])
        await one.close()
        assert first.asked == ["start", "request", "stop", "close"]
        assert place.steward == "b"  # it resigned once
        await other.close()

    run_virtually(scene())


def test_a_host_that_stops_before_it_is_the_steward_never_becomes_it() -> None:
    async def scene() -> None:
        place, check = Place(), Checks()
        place.steward = "a"
        other = place.host("b", check)
        other.start()
        await settle()
        other.stop()
        place.steward = ""
        await asyncio.sleep(10)
        await other.close()
        assert place.steward == ""
        assert "start" not in check.asked

    run_virtually(scene())


def test_without_a_check_there_is_a_steward_for_the_notifications() -> None:
    async def scene() -> None:
        place = Place()
        one = place.host("a", None)
        one.start()
        await settle()
        one.request()
        assert place.steward == "a"
        await one.close()
        assert place.steward == ""

    run_virtually(scene())


def test_a_store_that_fails_is_the_business_of_the_run() -> None:
    async def scene() -> None:
        place = Place()
        place.is_broken = True
        one = place.host("a", Checks())
        one.start()
        await asyncio.sleep(5)
        await one.close()

    run_virtually(scene())


# ---- in a shared store

HOST = Host("ops", 1, "", "", "1.0", has_switch=True, ordered=True)
CHECK = Check(command=("true",), every_s=30.0, timeout_s=10.0, patience_s=60.0)


class Hosts:
    """Hosts of one run, each with its store and its rules, on a clock that the test sets.

    Attributes:
        now_s: the clock of the store.
    """

    def __init__(self, run: SharedRun, stack: ExitStack) -> None:
        self._run, self._stack = run, stack
        self.now_s = 1000.0

    def join(self) -> tuple[PostgresStore, Claims]:
        store = PostgresStore(self._run.dsn, self._run.name)
        self._stack.enter_context(closing(store))
        store.register(HOST)
        rules = replace(NO_RULES, check=CHECK)
        return store, Claims(rules, now=lambda: self.now_s)

    def desk(self) -> PostgresStore:
        store = PostgresStore(self._run.dsn, self._run.name)
        self._stack.enter_context(closing(store))
        return store

    def result(self, verdict: Verdict, reason: str = "") -> CheckResult:
        return CheckResult(self.now_s, self.now_s, verdict, reason)


def look(store: PostgresStore, claims: Claims) -> Gate:
    """A commit of a host."""

    def work() -> None:
        claims.begin(store)
        claims.judge(store, ())

    store.commit(work)
    return claims.gate


def fence(store: PostgresStore, lease: UUID) -> None:
    [seen] = [each for each in store.others() if each.id == lease]
    assert isinstance(seen, Seen)
    assert store.fence(seen, "ops", 8.0) is not None


def states(store: PostgresStore) -> Sequence[str]:
    return [
        str(event.data["verdict"] if event.type is EventType.CHECK else event.data["state"])
        for event in store.events()
        if event.type in (EventType.CHECK, EventType.STATE)
    ]


@pytest.fixture
def hosts(tmp_path: Path, shared_store: str) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(SharedRun(tmp_path, shared_store, 6), stack)


@pytest.mark.system
def test_at_most_one_live_host_is_the_steward(hosts: Hosts) -> None:
    (a, _), (b, _), (c, _) = hosts.join(), hosts.join(), hosts.join()
    assert [each.commit(each.be_steward) for each in (a, b, a)] == [True, False, True]
    fence(b, a.owner)
    assert [each.commit(each.be_steward) for each in (c, b)] == [True, False]
    c.commit(c.resign)
    b.commit(b.resign)  # it is not, so that changes nothing
    assert [each.commit(each.be_steward) for each in (b, c)] == [True, False]
    b.commit(b.leave)
    assert c.commit(c.be_steward)


@pytest.mark.system
def test_what_the_check_says_is_obeyed_by_all_hosts_and_logged_once(hosts: Hosts) -> None:
    (a, of_a), (b, of_b) = hosts.join(), hosts.join()
    assert str(look(b, of_b).reasons[0]) == "held (check: not run yet)"
    a.commit(lambda: a.set_check_result(hosts.result(Verdict.GO)))
    assert (look(a, of_a).is_open, look(b, of_b).is_open) == (True, True)
    a.commit(lambda: a.set_check_result(hosts.result(Verdict.HOLD, "3 sites are down")))
    reasons = [str(look(*each).reasons[0]) for each in ((a, of_a), (b, of_b))]
    assert reasons == ["held (check: 3 sites are down)"] * 2
    assert states(a) == ["held", "go", "running", "hold", "held"]


@pytest.mark.system
def test_a_check_that_aborts_stops_all_hosts_until_somebody_goes_on(hosts: Hosts) -> None:
    (a, of_a), (b, of_b) = hosts.join(), hosts.join()
    a.commit(lambda: a.set_check_result(hosts.result(Verdict.ABORT, "too many")))
    abort = look(b, of_b).abort
    assert abort
    assert look(a, of_a).abort == abort
    desk = hosts.desk()
    desk.commit(lambda: desk.override_abort(abort, hosts.now_s, "ann", "known"))
    c, of_c = hosts.join()
    gate = look(c, of_c)  # what the check said is not what it says now
    assert (gate.abort, str(gate.reasons[0])) == ("", "held (check: not run yet)")


@pytest.mark.system
def test_a_steward_that_dies_costs_an_interval_and_a_run_without_hosts_begins_with_a_check(
    hosts: Hosts,
) -> None:
    (a, _), (b, of_b) = hosts.join(), hosts.join()
    a.commit(a.be_steward)
    a.commit(lambda: a.set_check_result(hosts.result(Verdict.GO)))
    fence(b, a.owner)
    hosts.now_s += 40.0
    assert look(b, of_b).is_open
    hosts.now_s += 20.0
    assert str(look(b, of_b).reasons[0]) == "held (check: not run yet)"


@pytest.mark.system
def test_patience_counts_on_when_hosts_come_and_go(hosts: Hosts) -> None:
    a, of_a = hosts.join()
    assert not look(a, of_a).is_open
    for _ in range(5):
        hosts.now_s += 9.0
        a.commit(lambda: a.set_check_result(hosts.result(Verdict.HOLD, "unwell")))
        assert not look(a, of_a).abort
    b, of_b = hosts.join()
    fence(b, a.owner)
    hosts.now_s += 14.0
    assert not look(b, of_b).abort
    hosts.now_s += 2.0
    assert look(b, of_b).abort
    [abort] = b.aborts()
    assert abort.text.startswith("the check has held the run for 1 min 00 s")


@pytest.mark.system
def test_an_override_begins_the_patience_anew(hosts: Hosts) -> None:
    a, of_a = hosts.join()
    for _ in range(7):
        gate = look(a, of_a)
        hosts.now_s += 10.0
    gate = look(a, of_a)
    desk = hosts.desk()
    desk.commit(lambda: desk.override_abort(gate.abort, hosts.now_s, "ann", "known"))
    b, of_b = hosts.join()
    assert not look(b, of_b).abort


@pytest.mark.system
def test_only_the_steward_gives_events_to_the_command(hosts: Hosts) -> None:
    (a, _), (b, _) = hosts.join(), hosts.join()
    desk = hosts.desk()
    # nobody is it yet: those who work on the run will be it soon
    assert [desk.notifies(each) for each in (a.owner, b.owner, None)] == [False, False, True]
    a.commit(a.be_steward)
    assert [desk.notifies(each) for each in (a.owner, b.owner, None)] == [True, False, False]
    b.commit(b.leave)
    a.commit(a.leave)
    # the last one still does, and so does whoever comes when all are gone
    assert [desk.notifies(each) for each in (a.owner, b.owner, None)] == [True, True, True]
    c, _ = hosts.join()
    c.commit(c.be_steward)
    assert [desk.notifies(each) for each in (a.owner, None)] == [False, False]


@pytest.mark.system
def test_the_cursor_of_the_notifications_never_goes_back(hosts: Hosts) -> None:
    desk = hosts.desk()
    for seq in (3, 2):
        desk.commit(lambda seq=seq: desk.set_notified(seq))  # type: ignore[misc]
    assert desk.notified() == 3
