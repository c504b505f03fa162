"""The events of a run, as the caller of `Run.execute` receives them.

An outcome is durable before its `Settled` is sent. Whatever else changes becomes part of the event
log of the run, and is sent as a `RunEvent` once it is durable. A caller that fails on an event does
not disturb the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from bulkcert.event_log import RunEvent
from bulkcert.model import Fields, Outcome, State
from bulkcert.rules.gate import Reason


@dataclass(frozen=True, slots=True)
class Started:
    """The provider accepted the credentials; operations are about to be sent.

    Attributes:
        total: operations of the run.
        settled: how many of them earlier processes settled.
    """

    total: int
    settled: int


class Result(NamedTuple):
    """What is known about one operation. The attributes are those of a line of `results.jsonl`.

    Attributes:
        line: line number of its target, from 1.
        target: the fields of the target; of a selected certificate, the certificate's too.
        outcome: how it ended, or `pending`.
        code: the provider's code, or the HTTP status if there was none, or None.
        message: the provider's text, or what went wrong on the way.
        request_id: the provider's id of the last request, for its support.
        attempts: requests that were sent to carry it out.
        finished_at: when it ended, in UTC; None if it has not.
        result: what it yielded, such as the new certificate of a renewal; docs/output.md has the
            format for each action.
    """

    line: int
    target: Fields
    outcome: Outcome
    code: int | str | None
    message: str | None
    request_id: str | None
    attempts: int
    finished_at: datetime | None
    result: Any


class Settled(Result):
    """One operation has ended: its `Result`, durable by now.

    The columns of the target file that the job does not use are not in `target`; `bulkcert.results`
    has them.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of the run, sent about twice a second.

    Attributes:
        total: operations of the run.
        settled: operations in each final state; every final state is a key.
        requests: all requests that this process has sent.
        rate: recent requests per second.
        note: what is delaying the run at the moment, for people; empty if nothing is.
        left_s: estimated seconds until the run is over, or None if there is no estimate.
        reasons: why nothing is sent, or less than could be; the note has them, too.
        rate_limit: requests per second that somebody has set with `bulkcert control rate`; None for
            all that the plan allows.
        slack_s: estimated seconds between the end of the run and its deadline, negative if it will
            be missed; None if there is no deadline, or no estimate.
    """

    total: int
    settled: Mapping[State, int]
    requests: int
    rate: float
    note: str
    left_s: float | None
    reasons: tuple[Reason, ...] = ()
    rate_limit: float | None = None
    slack_s: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know at once, in one sentence.

    Attributes:
        text: the sentence.
        warns: it is a warning; otherwise something that was asked for, by people or by a rule.
    """

    text: str
    warns: bool = True


@dataclass(frozen=True, slots=True)
class Detail:
    """Something about the inner workings of the run, such as a retry, in one sentence."""

    text: str


Event = Started | Settled | Progress | Notice | Detail | RunEvent
"""Any event of a run."""

Listener = Callable[[Event], object]
"""What is called with every event."""


def shielded(listener: Listener) -> Listener:
    """Return a listener that never raises.

    What the given one raises goes to the event loop's exception handler, once: the next event would
    most likely have the same effect.
    """
    failed = False

    def call(event: Event) -> None:
        nonlocal failed
        try:
            listener(event)
        except Exception as error:
            if not failed:
                failed = True
                what = {"message": "a listener failed on an event", "exception": error}
                asyncio.get_running_loop().call_exception_handler(what)

    return call
