"""The rows of a target file that must not be touched, sorted out while a run is planned.

In: the good rows of the target file, one by one. Out: those that are on a never-touch list, in
`protected.csv`; or an error that says which, and whose they are. Must never keep all of them in
memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bulkcert.errors import ProtectionError, TargetsProtectedError
from bulkcert.job import Job
from bulkcert.model import Fields, Rejection, Target
from bulkcert.never_touch import never_touch, refuse_incomparable
from bulkcert.quantities import count
from bulkcert.rejections import RowFile
from bulkcert.rules.protect import Entry
from bulkcert.rundir import RunDirectory
from bulkcert.targets.rejected import PROTECTED
from bulkcert.targets.row import Row


class ProtectedRows:
    """Finds the rows that must not be touched.

    Args:
        job: the job.
        directory: the run directory, for the list of rows; created only if there are any.
        keep: leave the list of an earlier check as it is.

    Attributes:
        file: the list.
        entries: how many entries the never-touch lists have.
        shapes: the combinations of fields that the rows have which were taken.
        warnings: what the operator should know before the run, once all rows were looked at.

    Raises:
        ProtectionError: a never-touch list can't be used.
    """

    def __init__(self, job: Job, directory: RunDirectory, *, keep: bool = False) -> None:
        self._job = job
        self._lists = never_touch(job)
        self.file = RowFile(directory, directory.protected, PROTECTED, keep=keep)
        self.entries = len(self._lists.entries) if self._lists else 0
        self.shapes: set[tuple[str, ...]] = set()
        self._resembling = 0
        self._first_resembling: tuple[Target, Entry] | None = None

    def take(self, row: Row, target: Target, header: Sequence[str] | None) -> bool:
        """Look at one row; return whether it must not be touched, and was added to the list."""
        lists = self._lists
        if lists is None:
            return False
        hit = lists.find(target.fields)
        if hit is not None:
            self.shapes.add(tuple(target.fields))
            self.file.add(row, [Rejection(target.line, "", str(hit))], header)
            return True
        entry = lists.resembled(target.fields)
        if entry is not None:
            self._resembling += 1
            self._first_resembling = self._first_resembling or (target, entry)
        return False

    def finish(self, shapes: Iterable[tuple[str, ...]], *, skip: bool) -> None:
        """Close the list.

        Args:
            shapes: the combinations of fields that all good rows have.
            skip: leave out what is on it.

        Raises:
            ProtectionError: an entry can't be compared with any target.
            TargetsProtectedError: rows must not be touched, and are not to be left out.
        """
        self.file.close()
        if self._lists is not None:
            refuse_incomparable(self._job, self._lists, shapes)
        if self.file.rows and not skip:
            raise self._refusal()

    @property
    def warnings(self) -> tuple[str, ...]:
        if self._first_resembling is None:
            return ()
        target, entry = self._first_resembling
        named = " and ".join(f"{name} {value!r}" for name, value in entry.fields.items())
        return (
            f"{count(self._resembling, 'target resembles', 'targets resemble')} what must not be"
            f" touched, such as line {target.line}: {entry}, has {named}. The values are not the"
            " same: another certificate of the device, other letter case, or leading zeros."
            " Compare them with their source.",
        )

    def _refusal(self) -> TargetsProtectedError:
        total, path = self.file.rows, self.file.path.absolute()
        listed = f"{path} lists {'it' if total == 1 else 'all of them'}."
        if self.file.write_error:
            listed = f"{path} can't be written: {self.file.write_error}."
        return TargetsProtectedError(
            f"{count(total, 'target')} must not be touched; nothing was sent.",
            f"{listed} Ask the owner, or remove {'it' if total == 1 else 'them'} from the target"
            " file; or do all others with --skip-protected.",
            first=self.file.first,
            total=total,
        )


def protects_any(job: Job, planned: Iterable[Fields]) -> bool:
    """Whether operations that were planned must not be carried out any more.

    Raises:
        ProtectionError: a never-touch list can't be used.
    """
    lists = never_touch(job)
    return lists is not None and any(lists.find(fields) for fields in planned)


def refuse_too_many(job: Job, operations: int) -> None:
    """Refuse a plan with more operations than the job may ever begin.

    Raises:
        ProtectionError: there are more.
    """
    most = job.rules.protect.max_operations if job.rules.protect else None
    if most is not None and operations > most:
        raise ProtectionError(
            f"The plan has {count(operations, 'operation')}, and protect.max_operations in the job"
            f" file allows {most:,}; nothing was sent.",
            "Check the target file. If it is right, raise the limit.",
        )
