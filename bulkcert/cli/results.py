"""`bulkcert results`: print one record per operation, read from the checkpoint.

A `results.jsonl` alone is enough where there is no checkpoint, such as on another machine.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from bulkcert.cli import console
from bulkcert.cli.messages import Level
from bulkcert.cli.options import FilePath, named_run
from bulkcert.cli.output import write_output
from bulkcert.cli.target_filter import TargetFilter
from bulkcert.model import Outcome, State
from bulkcert.providers import BUILT_IN, installed_provider
from bulkcert.providers.base import Provider
from bulkcert.report.recorded import RecordedResults
from bulkcert.report.results import results_csv, results_jsonl
from bulkcert.report.summary import states_of
from bulkcert.rundir import RunDirectory, place_of
from bulkcert.store.base import Record, StoreReader
from bulkcert.targets.records import headers_of, own_columns


@click.command
@named_run(results_too=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    help="Print JSON objects, one a line, or CSV"
    " [default: csv if the name of the file ends in .csv, else jsonl].",
)
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    type=click.Choice([str(outcome) for outcome in Outcome]),
    help="Print only operations with this outcome; may be given more than once.",
)
@click.option(
    "--target",
    "conditions",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Print only operations on this target; may be given more than once: for the same field,"
    " either value will do; for different fields, both are needed.",
)
@click.option("-o", "--output", type=FilePath, help="Write to this file, not to standard output.")
def results(
    directory: RunDirectory,
    form: str | None,
    outcomes: tuple[str, ...],
    conditions: tuple[str, ...],
    output: Path | None,
) -> None:
    """Print one record per operation, in the order of the target file.

    The run may still be in progress. A file results.jsonl without the rest of its run directory
    is enough, and may be named instead.

    \b
    Examples:
      bulkcert results jobs/revoke-key-compromise.toml --outcome failed
      bulkcert results jobs/revoke-key-compromise.toml -o results.csv
      bulkcert results jobs/revoke-key-compromise.toml --target assetId=A1
    """
    if form is None:
        form = "csv" if output is not None and output.suffix.lower() == ".csv" else "jsonl"
    wanted = TargetFilter(conditions)
    states = states_of([Outcome(name) for name in outcomes] or list(Outcome))
    with contextlib.ExitStack() as stack:
        if file := _results_alone(directory):
            chunks = _of_file(RecordedResults(file), states, wanted, form)
        else:
            reader = stack.enter_context(contextlib.closing(directory.reader()))
            wanted.refuse_unknown(reader)
            chunks = _of_store(reader, states, wanted, form)
        write_output(chunks, output)
    if wanted and not wanted.found:
        of_these = f" with the outcome {' or '.join(outcomes)}" if outcomes else ""
        console.write(
            f"This run has no operation{of_these} on a target with {wanted}. Values are compared in"
            " full, and upper and lower case count.",
            Level.WARNING,
        )


def _results_alone(directory: RunDirectory) -> Path | None:
    """The file with the results where there is no checkpoint; None where there is one."""
    if directory.path.is_file() and directory.path.suffix == ".jsonl":
        return directory.path
    directory.require_access()
    return directory.results if directory.has_results_alone() else None


def _of_store(
    reader: StoreReader, states: list[State], wanted: TargetFilter, form: str
) -> Iterator[bytes]:
    records = wanted.matching(reader.records(states, wanted.containing))
    if form == "jsonl":
        return results_jsonl(records)
    manifest = reader.manifest()
    provider = installed_provider(manifest.provider)
    action = provider.actions[manifest.action]
    return results_csv(
        records,
        action.fields,
        action.result_columns,
        _identifying([provider]),
        place_of(manifest),
        headers_of(manifest.extra_columns, own_columns(provider)),
    )


def _of_file(
    results: RecordedResults, states: list[State], wanted: TargetFilter, form: str
) -> Iterator[bytes]:
    records = wanted.matching(each for each in results.records() if each.state in states)
    if form == "jsonl":
        return results_jsonl(records)
    providers = BUILT_IN.values()
    known = {name for p in providers for action in p.actions.values() for name in action.fields}
    names, of_certificates = results.columns()
    own = {name for provider in providers for name in own_columns(provider)}
    return results_csv(
        (_with_extra(record, known) for record in records),
        [name for name in names if name in known],
        of_certificates,
        _identifying(providers),
        extra=headers_of((name for name in names if name not in known), own),
    )


def _with_extra(record: Record, known: Collection[str]) -> Record:
    """Separate what is not a field of a target; in JSON, both are in one object."""
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in record.fields.items():
        (fields if name in known else extra)[name] = value
    return record._replace(fields=fields, extra=extra)


def _identifying(providers: Iterable[Provider]) -> set[str]:
    """The names of all fields that say what to act on."""
    return {
        field.name
        for provider in providers
        for action in provider.actions.values()
        for field in (*itertools.chain(*action.identifiers), *action.required, *action.optional)
        if not field.pem and (field.option or field not in action.optional)
    }
