"""Reads the results of a run as Python objects, during the run or after it.

In: a run directory, or a `results.jsonl` alone. Out: `Result`s, streamed. Writes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bulkcert.events import Result
from bulkcert.model import Outcome
from bulkcert.report.recorded import RecordedResults
from bulkcert.report.summary import states_of
from bulkcert.rundir import RunDirectory
from bulkcert.runs import find_run
from bulkcert.store.base import Record


def results(run: str | os.PathLike[str], *outcomes: Outcome | str) -> Iterator[Result]:
    """Stream the results of a run, in the order of its target file.

    Each is read when it is asked for, so a run of millions needs little memory. The run may be
    going on: then all results are as of the moment when the first one is read, and what is in
    flight counts as unknown.

    Args:
        run: the run directory, the job file, or (as text) the name of a run, as for the command;
            or a file that was written as `results.jsonl`.
        outcomes: only results with one of these outcomes; all if none is given.

    Raises (when the first result is read):
        RunDirectoryError: there is no run, or it can't be read.
        StoreError: the checkpoint is damaged.
        ValueError: there is no outcome of that name.
    """
    path, wanted = Path(run), states_of(map(Outcome, outcomes or Outcome))
    alone = path.is_file() and path.suffix == ".jsonl"
    # a path object is never the name of a run
    named = run if isinstance(run, str) else str(path.absolute())
    directory = RunDirectory(path) if alone else find_run(named)
    file = path if alone else directory.results
    if alone or directory.has_results_alone():
        for record in RecordedResults(file).records():
            if record.state in wanted:
                yield _result(record)
        return
    with contextlib.closing(directory.reader()) as reader:
        yield from map(_result, reader.records(wanted))


def _result(record: Record) -> Result:
    at = record.finished_at
    return Result(
        record.line,
        record.target,
        record.outcome,
        record.code,
        record.message,
        record.request_id,
        record.attempts,
        None if at is None else datetime.fromtimestamp(at, UTC),
        record.result,
    )
