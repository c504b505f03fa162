"""From the target file to operations, each of them once.

The whole file is checked before anything is sent. In come good rows and rejections, out goes a
finished checkpoint, or an error that lists what is wrong. What it never does is to send anything.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bulkcert import durable
from bulkcert.errors import RunDirectoryError, TargetsError, TargetsRejectedError
from bulkcert.job import Job
from bulkcert.model import Fields, Rejection, Target
from bulkcert.store.sqlite import new_store
from bulkcert.targets import TargetFile

FIRST_SHOWN = 20
_MARKS_OF_A_RUN = ("checkpoint.sqlite3", "rejected.csv", "results.jsonl", "summary.json")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was planned.

    Attributes:
        operations: how many there are to do.
        rows: rows of the target file, without blank ones.
        repeated: the first repeated rows, for showing.
        repeated_total: rows that asked for an operation a second time; it is done once.
        unused_columns: columns of the target file that mean nothing to the action.
        sample: the first target.
        sha256: digest of the target file.
        warnings: what the operator should know before it runs, one sentence each.
    """

    operations: int
    rows: int
    repeated: list[Rejection]
    repeated_total: int
    unused_columns: tuple[str, ...]
    sample: Target
    sha256: str
    warnings: tuple[str, ...]


@dataclass(slots=True)
class Rejections:
    """Collects what is wrong with the target file: all of it in a file, the first few in memory.

    The file is made with the first entry, and one from an earlier check is removed. What is wrong
    is worth telling even when it can't be written down.

    Attributes:
        path: the file.
        total: how many there are.
        first: the first few.
        unwritten: why the file could not be written, or empty.
    """

    path: Path
    total: int = 0
    first: list[Rejection] = field(default_factory=list)
    unwritten: str = ""
    _file: IO[str] | None = None
    _write: Callable[[Any], Any] = lambda row: None

    def __post_init__(self) -> None:
        with self._noting():
            self.path.unlink(missing_ok=True)
        self.unwritten = ""

    def add(self, rejection: Rejection) -> None:
        """Take in one entry."""
        with self._noting():
            if not self.total:
                make_run_directory(self.path.parent)
                self._file = self.path.open("w", newline="", encoding="utf-8")
                self._write = csv.writer(self._file).writerow
                self._write(Rejection._fields)
            self._write(rejection)
        self.total += 1
        if len(self.first) < FIRST_SHOWN:
            self.first.append(rejection)

    def close(self) -> None:
        """Close the file."""
        with self._noting():
            if self._file is not None:
                self._file.close()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.unwritten = error.strerror or str(error)
        except RunDirectoryError as error:
            self.unwritten = error.problem
        if self.unwritten:
            self._write = lambda row: None


def make_run_directory(run_dir: Path) -> None:
    """Make the run directory, for its owner's eyes only.

    Raises:
        RunDirectoryError: it can't be made, or holds something else than a run.
    """
    try:
        durable.make_directory(run_dir)
        names = [path.name for path in run_dir.iterdir()]
        if names and not any(name.startswith(_MARKS_OF_A_RUN) for name in names):
            raise RunDirectoryError(
                f"{run_dir} is no run directory, and not empty: it holds {names[0]}.",
                "Name a new folder, or an empty one, with --run-dir.",
            )
        run_dir.chmod(0o700)
    except OSError as error:
        raise RunDirectoryError(
            f"The run directory {run_dir} can't be used: {error.strerror or error}",
            "Name another with --run-dir.",
        ) from error


