"""The results of a run, one record per operation, as JSON lines and as CSV.

In: records of the store, streamed. Out: chunks of bytes. docs/output.md describes the formats.
A column that contains what a field of a target does has the name of the field, so that these files
can be target files of the next job.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bulkcert.json_lines import as_json, utc
from bulkcert.report.cells import cell, drained, identifier_cell
from bulkcert.store.base import Record
from bulkcert.targets.records import OUTCOME_COLUMNS

_CHUNK_CHARACTERS = 2**16

_FIELD_NAMES = {"certSN": "certSn"}
"""Names of the vendors for what a field contains, and the field."""


def results_jsonl(records: Iterable[Record]) -> Iterator[bytes]:
    """Format each record as one line with a JSON object."""
    for record in records:
        yield as_json(as_object(record)) + b"\n"


def results_csv(
    records: Iterable[Record],
    target_fields: Iterable[str],
    item_columns: Sequence[str] = (),
    identifying: Collection[str] = (),
    common: Mapping[str, Any] = MappingProxyType({}),
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[bytes]:
    """Format a header and a row for each record, with a column for each target field.

    Args:
        records: the records to write.
        target_fields: names of the columns for the target.
        item_columns: for an action that lists certificates, the columns of a certificate. Then
            there is one row per certificate; a record without certificates gets one row, in which
            these columns are empty unless the target has a field of that name. For an action that
            issues certificates, the columns of the new one.
        identifying: the columns that say what to act on. They can be read back, so that the file
            can be a target file; all others are for people, see `bulkcert.report.cells`.
        common: what the job said of every target, for those of these fields that a target lacks.
        extra: columns of the target file that the job did not use, each with its header here, see
            `bulkcert.targets.records.headers_of`. They stand after the fields.
    """
    item_columns = [_FIELD_NAMES.get(name, name) for name in item_columns]
    fields = [name for name in target_fields if name not in item_columns]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["line", *fields, *extra.values(), *OUTCOME_COLUMNS]
    columns += item_columns
    if not item_columns or "replaces" in item_columns:
        columns.append("result")
    writer.writerow(map(cell, columns))
    formats = [identifier_cell if name in identifying else cell for name in columns]
    for record in records:
        entry = as_object(record)
        given = {**common, **entry["target"]}
        cells = [entry["line"], *map(given.get, fields), *map(record.extra.get, extra)]
        cells += map(entry.get, OUTCOME_COLUMNS)
        for more in _result_cells(entry, item_columns):
            row = zip(formats, [*cells, *more], strict=True)
            writer.writerow([formatted(value) for formatted, value in row])
        if buffer.tell() > _CHUNK_CHARACTERS:
            yield drained(buffer)
    yield drained(buffer)


def as_object(record: Record) -> dict[str, Any]:
    """Return a record as the JSON object that `results.jsonl` has for it."""
    return {
        "line": record.line,
        "target": record.target,
        "outcome": record.outcome,
        "code": record.code,
        "message": record.message,
        "request_id": record.request_id,
        "attempts": record.attempts,
        "finished_at": None if record.finished_at is None else utc(record.finished_at),
        "result": record.result,
    }


def new_certificate(result: Any) -> dict[str, Any] | None:
    """The result of a renewal that issued a certificate; None for any other result."""
    if isinstance(result, dict) and "replaces" in result:
        return _with_field_names(result)
    return None


def _with_field_names(item: Mapping[str, Any]) -> dict[str, Any]:
    """Name what a field of a target contains like the field."""
    return {_FIELD_NAMES.get(name, name): value for name, value in item.items()}


def _result_cells(entry: dict[str, Any], item_columns: Sequence[str]) -> Iterator[list[Any]]:
    result = entry["result"]
    as_text = None if result is None else as_json(result).decode()
    if "replaces" in item_columns:
        # the target's own certificate is the one that was to be replaced
        new = new_certificate(result) or {"replaces": entry["target"].get("certSn")}
        yield [*map(new.get, item_columns), as_text]
    elif item_columns:
        # a field that target and certificate share is one column, so the file can be a target file
        for item in (result or {}).get("certificates") or [entry["target"]]:
            yield [*map(_with_field_names(item).get, item_columns)]
    else:
        yield [as_text]
