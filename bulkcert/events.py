"""What a run tells whoever listens. An outcome is durable before it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bulkcert.model import State


@dataclass(frozen=True, slots=True)
class Started:
    """The credentials were accepted; operations are about to be sent.

    Attributes:
        total: operations of the run.
        settled: how many an earlier process settled.
    """

    total: int
    settled: int


class Settled(NamedTuple):
    """One operation is over: its id, final state, code and message."""

    operation_id: int
    state: State
    code: int | str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is, told about twice a second.

    Attributes:
        total: operations of the run.
        settled: operations that are over, by state; each final state is named.
        requests: everything that this process sent.
        rate: requests per second of late.
        note: what holds the run up just now, for people, or empty.
        left_s: estimated seconds to the end, or None while that can't be told.
    """

    total: int
    settled: Mapping[State, int]
    requests: int
    rate: float
    note: str
    left_s: float | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the operator should know at once, in one sentence."""

    text: str


Event = Started | Settled | Progress | Notice
