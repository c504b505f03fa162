"""Makes sure that there is a run for a job: an earlier one, or a new plan.

In: a job and a locked run directory, which is where the run is stored or names the shared store.
Out: the plan, or nothing where there was a run. A run of another job is never continued. It is
removed only if nothing was sent for it, or if it is a rehearsal's. With a shared store each host
checks the whole job; the first one publishes the plan, and the others join.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from bulkcert import durable, plan_hash
from bulkcert.amendment import Amendment, Changes
from bulkcert.control import ControlEntry, Verb
from bulkcert.decisions import record_control
from bulkcert.errors import BulkcertError, RunDirectoryError
from bulkcert.fingerprints import compared, unpacked
from bulkcert.job import Job
from bulkcert.job_commands import require_commands
from bulkcert.job_files import files_of
from bulkcert.plan import Plan, build, manifest_of
from bulkcert.protection import protects_any
from bulkcert.rejections import command_for_corrected, usable_rows
from bulkcert.rules import NO_RULES
from bulkcert.rundir import RunDirectory
from bulkcert.shared_material import require_operator
from bulkcert.store.base import Store
from bulkcert.store.manifest import RunManifest
from bulkcert.store.place import LocalPlace, SharedPlace
from bulkcert.store_url import VARIABLE
from bulkcert.targets import TargetFile, digest, opened


def prepare(
    job: Job,
    directory: RunDirectory,
    *,
    rehearsal: bool = False,
    replace: bool = True,
    skip_rejected: bool = False,
    skip_protected: bool = False,
    stdin: BinaryIO | None = None,
    number: int = 1,
    retry_failed: bool = False,
    amend: bool = False,
) -> Plan | None:
    """Make sure that the directory contains a checkpoint for this job.

    Args:
        job: what to do.
        directory: the run directory, entered.
        rehearsal: mark a new checkpoint as a rehearsal's, which no real run may continue.
        replace: replace an earlier rehearsal by a new one if it is finished, was of another job, or
            took its targets from standard input.
        skip_rejected: a new plan leaves bad rows out. A run that has left some out goes on without
            them, whether it is asked to again or not.
        skip_protected: the same for rows that must not be touched.
        stdin: where targets come from if the job reads them from standard input.
        number: which run of the job a new plan is for.
        retry_failed: a run that is over is worked on, too.
        amend: the limits and rules of a run that has begun may have changed; see `amendment_of`.

    Returns:
        The plan, or None if there was a checkpoint.

    Raises:
        TargetsError: the target file can't be used, or has bad rows or some that must not be
            touched.
        ProtectionError: a never-touch list can't be used, or there are too many operations.
        JobError: a command of the job can't be executed, or nobody is named who may read its keys
            in a shared store.
        RunDirectoryError: the checkpoint belongs to another job, or can't be used.
    """
    if directory.place.is_shared:
        require_operator(job)
    with contextlib.ExitStack() as stack:
        notes: list[str] = []
        if directory.place.is_shared:
            _clear_local(directory)
        exists = directory.place.exists()
        if exists:
            directory.pin()
        if exists and not (rehearsal and replace and _is_obsolete(job, directory)):
            begun = has_begun(directory)
            if job.targets is None and not begun:
                stdin = stack.enter_context(_kept(stdin))
            over = _is_finished(directory) and not retry_failed
            if not over:
                require_commands(job)
            found = _differences(job, directory, rehearsal=rehearsal, over=over, stdin=stdin)
            if begun:
                _refuse_changes(job, directory, Changes.sorted(found), amend=amend)
                found = []
            elif not found and _is_protected_now(job, directory):
                notes = ["some of its targets must not be touched any more"]
            if not found and not notes:
                _note_settings(job, directory)
                return None
            if directory.place.is_shared and directory.is_worked_on():
                raise RunDirectoryError(
                    f"A host works on {directory.place.describe()}, which has another plan:"
                    f" {'; '.join([*map(str, found), *notes])}.",
                    "Give each host the same job and target file; or stop the others before.",
                )
            why = "; ".join([*map(str, found), *notes])
            notes = [f"planned anew, because nothing had been sent: {why}"]
            if stdin is not None and job.targets is None:
                stdin.seek(0)
        plan = _planned(
            job,
            directory,
            rehearsal=rehearsal,
            skip_rejected=skip_rejected,
            skip_protected=skip_protected,
            stdin=stdin,
            number=number,
        )
        return dataclasses.replace(plan, warnings=(*plan.warnings, *notes))


def _planned(
    job: Job,
    directory: RunDirectory,
    *,
    rehearsal: bool,
    skip_rejected: bool,
    skip_protected: bool,
    stdin: BinaryIO | None,
    number: int,
) -> Plan:
    """Make a new plan in place of what the directory contains."""
    shared = directory.place if isinstance(directory.place, SharedPlace) else None
    alone = not rehearsal and directory.results.is_file() and not directory.place.exists()
    if alone and shared:
        raise RunDirectoryError(
            f"{directory.path} contains the results of an earlier run, but {shared.url} has no run"
            f" {shared.run!r}. A new run would do everything again.",
            "Name the right shared store. For another campaign, write a job with another name.",
        )
    if alone:
        raise RunDirectoryError(
            f"{directory.path} contains the results of an earlier run, but not its checkpoint. It"
            " can't be continued, and a new run would do everything again.",
            f"Restore {directory.checkpoint.name}. For another campaign, write a job with another"
            " name.",
        )
    controls = [] if rehearsal else _controls(directory)
    directory.remove_run()
    checkpoint = durable.new_partial(directory.path) if shared else directory.checkpoint
    try:
        plan = build(
            job,
            TargetFile.of(job, stdin),
            checkpoint,
            directory,
            rehearsal=rehearsal,
            skip_rejected=skip_rejected,
            skip_protected=skip_protected,
            number=number,
        )
        if shared and not shared.publish(checkpoint, files_of(job)):
            controls = []  # the host that was first has seen to them
    finally:
        if shared:
            checkpoint.unlink(missing_ok=True)
    directory.pin()
    if controls:

        def record(store: Store) -> None:
            for entry in controls:
                record_control(
                    store, entry.verb, entry.value, entry.why, at=entry.at, asked_by=entry.who
                )

        directory.commit(record)
    return plan


def join(job: Job, directory: RunDirectory) -> None:
    """Check that a run that has begun is for this job, of which nobody needs the target file.

    Raises:
        RunDirectoryError: the job has changed since the shared store was read.
    """
    directory.pin()
    stored = directory.manifest()
    if found := plan_hash.differences(stored.plan, plan_hash.PlanHash.within(stored.plan, job)):
        raise RunDirectoryError(
            f"The job of {directory.place.describe()} is not the one that was planned:"
            f" {'; '.join(map(str, found))}.",
            "If somebody has just amended it, run the same command again.",
        )


def _clear_local(directory: RunDirectory) -> None:
    """Remove a plan that is in the directory itself, and of which nothing was sent.

    Raises:
        RunDirectoryError: it has begun: in a shared store it would begin again.
    """
    local = RunDirectory(directory.path, place=LocalPlace(directory.checkpoint))
    if not local.place.exists():
        return
    if has_begun(local):
        raise RunDirectoryError(
            f"The run in {directory.path} has begun without a shared store, and can't move into"
            f" {directory.place.describe()}: everything would be done again.",
            "Go on with it without --store, without `store` in the job, and without"
            f" {VARIABLE}. For another campaign, write a job with another name.",
        )
    local.remove_run()


def _controls(directory: RunDirectory) -> list[ControlEntry]:
    """What people have asked of a run that has not begun. It outlives a new plan, but for each go:
    the waves are others now."""
    if not directory.place.exists():
        return []
    with contextlib.closing(directory.reader()) as reader:
        return [entry for entry in reader.controls() if entry.verb is not Verb.GO]


def amendment_of(job: Job, directory: RunDirectory) -> Amendment | None:
    """Return how the job changes the limits and rules of its run; None if it does not."""
    stored = directory.manifest()
    now = plan_hash.PlanHash.within(stored.plan, job)
    changes = Changes.sorted(plan_hash.differences(stored.plan, now))
    if not changes.amending:
        return None
    return Amendment(changes.amending + changes.lowered, now)


def _refuse_changes(job: Job, directory: RunDirectory, changes: Changes, *, amend: bool) -> None:
    """Refuse to go on with a run whose job has changed in a way that it may not.

    Raises:
        RunDirectoryError: it has.
    """
    refused = [*changes.fixed, *(() if amend else changes.amending)]
    if not refused:
        return
    stored = directory.manifest()
    if _is_finished(directory):
        steps = ["Undo the change to see how it ended, or add --new to begin the next run."]
    elif changes.fixed:
        steps = ["Undo the change to continue the run."]
    else:
        steps = ["Undo the change to continue the run as it was, or add --amend to change it."]
    if stored.left_out > stored.protected and changes.fixed:
        steps += [
            f"The bad rows that it left out are in {usable_rows(directory.path)}. Correct them"
            " there, and do them in the next run, once this one is over:",
            f"  {command_for_corrected(job.file, directory.path)}",
            "With the whole target file, it would do everything again.",
        ]
    elif changes.fixed and not _is_finished(directory):
        steps.append("For another campaign, write a job with another name.")
    found = "; ".join(map(str, refused))
    if any(each.key == plan_hash.CONTENT for each in refused):
        if targets := _changed_targets(job, directory):
            found += f"; targets: {targets}"
        if len(refused) == 1:
            found += "; all else is equal"
    raise RunDirectoryError(
        f"The run {directory.which} has begun, and its job has changed since: {found}.",
        "\n".join(steps),
    )


def _changed_targets(job: Job, directory: RunDirectory) -> str:
    """How many targets have changed since the run was planned; empty if that can't be said."""
    if job.targets is None or directory.manifest().adds_operations:
        return ""  # these are read already, or not as they were planned
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        now = RunDirectory(Path(scratch))
        skipped = {"skip_rejected": True, "skip_protected": True}
        try:
            build(job, TargetFile.of(job), now.checkpoint, now, **skipped)
            before, after = unpacked(directory.fingerprints()), unpacked(now.fingerprints())
        except BulkcertError:
            return ""
    return str(compared(before, after))


