"""From the target file to operations, each of them once.

In: the rows of the target file, good and bad. Out: a finished checkpoint, or an error that lists
what is wrong. The whole file is checked first. Planning never sends anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bulkcert.contradictions import drop_contradictions, list_dropped
from bulkcert.identity import Identities
from bulkcert.job import Job
from bulkcert.job_commands import require_commands
from bulkcert.model import Rejection, Target
from bulkcert.overlap import NO_OVERLAP, Overlap
from bulkcert.plan_hash import NO_TARGETS, PlanHash, Targets
from bulkcert.protection import ProtectedRows, refuse_too_many
from bulkcert.quantities import count
from bulkcert.rejections import RowFile, no_targets, refusal, refuse_own_output
from bulkcert.row_planner import RowPlanner
from bulkcert.rundir import RunDirectory
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite import Breakdown, PlannedWave, new_store
from bulkcert.targets import TargetFile
from bulkcert.targets.rejected import REPEATED
from bulkcert.targets.tally import short_name


@dataclass(frozen=True, slots=True)
class Plan:
    """What was planned.

    Attributes:
        hash: what identifies the plan.
        number: which run of the job it is, from 1.
        operations: number of operations to carry out.
        rows: number of rows of the target file, without blank ones.
        repeated: the first repeated rows, for showing.
        repeated_total: number of rows that name the same operation again; it is done once.
        without_certificates: rows that an earlier run wrote about devices without certificates.
        left_out: number of bad rows that were left out on request.
        rejected: what is wrong with the first of them.
        rejected_total: number of faults in them.
        protected: number of rows that must not be touched, and were left out on request.
        first_protected: the first of them, with the entries that they are on.
        never_touch: number of entries of the never-touch lists.
        unused_columns: columns of the target file that neither the action nor the rollout uses.
        sample: the first target.
        sha256: digest of the target file.
        warnings: what the operator should know before the run, one sentence each.
        waves: the waves of the rollout, in order; empty if the job has none.
        breakdown: the targets by the values of each column that the rollout needs.
        overlap: earlier runs that did something to the same targets, where somebody has looked.
    """

    hash: PlanHash
    number: int
    operations: int
    rows: int
    repeated: list[Rejection]
    repeated_total: int
    without_certificates: int
    left_out: int
    rejected: list[Rejection]
    rejected_total: int
    protected: int
    first_protected: list[Rejection]
    never_touch: int
    unused_columns: tuple[str, ...]
    sample: Target
    sha256: str
    warnings: tuple[str, ...]
    waves: tuple[PlannedWave, ...] = ()
    breakdown: tuple[Breakdown, ...] = ()
    overlap: Overlap = NO_OVERLAP


def build(
    job: Job,
    targets: TargetFile,
    checkpoint: Path,
    directory: RunDirectory,
    *,
    rehearsal: bool = False,
    skip_rejected: bool = False,
    skip_protected: bool = False,
    number: int = 1,
) -> Plan:
    """Check all targets and, if they are good, create a checkpoint with an operation for each.

    Args:
        job: what to do.
        targets: the targets of the job.
        checkpoint: the file to create.
        directory: the run directory, for the lists of rows; created only if there are any.
        rehearsal: mark the checkpoint as a rehearsal's.
        skip_rejected: leave bad rows out, and plan the others.
        skip_protected: leave out rows that must not be touched, and plan the others.
        number: which run of the job it is.

    Raises:
        JobError: a file that a rule names can't be read.
        TargetsError: the file can't be used, or some of its rows are bad or must not be touched.
        ProtectionError: a never-touch list can't be used, or there are too many operations.
        JobError: a command of the job can't be executed.
        RunDirectoryError: the checkpoint can't be written.
    """
    require_commands(job)
    refuse_own_output(job.targets, directory)
    with contextlib.ExitStack() as stack:
        keep = _has_left_out(directory)
        rejected = RowFile(directory, directory.rejected, keep=keep)
        stack.callback(rejected.close)
        repeated = RowFile(directory, directory.repeated, REPEATED, keep=keep)
        stack.callback(repeated.close)
        protected = ProtectedRows(job, directory, keep=keep)
        stack.callback(protected.file.close)
        stack.enter_context(targets.repeatable())
        rollout = job.rules.rollout
        store = stack.enter_context(new_store(checkpoint, rollout))
        identities = Identities(job)
        planner = RowPlanner(job, targets, identities, store, rejected, protected)
        planner.read()
        drop_contradictions(identities, store)
        list_dropped(store, targets, rejected, repeated)
        rejected.close()
        repeated.close()
        if rejected.rows and (planner.unbounded or not skip_rejected):
            unbounded = planner.unbounded if skip_rejected else None
            raise refusal(job.file, targets.advice, rejected, unbounded)
        shapes = tuple(sorted(identities.shapes | protected.shapes))
        protected.finish(shapes, skip=skip_protected)
        rolled_out = store.roll_out()
        needed = set(map(short_name, rollout.columns)) if rollout else set()
        sample = store.sample()
        if sample is None:
            raise no_targets(targets.without_certificates, rejected, protected.file)
        planned = store.targets()
        refuse_too_many(job, planned.operations)
        manifest = manifest_of(
            job,
            rehearsal=rehearsal,
            targets=planned,
            number=number,
            sha256=targets.sha256,
            repeated=repeated.rows,
            left_out=rejected.rows + protected.file.rows,
            protected=protected.file.rows,
            shapes=shapes,
            extra_columns=targets.extra_columns,
        )
        plan = Plan(
            hash=manifest.plan,
            number=number,
            operations=planned.operations,
            rows=targets.lines,
            repeated=repeated.first,
            repeated_total=repeated.rows,
            without_certificates=targets.without_certificates,
            left_out=rejected.rows,
            rejected=rejected.first,
            rejected_total=rejected.total,
            protected=protected.file.rows,
            first_protected=protected.file.first,
            never_touch=protected.entries,
            unused_columns=tuple(name for name in targets.unused_columns if name not in needed),
            sample=sample,
            sha256=targets.sha256,
            warnings=(
                *_warnings(job, planner),
                *rolled_out.notes,
                *protected.warnings,
                *_unwritten(rejected, repeated, protected.file),
            ),
            waves=rolled_out.waves,
            breakdown=rolled_out.breakdown,
        )
        store.finish(manifest)
        return plan


def _has_left_out(directory: RunDirectory) -> bool:
    """Whether the directory contains a run that left rows out; people may be correcting them."""
    return directory.place.exists() and bool(directory.manifest().left_out)


def manifest_of(
    job: Job,
    *,
    rehearsal: bool = False,
    targets: Targets = NO_TARGETS,
    number: int = 1,
    sha256: str = "",
    repeated: int = 0,
    left_out: int = 0,
    protected: int = 0,
    shapes: Sequence[tuple[str, ...]] = (),
    extra_columns: Sequence[str] = (),
) -> RunManifest:
    """Describe a run of a job.

    Args:
        job: what the run does.
        rehearsal: it is a rehearsal.
        targets: its operations.
        number: which run of the job it is.
        sha256: digest of the target file.
        repeated: number of repeated rows; the operation is done once.
        left_out: number of rows that were left out.
        protected: number of them that must not be touched.
        shapes: the combinations of fields that its targets have.
        extra_columns: columns of the target file that are kept for the reports.

    Raises:
        JobError: a file that a rule names can't be read.
    """
    written = {name: value for name, value in dataclasses.asdict(job.format).items() if value}
    reading = {"columns": job.columns, "format": written}
    return RunManifest(
        name=job.name,
        rehearsal=rehearsal,
        plan=PlanHash.of(job, targets),
        number=number,
        reading={
            f"{section}.{key}": value
            for section, entries in reading.items()
            for key, value in entries.items()
        },
        targets_sha256=sha256,
        repeated=repeated,
        left_out=left_out,
        protected=protected,
        shapes=tuple(shapes),
        extra_columns=tuple(extra_columns),
        adds_operations=bool(job.select) or job.action.pages,
        ceiling=job.ceiling,
        connection=job.connection,
        limits=job.limits,
        deadline_s=job.deadline_s,
    )


def _warnings(job: Job, found: RowPlanner) -> tuple[str, ...]:
    """Warn of what rows probably do not mean."""
    warnings = []
    if found.cut:
        rows = count(found.cut, "row has a number", "rows have numbers")
        warnings.append(
            f"{rows} of more than 15 digits whose last ones are zeros. A spreadsheet leaves such"
            " numbers when it has lost the digits: compare them with their source."
        )
    if found.named_twice:
        rows = count(found.named_twice, "row names its", "rows name their")
        first, *others = ("+".join(field.name for field in way) for way in job.action.identifiers)
        warnings.append(
            f"{rows} device in more than one way. {first} is sent; whether {', '.join(others)}"
            " names the same device is not checked."
        )
    reason = job.action.fields["reason"].show(job.parameters["reason"]) if _has_reason(job) else ""
    if found.keep_their_key and "compromise" in f"{job.name} {reason}".lower():
        rows = count(found.keep_their_key, "row has", "rows have")
        warnings.append(
            f"{rows} no signing request, so the renewal keeps the old key pair. That does not help"
            ' after a key compromise. Add [keys] generate = "ecdsa-p256", or use the action rotate.'
        )
    return tuple(warnings)


def _has_reason(job: Job) -> bool:
    return "reason" in job.parameters and "reason" in job.action.fields


def _unwritten(*files: RowFile) -> Iterator[str]:
    """Warn of lists of rows that could not be written."""
    return (f"{f.path} can't be written: {f.write_error}." for f in files if f.write_error)
