"""The files of a pack, made from the store of a run at one moment.

In: the store, in a snapshot, and the run directory for what `verify` has written. Out: each file as
a stream of bytes, and the manifest once their digests are known. The same store gives the same
bytes, on every machine. Private keys and `certificates/` stay where they are: certificates are
public, their CA has them, and the results have the fingerprint of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from bulkcert.event_log import EventType, RunEvent
from bulkcert.evidence.manifest import LastEvent, Manifest, Part, Verified
from bulkcert.evidence.readme import readme
from bulkcert.json_lines import as_json, utc
from bulkcert.report.history import history_jsonl
from bulkcert.report.page import report_page
from bulkcert.report.results import results_jsonl
from bulkcert.report.summary import Summary, summarize
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import StoreReader
from bulkcert.timings import HostTimings

README, PLAN, TARGETS, APPROVALS = "README.txt", "plan.json", "targets.jsonl", "approvals.json"
EVENTS, RESULTS, HISTORY = "events.jsonl", "results.jsonl", "history.jsonl"
VERIFICATION, SUMMARY, CAMPAIGN, REPORT = (
    "verify.jsonl",
    "summary.json",
    "campaign.json",
    "report.html",
)
ALWAYS = (README, PLAN, APPROVALS, EVENTS, RESULTS, HISTORY, SUMMARY, CAMPAIGN)
"""Every pack has these. What else is missing without a reason is a fault, too."""

STATEMENT, STATEMENT_SIGNATURE, SIGNERS = (".approval", ".approval.sig", ".signers")
"""The ends of the names of the files of one approval."""

_CHUNK = 256 * 1024

Chunks = Iterable[bytes]


class Contents:
    """What a pack about a run contains.

    Args:
        reader: the store, in a snapshot that lasts as long as this is used.
        directory: the run directory.

    Attributes:
        left_out: files that are missing, and why.
    """

    def __init__(self, reader: StoreReader, directory: RunDirectory) -> None:
        self._reader = reader
        self._run = reader.manifest()
        self._summary: Summary = summarize(reader)
        self._finished = reader.is_over()
        self._events = reader.events()
        self._approvals = reader.approvals()
        self._verification: IO[bytes] | None = None
        self.left_out: dict[str, str] = {}
        self._open_verification(directory.verification)

    def close(self) -> None:
        """Close what was opened."""
        if self._verification is not None:
            self._verification.close()

    def files(self) -> Iterator[tuple[str, Chunks]]:
        """The files, in their order; each must be read before the next one."""
        files = dict(self._files())
        names = [README, *files]
        yield README, [self._readme(names)]
        yield from files.items()

    def manifest(self, files: Mapping[str, Part]) -> Manifest:
        """Return the manifest.

        Args:
            files: all files, in their order.
        """
        run, summary, last, verified = self._run, self._summary, LastEvent(), None
        if self._events:
            event = self._events[-1]
            last = LastEvent(event.seq, utc(event.at), event.hash)
        if (verification := self._last_verification()) is not None:
            verified = Verified.of(verification)
        return Manifest(
            run=run.run,
            run_id=run.run_id,
            number=run.number,
            provider=run.provider,
            action=run.action,
            endpoint=run.connection.endpoint,
            rehearsal=run.rehearsal,
            plan=run.plan.hash,
            # RFC 3339 in UTC: the greatest text is the latest time
            as_of=max(filter(None, (summary.finished_at, last.at)), default=None),
            finished=self._finished,
            exit_code=summary.exit_code,
            total=summary.total,
            outcomes={str(outcome): number for outcome, number in summary.outcomes.items()},
            history=files[HISTORY].lines,
            approvals=len(self._approvals),
            verified=verified,
            last_event=last,
            extra_columns=run.extra_columns,
            left_out=self.left_out,
            files=files,
        )

    def _files(self) -> Iterator[tuple[str, Chunks]]:
        yield PLAN, [self._plan()]
        if self._run.adds_operations:
            self.left_out[TARGETS] = "the run adds operations to those that were planned"
        else:
            yield TARGETS, self._reader.planned_fields()
        yield APPROVALS, [self._approvals_json()]
        for number, approval in enumerate(self._approvals, 1):
            yield f"approvals/{number}{STATEMENT}", [approval.statement]
            yield f"approvals/{number}{STATEMENT_SIGNATURE}", [approval.signature]
            yield f"approvals/{number}{SIGNERS}", [approval.signers]
        yield EVENTS, (event.line + b"\n" for event in self._events)
        yield RESULTS, results_jsonl(self._reader.records())
        yield HISTORY, history_jsonl(self._reader.whole_history())
        if (file := self._verification) is not None:
            yield VERIFICATION, iter(lambda: file.read(_CHUNK), b"")
        yield SUMMARY, [self._summary.as_json()]
        yield CAMPAIGN, [self._campaign()]
        yield REPORT, [self._report()]

    def _readme(self, names: list[str]) -> bytes:
        run = self._run
        return readme(
            run=run.run,
            provider=run.provider,
            action=run.action,
            endpoint=run.connection.endpoint,
            plan=run.plan.hash,
            rehearsal=run.rehearsal,
            finished=self._finished,
            files=names,
        )

    def _report(self) -> bytes:
        """The page, without the commands to go on with, which are those of one machine."""
        # what the store says: the page is about this moment, wherever it is made
        hosts = [host for host in self._reader.hosts() if host.lease]
        sessions = self._reader.sessions()
        running = bool(sessions) and sessions[-1].exit_code is None
        if hosts:
            patience_s = HostTimings().fence_after_s
            running = any(host.works(patience_s) for host in hosts)
        return report_page(self._reader, running=running)

    def _plan(self) -> bytes:
        """The plan, with what its hash is made from."""
        plan = self._run.plan
        return as_json(plan.as_object(), indent=True) + b"\n"

    def _approvals_json(self) -> bytes:
        approvals = [
            {
                "number": number,
                "at": utc(each.at),
                "who": each.who,
                "key": each.key,
                "expires_at": utc(each.expires_at),
                "abort": each.abort,
                "statement": hashlib.sha256(each.statement).hexdigest(),
            }
            for number, each in enumerate(self._approvals, 1)
        ]
        return as_json(approvals, indent=True) + b"\n"

    def _campaign(self) -> bytes:
        reader = self._reader
        campaign: dict[str, Any] = {
            "waves": [wave._asdict() for wave in reader.waves()],
            "controls": [{**entry._asdict(), "at": utc(entry.at)} for entry in reader.controls()],
            "aborts": [
                {
                    **abort._asdict(),
                    "at": utc(abort.at),
                    "overridden_at": abort.overridden_at and utc(abort.overridden_at),
                }
                for abort in reader.aborts()
            ],
            "amendments": [
                {"at": utc(each.at), "who": each.who, "before": each.before}
                | {"changes": each.changes}
                for each in self._run.amendments
            ],
        }
        return as_json(campaign, indent=True) + b"\n"

    def _last_verification(self) -> RunEvent | None:
        """What the last `verify` has recorded."""
        events = reversed(self._events)
        return next((each for each in events if each.type is EventType.VERIFICATION), None)

    def _open_verification(self, path: Path) -> None:
        """Open what the last `verify` has written, if it is still what the events say of it."""
        last = self._last_verification()
        try:
            file = path.open("rb")
        except OSError as error:
            if last is not None:
                self.left_out[VERIFICATION] = f"it can't be read: {error.strerror or error}"
            return
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if last is not None and last.data["sha256"] == digest:
            file.seek(0)
            self._verification = file
            return
        file.close()
        self.left_out[VERIFICATION] = "it is not what the last verify has recorded"