def differences(
    job: Job, stored: RunManifest, *, rehearsal: bool = False
) -> list[plan_hash.Difference]:
    """Return how a job differs from the one that a run was planned for.

    The content of the target file is not compared.
    """
    now = manifest_of(job, rehearsal=rehearsal)
    found = [
        plan_hash.Difference(plan_hash.READING, key, stored.reading.get(key), now.reading.get(key))
        for key in sorted(stored.reading.keys() | now.reading.keys())
    ]
    found.append(plan_hash.Difference(plan_hash.READING, "rehearsal", stored.rehearsal, rehearsal))
    found += [
        each
        for each in plan_hash.differences(stored.plan, now.plan)
        if each.section != plan_hash.TARGETS
    ]
    return [each for each in found if each.before != each.now]


def _differences(
    job: Job,
    directory: RunDirectory,
    *,
    rehearsal: bool,
    over: bool = False,
    stdin: BinaryIO | None = None,
) -> list[plan_hash.Difference]:
    """The same, with the content of the target file.

    Args:
        job: the job.
        directory: the run directory.
        rehearsal: it is a rehearsal.
        over: nothing is left to do, so limits and rules, and their files, do not matter.
        stdin: where targets come from if the job reads them from standard input.
    """
    stored = directory.manifest()
    if over:
        job = dataclasses.replace(job, rules=NO_RULES)
    found = differences(job, stored, rehearsal=rehearsal)
    if over:
        found = [each for each in found if each.section not in (plan_hash.LIMITS, *plan_hash.RULES)]
    if Changes.sorted(found).fixed:
        return found
    if (sha256 := digest(job.targets, stdin)) != stored.targets_sha256:
        found.append(
            plan_hash.Difference(
                plan_hash.READING, plan_hash.CONTENT, stored.targets_sha256, sha256
            )
        )
    return found


