"""What the program needs of a durable store, and nothing more.

A store contains every operation of a run and its state. It changes a state only by compare-and-set,
so that a second writer, or a bug, is noticed instead of overwriting a result. What a transaction
wrote is on disk when the transaction returns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import Happened, RunEvent
from bulkcert.model import (
    Change,
    FieldValue,
    HistoryEntry,
    Material,
    Operation,
    Outcome,
    Slowdown,
    State,
)
from bulkcert.rules.abort import Settled
from bulkcert.rules.check import CheckResult
from bulkcert.rules.gate import Standing
from bulkcert.store.manifest import RunManifest
from bulkcert.store.timeline import Requests, SettledOperations

T = TypeVar("T")
Row = TypeVar("Row", bound=Sequence[Any])

OUTCOMES = {
    State.PLANNED: Outcome.PENDING,
    # a request may have left, and its result is not known
    State.IN_FLIGHT: Outcome.UNKNOWN,
    State.SUCCEEDED: Outcome.SUCCEEDED,
    State.ALREADY_DONE: Outcome.ALREADY_DONE,
    State.FAILED: Outcome.FAILED,
    State.FLAWED: Outcome.FAILED,
    State.UNKNOWN: Outcome.UNKNOWN,
}
"""Each state as the reports show it."""


class Record(NamedTuple):
    """One operation as the reports show it."""

    id: int
    line: int
    fields: dict[str, FieldValue]
    state: State
    attempts: int
    code: int | str | None
    message: str | None
    request_id: str | None
    result: Any
    finished_at: float | None
    extra: Mapping[str, Any] = MappingProxyType({})

    @property
    def target(self) -> dict[str, Any]:
        """The row of the target file: its fields, then its other columns."""
        if not self.extra:
            return self.fields
        return {**self.fields, **{n: v for n, v in self.extra.items() if n not in self.fields}}

    @property
    def outcome(self) -> Outcome:
        """The state as the reports show it."""
        return OUTCOMES[self.state]


@dataclass(slots=True)
class Session:
    """The work of one process on a run. A run that was interrupted has several sessions.

    Attributes:
        started_at, updated_at: Unix time in seconds.
        requests: all requests that were sent.
        throttled: responses that asked us to slow down.
        busiest_second: most requests in any rolling second.
        rate: requests per second, recently.
        note: what is slowing the run down at the moment, for people.
        exit_code: None while the process runs, or if it died.
        retried: how often something was sent again, by the provider's code.
        slowdown: how the provider had slowed the process down at `updated_at`.
        left_s: estimated seconds until the run is over; None if there is no estimate.
        control: the number of the last control that is in force in this process; 0 if none is.
        under_way: open requests when that control came into force.
        open_requests: open requests now.
        reasons: why nothing is sent; empty if something is.
    """

    started_at: float
    updated_at: float
    requests: int = 0
    throttled: int = 0
    busiest_second: int = 0
    rate: float = 0.0
    note: str = ""
    exit_code: int | None = None
    retried: Mapping[str, int] = field(default_factory=dict)
    slowdown: Slowdown | None = None
    left_s: float | None = None
    control: int = 0
    under_way: int = 0
    open_requests: int = 0
    reasons: Sequence[str] = ()


def any_overlap(sessions: Sequence[Session]) -> bool:
    """Whether two processes have worked at the same time."""
    spans = sorted((session.started_at, session.updated_at) for session in sessions)
    return any(after[0] < before[1] for before, after in itertools.pairwise(spans))


class HostState(StrEnum):
    """Whether a host works on the run."""

    LIVE = "live"
    LEFT = "left"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNow:
    """One life of a host: a process that works on the run, or has.

    Attributes:
        lease: the id of its lease; empty if the store is not shared.
        name, pid: where it runs, and as which process.
        address: what it sends from, if its job says so; else empty.
        egress: the way out that it shares with others; empty if it is not named.
        version: of the program.
        has_switch: the kernel ends it at the end of its lease, whatever it does.
        state: whether it works on the run.
        began_at: when it began, as Unix time in seconds by the clock of the store.
        beats: commits in this life; 0 if the store is not shared.
        silent_s: seconds since the last one, by the clock of the store.
        operations: how many operations it has taken, and not settled yet.
        control: number of the last control that is in force there; 0 for none.
        ended_at: when it ended or was fenced; None if it is not known to have.
        ending: how it ended, in words; empty if it is not known to have.
        session: its figures; None if it has noted none yet.
    """

    lease: str = ""
    name: str
    pid: int
    address: str = ""
    egress: str = ""
    version: str = ""
    has_switch: bool = False
    state: HostState
    began_at: float
    beats: int = 0
    silent_s: float = 0.0
    operations: int = 0
    control: int = 0
    ended_at: float | None = None
    ending: str = ""
    session: Session | None = None

    @property
    def is_live(self) -> bool:
        """Whether it works on the run, as far as the store knows."""
        return self.state is HostState.LIVE

    def works(self, patience_s: float) -> bool:
        """Whether it works on the run: live, and not silent for so long that it would be fenced if
        somebody else were there."""
        return self.is_live and self.silent_s < patience_s

    @property
    def rate(self) -> float:
        """Requests per second, recently; 0 if it does not work any more."""
        return self.session.rate if self.session and self.is_live else 0.0

    @property
    def open_requests(self) -> int:
        """Open requests; 0 if it does not work any more."""
        return self.session.open_requests if self.session and self.is_live else 0

    @property
    def requests(self) -> int:
        """All requests that it has sent."""
        return self.session.requests if self.session else 0


def is_shared(hosts: Iterable[HostNow]) -> bool:
    """Whether these are the hosts of a run in a shared store."""
    return any(host.lease for host in hosts)


class WaveOfRun(NamedTuple):
    """One wave as the store has it.

    Attributes:
        number: from 0.
        name: as written in the job, see `bulkcert.rules.rollout.Wave`.
        targets: number of targets when it was planned.
    """

    number: int
    name: str
    targets: int


class Abort(NamedTuple):
    """A rule that has stopped the run.

    Attributes:
        id: what people call it; can't be guessed, so that nobody overrides it in advance.
        at: when, as Unix time in seconds.
        rule: `failed`, `unknown`, `canary`, `check`, `MAX_OPERATIONS`, or a code of the provider.
        text: what happened, in a sentence without a full stop.
        overridden_at: when somebody decided to go on; None if nobody has.
        who, why: who that was, and the reason that was given.
    """

    id: str
    at: float
    rule: str
    text: str
    overridden_at: float | None = None
    who: str | None = None
    why: str | None = None


class StoredApproval(NamedTuple):
    """An approval with which a run was begun, or went on after an abort.

    Attributes:
        at: when it was used, as Unix time in seconds.
        abort: the id of the abort; empty for the plan.
        who: the name in the signers file.
        key: the fingerprint of the key.
        expires_at: until when it counts, as Unix time in seconds.
        statement, signature: the content of the two files.
        signers: the content of the signers file by which it was judged.
    """

    at: float
    abort: str
    who: str
    key: str
    expires_at: float
    statement: bytes
    signature: bytes
    signers: bytes


def within_cap(rows: Sequence[Row], left: int) -> list[Row]:
    """The operations that may be claimed under a cap, in order, up to the first that may not.

    Args:
        rows: operations as a store reads them. The last column says whether one was claimed before:
            then it counts already.
        left: how many others may still be claimed; negative if an amendment has lowered the cap.
    """
    allowed = []
    for row in rows:
        if not row[-1]:
            if left <= 0:
                break
            left -= 1
        allowed.append(row)
    return allowed


def pending_abort(aborts: Sequence[Abort]) -> Abort | None:
    """Return the abort that keeps the run stopped; None if there is none."""
    return aborts[-1] if aborts and aborts[-1].overridden_at is None else None


class Host(NamedTuple):
    """A process that works on a run in a shared store, from one registration to the next.

    Attributes:
        name: of the machine.
        pid: of the process.
        address: what it sends from, if the job says so.
        egress: the way out of its network, which it may share with other hosts.
        version: of this program.
        has_switch: the kernel kills it at the end of its lease.
        ordered: nothing between it and the provider may keep requests back, such as a proxy.
    """

    name: str
    pid: int
    address: str
    egress: str
    version: str
    has_switch: bool
    ordered: bool


class Seen(NamedTuple):
    """A live lease of another host, as it was a moment ago.

    Attributes:
        id: the lease.
        host, pid: the name of the machine, and the process.
        beats: number of its commits.
    """

    id: UUID
    host: str
    pid: int
    beats: int


class Store(Protocol):
    """The store during a run. Its methods block, and are called by one thread at a time.

    Attributes:
        shared: other hosts may work on the run at the same time. Then whatever a transaction
            decides by, it has read itself.
    """

    @property
    def shared(self) -> bool: ...

    def commit(self, work: Callable[[], T]) -> T:
        """Call a function in a transaction; what it writes is durable when this returns.

        Where the connection may be lost, the function may be called again: then nothing of what it
        did before is durable, and it must not build on what it remembers of that.

        Returns:
            What the function returns.

        Raises:
            LeaseLostError: other hosts have taken over what this one was working on.
            CommitsLostError: the store has forgotten what it had confirmed.
            StoreError: the store can't be written.
        """

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context whose writes are durable when it exits, all of them or none.

        There is one attempt. A host that works on a run uses `commit`.
        """

    def now(self) -> float:
        """The clock by which the rules go, as Unix time: the same for all hosts."""

    def lock_rules(self) -> None:
        """Let no other host judge or claim by the rules until the transaction ends."""

    def claim(
        self,
        most: int,
        lookup_first: Collection[int] = (),
        *,
        wave: int | None = None,
        most_begun: int | None = None,
    ) -> list[Operation]:
        """Take the next operations in target order that this session has not taken yet.

        Planned ones become in flight, their attempt counted, unless they are at a step in
        `lookup_first`: those stay planned until their attempt is intended. Those that an earlier
        session left in flight are handed out as they are, `in_doubt`.

        Args:
            most: maximum number of operations.
            lookup_first: the steps that begin with a look-up.
            wave: only from the wave of this number; None if the run has no waves.
            most_begun: how many distinct operations may ever have been claimed; the number so far
                is in `standing`. None for no limit, and then nothing is counted.
        """

    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""

    def end_of_wave(self, wave: int | None) -> float | None:
        """When the last operation of a wave was settled, as Unix time; None if some are not.

        Args:
            wave: its number; None for all operations of the run.
        """

    def others_work(self) -> bool:
        """Whether other hosts work on operations, whatever their wave."""

    def counts_of_wave(self, wave: int | None) -> dict[State, int]:
        """Number of operations of a wave by state, without the states that none is in.

        Args:
            wave: its number; None for all operations of the run.
        """

    def standing(self) -> Standing:
        """Where the campaign stands."""

    def set_standing(self, standing: Standing) -> None:
        """Store where the campaign stands."""

    def check_result(self) -> CheckResult | None:
        """What the outside check has said last, whichever host ran it; None if it has not yet.

        A store that is not shared forgets it with the process.
        """

    def set_check_result(self, result: CheckResult) -> None:
        """Store what the outside check, which this host runs for all, has said."""

    def be_steward(self) -> bool:
        """Whether this host runs the outside commands for all.

        It becomes the one that does if no live host is.
        """

    def resign(self) -> None:
        """Let another host run the outside commands, if this one does."""

    def add_settled(self, settled: Sequence[tuple[int, Settled]]) -> Iterable[Settled]:
        """Append settled operations, by id, that the rules about failures are to judge.

        Returns:
            All that this process has not judged yet, in order: these, and those of other hosts.
        """

    def settled(self, most: int | None) -> Iterable[Settled]:
        """The last settled operations since the last override, in order, one at a time.

        Args:
            most: how many; None for all.
        """

    def aborts(self) -> list[Abort]:
        """What has stopped the run, in order. The last one is pending unless it is overridden."""

    def add_abort(self, abort: Abort) -> None:
        """Store that a rule has stopped the run."""

    def override_abort(
        self, abort_id: str, at: float, who: str, why: str, *, forget: bool = True
    ) -> None:
        """Store that somebody decided to go on.

        Args:
            abort_id: which abort that is about.
            at: when, as Unix time in seconds.
            who, why: who that was, and the reason.
            forget: what was settled before does not count any more.
        """

    def controls(self, after: int = 0) -> list[ControlEntry]:
        """What people asked of the run, in order, after the entry with this number."""

    def add_control(self, at: float, who: str, why: str, verb: Verb, value: str = "") -> int:
        """Append what somebody asks of the run; return its number."""

    def policy_version(self) -> int:
        """Grows with each control and each abort. A host that has not heard of the last one sends
        nothing; see `bulkcert.rules.gate.Gate`."""

    def add_event(self, happened: Happened) -> RunEvent:
        """Append to the event log; return the event."""

    def events(self, after: int = 0, most: int | None = None) -> list[RunEvent]:
        """The event log, in order, after the event with this number; at most so many of them."""

    def notified(self) -> int:
        """The number of the last event that `[notify]` need not be given any more; 0 for none."""

    def set_notified(self, seq: int) -> None:
        """Store that number, unless a higher one is stored."""

    def notifies(self, lease: UUID | None) -> bool:
        """Whether a process gives the events to the command of `[notify]`: only the steward does.

        A process that does not work on the run does so if no live host is the steward.

        Args:
            lease: that of the process; None if it has none.
        """

    def add_approval(self, approval: StoredApproval) -> None:
        """Keep an approval."""

    def record(self, changes: Sequence[Change]) -> None:
        """Apply the changes in order. Raises `StoreError` if one finds another state."""

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Keep what happened to operations, in this order."""

    def update_manifest(self, manifest: RunManifest) -> None:
        """Replace what is stored about the run."""

    def keep_hosts_away(self) -> str:
        """Let no host begin to work on the run until the transaction ends; return the name of one
        that does already, or nothing."""

    def count_begun(self) -> None:
        """Count in `standing` what was claimed before the run had a cap."""

    def note_session(self, session: Session) -> None:
        """Store the figures of this process, replacing earlier ones of the same process."""

    def retry_failed(self) -> int:
        """Put failed operations back to planned, flawed and unknown ones back in flight; return how
        many.

        Their attempts start at 0 again, which becomes part of their history and of the event log.
        In a run with waves they become one more wave at the end.
        """

    def close(self) -> None:
        """Close the store."""


_WITH_DIGIT = re.compile(r"\b[^\W\d]*+\d[\w.:/-]*")


@lru_cache(maxsize=1000)
def kind_of(message: str) -> str:
    """A message without what differs from device to device: a "…" for every word with a digit."""
    return _WITH_DIGIT.sub("…", message)


class StoreReader(Protocol):
    """The store as the reports see it, during a run or after it."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Return a context in which all reads see the same moment."""

    def manifest(self) -> RunManifest:
        """What the run is about, as stored when it was planned."""

    def counts(self) -> dict[State, int]:
        """Number of operations by state, without the states that no operation is in."""

    def is_begun(self) -> bool:
        """Whether a request that changes something may have left, or there are no operations.

        Faster than `counts`, as is `is_over`: a process that goes on with a run asks both before it
        sends anything.
        """

    def is_over(self) -> bool:
        """Whether no operation is left to do."""

    def attempts(self) -> int:
        """Number of attempts of all operations."""

    def sessions(self) -> list[Session]:
        """The sessions of all processes, in the order in which they began, whatever their clocks
        said."""

    def hosts(self) -> list[HostNow]:
        """The lives of all hosts, in the order in which they began."""

    def under_way(self) -> frozenset[int]:
        """The ids of the operations that are in flight, and that a live host is working on.

        None in a store that is not shared: nobody works on a run whose process has ended.
        """

    def busiest_second(self) -> int:
        """Most requests that left in any rolling second, of all hosts together.

        Of the hosts whose lives overlap, all departures count that the history has: attempts and
        look-ups, but of several pages only the first, and no calls for tokens.
        """

    def reasons(self, most: int) -> list[tuple[int, int | str | None, str]]:
        """Why operations failed or are unknown: (count, code, message), most frequent first.

        Messages that differ only in what `kind_of` takes out are one reason, shown without it.

        Args:
            most: maximum number of reasons.
        """

    def kinds_of_reasons(self) -> int:
        """How many different reasons there are."""

    def remarks(self) -> dict[str, int]:
        """Number of operations by remark: the names in `result["remarks"]`."""

    def still_valid(self, device: Sequence[str], serial: str) -> int:
        """Number of devices that can still connect, as far as their look-ups have shown.

        A look-up names the other valid certificates of the device in `result["other_valid"]`. Those
        that the run has revoked since don't count.

        Args:
            device: the fields that name a device.
            serial: the field that names a certificate.
        """

    def records(
        self, states: Iterable[State] | None = None, containing: Sequence[str] = ()
    ) -> Iterator[Record]:
        """Stream the operations in target order.

        Args:
            states: only operations in these states; None for all.
            containing: leave operations out whose targets, as JSON, contain none of these texts;
                for speed. Empty for no such condition.
        """

    def fields_and_states(self) -> Iterator[tuple[dict[str, FieldValue], State]]:
        """Stream the fields and the state of each operation, in any order: as fast as can be."""

    def history(self, operation_ids: Sequence[int]) -> list[HistoryEntry]:
        """What happened to these operations, in the order in which it became durable."""

    def whole_history(self) -> Iterator[tuple[int, HistoryEntry]]:
        """Stream what happened to all operations, likewise, each with the line of its target."""

    def material(self, operation_ids: Sequence[int]) -> list[Material]:
        """The keys, signing requests and certificates of operations, each in the order of attempts.

        Only a shared store keeps any.
        """

    def planned_fields(self) -> Iterator[bytes]:
        """Stream the fields of each operation as lines of JSON, in the order in which they run.

        Their digest is that in the plan, unless the run adds operations.
        """

    def fingerprints(self) -> Iterator[bytes]:
        """The fingerprint of each operation, in ascending order; see `bulkcert.fingerprints`."""

    def busy_buckets(self, bucket_s: int) -> Iterator[int]:
        """The buckets in which a request left or an operation was settled, in order.

        Args:
            bucket_s: the length of a bucket in seconds, see `bulkcert.store.timeline`.
        """

    def requests_by_time(self, bucket_s: int) -> Iterator[Requests]:
        """The requests that left, by bucket, in order: of a look-up of several pages, the first."""

    def busiest_seconds(self, bucket_s: int) -> Iterator[tuple[int, int]]:
        """Each bucket in which requests left, in order, and the most that left in any second of it.

        Seconds are those of the clock; a rolling second may contain more.
        """

    def settled_by_time(self, bucket_s: int) -> Iterator[SettledOperations]:
        """The operations that are settled, by bucket, in order; each of them once."""

    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""

    def counts_by_wave(self) -> dict[int, dict[State, int]]:
        """Number of operations by wave and state."""

    def standing(self) -> Standing:
        """Where the campaign stands."""

    def aborts(self) -> list[Abort]:
        """What has stopped the run, in order. The last one is pending unless it is overridden."""

    def controls(self, after: int = 0) -> list[ControlEntry]:
        """What people asked of the run, in order, after the entry with this number."""

    def events(self, after: int = 0) -> list[RunEvent]:
        """The event log, in order, after the event with this number."""

    def approvals(self) -> list[StoredApproval]:
        """The approvals with which the run was begun, or went on, in order."""

    def copy_to(self, path: Path) -> None:
        """Copy the run to a new checkpoint, while others work on it: what it is about, its
        operations, and what people have asked of it.

        Of a shared store it is not the copy of one moment: each operation is as it was when it was
        read.

        Raises:
            RunDirectoryError: the store can't be read, or the file can't be written.
        """

    def close(self) -> None:
        """Close the store."""
