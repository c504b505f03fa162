"""`bulkcert report`: write one page about a run, read from its store."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from bulkcert.campaign_state import campaign_state
from bulkcert.cli.next_steps import NextStep, next_steps
from bulkcert.cli.options import FilePath, run_argument
from bulkcert.cli.output import write_output
from bulkcert.found_runs import RunState, state_without_process
from bulkcert.observer import RunView
from bulkcert.rejections import command_for_corrected
from bulkcert.report.page import Step, report_page
from bulkcert.report.summary import summarize
from bulkcert.rundir import RunDirectory
from bulkcert.runs import job_file_of


@click.command
@run_argument
@click.option(
    "-o",
    "--output",
    type=FilePath,
    required=True,
    help="Write the page to this file; - is standard output.",
)
def report(directory: RunDirectory, output: Path) -> None:
    """Write one HTML page about a run, for everybody who was not there.

    What happened, when and how fast; what failed and why; who approved and who steered; what was
    verified; what is left, with the commands for it. The page needs nothing but itself: no script,
    no network. It prints well. The run may still be in progress.

    \b
    Examples:
      bulkcert report jobs/revoke-key-compromise.toml -o report.html
      bulkcert report revoke-key-compromise -o -
    """
    write_output([page_of(directory)], output)


def page_of(directory: RunDirectory) -> bytes:
    """Return the page of a run, as of this moment.

    Args:
        directory: the run directory.

    Raises:
        RunDirectoryError: it can't be read.
    """
    # in this order, so that what a process notes at its end is on the page
    runs = directory.is_worked_on()
    with contextlib.closing(directory.reader()) as reader, reader.snapshot():
        view = RunView(
            directory=directory,
            at=0.0,
            counted_at=0.0,
            state=RunState.RUNNING if runs else state_without_process(reader),
            manifest=reader.manifest(),
            summary=summarize(reader),
            in_flight=0,
            campaign=campaign_state(directory, reader),
        )
        steps = [*next_steps(view), *_in_another_run(view)]
        return report_page(reader, [Step(*step) for step in steps], running=runs)


def _in_another_run(view: RunView) -> Iterator[NextStep]:
    """What can be done once a run is over, in the next run of the job."""
    summary, run_dir = view.summary, view.directory.path
    job_file = job_file_of(run_dir, summary.name, summary.rehearsal)
    if job_file is None or view.state is not RunState.OVER:
        return
    if summary.rehearsal:
        command = shlex.join(["bulkcert", "run", str(job_file)])
        yield NextStep("To do it for real:", (command,))
    elif summary.left_out > summary.protected:
        aim = "To do the rows that were left out, once they are corrected there:"
        yield NextStep(aim, (command_for_corrected(job_file, run_dir),))
