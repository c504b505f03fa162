"""From the target file to operations, each of them once.

In: the rows of the target file, good and bad. Out: a finished checkpoint, or an error that lists
what is wrong. The whole file is checked first. Planning never sends anything.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bulkcert import durable
from bulkcert.errors import RunDirectoryError, TargetsError, TargetsRejectedError
from bulkcert.identity import Identities, shared_keys
from bulkcert.job import Job
from bulkcert.model import Rejection, Target
from bulkcert.rundir import RunDirectory
from bulkcert.spreadsheet import may_be_cut
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite import new_store
from bulkcert.targets import TargetFile

FIRST_SHOWN = 20
"""Number of rejections that are kept in memory, to be shown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was planned.

    Attributes:
        operations: number of operations to carry out.
        rows: number of rows of the target file, without blank ones.
        repeated: the first repeated rows, for showing.
        repeated_total: number of rows that name the same operation again; it is done once.
        left_out: rows that an earlier run wrote about devices without certificates.
        unused_columns: columns of the target file that the action does not use.
        sample: the first target.
        sha256: digest of the target file.
        warnings: what the operator should know before the run, one sentence each.
    """

    operations: int
    rows: int
    repeated: list[Rejection]
    repeated_total: int
    left_out: int
    unused_columns: tuple[str, ...]
    sample: Target
    sha256: str
    warnings: tuple[str, ...]


@dataclass(slots=True)
class Rejections:
    """Collects the bad and the repeated rows: all of them in a file, the first few in memory.

    The file is created with the first row, and a file of an earlier check is removed. If the file
    can't be written, collecting goes on, so that the operator at least sees the first few.

    Attributes:
        directory: the run directory, created together with the file.
        total: number of rows so far.
        first: the first few.
        write_error: why the file could not be written, or empty.
    """

    directory: RunDirectory
    total: int = 0
    first: list[Rejection] = field(default_factory=list)
    write_error: str = ""
    _file: IO[str] | None = None
    _write: Callable[[Any], Any] = lambda row: None

    def __post_init__(self) -> None:
        with self._keep_write_error():
            self.path.unlink(missing_ok=True)
        self.write_error = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory.rejected

    def add(self, rejection: Rejection) -> None:
        """Add one row."""
        with self._keep_write_error():
            if not self.total:
                self.directory.create()
                descriptor = durable.create(self.path, 0o666)
                self._file = os.fdopen(descriptor, "w", newline="", encoding="utf-8")
                self._write = csv.writer(self._file).writerow
                self._write(Rejection._fields)
            self._write(rejection)
        self.total += 1
        if len(self.first) < FIRST_SHOWN:
            self.first.append(rejection)

    def close(self) -> None:
        """Close the file."""
        with self._keep_write_error():
            if self._file is not None:
                self._file.close()

    @contextmanager
    def _keep_write_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.write_error = error.strerror or str(error)
        except RunDirectoryError as error:
            self.write_error = error.problem
        if self.write_error:
            self._write = lambda row: None


def build(
    job: Job,
    targets: TargetFile,
    checkpoint: Path,
    directory: RunDirectory,
    *,
    rehearsal: bool = False,
) -> Plan:
    """Check all targets and, if they are good, create a checkpoint with an operation for each.

    Args:
        job: what to do.
        targets: the targets of the job.
        checkpoint: the file to create.
        directory: the run directory, for the list of rejected rows; created only if there are any.
        rehearsal: mark the checkpoint as a rehearsal's.

    Raises:
        TargetsError: the file can't be used, or some of its rows are bad.
        RunDirectoryError: the checkpoint can't be written.
    """
    rejections = Rejections(directory)
    with contextlib.closing(rejections), new_store(checkpoint) as store:
        identities = Identities(job)
        takes_request = identities.takes_request
        keep_their_key = named_twice = cut = 0
        for row in targets:
            if isinstance(row, Rejection):
                rejections.add(row)
                continue
            fields, device = row.fields, None
            if takes_request:
                if identities.request(fields):
                    device = hash(identities.device(fields))
                else:
                    keep_their_key += 1
            operation = identities.operation(fields)
            store.add(row, hash(operation), device)
            cut += any(map(may_be_cut, operation))
            named_twice += identities.names_device_twice(fields)
        bad = rejections.total
        repeated = 0
        for later_id, first, later in store.repeated():
            if identities.operation(first.fields) != identities.operation(later.fields):
                continue  # different operations with the same hash
            if identities.parameters(first.fields) == identities.parameters(later.fields):
                repeated += 1
                store.drop(later_id)
                reason = f"the same operation as line {first.line}; it is done once"
            else:
                bad += 1
                reason = f"the same certificate as line {first.line}, with other parameters"
            rejections.add(Rejection(later.line, "", reason))
        for rejection in shared_keys(identities, store.on_one_device()):
            bad += 1
            rejections.add(rejection)
        if bad:
            rejections.close()
            raise _rejected(rejections, bad)
        sample = store.sample()
        if sample is None:
            only = "only devices without certificates" if targets.left_out else "no targets"
            raise TargetsError(f"The target file contains {only}.", "Add at least one row.")
        plan = Plan(
            operations=store.count(),
            rows=targets.lines,
            repeated=rejections.first,
            repeated_total=repeated,
            left_out=targets.left_out,
            unused_columns=targets.unused_columns,
            sample=sample,
            sha256=targets.sha256,
            warnings=_warnings(job, keep_their_key, named_twice, cut),
        )
        store.finish(
            manifest_of(job, rehearsal=rehearsal, sha256=plan.sha256, repeated=repeated),
        )
        return plan


def manifest_of(
    job: Job,
    *,
    rehearsal: bool = False,
    sha256: str = "",
    repeated: int = 0,
    left_out: int = 0,
) -> RunManifest:
    """Describe a run of a job.

    Args:
        job: what the run does.
        rehearsal: it is a rehearsal.
        sha256: digest of the target file.
        repeated: number of repeated rows; the operation is done once.
        left_out: number of bad rows that were left out.
    """
    sections: dict[str, Any] = {
        "connection": {"endpoint": job.connection.endpoint, **job.connection.options},
        "parameters": job.parameters,
        "columns": job.columns,
        "format": {k: v for k, v in dataclasses.asdict(job.format).items() if v},
        "select": job.select,
        "keys": dataclasses.asdict(job.keys) if job.keys else {},
    }
    return RunManifest(
        name=job.name,
        provider=job.provider.name,
        action=job.action.name,
        rehearsal=rehearsal,
        settings={
            f"{section}.{key}": value
            for section, entries in sections.items()
            for key, value in entries.items()
        },
        targets_sha256=sha256,
        repeated=repeated,
        left_out=left_out,
        adds_operations=bool(job.select) or job.action.pages,
        ceiling=job.ceiling,
        connection=job.connection,
        limits=job.limits,
        parameters=job.parameters,
    )


def _warnings(job: Job, keep_their_key: int, named_twice: int, cut: int) -> tuple[str, ...]:
    """Warn of what rows probably do not mean.

    Args:
        job: what to do.
        keep_their_key: rows whose renewal keeps the key.
        named_twice: rows with a name of their device that is not sent.
        cut: rows with a number whose last digits a spreadsheet may have lost.
    """
    warnings = []
    if cut:
        rows = "1 row has a number" if cut == 1 else f"{cut:,} rows have numbers"
        warnings.append(
            f"{rows} of more than 15 digits whose last ones are zeros. A spreadsheet leaves such"
            " numbers when it has lost the digits: compare them with their source."
        )
    if named_twice:
        rows = "1 row names its" if named_twice == 1 else f"{named_twice:,} rows name their"
        first, *others = ("+".join(field.name for field in way) for way in job.action.identifiers)
        warnings.append(
            f"{rows} device in more than one way. {first} is sent; whether {', '.join(others)}"
            " names the same device is not checked."
        )
    reason = job.action.fields["reason"].show(job.parameters["reason"]) if _has_reason(job) else ""
    if keep_their_key and "compromise" in f"{job.name} {reason}".lower():
        rows = "1 row has" if keep_their_key == 1 else f"{keep_their_key:,} rows have"
        warnings.append(
            f"{rows} no signing request, so the renewal keeps the old key pair. That does not help"
            ' after a key compromise. Add [keys] generate = "ecdsa-p256", or use the action rotate.'
        )
    return tuple(warnings)


def _has_reason(job: Job) -> bool:
    return "reason" in job.parameters and "reason" in job.action.fields


def _rejected(rejections: Rejections, bad: int) -> TargetsRejectedError:
    where = f"{rejections.path} lists {'it' if rejections.total == 1 else 'all of them'}."
    if rejections.write_error:
        where = f"{rejections.path} can't be written: {rejections.write_error}."
    return TargetsRejectedError(
        f"The target file has {bad:,} {'error' if bad == 1 else 'errors'}; nothing was sent.",
        f"{where} Fix the target file, then run the same command again.",
        first=rejections.first,
        total=rejections.total,
    )
