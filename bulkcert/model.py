"""The nouns of the program; no behaviour, no input or output.

A *target* is one row of the target file. An *operation* is one action on one certificate of one
target. It consists of one or more *steps*. An *attempt* is one request sent for an operation; a
*look-up* is a request that only reads. The *outcome* is how the operation ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

# The enumerations below are looked up several times for each operation. `Enum` computes a hash in
# Python, from the name; what their members inherit from `str` or `object` serves as well.

FieldValue = str | int
"""A checked value of a target or parameter field, as it is sent to the provider."""

Fields = Mapping[str, FieldValue]

PROTECTED = "PROTECTED"
"""The code of an operation that was not carried out because its target must not be touched."""


class Target(NamedTuple):
    """One good row of the target file.

    Attributes:
        line: its line; 1 is the first line of the file.
        fields: its checked fields.
        extra: its other columns, which the job does not use, as they are; for the reports.
    """

    line: int
    fields: dict[str, FieldValue]
    extra: Mapping[str, Any] = MappingProxyType({})


class Rejection(NamedTuple):
    """One bad or repeated row. `field` is empty when the row as a whole is at fault."""

    line: int
    field: str
    reason: str

    @property
    def fault(self) -> str:
        """What is wrong, as a phrase, such as "DeviceSn is empty"."""
        return f"{self.field} {self.reason}".strip()

    def as_object(self) -> dict[str, Any]:
        """Return the JSON object that stands for it."""
        return {"line": self.line, "field": self.field or None, "reason": self.reason}


class State(StrEnum):
    """Where an operation stands in the store.

    `IN_FLIGHT` means that a request may have left: after a crash these operations are in doubt.
    `FLAWED` was executed, but the result is not what was asked for; the reports call it failed.
    """

    __hash__ = str.__hash__

    PLANNED = "planned"
    IN_FLIGHT = "in_flight"
    SUCCEEDED = "succeeded"
    ALREADY_DONE = "already_done"
    FAILED = "failed"
    FLAWED = "flawed"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """How an operation ended, in the words of the reports."""

    __hash__ = str.__hash__

    SUCCEEDED = "succeeded"
    ALREADY_DONE = "already_done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    PENDING = "pending"


class StepRules(NamedTuple):
    """What the life cycle must know about a step of an action.

    Attributes:
        changes: it changes certificates, so its attempts can be in doubt.
        idempotent: executing it twice does no harm, so it may be repeated while in doubt.
        needs_lookup: it begins with a look-up, even though nothing is in doubt. No attempt is sent
            before one has shown the state that the attempt builds on.
    """

    changes: bool
    idempotent: bool = False
    needs_lookup: bool = False


class AttemptKind(Enum):
    """What an attempt did. A closed set: `bulkcert.lifecycle` handles every member."""

    __hash__ = object.__hash__

    DONE = "executed, as asked"
    FLAWED = "executed, but the result is not what was asked for"
    REFUSED = "not executed, and never will be"
    DISPUTED = "refused, but the wanted state may already hold: look before calling it a failure"
    IN_DOUBT = "may have been executed"
    NOT_SENT = "never reached the provider"
    THROTTLED = "turned away for now, not executed"


class LookupKind(Enum):
    """What a look-up showed. A closed set: `bulkcert.lifecycle` handles every member."""

    __hash__ = object.__hash__

    HOLDS = "the wanted state holds"
    ABSENT = "the wanted state does not hold"
    UNCLEAR = "the provider answered, but the answer does not settle it"
    NOT_YET = "what the step builds on can't be seen yet"
    SELECTED = "`selected` lists the certificates to act on, at least one"
    NOTHING_LEFT = "there is nothing left to do"
    REFUSED = "there is nothing to act on"
    FLAWED = "the wanted state holds, but the result is not what was asked for"
    FAILED = "the look-up itself failed"
    NOT_SENT = "never reached the provider"
    THROTTLED = "turned away for now"


class MaterialKind(StrEnum):
    """What material is."""

    KEY = "key"
    CSR = "csr"
    CERTIFICATE = "certificate"
    CHAIN = "chain"


class Material(NamedTuple):
    """A key, a signing request or a certificate, which a shared store keeps for all hosts.

    Attributes:
        operation_id: which operation it belongs to.
        attempt: the attempt that it was made for, or that led to it.
        kind: what it is.
        name: what its file is called, without an extension; see `bulkcert.keys.file_name`.
        content: a private key sealed for the operator (see `bulkcert.envelope`); all else in PEM.
    """

    operation_id: int
    attempt: int
    kind: MaterialKind
    name: str
    content: bytes


class AttemptResult(NamedTuple):
    """What became known about one attempt.

    Attributes:
        kind: what it means for the operation.
        code: the provider's code, or the HTTP status if there was none, or None.
        message: the provider's text, or what went wrong on the way.
        request_id: the provider's id of the request, for its support.
        result: what the step yields: for the report, or for the next step.
        next_page: if done: the fields of a further operation on the same target, such as the
            next page of a list.
        counts: it uses up one of the attempts of its step; not if the provider asked to wait.
        account_wide: refused for a reason that may concern every request of the account, not only
            this one.
        material: certificates that become durable together with the outcome.
    """

    kind: AttemptKind
    code: int | str | None = None
    message: str = ""
    request_id: str | None = None
    result: Any = None
    next_page: dict[str, FieldValue] | None = None
    counts: bool = True
    account_wide: bool = False
    material: Sequence[Material] = ()


class LookupResult(NamedTuple):
    """What one look-up showed.

    Attributes:
        kind: what it means for the operation.
        code, message, request_id: see `AttemptResult`.
        result: what the step yields, see `AttemptResult`; if absent: the step's data from now on,
            which are durable before the attempt that builds on them leaves; None keeps them.
        selected: the fields of each certificate to act on, if that is what was looked up.
        account_wide: see `AttemptResult`.
        material: the same; if absent: the key and the signing request of the attempts that follow,
            which are durable before one of them leaves.
    """

    kind: LookupKind
    code: int | str | None = None
    message: str = ""
    request_id: str | None = None
    result: Any = None
    selected: Sequence[dict[str, FieldValue]] = ()
    account_wide: bool = False
    material: Sequence[Material] = ()


def code_and_text(code: int | str | None, message: str) -> str:
    """What a result says, for people: its code and its text; empty if it has neither."""
    return " ".join(str(part) for part in (code, message) if part not in (None, ""))


class Operation(NamedTuple):
    """One action on one certificate, while this process works on it. Immutable.

    Attributes:
        id: position in target order, from 1.
        line: line number of its target.
        fields: the target's own checked fields, without the parameters of the job.
        state: its state in the store, including changes that were recorded but not yet written.
        step: index of the current step.
        step_data: result of the step before, or what a look-up of the current step recorded for
            its attempts; None if there is neither.
        attempts: attempts so far, including one about to leave; throttled requests and requests
            that never left don't count.
        attempts_before_step: how many of them belong to earlier steps, or to an earlier process
            that left the operation in doubt.
        in_doubt: an attempt of the current step may have been executed and is not yet settled.
        done: the attempt that succeeded, while an earlier one is still in doubt.
        failed_lookups: look-ups that failed in a row.
        negative_lookups: look-ups since the last attempt that did not find what they looked for.
        not_sent_in_a_row: times in a row that a request could not be sent.
        sent_at: if an earlier process left it in doubt: when that process intended its last
            attempt; Unix time in seconds, by the provider's clock where known. None as soon as this
            process intends one of its own.
        last_error: the last attempt of the current step that did not succeed.
        late: an attempt that another host has left may still arrive at any time, whoever waits for
            however long.
        csr: the signing request of all its attempts, in PEM, if the store keeps it.
        material: what becomes durable with the next change.
    """

    id: int
    line: int
    fields: dict[str, FieldValue]
    state: State = State.IN_FLIGHT
    step: int = 0
    step_data: Any = None
    attempts: int = 0
    attempts_before_step: int = 0
    in_doubt: bool = False
    done: AttemptResult | None = None
    failed_lookups: int = 0
    negative_lookups: int = 0
    not_sent_in_a_row: int = 0
    sent_at: float | None = None
    last_error: AttemptResult | None = None
    late: bool = False
    csr: str | None = None
    material: Sequence[Material] = ()


class HistoryEvent(StrEnum):
    """What can happen to an operation."""

    __hash__ = str.__hash__

    ATTEMPT = "attempt"
    LOOK_UP = "look_up"
    TAKEN_OVER = "taken_over"
    RETRIED = "retried"


class HistoryEntry(NamedTuple):
    """One thing that happened to one operation, for its history. Nothing is decided by it.

    Attributes:
        operation_id: which operation.
        event: what happened: an attempt or a look-up ended; the operation was taken over, in doubt,
            from an earlier process; or it was put back to work although it had failed.
        attempt: number of attempts so far, including this one.
        sent_at: when the request left, or when the earlier process intended its attempt; Unix time
            in seconds. None if nothing left.
        ended_at: when its result was known, or when it happened; likewise.
        source: IP address of this machine that the request left from; empty if nothing left.
        result: name of the `AttemptKind` or `LookupKind`, in lower case; empty for other events.
        code, message, request_id: see `AttemptResult`.
    """

    operation_id: int
    event: HistoryEvent
    attempt: int
    sent_at: float | None
    ended_at: float
    source: str = ""
    result: str = ""
    code: int | str | None = None
    message: str = ""
    request_id: str | None = None


class Change(NamedTuple):
    """One change of one operation, applied only if the operation is still in state `expected`.

    Attributes:
        operation_id: which operation.
        expected: the state that it must be in.
        state: its new state.
        attempts: attempts so far; if the new state is in flight, including the one about to leave.
        step, step_data: see `Operation`.
        code, message, request_id, result: see `AttemptResult`; of the latest response.
        finished_at: Unix time in seconds, for final states.
        fan_out: fields of the operations that this one turns into: it becomes the first of them,
            the others are added as planned, all at the step of this change.
        next_page: fields of one more operation on the same target, added as planned.
        line, fields: see `Operation`; for whoever hears of the change, not for the store.
        material: what a shared store keeps from then on.
    """

    operation_id: int
    expected: State
    state: State
    attempts: int
    step: int = 0
    step_data: Any = None
    code: int | str | None = None
    message: str | None = None
    request_id: str | None = None
    result: Any = None
    finished_at: float | None = None
    fan_out: Sequence[dict[str, FieldValue]] = ()
    next_page: dict[str, FieldValue] | None = None
    line: int = 0
    fields: Fields = MappingProxyType({})
    material: Sequence[Material] = ()


class Slowdown(NamedTuple):
    """How a provider has slowed a run down.

    Attributes:
        pause_s: seconds until the pause ends; negative if it has ended that long ago.
        share: share of the full rate that is used at the end of the pause; it climbs from there.
    """

    pause_s: float
    share: float
