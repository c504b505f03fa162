"""The pace of an account, as a shared store keeps it: what a host asks, and what it is answered.

Plain data and a protocol. `bulkcert.store.postgresql.pace` implements it, `bulkcert.hosts` uses it.
All moments are those of the store's clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceMember:
    """A host as it shares the pace of an account.

    Attributes:
        id: of its present life.
        run: the number of its run.
        scopes: what identifies the account: one name for each thing that two runs may have in
            common, sorted. Each is a limit of its own.
        ceiling: most requests in any rolling second, as its job says. The lowest one of all that
            share a scope is in force.
        utilization: share of the ceiling that the steady rate uses.
        lanes: into how many lanes the account is divided, at least.
        egress: the name of its way out; None if addresses have no limit of their own.
        most_lanes: how many lanes its way out may have.
    """

    id: UUID
    run: int
    scopes: tuple[str, ...]
    ceiling: float
    utilization: float
    lanes: int = 1
    egress: str | None = None
    most_lanes: int = 1


class PaceAnswer(NamedTuple):
    """What came of a reservation.

    Attributes:
        now_s: the store's clock, also if it was refused.
        refusal: why, in one word; empty if it was granted:
            server: there are no rows, or those of another server, or with fewer lanes.
            host: this host has not joined, or was forgotten.
            lane: its way out has no lane.
            held: nothing may leave in this run.
            version: people or rules have decided something that this host does not know yet.
            quarantine: everything has started anew a moment ago.
            pause: the provider has asked for it.
            late: requests that may still arrive have taken all slots.
            ahead: the next slot is too far ahead.
        wait_s: it is not worth asking again before.
        granted: number of slots.
        first_slot: the first of them.
        spacing_s: from each to the next.
        epoch: grows whenever everything starts anew.
        hosts: how many share the account.
        not_before: end of the pause that the provider has asked for.
        pause_s: how long that is altogether.
        share: of the full rate, after that pause.
        cut_at: what left before says nothing about that share.
        reach_s: length of the last slots that were reserved together.
        state: of everything that may be in the way; empty if granted.
    """

    now_s: float
    refusal: str
    wait_s: float
    granted: int
    first_slot: float
    spacing_s: float
    epoch: int
    hosts: int
    not_before: float
    pause_s: float
    share: float
    cut_at: float
    reach_s: float
    state: str


class PaceTable(Protocol):
    """What a shared store does for the pace. One thread at a time.

    Each call is a transaction of its own, except for `now_s`, which has none.
    """

    def now_s(self) -> float:
        """The store's clock."""

    def join(self, late: int, hold_s: float) -> int:
        """Be counted among those who share the account, and take lanes that are free.

        Args:
            late: requests of this host that have left, but may not have arrived.
            hold_s: nothing leaves in a lane for this long after its way out has got it.

        Returns:
            How many lanes the way out has.
        """

    def reserve(
        self, wanted: int, *, version: int, late: int, share: float, lead_s: float
    ) -> PaceAnswer:
        """Reserve consecutive slots.

        Args:
            wanted: how many; 0 just to hear how things stand.
            version: of what people and rules have decided; the last one that is in force here.
            late: see `join`.
            share: share of the full rate that this host uses.
            lead_s: none is earlier than this long after now.
        """

    def begin_epoch(
        self, span_s: float, known_epoch: int, expected_s: float | None, state: str | None = None
    ) -> int | None:
        """Start everything anew.

        Args:
            span_s: nothing is reserved for this long.
            known_epoch: the last one that this host has heard of.
            expected_s: what the clock would show if it had not stepped; None if it has not.
            state: start anew only if this is the present state.

        Returns:
            The new epoch; None if the state was another.
        """

    def slow_down(self, departed_s: float, pause_s: float, share: float) -> None:
        """The provider has asked for a pause.

        Args:
            departed_s: when the request left that was answered so.
            pause_s: how long it is.
            share: share of the full rate that is used after it.
        """

    def leave(self) -> None:
        """Be no longer counted among those who share the account."""
