"""A run in a run directory, without a network: its waves, and a process that works on it.

A thread stands in for the process: it has the run's lock, and notes in the store which control is
in force in it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from job_folder import devices, toml, write_csv

from bulkcert import event_log, load_job
from bulkcert.control import Verb
from bulkcert.plan_hash import PlanHash
from bulkcert.preparation import prepare
from bulkcert.rules.gate import Standing
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session
from bulkcert.store.sqlite import SqliteStore

STARTED = event_log.started(
    1e9,
    process={"host": "ops1", "pid": 4242, "user": "ann", "version": "1.0"},
    total=6,
    settled=0,
    ceiling=500.0,
    rehearsal=False,
    options=[],
)

ENDED = event_log.ended(
    1e9,
    3,
    "Stopped by a signal.",
    {},
    process={"host": "ops1", "pid": 4242},
    requests=0,
    throttled=0,
    busiest_second=0,
)

TARGETS = 6
WAVES = ("canary", "50%", "rest")


def planned_run(folder: Path) -> RunDirectory:
    """Plan a run of six targets with a ceiling of 500/s, in `runs/job` of a folder."""
    write_csv(folder / "targets.csv", devices(TARGETS))
    connection = {"endpoint": "https://example.com", "org_id": "o1"}
    document = {"provider": "enos", "action": "revoke", "targets": "targets.csv"}
    job_file = folder / "job.toml"
    job_file.write_text(toml(document | {"connection": connection}))
    with RunDirectory(folder / "runs" / "job") as entered:
        prepare(load_job(job_file), entered)
    return RunDirectory(folder / "runs" / "job")


@contextlib.contextmanager
def store_of(directory: RunDirectory) -> Iterator[SqliteStore]:
    """The store of a run, in a transaction."""
    with contextlib.closing(SqliteStore(directory.checkpoint)) as store, store.transaction():
        yield store


def settle(directory: RunDirectory, first: int, last: int) -> None:
    """Let operations succeed."""
    with contextlib.closing(sqlite3.connect(directory.checkpoint)) as db, db:
        db.execute(
            "UPDATE operations SET state = 'succeeded', attempts = 1 WHERE id BETWEEN ? AND ?",
            (first, last),
        )


def with_waves(directory: RunDirectory, wave: int, *, over: bool) -> None:
    """Give the run three waves of two targets, the first of which is to be confirmed.

    Args:
        directory: the run directory.
        wave: number of the current wave; what comes before it is settled.
        over: the current one is, too.
    """
    with contextlib.closing(sqlite3.connect(directory.checkpoint)) as db, db:
        db.execute("UPDATE operations SET wave = (id - 1) / 2")
        rows = [(number, name, 2) for number, name in enumerate(WAVES)]
        db.executemany("INSERT INTO waves VALUES (?, ?, ?)", rows)
    settle(directory, 1, 2 * wave + 2 * over)
    manifest = directory.manifest()
    rollout = {"sizes": WAVES[:-1], "confirm": WAVES[:1]}
    plan = PlanHash({**manifest.plan.contents, "rollout": rollout})
    with store_of(directory) as store:
        store.update_manifest(replace(manifest, plan=plan))
        store.set_standing(Standing(wave=wave, over_at=1e9 if over else None))


@contextlib.contextmanager
def process(
    directory: RunDirectory,
    *,
    obeys: bool = True,
    open_requests: Sequence[int] = (0,),
    reasons: Sequence[str] = (),
    ends_on_stop: bool = True,
    left_s: float | None = None,
) -> Iterator[None]:
    """A process that works on the run.

    Args:
        directory: the run directory.
        obeys: it reads controls.
        open_requests: how many are open when a control comes into force, then later.
        reasons: why it sends nothing.
        ends_on_stop: it ends as soon as it has read a stop.
        left_s: how long it estimates that the run still takes.
    """
    ending, entered = threading.Event(), threading.Event()

    def work() -> None:
        with directory, contextlib.closing(SqliteStore(directory.checkpoint)) as store:
            with store.transaction():
                store.add_event(STARTED._replace(at=time.time()))
            entries = store.controls()
            first = last = entries[-1].id if entries else 0
            left = list(open_requests)
            while not ending.wait(0.01):
                new = store.controls(last) if obeys else []
                last = new[-1].id if new else last
                session = Session(1e9, time.time(), control=last, reasons=tuple(reasons))
                session.left_s = left_s
                if last > first:
                    session.under_way = open_requests[0]
                    session.open_requests = left.pop(0) if len(left) > 1 else left[0]
                with store.transaction():
                    store.note_session(session)
                entered.set()
                if ends_on_stop and any(entry.verb is Verb.STOP for entry in new):
                    break
            with store.transaction():
                store.add_event(ENDED._replace(at=time.time()))

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(30)
    try:
        yield
    finally:
        ending.set()
        thread.join()
