"""Commits of a host whose connection breaks, and leases that end, against the real database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from host_times import scaled
from lossy_link import LossyLink
from stores import manifest

from bulkcert.control import Verb
from bulkcert.decisions import record_recheck
from bulkcert.errors import CommitsLostError, ControlError, LeaseLostError, StoreError
from bulkcert.model import Change, State, Target
from bulkcert.store.base import Host
from bulkcert.store.postgresql import PostgresReader, PostgresStore, commits, publish
from bulkcert.store.sqlite import SqlitePlan

pytestmark = pytest.mark.system

PATIENT = scaled(30)


class Clock:
    """Seconds that go on by one whenever somebody looks."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


class Hosts:
    """Hosts of one run, each with a link of its own to the database."""

    def __init__(self, dsn: str, run: str) -> None:
        self.dsn, self.run = dsn, run
        self.extended: list[float] = []
        self.said: list[str] = []
        self.clock = Clock()
        self._stores: list[PostgresStore] = []

    def join(self, dsn: str | None = None, answer_s: float | None = None) -> PostgresStore:
        store = PostgresStore(
            dsn or self.dsn,
            self.run,
            timings=PATIENT,
            elapsed_s=self.clock,
            answer_s=answer_s,
        )
        self._stores.append(store)
        host = Host("here", 1, "", "", "1", has_switch=True, ordered=True)
        store.register(host, self.extended.append, self.said.append)
        return store

    def beats(self, store: PostgresStore) -> int:
        with closing(psycopg.connect(self.dsn)) as db:
            row = db.execute("SELECT beats FROM bulkcert.lease WHERE id = %s", (store.owner,))
            return int(next(iter(row))[0])

    def execute(self, statement: str, *values: object) -> None:
        with closing(psycopg.connect(self.dsn, autocommit=True)) as db:
            db.execute(statement.encode(), values)

    def counts(self) -> dict[State, int]:
        with closing(PostgresReader(self.dsn, self.run)) as reader:
            return reader.counts()

    def close(self) -> None:
        for store in self._stores:
            store.close()


@pytest.fixture
def hosts(tmp_path: Path, shared_store: str) -> Iterator[Hosts]:
    name = f"commits-{tmp_path.name}"
    plan = SqlitePlan(tmp_path / "checkpoint.sqlite3")
    for number in range(6):
        plan.add(Target(number + 2, {"assetId": f"A{number}"}), number)
    plan.finish(manifest())
    publish(tmp_path / "checkpoint.sqlite3", shared_store, name)
    with closing(Hosts(shared_store, name)) as hosts:
        yield hosts


@pytest.fixture
def link(shared_store: str) -> Iterator[LossyLink]:
    with LossyLink(shared_store) as link:
        yield link


