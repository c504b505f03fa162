"""The rules of a campaign over several hosts: two of them on the real database, in one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from host_times import scaled
from stores import manifest

from bulkcert import event_log
from bulkcert.amendment import Amendment
from bulkcert.control import Verb
from bulkcert.decisions import record_amendment, record_override
from bulkcert.errors import RunDirectoryError
from bulkcert.event_log import EventType
from bulkcert.model import Change, State, Target
from bulkcert.plan_hash import Difference
from bulkcert.rules import MAX_OPERATIONS, NO_RULES, Protect, Rollout, Rules
from bulkcert.rules.abort import limit
from bulkcert.rules.gate import Gate
from bulkcert.rules.rollout import Size
from bulkcert.store.base import Host
from bulkcert.store.claims import NOTHING_CLAIMED, Claimed, Claims
from bulkcert.store.postgresql import PostgresStore, publish
from bulkcert.store.postgresql.commits import Commits
from bulkcert.store.sqlite import SqlitePlan
from bulkcert.store.writer import StoreWriter

pytestmark = pytest.mark.system

PATIENT = scaled(30)
_names = count(1)

CANARY_FIRST = replace(NO_RULES, rollout=Rollout(sizes=(Size("canary", targets=2),)))


def settled(id_: int, state: State, at_s: float) -> Change:
    return Change(id_, State.IN_FLIGHT, state, 1, code=0, finished_at=at_s, line=id_)


class Worker:
    """A host: its store and its rules, without a writer's thread."""

    def __init__(self, dsn: str, run: str, name: str, rules: Rules, **options: Any) -> None:
        self.store = PostgresStore(dsn, run, timings=PATIENT)
        self.store.register(Host(name, 1, "", "", "1", has_switch=True, ordered=True))
        self.claims = Claims(rules, now=self.store.now, stop_after=0, **options)

    def commit(self, *changes: Change, claim: int = 0) -> Claimed:
        """What a writer does in one transaction; return what was claimed."""

        def work() -> Claimed:
            self.claims.begin(self.store)
            self.store.record(changes)
            self.claims.judge(self.store, changes)
            return self.claims.claim(self.store, claim, ()) if claim else NOTHING_CLAIMED

        return self.store.commit(work)

    def claim(self, most: int = 9) -> list[int]:
        return [each.id for each in self.commit(claim=most).operations]

    def settle(self, *ids: int, state: State = State.SUCCEEDED) -> Gate:
        self.commit(*(settled(id_, state, self.store.now()) for id_ in ids))
        return self.claims.gate

    def finish(self) -> None:
        """What it does at its end."""

        def work() -> None:
            self.claims.begin(self.store)
            self.claims.finish(self.store)

        self.store.commit(work)

    @property
    def reasons(self) -> list[str]:
        return list(map(str, self.claims.gate.reasons))


