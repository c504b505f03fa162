"""What a person reads when a run has stopped itself: why, and the command with which it goes on.

In: the job, its run directory and the abort. Out: the error, with the exact command.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from bulkcert.approval.verdict import approve_command
from bulkcert.errors import BulkcertError, OverrideError, StoppedByRulesError
from bulkcert.job import Job
from bulkcert.jobfile import store_of
from bulkcert.quantities import count
from bulkcert.rejections import skip_options
from bulkcert.rules import MAX_OPERATIONS
from bulkcert.rundir import RunDirectory
from bulkcert.runs import place_of
from bulkcert.store.base import Abort
from bulkcert.store_url import chosen


def stopped_by(job: Job, run_dir: Path, abort: Abort) -> StoppedByRulesError:
    """Return the error for a run that has stopped itself."""
    limit = f" {job.rules.protect.max_operations:,}" if job.rules.protect else ""
    if abort.rule == MAX_OPERATIONS:
        return StoppedByRulesError(
            f"The run has stopped itself: {abort.text}, because protect.max_operations is{limit}.",
            "If the others are meant too, raise it in the job file, and run"
            f" {command_of(job, run_dir)} --amend",
        )
    how, commands = "", [f"{command_of(job, run_dir)} --override {abort.id} --why TEXT"]
    if approval := job.rules.needed_approval:
        manifest = RunDirectory(run_dir).manifest()
        skipped = skip_options(manifest.left_out, manifest.protected)
        how = f", after {count(approval.required, 'approval')}"
        commands.insert(0, approve_command(job.file, skipped, abort.id))
    next_step = (
        "Find out why before you go on: results.jsonl has the responses. To go on nevertheless"
        f"{how}:"
    )
    return StoppedByRulesError(
        f"The run has stopped itself: {abort.text}.", "\n  ".join((next_step, *commands))
    )


def command_of(job: Job, run_dir: Path) -> str:
    """The command that goes on with a run."""
    command = ["bulkcert", "run", str(job.file or "JOB")]
    if job.store and job.store != _declared_store(job):
        command += ["--store", job.store]
    store = chosen(job.store)
    if job.file is None or run_dir.absolute() != place_of(job.file, job.name, store).path:
        command += ["--run-dir", str(run_dir)]
    return shlex.join(command)


def _declared_store(job: Job) -> str:
    """The shared store that the command would use without an option."""
    with contextlib.suppress(BulkcertError):
        return chosen(store_of(job.file) if job.file else "")
    return ""


def refuse_bad_override(job: Job, run_dir: Path, abort_id: str, pending: Abort | None) -> None:
    """Check that an override is about the abort that has stopped the run.

    Raises:
        OverrideError: it is not; a flag that stands in a script overrides nothing.
    """
    if pending is None:
        raise OverrideError(
            f"There is nothing to override: no rule has stopped the run in {run_dir}.",
            f"Run {command_of(job, run_dir)}",
        )
    if pending.rule == MAX_OPERATIONS:
        stopped = stopped_by(job, run_dir, pending)
        raise OverrideError(f"{stopped.problem} That can't be overridden.", stopped.next_step)
    if pending.id != abort_id:
        raise OverrideError(
            f"The abort that has stopped the run is {pending.id}, not {abort_id}: {pending.text}.",
            f"To go on nevertheless: {command_of(job, run_dir)} --override {pending.id} --why TEXT",
        )


def refuse_unknown_wave(name: str, waves: Sequence[str]) -> None:
    """Check that a wave is one of the run.

    Raises:
        OverrideError: it is not.
    """
    if name not in waves:
        known = f"The waves are {', '.join(waves)}." if waves else "The job has no [rollout]."
        raise OverrideError(f"{name} is not a wave of this run.", known)