class Claiming:
    """Claims one operation, and counts how often it was called."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.calls = 0

    def __call__(self) -> list[int]:
        self.calls += 1
        return [operation.id for operation in self._store.claim(1)]


def test_a_commit_whose_answer_is_lost_is_not_repeated(hosts: Hosts, link: LossyLink) -> None:
    store = hosts.join(link.dsn)
    claim = Claiming(store)
    link.lose_answers = 1
    assert store.commit(claim) == [1]
    assert claim.calls == 1
    assert hosts.counts() == {State.IN_FLIGHT: 1, State.PLANNED: 5}
    assert store.commit(claim) == [2]
    # one more, before its result was given out
    assert hosts.beats(store) == 3


def test_a_commit_whose_answer_is_lost_is_found_while_its_row_is_still_locked(
    hosts: Hosts, link: LossyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = hosts.join(link.dsn)
    begin, busy = store._commits._begin, iter((False, True))

    def locked() -> bool:
        if next(busy, False):  # when it looks for the first time, the old COMMIT is under way
            begin()
            raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")
        return begin()

    monkeypatch.setattr(store._commits, "_begin", locked)
    claim = Claiming(store)
    link.lose_answers = 1
    assert store.commit(claim) == [1]
    assert claim.calls == 1


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    hosts: Hosts, link: LossyLink
) -> None:
    store = hosts.join(link.dsn, answer_s=0.5)
    link.keep_answers = 1
    assert store.commit(Claiming(store)) == [1]
    assert hosts.counts() == {State.IN_FLIGHT: 1, State.PLANNED: 5}


def test_a_commit_that_never_arrived_is_repeated(hosts: Hosts, link: LossyLink) -> None:
    store = hosts.join(link.dsn)
    claim = Claiming(store)
    link.lose_commits = 1
    assert store.commit(claim) == [1]
    assert claim.calls == 2
    assert hosts.counts() == {State.IN_FLIGHT: 1, State.PLANNED: 5}
    assert hosts.beats(store) == 1


@pytest.mark.parametrize("lost", ["lose_answers", "lose_commits"])
def test_commits_are_lost_again_and_again(hosts: Hosts, link: LossyLink, lost: str) -> None:
    store = hosts.join(link.dsn)
    for expected in (1, 2, 3):
        setattr(link, lost, 3)
        assert store.commit(Claiming(store)) == [expected]
    assert hosts.counts() == {State.IN_FLIGHT: 3, State.PLANNED: 3}


def test_a_lease_counts_from_the_begin_of_the_commit_that_is_found_applied(
    hosts: Hosts, link: LossyLink
) -> None:
    store = hosts.join(link.dsn)
    store.commit(lambda: None)
    link.lose_answers = 1
    before_s = hosts.clock.now_s
    store.commit(lambda: None)
    *_, first, second = hosts.extended
    # not from the new connection, nor from the look at the row
    assert first == before_s + 1
    assert second > first + 3


def test_a_lease_permits_nothing_before_the_first_commit(hosts: Hosts) -> None:
    store = hosts.join()
    assert hosts.extended == []  # nobody could disarm the switch in time
    store.commit(lambda: None)
    assert len(hosts.extended) == 1


def test_a_host_that_was_fenced_commits_nothing_more(hosts: Hosts) -> None:
    silent, other = hosts.join(), hosts.join()
    assert silent.commit(lambda: len(silent.claim(2))) == 2
    [seen] = other.others()
    assert other.fence(seen, "ops2", 9.0) == 2
    assert other.fence(seen, "ops2", 9.0) is None
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            silent.commit(Claiming(silent))
    event = other.events()[-1]
    assert event.data == {
        "process": {"host": "here", "pid": 1, "lease": str(silent.owner)},
        "by": "ops2",
        "silent_s": 9.0,
        "operations": 2,
    }


def test_a_host_that_has_beaten_since_is_not_fenced(hosts: Hosts) -> None:
    healthy, other = hosts.join(), hosts.join()
    [seen] = other.others()
    healthy.commit(lambda: None)
    assert other.fence(seen, "ops2", 9.0) is None
    healthy.commit(lambda: None)


def test_a_host_that_is_fenced_while_its_answer_is_lost_forgets_it(
    hosts: Hosts, link: LossyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = hosts.join(link.dsn), hosts.join()
    connect_again = store._commits._connect_again

    def late() -> None:
        if store._commits.db.broken:
            [seen] = other.others()
            other.fence(seen, "ops2", 9.0)
        connect_again()

    monkeypatch.setattr(store._commits, "_connect_again", late)
    link.lose_answers = 1
    with pytest.raises(LeaseLostError):
        store.commit(Claiming(store))
    assert other.commit(lambda: [each.in_doubt for each in other.claim(1)]) == [True]


@pytest.mark.parametrize("loss", ["the row is gone", "its beats went back"])
def test_lost_commits_stop_everybody(hosts: Hosts, loss: str) -> None:
    one, other = hosts.join(), hosts.join()
    one.commit(lambda: None)
    one.commit(lambda: None)
    if loss == "the row is gone":
        hosts.execute("DELETE FROM bulkcert.lease WHERE id = %s", one.owner)
    else:
        hosts.execute("UPDATE bulkcert.lease SET beats = 1 WHERE id = %s", one.owner)
    with pytest.raises(CommitsLostError):
        one.commit(lambda: None)
    with pytest.raises(CommitsLostError):
        other.commit(lambda: None)
    with pytest.raises(CommitsLostError):
        hosts.join()


def test_a_run_goes_on_after_lost_commits_when_somebody_says_so(hosts: Hosts) -> None:
    one, other = hosts.join(), hosts.join()
    one.commit(
        lambda: one.record(
            [
                Change(id_, State.IN_FLIGHT, State.SUCCEEDED, 1, finished_at=1.5)
                for id_ in [each.id for each in one.claim(1)]
            ]
        )
    )
    with closing(PostgresStore(hosts.dsn, hosts.run, timings=PATIENT)) as desk:
        with pytest.raises(ControlError, match="No host has noticed"):
            desk.commit(desk.recheck)
        hosts.execute("DELETE FROM bulkcert.lease WHERE id = %s", one.owner)
        with pytest.raises(CommitsLostError):
            one.commit(lambda: None)
        with pytest.raises(ControlError, match="here still works on the run"):
            desk.commit(desk.recheck)
        hosts.execute("UPDATE bulkcert.lease SET beat_at = 0")
        assert desk.commit(lambda: record_recheck(desk, "restored")) == 5
        assert desk.events()[-1].data["operations"] == 5
        # it was restored while nobody was there to notice
        assert desk.commit(lambda: record_recheck(desk, "a snapshot", force=True)) == 5
    with pytest.raises(LeaseLostError):
        other.commit(lambda: None)
    later = hosts.join()
    assert later.rechecked
    claimed = later.commit(lambda: later.claim(9))
    assert [(each.id, each.in_doubt, each.late) for each in claimed] == [
        (number, True, True) for number in range(2, 7)
    ]


def test_another_server_has_lost_commits(
    hosts: Hosts, link: LossyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = hosts.join(link.dsn)
    link.lose_commits = 1
    monkeypatch.setattr(commits, "server_of", lambda db: "7/00000002")
    with pytest.raises(CommitsLostError):
        store.commit(lambda: None)
    with pytest.raises(CommitsLostError):
        hosts.join()


def test_a_standby_that_answers_in_between_has_lost_nothing(
    hosts: Hosts, link: LossyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = hosts.join(link.dsn)
    server, servers = store._commits.server, ["7/"]
    monkeypatch.setattr(commits, "server_of", lambda db: servers.pop() if servers else server)
    claim = Claiming(store)
    link.lose_answers = 1
    assert store.commit(claim) == [1]
    assert (claim.calls, servers) == (1, [])
    servers.append("7/")
    with pytest.raises(StoreError, match="is a standby"):
        hosts.join()


def test_whoever_steers_a_run_is_told_when_that_may_be_recorded_already(
    hosts: Hosts, link: LossyLink
) -> None:
    with closing(PostgresStore(link.dsn, hosts.run, timings=PATIENT)) as desk:
        link.lose_answers = 1
        with pytest.raises(StoreError, match="answer of the shared store"):
            desk.commit(lambda: desk.add_control(1.0, "ann@ops1", "", Verb.PAUSE))
        assert [each.verb for each in desk.controls()] == [Verb.PAUSE]


def test_a_commit_that_was_in_a_deadlock_is_repeated(hosts: Hosts) -> None:
    store = hosts.join()
    calls = []

    def work() -> list[int]:
        calls.append(1)
        if len(calls) == 1:
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return [operation.id for operation in store.claim(1)]

    assert store.commit(work) == [1]
    assert hosts.beats(store) == 1


def test_a_watcher_knows_when_hosts_wait_for_a_change_of_the_whole_run(hosts: Hosts) -> None:
    watching = hosts.join()
    with closing(PostgresStore(hosts.dsn, hosts.run, timings=PATIENT)) as desk:

        def change() -> bool:
            desk.retry_failed()
            return watching.keeps_hosts_waiting()

        assert not watching.keeps_hosts_waiting()
        assert desk.commit(change)
    assert not watching.keeps_hosts_waiting()


def test_a_connection_that_breaks_while_others_are_watched_is_an_error_of_the_store(
    hosts: Hosts,
) -> None:
    store = hosts.join()
    assert store.counts() == {State.PLANNED: 6}
    hosts.execute("SELECT pg_terminate_backend(%s)", store._commits.db.info.backend_pid)
    with pytest.raises(StoreError):
        store.counts()


@pytest.mark.parametrize(
    ("has_switch", "ordered", "late"),
    [(True, True, False), (False, True, True), (True, False, True)],
)
def test_an_attempt_may_arrive_late_that_nothing_has_stopped(
    hosts: Hosts, has_switch: bool, ordered: bool, late: bool
) -> None:
    silent = PostgresStore(hosts.dsn, hosts.run, timings=PATIENT)
    silent.register(Host("there", 1, "", "", "1", has_switch=has_switch, ordered=ordered))
    with closing(silent):
        silent.commit(lambda: silent.claim(2, lookup_first={0}))
        silent.commit(lambda: silent.claim(1))
        other = hosts.join()
        [seen] = other.others()
        other.fence(seen, "here", 9.0)
        taken = other.commit(lambda: other.claim(3))
    # what was only planned has not left
    assert [(each.in_doubt, each.late) for each in taken] == [(False, False)] * 2 + [(True, late)]
