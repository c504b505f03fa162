"""The arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.jobfile import load_job

_Command = TypeVar("_Command", bound=Callable[..., Any])

FilePath = click.Path(path_type=Path)

run_dir_argument = click.argument("run_dir", metavar="RUN_DIR", type=FilePath)

progress_option = click.option(
    "--progress/--no-progress",
    default=True,
    help="Show progress: a bar on a terminal, a line every few seconds elsewhere.",
)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object on standard output, also in case of an error.",
)


def message_options(command: _Command) -> _Command:
    """Add the options about messages; see `bulkcert.cli.console.configure`."""
    for decorate in (
        click.option(
            "-v", "--verbose", is_flag=True, help="Show retries, pauses and other details."
        ),
        click.option(
            "-q", "--quiet", is_flag=True, help="Show only warnings, errors and the result."
        ),
        click.option(
            "--log-file",
            type=FilePath,
            help="Append all messages to this file too, each line with the time.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Write each message as a line of text or as a JSON object.",
        ),
    ):
        command = decorate(command)
    return command


def job_arguments(command: _Command) -> _Command:
    """Add the arguments that name a job, its targets and its run directory."""
    for decorate in (
        click.option(
            "--run-dir",
            type=FilePath,
            help="Keep the run in this directory [default: runs/NAME].",
        ),
        click.option(
            "--skip-rejected",
            is_flag=True,
            help="Leave bad rows out, and do the others; then the exit code is 1 at the end.",
        ),
        click.option(
            "--targets",
            type=click.Path(path_type=Path, allow_dash=True),
            help="Use this target file instead of the job's; - is standard input.",
        ),
        click.argument("job_file", metavar="JOB", type=FilePath),
    ):
        command = decorate(command)
    return command


def load(job_file: Path, targets: Path | None) -> Job:
    """Load a job, and replace its target file if another one is given.

    Args:
        job_file: the job.
        targets: the target file to use instead of the job's; "-" is standard input.

    Raises:
        JobError: the job file cannot be used.
    """
    return load_job(job_file, targets=targets)


def refuse_unsafe(job: Job, job_file: Path) -> None:
    """Refuse a job that should not be run as it is.

    Raises:
        JobError: there is a reason against it.
    """
    if job.unsafe:
        raise JobError(
            "\n".join(f"{job_file}: {reason}" for reason in job.unsafe),
            "Correct the job file. `run --yes` overrules this, for certificates that were issued"
            " before the run begins.",
        )


def default_run_dir(job: Job, *, rehearsal: bool = False) -> Path:
    """Return where a run is kept by default; a rehearsal has a directory of its own."""
    return Path("runs") / (f"{job.name}-rehearsal" if rehearsal else job.name)
