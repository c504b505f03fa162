"""`bulkcert plan`: check the whole job and show what a run would do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bulkcert.cli import console
from bulkcert.cli.format import describe, sample_request
from bulkcert.cli.options import default_run_dir, job_arguments, load, refuse_unsafe
from bulkcert.plan import build
from bulkcert.rundir import RunDirectory
from bulkcert.targets import TargetFile


@click.command
@job_arguments
def plan(job_file: Path, targets: Path | None, run_dir: Path | None) -> None:
    """Check the job and its whole target file, and show what a run would do.

    Nothing is sent, and no credentials are needed. Bad rows are listed in rejected.csv in the run
    directory.

    \b
    Example:
      bulkcert plan jobs/revoke-key-compromise.toml
    """
    job = load(job_file, targets)
    refuse_unsafe(job, job_file)
    directory = RunDirectory(run_dir or default_run_dir(job))
    rows = TargetFile(job.targets, job.action, job.parameters, job.columns)
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        planned = build(job, rows, Path(scratch) / "plan.sqlite3", directory)
    console.print_text(f"{describe(job, planned)}\n\n{sample_request(job, planned)}")