def _is_protected_now(job: Job, directory: RunDirectory) -> bool:
    """Whether a target has come onto a never-touch list since the run was planned."""
    with contextlib.closing(directory.reader()) as reader:
        return protects_any(job, (fields for fields, _ in reader.fields_and_states()))


def _is_obsolete(job: Job, directory: RunDirectory) -> bool:
    """Whether the directory contains an earlier rehearsal that can't be continued."""
    # standard input can be read only once: either to compare or to plan
    return directory.manifest().rehearsal and (
        job.targets is None
        or _is_finished(directory)
        or bool(_differences(job, directory, rehearsal=True))
    )


def has_begun(directory: RunDirectory) -> bool:
    """Whether a request that changes something may have left."""
    with contextlib.closing(directory.reader()) as reader:
        return reader.is_begun()


@contextlib.contextmanager
def _kept(stdin: BinaryIO | None) -> Iterator[BinaryIO]:
    """Copy standard input to a file that can be read twice: to compare, and to plan."""
    with tempfile.TemporaryFile() as file, opened(None, stdin, zipped=False) as content:
        shutil.copyfileobj(content, file)
        file.seek(0)
        yield cast(BinaryIO, file)


def _note_settings(job: Job, directory: RunDirectory) -> None:
    """Store the limits and source addresses of the job, which may change between two processes."""
    stored, now = directory.manifest(), manifest_of(job)
    current = dataclasses.replace(stored, limits=now.limits, deadline_s=now.deadline_s)
    if not directory.place.is_shared:  # each host has source addresses of its own
        current = dataclasses.replace(current, ceiling=now.ceiling, connection=now.connection)
    if current.as_entries() != stored.as_entries():
        directory.commit(lambda store: store.update_manifest(current))


def _is_finished(directory: RunDirectory) -> bool:
    with contextlib.closing(directory.reader()) as reader:
        return reader.is_over()
