"""The contract of a durable store, for each one that there is, and what SQLite adds to it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from stores import manifest

from bulkcert.errors import RunDirectoryError, StoreError
from bulkcert.model import Fields, State, Target
from bulkcert.store.base import Change, Session, Store, StoreReader
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore


class SqliteKind:
    """Opens the SQLite store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoint.sqlite3"
        self._open: list[Callable[[], None]] = []

    def plan(self, rows: int) -> None:
        """Make a store with so many operations, on lines 2, 3, ..."""
        self.plan_of([{"assetId": f"A{number}"} for number in range(rows)])

    def plan_of(self, fields: Sequence[Fields]) -> None:
        """Make a store with an operation for each."""
        plan = SqlitePlan(self.path)
        for number, of_one in enumerate(fields):
            plan.add(Target(number + 2, dict(of_one)), number)
        plan.finish(manifest())

    def checkpoint(self) -> Store:
        store = SqliteStore(self.path)
        self._open.append(store.close)
        return store

    def reader(self) -> StoreReader:
        store = SqliteReader(self.path)
        self._open.append(store.close)
        return store

    def close(self) -> None:
        for close in self._open:
            close()


@pytest.fixture(params=[SqliteKind])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteKind]:
    kind: SqliteKind = request.param(tmp_path)
    yield kind
    kind.close()


def settled(operation_id: int, state: State = State.SUCCEEDED, **more: object) -> Change:
    return Change(operation_id, State.IN_FLIGHT, state, 1, **{"finished_at": 1.5} | more)  # type: ignore[arg-type]


def claimed(store: Store, most: int) -> list[int]:
    with store.transaction():
        return [operation.id for operation in store.claim(most)]


def test_operations_are_claimed_in_target_order_and_once(kind: SqliteKind) -> None:
    kind.plan(5)
    store = kind.checkpoint()
    assert claimed(store, 2) == [1, 2]
    assert claimed(store, 9) == [3, 4, 5]
    assert claimed(store, 9) == []


def test_what_is_claimed_is_what_was_planned_whatever_is_in_it(kind: SqliteKind) -> None:
    names = ['a"b', "back\\slash", "émoji😀", "\u2028", "0001", "1e5", '{"a":1}', "quote's", "中文"]
    fields = [{"assetId": name, "certSn": 2**63 - 1 - n} for n, name in enumerate(names)]
    kind.plan_of(fields)
    for in_doubt in (False, True):  # again by a later process
        store = kind.checkpoint()
        with store.transaction():
            operations = store.claim(100)
        assert [operation.fields for operation in operations] == fields
        assert {operation.in_doubt for operation in operations} == {in_doubt}


def test_a_claim_is_in_flight_with_its_attempt_counted(kind: SqliteKind) -> None:
    kind.plan(2)
    store = kind.checkpoint()
    with store.transaction():
        [operation] = store.claim(1)
    assert (operation.state, operation.attempts, operation.in_doubt) == ("in_flight", 1, False)
    assert operation.first_sent_at
    reader = kind.reader()
    assert reader.counts() == {State.IN_FLIGHT: 1, State.PLANNED: 1}
    assert reader.attempts() == 1


def test_the_next_process_gets_what_was_in_flight_as_doubtful(kind: SqliteKind) -> None:
    kind.plan(3)
    first = kind.checkpoint()
    claimed(first, 2)
    with first.transaction():
        first.record([settled(1)])
    with (later := kind.checkpoint()).transaction():
        operations = later.claim(9)
    assert [(o.id, o.in_doubt, o.attempts) for o in operations] == [(2, True, 1), (3, False, 1)]


def test_a_change_that_finds_another_state_is_refused(kind: SqliteKind) -> None:
    kind.plan(2)
    store = kind.checkpoint()
    claimed(store, 1)
    with pytest.raises(StoreError, match="not in the state"), store.transaction():
        store.record([settled(1), settled(2)])
    assert kind.reader().counts() == {State.IN_FLIGHT: 1, State.PLANNED: 1}


def test_a_transaction_is_all_or_nothing(kind: SqliteKind) -> None:
    kind.plan(3)
    store = kind.checkpoint()
    claimed(store, 3)
    with pytest.raises(StoreError), store.transaction():
        _ = store.claim(9), store.record([settled(1)]), store.record([settled(1)])
    assert kind.reader().counts() == {State.IN_FLIGHT: 3}


def test_changes_are_applied_in_order(kind: SqliteKind) -> None:
    kind.plan(1)
    store = kind.checkpoint()
    claimed(store, 1)
    with store.transaction():
        store.record(
            [
                Change(1, State.IN_FLIGHT, State.PLANNED, 0),
                Change(1, State.PLANNED, State.IN_FLIGHT, 1),
                settled(1, State.FAILED, code=99400, message="no"),
            ]
        )
    [record] = kind.reader().records()
    assert (record.state, record.code, record.message) == (State.FAILED, 99400, "no")


