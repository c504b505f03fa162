"""`bulkcert plan`: check the whole job and show what a run would do."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from bulkcert.cli import console
from bulkcert.cli.left_out import how_to_correct
from bulkcert.cli.messages import Level
from bulkcert.cli.options import (
    job_arguments,
    json_option,
    load,
    refuse_unsafe,
    run_directory,
    run_number,
)
from bulkcert.cli.outlook import outlook
from bulkcert.cli.plan_screen import describe, plan_object, sample_request
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.job import Job
from bulkcert.overlap import overlap_with_earlier_runs
from bulkcert.plan import Plan, build
from bulkcert.rundir import RunDirectory, contains_run
from bulkcert.shared_material import require_operator
from bulkcert.targets import TargetFile


@click.command
@job_arguments
@json_option
def plan(
    job_file: Path,
    targets: Path | None,
    skip_rejected: bool,
    skip_protected: bool,
    run_dir: Path | None,
    store: str,
    as_json: bool,
) -> None:
    """Check the job and its whole target file, and show what a run would do.

    Nothing is sent, and no credentials are needed. Bad rows are listed in rejected.csv in the run
    directory, repeated ones in repeated.csv.

    \b
    Examples:
      bulkcert plan jobs/revoke-key-compromise.toml
      bulkcert plan jobs/revoke-key-compromise.toml --json
    """
    interrupt_on_signals()
    job = load(job_file, targets, store)
    directory, planned = check(
        job, job_file, run_dir, skip_rejected=skip_rejected, skip_protected=skip_protected
    )
    if as_json:
        console.print_json(plan_object(job, planned, outlook(job, planned, time.time())))
    else:
        show(job, job_file, directory, planned)


def check(
    job: Job,
    job_file: Path,
    run_dir: Path | None,
    *,
    skip_rejected: bool,
    skip_protected: bool,
    on_planned: Callable[[RunDirectory], object] = lambda scratch: None,
) -> tuple[RunDirectory, Plan]:
    """Check a job and its targets, and return where its run would be kept and what it would do.

    Args:
        job: the job.
        job_file: its file.
        run_dir: the run directory that the user wants.
        skip_rejected, skip_protected: leave these rows out.
        on_planned: called with a directory that has the plan, before that is removed.
    """
    refuse_unsafe(job, job_file)
    if job.store:
        require_operator(job)
    if rule := job.rules.needed_approval:
        from bulkcert.approval.verdict import signers_of  # few jobs need approvals

        signers_of(rule)  # nobody could approve under a file that can't be used
    directory = RunDirectory(run_directory(job, job_file, run_dir))
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        planning = RunDirectory(Path(scratch))
        checkpoint = planning.checkpoint
        planned = build(
            job,
            TargetFile.of(job),
            checkpoint,
            directory,
            skip_rejected=skip_rejected,
            skip_protected=skip_protected,
            number=run_number(job, job_file, run_dir),
        )
        overlap = overlap_with_earlier_runs(job, checkpoint, directory.path)
        planned = dataclasses.replace(planned, overlap=overlap)
        on_planned(planning)
    if problem := directory.obstacle():
        needed = f"`bulkcert run` will need --run-dir DIR: {problem}"
        if contains_run(directory.path):  # elsewhere, everything would be done again
            needed = f"`bulkcert run` can't continue the run of this job: {problem}"
        console.write(needed, Level.WARNING)
    return directory, planned


def show(
    job: Job, job_file: Path, directory: RunDirectory, planned: Plan, *, abort: str = ""
) -> None:
    """Print what a run would do, for people.

    Args:
        job: the job.
        job_file: its file.
        directory: where its run is kept.
        planned: its plan.
        abort: the id of an abort, if going on after that is to be approved.
    """
    seen = outlook(job, planned, time.time(), abort=abort)
    columns = console.columns("stdout")
    described = describe(job, planned, seen, directory.path, columns=columns)
    if planned.left_out:
        described += f"\n{how_to_correct(job_file, directory.path)}"
    console.print_text(f"{described}\n\n{sample_request(job, planned)}")
