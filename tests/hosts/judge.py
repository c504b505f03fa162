"""What must hold in every scenario, whatever was done to the hosts.

In: what arrived at the provider and what it carried out, the rows of the store, and who was alive
when. Out: figures, and what should not have happened. All of it is computed from plain data,
without code of `bulkcert`; `tests/history.py` checks each operation besides.

    ceiling   no rolling second of arrivals has more than the ceiling, nor more than the limit of an
              address
    twice     nothing that can't be repeated is carried out twice, and nothing is sent again after
              its success was reported in full, unless a look-up came first
    lost      each target is in the store, once and settled; what is recorded as done was carried
              out, and what was carried out is not recorded as failed
    late      nothing arrives from a host after its lease was fenced
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from history import ACTIONS, Entry, Key, busiest_second, key_of

GOOD = frozenset({0, "OK"})
SETTLED = frozenset({"succeeded", "already_done", "failed", "unknown"})
TAIL = 0.05
"""The last arrivals don't count for the steady rate: look-ups of what the dead left trickle in."""


class Over(NamedTuple):
    """A host has no lease from `begin` on, up to `end`: until its next life, if there is one."""

    source: str
    begin: float
    end: float


@dataclass
class Figures:
    """One row of the table.

    Attributes:
        steady: median of arrivals in the whole seconds between begin and end.
        busiest: most arrivals in any rolling second.
        busiest_of: the same by address.
        twice, lost, late: how many; see the docstring of this module.
        unknown: operations of which nobody knows whether they were carried out.
        takeover_s: for each host that died, how long it took until it was fenced.
        complaints: what should not have happened.
    """

    steady: float = 0.0
    busiest: int = 0
    busiest_of: dict[str, int] = field(default_factory=dict)
    twice: int = 0
    lost: int = 0
    late: int = 0
    unknown: int = 0
    takeover_s: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def busiest(arrivals: Iterable[float]) -> int:
    """Most arrivals in any rolling second."""
    return busiest_second(sorted(arrivals))[0]


def steady(arrivals: Iterable[float]) -> float:
    """The usual number of arrivals in a second, without the begin and the end."""
    times = sorted(arrivals)
    if not times:
        return 0.0
    last = times[int((len(times) - 1) * (1 - TAIL))]
    by_second = Counter(int(at - times[0]) for at in times)
    seconds = range(1, int(last - times[0]))
    return statistics.median([by_second[second] for second in seconds] or [0])


def above(arrivals: Sequence[float], ceiling: float, what: str) -> list[str]:
    """Say if more arrived in a rolling second than is permitted."""
    most, when = busiest_second(sorted(arrivals))
    if most <= ceiling:
        return []
    return [f"{most} requests {what} in the second from {when:.3f}; the ceiling is {ceiling:g}"]


def sent_twice(ledger: Sequence[Entry], provider: str, action: str) -> list[str]:
    """What was carried out twice, or sent again although it was known to be done."""
    rules = ACTIONS[provider, action]
    found = []
    for key, entries in _by_key(ledger).items():
        looks = [e for e in ledger_of(entries, rules.look) if _delivered(e)]
        for send in rules.sends:
            sent = ledger_of(entries, send)
            executed = sum(entry["executed"] for entry in sent)
            if send in rules.unrepeatable and executed > 1:
                found.append(f"{key}: {send} was carried out {executed} times")
                continue
            if rules.needed is None:
                continue  # reading twice changes nothing
            done = next((e["n"] for e in sent if _delivered(e)), None)
            again = [e["n"] for e in sent if done is not None and e["n"] > done]
            if again and not any(done < look["n"] < again[0] for look in looks):
                found.append(f"{key}: {send} was sent again (request {again[0]}) after its success")
    return found


def lost(
    targets: Sequence[Mapping[str, Any]],
    operations: Sequence[Entry],
    ledger: Sequence[Entry],
    provider: str,
    action: str,
    *,
    forgotten: bool = False,
) -> list[str]:
    """Which targets are not accounted for, or not by the truth.

    Args:
        targets: the rows of the target file.
        operations: those of the store.
        ledger: of the provider.
        provider, action: of the job.
        forgotten: the store has forgotten what it knew, so it may find things done already.
    """
    wrong = {"failed"} if forgotten else {"failed", "already_done"}
    rules = ACTIONS[provider, action]
    rows = Counter(key_of(operation["fields"]) for operation in operations)
    state_of = {key_of(operation["fields"]): operation["state"] for operation in operations}
    executed = {
        Key(entry["device"], _serial(entry))
        for entry in ledger
        if entry["executed"] and entry["action"] == rules.needed
    }
    found = []
    for target in targets:
        key = key_of(target)
        state = state_of.get(key, "")
        if rows[key] != 1:
            found.append(f"{key}: is in the store {rows[key]} times")
        elif state not in SETTLED:
            found.append(f"{key}: is {state} at the end")
        elif rules.needed and state == "succeeded" and key not in executed:
            found.append(f"{key}: is succeeded, but was never carried out")
        elif key in executed and state in wrong:
            found.append(f"{key}: was carried out, and is {state}")
    strangers = rows.keys() - {key_of(target) for target in targets}
    return found + [f"{key}: is in the store, but was never asked for" for key in strangers]


def late(arrivals: Iterable[tuple[float, str]], overs: Sequence[Over]) -> list[str]:
    """What arrived from a host that had no lease any more."""
    spans: defaultdict[str, list[Over]] = defaultdict(list)
    for over in overs:
        spans[over.source].append(over)
    return [
        f"a request from {source} arrived {at - over.begin:.3f} s after its lease was over"
        for at, source in arrivals
        for over in spans[source]
        if over.begin < at < over.end
    ]


def ledger_of(entries: Sequence[Entry], action: str) -> list[Entry]:
    """The requests of one kind, in order of arrival."""
    return [entry for entry in entries if entry["action"] == action]


def _by_key(ledger: Sequence[Entry]) -> dict[Key, list[Entry]]:
    """The requests about each certificate; look-ups of a device count for all of it."""
    by_key: defaultdict[Key, list[Entry]] = defaultdict(list)
    of_device: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in ledger:
        if entry["device"] and _serial(entry):
            by_key[Key(entry["device"], _serial(entry))].append(entry)
        elif entry["device"]:
            of_device[entry["device"]].append(entry)
    return {
        key: sorted([*entries, *of_device[key.device]], key=lambda entry: entry["n"])
        for key, entries in by_key.items()
    }


def _delivered(entry: Entry) -> bool:
    """It succeeded, and its response was written in full and without a fault."""
    return entry["code"] in GOOD and entry["answered_at"] is not None and entry["fault"] is None


def _serial(entry: Entry) -> str:
    return "" if entry["certSn"] is None else str(entry["certSn"])
