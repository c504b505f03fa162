"""`bulkcert results`: one record per operation, read from the checkpoint."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from bulkcert import durable, report
from bulkcert.cli.job import PathParam
from bulkcert.model import Outcome
from bulkcert.providers import PROVIDERS
from bulkcert.rundir import open_reader


@click.command(short_help="What became of each target.")
@click.argument("run_dir", type=PathParam)
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True
)
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    type=click.Choice([str(outcome) for outcome in Outcome]),
    help="Only these; idempotent.",
)
@click.option("-o", "--output", type=PathParam, help="Write to a file instead of standard output.")
def results(run_dir: Path, form: str, outcomes: tuple[str, ...], output: Path | None) -> None:
    """One record per target, in target order.

    \b
    Example:
      bulkcert results runs/revoke-key-compromise --outcome failed --format csv -o failed.csv
    """
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(contextlib.closing(open_reader(run_dir)))
        chosen = [Outcome(name) for name in outcomes] or list(Outcome)
        records = reader.records(report.states_of(chosen))
        if form == "csv":
            what = reader.meta()["what"]
            action = PROVIDERS[what["provider"]].actions[what["action"]]
            chunks = report.results_csv(records, action.fields, action.result_columns)
        else:
            chunks = report.results_jsonl(records)
        try:
            _write(chunks, output)
        except BrokenPipeError:
            raise  # whoever read it has seen enough
        except OSError as error:
            name = output or "standard output"
            raise click.UsageError(f"{name} can't be written: {error.strerror}") from error


def _write(chunks: Iterable[bytes], output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.writelines(chunks)
        sys.stdout.buffer.flush()
        return
    to_device = output.exists() and not output.is_file()  # or a pipe: it can't be replaced
    with output.open("wb") if to_device else durable.replacing(output) as file:
        file.writelines(chunks)
