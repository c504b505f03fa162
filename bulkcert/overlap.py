"""What earlier runs of this user have done to the targets of a plan.

In: a job, its checkpoint as planned, and the runs that this user has worked on. Out: for each run
at the same endpoint, how many of the planned operations it contains, and how they ended there. For
people; nothing is decided by it. Bounded in time and number, and says what was not compared. Must
never keep the targets in memory, nor fail because of another run.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bulkcert.errors import BulkcertError
from bulkcert.job import Job
from bulkcert.known_runs import KnownRun, known_runs
from bulkcert.model import Outcome
from bulkcert.rundir import open_reader, place_of
from bulkcert.store.base import OUTCOMES, StoreReader
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite import SqliteReader
from bulkcert.store.sqlite.keys import Interrupted, KeyList
from bulkcert.timings import Timings

MOST_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOverlap:
    """An earlier run that has something to do with the targets of a plan.

    Attributes:
        name, path, action: of the run.
        at_s: when a process last worked on it; Unix time in seconds.
        operations: how many of the planned operations it contains; where a selection is still to
            find the certificates: how many of the planned devices.
        outcomes: how many of them ended how. With a selection, a device may count several times.
    """

    name: str
    path: Path
    action: str
    at_s: float
    operations: int
    outcomes: Mapping[Outcome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """The overlap of a plan with earlier runs.

    Attributes:
        runs: those that contain planned operations, the newest first.
        left: how many runs were not compared, because there are many or they are large.
        unreadable: how many could not be read.
    """

    runs: tuple[RunOverlap, ...] = ()
    left: int = 0
    unreadable: int = 0


NO_OVERLAP = Overlap()


def overlap_with_earlier_runs(
    job: Job,
    checkpoint: Path,
    run_dir: Path,
    *,
    timings: Timings = Timings(),
    clock: Callable[[], float] = time.monotonic,
) -> Overlap:
    """Compare a plan with the runs that this user has worked on.

    Args:
        job: the job.
        checkpoint: its checkpoint, as planned.
        run_dir: where its run is kept; that run is left out.
        timings: how long it may take.
        clock: returns the time in seconds.
    """
    give_up_at = clock() + timings.longest_comparison_s
    candidates, unreadable, left = _candidates(job, run_dir.resolve())
    left += len(candidates)
    runs: list[RunOverlap] = []
    if candidates:
        with (
            contextlib.suppress(Interrupted, *_UNREADABLE),
            KeyList(lambda: clock() >= give_up_at) as planned,
        ):
            with contextlib.closing(SqliteReader(checkpoint)) as reader:
                planned.fill(key for key, _ in _Keys(job, job.common).of(reader))
            for run, manifest, at_s in candidates:
                try:
                    with contextlib.closing(open_reader(run.path)) as reader:
                        keys = _Keys(job, place_of(manifest))
                        operations, outcomes = planned.count(keys.of(reader))
                except _UNREADABLE:
                    unreadable += 1
                else:
                    if operations:
                        runs.append(_overlap(run, at_s, operations, outcomes))
                left -= 1
    return Overlap(runs=tuple(runs), left=left, unreadable=unreadable)


_UNREADABLE = (BulkcertError, sqlite3.Error, OSError)


def _candidates(
    job: Job, run_dir: Path
) -> tuple[list[tuple[KnownRun, RunManifest, float]], int, int]:
    """The runs to compare with, the newest first; how many can't be read, and how many are left.

    Rehearsals are left out, and what only reads: neither has done anything to a target.
    """
    runs = [
        run for run in known_runs() if run.provider == job.provider.name and run.path != run_dir
    ]
    runs.sort(key=_changed_at, reverse=True)
    found, unreadable = [], 0
    for run in runs[:MOST_RUNS]:
        try:
            with contextlib.closing(open_reader(run.path)) as reader:
                manifest, sessions = reader.manifest(), reader.sessions()
        except _UNREADABLE:
            unreadable += 1
            continue
        action = job.provider.actions.get(manifest.action)
        same_place = manifest.connection.endpoint == job.connection.endpoint
        if sessions and same_place and not manifest.rehearsal and action and action.changes:
            found.append((run, manifest, sessions[-1].updated_at))
    return found, unreadable, len(runs[MOST_RUNS:])


def _changed_at(run: KnownRun) -> float:
    """When the checkpoint of a run, or what belongs to it, was last written."""
    return max((_written_at(path) for path in run.path.glob("checkpoint.sqlite3*")), default=0.0)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _overlap(
    run: KnownRun, at_s: float, operations: int, outcomes: Mapping[str, int]
) -> RunOverlap:
    return RunOverlap(
        name=run.name,
        path=run.path,
        action=run.action,
        at_s=at_s,
        operations=operations,
        outcomes={each: outcomes[each] for each in Outcome if each in outcomes},
    )


class _Keys:
    """What names the operations of a run, as the plan names its own; one number for each.

    The numbers mean something in this process only.

    Args:
        job: the job that was planned.
        common: the fields of every target of the run, unless its row has its own.
    """

    def __init__(self, job: Job, common: Mapping[str, object]) -> None:
        fields = job.provider.actions[job.action.name].fields.values()
        places = [field.name for field in fields if field.option]
        certificate = [field.name for field in job.action.required if not field.pem]
        self._ways = [[field.name for field in way] for way in job.action.identifiers]
        self._others = [*places, *(name for name in certificate if name not in places)]
        self._common = common
        # what names an operation depends on the fields that it has: there are few combinations
        self._shapes: dict[tuple[str, ...], list[tuple[str, object]] | None] = {}

    def of(self, reader: StoreReader) -> Iterator[tuple[int, Outcome]]:
        """Read all operations: the number of each, and how it ended."""
        shapes = self._shapes
        for fields, state in reader.fields_and_states():
            shape = tuple(fields)
            if shape not in shapes:
                shapes[shape] = self._named_by(shape)
            if names := shapes[shape]:
                get = fields.get
                yield hash(tuple([get(name, default) for name, default in names])), OUTCOMES[state]

    def _named_by(self, shape: tuple[str, ...]) -> list[tuple[str, object]] | None:
        """What names operations with these fields, each with its default.

        Returns:
            None if they name their devices in none of the ways of the plan.
        """
        known = {*self._common, *shape}
        for number, way in enumerate(self._ways):
            if known.issuperset(way):
                names = [(name, self._common.get(name)) for name in (*way, *self._others)]
                return [*names, ("", number)]  # no field has this name
        return None
