"""The judge of the scenarios: it accepts what is right, and each of its checks can fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from hosts import judge
from hosts.judge import Over

COUNT = 40
RATE = 10
HOSTS = ("10.0.0.1", "10.0.0.2")
FENCED_AT = 1005.0
"""When the first host, which was killed a while before, was fenced."""


@dataclass
class Evidence:
    """A run that is in order: renewals, each after a look-up, by two hosts. The first one dies."""

    ledger: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    ceiling: int = RATE

    def __post_init__(self) -> None:
        for number in range(COUNT):
            fields = {"assetId": f"A{number}", "certSn": number + 1}
            self.targets.append(fields)
            self.operations.append({"fields": dict(fields), "state": "succeeded"})
            self._request("list", number, serial=None)
            self._request("renew", number, serial=number + 1, executed=True)

    def _request(self, action: str, number: int, **changes: Any) -> None:
        n = len(self.ledger) + 1
        at = 1000.0 + n / RATE
        entry = {
            "n": n,
            "at": at,
            "source": HOSTS[1] if at > 1003.0 else HOSTS[number % 2],
            "action": action,
            "device": f"assetId=A{number}",
            "certSn": changes.get("serial"),
            "executed": changes.get("executed", False),
            "code": 0,
            "status": 200,
            "fault": None,
            "answered_at": at + 0.05,
        }
        self.ledger.append(entry)

    def again(self, entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """Send this request once more, at the end."""
        n = len(self.ledger) + 1
        copy = entry | {"n": n, "at": 1000.0 + n / RATE, "source": HOSTS[1], **changes}
        self.ledger.append(copy)
        return copy

    def complaints(self) -> list[str]:
        """Everything that the judge finds."""
        arrivals = sorted((entry["at"], entry["source"]) for entry in self.ledger)
        return [
            *judge.above([at for at, _ in arrivals], self.ceiling, "arrived"),
            *judge.sent_twice(self.ledger, "enos", "renew"),
            *judge.lost(self.targets, self.operations, self.ledger, "enos", "renew"),
            *judge.late(arrivals, [Over(HOSTS[0], FENCED_AT, 2000.0)]),
        ]

    def a_renewal(self, rng: random.Random) -> dict[str, Any]:
        return rng.choice([entry for entry in self.ledger if entry["action"] == "renew"])


Mutation = Callable[[Evidence, random.Random], None]
MUTATIONS: list[tuple[str, Mutation]] = []


def breaks(complaint: str) -> Callable[[Mutation], Mutation]:
    def add(mutation: Mutation) -> Mutation:
        MUTATIONS.append((complaint, mutation))
        return mutation

    return add


@breaks("arrived in the second from")
def one_more_in_a_second(good: Evidence, rng: random.Random) -> None:
    good.again(good.ledger[0], at=1000.0 + rng.uniform(2, 7))


@breaks("was carried out 2 times")
def renewed_again(good: Evidence, rng: random.Random) -> None:
    good.again(good.a_renewal(rng))


@breaks("was carried out 2 times")
def renewed_again_after_a_look_up(good: Evidence, rng: random.Random) -> None:
    renewal = good.a_renewal(rng)
    good.again(good.ledger[renewal["n"] - 2])
    good.again(renewal)


@breaks("was sent again")
def sent_again_after_its_success(good: Evidence, rng: random.Random) -> None:
    good.again(good.a_renewal(rng), executed=False)


@breaks("is in the store 0 times")
def an_operation_is_gone(good: Evidence, rng: random.Random) -> None:
    del good.operations[rng.randrange(COUNT)]


@breaks("is in the store 2 times")
def an_operation_is_there_twice(good: Evidence, rng: random.Random) -> None:
    good.operations.append(rng.choice(good.operations))


@breaks("was never asked for")
def a_stranger(good: Evidence, rng: random.Random) -> None:
    stranger = {"assetId": "B1", "certSn": rng.randrange(9)}
    good.operations.append({"fields": stranger, "state": "succeeded"})


@breaks("is in_flight at the end")
def never_settled(good: Evidence, rng: random.Random) -> None:
    rng.choice(good.operations)["state"] = "in_flight"


@breaks("was never carried out")
def said_to_be_done(good: Evidence, rng: random.Random) -> None:
    good.a_renewal(rng)["executed"] = False


@breaks("was carried out, and is failed")
def said_to_have_failed(good: Evidence, rng: random.Random) -> None:
    rng.choice(good.operations)["state"] = "failed"


@breaks("after its lease was over")
def a_late_arrival(good: Evidence, rng: random.Random) -> None:
    late = [entry for entry in good.ledger if entry["at"] > FENCED_AT]
    rng.choice(late)["source"] = HOSTS[0]


def test_what_is_right_is_accepted() -> None:
    assert Evidence().complaints() == []


@pytest.mark.parametrize(("complaint", "mutation"), MUTATIONS)
def test_each_check_can_fail(complaint: str, mutation: Mutation) -> None:
    for seed in range(20):
        evidence = Evidence()
        mutation(evidence, random.Random(seed))
        found = evidence.complaints()
        assert any(complaint in each for each in found), (seed, found)


def test_what_was_lost_on_its_way_may_be_sent_again() -> None:
    evidence = Evidence()
    renewal = evidence.ledger[7]
    renewal |= {"executed": False, "answered_at": None, "fault": "cut_before"}
    evidence.again(evidence.ledger[6])
    evidence.again(renewal, executed=True, answered_at=2000.0, fault=None)
    assert evidence.complaints() == []


def test_a_host_that_was_fenced_may_come_back() -> None:
    evidence = Evidence()
    assert judge.late([(1006.0, HOSTS[0])], [Over(HOSTS[0], FENCED_AT, 1005.9)]) == []
    assert evidence.complaints() == []


def test_the_steady_rate_leaves_out_begin_and_end() -> None:
    trickle = [1000.0 + 20 + n for n in range(5)]
    assert judge.steady([1000.0 + n / 100 for n in range(1000)] + trickle) == 100
    assert judge.steady([]) == 0
