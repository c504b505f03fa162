"""Where runs are: the directory of a job's run, and the run that somebody names.

In: a job file or a name. Out: run directories, as absolute paths. Nothing is written, and
the current folder decides nothing: the same command continues the same run from everywhere.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from pathlib import Path

from bulkcert import begun_runs
from bulkcert.errors import BulkcertError, JobError, RunDirectoryError
from bulkcert.jobfile import name_of, store_of
from bulkcert.jobfile.location import locate
from bulkcert.known_runs import known_runs, remembered_runs
from bulkcert.numbering import Place, following, latest, numbered
from bulkcert.rundir import RunDirectory, contains_run
from bulkcert.shared_numbering import RunsOfJob
from bulkcert.store.manifest import called
from bulkcert.store.place import SharedPlace
from bulkcert.store_url import chosen

FOLDER = "runs"
"""The folder beside a job file with the runs of the jobs there."""

_MOVED = "If it was moved, name its directory. A new run would do everything again."


# ---- the run of a job


def place_of(
    job_file: Path, name: str, store: str = "", *, rehearsal: bool = False, new: bool = False
) -> Place:
    """Return where the run of a job is kept, unless somebody says otherwise.

    Args:
        job_file: the job file; symbolic links are followed.
        name: the job's name.
        store: the shared store in which the run is; empty for none.
        rehearsal: a rehearsal has a directory of its own, and no number; it is in no shared store.
        new: the next run is meant; otherwise the one to go on with.

    Raises:
        RunDirectoryError: see `default_directory` and `following`.
    """
    if store and not rehearsal:
        runs = RunsOfJob(store, name)
        number = runs.following() if new else runs.latest()
        return numbered(_runs_beside(job_file) / called(name), number)
    first = default_directory(job_file, name, rehearsal=rehearsal)
    if rehearsal:
        return Place(first, 1)
    return following(first, name) if new else latest(first, name)


def default_directory(job_file: Path, name: str, *, rehearsal: bool = False) -> Path:
    """Return where the first run of a job is kept, unless somebody says otherwise.

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
    if former and not _is_remembered(former):
        raise RunDirectoryError(
            f"{former} contains a run of this name. Earlier versions of bulkcert kept runs below"
            f" the current folder; now the run of this job is kept in {directory}, and would begin"
            " anew there.",
            f"{_how_to_continue(former, directory)}\n"
            "If it is the run of another job, give this job another `name`.",
        )
    return directory


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


def _is_remembered(directory: Path) -> bool:
    """Whether this version has begun a run there, so that its plan is not carried out twice."""
    path = directory.resolve()
    return any(run.path == path for run in begun_runs.recall().runs)


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
    if job_file := job_file_of(run_dir, name, rehearsal):
        return f"bulkcert run {_quoted(job_file)}{option}"
    return f"bulkcert run JOB{option} --run-dir {_quoted(run_dir)}"


def job_file_of(run_dir: Path, name: str, rehearsal: bool) -> Path | None:
    """The job file of a run, if `bulkcert run` with that file would continue this run.

    Args:
        run_dir: the run directory.
        name: the name of the job.
        rehearsal: it is a rehearsal.
    """
    first = run_dir.with_name(called(name, rehearsal=rehearsal))
    usual = first if rehearsal else latest(first, name).path
    if run_dir.parent.name == FOLDER and run_dir == usual:
        with contextlib.suppress(OSError):
            for job_file in sorted(run_dir.parent.parent.glob("*.toml")):
                with contextlib.suppress(JobError):
                    if name_of(job_file) == name:
                        return job_file
    return None


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


def find_run(named: str, store: str = "") -> RunDirectory:
    """Return the run that somebody means, on this machine or in a shared store.

    Args:
        named: see `find`; or the name of a run in a shared store.
        store: the shared store that a command names; empty for that of the job, or of the
            environment.

    Raises:
        RunDirectoryError: there is no such run, or there are several; or the shared store can't be
            read.
        StoreUrlError: its URL can't be used.
    """
    shared = _in_store(named, store)
    try:
        here = RunDirectory(find(named))
    except RunDirectoryError:
        if shared is None:
            raise
        return shared
    if shared is None or here.place == shared.place:
        return here
    # of a job, the run is meant that `bulkcert run` would go on with
    if not contains_run(here.path) or Path(named).is_file():
        return shared
    raise RunDirectoryError(
        f"{named!r} can be one of 2 runs:\n  {here.path}\n  {shared.place.describe()}",
        f"Name the directory; or, for the one in the shared store, change to a folder without"
        f" {FOLDER}/{named}, or name its job file.",
    )


def _in_store(named: str, store: str) -> RunDirectory | None:
    """The run in a shared store that somebody may mean; None if there is none."""
    path = Path(named)
    if path.is_file():
        try:
            name, declared = name_of(path), store_of(path)
        except JobError:
            return None  # not a job file, or one that can't be used: whoever loads it says why
        if url := chosen(declared, store):
            number = RunsOfJob(url, name).latest()
            place = SharedPlace(url, called(name, number=number))
            found = RunDirectory(numbered(_runs_beside(path) / name, number).path, place=place)
            return found if found.place.exists() else None
    elif os.sep not in named and not contains_run(path) and (url := chosen(option=store)):
        found = RunDirectory(Path(FOLDER, named).absolute(), place=SharedPlace(url, named))
        return found if found.place.exists() else None
    return None


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
    directory = latest(_runs_beside(job_file) / name, name).path
    job_file = job_file.absolute()
    if contains_run(directory):
        return directory
    if any(run.path == directory for run in remembered_runs()):
        raise RunDirectoryError(f"The run of {job_file} is no longer in {directory}.", _MOVED)
    others = [directory.with_name(called(name, rehearsal=True)), _former(directory), *_called(name)]
    elsewhere = dict.fromkeys(str(other) for other in others if other and contains_run(other))
    RunDirectory(directory).require_access()
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


def _quoted(path: Path) -> str:
    return shlex.quote(os.fspath(path))
