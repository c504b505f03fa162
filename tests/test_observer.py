"""Looking at a run again and again: what is read, how often, and what is left behind."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from campaign_run import ENDED, STARTED, planned_run, process, settle, store_of

from bulkcert import observer as module
from bulkcert.errors import RunDirectoryError
from bulkcert.event_log import RunEvent
from bulkcert.found_runs import RunState
from bulkcert.observer import MOST_EVENTS, Observer
from bulkcert.report.summary import summarize
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session, StoreReader
from bulkcert.store.sqlite import SqliteReader
from bulkcert.timings import WatchTimings


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return planned_run(tmp_path)


class Clock:
    """A clock that stands still, except while operations are counted.

    Attributes:
        now_s: its time.
        counted: how often operations were counted.
        takes_s: how long that takes.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.counted, self.takes_s = 0.0, 0, 2.0

        def count(reader: StoreReader) -> object:
            self.counted += 1
            self.now_s += self.takes_s
            return summarize(reader)

        monkeypatch.setattr(module, "summarize", count)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    return Clock(monkeypatch)


def test_what_takes_long_is_repeated_less_often(directory: RunDirectory, clock: Clock) -> None:
    observer = Observer(directory, WatchTimings(share=0.1), clock=lambda: clock.now_s)
    looks = 0
    while clock.now_s < 100:
        observer.look()
        assert observer.rest_s == WatchTimings().every_s
        looks += 1
        clock.now_s += observer.rest_s
    assert looks == pytest.approx(90, abs=2)  # the rest is looked at each second
    assert clock.counted == 5  # of two seconds each: a tenth of the time


def test_a_run_that_is_quickly_counted_is_counted_with_each_look(
    directory: RunDirectory, clock: Clock
) -> None:
    clock.takes_s = 0.01
    observer = Observer(directory, clock=lambda: clock.now_s)
    for looks in range(1, 10):
        observer.look()
        clock.now_s += observer.rest_s
        assert clock.counted == looks


def test_it_is_counted_at_once_when_a_process_begins_or_ends(
    directory: RunDirectory, clock: Clock
) -> None:
    clock.takes_s = 1000.0
    observer = Observer(directory, clock=lambda: clock.now_s)
    assert observer.look().state is RunState.NOT_BEGUN
    with process(directory):
        assert observer.look().state is RunState.RUNNING
        settle(directory, 1, 6)
        assert observer.look().summary.succeeded == 0
    view = observer.look()
    assert (view.state, view.summary.succeeded) == (RunState.OVER, 6)


def test_looks_that_are_slow_themselves_are_rare(
    directory: RunDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a medium that can't be written, whose files are copied each time."""
    observer = Observer(directory, clock=lambda: clock.now_s)
    observer.look()
    events = SqliteReader.events

    def slowly(reader: SqliteReader, after: int = 0) -> list[RunEvent]:
        clock.now_s += 0.5
        return events(reader, after)

    monkeypatch.setattr(SqliteReader, "events", slowly)
    observer.look()
    assert observer.rest_s == pytest.approx(4.5)


def test_nothing_stays_open_between_two_looks(directory: RunDirectory) -> None:
    observers = [Observer(directory, WatchTimings(every_s=0.0, share=1.0)) for _ in range(3)]
    for observer in observers:
        observer.look()
    with closing(sqlite3.connect(directory.checkpoint)) as db:
        settle(directory, 1, 1)
        busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # waits for readers
        assert not busy
    assert [observer.look().summary.succeeded for observer in observers] == [1, 1, 1]


def test_who_works_on_it_comes_from_the_event_log(directory: RunDirectory) -> None:
    observer = Observer(directory)
    assert observer.look().hosts == []
    with process(directory, left_s=60.0):
        view = observer.look()
        [worker] = view.hosts
        assert (worker.name, worker.pid, worker.lease) == ("ops1", 4242, "")
        assert worker.session is not None
        assert view.ends_at == pytest.approx(time.time() + 60, abs=60)
    view = observer.look()
    assert (view.hosts, view.noted, [host.pid for host in view.gone]) == ([], [], [4242])
    assert view.last_end is not None


def test_the_figures_of_an_earlier_process_are_not_those_of_this_one(
    directory: RunDirectory,
) -> None:
    with store_of(directory) as store:
        store.note_session(Session(1e9, 1e9 + 60, reasons=("throttled",)))
        store.add_event(STARTED._replace(at=2e9))
    with directory:  # as its process, which has noted nothing yet
        view = Observer(directory).look()
    assert [each.session for each in view.hosts] == [None]
    assert view.reasons == ()


def test_a_process_that_was_killed_is_not_the_one_that_takes_the_run_up(
    directory: RunDirectory,
) -> None:
    nobody = 2**22  # the highest number of a process on Linux, by default
    for pid, workers in ((os.getpid(), [os.getpid()]), (nobody, [])):
        worker = {"host": socket.gethostname(), "pid": pid, "user": "ann", "version": "1.0"}
        with store_of(directory) as store:
            store.add_event(STARTED._replace(data=STARTED.data | {"process": worker}))
        with directory:
            assert [each.pid for each in Observer(directory).look().hosts] == workers


def test_only_the_last_events_are_kept(directory: RunDirectory) -> None:
    observer = Observer(directory)
    for _ in range(2):
        with store_of(directory) as store:
            for _ in range(MOST_EVENTS):
                store.add_event(ENDED)
        observer.look()
    events = observer.look().events
    assert [event.seq for event in events] == list(range(MOST_EVENTS + 1, 2 * MOST_EVENTS + 1))


def test_a_directory_that_was_moved_is_said_to_be_gone(directory: RunDirectory) -> None:
    observer = Observer(directory)
    observer.look()
    directory.path.rename(directory.path.with_name("elsewhere"))
    with pytest.raises(RunDirectoryError, match="no longer contains a run"):
        observer.look()


def test_a_run_that_is_planned_anew_is_waited_for(directory: RunDirectory) -> None:
    observer = Observer(directory)
    before = observer.look()
    with directory:
        directory.remove_run()
        assert observer.look().summary == before.summary


def test_a_file_server_that_is_gone_is_an_error(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise OSError(116, "Stale file handle")

    observer = Observer(directory)
    monkeypatch.setattr(directory, "reader", gone)
    with pytest.raises(RunDirectoryError, match="can't be read: Stale file handle"):
        observer.look()
