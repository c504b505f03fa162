"""Reads every device of a finished run back, and compares.

The reading is a run of its own, of the provider's reading action, in a scratch directory: it keeps
the same ceiling and is retried in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkcert.errors import RunDirectoryError
from bulkcert.job import Connection, Job, Limits
from bulkcert.model import Outcome, Target
from bulkcert.plan import Plan
from bulkcert.providers import PROVIDERS
from bulkcert.providers.base import RecordedResult, merged
from bulkcert.report import RESUMABLE, exit_code
from bulkcert.run import Run
from bulkcert.store.base import Record, StoreReader
from bulkcert.store.sqlite import SqlitePlan


@dataclass(frozen=True, slots=True)
class Difference:
    """One record, and how the provider's state differs from it."""

    record: Record
    difference: str


class Verification(Run):
    """Reads the devices of a finished run back.

    Args:
        reader: the checkpoint of the run that is verified.
        scratch: an empty directory for the reading.

    Raises:
        RunDirectoryError: the run is not over, was a rehearsal, or changed nothing.
    """

    def __init__(self, reader: StoreReader, scratch: Path) -> None:
        meta = reader.meta()
        provider = PROVIDERS[meta["what"]["provider"]]
        self._verified = provider.actions[meta["what"]["action"]]
        if meta["what"]["rehearsal"] or not self._verified.verified_by:
            raise RunDirectoryError(
                "There is nothing to verify: the run was a rehearsal, or it only read.",
                "Name the run directory of a run that changed certificates.",
            )
        if exit_code(reader.counts()) == RESUMABLE:
            raise RunDirectoryError(
                "The run is not over.", "Let `bulkcert run` finish it, then verify."
            )
        connection = meta["connection"]
        ca_file = connection["ca_file"]
        super().__init__(
            Job(
                name=meta["name"],
                provider=provider,
                action=provider.actions[self._verified.verified_by],
                targets=None,
                connection=Connection(
                    endpoint=connection["endpoint"],
                    ca_file=Path(ca_file) if ca_file else None,
                    options=connection["options"],
                ),
                limits=Limits(**meta["limits"]),
                parameters=meta["parameters"],
            ),
            scratch,
        )
        self._reader = reader

    def prepare(self) -> Plan | None:
        """Plan to read the device of each record, in the same order."""
        plan = SqlitePlan(self.directory.checkpoint)
        try:
            for record in self._reader.records():
                plan.add(Target(record.line, record.fields), record.id)
            plan.finish({"name": self.job.name})
        finally:
            plan.discard()
        return None

    def differences(self) -> Iterator[Difference]:
        """Compare, when the reading is over."""
        with contextlib.closing(self.directory.reader()) as back:
            for record, read in zip(self._reader.records(), back.records(), strict=True):
                if found := self._compare(record, read):
                    yield Difference(record, found)

    def _compare(self, record: Record, read: Record) -> str:
        provider = self.job.provider
        if read.outcome is not Outcome.SUCCEEDED and read.code not in provider.absent:
            return f"could not be read back: {read.code or ''} {read.message}"
        claim = RecordedResult(
            self._verified.name,
            merged(self.job.parameters, record.fields),
            record.outcome,
            record.result,
        )
        return provider.difference(claim, read.result)


def as_object(difference: Difference) -> dict[str, Any]:
    """A difference as it is printed."""
    record = difference.record
    return {
        "line": record.line,
        "target": record.fields,
        "outcome": record.outcome,
        "difference": difference.difference,
    }
