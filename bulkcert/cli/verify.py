"""`bulkcert verify`: compare the provider's state with the results of a run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click
import orjson

from bulkcert.cli import console
from bulkcert.cli.format import count
from bulkcert.cli.options import progress_option, run_dir_argument
from bulkcert.cli.process import prepare_process, stopping_on_signals
from bulkcert.cli.progress_display import ProgressDisplay
from bulkcert.credentials import credentials_from
from bulkcert.report.summary import RESUMABLE
from bulkcert.rundir import open_reader
from bulkcert.verify import differences, reading_run


@click.command
@run_dir_argument
@progress_option
def verify(run_dir: Path, progress: bool) -> None:
    """Read back every device of a finished run, and print each operation that differs.

    Credentials are read from the environment, and the ceiling of the run applies.

    Exit codes: 0 everything agrees; 1 something differs or could not be read; 2 nothing was sent;
    3 stopped early.

    \b
    Example:
      bulkcert verify runs/revoke-key-compromise
    """
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(contextlib.closing(open_reader(run_dir)))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkcert-"))
        reading = stack.enter_context(reading_run(reader, Path(scratch)))
        job = reading.job
        credentials = credentials_from(os.environ, job.provider)
        prepare_process(job.limits.in_flight)
        display = stack.enter_context(ProgressDisplay(job.ceiling, progress))

        async def work() -> int:
            with stopping_on_signals(reading.stop, display.write):
                return (await reading.execute(credentials, display.show)).exit_code

        if asyncio.run(work()) == RESUMABLE:
            console.write("Stopped early: nothing was compared. Run the same command again.")
            sys.exit(RESUMABLE)
        different = 0
        for difference in differences(reader, reading):
            different += 1
            line = orjson.dumps(difference.as_object(), option=orjson.OPT_APPEND_NEWLINE)
            console.print_data([line])
    compared = sum(reading.counts.values())
    console.write(
        f"Compared {count(compared, 'operation')}:"
        f" {count(compared - different, 'agrees', 'agree')},"
        f" {count(different, 'differs', 'differ')}."
    )
    sys.exit(1 if different else 0)
