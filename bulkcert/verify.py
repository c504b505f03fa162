"""Reads the devices of a run back, and compares them with its results.

In: the store of a run, at one moment. Out: for every operation that was settled at that moment,
whether its device agrees. The reading is an ordinary run of the provider's reading action in a
scratch directory, so it keeps the same ceiling, uses the same source addresses and retries in the
same way. It changes nothing at the provider; in the run that is verified, only an event is added
that says what was found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bulkcert import event_log
from bulkcert.control import control_after
from bulkcert.errors import JobError, RunDirectoryError
from bulkcert.job import Job, Limits
from bulkcert.json_lines import utc
from bulkcert.model import Outcome, State, Target
from bulkcert.plan import manifest_of
from bulkcert.providers import installed_provider
from bulkcert.providers.base import Action, RecordedResult, merged
from bulkcert.revocation_list import Listing, RevocationList, look_up
from bulkcert.run import Run
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Record, StoreReader
from bulkcert.store.sqlite import new_store
from bulkcert.targets import digest

COULD_NOT_CHECK = 2
"""Exit code when something kept devices from being read."""

SETTLED = tuple(state for state in State if state not in (State.PLANNED, State.IN_FLIGHT))


class Verdict(StrEnum):
    """What became known about one operation."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_READ = "not_read"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One record, compared with the provider's state.

    Attributes:
        record: the record.
        verdict: whether they agree.
        difference: how they differ, or why the device could not be read; empty if they agree.
        seen: the certificates that were seen; None if the device could not be read.
        read_at: when, as Unix time in seconds; None if there was no response.
        request_id: of the request that read the device.
        remarks: what is worth knowing about the device now, by the names of `Provider.remarks`.
        listing: whether the list of its CA has the revoked certificate; None if nothing was
            revoked, or nobody asked.
    """

    record: Record
    verdict: Verdict
    difference: str
    seen: Any
    read_at: float | None
    request_id: str | None
    remarks: Sequence[str] = ()
    listing: Listing | None = None

    def as_object(self) -> dict[str, Any]:
        """Return the JSON object that stands for it in `verify.jsonl`."""
        return {
            "line": self.record.line,
            "target": self.record.target,
            "outcome": self.record.outcome,
            "verdict": self.verdict,
            "difference": self.difference,
            "seen": self.seen,
            "read_at": None if self.read_at is None else utc(self.read_at),
            "request_id": self.request_id,
            **({} if self.listing is None else {"crl": self.listing}),
        }


def reading_run(verified: StoreReader, scratch: Path) -> Run:
    """Plan a run that reads the device of each settled record, in the order of the records.

    Args:
        verified: the store of the run that is verified. It must not change from here to the end of
            `compare`.
        scratch: an empty directory for the reading.

    Raises:
        RunDirectoryError: nothing of the run is settled yet, or it was a rehearsal, or it changed
            nothing.
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
    if not any(verified.counts().get(state) for state in SETTLED):
        raise RunDirectoryError(
            "There is nothing to verify yet: no operation of the run is settled.",
            "Start it with `bulkcert run`; `bulkcert status` shows its progress.",
        )
    job = Job(
        name=manifest.name,
        provider=provider,
        action=provider.actions[reading_action],
        targets=None,
        connection=dataclasses.replace(
            manifest.connection, source_addresses=_own(manifest.connection.source_addresses)
        ),
        limits=_limits(verified),
        parameters=manifest.parameters,
    )
    no_target_file = io.BytesIO()  # the run finds its operations planned, and continues
    directory = RunDirectory(scratch)
    directory.create()
    with new_store(directory.checkpoint) as store:
        for record in verified.records(SETTLED):
            store.add(Target(record.line, record.fields, record.extra), record.id)
        store.finish(manifest_of(job, sha256=digest(None, no_target_file)))
    return Run(job, scratch, stdin=no_target_file, store="")


def _limits(verified: StoreReader) -> Limits:
    """The limits of a run; while it is not over, no more than the rate that somebody has set."""
    limits = verified.manifest().limits
    rate = control_after(verified.controls()).requests_per_second
    if rate is None or not not_settled(verified):
        return limits
    return dataclasses.replace(limits, requests_per_second=min(limits.requests_per_second, rate))


def _own(addresses: Sequence[str]) -> tuple[str, ...]:
    """Those of the source addresses that this machine has; it need not be where the run was."""
    from bulkcert.providers.transport import check_source_address  # loads a network library

    own = []
    for address in addresses:
        with contextlib.suppress(JobError):
            check_source_address(address)
            own.append(address)
    return tuple(own)