class Campaign:
    """A run of some operations, and the hosts that work on it."""

    def __init__(self, folder: Path, dsn: str, operations: int, rules: Rules) -> None:
        self._dsn, self._rules = dsn, rules
        self.run = f"rules-{next(_names)}"
        path = folder / f"{self.run}.sqlite3"
        plan = SqlitePlan(path, rules.rollout)
        for number in range(operations):
            plan.add(Target(number + 2, {"assetId": f"A{number}"}), number)
        plan.roll_out()
        plan.finish(manifest())
        publish(path, dsn, self.run)
        self._desk = PostgresStore(dsn, self.run, timings=PATIENT)
        self._workers: list[Worker] = []

    def join(self, name: str = "ops1", **options: Any) -> Worker:
        self._workers.append(Worker(self._dsn, self.run, name, self._rules, **options))
        return self._workers[-1]

    def ask(self, verb: Verb, value: str = "") -> None:
        self._desk.commit(lambda: self._desk.add_control(0.0, "ann@desk", "", verb, value))

    def override(self, abort: str) -> None:
        self._desk.commit(lambda: record_override(self._desk, abort, "known"))

    def amend(self) -> None:
        with closing(PostgresStore(self._dsn, self.run, timings=PATIENT)) as store:
            store.commit(lambda: record_amendment(store, manifest(), AMENDED, None))

    def wait_until_blocked(self) -> None:
        """Wait until somebody waits for a lock."""
        while not self._execute("SELECT FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)

    def _execute(self, statement: LiteralString, *values: object) -> int:
        with closing(psycopg.connect(self._dsn, autocommit=True)) as db:
            return db.execute(statement, values).rowcount

    def fence(self, dead: Worker) -> None:
        [seen] = [each for each in self._desk.others() if each.id == dead.store.owner]
        assert self._desk.fence(seen, "ops9", 9.0) is not None

    def logged(self, kind: EventType) -> list[dict[str, Any]]:
        return [dict(each.data) for each in self._desk.events() if each.type is kind]

    def close(self) -> None:
        self._desk.close()
        for worker in self._workers:
            worker.store.close()


Begin = Callable[[int, Rules], Campaign]


@pytest.fixture
def campaign(tmp_path: Path, shared_store: str) -> Iterator[Begin]:
    begun: list[Campaign] = []

    def begin(operations: int, rules: Rules) -> Campaign:
        begun.append(Campaign(tmp_path, shared_store, operations, rules))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def waves(campaign: Campaign) -> list[tuple[str, str]]:
    return [(each["wave"], each["change"]) for each in campaign.logged(EventType.WAVE)]


# ---- waves


def test_a_wave_begins_on_all_hosts_when_the_one_before_is_over_on_all(campaign: Begin) -> None:
    run = campaign(4, CANARY_FIRST)
    one, other = run.join(), run.join()
    assert (one.claim(1), other.claim(1)) == ([1], [2])
    one.settle(1)
    assert one.commit(claim=9) == Claimed()  # there may be more when the other one has ended
    other.settle(2)
    assert one.claim(1) == [3]
    assert other.claim(1) == [4]
    one.settle(3)
    other.settle(4)
    assert one.commit(claim=9) == Claimed(more=False)
    assert other.commit(claim=9) == Claimed(more=False)
    one.finish()
    other.finish()
    assert waves(run) == [
        ("canary", "begun"),
        ("canary", "over"),
        ("rest", "begun"),
        ("rest", "over"),
    ]


def test_a_wave_is_noticed_to_be_over_by_others_if_its_last_host_dies(campaign: Begin) -> None:
    run = campaign(4, CANARY_FIRST)
    dying, other = run.join("ops1"), run.join("ops2")
    assert dying.claim(2) == [1, 2]
    assert other.commit(claim=9) == Claimed()
    run.fence(dying)
    taken = other.commit(claim=9).operations
    assert [(each.id, each.in_doubt) for each in taken] == [(1, True), (2, True)]
    other.settle(1, 2)
    assert other.claim(1) == [3]
    assert waves(run)[:2] == [("canary", "begun"), ("canary", "over")]


def test_a_go_is_obeyed_by_all_hosts(campaign: Begin) -> None:
    rollout = Rollout(sizes=(Size("canary", targets=2),), confirm=frozenset({"canary"}))
    run = campaign(4, replace(NO_RULES, rollout=rollout))
    one, other = run.join(), run.join()
    one.claim(2)
    other.commit()
    one.settle(1, 2)
    for each in (one, other):
        assert each.claim() == []
        assert each.reasons == ["waiting (go canary)"]
    run.ask(Verb.GO, "canary")
    assert other.claim(1) == [3]
    assert one.claim(1) == [4]


def test_until_stops_each_host_that_was_asked(campaign: Begin) -> None:
    run = campaign(4, CANARY_FIRST)
    one, other = run.join(until="canary"), run.join(until="canary")
    assert (one.claim(1), other.claim(1)) == ([1], [2])
    one.settle(1)
    other.settle(2)
    for each in (one, other):
        each.commit(claim=9)
        assert each.claims.gate.stop == "the wave canary is over"


# ---- what people ask


@pytest.mark.parametrize("rules", [NO_RULES, CANARY_FIRST])
def test_nothing_is_claimed_after_a_pause(campaign: Begin, rules: Rules) -> None:
    run = campaign(4, rules)
    one, other = run.join(), run.join()
    assert one.claim(1) == [1]
    other.commit()
    run.ask(Verb.PAUSE)
    for each in (one, other):
        assert each.claim() == []
        assert each.reasons == ["paused (by ann@desk)"]
        assert (each.claims.gate.control_id, each.claims.gate.version) == (1, 1)
    run.ask(Verb.RESUME)
    run.ask(Verb.RATE, "7")
    assert other.claim(1) == [2]
    assert other.claims.gate.rate == 7.0
    in_force = [each for each in run.logged(EventType.CONTROL) if each["change"] == "in_force"]
    by = {each["process"]["lease"] for each in in_force}
    assert by == {str(one.store.owner), str(other.store.owner)}


# ---- aborts


def aborting(**limits: Any) -> Rules:
    return replace(NO_RULES, abort={rule: limit(value) for rule, value in limits.items()})


def test_hosts_that_are_below_a_threshold_each_pass_it_together(campaign: Begin) -> None:
    run = campaign(12, aborting(failed=3))
    one, other = run.join(), run.join()
    assert one.claim(4) == [1, 2, 3, 4]
    assert other.claim(4) == [5, 6, 7, 8]
    assert not one.settle(1, 2, state=State.FAILED).abort
    assert not other.settle(5, state=State.FAILED).abort
    gate = other.settle(6, state=State.FAILED)
    assert gate.abort
    assert other.claims.pending is not None
    assert other.claims.pending.text.startswith("4 of 4 failed")
    assert one.claim() == []
    assert one.claims.gate.abort == gate.abort
    assert one.claims.gate.version == 1
    one.settle(3, 4, state=State.FAILED)
    assert len(run.logged(EventType.ABORT)) == 1


def test_hosts_that_settle_at_the_same_time_stop_the_run_once(campaign: Begin) -> None:
    run = campaign(40, aborting(failed="5% of 100", unknown=30))
    workers = [run.join() for _ in range(4)]
    claimed = [worker.claim(10) for worker in workers]
    ready = threading.Barrier(4)

    def settle(worker: Worker, ids: Sequence[int]) -> None:
        ready.wait()
        for id_ in ids:
            worker.settle(id_, state=State.FAILED if id_ % 4 == 0 else State.SUCCEEDED)

    with ThreadPoolExecutor() as pool:
        list(pool.map(settle, workers, claimed))
    assert len(run.logged(EventType.ABORT)) == 1
    for worker in workers:
        worker.commit()
        assert worker.claims.gate.abort
        assert worker.claims.pending is not None
        assert worker.claims.pending.text.startswith("6 of the last")


def test_after_an_override_nothing_counts_that_was_before(campaign: Begin) -> None:
    run = campaign(12, aborting(failed=1))
    one = run.join()
    one.claim(2)
    abort = one.settle(1, 2, state=State.FAILED).abort
    run.override(abort)
    later, latest = run.join(), run.join()
    assert later.claim(2) == [3, 4]
    assert latest.claim(2) == [5, 6]
    assert not later.settle(3, state=State.FAILED).abort
    assert latest.settle(5, state=State.FAILED).abort not in ("", abort)


# ---- the cap


def capped(most: int) -> Rules:
    return replace(NO_RULES, protect=Protect(max_operations=most))


def test_no_more_operations_are_begun_than_allowed_by_all_hosts_together(campaign: Begin) -> None:
    run = campaign(40, capped(15))
    workers = [run.join() for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        claimed = list(pool.map(lambda worker: [*worker.claim(3), *worker.claim(3)], workers))
    assert len({id_ for ids in claimed for id_ in ids}) == sum(map(len, claimed)) == 15


def test_what_a_dead_host_has_begun_is_taken_over_although_no_more_may_begin(
    campaign: Begin,
) -> None:
    run = campaign(10, capped(4))
    dying, other = run.join(), run.join()
    assert dying.claim(2) == [1, 2]
    assert other.claim(9) == [3, 4]
    other.settle(3, 4)
    assert other.commit(claim=9) == Claimed()  # the other host may leave something
    assert not other.claims.capped
    run.fence(dying)
    assert other.claim(9) == [1, 2]
    other.settle(1, 2)
    assert other.commit(claim=9) == Claimed(more=False)
    assert other.claims.capped
    other.store.commit(lambda: other.claims.stop_run(other.store, MAX_OPERATIONS, "no more"))
    assert len(run.logged(EventType.ABORT)) == 1


# ---- amendments


AMENDED = Amendment((Difference("protect", "max_operations", None, 5),), manifest().plan)


def test_rules_are_not_amended_under_hosts_that_work_by_the_old_ones(campaign: Begin) -> None:
    run = campaign(4, NO_RULES)
    one = run.join("ops1")
    one.claim(1)
    with pytest.raises(RunDirectoryError, match="ops1 works on the run"):
        run.amend()
    one.store.commit(one.store.leave)
    run.amend()
    assert len(run.logged(EventType.AMENDMENT)) == 1


def test_whoever_amends_waits_for_no_host_that_waits_for_the_log(campaign: Begin) -> None:
    run = campaign(4, NO_RULES)
    one = run.join()
    calls = []

    def work() -> None:
        calls.append(1)
        one.claims.begin(one.store)
        amending = pool.submit(run.amend)
        run.wait_until_blocked()
        one.store.add_event(event_log.retried(1.0, 1))
        amended.append(amending)

    amended: list[Future[None]] = []
    with ThreadPoolExecutor() as pool:
        one.store.commit(work)
        with pytest.raises(RunDirectoryError):
            amended[0].result()
    assert len(calls) == 1  # no deadlock


# ---- transactions that are called again


async def test_a_commit_that_is_called_again_decides_as_if_it_were_the_first(
    campaign: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = campaign(4, replace(CANARY_FIRST, abort={"failed": limit(1)}))
    one = run.join()
    commits, pending = one.store._commits, []
    end = commits._end

    def fail_once() -> None:
        monkeypatch.setattr(commits, "_end", end)
        raise psycopg.errors.SerializationFailure("could not serialize access")

    def begin() -> bool:
        pending.append(one.claims.pending)
        return Commits._begin(commits)

    writer = StoreWriter(
        one.store,
        claims=one.claims,
        on_durable=lambda changes: None,
        on_error=lambda error: None,
        commit_every_s=0.0,
    )
    writer.start()
    run.ask(Verb.PAUSE)
    await writer.flush()
    run.ask(Verb.RESUME)
    monkeypatch.setattr(commits, "_end", fail_once)
    claimed = await writer.claim(2)
    assert [each.id for each in claimed.operations] == [1, 2]
    assert [each["state"] for each in run.logged(EventType.STATE)] == ["paused", "running"]
    assert waves(run) == [("canary", "begun")]
    [in_force] = [each for each in run.logged(EventType.CONTROL) if each["change"] == "in_force"]
    assert in_force["verb"] == "resume"

    monkeypatch.setattr(commits, "_end", fail_once)
    await writer.record_now([settled(id_, State.FAILED, 1.0) for id_ in (1, 2)])
    assert len(run.logged(EventType.ABORT)) == 1
    assert one.claims.pending is not None
    assert one.claims.pending.text.startswith("2 of 2 failed")
    # whoever looks while the database is away finds what is durable
    monkeypatch.setattr(commits, "_begin", begin)
    monkeypatch.setattr(commits, "_end", fail_once)
    await writer.flush()
    assert pending == [one.claims.pending] * 2
    await writer.close()
