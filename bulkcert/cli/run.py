"""`bulkcert run`: check the job, ask for confirmation, carry it out, and report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from bulkcert.cli import console
from bulkcert.cli.format import ceiling, closing_summary, count, describe
from bulkcert.cli.options import (
    default_run_dir,
    job_arguments,
    load,
    progress_option,
    refuse_unsafe,
)
from bulkcert.cli.process import (
    interrupt_on_signals,
    prepare_process,
    report_faults,
    stopping_on_signals,
)
from bulkcert.cli.progress_display import ProgressDisplay
from bulkcert.credentials import credentials_from
from bulkcert.errors import BulkcertError
from bulkcert.job import Job
from bulkcert.model import Outcome, State
from bulkcert.report.summary import RESUMABLE, Summary, outcome_counts
from bulkcert.run import Run


@click.command
@job_arguments
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--rehearse",
    is_flag=True,
    help="Run the whole job against a simulator on loopback, with latency and faults.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Also retry operations that failed or are unknown."
)
@progress_option
def run(
    job_file: Path,
    targets: Path | None,
    run_dir: Path | None,
    yes: bool,
    rehearse: bool,
    retry_failed: bool,
    progress: bool,
) -> None:
    """Check the whole job, then carry it out. An interrupted run continues where it stopped.

    Credentials are read from the environment. Press Ctrl-C once to stop in an orderly way, twice to
    quit at once; nothing recorded is lost.

    Exit codes: 0 every operation succeeded or was already done; 1 the run is over, and some
    operations failed or are unknown; 2 nothing was sent; 3 stopped early: run the same command
    again to continue.

    \b
    Examples:
      bulkcert run jobs/revoke-key-compromise.toml --rehearse
      bulkcert run jobs/revoke-key-compromise.toml --yes
    """
    job = load(job_file, targets)
    asks = job.action.changes and not rehearse and not yes
    if not yes and not rehearse:
        refuse_unsafe(job, job_file)
    if asks and not (sys.stdin and sys.stdin.isatty()):
        raise click.UsageError(
            f"'{job.action.name}' changes certificates, and there is no terminal to ask for"
            " confirmation. Add --yes to confirm."
        )
    if rehearse:
        from bulkcert.rehearsal import on_loopback, simulator

        job = on_loopback(job)
    credentials = {} if rehearse else credentials_from(os.environ, job.provider)
    directory = run_dir or default_run_dir(job, rehearsal=rehearse)
    try:
        interrupt_on_signals()
        with Run(job, directory, rehearsal=rehearse, retry_failed=retry_failed) as execution:
            _announce(job, execution)
            if asks and not execution.finished and not _confirmed():
                console.write("Nothing was sent.")
                sys.exit(BulkcertError.exit_code)
            if rehearse and not execution.finished:
                with simulator(execution) as (endpoint, credentials):
                    summary = _execute(execution, credentials, endpoint, progress)
            else:
                summary = _execute(execution, credentials, None, progress)
            with contextlib.closing(execution.directory.reader()) as reader:
                console.write_text(closing_summary(summary, reader, job_file, directory, rehearse))
    except KeyboardInterrupt:
        console.write("Stopped before anything was sent.")
        sys.exit(RESUMABLE)
    sys.exit(summary.exit_code)


def _confirmed() -> bool:
    try:
        return click.confirm("This can't be undone. Continue?", err=True)
    except click.Abort:  # Ctrl-C, or the end of the input
        console.write("")
        return False


def _announce(job: Job, execution: Run) -> None:
    if execution.plan is not None:
        console.write_text(describe(job, execution.plan))
        return
    in_flight = execution.counts.get(State.IN_FLIGHT, 0)
    counts = outcome_counts(execution.counts)
    counts[Outcome.UNKNOWN] -= in_flight
    named = [(outcome.replace("_", " "), counts[outcome]) for outcome in Outcome]
    so_far = [f"{many:,} {name}" for name, many in [*named, ("in flight", in_flight)] if many]
    console.write(f"{job.name}: resuming in {execution.directory.path}")
    console.write(f"  so far         {', '.join(so_far)}")
    if execution.retried:
        retried = count(execution.retried, "operation")
        console.write(f"  again          {retried} that failed or are unknown")
    console.write(f"  ceiling        {ceiling(job)}, set by {job.bound_by}")


def _execute(
    execution: Run, credentials: Mapping[str, str], endpoint: str | None, progress: bool
) -> Summary:
    prepare_process(execution.job.limits.in_flight)
    with ProgressDisplay(execution.job.ceiling, progress) as display:

        async def work() -> Summary:
            report_faults()
            with stopping_on_signals(execution.stop, display.write):
                return await execution.execute(credentials, display.show, endpoint=endpoint)

        return asyncio.run(work())
