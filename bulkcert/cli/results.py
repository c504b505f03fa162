"""`bulkcert results`: print one record per operation, read from the checkpoint."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from bulkcert import durable
from bulkcert.cli.options import FilePath, run_dir_argument
from bulkcert.errors import OutputError
from bulkcert.model import Outcome
from bulkcert.providers import installed_provider
from bulkcert.report.results import results_csv, results_jsonl
from bulkcert.report.summary import states_of
from bulkcert.rundir import open_reader


@click.command
@run_dir_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="Print JSON objects, one a line, or CSV.",
)
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    type=click.Choice([str(outcome) for outcome in Outcome]),
    help="Print only operations with this outcome; may be given more than once.",
)
@click.option("-o", "--output", type=FilePath, help="Write to this file, not to standard output.")
def results(run_dir: Path, form: str, outcomes: tuple[str, ...], output: Path | None) -> None:
    """Print one record per operation, in the order of the target file.

    The run may still be in progress.

    \b
    Examples:
      bulkcert results runs/revoke-key-compromise --outcome failed
      bulkcert results runs/revoke-key-compromise --format csv -o results.csv
    """
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(contextlib.closing(open_reader(run_dir)))
        chosen = [Outcome(name) for name in outcomes] or list(Outcome)
        records = reader.records(states_of(chosen))
        if form == "csv":
            manifest = reader.manifest()
            action = installed_provider(manifest.provider).actions[manifest.action]
            chunks = results_csv(records, action.fields, action.result_columns)
        else:
            chunks = results_jsonl(records)
        try:
            _write(chunks, output)
        except BrokenPipeError:
            raise  # the reader has seen enough; click ends the process quietly
        except OSError as error:
            raise OutputError(
                f"{output or 'Standard output'} can't be written: {error.strerror}",
                "Free some space there, or name another file with -o.",
            ) from error


def _write(chunks: Iterable[bytes], output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.writelines(chunks)
        sys.stdout.buffer.flush()
        return
    in_place = output.exists() and not output.is_file()  # a device or a pipe can't be replaced
    with output.open("wb") if in_place else durable.replacing(output) as file:
        file.writelines(chunks)
