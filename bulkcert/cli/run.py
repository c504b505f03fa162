"""`bulkcert run`: check everything, ask, carry out, report."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from bulkcert import report
from bulkcert.cli import job as jobs
from bulkcert.cli.closing import closing_words
from bulkcert.cli.progress import Display
from bulkcert.cli.telling import tell
from bulkcert.errors import BulkcertError
from bulkcert.job import Job
from bulkcert.run import Run, credentials_from

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SPARE_FILES = 100
"""Files that are open besides the connections."""


@click.command(short_help="Check the job, then carry it out; go on where an earlier run stopped.")
@jobs.job_arguments
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--rehearse",
    is_flag=True,
    help="Run the whole job against a simulator on loopback, with latency and faults.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Take up again what has failed or is unknown, too."
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress [default: a bar on a terminal, a line every few seconds elsewhere].",
)
def run(
    job_file: Path,
    targets: Path | None,
    run_dir: Path | None,
    yes: bool,
    rehearse: bool,
    retry_failed: bool,
    progress: bool | None,
) -> None:
    """Check the whole job, then carry it out. A run that was interrupted is continued.

    Credentials come from the environment. Exit codes: 0 all done, 1 some operations failed or are
    unknown, 2 nothing was sent, 3 stopped early and resumable.

    \b
    Example:
      bulkcert run jobs/revoke-key-compromise.toml --rehearse
      bulkcert run jobs/revoke-key-compromise.toml --yes
    """
    job = jobs.load(job_file, targets)
    asks = job.action.changes and not rehearse and not yes
    if asks and not (sys.stdin and sys.stdin.isatty()):
        raise click.UsageError(
            f"'{job.action.name}' changes certificates and there is no terminal to ask for"
            " confirmation; add --yes."
        )
    if rehearse:
        from bulkcert.rehearsal import on_loopback, simulator

        job = on_loopback(job)
    credentials = {} if rehearse else credentials_from(os.environ, job.provider)
    directory = run_dir or jobs.default_run_dir(job, rehearsal=rehearse)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with Run(job, directory, rehearsal=rehearse, retry_failed=retry_failed) as execution:
            _announce(job, execution)
            if asks and not execution.over and not _confirmed():
                tell("Nothing was sent.")
                sys.exit(BulkcertError.exit_code)
            if rehearse and not execution.over:
                with simulator(execution) as (endpoint, credentials):
                    figures = _execute(execution, credentials, endpoint, progress)
            else:
                figures = _execute(execution, credentials, None, progress)
            with contextlib.closing(execution.directory.reader()) as reader:
                tell(closing_words(figures, reader, job_file, directory, rehearse))
    except KeyboardInterrupt:
        tell("Stopped before anything was sent.")
        sys.exit(report.RESUMABLE)
    sys.exit(figures["exit_code"])


def _confirmed() -> bool:
    try:
        return click.confirm("This can't be undone. Go on?", err=True)
    except click.Abort:  # Ctrl-C, or the end of the input
        tell("")
        return False


def _announce(job: Job, execution: Run) -> None:
    if execution.plan is not None:
        tell(jobs.describe(job, execution.plan))
        return
    counts = report.outcome_counts(execution.counts)
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    tell(f"{job.name}: going on in {execution.directory.path}: {parts}")
    tell(f"  ceiling {job.ceiling:g} requests in any second, bound by {job.bound_by}")


def _execute(
    execution: Run, credentials: Any, endpoint: str | None, progress: bool | None
) -> dict[str, Any]:
    prepare_process(execution.job.limits.in_flight)
    with Display(execution.job, progress) as display:

        async def work() -> dict[str, Any]:
            stop_on_signals(execution.stop, display.say)
            try:
                return await execution.execute(credentials, display.show, endpoint=endpoint)
            finally:
                leave_on_signals()  # all is saved

        return asyncio.run(work())


def prepare_process(in_flight: int) -> None:
    """Keep the process from pausing in the middle of sending.

    Measured with 750 requests open: each time the table of open files grows, the kernel stops all
    threads for 15 to 40 ms; and the garbage collector at its usual pace stops them for 10 to 80 ms,
    though a request leaves no cycles behind that it could find.
    """
    wanted = in_flight + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        tell(
            f"Warning: only {soft} files may be open here, so no {in_flight} requests; raise"
            " `ulimit -n`, or lower limits.in_flight."
        )
    else:
        # a descriptor with a high number makes the table as large as it will have to be
        os.close(fcntl.fcntl(sys.stderr.fileno(), fcntl.F_DUPFD, wanted - 1))
    gc.freeze()
    gc.set_threshold(50_000, 1_000, 1_000)


def stop_on_signals(stop: Callable[[], object], say: Callable[[str], object]) -> None:
    """First signal: stop in an orderly way. Second: leave at once, as safe as a crash."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        leave_on_signals()
        stop()
        say("Stopping: open requests are awaited. Once more leaves at once; nothing is lost.")

    for number in _SIGNALS:
        loop.add_signal_handler(number, first)
    # what comes while the interpreter is taken down must not spoil the exit code
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS])


def leave_on_signals() -> None:
    """Leave at once when a signal comes. Called on the event loop."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(report.RESUMABLE)
