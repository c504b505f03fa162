"""The results of a run, one record per operation, as JSON lines and as CSV.

In: records of the store, streamed. Out: chunks of bytes. docs/output.md describes the formats.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from bulkcert.report.cells import as_json, cell
from bulkcert.store.base import Record

_CHUNK_CHARACTERS = 2**16

_OUTCOME_COLUMNS = ("outcome", "code", "message", "request_id", "attempts", "finished_at")

_CERTIFICATE_COLUMNS = ("certSN", "replaces", "certificate_file", "key_file", "expires_at")


def results_jsonl(records: Iterable[Record]) -> Iterator[bytes]:
    """Format each record as one line with a JSON object."""
    for record in records:
        yield as_json(_as_object(record)) + b"\n"


def results_csv(
    records: Iterable[Record],
    target_fields: Iterable[str],
    item_columns: Sequence[str] = (),
    identifying: Collection[str] = (),
) -> Iterator[bytes]:
    """Format a header and a row for each record, with a column for each target field.

    Args:
        records: the records to write.
        target_fields: names of the columns for the target.
        item_columns: for an action that lists certificates, the columns of a certificate. Then
            there is one row per certificate; a record without certificates gets one row, in which
            these columns are empty unless the target has a field of that name.
        identifying: the columns that say what to act on. They are written as they are, so that the
            file can be a target file; all others are for people, see `bulkcert.report.cells`.
    """
    fields = [name for name in target_fields if name not in item_columns]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["line", *fields, *_OUTCOME_COLUMNS, *(item_columns or ["result"])]
    writer.writerow(columns)
    formats = [_as_it_is if name in identifying else cell for name in columns]
    for record in records:
        entry = _as_object(record)
        cells = [entry["line"], *(entry["target"].get(name) for name in fields)]
        cells += [entry[name] for name in _OUTCOME_COLUMNS]
        for more in _result_cells(record, item_columns):
            row = zip(formats, [*cells, *more], strict=True)
            writer.writerow([formatted(value) for formatted, value in row])
        if buffer.tell() > _CHUNK_CHARACTERS:
            yield _drain(buffer)
    yield _drain(buffer)


def certificates_csv(records: Iterable[Record]) -> Iterator[bytes]:
    """Format `certificates/manifest.csv`: the new certificate and key of each target."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["line", "target", "outcome", *_CERTIFICATE_COLUMNS])
    for record in records:
        if isinstance(record.result, dict) and "certSN" in record.result:
            target = {name: value for name, value in record.fields.items() if name != "csr"}
            cells = [record.result.get(name) for name in _CERTIFICATE_COLUMNS]
            writer.writerow([record.line, as_json(target).decode(), record.outcome, *cells])
            yield _drain(buffer)
    yield _drain(buffer)


def utc(seconds: float) -> str:
    """Format Unix time as RFC 3339 in UTC with milliseconds."""
    fraction, whole = math.modf(seconds)
    # rounded to microseconds first, as datetime does
    second, millisecond = divmod(int(whole) * 1000 + round(fraction * 1e6) // 1000, 1000)
    return f"{_utc_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=1000)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _as_object(record: Record) -> dict[str, Any]:
    return {
        "line": record.line,
        "target": record.fields,
        "outcome": record.outcome,
        "code": record.code,
        "message": record.message,
        "request_id": record.request_id,
        "attempts": record.attempts,
        "finished_at": None if record.finished_at is None else utc(record.finished_at),
        "result": record.result,
    }


def _result_cells(record: Record, item_columns: Sequence[str]) -> Iterator[list[Any]]:
    result = record.result
    if not item_columns:
        yield [None if result is None else as_json(result).decode()]
        return
    # a field that target and certificate share is one column, so the file can be a target file
    items = (result or {}).get("certificates") or [record.fields]
    for item in items:
        yield [item.get(name) for name in item_columns]


def _as_it_is(value: Any) -> Any:
    return value


def _drain(buffer: io.StringIO) -> bytes:
    content = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return content
