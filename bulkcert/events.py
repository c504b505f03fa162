"""The events of a run, as the caller of `Run.execute` receives them.

An outcome is durable before its event is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bulkcert.model import State


@dataclass(frozen=True, slots=True)
class Started:
    """The provider accepted the credentials; operations are about to be sent.

    Attributes:
        total: operations of the run.
        settled: how many of them earlier processes settled.
    """

    total: int
    settled: int


class Settled(NamedTuple):
    """One operation has reached a final state.

    Attributes:
        operation_id: which operation.
        state: its final state.
        code: the code of the last response, as in the results.
        message: the message of the last response, as in the results.
    """

    operation_id: int
    state: State
    code: int | str | None
    message: str | None


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
    """

    total: int
    settled: Mapping[State, int]
    requests: int
    rate: float
    note: str
    left_s: float | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know at once, in one sentence."""

    text: str


Event = Started | Settled | Progress | Notice
"""Any event of a run."""
