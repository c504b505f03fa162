"""What a process writes into the log about itself, and what the next one writes if it could not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

import pytest
from stores import Disk, MemoryStore, manifest

from bulkcert import event_log, process_log
from bulkcert.control import user_name
from bulkcert.errors import ProviderUnusableError, RunDirectoryError, StoppedByRulesError
from bulkcert.event_log import EventType
from bulkcert.model import Change, Outcome, State, Target
from bulkcert.process_log import ProcessLog
from bulkcert.rules import NO_RULES
from bulkcert.rules.rollout import Rollout, Size
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session
from bulkcert.store.sqlite import SqlitePlan, SqliteStore
from bulkcert.version import VERSION

NOW_S = 1_800_000_000.0
PROCESS = {"host": "ops1", "pid": 7}
STARTED = event_log.started(
    1000.0, process=PROCESS, total=1, settled=0, ceiling=1.0, rehearsal=False, options=()
)
ENDED = event_log.ended(
    1001.0, 0, "", {}, process=PROCESS, requests=0, throttled=0, busiest_second=0
)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_S)


def store_with(*happened: event_log.Happened, states: tuple[State, ...] = ()) -> MemoryStore:
    targets = (Target(line, {"name": line}) for line in range(1, len(states) + 1))
    store = MemoryStore(Disk.planned(targets), lambda: NOW_S)
    with store.transaction():
        claimed = store.claim(len(states))
        store.record(
            [
                Change(each.id, State.IN_FLIGHT, state, 1)
                for each, state in zip(claimed, states, strict=True)
            ]
        )
        for each in happened:
            store.add_event(each)
    return store


def test_the_start_says_which_process_it_is_and_what_it_was_asked_to_do() -> None:
    store = store_with()
    log = ProcessLog(
        total=9, settled=4, ceiling=490.0, rehearsal=True, options=("no-wait",), last_seen_s=5.0
    )
    log.start(store)
    [event] = store.events()
    assert (event.at, event.type) == (NOW_S, EventType.STARTED)
    assert event.data == {
        "process": {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "user": user_name(),
            "version": VERSION,
        },
        "total": 9,
        "settled": 4,
        "ceiling": 490.0,
        "rehearsal": True,
        "options": ["no-wait"],
    }


@pytest.mark.parametrize(
    ("noted_s", "last_seen"),
    [
        (0.0, "1970-01-01T00:16:42.000Z"),  # it was killed before it noted anything
        (1001.0, "1970-01-01T00:16:42.000Z"),  # that is from the process before
        (1004.0, "1970-01-01T00:16:44.000Z"),
    ],
)
def test_the_end_of_a_process_that_was_killed_is_logged_before_the_next_start(
    noted_s: float, last_seen: str
) -> None:
    other = event_log.retried(1003.0, 1)
    store = store_with(STARTED, ENDED, STARTED._replace(at=1002.0), other)
    ProcessLog(total=1, settled=0, ceiling=1.0, rehearsal=False, last_seen_s=noted_s).start(store)
    *_, lost, started = store.events()
    assert (lost.at, lost.type, started.type) == (NOW_S, EventType.ENDED, EventType.STARTED)
    assert lost.data["exit_code"] is None
    assert lost.data["process"] == PROCESS
    assert lost.data["last_seen"] == last_seen
    assert started.data["options"] == []


def test_in_a_shared_store_a_start_says_nothing_about_other_processes() -> None:
    store = store_with(STARTED)
    ProcessLog(total=1, settled=0, ceiling=1.0, rehearsal=False, lease="5f0c").start(store)
    _, started = store.events()
    assert started.data["process"]["lease"] == "5f0c"
    ended = process_log.ended(NOW_S, Session(1.0, 2.0, exit_code=3), {}, "", "5f0c")
    assert ended.data["process"]["lease"] == "5f0c"


def test_a_process_that_has_logged_its_end_was_not_killed() -> None:
    store = store_with(STARTED, ENDED, event_log.retried(1002.0, 1))
    assert process_log.log_lost(store, 1003.0) is False
    assert len(store.events()) == 3


def test_without_a_start_nothing_was_killed() -> None:
    store = store_with(event_log.retried(1002.0, 1))
    assert process_log.log_lost(store, 1003.0) is False
    assert len(store.events()) == 1


def test_the_end_has_the_last_figures() -> None:
    session = Session(1.0, 2.0, requests=7, throttled=3, busiest_second=5, exit_code=4)
    ended = process_log.ended(NOW_S, session, {Outcome.FAILED: 2}, "It has stopped itself.")
    assert (ended.at, ended.type) == (NOW_S, EventType.ENDED)
    assert ended.data == {
        "process": {"host": socket.gethostname(), "pid": os.getpid()},
        "exit_code": 4,
        "why": "It has stopped itself.",
        "outcomes": {**dict.fromkeys(map(str, Outcome), 0), "failed": 2},
        "requests": 7,
        "throttled": 3,
        "busiest_second": 5,
    }


def test_what_is_in_doubt_counts_as_unknown_together_with_what_is_unknown() -> None:
    states = (State.UNKNOWN, State.IN_FLIGHT, State.SUCCEEDED, State.UNKNOWN)
    assert process_log.outcomes(store_with(states=states)) == {
        Outcome.UNKNOWN: 3,
        Outcome.SUCCEEDED: 1,
    }


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            ProviderUnusableError(
                "30 refusals: 99403 Denied resource: assetId=pump-a",
                "",
                for_log="30 refusals: 99403",
            ),
            "30 refusals: 99403",
        ),
        (RunDirectoryError("No space left on device"), "No space left on device"),
        (RunDirectoryError("Device A17 is full."), "Device … is full."),
        (StoppedByRulesError("4 of 573 failed"), "4 of 573 failed"),
        (KeyError("pump-a"), "bulkcert itself has failed: KeyError"),
        (asyncio.CancelledError("pump-a"), "it was cancelled"),
    ],
)
def test_why_a_process_ended_names_no_device(failure: BaseException, words: str) -> None:
    assert process_log.in_words(failure) == words


@pytest.mark.parametrize("killed", [True, False])
def test_a_run_that_was_killed_when_all_was_done_is_closed(tmp_path: Path, killed: bool) -> None:
    directory = RunDirectory(tmp_path)
    rollout = Rollout(sizes=(Size("canary", targets=1),))
    plan = SqlitePlan(directory.checkpoint, rollout)
    plan.add(Target(2, {"assetId": "A"}), 1)
    plan.roll_out()
    plan.finish(manifest())
    with contextlib.closing(SqliteStore(directory.checkpoint)) as store, store.transaction():
        store.add_event(STARTED if killed else ENDED)
        [operation] = store.claim(1, wave=0)
        done = Change(operation.id, State.IN_FLIGHT, State.SUCCEEDED, 1, finished_at=1002.0, line=2)
        store.record([done])
    for updated_at in (1001.0, 1003.0):
        with contextlib.closing(SqliteStore(directory.checkpoint)) as store, store.transaction():
            store.note_session(Session(updated_at - 1, updated_at))
    process_log.close_log(directory, NO_RULES)
    with contextlib.closing(directory.reader()) as reader:
        events = list(reader.events())[1:]
    if not killed:
        assert events == []
        return
    lost, begun, over = events
    assert lost.data["last_seen"] == "1970-01-01T00:16:43.000Z"
    assert (begun.data["change"], over.data["change"]) == ("begun", "over")
    assert over.data["outcomes"] == {"succeeded": 1}
