"""`bulkcert history`: everything that happened to one device, read from the checkpoint."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import click

from bulkcert.cli import console
from bulkcert.cli.format import as_text
from bulkcert.cli.options import run_argument
from bulkcert.cli.target_filter import TargetFilter
from bulkcert.errors import RunDirectoryError
from bulkcert.json_lines import as_json, utc
from bulkcert.model import AttemptKind, HistoryEntry, HistoryEvent, LookupKind, code_and_text
from bulkcert.report.history import entry_object, latency_of
from bulkcert.report.results import as_object
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Record

MOST_RECORDS = 1000
"""More operations than anybody reads the history of."""

_KINDS: dict[HistoryEvent, type[AttemptKind | LookupKind]] = {
    HistoryEvent.ATTEMPT: AttemptKind,
    HistoryEvent.LOOK_UP: LookupKind,
}


@click.command
@run_argument
@click.argument("conditions", metavar="FIELD=VALUE...", nargs=-1, required=True)
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
def history(directory: RunDirectory, conditions: tuple[str, ...], as_json_: bool) -> None:
    """Show everything that happened to one device: each attempt and each look-up.

    Name the device by any field or column of the target file. Several conditions on different
    fields must all be met. A request that has left and whose response was not recorded, because the
    process was killed, shows as taken over by the next one.

    \b
    Examples:
      bulkcert history jobs/revoke-key-compromise.toml assetId=A1
      bulkcert history renew productKey=P1 deviceKey=D7 --json
    """
    wanted = TargetFilter(conditions)
    with contextlib.closing(directory.reader()) as reader:
        wanted.refuse_unknown(reader)
        matching = wanted.matching(reader.records(containing=wanted.containing))
        records = list(itertools.islice(matching, MOST_RECORDS + 1))
        if not records:
            raise RunDirectoryError(
                f"No operation of this run has {' and '.join(conditions)}.",
                "Values must be given in full. `bulkcert results` lists all operations.",
            )
        if len(records) > MOST_RECORDS:
            records.pop()
            console.write(f"Only the first {MOST_RECORDS:,} operations are shown.")
        entries = reader.history([record.id for record in records])
    happened: dict[int, list[HistoryEntry]] = {record.id: [] for record in records}
    for entry in entries:
        happened[entry.operation_id].append(entry)
    if as_json_:
        found = [_object(record, happened[record.id]) for record in records]
        console.print_data([as_json({"operations": found}, indent=True), b"\n"])
    else:
        for record in records:
            console.print_text(as_text(_lines(record, happened[record.id])))


def _object(record: Record, entries: Sequence[HistoryEntry]) -> dict[str, Any]:
    return {**as_object(record), "history": [entry_object(entry) for entry in entries]}


def _lines(record: Record, entries: Sequence[HistoryEntry]) -> Iterator[str]:
    target = " ".join(f"{name}={value}" for name, value in record.target.items())
    yield f"{target} (line {record.line}): {record.outcome.replace('_', ' ')}"
    for entry in entries:
        sent_at = entry.sent_at if entry.event in _KINDS else None
        yield f"  {utc(entry.ended_at if sent_at is None else sent_at)}  {_what(entry)}"
        if entry.event in _KINDS:
            yield f"      {_answer(entry)}"
    if not entries:
        yield "  nothing was sent"


def _what(entry: HistoryEntry) -> str:
    match entry.event:
        case HistoryEvent.TAKEN_OVER:
            # by the provider's clock, which may be whole seconds off
            intended = f", intended at about {utc(entry.sent_at)}" if entry.sent_at else ""
            return (
                f"taken over in doubt from a process that ended: attempt {entry.attempt}{intended}"
            )
        case HistoryEvent.RETRIED:
            return f"put back to work by --retry-failed after {entry.attempt} attempts"
        case HistoryEvent.ATTEMPT:
            name = f"attempt {entry.attempt}"
        case _:
            name = "look-up"
    if (latency_ms := latency_of(entry)) is None:
        return f"{name}, not sent"
    return f"{name} from {entry.source}, {latency_ms:,} ms"


def _answer(entry: HistoryEntry) -> str:
    meaning = _KINDS[entry.event][entry.result.upper()].value.split(":")[0]
    answer = code_and_text(entry.code, entry.message)
    request = f" (request {entry.request_id})" if entry.request_id else ""
    return f"{answer}{request}: {meaning}" if answer else f"{meaning}{request}"
