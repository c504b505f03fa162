"""Carries out a run for a command, and says how it ended.

In: a run that is entered. Out: its summary, progress on standard error, and the exit code. Metrics
are served meanwhile, if somebody wants them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson

from bulkcert.cli import console
from bulkcert.cli.messages import Level
from bulkcert.cli.process import prepare_process, report_faults, stopping_on_signals
from bulkcert.cli.progress_display import ProgressDisplay
from bulkcert.cli.summary_screen import headline
from bulkcert.errors import OutputError
from bulkcert.metrics.address import Address
from bulkcert.report.summary import RESUMABLE, Summary
from bulkcert.run import Run
from bulkcert.rundir import RunDirectory


class _AddressType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """HOST:PORT."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        try:
            return Address.parse(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}. Write HOST:PORT, or only the port.", param, ctx)


metrics_option = click.option(
    "--metrics",
    metavar="HOST:PORT",
    type=_AddressType(),
    help="Serve metrics for Prometheus at this address of this machine; a port alone is one on"
    " loopback.",
)


@contextlib.contextmanager
def serving(address: Address | None, execution: Run) -> Iterator[None]:
    """Serve the metrics of a run, if an address is given.

    Raises:
        MetricsError: they can't be served there.
    """
    if address is None:
        yield
        return
    from bulkcert.metrics.exposition import CONTENT_TYPE
    from bulkcert.metrics.server import MetricsServer

    with MetricsServer(address, execution.metrics, CONTENT_TYPE) as server:
        console.write(f"Metrics: {server.url}", event="metrics", url=server.url)
        yield


def _print_summary(summary: Summary) -> None:
    """Print the summary as a JSON object.

    Raises:
        OutputError: it can't be written. The run is over, so this is not "nothing was sent": the
            same command prints the summary again.
    """
    try:
        with contextlib.suppress(click.exceptions.Exit):  # nobody reads it
            console.print_json(summary.as_object())
    except OutputError as error:
        error.exit_code = RESUMABLE
        error.next_step += " The same command prints the summary again."
        raise


def figures_of(run_dir: Path) -> dict[str, Any]:
    """The summary of a run that has ended early, as far as it can be read."""
    with contextlib.suppress(OSError, ValueError):
        return dict(orjson.loads(RunDirectory(run_dir).summary.read_bytes()))
    return {}


def execute(
    execution: Run, credentials: Mapping[str, str], endpoint: str | None, progress: bool
) -> Summary:
    prepare_process(execution.job.limits.in_flight)
    with console.in_background(), ProgressDisplay(execution.job.ceiling, progress) as display:

        async def work() -> Summary:
            report_faults()
            with stopping_on_signals(execution):
                return await execution.execute(credentials, display.show, endpoint=endpoint)

        return asyncio.run(work())


def say_end(summary: Summary, closing: str, *, as_json: bool) -> NoReturn:
    """Say how a run has ended, and leave with its exit code.

    Args:
        summary: the summary of the run.
        closing: what to say below the headline.
        as_json: print the summary, too.
    """
    console.write(
        headline(summary),
        Level.RESULT,
        before="",
        after=closing,
        event="end",
        summary=summary.as_object(),
    )
    if as_json:
        _print_summary(summary)
    sys.exit(summary.exit_code)
