"""The summary of a run: its counts, its figures and its exit code.

In: the store. Out: a `Summary`, which is the content of `summary.json`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bulkcert.errors import PluginError
from bulkcert.json_lines import as_json, utc
from bulkcert.model import PROTECTED, Outcome, State
from bulkcert.providers import installed_provider
from bulkcert.providers.advice import Advice, advise
from bulkcert.providers.base import Provider
from bulkcert.store.base import Session, StoreReader, is_shared, pending_abort

_STATES = {
    Outcome.SUCCEEDED: [State.SUCCEEDED],
    Outcome.ALREADY_DONE: [State.ALREADY_DONE],
    Outcome.FAILED: [State.FAILED, State.FLAWED],
    Outcome.UNKNOWN: [State.UNKNOWN, State.IN_FLIGHT],
    Outcome.PENDING: [State.PLANNED],
}

_STILL_VALID = "other_valid"
"""The remark about an operation whose device has another valid certificate. By the end the run may
have revoked that one too, so what counts is which devices still have one."""

MOST_ERRORS = 20
"""How many kinds of errors the summary has, the most frequent first; the rest is only counted."""

RESUMABLE = 3
"""Exit code of a run that is not finished."""

STOPPED_BY_RULES = 4
"""Exit code of a run that has stopped itself, until somebody decides to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """One kind of error among the failed and unknown operations.

    Attributes:
        count: number of operations.
        code, message: as in the results.
        advice: what to do about it; empty if there is no advice.
    """

    count: int
    code: int | str | None
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something worth knowing about operations that succeeded.

    Attributes:
        count: number of operations.
        name: as in `result["remarks"]`.
        meaning: what it means, as a phrase.
    """

    count: int
    name: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The counts and figures of a run. The attributes are those of `summary.json`, in its order.

    Attributes:
        name: the job's name.
        provider, action: by name.
        endpoint: base URL of the API.
        rehearsal: it was a rehearsal; nothing was sent to the endpoint.
        plan: hash of the plan that it carried out.
        total: number of operations; the five outcomes add up to it.
        succeeded, already_done, failed, unknown, pending: number of operations by outcome. An
            operation in flight counts as unknown.
        left_out: rows of the target file that were left out on request.
        protected: those of them that must not be touched; the others are bad.
        attempts: attempts of all operations.
        requests: all requests that were sent, including look-ups and token calls.
        throttled: responses that asked us to slow down.
        retried: how often something was sent again, by the provider's code: look-ups included, and
            also where everything succeeded in the end.
        started_at, finished_at: RFC 3339 in UTC; None if no process has worked on the run yet.
        elapsed_seconds: time that at least one process worked on the run, without interruptions.
        requests_per_second: mean over `elapsed_seconds`.
        busiest_second: most requests in any rolling second, by time of departure, of all hosts
            together; see `bulkcert.store.base.StoreReader.busiest_second`.
        ceiling: most requests that were allowed in any rolling second.
        errors: why operations failed or are unknown, the most frequent first, at most
            `MOST_ERRORS`.
        error_kinds: how many kinds of errors there are in all.
        remarks: what is worth knowing about operations that succeeded.
        exit_code: 0 all good; 1 finished, with failures or with rows left out; 3 not finished; 4
            stopped by its own rules.
    """

    name: str
    provider: str
    action: str
    endpoint: str
    rehearsal: bool
    plan: str
    total: int
    succeeded: int
    already_done: int
    failed: int
    unknown: int
    pending: int
    left_out: int
    protected: int
    attempts: int
    requests: int
    throttled: int
    retried: Mapping[str, int]
    started_at: str | None
    finished_at: str | None
    elapsed_seconds: float
    requests_per_second: float
    busiest_second: int
    ceiling: float
    errors: Sequence[ErrorKind]
    error_kinds: int
    remarks: Sequence[Remark]
    exit_code: int

    def __repr__(self) -> str:
        counts = [f"{count:,} {outcome}" for outcome, count in self.outcomes.items() if count]
        return (
            f"<Summary of {self.name!r}: {', '.join(counts) or 'no operations'}; exit code"
            f" {self.exit_code}; {self.requests:,} requests in {self.elapsed_seconds:g} s>"
        )

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Number of operations by outcome, including outcomes that no operation has."""
        return {outcome: getattr(self, outcome) for outcome in Outcome}

    def as_object(self) -> dict[str, Any]:
        """Return the JSON object of `summary.json`."""
        return dataclasses.asdict(self)

    def as_json(self) -> bytes:
        """Return the content of `summary.json`."""
        return as_json(self.as_object(), indent=True) + b"\n"


def summarize(reader: StoreReader, *, briefly: bool = False) -> Summary:
    """Count what the store contains.

    Args:
        reader: the store.
        briefly: without what takes long in a large run: attempts, errors and remarks; and the
            busiest second is that of a host alone.
    """
    counts = reader.counts()
    outcomes: dict[str, Any] = {str(name): many for name, many in outcome_counts(counts).items()}
    manifest = reader.manifest()
    provider = _provider(manifest.provider)
    return Summary(
        name=manifest.name,
        provider=manifest.provider,
        action=manifest.action,
        endpoint=manifest.connection.endpoint,
        rehearsal=manifest.rehearsal,
        plan=manifest.plan.hash,
        total=sum(counts.values()),
        **outcomes,
        left_out=manifest.left_out,
        protected=manifest.protected,
        attempts=0 if briefly else reader.attempts(),
        **figures_of(
            reader.sessions(),
            shared=is_shared(reader.hosts()),
            busiest_second=0 if briefly else reader.busiest_second(),
        ),
        ceiling=manifest.ceiling,
        errors=[] if briefly else _errors(reader, provider),
        error_kinds=0 if briefly else reader.kinds_of_reasons(),
        remarks=[] if briefly else _remarks(reader, provider, manifest.action),
        exit_code=STOPPED_BY_RULES
        if pending_abort(reader.aborts())
        else exit_code(counts, manifest.left_out),
    )


def figures_of(
    sessions: Sequence[Session], *, shared: bool = False, busiest_second: int = 0
) -> dict[str, Any]:
    """The figures of a summary that come from the processes, and not from the operations.

    Args:
        sessions: the figures of each process.
        shared: several may have worked at the same time, and all times are by one clock.
        busiest_second: most requests in any rolling second, of all processes together; it may have
            been counted a while ago.
    """
    requests = sum(session.requests for session in sessions)
    elapsed_s = sum(_worked_s(sessions) if shared else map(_length_s, sessions))
    last_s = max((each.updated_at for each in (sessions if shared else sessions[-1:])), default=0.0)
    busiest = [busiest_second, *(session.busiest_second for session in sessions)]
    return {
        "requests": requests,
        "throttled": sum(session.throttled for session in sessions),
        "retried": _retried(sessions),
        "started_at": utc(sessions[0].started_at) if sessions else None,
        "finished_at": utc(last_s) if sessions else None,
        "elapsed_seconds": round(elapsed_s, 3),
        "requests_per_second": round(requests / elapsed_s, 1) if elapsed_s else 0.0,
        "busiest_second": max(busiest),
    }


def _length_s(session: Session) -> float:
    return session.updated_at - session.started_at


def _worked_s(sessions: Iterable[Session]) -> Iterator[float]:
    """The stretches in which at least one process has worked."""
    until = float("-inf")
    for began, ended in sorted((session.started_at, session.updated_at) for session in sessions):
        yield max(0.0, ended - max(began, until))
        until = max(until, ended)


def _retried(sessions: Iterable[Session]) -> dict[str, int]:
    """The sums over all sessions, the most frequent first."""
    total: Counter[str] = Counter()
    for session in sessions:
        total.update(session.retried)
    return dict(total.most_common())


_ABOUT_PROTECTED = Advice(
    PROTECTED,
    "It is on a never-touch list, and nothing was sent for it since. If its owner agrees, take it"
    " off the list first.",
)


def _errors(reader: StoreReader, provider: Provider | None) -> list[ErrorKind]:
    table = (_ABOUT_PROTECTED, *(provider.advice if provider else ()))
    return [
        ErrorKind(count=count, code=code, message=message, advice=advise(table, code, message))
        for count, code, message in reader.reasons(MOST_ERRORS)
    ]


def _remarks(reader: StoreReader, provider: Provider | None, action: str) -> list[Remark]:
    if provider is None or not provider.actions[action].changes:
        return []  # what only reads has no remarks, but results that take long to search
    counts = reader.remarks()
    if _STILL_VALID in counts:
        device = [field.name for way in provider.actions[action].identifiers for field in way]
        counts[_STILL_VALID] = reader.still_valid(device, provider.actions[action].selects)
    return [
        Remark(count=count, name=name, meaning=provider.remarks.get(name, name))
        for name, count in counts.items()
        if count
    ]


def _provider(name: str) -> Provider | None:
    """The provider of a run; None if it is not installed, which must not prevent a summary."""
    try:
        return installed_provider(name)
    except PluginError:
        return None


def outcome_counts(counts: Mapping[State, int]) -> dict[Outcome, int]:
    """Turn counts by state into counts by outcome, including outcomes that no operation has."""
    return {
        outcome: sum(counts.get(state, 0) for state in states)
        for outcome, states in _STATES.items()
    }


def states_of(outcomes: Iterable[Outcome]) -> list[State]:
    """The states that the reports show as these outcomes."""
    return [state for outcome in outcomes for state in _STATES[outcome]]


def exit_code(counts: Mapping[State, int], left_out: int = 0) -> int:
    """The exit code of a run: 0 all good, 1 finished with failures, 3 not finished.

    Args:
        counts: number of operations by state.
        left_out: number of rows that were left out, which is not all good.
    """
    if counts.get(State.PLANNED) or counts.get(State.IN_FLIGHT):
        return RESUMABLE
    bad = (State.FAILED, State.FLAWED, State.UNKNOWN)
    return 1 if left_out or any(counts.get(state) for state in bad) else 0


def is_finished(counts: Mapping[State, int]) -> bool:
    """Whether no operation is left to do."""
    return exit_code(counts) != RESUMABLE
