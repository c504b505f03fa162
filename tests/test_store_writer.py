"""The writer thread: what becomes durable, when, in which order, and what happens when it fails.

`WatchedStore` notes what became durable, and by which thread; that is the oracle. It waits or fails
where a test wants it to. The last part uses SQLite.
"""

from __future__ import annotations

import asyncio
import errno
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import Disk, MemoryStore, Row, manifest

from bulkcert import event_log
from bulkcert.errors import BulkcertError, StoreError
from bulkcert.event_log import RunEvent
from bulkcert.model import Change, HistoryEntry, HistoryEvent, Operation, State, Target
from bulkcert.rules.gate import Gate
from bulkcert.store.base import Session, Store
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore
from bulkcert.store.writer import StoreWriter

PATIENCE_S = 60.0
OPERATIONS = 1000
COMMIT_EVERY_S = 0.03
FULL = OSError(errno.ENOSPC, "No space left on device")


def change(number: int, expected: State = State.IN_FLIGHT, state: State = State.FAILED) -> Change:
    return Change(number, expected, state, attempts=1, message=f"number {number}")


class WatchedStore(MemoryStore):
    """A store in memory that tests can watch, hold back and break. All its operations are open.

    Args:
        fails: called before each step with its name ("begin", "record", "claim", "session",
            "commit", "close") and the number of the transaction (from 1); may raise.

    Attributes:
        begun: number of transactions that were begun.
        begun_at: when, in seconds of the monotonic clock.
        commits: the changes of each transaction that became durable.
        go: a commit waits for this; set unless a test holds it back.
        committing: set when a commit waits or has waited.
        threads: the threads that used the store.
    """

    def __init__(self, fails: Callable[[str, int], None] = lambda step, number: None) -> None:
        rows = {
            number: Row(line=number, fields={}, state=State.IN_FLIGHT, attempts=1)
            for number in range(OPERATIONS)
        }
        super().__init__(Disk(rows))
        self._fails = fails
        self.begun = 0
        self.begun_at: list[float] = []
        self.commits: list[list[Change]] = []
        self.sessions: list[Session] = []
        self.go = threading.Event()
        self.go.set()
        self.committing = threading.Event()
        self.threads: set[int] = set()
        self.closed = False
        self._changes: list[Change] = []

    @property
    def durable(self) -> list[Change]:
        return [change for commit in self.commits for change in commit]

    def step(self, name: str) -> None:
        assert not self.closed
        self.threads.add(threading.get_ident())
        self._fails(name, self.begun)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.begun += 1
        self.begun_at.append(time.monotonic())
        self.step("begin")
        self._changes = []
        with super().transaction():
            yield
            self.committing.set()
            assert self.go.wait(PATIENCE_S)
            self.step("commit")
        self.commits.append(self._changes)

    def record(self, changes: Sequence[Change]) -> None:
        self.step("record")
        super().record(changes)
        self._changes += changes

    def claim(
        self, most: int, lookup_first: Collection[int] = (), **limits: Any
    ) -> list[Operation]:
        self.step("claim")
        return super().claim(most, lookup_first, **limits)

    def note_session(self, session: Session) -> None:
        self.step("session")
        super().note_session(session)
        self.sessions.append(session)

    def close(self) -> None:
        self.step("close")
        self.closed = True


class WriterUnderTest:
    """A writer on a store, and what it reported."""

    def __init__(self, store: Any, commit_every_s: float = COMMIT_EVERY_S) -> None:
        self.store = store
        self.notified: list[Change] = []
        self.errors: list[BulkcertError] = []
        self.listen: Callable[[Sequence[Change]], None] = lambda changes: None
        self.loops_thread = threading.get_ident()
        self._threads_before = set(threading.enumerate())
        self.writer = StoreWriter(
            store,
            on_durable=self._durable,
            on_error=self._failed,
            commit_every_s=commit_every_s,
        )

    def _durable(self, changes: Sequence[Change]) -> None:
        assert threading.get_ident() == self.loops_thread
        if isinstance(self.store, WatchedStore):
            durable = self.store.durable
            assert all(change in durable for change in changes), "notified too early"
        self.notified += changes
        self.listen(changes)

    def _failed(self, error: BulkcertError) -> None:
        assert threading.get_ident() == self.loops_thread
        self.errors.append(error)

    async def held(self) -> list[Change]:
        """Make the store wait in a commit of one change, and return that change."""
        self.store.go.clear()
        first = change(0)
        self.writer.record(first)
        await asyncio.to_thread(self.store.committing.wait, PATIENCE_S)
        return [first]

    async def close(self) -> None:
        await self.writer.close()
        left = set(threading.enumerate()) - self._threads_before
        assert not [thread for thread in left if thread.name == "store"]


