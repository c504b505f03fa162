"""`bulkcert verify`: compare the provider's state with the results of a run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click

from bulkcert.cli import console
from bulkcert.cli.format import count
from bulkcert.cli.options import progress_option, run_dir_argument
from bulkcert.cli.process import (
    interrupt_on_signals,
    prepare_process,
    report_faults,
    stopping_on_signals,
)
from bulkcert.cli.progress_display import ProgressDisplay
from bulkcert.credentials import credentials_from
from bulkcert.errors import BulkcertError
from bulkcert.report.cells import as_json
from bulkcert.report.summary import RESUMABLE
from bulkcert.rundir import open_reader
from bulkcert.verify import RemarkCounts, compare, reading_run

COULD_NOT_CHECK = 2
"""Exit code when something kept the devices from being read."""

STOPPED = "Stopped early: nothing was compared. Run the same command again."


@click.command
@run_dir_argument
@progress_option
def verify(run_dir: Path, progress: bool) -> None:
    """Read back every device of a finished run, and print each operation that differs.

    Credentials are read from the environment, and the ceiling of the run applies.

    Exit codes: 0 everything agrees; 1 something differs, or single devices could not be read; 2
    nothing could be compared; 3 stopped early by a signal.

    \b
    Example:
      bulkcert verify runs/revoke-key-compromise
    """
    interrupt_on_signals()
    try:
        different = _verify(run_dir, progress)
    except BulkcertError as error:
        error.exit_code = COULD_NOT_CHECK  # whatever stopped the reading
        raise
    except KeyboardInterrupt:
        console.write(STOPPED)
        sys.exit(RESUMABLE)
    sys.exit(1 if different else 0)


def _verify(run_dir: Path, progress: bool) -> int:
    """Read, compare and print; return the number of differences."""
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(contextlib.closing(open_reader(run_dir)))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkcert-"))
        reading = stack.enter_context(reading_run(reader, Path(scratch)))
        job = reading.job
        credentials = credentials_from(os.environ, job.provider)
        prepare_process(job.limits.in_flight)
        display = stack.enter_context(ProgressDisplay(job.ceiling, progress))

        async def work() -> int:
            report_faults()
            with stopping_on_signals(reading.stop, display.write):
                return (await reading.execute(credentials, display.show)).exit_code

        if asyncio.run(work()) == RESUMABLE:
            console.write(STOPPED)
            sys.exit(RESUMABLE)
        different, remarks = 0, RemarkCounts(job.action)
        for comparison in compare(reader, reading):
            remarks.add(comparison)
            if comparison.difference:
                different += 1
                console.print_data([as_json(comparison.as_object()), b"\n"])
    compared = sum(reading.counts.values())
    console.write(
        f"Compared {count(compared, 'operation')}:"
        f" {count(compared - different, 'agrees', 'agree')},"
        f" {count(different, 'differs', 'differ')}."
    )
    for name, devices in remarks.items():
        console.write(f"{devices:,} x note: {job.provider.remarks[name]}")
    return different
