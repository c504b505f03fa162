"""Reads `results.jsonl` back: the results of a run whose checkpoint is not at hand.

In: the file. Out: records, streamed, as a store gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import orjson

from bulkcert.errors import RunDirectoryError
from bulkcert.model import Outcome, State
from bulkcert.store.base import Record
from bulkcert.targets.records import CERTIFICATE_COLUMNS

_STATES = {
    Outcome.SUCCEEDED: State.SUCCEEDED,
    Outcome.ALREADY_DONE: State.ALREADY_DONE,
    Outcome.FAILED: State.FAILED,
    Outcome.UNKNOWN: State.UNKNOWN,
    Outcome.PENDING: State.PLANNED,
}


class RecordedResults:
    """The records in a file that is a `results.jsonl`, whatever its name.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> Iterator[Record]:
        """Stream the records in the order of the file.

        Raises:
            RunDirectoryError: the file can't be read, or is something else.
        """
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield self._record(number, line)
        except OSError as error:
            raise RunDirectoryError(
                f"{self._path} can't be read: {error.strerror or error}",
                "Name a run directory, or a file that was written as results.jsonl.",
            ) from error

    def columns(self) -> tuple[list[str], list[str]]:
        """The fields of all targets, and those of all certificates that were listed."""
        fields: dict[str, None] = {}
        of_certificates: dict[str, None] = {}
        for record in self.records():
            fields.update(dict.fromkeys(record.fields))
            if isinstance(record.result, dict):
                if "replaces" in record.result:
                    of_certificates.update(dict.fromkeys(CERTIFICATE_COLUMNS))
                for item in record.result.get("certificates") or []:
                    of_certificates.update(dict.fromkeys(item))
        return list(fields), list(of_certificates)

    def _record(self, number: int, line: bytes) -> Record:
        try:
            entry = orjson.loads(line)
            finished_at = entry["finished_at"]
            return Record(
                id=number,
                line=entry["line"],
                fields=dict(entry["target"]),
                state=_STATES[Outcome(entry["outcome"])],
                attempts=entry["attempts"],
                code=entry["code"],
                message=entry["message"],
                request_id=entry["request_id"],
                result=entry["result"],
                finished_at=finished_at and datetime.fromisoformat(finished_at).timestamp(),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{self._path}, line {number}: this is not a result as results.jsonl has them.",
                "Name a run directory, or a file that was written as results.jsonl.",
            ) from error
