"""`bulkcert verify`: does the provider's state agree with the results of a run?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click
import orjson

from bulkcert.cli.job import PathParam
from bulkcert.cli.progress import Display
from bulkcert.cli.run import prepare_process, stop_on_signals
from bulkcert.report import RESUMABLE
from bulkcert.run import credentials_from
from bulkcert.rundir import open_reader
from bulkcert.verify import Verification, as_object


@click.command(short_help="Read a finished run's devices back, and compare.")
@click.argument("run_dir", type=PathParam)
@click.option("--progress/--no-progress", default=None, help="As for `run`.")
def verify(run_dir: Path, progress: bool | None) -> None:
    """Read every device of a finished run back, and print each one whose state differs.

    Exit codes: 0 all agree, 1 some differ or could not be read, 3 stopped early.

    \b
    Example:
      bulkcert verify runs/revoke-key-compromise
    """
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(contextlib.closing(open_reader(run_dir)))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkcert-"))
        verification = stack.enter_context(Verification(reader, Path(scratch)))
        job = verification.job
        credentials = credentials_from(os.environ, job.provider)
        prepare_process(job.limits.in_flight)
        display = stack.enter_context(Display(job, progress))

        async def work() -> int:
            stop_on_signals(verification.stop, display.say)
            figures = await verification.execute(credentials, display.show)
            return int(figures["exit_code"])

        if asyncio.run(work()) == RESUMABLE:
            click.echo("Stopped early: nothing was compared.", err=True)
            sys.exit(RESUMABLE)
        count = 0
        for difference in verification.differences():
            count += 1
            line = orjson.dumps(as_object(difference), option=orjson.OPT_APPEND_NEWLINE)
            sys.stdout.buffer.write(line)
    total = sum(verification.counts.values())
    click.echo(f"{total - count:,} of {total:,} agree, {count:,} differ.", err=True)
    sys.exit(1 if count else 0)