@pytest.mark.parametrize("code", [None, 0, 99500, "Throttling.User", "0042"])
def test_what_was_recorded_comes_back_unchanged(kind: SqliteKind, code: int | str | None) -> None:
    kind.plan(1)
    store = kind.checkpoint()
    claimed(store, 1)
    result = {"certSN": "0042", "days": 3, "list": [None, "ä"]}
    with store.transaction():
        store.record(
            [
                settled(
                    1, code=code, message="été", request_id="r-1", result=result, finished_at=9.25
                )
            ]
        )
    [record] = kind.reader().records([State.SUCCEEDED])
    assert record.fields == {"assetId": "A0"}
    assert (record.line, record.attempts, record.finished_at) == (2, 1, 9.25)
    assert (record.code, record.message, record.request_id) == (code, "été", "r-1")
    assert record.result == result


def test_a_target_that_is_split_keeps_its_line_and_its_place(kind: SqliteKind) -> None:
    kind.plan(2)
    store = kind.checkpoint()
    claimed(store, 2)
    parts = [{"assetId": "A0", "certSn": 1}, {"assetId": "A0", "certSn": 2}]
    with store.transaction():
        store.record([Change(1, State.IN_FLIGHT, State.PLANNED, 0, split=parts)])
    records = list(kind.reader().records())
    assert [(r.line, r.fields) for r in records] == [
        (2, parts[0]),
        (2, parts[1]),
        (3, {"assetId": "A1"}),
    ]
    assert claimed(store, 9) == [3]  # the part that was added


def test_progress_is_handed_to_the_next_process(kind: SqliteKind) -> None:
    kind.plan(1)
    store = kind.checkpoint()
    claimed(store, 1)
    with store.transaction():
        store.record([Change(1, State.IN_FLIGHT, State.PLANNED, 1, progress={"renewed": "7"})])
    with (later := kind.checkpoint()).transaction():
        [operation] = later.claim(1)
    assert operation.progress == {"renewed": "7"}
    assert not operation.in_doubt


def test_failed_ones_are_planned_again_and_unknown_ones_doubted_again(kind: SqliteKind) -> None:
    kind.plan(4)
    store = kind.checkpoint()
    claimed(store, 3)
    with store.transaction():
        store.record([settled(1), settled(2, State.FAILED), settled(3, State.UNKNOWN)])
        assert store.retry_failed() == 2
    with (later := kind.checkpoint()).transaction():
        operations = later.claim(9)
    assert [(o.id, o.in_doubt, o.attempts) for o in operations] == [
        (2, False, 1),
        (3, True, 0),
        (4, False, 1),
    ]


def test_a_reader_sees_commits_of_a_writer_and_one_moment_in_a_snapshot(kind: SqliteKind) -> None:
    kind.plan(2)
    reader, store = kind.reader(), kind.checkpoint()
    with reader.snapshot():
        before = reader.counts()
        claimed(store, 1)
        assert reader.counts() == before == {State.PLANNED: 2}
    assert reader.counts() == {State.PLANNED: 1, State.IN_FLIGHT: 1}


def test_sessions_and_the_manifest_come_back(kind: SqliteKind) -> None:
    kind.plan(1)
    store = kind.checkpoint()
    session = Session(1.0, 2.0, requests=5, throttled=1, busiest_second=4, rate=2.5, note="n")
    with store.transaction():
        store.note_session(session)
        session.requests = 6
        store.note_session(session)
    reader = kind.reader()
    assert reader.sessions() == [session]
    assert reader.manifest() == manifest()


def test_reasons_are_counted_the_commonest_first(kind: SqliteKind) -> None:
    kind.plan(4)
    store = kind.checkpoint()
    claimed(store, 4)
    with store.transaction():
        store.record(
            [settled(n, State.FAILED, code=11404, message="not found") for n in (1, 2)]
            + [settled(3, State.UNKNOWN, message="lost"), settled(4)]
        )
    assert kind.reader().reasons(5) == [(2, 11404, "not found"), (1, None, "lost")]


# ---- SQLite alone


def test_a_plan_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    plan = SqlitePlan(tmp_path / "checkpoint.sqlite3")
    plan.add(Target(2, {"assetId": "A"}), 1)
    plan.discard()
    assert list(tmp_path.iterdir()) == []


def test_commits_are_durable_by_wal_and_full_sync(tmp_path: Path) -> None:
    kind = SqliteKind(tmp_path)
    kind.plan(1)
    with closing(SqliteStore(kind.path)) as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    kind = SqliteKind(tmp_path)
    kind.plan(1)
    with closing(sqlite3.connect(kind.path)) as db:
        db.execute("PRAGMA user_version=999")
    with pytest.raises(RunDirectoryError, match="schema version 999"):
        SqliteReader(kind.path)


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be one" * 99])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError):
        SqliteReader(path)


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests")
from bulkcert.store.sqlite import SqliteStore
from bulkcert.store.base import Change
store = SqliteStore(Path(sys.argv[1]))
with store.transaction():
    store.claim(5)
with store.transaction():
    store.record([Change(1, "in_flight", "succeeded", 1, finished_at=1.0)])
with store.transaction():
    store.record([Change(2, "in_flight", "succeeded", 1, finished_at=1.0)])
    os.kill(os.getpid(), 9)
"""


def test_a_kill_in_a_transaction_loses_that_transaction_and_nothing_before(tmp_path: Path) -> None:
    kind = SqliteKind(tmp_path)
    kind.plan(9)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(kind.path)], check=False)
    assert killed.returncode == -9
    counts = kind.reader().counts()
    kind.close()
    assert counts == {State.SUCCEEDED: 1, State.IN_FLIGHT: 4, State.PLANNED: 4}
