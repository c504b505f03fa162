"""What only a store has that several hosts share, and what only its server can do wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest
from host_times import scaled
from postgres import PostgresServer, new_database
from stores import manifest

from bulkcert import event_log
from bulkcert.control import Verb
from bulkcert.errors import LeaseLostError, RunDirectoryError, StoreError
from bulkcert.event_log import chain_fault
from bulkcert.model import Change, HistoryEntry, HistoryEvent, State, Target
from bulkcert.plan_hash import PlanHash
from bulkcert.store.base import Host
from bulkcert.store.postgresql import (
    SCHEMA_VERSION,
    PostgresReader,
    PostgresStore,
    discard,
    leases,
    migrate,
    plan,
    publish,
    run_exists,
    run_is_worked_on,
)
from bulkcert.store.sqlite import SqlitePlan
from bulkcert.timings import HostTimings

pytestmark = pytest.mark.system
LIMIT_S = 60.0
PATIENT = scaled(30)
"""A slow machine is not a host that stands still."""

_names = count(1)


class SharedRun:
    """A run with a few operations, in a database that all tests of this process share."""

    def __init__(self, folder: Path, dsn: str, operations: int) -> None:
        self.dsn, self.name = dsn, f"shared-{next(_names)}"
        publish(checkpoint(folder, operations), dsn, self.name)
        self._hosts: list[PostgresStore] = []

    def desk(self, timings: HostTimings = PATIENT) -> PostgresStore:
        """Somebody who steers the run."""
        self._hosts.append(PostgresStore(self.dsn, self.name, timings=timings))
        return self._hosts[-1]

    def host(
        self, timings: HostTimings = PATIENT, *, has_switch: bool = True, ordered: bool = True
    ) -> PostgresStore:
        """Somebody who works on it."""
        store = self.desk(timings)
        store.register(host_named("here", has_switch=has_switch, ordered=ordered))
        return store

    def reader(self) -> PostgresReader:
        return PostgresReader(self.dsn, self.name)

    def close(self) -> None:
        for host in self._hosts:
            host.close()


def checkpoint(folder: Path, operations: int, org_id: str = "o1") -> Path:
    """Plan a run in a checkpoint."""
    path = folder / f"{next(_names)}.sqlite3"
    planned = SqlitePlan(path)
    for number in range(operations):
        planned.add(Target(number + 2, {"assetId": f"A{number}"}), number)
    contents = {**manifest().plan.contents, "connection": {"org_id": org_id}}
    planned.finish(manifest(plan=PlanHash(contents)))
    return path


@pytest.fixture
def run(tmp_path: Path, shared_store: str) -> Iterator[SharedRun]:
    with closing(SharedRun(tmp_path, shared_store, 6)) as run:
        yield run


class Waiting:
    """Does something in a thread that has to wait for a lock, and returns when it waits."""

    def __init__(self, store: PostgresStore, work: Callable[[], object]) -> None:
        self.result: object = None

        def in_thread() -> None:
            with store.transaction():
                self.result = work()

        self._thread = threading.Thread(target=in_thread)
        pid = store._commits.db.info.backend_pid
        self._thread.start()
        with closing(psycopg.connect(store._commits.db.info.dsn, autocommit=True)) as db:
            query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            until_s = time.monotonic() + LIMIT_S
            while db.execute(query, (pid,)).fetchone() != (True,):
                assert time.monotonic() < until_s
                time.sleep(0.002)

    def join(self) -> object:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self.result


def host_named(name: str, *, has_switch: bool = True, ordered: bool = True) -> Host:
    return Host(name, 1, "", "", "1", has_switch, ordered)


def take_over(store: PostgresStore, silent: PostgresStore) -> int | None:
    """Fence a host that has been silent for long."""
    [seen] = [each for each in store.others() if each.id == silent.owner]
    return store.commit(lambda: leases.fence(store._commits.db, seen, "here"))


def ids(store: PostgresStore, most: int) -> list[int]:
    return [operation.id for operation in store.claim(most)]


def settled(operation_id: int) -> Change:
    return Change(operation_id, State.IN_FLIGHT, State.SUCCEEDED, 1, finished_at=1.5)


# ---- several hosts


def test_hosts_claim_different_operations_and_do_not_wait_for_each_other(run: SharedRun) -> None:
    one, other = run.host(), run.host()
    with one.transaction():
        assert ids(one, 2) == [1, 2]
        with other.transaction():
            assert ids(other, 2) == [3, 4]
        assert ids(one, 9) == [5, 6]
    with other.transaction():
        assert ids(other, 9) == []


def test_what_a_host_has_given_back_is_claimed_by_those_who_are_past_it(run: SharedRun) -> None:
    one, other = run.host(), run.host()
    with one.transaction():
        assert ids(one, 2) == [1, 2]
    with other.transaction():
        assert ids(other, 9) == [3, 4, 5, 6]
    assert take_over(other, one) == 2
    with other.transaction():
        assert [(each.id, each.in_doubt) for each in other.claim(9)] == [(1, True), (2, True)]


def test_nothing_is_recorded_by_a_host_whose_operation_was_taken_over(run: SharedRun) -> None:
    zombie, other = run.host(), run.host()
    with zombie.transaction():
        zombie.claim(2)
    take_over(other, zombie)
    with other.transaction():
        other.claim(1)
    for operation_id in (1, 2):  # claimed again, and not yet
        with pytest.raises(LeaseLostError):
            zombie.commit(lambda id_=operation_id: zombie.record([settled(id_)]))
    with other.transaction():
        other.record([settled(1)])
    with closing(run.reader()) as reader:
        assert reader.counts() == {State.SUCCEEDED: 1, State.IN_FLIGHT: 1, State.PLANNED: 4}


def test_nothing_is_claimed_after_a_pause_has_committed(run: SharedRun) -> None:
    operator, host = run.desk(), run.host()
    with operator.transaction():
        operator.add_control(1.0, "ann@ops1", "", Verb.PAUSE)
        claiming = Waiting(host, lambda: [each.verb for each in host.controls()])
    assert claiming.join() == [Verb.PAUSE]


def test_a_pause_commits_after_the_claims_that_did_not_see_it(run: SharedRun) -> None:
    operator, host = run.desk(), run.host()
    with host.transaction():
        assert host.controls() == []
        pausing = Waiting(operator, lambda: operator.add_control(1.0, "a", "", Verb.PAUSE))
        assert ids(host, 1) == [1]
    assert pausing.join() == 1


def test_a_pause_is_not_overtaken_by_hosts_that_claim_all_the_time(run: SharedRun) -> None:
    operator, one, other = run.desk(), run.host(), run.host()
    with one.transaction():
        one.controls()
        pausing = Waiting(operator, lambda: operator.add_control(1.0, "a", "", Verb.PAUSE))
        claiming = Waiting(other, lambda: [each.verb for each in other.controls()])
    assert pausing.join() == 1
    assert claiming.join() == [Verb.PAUSE]


def test_the_events_of_several_hosts_are_one_chain(run: SharedRun) -> None:
    one, other = run.host(), run.host()
    with one.transaction():
        one.add_event(event_log.retried(1.0, 1))
        adding = Waiting(other, lambda: other.add_event(event_log.retried(2.0, 2)))
        one.add_event(event_log.retried(3.0, 3))
    adding.join()
    events = one.events()
    assert [event.data["operations"] for event in events] == [1, 3, 2]
    assert chain_fault(event.line for event in events) == ""


def test_operations_that_hosts_add_at_the_same_time_have_different_ids(run: SharedRun) -> None:
    one, other = run.host(), run.host()
    for host in (one, other):
        with host.transaction():
            host.claim(1)
    page = {"PageNo": 2}
    with one.transaction():
        one.record([settled(1)._replace(next_page=page)])
        adding = Waiting(other, lambda: other.record([settled(2)._replace(next_page=page)]))
    adding.join()
    with one.transaction():
        assert ids(one, 9) == [3, 4, 5, 6, 7, 8]


def test_a_target_does_not_lead_to_the_same_operation_twice(run: SharedRun) -> None:
    """Such as when a failed page is read again, or two hosts find the same certificate."""
    host = run.host()
    with host.transaction():
        host.claim(1)
    found = [{"assetId": "A0", "certSn": number} for number in (7, 8, 9)]
    for certificates in (found[:2], found):
        selected = Change(1, State.IN_FLIGHT, State.PLANNED, 0, 1, fan_out=certificates)
        with host.transaction():
            host.record([selected])
            host.record([Change(1, State.PLANNED, State.IN_FLIGHT, 1, 1)])
    with closing(run.reader()) as reader:
        added = [record.fields for record in reader.records() if record.id > 6]
    assert added == found[1:]


def test_a_host_that_stands_still_in_a_transaction_does_not_hold_up_the_others(
    run: SharedRun,
) -> None:
    operator, still = run.desk(), run.host(scaled(0.05))

    def stand_still() -> None:
        with still.transaction():
            still.controls()
            with operator.transaction():  # waits until the server ends the other connection
                operator.add_control(1.0, "ann@ops1", "", Verb.PAUSE)
            still.claim(1)

    with pytest.raises(StoreError, match="idle-in-transaction"):
        stand_still()


def test_a_cap_holds_over_all_hosts(run: SharedRun) -> None:
    one, other = run.host(), run.host()
    with one.transaction():
        assert len(one.claim(2, most_begun=3)) == 2
        claiming = Waiting(other, lambda: len(other.claim(2, most_begun=3)))
    assert claiming.join() == 1


# ---- publishing


def test_a_plan_is_published_once(tmp_path: Path, run: SharedRun) -> None:
    assert not publish(checkpoint(tmp_path, 6), run.dsn, run.name)
    with pytest.raises(RunDirectoryError, match=r"another plan: connection.org_id was 'o1'"):
        publish(checkpoint(tmp_path, 6, org_id="o2"), run.dsn, run.name)
    with closing(run.reader()) as reader:
        assert reader.counts() == {State.PLANNED: 6}


def test_nothing_is_left_of_a_plan_that_was_not_published_to_the_end(
    tmp_path: Path, shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Iterator[bytes]:
        yield b"0\t1\t2\t0\t{}\t\\N\n"
        raise KeyboardInterrupt

    path = checkpoint(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish(path, shared_store, "interrupted")
    with pytest.raises(StoreError, match="no run 'interrupted'"):
        PostgresStore(shared_store, "interrupted")
    assert publish(path, shared_store, "interrupted")
    with closing(PostgresReader(shared_store, "interrupted")) as reader:
        assert reader.counts() == {State.PLANNED: 3}


def test_runs_in_one_database_do_not_see_each_other(tmp_path: Path, run: SharedRun) -> None:
    with closing(SharedRun(tmp_path, run.dsn, 1)) as second:
        host = second.host()
        with host.transaction():
            host.claim(1)
            host.record([settled(1)])
            host.add_event(event_log.retried(1.0, 1))
            host.add_history([HistoryEntry(1, HistoryEvent.ATTEMPT, 1, 1.0, 2.0)])
        with closing(run.reader()) as reader:
            assert reader.counts() == {State.PLANNED: 6}
            assert (reader.events(), reader.history([1])) == ([], [])
            assert list(reader.busy_buckets(1)) == []


def test_a_plan_of_which_nothing_was_sent_can_be_replaced(tmp_path: Path, run: SharedRun) -> None:
    host = run.desk()
    with host.transaction():
        host.add_control(1.0, "ann@ops1", "", Verb.PAUSE)
    discard(run.dsn, run.name, host.number)
    assert not run_exists(run.dsn, run.name)
    assert publish(checkpoint(tmp_path, 2, org_id="o2"), run.dsn, run.name)
    discard(run.dsn, run.name, host.number)  # by another host, which comes too late
    host = run.desk()
    with host.transaction():
        assert not host.controls()  # they are with the plan before
        host.claim(1)
    with pytest.raises(RunDirectoryError, match="has begun"):
        discard(run.dsn, run.name, host.number)


def test_a_plan_on_which_a_host_works_is_not_replaced(run: SharedRun) -> None:
    with closing(psycopg.connect(run.dsn, autocommit=True)) as db:
        lease = """
            INSERT INTO bulkcert.lease
                (id, run, host, pid, version, has_switch, ordered, begun_at, beat_at)
            SELECT gen_random_uuid(), id, 'ops2', 7, '1', true, true, bulkcert.now_s(),
                bulkcert.now_s() - %s
            FROM bulkcert.run WHERE name = %s
        """
        db.execute(lease, (0, run.name))
        assert run_is_worked_on(run.dsn, run.name)
        number = run.desk().number
        with pytest.raises(RunDirectoryError, match="ops2 works on it"):
            discard(run.dsn, run.name, number)
        db.execute("UPDATE bulkcert.lease SET beat_at = beat_at - 100 WHERE run = %s", (number,))
        assert not run_is_worked_on(run.dsn, run.name)
        discard(run.dsn, run.name, number)  # a host that has died
        states = db.execute("SELECT state FROM bulkcert.lease WHERE run = %s", (number,))
        assert states.fetchall() == [("fenced",)]


# ---- the server


def test_texts_that_the_server_can_not_store_do_not_stop_the_run(run: SharedRun) -> None:
    host = run.host()
    with host.transaction():
        host.claim(2)
        nul = "a\0b"
        result = {"remarks": [nul], "other_valid": [nul]}
        host.record([settled(1)._replace(message=nul, code=nul, result=result), settled(2)])
        host.add_history([HistoryEntry(1, HistoryEvent.ATTEMPT, 1, 1.0, 2.0, message=nul)])
    with closing(run.reader()) as reader:
        first = next(reader.records([State.SUCCEEDED]))
        assert (first.message, first.code, first.result) == ("a␀b", nul, result)
        assert reader.remarks() == {"a\ufffdb": 1}
        assert reader.still_valid(["assetId"], "certSn") == 1


def test_streams_of_many_rows_are_complete_and_in_order(
    run: SharedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkcert.store.postgresql.reader._ROWS_PER_PART", 2)
    host = run.host()
    with host.transaction():
        host.claim(3)
        host.record([settled(3)._replace(next_page={"PageNo": 2})])
        host.add_history([HistoryEntry(n, HistoryEvent.ATTEMPT, 1, 1.0, 2.0) for n in (3, 1, 2)])
    with closing(run.reader()) as reader:
        assert [record.id for record in reader.records()] == [1, 2, 3, 7, 4, 5, 6]
        assert [entry.operation_id for _, entry in reader.whole_history()] == [3, 1, 2]
        assert len(list(reader.planned_fields())) == 7


def test_a_transaction_that_has_failed_is_not_taken_for_committed(run: SharedRun) -> None:
    host = run.host()

    def fail_unnoticed() -> None:
        with host.transaction():
            host.claim(1)
            with suppress(psycopg.Error):
                host._commits.db.execute("SELECT 1 / 0")

    with pytest.raises(StoreError, match="ROLLBACK"):
        fail_unnoticed()
    with host.transaction():
        assert ids(host, 1) == [1]


def test_a_database_of_another_version_is_not_touched(postgres: str) -> None:
    with (
        new_database(postgres) as dsn,
        closing(psycopg.connect(dsn, autocommit=True)) as db,
    ):
        assert migrate(db) == SCHEMA_VERSION  # again: nothing to do
        db.execute(
            "UPDATE bulkcert.schema_version SET version = version + 1, minimum = version + 1"
        )
        for use in (lambda: migrate(db), lambda: PostgresStore(dsn, "job")):
            with pytest.raises(StoreError, match="Use the version"):
                use()
        db.execute("DROP SCHEMA bulkcert CASCADE")
        with pytest.raises(RunDirectoryError, match="has no tables"):
            PostgresReader(dsn, "job")


def test_a_server_that_can_not_be_reached_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Make sure that the database"):
        PostgresStore(f"postgresql:///?host={tmp_path}", "job")


def test_what_was_committed_survives_a_crash_of_the_server(tmp_path: Path) -> None:
    with closing(PostgresServer()) as server:
        server.start()
        with new_database(server.url) as dsn, closing(SharedRun(tmp_path, dsn, 3)) as run:
            host = run.host()
            with host.transaction():
                host.claim(2)

            def record_in_a_crash() -> None:
                with host.transaction():
                    host.record([settled(1)])
                    server.crash()

            with pytest.raises(StoreError, match="can't be used"):
                record_in_a_crash()
            server.start()
            with closing(run.reader()) as reader:
                assert reader.counts() == {State.IN_FLIGHT: 2, State.PLANNED: 1}


_FOREVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from postgres import PostgresServer
server = PostgresServer()
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


def test_the_server_of_the_tests_ends_with_them_however_they_end() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _FOREVER, str(Path(__file__).parent)], stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        pid, _, folder = tests.stdout.readline().decode().strip().partition(" ")
        tests.send_signal(signal.SIGKILL)
    until_s = time.monotonic() + LIMIT_S
    while Path(folder).exists():
        assert time.monotonic() < until_s
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
