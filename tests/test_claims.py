"""What may be claimed, and when: the rules of a campaign on a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stores import Disk, MemoryStore

from bulkcert.control import Verb
from bulkcert.model import Change, State, Target
from bulkcert.rules import NO_RULES, Rules
from bulkcert.rules.gate import Gate
from bulkcert.rules.rollout import Wave
from bulkcert.store.claims import Claims

TARGETS = 4


class Campaign:
    """A campaign of four operations, and the process that works on it.

    Attributes:
        now_s: the time of day.
    """

    def __init__(self, rules: Rules = NO_RULES, waves: Sequence[Wave] = (), **options: Any) -> None:
        targets = (Target(line, {"name": line}) for line in range(1, TARGETS + 1))
        self.now_s = 1000.0
        self.store = MemoryStore(Disk.planned(targets, waves), lambda: self.now_s)
        self.claims = Claims(rules, now=lambda: self.now_s, **options)

    def commit(self, *changes: Change) -> Gate:
        """Record changes; return the gate that follows."""
        with self.store.transaction():
            self.store.record(changes)
            self.claims.judge(self.store, changes)
        return self.claims.gate

    def claim(self) -> list[int]:
        """Claim what may be claimed; return its ids."""
        with self.store.transaction():
            self.claims.judge(self.store, ())
            return [each.id for each in self.claims.claim(self.store, TARGETS, ()).operations]

    def control(self, verb: Verb, value: str = "") -> None:
        """Ask something of the run."""
        with self.store.transaction():
            self.store.add_control(self.now_s, "ann@ops1", "deploy", verb, value)

    def settled(self, number: int, state: State = State.SUCCEEDED, code: int | None = 0) -> Change:
        """The change that settles a claimed operation now."""
        return Change(
            number, State.IN_FLIGHT, state, 1, code=code, finished_at=self.now_s, line=number
        )


def test_a_pause_and_a_rate_are_in_force_after_an_abort_too() -> None:
    campaign = Campaign()
    campaign.commit()
    with campaign.store.transaction():
        campaign.claims.stop_run(campaign.store, "check", "unwell")
    assert campaign.commit().abort
    assert campaign.claims.gate.reasons == ()
    campaign.control(Verb.PAUSE)
    campaign.control(Verb.RATE, "5")
    gate = campaign.commit()
    assert gate.abort
    assert list(map(str, gate.reasons)) == ["paused (by ann@ops1: deploy)"]
    assert (gate.rate, gate.control_id) == (5.0, 2)
