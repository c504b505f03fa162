"""What every store must do, for each store that there is and for the one that tests use.

A new store is one more class here, and nothing else in this file changes.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import orjson
import pytest
from stores import Disk, MemoryReader, MemoryStore, manifest

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.errors import StoreError
from bulkcert.fingerprints import fingerprint
from bulkcert.model import Change, Fields, HistoryEntry, HistoryEvent, Slowdown, State, Target
from bulkcert.rules.abort import Settled
from bulkcert.rules.gate import Standing
from bulkcert.store.base import Abort, Host, Session, Store, StoredApproval, StoreReader, kind_of
from bulkcert.store.postgresql import PostgresReader, PostgresStore, leases, publish
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore
from bulkcert.store.timeline import MOST_MS, Requests, latency_floor


class Place(Protocol):
    """Where a run is stored. Each store that is opened there is another process."""

    def plan(self, targets: Sequence[Target]) -> None:
        """Plan a run with an operation for each target."""

    def store(self) -> Store:
        """Open the store for a run."""

    def reader(self) -> StoreReader:
        """Open the store for reading."""

    def close(self) -> None:
        """Close everything that was opened."""


class SqlitePlace:
    """A folder with a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoint.sqlite3"
        self._open: list[Callable[[], None]] = []

    def plan(self, targets: Sequence[Target]) -> None:
        plan_checkpoint(self.path, targets)

    def store(self) -> Store:
        store = SqliteStore(self.path)
        self._open.append(store.close)
        return store

    def reader(self) -> StoreReader:
        reader = SqliteReader(self.path)
        self._open.append(reader.close)
        return reader

    def close(self) -> None:
        for close in self._open:
            close()


class PostgresPlace:
    """A run in a database that all tests of this process share."""

    _names = itertools.count(1)

    def __init__(self, folder: Path, dsn: str) -> None:
        self._checkpoint, self._dsn = folder / "checkpoint.sqlite3", dsn
        self._run = f"job-{next(self._names)}"
        self._open: list[Callable[[], None]] = []

    def plan(self, targets: Sequence[Target]) -> None:
        plan_checkpoint(self._checkpoint, targets)
        assert publish(self._checkpoint, self._dsn, self._run)

    def store(self) -> Store:
        store = PostgresStore(self._dsn, self._run)
        self._open.append(store.close)
        store.register(Host("here", 1, "", "", "1", has_switch=True, ordered=True))
        for other in store.others():  # all of them are gone
            store.commit(lambda other=other: leases.fence(store._commits.db, other, "here"))
        return store

    def reader(self) -> StoreReader:
        reader = PostgresReader(self._dsn, self._run)
        self._open.append(reader.close)
        return reader

    def close(self) -> None:
        for close in self._open:
            close()


class MemoryPlace:
    """The memory of this process."""

    def __init__(self, folder: Path) -> None:
        self._disk = Disk()

    def plan(self, targets: Sequence[Target]) -> None:
        self._disk = Disk.planned(targets)

    def store(self) -> Store:
        return MemoryStore(self._disk)

    def reader(self) -> StoreReader:
        return MemoryReader(self._disk)

    def close(self) -> None:
        """Nothing is open."""


def plan_checkpoint(path: Path, targets: Sequence[Target]) -> None:
    """Plan a run in a checkpoint."""
    plan = SqlitePlan(path)
    for number, target in enumerate(targets):
        plan.add(target, number)
    plan.finish(manifest())


