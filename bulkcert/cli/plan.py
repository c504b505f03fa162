"""`bulkcert plan`: check everything, show what would be done, send nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bulkcert.cli import job as jobs
from bulkcert.plan import build
from bulkcert.rundir import RunDirectory
from bulkcert.targets import TargetFile


@click.command(short_help="Read and check the whole job; send nothing.")
@jobs.job_arguments
def plan(job_file: Path, targets: Path | None, run_dir: Path | None) -> None:
    """Read and check the whole target file and show what a run would do. Nothing is sent.

    \b
    Example:
      bulkcert plan jobs/revoke-key-compromise.toml
    """
    job = jobs.load(job_file, targets)
    rejected = RunDirectory(run_dir or jobs.default_run_dir(job)).rejected
    rows = TargetFile(job.targets, job.action, job.parameters, job.columns)
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        planned = build(job, rows, Path(scratch) / "plan.sqlite3", rejected)
    click.echo(jobs.describe(job, planned))
    click.echo()
    click.echo(jobs.sample_request(job, planned))
