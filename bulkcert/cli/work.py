"""`bulkcert work`: join a run in a shared store, without its job file and its target file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import time
from pathlib import Path

import click

from bulkcert.cli import console
from bulkcert.cli.execution import execute, figures_of, metrics_option, say_end, serving
from bulkcert.cli.options import (
    FilePath,
    json_option,
    message_options,
    progress_option,
    remember_run,
    store_option,
)
from bulkcert.cli.process import go_on_in_child
from bulkcert.cli.run import announce
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.cli.summary_screen import closing_summary
from bulkcert.credentials import credentials_from
from bulkcert.errors import BulkcertError, InterruptionError, RunDirectoryError
from bulkcert.job import Job
from bulkcert.job_files import unpacked
from bulkcert.metrics.address import Address
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES
from bulkcert.run import Run
from bulkcert.rundir import RunDirectory
from bulkcert.runs import FOLDER
from bulkcert.store.place import SharedPlace, shared_runs
from bulkcert.store.runs import StoredRun
from bulkcert.store_url import chosen
from bulkcert.timings import WatchTimings


@click.command
@click.argument("name", metavar="NAME")
@store_option
@click.option(
    "--run-dir",
    type=FilePath,
    help="Keep what this host needs for itself in this directory [default: runs/NAME].",
)
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Wait this long for the store, and for the run to begin [default: not at all].",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Stop, with exit code 3, instead of waiting for a window, between waves, for a go or for"
    " the end of a pause.",
)
@metrics_option
@progress_option
@message_options
@json_option
def work(
    name: str,
    store: str,
    run_dir: Path | None,
    wait_s: float,
    no_wait: bool,
    metrics: Address | None,
    progress: bool,
    log_format: str,
    log_file: Path | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Join a run in a shared store by its name, with neither job file nor target file.

    The run must have begun: `bulkcert run`, on a host that has both, plans it and asks for
    confirmation. Meant for services and containers that help with a run. Credentials are read from
    the environment. The exit code is that of the run once it is over, 3 if only this host has left.

    \b
    Examples:
      bulkcert work revoke-key-compromise --store postgresql://bulkcert@db.example.com/bulkcert
      bulkcert work revoke-key-compromise --wait 600
    """
    console.configure(as_json=log_format == "json", log_file=log_file, quiet=quiet, verbose=verbose)
    interrupt_on_signals()
    url = chosen(option=store)
    if not url:
        raise click.UsageError("Name the shared store with --store, or set BULKCERT_STORE.")
    go_on_in_child()
    path = (run_dir or Path(FOLDER) / name).absolute()
    try:
        run = _begun(url, name, wait_s)
        job = _job_of(run, RunDirectory(path, place=SharedPlace(url, name)))
        credentials = credentials_from(os.environ, job.provider, job.passwords)
        execution = Run(job, path, store=url, joins=run.manifest.number, wait=not no_wait)
        with serving(metrics, execution), execution:
            announce(job, execution)
            remember_run(job, execution.directory, rehearsal=False)
            summary = execute(execution, credentials, None, progress and not quiet)
    except BulkcertError as error:
        if error.exit_code in (RESUMABLE, STOPPED_BY_RULES):
            error.figures = figures_of(path)
        raise
    except KeyboardInterrupt:
        raise InterruptionError("Stopped before anything was sent.") from None
    closing = closing_summary(summary, Path("JOB"), path, console.columns())
    say_end(summary, closing, as_json=as_json)


def _begun(url: str, name: str, wait_s: float) -> StoredRun:
    """Return a run, once somebody has confirmed it on another host.

    The store itself is waited for, too: a service may start before the database does.

    Args:
        url: the shared store.
        name: the name of the run.
        wait_s: how long to wait for that.

    Raises:
        RunDirectoryError: there is no such run by then; or the shared store can't be read.
    """
    give_up_at, said = time.monotonic() + wait_s, ""
    while True:
        found, why = None, f"Waiting for the run {name!r} to begin."
        try:
            found = next((run for run in shared_runs(url) if run.name == name), None)
            if found is not None and _may_be_joined(SharedPlace(url, name), found):
                return found
        except RunDirectoryError as error:
            if time.monotonic() >= give_up_at:
                raise
            why = f"Waiting for the shared store: {error.problem}"
        if time.monotonic() >= give_up_at:
            break
        if why != said:
            said = why
            console.write(why, event="waiting", name=name)
        time.sleep(WatchTimings().every_s)
    if found is not None:
        raise RunDirectoryError(
            f"The run {name!r} was planned, and has not begun.",
            "Begin it with `bulkcert run` on the host that has the job; or wait for that with"
            " --wait SECONDS.",
        )
    names = ", ".join(run.name for run in shared_runs(url)[-10:])
    raise RunDirectoryError(
        f"The shared store has no run {name!r}.",
        f"The latest ones are {names}." if names else "It has no runs at all.",
    )


def _may_be_joined(place: SharedPlace, run: StoredRun) -> bool:
    """Whether somebody has confirmed a run, and everybody has approved it who must."""
    if run.begun or not run.confirmed:
        return run.begun
    if not run.manifest.approvals_required:
        return True
    with contextlib.closing(place.reader()) as reader:
        return any(not approval.abort for approval in reader.approvals())


def _job_of(run: StoredRun, directory: RunDirectory) -> Job:
    """Return the job of a run, with the files that it needs in a run directory.

    Raises:
        RunDirectoryError: the shared store does not have it, or the directory can't be used.
        JobError: it can't be used here.
    """
    place = directory.place
    assert isinstance(place, SharedPlace)
    files = place.files()
    if not files:
        command = shlex.join(["bulkcert", "run", "JOB", "--store", place.url])
        raise RunDirectoryError(
            f"The shared store does not have the job of {run.name!r}: it came from a pipe or a"
            " program, or is written in an unusual way.",
            f"Copy job and target file to this host, and join with:\n  {command}",
        )
    directory.create()
    job = unpacked(files, directory.job_files, run.manifest.name)
    return dataclasses.replace(job, store=place.url)