@pytest.fixture
async def under_test() -> AsyncIterator[WriterUnderTest]:
    under_test = WriterUnderTest(WatchedStore())
    under_test.writer.start()
    yield under_test
    under_test.store.go.set()
    if not under_test.store.closed:
        await under_test.close()


# ---- durable


async def test_orders_during_a_commit_share_the_next_commit(under_test: WriterUnderTest) -> None:
    changes = await under_test.held()
    waiting = [
        asyncio.create_task(under_test.writer.record_now([change(n)])) for n in range(1, 100)
    ]
    await asyncio.sleep(0)
    changes += [change(number) for number in range(1, 500)]
    for number in range(100, 500):
        under_test.writer.record(change(number))
    under_test.store.go.set()
    await asyncio.gather(*waiting)
    await under_test.writer.flush()
    assert [len(commit) for commit in under_test.store.commits] == [1, 499, 0]
    assert under_test.store.durable == under_test.notified == changes


async def test_there_is_a_minimum_time_between_two_commits(under_test: WriterUnderTest) -> None:
    for number in range(5):
        await under_test.writer.record_now([change(number)])
    begun_at = under_test.store.begun_at
    assert len(begun_at) == 5
    gaps = [later - earlier for earlier, later in pairwise(begun_at)]
    assert min(gaps) >= COMMIT_EVERY_S


async def test_what_was_awaited_is_durable(under_test: WriterUnderTest) -> None:
    await under_test.writer.record_now([change(1), change(2)])
    assert under_test.store.durable == [change(1), change(2)]
    under_test.writer.record(change(3))
    await under_test.writer.flush()
    assert under_test.store.durable == [change(1), change(2), change(3)]
    assert under_test.notified == under_test.store.durable


@pytest.mark.parametrize("wait", ["record_now", "claim", "flush", "close"])
async def test_nobody_is_notified_before_the_commit_is_done(
    under_test: WriterUnderTest, wait: str
) -> None:
    waits = {
        "record_now": lambda: under_test.writer.record_now([change(1)]),
        "claim": lambda: under_test.writer.claim(5),
        "flush": under_test.writer.flush,
        "close": under_test.writer.close,
    }
    await under_test.held()
    task = asyncio.ensure_future(waits[wait]())
    for _ in range(100):  # the event loop goes on meanwhile
        await asyncio.sleep(0)
    assert not task.done()
    assert under_test.notified == under_test.store.commits == []
    under_test.store.go.set()
    await task
    assert under_test.store.commits[0] == [change(0)]
    assert under_test.notified[0] == change(0)


async def test_claims_are_handed_out_once_and_in_order(under_test: WriterUnderTest) -> None:
    claimed = await asyncio.gather(*(under_test.writer.claim(10) for _ in range(20)))
    claims = [operations for operations, _ in claimed]
    assert [operation.id for claim in claims for operation in claim] == list(range(1, 201))
    assert under_test.store.begun < 20


async def test_only_a_claim_takes_operations(under_test: WriterUnderTest) -> None:
    under_test.writer.record(change(1))
    under_test.writer.note_session(Session(1.0, 2.0))
    await under_test.writer.record_now([change(2)])
    await under_test.writer.flush()
    [operation] = (await under_test.writer.claim(1)).operations
    assert operation.id == 3


async def test_changes_keep_their_order_whoever_awaits_them(under_test: WriterUnderTest) -> None:
    rng = random.Random(1)
    waiting = []
    for number in range(500):
        if rng.random() < 0.3:
            order = under_test.writer.record_now([change(number)])
            waiting.append(asyncio.create_task(order))
            await asyncio.sleep(0)
        else:
            under_test.writer.record(change(number))
        if rng.random() < 0.02:
            await asyncio.sleep(COMMIT_EVERY_S)
    await under_test.writer.flush()
    assert (
        under_test.store.durable == under_test.notified == [change(number) for number in range(500)]
    )
    assert all(task.done() for task in waiting)


