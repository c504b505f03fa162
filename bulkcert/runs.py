"""Where runs are: the directory of a job's run, the run that somebody names, the runs in a folder.

In: a job file, a name or a folder. Out: run directories, as absolute paths. Nothing is written, and
the current folder decides nothing: the same command continues the same run from everywhere.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from bulkcert.control import control_after, pause_file
from bulkcert.errors import BulkcertError, JobError, RunDirectoryError
from bulkcert.jobfile import name_of
from bulkcert.jobfile.location import locate
from bulkcert.known_runs import known_runs, remembered_runs
from bulkcert.model import Outcome, State
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES, is_finished, outcome_counts
from bulkcert.rundir import RunDirectory, contains_run, is_locked
from bulkcert.store.base import StoreReader, pending_abort

FOLDER = "runs"
"""The folder beside a job file with the runs of the jobs there."""

MOST_FOLDERS = 20_000
"""Folders that `runs_below` looks into before it gives up."""

_MOVED = "If it was moved, name its directory. A new run would do everything again."


# ---- the run of a job


def default_directory(job_file: Path, name: str, *, rehearsal: bool = False) -> Path:
    """Return where the run of a job is kept, unless somebody says otherwise.

    Args:
        job_file: the job file; symbolic links are followed.
        name: the job's name.
        rehearsal: a rehearsal has a directory of its own.

    Raises:
        RunDirectoryError: the job file is not in a folder, or the run may be where earlier versions
            kept it.
    """
    directory = _runs_beside(job_file) / called(name, rehearsal=rehearsal)
    former = None if rehearsal else _former(directory)
    if former:
        raise RunDirectoryError(
            f"{former} contains a run of this name. Earlier versions of bulkcert kept runs below"
            f" the current folder; now the run of this job is kept in {directory}, and would begin"
            " anew there.",
            f"{_how_to_continue(former, directory)}\n"
            "If it is the run of another job, give this job another `name`.",
        )
    return directory


def called(name: str, *, rehearsal: bool) -> str:
    """The name of a run: that of its job, or of a rehearsal of the job."""
    return f"{name}-rehearsal" if rehearsal else name


def _runs_beside(job_file: Path) -> Path:
    """The folder for the runs of the jobs in the folder of this one."""
    file = locate(job_file)
    if file is None:
        raise RunDirectoryError(
            f"The job comes from {job_file}, which is not a file in a folder, so there is no place"
            " beside it to keep its run.",
            "Say where to keep it with --run-dir DIR, and use the same directory to continue it.",
        )
    return file.parent / FOLDER


def _former(directory: Path) -> Path | None:
    """The run directory of the same name below the current folder, if the default has no run."""
    with contextlib.suppress(OSError):  # the current folder may have been removed
        former = Path.cwd() / FOLDER / directory.name
        if (
            contains_run(former)
            and not contains_run(directory)
            and former.resolve() != directory.resolve()
        ):
            return former
    return None


def _how_to_continue(former: Path, directory: Path) -> str:
    """How to continue a run of an earlier version."""
    try:
        RunDirectory(former).reader().close()
    except BulkcertError as error:
        return f"This version can't continue it: {error.problem}\n{error.next_step}"
    named = f"To continue it, add --run-dir {_quoted(former)}"
    if directory.exists():
        return named  # moved there, it would be in what is there
    moved = f"mkdir -p {_quoted(directory.parent)} && mv {_quoted(former)} {_quoted(directory)}"
    return f"{named}\nor move it: {moved}"


def run_command(run_dir: Path, name: str, rehearsal: bool) -> str:
    """The command that continues a run, with its job file if that is where it should be.

    Args:
        run_dir: the run directory.
        name: the name of the job.
        rehearsal: it is a rehearsal.
    """
    option = " --rehearse" if rehearsal else ""
    if run_dir.parent.name == FOLDER and run_dir.name == called(name, rehearsal=rehearsal):
        with contextlib.suppress(OSError):
            for job_file in sorted(run_dir.parent.parent.glob("*.toml")):
                with contextlib.suppress(JobError):
                    if name_of(job_file) == name:
                        return f"bulkcert run {_quoted(job_file)}{option}"
    return f"bulkcert run JOB{option} --run-dir {_quoted(run_dir)}"


# ---- the run that somebody names


def find(named: str) -> Path:
    """Return the run directory that somebody means.

    Args:
        named: a run directory, a job file, or the name of a run that this user has worked on, or
            that is in `runs` in the current folder.

    Raises:
        RunDirectoryError: there is no such run, or there are several.
    """
    path = Path(named)
    found = [] if os.sep in named else _called(named)
    if contains_run(path):
        found.append(path.absolute())
    elif path.is_file():
        with contextlib.suppress(*[RunDirectoryError] if found else []):
            found.append(_of_job(path))
    different = {directory.resolve(): directory for directory in reversed(found)}
    if len(different) > 1:
        raise RunDirectoryError(
            f"{named!r} can be one of {len(different)} runs:\n"
            + "\n".join(f"  {directory}" for directory in sorted(different.values())),
            "Name one of these directories.",
        )
    if different:
        return next(iter(different.values()))
    if path.is_dir():
        return path.absolute()  # whoever opens it says what is missing
    if gone := [str(run.path) for run in remembered_runs() if run.name == named]:
        raise RunDirectoryError(f"The run {named!r} is no longer in {', '.join(gone)}.", _MOVED)
    raise RunDirectoryError(
        f"{named!r} is neither a run directory, nor a job file, nor the name of a run that you have"
        " worked on.",
        _suggestion(named),
    )


def _called(name: str) -> list[Path]:
    """The run directories that a name may mean."""
    known = [run.path for run in known_runs() if run.name == name and contains_run(run.path)]
    here = Path(FOLDER, name)
    return [*known, here.absolute()] if contains_run(here) else known


def _of_job(job_file: Path) -> Path:
    """The directory of the run that `bulkcert run` would continue."""
    try:
        name = name_of(job_file)
    except JobError as error:
        raise RunDirectoryError(
            f"{job_file} is neither a run directory nor a job file: {error.problem}",
            "Name a run directory, a job file, or a run by its name.",
        ) from error
    directory, job_file = _runs_beside(job_file) / name, job_file.absolute()
    if contains_run(directory):
        return directory
    if any(run.path == directory for run in remembered_runs()):
        raise RunDirectoryError(f"The run of {job_file} is no longer in {directory}.", _MOVED)
    others = [directory.with_name(called(name, rehearsal=True)), _former(directory), *_called(name)]
    elsewhere = dict.fromkeys(str(other) for other in others if other and contains_run(other))
    raise RunDirectoryError(
        f"There is no run of {job_file}: {directory} does not contain one.",
        f"Runs of this name are in {', '.join(elsewhere)}."
        if elsewhere
        else f"Begin it with `bulkcert run {_quoted(job_file)}`.",
    )


def _suggestion(named: str) -> str:
    names = [run.name for run in known_runs()]
    if near := difflib.get_close_matches(named, dict.fromkeys(names), n=1):
        return f"Did you mean {near[0]!r}?"
    return "`bulkcert runs DIR` lists the runs below a folder."


# ---- the runs below a folder


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


def describe(path: Path) -> FoundRun:
    """Return what a run directory contains; a damaged one is an answer too."""
    directory = RunDirectory(path)
    try:
        if directory.checkpoint.exists():
            return _from_checkpoint(directory)
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
    if is_locked(directory.path):
        return RunState.RUNNING
    counts = reader.counts()
    if is_finished(counts):
        return RunState.OVER
    if pending_abort(reader.aborts()) is not None:
        return RunState.ABORTED
    begun = reader.attempts() > 0 or counts.keys() != {State.PLANNED}
    return RunState.INTERRUPTED if begun else RunState.NOT_BEGUN


def state_in_summary(figures: Mapping[str, Any]) -> RunState:
    """Return where a run stood when its `summary.json` was written."""
    states = {RESUMABLE: RunState.INTERRUPTED, STOPPED_BY_RULES: RunState.ABORTED}
    return states.get(figures["exit_code"], RunState.OVER)


def _from_checkpoint(directory: RunDirectory) -> FoundRun:
    with contextlib.closing(directory.reader()) as reader, reader.snapshot():
        manifest, counts, sessions = reader.manifest(), reader.counts(), reader.sessions()
        state = state_of(directory, reader)
        paused_by = control_after(reader.controls()).paused
    outcomes, in_flight = outcome_counts(counts), 0
    if state is RunState.RUNNING:
        in_flight = counts.get(State.IN_FLIGHT, 0)
        outcomes[Outcome.UNKNOWN] -= in_flight
    latest = sessions[-1].updated_at if sessions else directory.checkpoint.stat().st_mtime
    return FoundRun(
        path=directory.path,
        state=state,
        name=called(manifest.name, rehearsal=manifest.rehearsal),
        provider=manifest.provider,
        action=manifest.action,
        rehearsal=manifest.rehearsal,
        counts=outcomes,
        in_flight=in_flight,
        paused=state is not RunState.OVER
        and (paused_by is not None or pause_file(directory.path) is not None),
        worked_on=latest,
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


def _quoted(path: Path) -> str:
    return shlex.quote(os.fspath(path))
