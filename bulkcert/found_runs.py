"""The runs below a folder, and where each of them stands.

In: a folder. Out: what its run directories contain; a damaged one is an answer too. Nothing is
written.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from bulkcert.control import control_after, pause_file
from bulkcert.errors import BulkcertError, RunDirectoryError
from bulkcert.model import Outcome, State
from bulkcert.report.summary import (
    RESUMABLE,
    STOPPED_BY_RULES,
    outcome_counts,
)
from bulkcert.rundir import RunDirectory, contains_run
from bulkcert.store.base import StoreReader, pending_abort
from bulkcert.store.manifest import called
from bulkcert.store.place import SharedPlace, shared_runs

MOST_FOLDERS = 20_000
"""Folders that `runs_below` looks into before it gives up."""


class RunState(StrEnum):
    """Where a run stands."""

    NOT_BEGUN = "not_begun"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    ABORTED = "aborted"
    OVER = "over"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run as it is in its directory.

    Attributes:
        path: the run directory.
        state: where it stands.
        name: the name by which it can be called: the job's, with `-rehearsal` behind it for a
            rehearsal; of an unreadable run, the directory's.
        provider, action: by name; empty if unknown.
        rehearsal: it was sent to a simulator.
        counts: number of operations by outcome; those in flight of a running one are not unknown.
        in_flight: number of operations whose request is open, of a running one.
        paused: somebody has paused it, with a control or the file `PAUSE`.
        worked_on: Unix time of the last work on it; None if unknown.
        problem: why it is unreadable.
        store: the shared store in which it is; empty if it is in its directory.
    """

    path: Path
    state: RunState
    name: str
    provider: str = ""
    action: str = ""
    rehearsal: bool = False
    counts: Mapping[Outcome, int]
    in_flight: int = 0
    paused: bool = False
    worked_on: float | None = None
    problem: str = ""
    store: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What is below a folder.

    Attributes:
        runs: the runs, the latest first.
        unreadable: folders that can't be looked into.
        complete: everything was looked at; otherwise there were too many folders.
    """

    runs: list[FoundRun]
    unreadable: list[Path]
    complete: bool


def runs_below(folder: Path, most_folders: int = MOST_FOLDERS) -> Found:
    """Find the runs in a folder and below it.

    Symbolic links and hidden folders are left out.

    Args:
        folder: where to look.
        most_folders: how many folders to look into.

    Raises:
        RunDirectoryError: the folder can't be read.
    """
    folder = folder.absolute()
    runs: list[FoundRun] = []
    unreadable: list[Path] = []
    waiting, seen = deque([folder]), 0
    while waiting and seen < most_folders:
        current = waiting.popleft()
        seen += 1
        # a file of results alone may have been put anywhere with `-o results.jsonl`
        directory = RunDirectory(current)
        if contains_run(current) and _exists(directory.checkpoint, directory.summary):
            runs.append(describe(current))
            continue
        try:
            with os.scandir(current) as entries:
                waiting += sorted(
                    Path(entry)
                    for entry in entries
                    if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
                )
        except OSError as error:
            if current == folder:
                raise RunDirectoryError(
                    f"{folder} can't be read: {error.strerror or error}",
                    "Name a folder that contains runs.",
                ) from error
            unreadable.append(current)
    runs.sort(key=lambda run: run.worked_on or 0, reverse=True)
    return Found(runs, unreadable, not waiting)


def runs_in(store: str) -> list[FoundRun]:
    """The runs in a shared store, the latest first.

    Raises:
        RunDirectoryError: it can't be read.
    """
    places = [SharedPlace(store, run.name) for run in shared_runs(store)]
    found = [_described(RunDirectory(Path(place.run), place=place)) for place in places]
    return sorted(found, key=lambda run: run.worked_on or 0, reverse=True)


def describe(path: Path) -> FoundRun:
    """Return what a run directory contains; a damaged one is an answer too."""
    return _described(RunDirectory(path))


def _described(directory: RunDirectory) -> FoundRun:
    path = directory.path
    try:
        if directory.place.exists():
            return _from_store(directory)
        return _from_summary(directory)
    except (BulkcertError, OSError, ValueError, TypeError, LookupError) as error:
        problem = error.problem if isinstance(error, BulkcertError) else str(error)
        return FoundRun(
            path=path, state=RunState.UNREADABLE, name=path.name, counts={}, problem=problem
        )


def state_of(directory: RunDirectory, reader: StoreReader) -> RunState:
    """Return where the run in a directory stands, by its checkpoint.

    Args:
        directory: the run directory.
        reader: its checkpoint, in one snapshot.
    """
    return RunState.RUNNING if directory.is_worked_on() else state_without_process(reader)


def state_without_process(reader: StoreReader) -> RunState:
    """Return where a run stands on which no process works.

    Args:
        reader: its checkpoint, in one snapshot.
    """
    if reader.is_over():
        return RunState.OVER
    if pending_abort(reader.aborts()) is not None:
        return RunState.ABORTED
    return RunState.INTERRUPTED if reader.is_begun() else RunState.NOT_BEGUN


def state_in_summary(figures: Mapping[str, Any]) -> RunState:
    """Return where a run stood when its `summary.json` was written."""
    states = {RESUMABLE: RunState.INTERRUPTED, STOPPED_BY_RULES: RunState.ABORTED}
    return states.get(figures["exit_code"], RunState.OVER)


def _from_store(directory: RunDirectory) -> FoundRun:
    with contextlib.closing(directory.reader()) as reader, reader.snapshot():
        manifest, counts, sessions = reader.manifest(), reader.counts(), reader.sessions()
        state = state_of(directory, reader)
        paused_by = control_after(reader.controls()).paused
    outcomes, in_flight = outcome_counts(counts), 0
    if state is RunState.RUNNING:
        in_flight = counts.get(State.IN_FLIGHT, 0)
        outcomes[Outcome.UNKNOWN] -= in_flight
    if sessions:
        latest = sessions[-1].updated_at
    elif directory.place.is_shared:
        latest = manifest.planned_at
    else:
        latest = directory.checkpoint.stat().st_mtime
    return FoundRun(
        path=directory.path,
        state=state,
        name=manifest.run,
        provider=manifest.provider,
        action=manifest.action,
        rehearsal=manifest.rehearsal,
        counts=outcomes,
        in_flight=in_flight,
        paused=state is not RunState.OVER
        and (paused_by is not None or pause_file(directory.path) is not None),
        worked_on=latest,
        store=directory.place.url if isinstance(directory.place, SharedPlace) else "",
    )


def _from_summary(directory: RunDirectory) -> FoundRun:
    """A run of which only the reports are here."""
    figures: dict[str, Any] = orjson.loads(directory.summary.read_bytes())
    return FoundRun(
        path=directory.path,
        state=state_in_summary(figures),
        name=called(figures["name"], rehearsal=figures.get("rehearsal", False)),
        provider=figures.get("provider", ""),
        action=figures.get("action", ""),
        rehearsal=figures.get("rehearsal", False),
        counts={outcome: figures[outcome] for outcome in Outcome},
        worked_on=directory.summary.stat().st_mtime,
    )


def _exists(*paths: Path) -> bool:
    return any(map(os.path.exists, paths))
