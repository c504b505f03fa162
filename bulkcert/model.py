"""The nouns of the program; no behaviour, no input or output.

A *target* is one row of the target file. An *operation* is one action on one certificate of one
target. An *attempt* is one request sent for an operation, an *answer* is what came of it, and the
*outcome* is how the operation ended. The words are those of the job file and of the reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, NamedTuple

FieldValue = str | int
"""A checked value of a target or parameter field, as it goes to the provider."""

Fields = Mapping[str, FieldValue]


class Target(NamedTuple):
    """One good row of the target file: its line (1 is the first line) and its checked fields."""

    line: int
    fields: dict[str, FieldValue]


class Rejection(NamedTuple):
    """One bad row, or a repeated one. `field` is empty when the row as a whole is at fault."""

    line: int
    field: str
    reason: str


class State(StrEnum):
    """Where an operation stands in the checkpoint.

    `IN_FLIGHT` means that a request may have left: after a crash these are the operations in doubt.
    """

    PLANNED = "planned"
    IN_FLIGHT = "in_flight"
    SUCCEEDED = "succeeded"
    ALREADY_DONE = "already_done"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """How an operation ended, as the reports say it."""

    SUCCEEDED = "succeeded"
    ALREADY_DONE = "already_done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    PENDING = "pending"


class AnswerKind(Enum):
    """What an answer, or the lack of one, means for the operation."""

    DONE = "executed now"
    REFUSED = "not executed, and never will be"
    DISPUTED = "refused, but the wanted state may hold already: look before calling it a failure"
    IN_DOUBT = "may have been executed"
    NOT_SENT = "certainly did not reach the provider"
    THROTTLED = "turned away for now, not executed"
    UNUSABLE = "nothing will work for anyone: stop the run"
    FLAWED = "executed, but what came of it is not what was asked for"
    STEP = "one step of several is done; `result` is what the next one needs"
    # answers of a look-up only
    HOLDS = "the wanted state holds"
    ABSENT = "the wanted state does not hold"
    UNCLEAR = "the provider answered, but that does not settle it"
    SELECTED = "`result` is a list of fields, one for each certificate that is to be acted on"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        kind: what it means.
        code: the provider's own code, or the HTTP status where there was none, or None.
        message: the provider's text, or what went wrong on the way.
        request_id: the provider's id of the request, for its support.
        result: what the action yields for the report.
        retry_after_s: how long the provider asked to wait, in seconds.
        then: of an answer that settles: the fields of a further operation on the same target, such
            as the next page of a list.
    """

    kind: AnswerKind
    code: int | str | None = None
    message: str = ""
    request_id: str | None = None
    result: Any = None
    retry_after_s: float | None = None
    then: dict[str, FieldValue] | None = None


@dataclass(slots=True)
class Operation:
    """One action on one certificate, while it is worked on.

    Attributes:
        id: its place in target order, from 1.
        line: line number of its target.
        fields: the target's own checked fields (parameters of the job are not in here).
        state: where it stands in the checkpoint, as far as this process asked for.
        attempts: requests sent for it so far, with the one that is about to leave, but without
            throttled ones and ones that never left.
        attempts_before_step: those of them that earlier steps of it took.
        in_doubt: an attempt of the current step may have been executed and is not settled.
        failed_lookups: look-ups that failed in a row.
        not_sent_in_a_row: times in a row that a request could not leave at all.
        first_sent_at: when the first attempt was claimed: Unix time in seconds, by the provider's
            clock where known.
        progress: what earlier steps of it have come to, None before the first is done.
        last_error: the last answer to an attempt of the current step that did not succeed.
    """

    id: int
    line: int
    fields: dict[str, FieldValue]
    state: State = State.IN_FLIGHT
    attempts: int = 0
    attempts_before_step: int = 0
    in_doubt: bool = False
    failed_lookups: int = 0
    not_sent_in_a_row: int = 0
    first_sent_at: float | None = None
    progress: Any = None
    last_error: Answer | None = field(default=None, repr=False)
