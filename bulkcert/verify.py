"""Reads the devices of a finished run back, and compares them with its results.

In: the store of a finished run. Out: the differences. The reading is an ordinary run of the
provider's reading action in a scratch directory, so it keeps the same ceiling, uses the same source
addresses and retries in the same way. It changes nothing, neither at the provider nor in the run
that is verified.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkcert.errors import JobError, RunDirectoryError
from bulkcert.job import Job
from bulkcert.model import Outcome, Target
from bulkcert.plan import manifest_of
from bulkcert.providers import installed_provider
from bulkcert.providers.base import Action, RecordedResult, merged
from bulkcert.report.summary import is_finished
from bulkcert.run import Run
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Record, StoreReader
from bulkcert.store.sqlite import new_store
from bulkcert.targets import digest


@dataclass(frozen=True, slots=True)
class Comparison:
    """One record, compared with the provider's state.

    Attributes:
        record: the record.
        difference: how they differ; empty if they agree.
        remarks: what is worth knowing about the device now, by the names of `Provider.remarks`.
    """

    record: Record
    difference: str
    remarks: Sequence[str] = ()

    def as_object(self) -> dict[str, Any]:
        """Return the JSON object that is printed for a difference."""
        return {
            "line": self.record.line,
            "target": self.record.fields,
            "outcome": self.record.outcome,
            "difference": self.difference,
        }


def reading_run(verified: StoreReader, scratch: Path) -> Run:
    """Plan a run that reads the device of each record, in the order of the records.

    Args:
        verified: the store of the run that is verified.
        scratch: an empty directory for the reading.

    Raises:
        RunDirectoryError: the run is not finished, was a rehearsal, or changed nothing.
        PluginError: the provider of the run is not installed.
    """
    manifest = verified.manifest()
    provider = installed_provider(manifest.provider)
    reading_action = provider.actions[manifest.action].verified_by
    if manifest.rehearsal or not reading_action:
        raise RunDirectoryError(
            "There is nothing to verify: the run was a rehearsal, or it only read.",
            "Name the run directory of a run that changed certificates.",
        )
    if not is_finished(verified.counts()):
        raise RunDirectoryError(
            "The run is not finished.", "Let `bulkcert run` finish it, then verify it."
        )
    job = Job(
        name=manifest.name,
        provider=provider,
        action=provider.actions[reading_action],
        targets=None,
        connection=dataclasses.replace(
            manifest.connection, source_addresses=_own(manifest.connection.source_addresses)
        ),
        limits=manifest.limits,
        parameters=manifest.parameters,
    )
    no_target_file = io.BytesIO()  # the run finds its operations planned, and continues
    directory = RunDirectory(scratch)
    directory.create()
    with new_store(directory.checkpoint) as store:
        for record in verified.records():
            store.add(Target(record.line, record.fields, record.extra), record.id)
        store.finish(manifest_of(job, sha256=digest(None, no_target_file)))
    return Run(job, scratch, stdin=no_target_file)


def _own(addresses: Sequence[str]) -> tuple[str, ...]:
    """Those of the source addresses that this machine has; it need not be where the run was."""
    from bulkcert.providers.transport import check_source_address  # loads a network library

    own = []
    for address in addresses:
        with contextlib.suppress(JobError):
            check_source_address(address)
            own.append(address)
    return tuple(own)


def compare(verified: StoreReader, reading: Run) -> Iterator[Comparison]:
    """Compare each record of a run with what was read back.

    Args:
        verified: the store of the run that is verified.
        reading: the run made by `reading_run`, finished.
    """
    manifest, provider = verified.manifest(), reading.job.provider
    with contextlib.closing(reading.directory.reader()) as back:
        for record, read in zip(verified.records(), back.records(), strict=True):
            if read.outcome is not Outcome.SUCCEEDED and read.code not in provider.absent:
                yield Comparison(
                    record, f"could not be read back: {read.code or ''} {read.message}"
                )
                continue
            recorded = RecordedResult(
                manifest.action,
                merged(manifest.parameters, record.fields),
                record.outcome,
                record.result,
            )
            yield Comparison(
                record,
                provider.difference(recorded, read.result),
                provider.remarks_on(recorded, read.result),
            )


class RemarkCounts:
    """Counts devices by remark. A device with several records is counted once.

    Args:
        action: names the fields that say which device is meant.
    """

    def __init__(self, action: Action) -> None:
        self._names = [field.name for way in action.identifiers for field in way]
        self._devices: dict[str, set[int]] = {}

    def add(self, comparison: Comparison) -> None:
        """Count what one comparison showed."""
        if comparison.remarks:
            fields = comparison.record.fields
            device = hash(tuple([fields.get(name) for name in self._names]))
            for remark in comparison.remarks:
                self._devices.setdefault(remark, set()).add(device)

    def items(self) -> list[tuple[str, int]]:
        """The remarks, each with its number of devices."""
        return [(remark, len(devices)) for remark, devices in self._devices.items()]
