"""Which run of a job is meant in a shared store: the one that began last, or the next one.

In: a shared store and the name of a job. Out: the number of a run. The store alone decides, so that
all hosts mean the same run.
"""

from __future__ import annotations

from bulkcert.errors import RunDirectoryError
from bulkcert.store.manifest import called
from bulkcert.store.place import shared_runs
from bulkcert.store.runs import StoredRun


class RunsOfJob:
    """The runs of a job in a shared store.

    Args:
        url: the shared store.
        name: the name of the job.

    Raises:
        RunDirectoryError: the shared store can't be read.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        runs = shared_runs(url)
        self._names = {run.name for run in runs}
        self._runs = {run.manifest.number: run for run in runs if run.manifest.name == name}

    def latest(self) -> int:
        """The number of the run that `bulkcert run` goes on with: the last one that has begun."""
        begun = [number for number, run in self._runs.items() if _has_begun(run)]
        return max(begun, default=1)

    def following(self) -> int:
        """The number of the next run; that of the first one if there is none before it.

        A next run that was planned, and has not begun, is still the next one.

        Raises:
            RunDirectoryError: the run before is not over.
        """
        number = self.latest()
        before = self._runs.get(number)
        if before is None or not _has_begun(before):
            return number
        if not before.over:
            raise RunDirectoryError(
                f"The run before, {before.name!r} in the shared store, is not over, so there is no"
                " next one yet.",
                "Go on with it: the same command without --new.",
            )
        number += 1
        while called(self._name, number=number) in self._names and number not in self._runs:
            number += 1
        return number

    def upcoming(self) -> int:
        """The number of the run that a plan is made for: the one that is not over, or the next."""
        try:
            return self.following()
        except RunDirectoryError:
            return self.latest()


def _has_begun(run: StoredRun) -> bool:
    return run.begun or run.confirmed