async def test_only_the_writer_thread_uses_the_store(under_test: WriterUnderTest) -> None:
    await under_test.writer.claim(1)
    await under_test.writer.record_now([change(1)])
    under_test.writer.note_session(Session(1.0, 2.0))
    await under_test.writer.flush()
    assert len(under_test.store.threads) == 1
    assert under_test.store.threads != {threading.get_ident()}


async def test_a_stuck_disk_does_not_keep_the_process_from_ending(
    under_test: WriterUnderTest,
) -> None:
    # besides its own there may be one that an earlier test left stuck
    threads = [thread for thread in threading.enumerate() if thread.name == "store"]
    assert threads
    assert all(thread.daemon for thread in threads)


async def test_the_figures_of_a_session_are_stored_in_order(under_test: WriterUnderTest) -> None:
    for requests in range(10):
        under_test.writer.note_session(Session(1.0, 2.0, requests=requests))
    await under_test.writer.flush()
    assert [session.requests for session in under_test.store.sessions] == list(range(10))


async def test_the_history_is_stored_in_order(under_test: WriterUnderTest) -> None:
    entries = [HistoryEntry(n, HistoryEvent.ATTEMPT, 1, 1.0, 2.0) for n in range(10)]
    for entry in entries:
        under_test.writer.add_history([entry])
    await under_test.writer.flush()
    assert under_test.store.disk.history == entries


