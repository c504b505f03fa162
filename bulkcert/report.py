"""What a run has come to. Reads only the checkpoint, so it can be made at any time.

Out go `results.jsonl` and `summary.json`, as docs/output.md describes them, and the same records in
other forms.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from bulkcert import durable
from bulkcert.model import Outcome, State
from bulkcert.store.base import Record, StoreReader

_STATES = {
    Outcome.SUCCEEDED: [State.SUCCEEDED],
    Outcome.ALREADY_DONE: [State.ALREADY_DONE],
    Outcome.FAILED: [State.FAILED],
    Outcome.UNKNOWN: [State.UNKNOWN, State.IN_FLIGHT],
    Outcome.PENDING: [State.PLANNED],
}
RESUMABLE = 3
"""Exit code of a run that is not over."""


def outcome_counts(counts: dict[State, int]) -> dict[Outcome, int]:
    """Operations by outcome, each outcome named."""
    return {
        outcome: sum(counts.get(state, 0) for state in states)
        for outcome, states in _STATES.items()
    }


def exit_code(counts: dict[State, int]) -> int:
    """The exit code of a run in this state: 0 all well, 1 over with failures, 3 not over."""
    if counts.get(State.PLANNED) or counts.get(State.IN_FLIGHT):
        return RESUMABLE
    return 1 if counts.get(State.FAILED) or counts.get(State.UNKNOWN) else 0


def summary(reader: StoreReader) -> dict[str, Any]:
    """The content of `summary.json`; see docs/output.md."""
    counts, sessions = reader.counts(), reader.sessions()
    requests = sum(session.requests for session in sessions)
    elapsed_s = sum(session.updated_at - session.started_at for session in sessions)
    return {
        "name": reader.meta()["name"],
        "total": sum(counts.values()),
        **{str(outcome): count for outcome, count in outcome_counts(counts).items()},
        "attempts": reader.attempts(),
        "requests": requests,
        "throttled": sum(session.throttled for session in sessions),
        "started_at": utc(sessions[0].started_at) if sessions else None,
        "finished_at": utc(sessions[-1].updated_at) if sessions else None,
        "elapsed_seconds": round(elapsed_s, 3),
        "requests_per_second": round(requests / elapsed_s, 1) if elapsed_s else 0.0,
        "busiest_second": max((session.busiest_second for session in sessions), default=0),
        "exit_code": exit_code(counts),
    }


def write(reader: StoreReader, run_dir: Path) -> dict[str, Any]:
    """Write `results.jsonl` and `summary.json`, each all or nothing; return the summary.

    Where an action brings certificates, `certificates/manifest.csv` says which is whose.
    """
    with durable.replacing(run_dir / "results.jsonl") as file:
        file.writelines(results_jsonl(reader.records()))
    if (run_dir / "certificates").is_dir():
        with durable.replacing(run_dir / "certificates" / "manifest.csv") as file:
            file.writelines(_manifest(reader.records()))
    figures = summary(reader)
    with durable.replacing(run_dir / "summary.json") as file:
        file.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    return figures


def states_of(outcomes: Iterable[Outcome]) -> list[State]:
    """The states that the reports show as these outcomes."""
    return [state for outcome in outcomes for state in _STATES[outcome]]


def results_jsonl(records: Iterable[Record]) -> Iterator[bytes]:
    """One JSON object a line for each record."""
    for record in records:
        yield orjson.dumps(_as_object(record), option=orjson.OPT_APPEND_NEWLINE)


def results_csv(
    records: Iterable[Record], target_fields: Iterable[str], item_columns: Sequence[str] = ()
) -> Iterator[bytes]:
    """A header and one row for each record, with a column for each target field.

    Args:
        records: what to write.
        target_fields: names of the columns for the target.
        item_columns: where an action lists certificates, the columns of one; there is a row for
            each certificate then, or one without these columns.
    """
    fields = [name for name in target_fields if name not in item_columns]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    tail = ["outcome", "code", "message", "request_id", "attempts", "finished_at"]
    writer.writerow(["line", *fields, *tail, *(item_columns or ["result"])])
    for record in records:
        entry = _as_object(record)
        cells = [entry["line"], *(entry["target"].get(name) for name in fields)]
        cells += [entry[name] for name in tail]
        writer.writerows([*cells, *more] for more in _result_cells(record, item_columns))
        if buffer.tell() > 2**16:
            yield _drain(buffer)
    yield _drain(buffer)


def _result_cells(record: Record, item_columns: Sequence[str]) -> Iterator[list[Any]]:
    result = record.result
    if not item_columns:
        yield [None if result is None else orjson.dumps(result).decode()]
        return
    # what a target and a certificate have in common is one column: the file can be a target file
    items = (result or {}).get("certificates") or [record.fields]
    for item in items:
        yield [item.get(name) for name in item_columns]


def utc(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC with milliseconds."""
    fraction, whole = math.modf(seconds)
    # rounded to microseconds first, as datetime does
    second, millisecond = divmod(int(whole) * 1000 + round(fraction * 1e6) // 1000, 1000)
    return f"{_utc_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=1000)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _manifest(records: Iterable[Record]) -> Iterator[bytes]:
    """Which certificate is whose, with its key if one was made."""
    columns = ["certSN", "replaces", "certificate_file", "key_file", "expires_at"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["line", "target", "outcome", *columns])
    for record in records:
        if isinstance(record.result, dict) and "certSN" in record.result:
            target = {name: value for name, value in record.fields.items() if name != "csr"}
            cells = [record.result.get(name) for name in columns]
            writer.writerow([record.line, orjson.dumps(target).decode(), record.outcome, *cells])
            yield _drain(buffer)
    yield _drain(buffer)


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


def _drain(buffer: io.StringIO) -> bytes:
    content = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return content
