"""A plan is carried out once: a run that would repeat another one is refused.

In: a run that is about to begin or to go on, and what the user's state folder remembers; of a run
in a shared store, what that store has besides. Out: an error that names the run that was first, or
nothing. A copied folder, a renamed job, another run directory, another store and a run directory
that was deleted must not renew a fleet twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bulkcert import begun_runs
from bulkcert.begun_runs import BegunRun, Memory
from bulkcert.errors import RepetitionError, RunDirectoryError
from bulkcert.found_runs import RunState, state_of
from bulkcert.job import Job
from bulkcert.plan_hash import PlanHash
from bulkcert.quantities import moment
from bulkcert.rundir import RunDirectory, contains_run
from bulkcert.runs import run_command
from bulkcert.store.base import Session
from bulkcert.store.manifest import called
from bulkcert.store.place import SharedPlace, shared_runs


def refuse_lost(path: Path) -> None:
    """Refuse to begin where an unfinished run has been deleted, whatever its plan was.

    Args:
        path: the run directory.

    Raises:
        RepetitionError: there was such a run.
    """
    path = path.resolve()
    for run in begun_runs.recall().runs:
        if run.path == path and not (run.over or run.store or contains_run(path)):
            raise RepetitionError(
                f"The run that was begun {_when(run)} in {path} is no longer there, and it was not"
                " over.",
                _restore(run),
            )


class OnceOnly:
    """Keeps one run from repeating another one, and remembers it.

    Args:
        job: what the run does.
        directory: its run directory, with a checkpoint.
    """

    def __init__(self, job: Job, directory: RunDirectory) -> None:
        self._job, self._directory = job, directory
        self._look()

    def _look(self) -> None:
        """See how far the run is."""
        with contextlib.closing(self._directory.reader()) as reader, reader.snapshot():
            manifest, sessions = reader.manifest(), reader.sessions()
            self._has_begun = reader.is_begun()
        plans = (manifest.plan, PlanHash.within(manifest.plan, self._job))
        self._run = BegunRun(
            run_id=manifest.run_id,
            name=manifest.name,
            number=manifest.number,
            path=self._directory.path.resolve(),
            plans=tuple(dict.fromkeys(plan.hash for plan in plans)),
            begun_at=time.time(),
            worked_until=_worked_until(sessions),
            store=place.url if isinstance(place := self._directory.place, SharedPlace) else "",
        )

    @property
    def _irreversible(self) -> bool:
        return not self._job.action.undone_by

    def check(self) -> None:
        """Refuse to repeat another run.

        Raises:
            RepetitionError: it would, or that can't be told.
        """
        self._check(begun_runs.recall())
        self._check_store()

    def begin(self) -> str:
        """Check again, and remember the run, just before it claims its first operation.

        Returns:
            A warning for the user; empty if there is nothing to say.

        Raises:
            RepetitionError: it would repeat another run, or can't be remembered.
        """
        self._look()
        self._check_store()
        memory = begun_runs.recall()
        try:
            with begun_runs.alone():
                memory = begun_runs.recall()
                self._check(memory)
                begun_runs.remember(self._merged(memory))
        except OSError as error:
            return self._not_remembered(memory, error)
        if memory.unreadable:
            return f"Whether this plan was begun before can't be told: {memory.unreadable[0]}."
        return ""

    def end(self) -> None:
        """Note how far the run is, and whether it is over. A failure here costs little."""
        with contextlib.suppress(RunDirectoryError, OSError):
            with contextlib.closing(self._directory.reader()) as reader, reader.snapshot():
                sessions, over = reader.sessions(), reader.is_over()
            with begun_runs.alone():
                own = _of_id(begun_runs.recall(), self._run.run_id)
                if own and own.path == self._run.path:
                    until = _worked_until(sessions)
                    begun_runs.remember(dataclasses.replace(own, worked_until=until, over=over))

    def _merged(self, memory: Memory) -> BegunRun:
        """This run, with what is remembered of it."""
        own = _of_id(memory, self._run.run_id)
        if own is None:
            return self._run
        plans = tuple(dict.fromkeys([*own.plans, *self._run.plans]))
        return dataclasses.replace(self._run, plans=plans, begun_at=own.begun_at)

    def _not_remembered(self, memory: Memory, error: OSError) -> str:
        if self._run.store:
            return ""  # the store remembers it, for all hosts
        problem = f"{error.filename or begun_runs.folder()}: {error.strerror or error}"
        if self._irreversible and memory and _of_id(memory, self._run.run_id) is None:
            raise RepetitionError(
                f"It can't be remembered that this plan is begun: {problem}.",
                "Make the folder writable: nothing else keeps a plan from being carried out twice.",
            ) from error
        return (
            f"It can't be remembered that this plan is begun: {problem}. Nothing will keep it from"
            " being carried out a second time, from another run directory."
        )

    # ---- what is refused

    def _check(self, memory: Memory) -> None:
        for run in memory.runs:
            if run.run_id == self._run.run_id:
                if not (run.store and self._run.store):  # there, one run has a directory per host
                    self._refuse_copy(run)
            elif set(run.plans).intersection(self._run.plans):
                self._refuse_same_plan(run)
        if memory.unreadable and self._irreversible and not self._has_begun:
            raise RepetitionError(
                f"Whether this plan was begun before can't be told: {memory.unreadable[0]}.",
                "Restore it from a backup. If you know that nothing of this plan was done, remove"
                " it.",
            )

    def _check_store(self) -> None:
        """Refuse to repeat another run of the shared store.

        Two runs of one plan that begin at the same moment see each other's hosts, and neither goes
        on.
        """
        if not self._run.store:
            return
        for other in shared_runs(self._run.store):
            plans = {other.manifest.plan.hash, *(each.before for each in other.manifest.amendments)}
            if other.manifest.run_id == self._run.run_id or plans.isdisjoint(self._run.plans):
                continue
            if not (other.begun or other.worked_on):
                continue
            if other.over and self._run.number > other.manifest.number:
                continue  # the next round, which somebody has asked for
            raise RepetitionError(
                f"This plan was begun as the run {other.name!r} in the shared store"
                f"{', and it is over' if other.over else ''}. A plan is carried out once.",
                "To do all of it once more, run that job with --new."
                if other.over
                else "Go on with that one.",
            )

    def _refuse_copy(self, known: BegunRun) -> None:
        """Refuse a copy of the run that is remembered, unless that was moved here."""
        elsewhere = known.path != self._run.path and not _is_same(known.path, self._run.path)
        if elsewhere and state_now(known) is not None:
            raise RepetitionError(
                f"{self._run.path} is a copy of the run in {known.path}.", _go_on(known)
            )
        if self._run.worked_until < known.worked_until:
            raise RepetitionError(
                f"The checkpoint in {self._run.path} is from {moment(self._run.worked_until)}, but"
                f" the run worked on until {moment(known.worked_until)}. What it did in between"
                " would be done again.",
                "Restore the latest checkpoint. If it is lost, and you accept that, remove"
                f" {known.file}.",
            )

    def _refuse_same_plan(self, other: BegunRun) -> None:
        state = state_now(other)
        if state is RunState.NOT_BEGUN:
            return
        over = state is RunState.OVER or (state is None and other.over)
        if over and self._run.number > other.number:
            return  # the next round, which somebody has asked for
        problem = f"This plan was begun {_when(other)} in {other.store or other.path}"
        if over:
            problem, next_step = f"{problem}, and it is over", _once_more(other)
        elif state is None:
            problem, next_step = f"{problem}, which is no longer there", _restore(other)
        else:
            next_step = _go_on(other)
        raise RepetitionError(f"{problem}. A plan is carried out once.", next_step)


def state_now(run: BegunRun) -> RunState | None:
    """Look where a run stands that is remembered; None if it is no longer in its directory."""
    name = called(run.name, number=run.number)
    place = SharedPlace(run.store, name) if run.store else None
    directory = RunDirectory(run.path, place=place)
    try:
        with contextlib.closing(directory.reader()) as reader, reader.snapshot():
            return state_of(directory, reader) if reader.manifest().run_id == run.run_id else None
    except RunDirectoryError:  # damaged, not readable, or of another version
        there = run.store or os.path.lexists(directory.checkpoint)
        return RunState.UNREADABLE if there else None


def _worked_until(sessions: Sequence[Session]) -> float:
    return max((session.updated_at for session in sessions), default=0.0)


def _of_id(memory: Memory, run_id: str) -> BegunRun | None:
    return next((run for run in memory.runs if run.run_id == run_id), None)


def _is_same(first: Path, second: Path) -> bool:
    """Whether two paths lead to one directory."""
    try:
        return first.samefile(second)
    except OSError:
        return False


def _when(run: BegunRun) -> str:
    return f"on {moment(run.begun_at)}, as run {run.number} of {run.name}"


def _go_on(run: BegunRun) -> str:
    return f"Go on with that one:\n  {run_command(run.path, run.name, rehearsal=False)}"


def _once_more(run: BegunRun) -> str:
    command = run_command(run.path, run.name, rehearsal=False)
    return f"To do all of it once more:\n  {command} --new"


def _restore(run: BegunRun) -> str:
    return (
        "Bring the directory back, and run the same command again. If it is lost, and all of it may"
        f" be done again, remove {run.file}."
    )
