"""What the files of a pack say, as far as the others or the manifest must agree.

In: the files, each as a stream, made by somebody who may lie. Out: `Facts`. A file that does not
say what it should becomes a fault in words; nothing here raises an error for that, or keeps more
than a bounded part of a file in memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from bulkcert.event_log import EventType, RunEvent, chain_fault
from bulkcert.evidence import contents as names
from bulkcert.evidence.archive import ArchiveError, Entry
from bulkcert.evidence.manifest import LastEvent, Verified
from bulkcert.json_lines import utc
from bulkcert.plan_hash import PlanHash

_MOST_BYTES = 16 * 1024 * 1024
"""Of a file that is read as a whole."""

_MOST_OF_APPROVAL = 1024 * 1024
"""Bytes of a statement, a signature or a signers file."""

_MOST_NOTED = 10_000
"""Approvals in the events, and names of runs."""

_MOST_NAMES = 100
"""Names of outcomes and of verdicts: far more than there are."""


class Approved(NamedTuple):
    """An approval, as an event and as `approvals.json` have it; `at` is when it was used."""

    at: str
    who: str
    key: str
    abort: str
    statement: str


@dataclass(slots=True)
class Events:
    """What `events.jsonl` says.

    Attributes:
        last: its last event.
        runs: the names of runs in it.
        last_plan: the plan of the last event.
        verification: what the last `verify` has recorded.
        approved: the approvals that were used, in order.
        approved_plans: the plan that the run had when each of them was used.
        rehearsals: what the beginnings of processes say.
        running: how many processes have begun and not ended.
        outcomes: operations by outcome when the last of them ended; None if that is not known.
        witnessed: hashes of events that others have received, and that were not found so far.
        fault: where the chain is broken; nothing behind that is noted.
    """

    last: LastEvent = field(default_factory=LastEvent)
    runs: set[str] = field(default_factory=set)
    last_plan: str = ""
    verification: Verified | None = None
    approved: list[Approved] = field(default_factory=list)
    approved_plans: list[str] = field(default_factory=list)
    rehearsals: set[bool] = field(default_factory=set)
    running: int = 0
    outcomes: Mapping[str, Any] | None = None
    witnessed: set[str] = field(default_factory=set)
    fault: str = ""

    def add(self, line: bytes) -> None:
        """Note what the event of a line says."""
        event = RunEvent.parse(line)
        digest = hashlib.sha256(line).hexdigest()
        self.last, self.last_plan = LastEvent(event.seq, utc(event.at), digest), event.plan
        self.witnessed.discard(digest)
        if len(self.runs) < _MOST_NOTED:
            self.runs.add(event.run)
        data = event.data
        if event.type is EventType.VERIFICATION:
            self.verification = Verified.of(event)
        elif event.type is EventType.STARTED:
            self.rehearsals.add(bool(data.get("rehearsal")))
            self.running, self.outcomes = self.running + 1, None
        elif event.type is EventType.RETRY:
            self.outcomes = None
        elif event.type is EventType.ENDED:
            self.running, outcomes = self.running - 1, data.get("outcomes")
            known = not self.running and isinstance(outcomes, dict)
            self.outcomes = outcomes if known else None
        elif event.type is EventType.FENCED:
            self.running, self.outcomes = self.running - 1, None
        elif event.type is EventType.APPROVAL and len(self.approved) < _MOST_NOTED:
            texts = (str(data.get(name)) for name in Approved._fields[1:])
            self.approved.append(Approved(utc(event.at), *texts))
            self.approved_plans.append(event.plan)


@dataclass(slots=True)
class Facts:
    """What the files of a pack say.

    Attributes:
        witnessed: hashes of events that others have received.
        extra_columns: see `bulkcert.evidence.manifest.Manifest`.
        faults: what is wrong with single files, in sentences without a full stop.
        plan: the plan with what its hash is made from; None without a sound one.
        targets: digest over all lines of `targets.jsonl`; None without that file.
        targets_sum, results_sum: the same for the targets of both files, whatever their order; None
            where a column of the target file can't be told from a field.
        events: see there; None without that file.
        outcomes: operations by outcome; None without results.
        attempts: attempts of all operations.
        verdicts: operations by verdict of `verify.jsonl`; None without that file.
        verification: the digest of that file.
        summary: the object in `summary.json`.
        approvals: what `approvals.json` says of each.
        signed: statement, signature and signers of each approval, by number.
        report: `report.html`.
    """

    witnessed: Collection[str] = ()
    extra_columns: Collection[str] = ()
    faults: list[str] = field(default_factory=list)
    plan: PlanHash | None = None
    targets: str | None = None
    targets_sum: int | None = None
    results_sum: int = 0
    events: Events | None = None
    outcomes: Counter[str] | None = None
    attempts: int = 0
    verdicts: Counter[str] | None = None
    verification: str = ""
    summary: Mapping[str, Any] | None = None
    approvals: list[Approved] | None = None
    signed: dict[int, dict[str, bytes]] = field(default_factory=dict)
    report: bytes | None = None

    def read(self, entry: Entry) -> None:
        """Read a file to its end.

        Raises:
            ArchiveError: the archive is damaged.
        """
        try:
            if reading := _READINGS.get(entry.name):
                reading(self, entry)
            elif entry.name.startswith("approvals/"):
                self._read_approval(entry)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self.faults.append(f"{entry.name} does not have the form in which bulkcert writes it")
        entry.skip()

    def _read_plan(self, entry: Entry) -> None:
        given = _object(entry)
        plan = PlanHash({name: dict(section) for name, section in given["contents"].items()})
        if plan.as_object() != given:
            self.faults.append(f"the hash in {entry.name} is not that of the plan in it")
        self.plan = plan

    def _read_targets(self, entry: Entry) -> None:
        total, extra, ambiguous = 0, frozenset(self.extra_columns), False
        for line in entry.lines():
            fields = orjson.loads(line)
            total += _digest(fields)
            ambiguous = ambiguous or not extra.isdisjoint(fields)
        self.targets, self.targets_sum = entry.sha256, None if ambiguous else total

    def _read_events(self, entry: Entry) -> None:
        self.events = events = Events(witnessed=set(self.witnessed))
        events.fault = chain_fault(_noted(entry.lines(), events))

    def _read_results(self, entry: Entry) -> None:
        extra = frozenset(self.extra_columns)
        outcomes: Counter[str] = Counter()
        self.outcomes = outcomes
        for line in entry.lines():
            result = orjson.loads(line)
            _count(outcomes, result["outcome"])
            self.attempts += int(result["attempts"])
            fields = result["target"].items()
            self.results_sum += _digest({n: v for n, v in fields if n not in extra})

    def _read_verification(self, entry: Entry) -> None:
        verdicts: Counter[str] = Counter()
        self.verdicts = verdicts
        for line in entry.lines():
            _count(verdicts, orjson.loads(line)["verdict"])
        self.verification = entry.sha256

    def _read_summary(self, entry: Entry) -> None:
        self.summary = dict(_object(entry))

    def _read_approvals(self, entry: Entry) -> None:
        self.approvals = [
            Approved(*(str(each[name]) for name in Approved._fields)) for each in _object(entry)
        ]

    def _read_approval(self, entry: Entry) -> None:
        number, dot, kind = entry.name.removeprefix("approvals/").partition(".")
        self.signed.setdefault(int(number), {})[dot + kind] = _whole(entry, _MOST_OF_APPROVAL)

    def _read_report(self, entry: Entry) -> None:
        self.report = _whole(entry)


_READINGS: Mapping[str, Callable[[Facts, Entry], None]] = {
    names.PLAN: Facts._read_plan,
    names.TARGETS: Facts._read_targets,
    names.APPROVALS: Facts._read_approvals,
    names.EVENTS: Facts._read_events,
    names.RESULTS: Facts._read_results,
    names.VERIFICATION: Facts._read_verification,
    names.SUMMARY: Facts._read_summary,
    names.REPORT: Facts._read_report,
}


def _noted(lines: Iterator[bytes], events: Events) -> Iterator[bytes]:
    """Pass lines on, and note what they say."""
    for line in lines:
        yield line
        # reached only if the line is an event that follows from the one before
        events.add(line)


def _digest(target: Any) -> int:
    """A number for a target; the sum of many does not depend on their order."""
    content = orjson.dumps(target, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.sha256(content).digest())


def _count(counts: Counter[str], name: object) -> None:
    counts[str(name)] += 1
    if len(counts) > _MOST_NAMES:
        raise ValueError("has more outcomes or verdicts than there are")


def _object(entry: Entry) -> Any:
    return orjson.loads(_whole(entry))


def _whole(entry: Entry, most: int = _MOST_BYTES) -> bytes:
    if entry.size > most:
        raise ArchiveError(f"{entry.name} has more than {most:,} bytes")
    return entry.content()
