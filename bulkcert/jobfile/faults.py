"""Collect everything that is wrong with a job file, so that the operator sees it all at once.

In: one fault at a time, as a place and a reason. Out: one `JobError` that lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bulkcert.errors import JobError
from bulkcert.job import at
from bulkcert.quantities import count

CORRECT_JOB = "Correct the job file, then check it with `bulkcert plan`."
MAX_SHOWN = 50


class CredentialError(ValueError):
    """A value contains a credential, or looks like one. The message must not quote it."""


class Faults:
    """The faults of one job file. It is true when there are any.

    Args:
        path: the job file, as messages name it.
        remove_credential: the next step for a credential in the job file.
        lines: on which line each section and key stands.
    """

    def __init__(self, path: Path, remove_credential: str, lines: Mapping[str, int]) -> None:
        self._path = path
        self._lines = lines
        self._remove_credential = remove_credential
        self._problems: list[str] = []
        self._next_steps: dict[str, None] = {}

    def add(self, place: str, reason: str) -> None:
        """Add a fault; `place` and `reason` read as one sentence: "limits.in_flight must be …"."""
        self._add(place, reason, CORRECT_JOB)

    def add_credential(self, place: str, reason: str) -> None:
        """Add a credential that must not be in the job file."""
        self._add(place, reason, self._remove_credential)

    def add_error(self, place: str, error: ValueError) -> None:
        """Add what a parser raised."""
        add = self.add_credential if isinstance(error, CredentialError) else self.add
        add(place, str(error))

    def _add(self, place: str, reason: str, next_step: str) -> None:
        self._problems.append(f"{at(self._path, place, self._lines)} {reason}")
        self._next_steps.setdefault(next_step)

    def __bool__(self) -> bool:
        return bool(self._problems)

    def error(self) -> JobError:
        """Return the error that lists the faults, one a line, up to `MAX_SHOWN`."""
        lines = self._problems[:MAX_SHOWN]
        if more := len(self._problems) - len(lines):
            lines.append(f"{self._path}: and {count(more, 'more fault')}")
        return JobError("\n".join(lines), "\n".join(self._next_steps))