def log_verification(directory: RunDirectory, tally: Tally, found: Path) -> None:
    """Add what was found to the event log of the run, also while it is going on.

    Args:
        directory: of the run that was verified.
        tally: what was found.
        found: what `verify.jsonl` contains.

    Raises:
        RunDirectoryError: the store can't be opened for writing.
        StoreError: it can't be written.
    """
    with found.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    agrees, differs, not_read = (tally.verdicts[verdict] for verdict in Verdict)
    happened = event_log.verified(time.time(), agrees, differs, not_read, sha256)
    directory.commit(lambda store: store.add_event(happened))


def not_settled(verified: StoreReader) -> int:
    """Number of operations that are planned, or whose outcome is not known yet."""
    return sum(number for state, number in verified.counts().items() if state not in SETTLED)


def compare(
    verified: StoreReader, reading: Run, lists: Sequence[RevocationList] = ()
) -> Iterator[Comparison]:
    """Compare each settled record of a run with what was read back.

    Args:
        verified: the store of the run that is verified, as it was for `reading_run`.
        reading: the run made by `reading_run`, finished.
        lists: the revocation lists in which the revoked certificates should be.
    """
    manifest, provider = verified.manifest(), reading.job.provider
    with contextlib.closing(reading.directory.reader()) as back:
        for record, read in zip(verified.records(SETTLED), back.records(), strict=True):
            if read.outcome is not Outcome.SUCCEEDED and read.code not in provider.absent:
                problem = f"could not be read back: {read.code or ''} {read.message}"
                yield Comparison(
                    *(record, Verdict.NOT_READ, problem),
                    *(None, read.finished_at, read.request_id),
                )
                continue
            recorded = RecordedResult(
                manifest.action,
                merged(manifest.parameters, record.fields),
                record.outcome,
                record.result,
            )
            difference, listing = provider.difference(recorded, read.result), None
            verdict = Verdict.DIFFERS if difference else Verdict.AGREES
            if lists and (revoked := provider.revoked(recorded, read.result)):
                at_s = record.finished_at or 0.0
                listing, problem = look_up(lists, dataclasses.replace(revoked, at_s=at_s))
                difference = difference or problem
            yield Comparison(
                record,
                verdict,
                difference,
                provider.seen(read.result),
                read.finished_at,
                read.request_id,
                provider.remarks_on(recorded, read.result),
                listing,
            )


class Tally:
    """Counts what the comparisons showed.

    Args:
        action: names the fields that say which device is meant.
        lists: the revocation lists, which may prove nothing.

    Attributes:
        verdicts: number of operations by verdict.
        listings: number of revoked certificates by what the lists say.
    """

    def __init__(self, action: Action, lists: Sequence[RevocationList] = ()) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.listings: Counter[Listing] = Counter()
        self._lists = bool(lists)
        self._doubtful = any(each.doubts for each in lists)
        self._names = [field.name for way in action.identifiers for field in way]
        self._devices: dict[str, set[int]] = {}

    def add(self, comparison: Comparison) -> None:
        """Count what one comparison showed."""
        self.verdicts[comparison.verdict] += 1
        if comparison.listing is not None:
            self.listings[comparison.listing] += 1
        if comparison.remarks:
            fields = comparison.record.fields
            device = hash(tuple([fields.get(name) for name in self._names]))
            for remark in comparison.remarks:
                self._devices.setdefault(remark, set()).add(device)

    def remarks(self) -> dict[str, int]:
        """Number of devices by remark. A device with several records is counted once."""
        return {remark: len(devices) for remark, devices in self._devices.items()}

    def as_object(self) -> dict[str, Any]:
        """What `verify --json` says of it."""
        return {
            "agree": self.verdicts[Verdict.AGREES],
            "differ": self.verdicts[Verdict.DIFFERS],
            "not_read": self.verdicts[Verdict.NOT_READ],
            **({each.value: self.listings[each] for each in Listing} if self._lists else {}),
            "remarks": self.remarks(),
        }

    @property
    def exit_code(self) -> int:
        """0 everything agrees; 1 something differs; 2 something could not be checked."""
        if self.verdicts[Verdict.DIFFERS] or self.listings[Listing.NOT_LISTED]:
            return 1
        unchecked = self.verdicts[Verdict.NOT_READ] or self.listings[Listing.NOT_COMPARED]
        return COULD_NOT_CHECK if unchecked or self._doubtful else 0