def build(
    job: Job, targets: TargetFile, checkpoint: Path, rejected: Path, *, rehearsal: bool = False
) -> Plan:
    """Check all targets and, if they are good, make a checkpoint with an operation for each.

    Args:
        job: what to do.
        targets: to which targets.
        checkpoint: the file to make.
        rejected: the CSV file for what is wrong, made only if there is something.
        rehearsal: marks the checkpoint as one of a rehearsal.

    Raises:
        TargetsError: the file can't be used, or some of its rows are bad.
        RunDirectoryError: the checkpoint can't be written.
    """
    rejections = Rejections(rejected)
    with contextlib.closing(rejections), new_store(checkpoint) as store:
        identity = _identity(job)
        requests = [field.name for field in job.action.optional if field.pem]
        keep_their_key = 0
        for row in targets:
            if isinstance(row, Rejection):
                rejections.add(row)
                continue
            store.add(row, hash(identity(row.fields)))
            if requests and row.fields.keys().isdisjoint(requests):
                keep_their_key += 1
        bad = rejections.total
        repeated = 0
        for later_id, first, later in store.repeated():
            if identity(first.fields) != identity(later.fields):
                continue  # only their hashes are equal
            if first.fields == later.fields:
                repeated += 1
                store.drop(later_id)
                reason = f"the same operation as line {first.line}; it is done once"
            else:
                bad += 1
                reason = f"the same certificate as line {first.line}, with other parameters"
            rejections.add(Rejection(later.line, "", reason))
        if bad:
            rejections.close()
            raise _rejected(rejections, bad)
        sample = store.sample()
        if sample is None:
            raise TargetsError("The target file names no targets.", "Add at least one row.")
        plan = Plan(
            operations=store.count(),
            rows=targets.lines,
            repeated=rejections.first,
            repeated_total=repeated,
            unused_columns=targets.unused_columns,
            sample=sample,
            sha256=targets.sha256,
            warnings=_warnings(job, keep_their_key),
        )
        store.finish(_meta(job, plan, rehearsal))
        return plan


def changes(job: Job, stored: dict[str, Any], *, rehearsal: bool) -> list[str]:
    """What is different now from what a checkpoint remembers, one phrase each."""
    before, now = stored["what"], _what_is_done(job, rehearsal)
    return [
        f"{key} was {before.get(key, 'not set')!r} and is now {now.get(key, 'not set')!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _meta(job: Job, plan: Plan, rehearsal: bool) -> dict[str, Any]:
    """What a checkpoint remembers of its job, for reports and for `changes`."""
    return {
        "name": job.name,
        "sha256": plan.sha256,
        "repeated": plan.repeated_total,
        "splits": bool(job.select) or job.action.pages,
        "ceiling": job.ceiling,
        "what": _what_is_done(job, rehearsal),
        # what it takes to read the devices back later
        "connection": {
            "endpoint": job.connection.endpoint,
            "ca_file": str(job.connection.ca_file.absolute()) if job.connection.ca_file else None,
            "options": dict(job.connection.options),
        },
        "limits": dataclasses.asdict(job.limits),
        "parameters": dict(job.parameters),
    }


def _what_is_done(job: Job, rehearsal: bool) -> dict[str, Any]:
    """The part of a job that may not change between two processes of one run, flat."""
    sections: dict[str, Any] = {
        "connection": {"endpoint": job.connection.endpoint, **job.connection.options},
        "parameters": job.parameters,
        "columns": job.columns,
        "select": job.select,
        "keys": dataclasses.asdict(job.keys) if job.keys else {},
    }
    flat = {"provider": job.provider.name, "action": job.action.name, "rehearsal": rehearsal}
    for section, entries in sections.items():
        flat |= {f"{section}.{key}": value for key, value in entries.items()}
    return flat


def _warnings(job: Job, keep_their_key: int) -> tuple[str, ...]:
    """Warn of renewals that a key compromise makes worthless."""
    reason = job.action.fields["reason"].show(job.parameters["reason"]) if _has_reason(job) else ""
    if not keep_their_key or "compromise" not in f"{job.name} {reason}".lower():
        return ()
    return (
        f"{keep_their_key:,} rows have no signing request: such a renewal keeps the old key pair,"
        " and after a key compromise that is worthless. Add"
        ' [keys] generate = "ecdsa-p256", or use the action rotate.',
    )


def _has_reason(job: Job) -> bool:
    return "reason" in job.parameters and "reason" in job.action.fields


def _identity(job: Job) -> Callable[[Fields], tuple[object, ...]]:
    """Make the function that says what is done to whom; equal rows are one operation."""
    ways = [f for way in job.action.identifiers for f in way]
    # a signing request is a parameter like any other: it does not say which certificate is meant
    names = [f.name for f in (*ways, *job.action.required) if not f.pem]
    common = job.parameters

    def identity(fields: Fields) -> tuple[object, ...]:
        return tuple([fields.get(name, common.get(name)) for name in names])

    return identity


def _rejected(rejections: Rejections, bad: int) -> TargetsRejectedError:
    where = f"All of them are in {rejections.path}."
    if rejections.unwritten:
        where = f"{rejections.path} can't be written: {rejections.unwritten}."
    return TargetsRejectedError(
        f"{bad} faults in the target file; nothing was sent.",
        f"{where} Mend the file, then run the same command again.",
        first=rejections.first,
        total=rejections.total,
    )