async def test_cancelling_a_wait_does_not_cancel_the_order(under_test: WriterUnderTest) -> None:
    await under_test.held()
    waiting = [asyncio.create_task(under_test.writer.record_now([change(n)])) for n in (1, 2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    under_test.store.go.set()
    await waiting[1]
    assert under_test.store.durable == under_test.notified == [change(0), change(1), change(2)]
    assert under_test.errors == []


async def test_closing_carries_out_all_orders_and_notifies_of_them_first(
    under_test: WriterUnderTest,
) -> None:
    await under_test.held()
    for number in range(1, 200):
        under_test.writer.record(change(number))
    under_test.writer.note_session(Session(1.0, 2.0, exit_code=0))
    closing = asyncio.create_task(under_test.close())
    await asyncio.sleep(0)
    under_test.store.go.set()
    await closing
    assert under_test.store.closed
    assert (
        under_test.store.durable == under_test.notified == [change(number) for number in range(200)]
    )
    assert under_test.store.sessions[-1].exit_code == 0


async def test_closing_with_nothing_to_do(under_test: WriterUnderTest) -> None:
    await under_test.close()
    assert under_test.store.closed
    assert (under_test.store.begun, under_test.errors) == (0, [])


async def test_an_exception_in_the_listener_delays_nobody(under_test: WriterUnderTest) -> None:
    """The listener is the library user's code, so its exceptions go to the loop's handler."""
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    fault = RuntimeError("in the listener")

    def fail(changes: Sequence[Change]) -> None:
        raise fault

    under_test.listen = fail
    await under_test.held()
    under_test.writer.record(change(1))
    waiting = [
        asyncio.create_task(under_test.writer.record_now([change(2)])),
        asyncio.create_task(under_test.writer.claim(1)),
        asyncio.create_task(under_test.writer.flush()),
    ]
    await asyncio.sleep(0)
    under_test.store.go.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*waiting)
        await under_test.close()
    assert under_test.notified == under_test.store.durable == [change(0), change(1), change(2)]
    assert reported
    assert all(one is fault for one in reported)


# ---- events


class Watcher:
    """A writer on a store with one event of an earlier process, and what it reports of events."""

    def __init__(self, store: WatchedStore) -> None:
        self.store = store
        store.add_event(event_log.retried(1.0, 1))
        self.reported: list[list[int]] = []
        self.mirrored: list[list[int]] = []
        self.errors: list[BulkcertError] = []
        self.listen: Callable[[Sequence[RunEvent]], None] = lambda events: None
        self.loops_thread = threading.get_ident()
        self.writer = StoreWriter(
            store,
            on_durable=lambda changes: None,
            on_events=self._report,
            on_error=self.errors.append,
            mirror=self._mirror,
            commit_every_s=0.0,
        )
        self.writer.start()

    def _report(self, events: Sequence[RunEvent]) -> None:
        assert threading.get_ident() == self.loops_thread
        self.reported.append([event.seq for event in events])
        self.listen(events)

    def _mirror(self, store: Store) -> None:
        assert threading.get_ident() != self.loops_thread
        assert store is self.store
        self.mirrored.append([event.seq for event in store.events()])


async def test_new_events_are_copied_and_reported_when_they_are_durable() -> None:
    watcher = Watcher(WatchedStore())
    writer = watcher.writer
    await writer.flush()
    assert watcher.mirrored == [[1]]  # the process before may not have come to that
    await writer.flush()
    await writer.write_now(lambda store: store.add_event(event_log.retried(2.0, 1)))
    await writer.flush()
    assert (watcher.mirrored, watcher.reported) == ([[1], [1, 2]], [[2]])
    watcher.store.add_event(event_log.retried(3.0, 1))  # by another process
    writer.write(lambda store: store.add_event(event_log.retried(4.0, 1)))
    await writer.flush()
    assert (watcher.mirrored[2:], watcher.reported[1:]) == ([[1, 2, 3, 4]], [[3, 4]])
    await writer.close()
    assert watcher.errors == []


async def test_the_events_of_the_first_commit_are_reported() -> None:
    watcher = Watcher(WatchedStore())
    await watcher.writer.write_now(lambda store: store.add_event(event_log.retried(2.0, 1)))
    await watcher.writer.close()
    assert (watcher.mirrored, watcher.reported) == ([[1, 2]], [[2]])


async def test_events_that_are_not_durable_are_neither_copied_nor_reported() -> None:
    watcher = Watcher(WatchedStore(failing(FULL, "commit", 1)))
    with pytest.raises(StoreError):
        await watcher.writer.write_now(lambda store: store.add_event(event_log.retried(2.0, 1)))
    with pytest.raises(StoreError):
        await watcher.writer.close()
    assert (watcher.mirrored, watcher.reported) == ([], [])


async def test_whoever_can_not_be_given_an_event_is_to_end_and_keeps_all_results() -> None:
    watcher = Watcher(WatchedStore())

    def fail(events: Sequence[RunEvent]) -> None:
        raise ZeroDivisionError

    watcher.listen = fail
    await watcher.writer.write_now(lambda store: store.add_event(event_log.retried(2.0, 1)))
    assert "ZeroDivisionError" in watcher.errors[0].problem
    await watcher.writer.record_now([change(1)])
    await watcher.writer.close()
    assert watcher.store.commits == [[], [change(1)]]
    assert len(watcher.errors) == 1


# ---- not durable

FAULTS: list[Exception] = [
    StoreError("The checkpoint can't be written: database or disk is full"),
    sqlite3.OperationalError("disk I/O error"),
    FULL,
    TypeError("Integer exceeds 64-bit range"),
]


async def test_whoever_can_not_obey_the_rules_is_to_end_and_keeps_all_results() -> None:
    errors: list[BulkcertError] = []

    def disobey(gate: Gate) -> None:
        raise ZeroDivisionError

    store = WatchedStore()
    writer = StoreWriter(
        store,
        on_durable=lambda changes: None,
        on_gate=disobey,
        on_error=errors.append,
        commit_every_s=0.0,
    )
    writer.start()
    await writer.record_now([change(1)])
    assert "ZeroDivisionError" in errors[0].problem
    await writer.close()
    assert store.durable == [change(1)]


def failing(fault: Exception, step: str, number: int = 2) -> Callable[[str, int], None]:
    def fails(at: str, transaction: int) -> None:
        if (at, transaction) == (step, number):
            raise fault

    return fails


@pytest.mark.parametrize("step", ["begin", "record", "claim", "session", "commit"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_store_error_fails_all_pending_orders_and_ends_all_writing(
    fault: Exception, step: str
) -> None:
    under_test = WriterUnderTest(WatchedStore(failing(fault, step)))
    under_test.writer.start()
    await under_test.held()
    under_test.writer.record(change(1))
    under_test.writer.note_session(Session(1.0, 2.0))
    orders = [
        under_test.writer.record_now([change(2)]),
        under_test.writer.claim(1),
        under_test.writer.flush(),
    ]
    waiting = [asyncio.ensure_future(order) for order in orders]
    await asyncio.sleep(0)
    under_test.store.go.set()
    outcomes: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
    [error] = under_test.errors
    assert outcomes == [error] * 3
    if isinstance(fault, BulkcertError):
        assert error is fault
    else:
        assert isinstance(error, StoreError)
        assert str(fault.args[-1]) in str(error)

    # later orders fail at once and are not written
    under_test.writer.record(change(3))
    for late in (under_test.writer.record_now([change(4)]), under_test.writer.claim(1)):
        with pytest.raises(StoreError) as caught:
            await late
        assert caught.value is error
    with pytest.raises(StoreError) as caught:
        await under_test.close()
    assert caught.value is error
    assert under_test.errors == [error]
    assert under_test.store.durable == under_test.notified == [change(0)]
    assert under_test.store.closed
    assert under_test.store.begun == 2


async def test_a_cancelled_wait_does_not_keep_the_others_from_a_store_error() -> None:
    unexpected: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
    under_test = WriterUnderTest(WatchedStore(failing(FULL, "commit")))
    under_test.writer.start()
    await under_test.held()
    waiting = [asyncio.create_task(under_test.writer.record_now([change(n)])) for n in range(1, 4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    under_test.store.go.set()
    async with asyncio.timeout(PATIENCE_S):
        cancelled, *failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert failed == under_test.errors * 2
    assert len(under_test.errors) == 1
    with pytest.raises(StoreError):
        await under_test.close()
    assert unexpected == []


async def test_a_failed_order_that_nobody_awaits_is_reported() -> None:
    under_test = WriterUnderTest(WatchedStore(failing(FULL, "commit", 1)))
    under_test.writer.start()
    under_test.writer.record(change(1))
    with pytest.raises(StoreError, match="No space left"):
        await under_test.close()
    [error] = under_test.errors
    assert "No space left" in error.problem
    assert under_test.notified == []
    assert under_test.store.closed


async def test_nothing_is_written_after_an_error_even_before_the_loop_knows_of_it() -> None:
    """Orders that arrive while the loop is busy must not be written past the gap."""
    second = threading.Event()

    def fails(step: str, number: int) -> None:
        if (step, number) == ("commit", 1):
            raise FULL
        if number > 1:
            second.set()

    under_test = WriterUnderTest(WatchedStore(fails), commit_every_s=0.0)
    under_test.writer.start()
    await under_test.held()
    under_test.writer.record(change(1))
    under_test.store.go.set()
    assert not second.wait(0.2)  # this keeps the loop busy
    with pytest.raises(StoreError):
        await under_test.close()
    assert under_test.store.begun == 1
    assert under_test.store.durable == under_test.notified == []


@given(
    orders=st.lists(
        st.tuples(st.sampled_from(["record", "record_now", "claim", "flush", "wait"])), max_size=30
    ),
    fails_at=st.one_of(st.none(), st.integers(1, 6)),
    step=st.sampled_from(["begin", "record", "commit"]),
)
def test_the_durable_changes_are_the_first_ones_ordered_and_every_wait_ends(
    orders: list[tuple[str]], fails_at: int | None, step: str
) -> None:
    async def main() -> None:
        under_test = WriterUnderTest(
            WatchedStore(failing(FULL, step, fails_at or 0)), commit_every_s=0.0
        )
        under_test.writer.start()
        ordered: list[Change] = []
        waiting: list[tuple[int, asyncio.Future[Any]]] = []  # with the number of changes so far
        for number, (what,) in enumerate(orders):
            if what == "wait":
                with suppress(StoreError):
                    await under_test.writer.flush()
                continue
            if what in ("record", "record_now"):
                ordered.append(change(number))
            if what == "record":
                under_test.writer.record(change(number))
            else:
                order = {
                    "record_now": lambda: under_test.writer.record_now([ordered[-1]]),
                    "claim": lambda: under_test.writer.claim(1),
                    "flush": under_test.writer.flush,
                }[what]()
                waiting.append((len(ordered), asyncio.ensure_future(order)))
                await asyncio.sleep(0)
        failed = False
        try:
            await under_test.close()
        except StoreError:
            failed = True
        durable = under_test.store.durable
        assert durable == under_test.notified == ordered[: len(durable)]
        assert failed == (len(under_test.errors) == 1)
        assert failed or durable == ordered
        for by_then, future in waiting:
            assert future.done()
            assert (future.exception() is None) <= (len(durable) >= by_then)

    asyncio.run(main())


# ---- SQLite

COUNT = 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.sqlite3"
    plan = SqlitePlan(path)
    for line in range(1, COUNT + 1):
        plan.add(Target(line, {"assetId": f"A{line}", "certSn": line}), line)
    plan.finish(manifest())
    return path


def counts(path: Path) -> dict[State, int]:
    """What another process sees."""
    with closing(SqliteReader(path)) as reader:
        return reader.counts()


async def test_sqlite_shows_what_was_awaited_to_other_processes(path: Path) -> None:
    under_test = WriterUnderTest(SqliteStore(path))
    under_test.writer.start()
    claimed, _ = await under_test.writer.claim(100)
    assert [operation.id for operation in claimed] == list(range(1, 101))
    assert counts(path) == {State.IN_FLIGHT: 100, State.PLANNED: COUNT - 100}
    await under_test.writer.record_now([change(1), change(2, state=State.SUCCEEDED)])
    assert counts(path)[State.SUCCEEDED] == counts(path)[State.FAILED] == 1
    under_test.writer.record(change(3))
    under_test.writer.note_session(Session(1.0, 2.0, requests=7))
    await under_test.writer.flush()
    assert counts(path)[State.FAILED] == 2
    assert counts(path)[State.PLANNED] == COUNT - 100
    with closing(SqliteReader(path)) as reader:
        assert [session.requests for session in reader.sessions()] == [7]
    assert [change.operation_id for change in under_test.notified] == [1, 2, 3]
    await under_test.close()


async def test_sqlite_takes_failed_operations_up_again_when_that_is_awaited(path: Path) -> None:
    under_test = WriterUnderTest(SqliteStore(path))
    under_test.writer.start()
    await under_test.writer.claim(2)
    await under_test.writer.record_now([change(1), change(2, state=State.UNKNOWN)])
    await under_test.writer.write_now(lambda store: store.retry_failed())
    assert counts(path) == {State.IN_FLIGHT: 1, State.PLANNED: COUNT - 1}
    await under_test.close()


async def test_sqlite_keeps_the_changes_of_one_operation_in_order(path: Path) -> None:
    """Each change expects the state that the one before led to."""
    under_test = WriterUnderTest(SqliteStore(path))
    under_test.writer.start()
    claimed, _ = await under_test.writer.claim(COUNT)
    for _ in range(20):
        for operation in claimed:
            under_test.writer.record(change(operation.id, State.IN_FLIGHT, State.PLANNED))
        back = [change(operation.id, State.PLANNED, State.IN_FLIGHT) for operation in claimed]
        await under_test.writer.record_now(back)
    await under_test.close()
    assert counts(path) == {State.IN_FLIGHT: COUNT}
    assert len(under_test.notified) == 2 * 20 * COUNT


async def test_sqlite_undoes_the_whole_commit_of_a_change_from_a_wrong_state(
    path: Path,
) -> None:
    under_test = WriterUnderTest(SqliteStore(path))
    under_test.writer.start()
    await under_test.writer.claim(10)
    good = [change(number) for number in range(1, 5)]
    with pytest.raises(StoreError, match="not in the state they should be in"):
        await under_test.writer.record_now([*good, change(100)])
    assert len(under_test.errors) == 1
    with pytest.raises(StoreError):
        await under_test.close()
    assert counts(path) == {State.IN_FLIGHT: 10, State.PLANNED: COUNT - 10}
    assert under_test.notified == []


async def test_sqlite_keeps_what_is_durable_when_the_disk_is_full(path: Path) -> None:
    store = SqliteStore(path)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages + 20}")
    under_test = WriterUnderTest(store)
    under_test.writer.start()
    durable = 0

    async def fill() -> None:
        nonlocal durable
        for operation in (await under_test.writer.claim(COUNT)).operations:
            await under_test.writer.record_now([change(operation.id)._replace(message="x" * 2000)])
            durable += 1

    with pytest.raises(StoreError, match="full") as caught:
        await fill()
    assert caught.value.exit_code == 3
    assert "run again" in caught.value.next_step
    with pytest.raises(StoreError, match="full"):
        await under_test.close()
    assert 0 < durable < COUNT
    assert counts(path) == {State.FAILED: durable, State.IN_FLIGHT: COUNT - durable}
    assert len(under_test.notified) == durable


async def test_sqlite_reports_why_a_result_cannot_be_written(
    path: Path,
) -> None:
    under_test = WriterUnderTest(SqliteStore(path))
    under_test.writer.start()
    await under_test.writer.claim(1)
    with pytest.raises(StoreError, match="can't be written"):
        await under_test.writer.record_now([change(1)._replace(result=2**70)])
    with pytest.raises(StoreError):
        await under_test.close()
    assert counts(path) == {State.IN_FLIGHT: 1, State.PLANNED: COUNT - 1}