@pytest.fixture(
    params=[SqlitePlace, MemoryPlace, pytest.param(PostgresPlace, marks=pytest.mark.system)]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place: Place
    if request.param is PostgresPlace:
        place = PostgresPlace(tmp_path, request.getfixturevalue("shared_store"))
    else:
        place = request.param(tmp_path)
    yield place
    place.close()


def plan(place: Place, count: int) -> None:
    """Plan this many operations, on lines 2, 3, ..."""
    plan_fields(place, [{"assetId": f"A{number}"} for number in range(count)])


def plan_fields(place: Place, fields: Sequence[Fields]) -> None:
    """Plan an operation for each of these targets, on lines 2, 3, ..."""
    place.plan([Target(line, dict(of_one)) for line, of_one in enumerate(fields, 2)])


def settled(operation_id: int, state: State = State.SUCCEEDED, **more: object) -> Change:
    return Change(operation_id, State.IN_FLIGHT, state, 1, **{"finished_at": 1.5} | more)  # type: ignore[arg-type]


def settle_next(store: Store, state: State, **more: object) -> None:
    """Claim the next operation, and settle it."""
    (number,) = claimed(store, 1)
    with store.transaction():
        store.record([settled(number, state, **more)])


def claimed(store: Store, most: int) -> list[int]:
    with store.transaction():
        return [operation.id for operation in store.claim(most)]


def test_operations_are_claimed_in_target_order_and_once(place: Place) -> None:
    plan(place, 5)
    store = place.store()
    assert claimed(store, 2) == [1, 2]
    assert claimed(store, 9) == [3, 4, 5]
    assert claimed(store, 9) == []


def test_fields_are_claimed_as_they_were_planned_whatever_they_contain(place: Place) -> None:
    names = ['a"b', "back\\slash", "émoji😀", "\u2028", "0001", "1e5", '{"a":1}', "quote's", "中文"]
    fields = [{"assetId": name, "certSn": 2**63 - 1 - n} for n, name in enumerate(names)]
    plan_fields(place, fields)
    for in_doubt in (False, True):  # and again by a later process
        store = place.store()
        with store.transaction():
            operations = store.claim(100)
        assert [operation.fields for operation in operations] == fields
        assert {operation.in_doubt for operation in operations} == {in_doubt}


def test_a_claimed_operation_is_in_flight_and_its_attempt_is_counted(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    with store.transaction():
        [operation] = store.claim(1)
    assert (operation.state, operation.attempts, operation.in_doubt) == ("in_flight", 1, False)
    reader = place.reader()
    assert reader.counts() == {State.IN_FLIGHT: 1, State.PLANNED: 1}
    assert reader.attempts() == 1


def test_a_run_has_begun_with_its_first_claim_and_is_over_with_its_last_outcome(
    place: Place,
) -> None:
    plan(place, 2)
    reader = place.reader()
    assert (reader.is_begun(), reader.is_over()) == (False, False)
    store = place.store()
    with store.transaction():
        [first, second] = store.claim(2)
    assert (reader.is_begun(), reader.is_over()) == (True, False)
    with store.transaction():
        store.record([settled(first.id, State.SUCCEEDED)])
    assert (reader.is_begun(), reader.is_over()) == (True, False)
    with store.transaction():
        store.record([settled(second.id, State.FAILED)])
    assert (reader.is_begun(), reader.is_over()) == (True, True)


def test_a_run_whose_only_attempt_is_to_be_repeated_has_begun(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    with store.transaction():
        [operation] = store.claim(1)
        store.record([Change(operation.id, State.IN_FLIGHT, State.PLANNED, 1)])
    reader = place.reader()
    assert reader.counts() == {State.PLANNED: 2}
    assert (reader.is_begun(), reader.is_over()) == (True, False)


def test_a_claim_leaves_settled_operations_alone(place: Place) -> None:
    plan(place, 5)
    first = place.store()
    claimed(first, 5)
    states = (State.PLANNED, State.SUCCEEDED, State.FAILED, State.UNKNOWN)
    with first.transaction():
        first.record(
            [Change(number, State.IN_FLIGHT, state, 1) for number, state in enumerate(states, 1)]
        )
    assert claimed(place.store(), 9) == [1, 5]
    records = [(record.state, record.attempts) for record in place.reader().records()]
    assert records == [
        (State.IN_FLIGHT, 2),
        (State.SUCCEEDED, 1),
        (State.FAILED, 1),
        (State.UNKNOWN, 1),
        (State.IN_FLIGHT, 1),
    ]


def test_a_claim_at_a_step_that_begins_with_a_look_up_intends_nothing(place: Place) -> None:
    plan(place, 3)
    store = place.store()
    with store.transaction():
        store.claim(1)
        store.record([Change(1, State.IN_FLIGHT, State.PLANNED, 1, step=1)])
    with (later := place.store()).transaction():
        operations = later.claim(2, lookup_first=[1, 2])
    assert [(o.id, o.state, o.attempts, o.in_doubt) for o in operations] == [
        (1, State.PLANNED, 1, False),
        (2, State.IN_FLIGHT, 1, False),
    ]
    records = [(record.state, record.attempts) for record in place.reader().records()]
    assert records == [(State.PLANNED, 1), (State.IN_FLIGHT, 1), (State.PLANNED, 0)]
    with later.transaction():
        assert [o.id for o in later.claim(9, lookup_first=[1])] == [3]


def test_the_time_of_the_last_intent_is_kept_for_what_is_in_doubt(place: Place) -> None:
    plan(place, 2)
    first = place.store()
    before = time.time()
    with first.transaction():
        assert [o.sent_at for o in first.claim(2)] == [None, None]
    claimed_at = _sent_at(place)
    time.sleep(0.002)
    later = place.store()
    claimed(later, 2)
    with later.transaction():
        later.record([Change(1, State.IN_FLIGHT, State.IN_FLIGHT, 2)])
    repeated_at = _sent_at(place)
    assert claimed_at[0] == claimed_at[1]
    assert min(claimed_at) >= before or min(claimed_at) == 1.0  # the store in memory stands still
    assert repeated_at[1] == claimed_at[1]
    assert repeated_at[0] > claimed_at[0] or repeated_at[0] == 1.0


def _sent_at(place: Place) -> list[float]:
    with (store := place.store()).transaction():
        times = [operation.sent_at for operation in store.claim(9)]
    assert None not in times
    return [time for time in times if time]


def test_the_next_process_gets_operations_in_flight_as_in_doubt(place: Place) -> None:
    plan(place, 3)
    first = place.store()
    claimed(first, 2)
    with first.transaction():
        first.record([settled(1)])
    with (later := place.store()).transaction():
        operations = later.claim(9)
    assert [(o.id, o.in_doubt, o.attempts) for o in operations] == [(2, True, 1), (3, False, 1)]
    assert {o.state for o in operations} == {State.IN_FLIGHT}


def test_a_change_from_another_state_is_refused(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    claimed(store, 1)
    with pytest.raises(StoreError, match="not in the state"), store.transaction():
        store.record([settled(1), settled(2)])
    assert place.reader().counts() == {State.IN_FLIGHT: 1, State.PLANNED: 1}


def test_a_transaction_is_all_or_nothing(place: Place) -> None:
    plan(place, 3)
    store = place.store()
    claimed(store, 3)
    with pytest.raises(StoreError), store.transaction():
        _ = store.claim(9), store.record([settled(1)]), store.record([settled(1)])
    assert place.reader().counts() == {State.IN_FLIGHT: 3}


def test_a_store_can_be_used_after_a_transaction_that_failed(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    claimed(store, 1)
    with pytest.raises(StoreError), store.transaction():
        store.record([settled(1), settled(2)])
    with store.transaction():
        store.record([settled(1, State.FAILED)])
    assert place.reader().counts() == {State.FAILED: 1, State.PLANNED: 1}


def test_changes_are_applied_in_order(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    claimed(store, 1)
    with store.transaction():
        store.record(
            [
                Change(1, State.IN_FLIGHT, State.PLANNED, 0),
                Change(1, State.PLANNED, State.IN_FLIGHT, 1),
                settled(1, State.FAILED, code=99400, message="no"),
            ]
        )
    [record] = place.reader().records()
    assert (record.state, record.code, record.message) == (State.FAILED, 99400, "no")


@pytest.mark.parametrize("code", [None, 0, 99500, "Throttling.User", "0042"])
def test_what_was_recorded_comes_back_unchanged(place: Place, code: int | str | None) -> None:
    plan(place, 1)
    store = place.store()
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
    [record] = place.reader().records([State.SUCCEEDED])
    assert record.fields == {"assetId": "A0"}
    assert (record.line, record.attempts, record.finished_at) == (2, 1, 9.25)
    assert (record.code, record.message, record.request_id) == (code, "été", "r-1")
    assert record.result == result


def test_a_target_that_is_fanned_out_keeps_its_line_and_its_place(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    claimed(store, 2)
    parts = [{"assetId": "A0", "certSn": 1}, {"assetId": "A0", "certSn": 2}]
    with store.transaction():
        store.record(
            [
                Change(
                    *(1, State.IN_FLIGHT, State.PLANNED, 0),
                    step=1,
                    step_data={"known": [7]},
                    fan_out=parts,
                )
            ]
        )
    records = list(place.reader().records())
    assert [(r.line, r.fields) for r in records] == [
        (2, parts[0]),
        (2, parts[1]),
        (3, {"assetId": "A1"}),
    ]
    with store.transaction():
        [added] = store.claim(9)
    assert (added.id, added.fields, added.step) == (3, parts[1], 1)
    assert added.step_data == {"known": [7]}
    with (later := place.store()).transaction():
        assert [(o.id, o.step) for o in later.claim(9)] == [(1, 1), (2, 0), (3, 1)]


def test_a_next_page_is_planned_on_the_same_target_from_the_first_step(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    claimed(store, 2)
    page = {"assetId": "A0", "PageNo": 2}
    with store.transaction():
        store.record([settled(1, step=1, next_page=page)])
        [added] = store.claim(9)
    assert (added.id, added.fields, added.step, added.state) == (3, page, 0, "in_flight")
    records = [(record.line, record.fields) for record in place.reader().records()]
    assert records == [(2, {"assetId": "A0"}), (2, page), (3, {"assetId": "A1"})]


def test_step_and_step_data_are_handed_to_the_next_process(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    claimed(store, 1)
    with store.transaction():
        store.record(
            [Change(1, State.IN_FLIGHT, State.PLANNED, 1, step=2, step_data={"certSN": "7"})]
        )
    with (later := place.store()).transaction():
        [operation] = later.claim(1)
    assert (operation.step, operation.step_data) == (2, {"certSN": "7"})
    assert not operation.in_doubt


def test_retry_failed_plans_failed_operations_and_doubts_flawed_and_unknown_ones(
    place: Place,
) -> None:
    plan(place, 5)
    store = place.store()
    claimed(store, 4)
    states = (State.SUCCEEDED, State.FAILED, State.FLAWED, State.UNKNOWN)
    with store.transaction():
        store.record([settled(number, state) for number, state in enumerate(states, 1)])
        assert store.retry_failed() == 3
    with (later := place.store()).transaction():
        operations = later.claim(9)
    assert [(o.id, o.in_doubt, o.attempts) for o in operations] == [
        (2, False, 1),
        (3, True, 0),
        (4, True, 0),
        (5, False, 1),
    ]


def test_a_reader_sees_commits_at_once_but_one_moment_in_a_snapshot(place: Place) -> None:
    plan(place, 2)
    reader, store = place.reader(), place.store()
    with reader.snapshot():
        before = reader.counts()
        claimed(store, 1)
        assert reader.counts() == before == {State.PLANNED: 2}
    assert reader.counts() == {State.PLANNED: 1, State.IN_FLIGHT: 1}


def test_sessions_and_the_manifest_come_back(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    session = Session(1.0, 2.0, requests=5, throttled=1, busiest_second=4, rate=2.5, note="n")
    session.retried = {"99500": 3, "no_response": 1}
    session.slowdown = Slowdown(pause_s=12.5, share=0.25)
    session.left_s = 90.5
    session.control, session.under_way, session.open_requests = 3, 131, 7
    session.reasons = ("paused (by ann@ops1)", "waiting (go canary)")
    with store.transaction():
        store.note_session(session)
        session.requests = 6
        store.note_session(session)
    reader = place.reader()
    [stored] = reader.sessions()
    if store.shared:  # no two hosts have the same clock
        stored.started_at, stored.updated_at = session.started_at, session.updated_at
    assert stored == session
    assert reader.manifest() == manifest()


def test_the_other_columns_of_a_target_stay_with_all_of_its_operations(place: Place) -> None:
    extra = {"Site": "Köln", "risk": 3}
    place.plan([Target(2, {"assetId": "A"}, extra), Target(3, {"assetId": "B"})])
    store = place.store()
    assert claimed(store, 2) == [1, 2]
    with store.transaction():
        found = [{"assetId": "A", "certSn": 1}, {"assetId": "A", "certSn": 2}]
        store.record([Change(1, State.IN_FLIGHT, State.PLANNED, 0, 1, fan_out=found)])
        store.record([settled(2, next_page={"assetId": "B", "PageNo": 2})])
    assert [(record.fields, dict(record.extra)) for record in place.reader().records()] == [
        (found[0], extra),
        (found[1], extra),
        ({"assetId": "B"}, {}),
        ({"assetId": "B", "PageNo": 2}, {}),
    ]


def test_the_history_of_an_operation_comes_back_in_order(place: Place) -> None:
    plan(place, 3)
    store = place.store()
    claimed(store, 3)
    entries = [
        HistoryEntry(
            *(1 + number % 2, HistoryEvent.LOOK_UP if number % 3 else HistoryEvent.ATTEMPT, 1),
            *(None if number % 5 else number + 0.25, number + 0.5, "10.0.0.1", "done"),
            *(0 if number % 2 else "A.B", f"message {number}", f"r{number}"),
        )
        for number in range(120)
    ]
    for part in (entries[:100], [], entries[100:]):
        with store.transaction():
            store.add_history(part)
    reader = place.reader()
    assert reader.history([1]) == entries[::2]
    assert reader.history([1, 2]) == entries
    assert reader.history([3]) == []
    lines = {record.id: record.line for record in reader.records()}
    assert list(reader.whole_history()) == [(lines[each.operation_id], each) for each in entries]


def test_the_planned_fields_have_the_order_in_which_operations_run(place: Place) -> None:
    plan(place, 3)
    fields = [record.fields for record in sorted(place.reader().records())]
    assert [orjson.loads(line) for line in place.reader().planned_fields()] == fields


def test_requests_are_counted_by_time_kind_and_latency(place: Place) -> None:
    plan(place, 3)
    store = place.store()
    claimed(store, 3)
    attempt, look_up = HistoryEvent.ATTEMPT, HistoryEvent.LOOK_UP
    with store.transaction():
        store.record([settled(1, finished_at=19.9), settled(2, State.FAILED, finished_at=1002.0)])
        store.add_history(
            [
                HistoryEntry(1, attempt, 1, 10.0, 10.05, "", "throttled"),
                HistoryEntry(1, attempt, 1, 14.9, 15.9, "", "done"),
                HistoryEntry(2, attempt, 1, 14.2, 15.201, "", "done"),
                HistoryEntry(2, look_up, 1, 15.0, 14.0, "", "holds"),  # the clock was set back
                HistoryEntry(2, attempt, 1, None, 15.0, "", "not_sent"),
                HistoryEntry(3, HistoryEvent.TAKEN_OVER, 1, 15.0, 15.0),
                HistoryEntry(3, attempt, 1, 1000.0, 1e9, "", "in_doubt"),
            ]
        )
    reader = place.reader()
    assert list(reader.requests_by_time(5)) == [
        Requests(2, attempt, False, 992, 2),
        Requests(2, attempt, True, 50, 1),
        Requests(3, look_up, False, 0, 1),
        Requests(200, attempt, False, latency_floor(MOST_MS), 1),
    ]
    assert list(reader.busiest_seconds(5)) == [(2, 2), (3, 1), (200, 1)]
    assert list(reader.settled_by_time(5)) == [(3, State.SUCCEEDED, 1), (200, State.FAILED, 1)]
    assert list(reader.busy_buckets(5)) == [2, 3, 200]
    assert list(reader.busy_buckets(1000)) == [0, 1]


def test_latencies_are_grouped_in_the_same_way_everywhere(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    latencies = [*range(200), *(2**n + d for n in range(8, 28) for d in (-1, 0, 1)), 2**40]
    with store.transaction():
        store.add_history(
            [
                HistoryEntry(1, HistoryEvent.ATTEMPT, 1, 2.0, 2.0 + ms / 1000, "", "done")
                for ms in latencies
            ]
        )
    expected = Counter(map(latency_floor, latencies))
    found = {each.latency_ms: each.many for each in place.reader().requests_by_time(1)}
    assert found == expected


def test_what_is_put_back_to_work_has_that_in_its_history(place: Place) -> None:
    plan(place, 3)
    store = place.store()
    claimed(store, 3)
    with store.transaction():
        store.record([settled(1, State.FAILED), settled(2), settled(3, State.UNKNOWN)])
        store.retry_failed()
    entries = place.reader().history([1, 2, 3])
    assert [(each.operation_id, each.event, each.attempt) for each in entries] == [
        (1, HistoryEvent.RETRIED, 1),
        (3, HistoryEvent.RETRIED, 1),
    ]


def test_records_can_be_found_by_what_their_targets_contain(place: Place) -> None:
    place.plan(
        [
            Target(2, {"assetId": "A1", "certSn": 17}),
            Target(3, {"assetId": "A2"}, {"Site": 'Köln "Süd"'}),
            Target(4, {"assetId": "B"}),
        ]
    )
    reader = place.reader()

    def found(*texts: str) -> list[int]:
        return [record.line for record in reader.records(containing=texts)]

    assert found("A1") == found("17") == [2]
    assert found('Köln "Süd"') == [3]
    assert found("B", "A1") == [2, 4]
    assert found("C") == []
    assert found() == [2, 3, 4]


def test_sessions_come_in_the_order_in_which_they_began_whatever_the_clock_said(
    place: Place,
) -> None:
    plan(place, 1)
    for number, started_at in enumerate([100.0, 50.0, 100.0]):  # it is set back, and again forward
        store = place.store()
        for requests in (0, number):
            with store.transaction():
                store.note_session(Session(started_at, started_at + 1, requests=requests))
        store.close()
    assert [session.requests for session in place.reader().sessions()] == [0, 1, 2]


def test_a_run_without_operations_has_nothing_to_report(place: Place) -> None:
    plan(place, 0)
    reader = place.reader()
    assert (reader.counts(), reader.attempts(), reader.sessions()) == ({}, 0, [])
    assert (reader.is_begun(), reader.is_over()) == (True, True)
    assert (reader.hosts(), reader.busiest_second()) == ([], 0)
    assert (reader.reasons(5), list(reader.records())) == ([], [])


def test_reasons_are_counted_most_frequent_first(place: Place) -> None:
    plan(place, 4)
    store = place.store()
    claimed(store, 4)
    with store.transaction():
        store.record(
            [settled(n, State.FAILED, code=11404, message="not found") for n in (1, 2)]
            + [settled(3, State.UNKNOWN, message="lost"), settled(4)]
        )
    reader = place.reader()
    assert reader.reasons(5) == [(2, 11404, "not found"), (1, None, "lost")]
    assert reader.reasons(1) == [(2, 11404, "not found")]
    assert reader.kinds_of_reasons() == 2


def test_messages_about_different_devices_are_one_reason(place: Place) -> None:
    plan(place, 4)
    store = place.store()
    claimed(store, 4)
    with store.transaction():
        store.record(
            [
                settled(n, State.FAILED, code=99400, message=f"A{n} has no certificate 0{n}f.")
                for n in (1, 2, 3)
            ]
            + [settled(4, State.FAILED, code=0, message="A4 has no certificate 04f.")]
        )
    reader = place.reader()
    assert reader.reasons(5) == [
        (3, 99400, "… has no certificate …"),
        (1, 0, "A4 has no certificate 04f."),
    ]
    assert reader.kinds_of_reasons() == 2


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("", ""),
        ("Device cannot be found", "Device cannot be found"),
        ("certificate 1000 is not one of the 12 here", "certificate … is not one of the … here"),
        ("no response within 30 s", "no response within … s"),
        ("request e3391ff8-19ba-4809-b944-c1b29f468af9: no", "request … no"),
        ("the new one, 0xAF12, expires 2027-01-01T00:00:00Z", "the new one, …, expires …"),
    ],
)
def test_the_kind_of_a_message_leaves_out_every_word_with_a_digit(message: str, kind: str) -> None:
    assert kind_of(message) == kind
    assert kind_of("a" * 100_000) == "a" * 100_000  # in linear time


def test_remarks_are_counted_by_name(place: Place) -> None:
    plan(place, 5)
    store = place.store()
    claimed(store, 5)
    results = [
        {"remarks": ["no_ca", "other_validity"], "certSN": "1"},
        {"remarks": ["no_ca"]},
        {"certSN": '"remarks"'},
        None,
        {"certificates": [{"remarks": ["no_ca"]}]},
    ]
    with store.transaction():
        store.record([settled(n, result=result) for n, result in enumerate(results, 1)])
    assert place.reader().remarks() == {"no_ca": 2, "other_validity": 1}


def test_devices_that_can_still_connect_are_counted_once(place: Place) -> None:
    """Apart from those whose other certificates the run has revoked as well."""
    found: list[tuple[Fields, State, list[str] | None]] = [
        ({"assetId": "A1", "certSn": 1}, State.ALREADY_DONE, ["2"]),  # revoked below
        ({"assetId": "A1", "certSn": 2}, State.SUCCEEDED, None),
        ({"assetId": "A2", "certSn": 1}, State.ALREADY_DONE, ["2", "3"]),
        ({"assetId": "A2", "certSn": 2}, State.SUCCEEDED, ["3"]),
        ({"productKey": "P", "deviceKey": "D", "certSn": 1}, State.ALREADY_DONE, ["2"]),
        ({"productKey": "P", "deviceKey": "D", "certSn": 2}, State.FAILED, ["1"]),
        ({"assetId": "A3"}, State.ALREADY_DONE, None),  # a selection that found nothing
    ]
    plan_fields(place, [fields for fields, _, _ in found])
    store = place.store()
    claimed(store, len(found))
    with store.transaction():
        store.record(
            [
                settled(n, state, result=None if others is None else {"other_valid": others})
                for n, (_, state, others) in enumerate(found, 1)
            ]
        )
    device = ("assetId", "productKey", "deviceKey")
    assert place.reader().still_valid(device, "certSn") == 2


def test_a_stream_of_records_may_be_abandoned(place: Place) -> None:
    """As when the process that reads the results ends first."""
    plan(place, 3)
    reader = place.reader()
    records = reader.records()
    assert next(records).id == 1
    reader.close()
    records.close()  # type: ignore[attr-defined]


def test_controls_are_a_log_that_others_read(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    with store.transaction():
        first = store.add_control(1.5, "ann@ops1", "deploy", Verb.PAUSE)
        store.add_control(2.5, "bob@ops2", "", Verb.RATE, "100")
    paused = ControlEntry(first, 1.5, "ann@ops1", "deploy", Verb.PAUSE)
    limited = ControlEntry(first + 1, 2.5, "bob@ops2", "", Verb.RATE, "100")
    assert place.reader().controls() == store.controls() == [paused, limited]
    assert place.reader().controls(first) == store.controls(first) == [limited]


def test_where_a_campaign_stands_comes_back(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    assert store.standing() == Standing()
    with store.transaction():
        store.set_standing(Standing(wave=1, over_at=7.5, begun=3))
        store.set_standing(Standing(wave=2, begun=4))
    assert place.reader().standing() == place.store().standing() == Standing(wave=2, begun=4)


def test_what_was_settled_before_an_override_does_not_count(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    outcomes = [Settled(State.FAILED, code, 0) for code in (99403, "DeviceNotExist", None)]
    abort = Abort("7c01be", 3.0, "failed", "too many")
    with store.transaction():
        store.add_settled(list(enumerate(outcomes, 1)))
        assert list(store.settled(None)) == outcomes
        assert list(store.settled(2)) == outcomes[1:]
        store.add_abort(abort)
    assert list(place.store().settled(9)) == outcomes
    assert place.reader().aborts() == store.aborts() == [abort]
    store = place.store()
    with store.transaction():
        store.override_abort("7c01be", 4.0, "ann@ops1", "known devices")
        store.add_settled([(4, outcomes[1])])
    assert list(place.store().settled(None)) == [outcomes[1]]
    overridden = Abort("7c01be", 3.0, "failed", "too many", 4.0, "ann@ops1", "known devices")
    assert place.reader().aborts() == [overridden]


def test_a_transaction_that_fails_changes_nothing_of_a_campaign(place: Place) -> None:
    plan(place, 2)
    store = place.store()

    def fail() -> None:
        with store.transaction():
            store.claim(1, most_begun=1)
            store.add_control(1.0, "ann@ops1", "", Verb.PAUSE)
            store.add_abort(Abort("7c01be", 3.0, "failed", "too many"))
            store.add_settled([(1, Settled(State.FAILED, None, 0))])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    later = place.store()
    assert (later.controls(), later.aborts(), [*later.settled(None)]) == ([], [], [])
    assert later.standing() == Standing()


def test_no_more_operations_are_ever_claimed_than_allowed(place: Place) -> None:
    """One that is claimed again, by a later process, does not count twice."""
    plan(place, 5)
    store = place.store()
    with store.transaction():
        assert [operation.id for operation in store.claim(2, most_begun=3)] == [1, 2]
        store.record([Change(1, State.IN_FLIGHT, State.PLANNED, 0), settled(2)])
    later = place.store()
    with later.transaction():
        assert [operation.id for operation in later.claim(9, most_begun=3)] == [1, 3]
        assert later.claim(9, most_begun=3) == []
    assert later.standing().begun == 3


def test_the_end_of_a_run_is_when_its_last_operation_was_settled(place: Place) -> None:
    plan(place, 2)
    store = place.store()
    claimed(store, 2)
    with store.transaction():
        store.record([settled(1, finished_at=8.5)])
        assert store.end_of_wave(None) is None
        store.record([settled(2, finished_at=7.5)])
        assert store.end_of_wave(None) == 8.5


def test_events_are_chained_and_read_by_everybody(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    with store.transaction():
        first = store.add_event(event_log.retried(1.25, 3))
        second = store.add_event(event_log.aborted(2.5, "7c01be", "failed", "too many"))
    assert [first.seq, second.seq] == [1, 2]
    assert (first.previous, second.previous) == (event_log.FIRST, first.hash)
    assert (first.run, first.plan) == ("job", manifest().plan.hash)
    assert place.reader().events() == store.events() == [first, second]
    assert place.reader().events(1) == store.events(1) == [second]
    assert store.events(most=1) == store.events(0, 1) == [first]
    other = place.store()  # of another process
    with other.transaction():
        third = other.add_event(event_log.retried(3.0, 1))
    assert third.previous == second.hash
    assert store.events(2) == [third]


def test_an_event_of_a_transaction_that_fails_never_was(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    with pytest.raises(StoreError), store.transaction():
        store.record([store.add_event(event_log.retried(1.0, 3)) and settled(1)])
    assert store.events() == []
    with store.transaction():
        assert store.add_event(event_log.retried(2.0, 1)).seq == 1


def test_what_need_not_be_notified_any_more_comes_back(place: Place) -> None:
    plan(place, 1)
    store = place.store()
    assert store.notified() == 0
    with store.transaction():
        store.set_notified(3)
        store.set_notified(4)
    assert place.store().notified() == 4


def test_approvals_come_back_byte_by_byte(place: Place) -> None:
    plan(place, 1)
    approvals = [
        StoredApproval(1.5, "", "ann", "SHA256:x", 9.5, b"I approve\n\xff", b"sig", b"ann ...\n"),
        StoredApproval(2.5, "7c01be", "bob", "SHA256:y", 8.5, b"", b"", b""),
    ]
    store = place.store()
    with store.transaction():
        for approval in approvals:
            store.add_approval(approval)
    assert place.reader().approvals() == approvals


def test_operations_of_a_wave_are_counted_by_state(place: Place) -> None:
    plan(place, 3)
    store = place.store()
    claimed(store, 2)
    with store.transaction():
        store.record([settled(1)])
    counts = {State.SUCCEEDED: 1, State.IN_FLIGHT: 1, State.PLANNED: 1}
    assert store.counts_of_wave(0) == store.counts_of_wave(None) == counts
    assert store.counts_of_wave(1) == {}


def test_fields_states_and_fingerprints_of_all_operations_can_be_read(place: Place) -> None:
    place.plan([Target(line, {"assetId": f"ä{line}"}) for line in (2, 3, 4)])
    settle_next(place.store(), State.SUCCEEDED)
    reader = place.reader()
    assert sorted(reader.fields_and_states(), key=str) == [
        ({"assetId": "ä2"}, State.SUCCEEDED),
        ({"assetId": "ä3"}, State.PLANNED),
        ({"assetId": "ä4"}, State.PLANNED),
    ]
    planned = [line.decode().rstrip("\n") for line in reader.planned_fields()]
    assert list(reader.fingerprints()) == sorted(map(fingerprint, planned))


def test_the_manifest_can_be_replaced(place: Place) -> None:
    place.plan([Target(2, {"assetId": "A1"})])
    changed = manifest(ceiling=5.0)
    store = place.store()
    with store.transaction():
        store.update_manifest(changed)
    assert place.reader().manifest() == changed


def test_what_was_claimed_without_a_cap_is_counted_when_there_is_one(place: Place) -> None:
    place.plan([Target(line, {"assetId": f"A{line}"}) for line in (2, 3, 4)])
    store = place.store()
    with store.transaction():
        store.claim(2)
    with store.transaction():
        store.count_begun()
    assert place.reader().standing().begun == 2
    with store.transaction():
        assert not store.claim(1, most_begun=2)


@pytest.mark.parametrize("kind", ["local", pytest.param("shared", marks=pytest.mark.system)])
def test_a_copy_has_what_is_known_at_the_moment(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    place: SqlitePlace | PostgresPlace = SqlitePlace(tmp_path)
    if kind == "shared":
        place = PostgresPlace(tmp_path, request.getfixturevalue("shared_store"))
    place.plan([Target(line, {"assetId": f"A{line}"}, {"site": "Köln"}) for line in (2, 3)])
    store = place.store()
    settle_next(store, State.FAILED, code="Throttling.User")
    with store.transaction():
        store.add_control(1.0, "ann@ops1", "busy", Verb.RATE, "5")
    original = place.reader()
    original.copy_to(tmp_path / "copy")
    with closing(SqliteReader(tmp_path / "copy")) as copy:
        settle_next(store, State.SUCCEEDED)
        assert [record.state for record in copy.records()] == [State.FAILED, State.PLANNED]
        assert next(copy.records()) == next(original.records())
        assert copy.manifest() == original.manifest()
        assert copy.controls() == original.controls()
    place.close()
