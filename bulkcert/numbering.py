"""Which run of a job is meant: the first, or a later one that was begun with `--new`.

In: the directory of the first run. Out: the directory and the number of the run to go on with, or
of the next one. The later ones are beside the first, in `NAME-2`, `NAME-3`, … Must never give the
number of a run that was begun before, even if its directory is gone.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from bulkcert import begun_runs
from bulkcert.begun_runs import BegunRun
from bulkcert.errors import BulkcertError, RunDirectoryError
from bulkcert.found_runs import FoundRun, RunState, describe
from bulkcert.rundir import RunDirectory, contains_run, is_locked
from bulkcert.store.manifest import RunManifest


class Place(NamedTuple):
    """Where a run is kept.

    Attributes:
        path: the run directory.
        number: which run of its job it is, from 1.
    """

    path: Path
    number: int


def named(path: Path) -> Place:
    """Return the place of the run in a directory that somebody has named."""
    manifest = _manifest(path)
    return Place(path, manifest.number if manifest else 1)


def latest(first: Path, name: str) -> Place:
    """Return the place of the run that `bulkcert run` goes on with: the last one that has begun.

    Args:
        first: the directory of the first run.
        name: the name of the job.
    """
    numbers = {*_numbers_beside(first), *_numbers_remembered(first, name)}
    for number in sorted(numbers, reverse=True):
        place = numbered(first, number)
        if _has_begun(place, name) or _remembered(place, name):
            return place
    return Place(first, 1)


def following(first: Path, name: str) -> Place:
    """Return the place of the next run, for `--new`; the first one if there is none before it.

    A next run that was planned, and has not begun, is still the next one.

    Args:
        first: the directory of the first run, or of a later one.
        name: the name of the job.

    Raises:
        RunDirectoryError: the run before is not over.
    """
    first = first_of(first)
    before = latest(first, name)
    there = describe(before.path) if contains_run(before.path) else None
    remembered = _remembered(before, name)
    if there is None and remembered is None:
        return before
    if there is not None and there.state is RunState.NOT_BEGUN:
        return before
    _require_over(before.path, there, remembered)
    number = before.number + 1
    while contains_run((place := numbered(first, number)).path) and not _is_next(place, name):
        number += 1
    return place


def upcoming(first: Path, name: str) -> Place:
    """Return the place of the run that a plan is made for: the one that is not over, or the next.

    Args:
        first: the directory of the first run, or of a later one.
        name: the name of the job.
    """
    try:
        return following(first, name)
    except RunDirectoryError:
        return latest(first_of(first), name)


def _require_over(path: Path, there: FoundRun | None, remembered: BegunRun | None) -> None:
    if there is None:
        if remembered is not None and not remembered.over:
            raise RunDirectoryError(
                f"The run before, in {path}, was not over, and is no longer there.",
                "Bring the directory back, and go on with it. If it is lost, and all of it may be"
                f" done again, remove {remembered.file}.",
            )
    elif there.state is RunState.UNREADABLE:
        raise RunDirectoryError(
            f"Whether the run before, in {path}, is over can't be told: {there.problem}",
            "Restore it from a backup.",
        )
    elif there.state is not RunState.OVER:
        raise RunDirectoryError(
            f"The run before, in {path}, is not over, so there is no next one yet.",
            "Go on with it: the same command without --new.",
        )


def numbered(first: Path, number: int) -> Place:
    """Return the place of a run by its number.

    Args:
        first: the directory of the first run.
        number: which run of its job it is, from 1.
    """
    return Place(first if number == 1 else first.with_name(f"{first.name}-{number}"), number)


def first_of(path: Path) -> Path:
    """The directory of the first run of the job whose run is in a directory."""
    manifest = _manifest(path)
    number = manifest.number if manifest else 1
    if number > 1 and path.name.endswith(f"-{number}"):
        return path.with_name(path.name.removesuffix(f"-{number}"))
    return path


def _numbers_beside(first: Path) -> list[int]:
    """The numbers of the directories beside the first one that may contain later runs."""
    later = re.compile(re.escape(first.name) + r"-([1-9]\d{0,8})")
    try:
        matches = [later.fullmatch(path.name) for path in first.parent.iterdir()]
    except OSError:
        return []
    return [int(match[1]) for match in matches if match and int(match[1]) > 1]


def _numbers_remembered(first: Path, name: str) -> list[int]:
    return [run.number for run in begun_runs.recall().runs if run.name == name and run.number > 1]


def _remembered(place: Place, name: str) -> BegunRun | None:
    """What is remembered of the run of a job in a place, the latest if several were begun there."""
    path = place.path.resolve()
    runs = [
        run
        for run in begun_runs.recall().runs
        if (run.path, run.number, run.name) == (path, place.number, name)
    ]
    return max(runs, key=lambda run: run.begun_at, default=None)


def _has_begun(place: Place, name: str) -> bool:
    """Whether there is a run of the job that has begun; another job's does not count."""
    manifest = _manifest(place.path)
    if manifest is None or not _is_of(manifest, place, name):
        return False
    with contextlib.closing(RunDirectory(place.path).reader()) as reader:
        return is_locked(place.path) or reader.is_begun()


def _is_next(place: Place, name: str) -> bool:
    """Whether there is a run of the job that has not begun."""
    manifest = _manifest(place.path)
    return manifest is not None and _is_of(manifest, place, name)


def _is_of(manifest: RunManifest, place: Place, name: str) -> bool:
    return (manifest.name, manifest.number, manifest.rehearsal) == (name, place.number, False)


def _manifest(path: Path) -> RunManifest | None:
    with contextlib.suppress(BulkcertError, OSError, ValueError, LookupError, TypeError):
        if RunDirectory(path).place.exists():
            return RunDirectory(path).manifest()
    return None
