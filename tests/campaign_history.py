"""The history checker of a campaign: did a run keep its rules, and obey whoever steered it?

In: a `history.History`, what the history checker knows of its circumstances, and what was done to
the run from outside. Out: a list of violations; empty for a run that kept its rules. Like
`history`, it is an oracle, so it uses no code of `bulkcert`: it works out the waves, the limits and
the never-touch list from the job file itself.

What is checked:

    waves       are as large as the job says; none is skipped, and nothing of a later wave leaves
                before all of the earlier ones is settled, `between` is over and `go` was said
    quiet       nothing leaves while the run is paused, held or outside its window
    abort       the run aborts at the very outcome at which a rule trips; what has an attempt open
                then is at most `in_flight`; after that only look-ups leave, for a minute at most
    caps        no more operations are attempted than permitted
    never       nothing is sent for what must never be touched
    rate        a rate that was asked for holds in any rolling second
    controls    each one that was confirmed is on record

Tolerances. There are two records of a request: when it left, by the clock of the run (the history
table), and when it arrived, by that of the simulator (the ledger).

* A departure is compared with the run's own records, which have the same clock: no tolerance but
  `clock_slack_s`. It is the exact check, but only of requests whose process lived to record them.
* An arrival is later than the departure, never earlier. So what must come *after* something needs
  no tolerance either. Only after the *beginning* of a quiet span may something still arrive that
  left before it: up to `ARRIVAL_S` later, if the process that sent it was killed, or if the
  simulator was busy.
* Arrivals bunch up on their way, so a rate may be exceeded by `jitter` of them, departures never.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from history import (
    ACTIONS,
    NO_OPERATION,
    SERIALS,
    Circumstances,
    Entry,
    History,
    Key,
    busiest_second,
    is_protected,
    key_of,
)

ARRIVAL_S = 0.25
"""How long after its departure a request may arrive: see above."""

ABORT_S = 1.0
"""How long the commit that records an abort may take on a busy machine. What leaves meanwhile is
counted, see `_overshoot`."""

NOTICED_S = 3.0
"""How long after the response an abort may be recorded: a commit, in a process that may have been
paused for a second."""

LOOKUPS_S = 60.0
"""How long look-ups may leave after an abort."""

RATE_S = 0.5
"""After this time a rate holds in any rolling second."""

OPEN = frozenset({"planned", "in_flight"})


class Quiet(NamedTuple):
    """A span in which nothing may leave, in Unix seconds.

    Attributes:
        why: what it was.
        begin: when it was confirmed to be in force.
        end: when somebody began to lift it.
    """

    why: str
    begin: float
    end: float = math.inf


class Rate(NamedTuple):
    """A span in which a rate held: from the moment at which that was confirmed."""

    most: float
    begin: float
    end: float = math.inf


class Go(NamedTuple):
    """Somebody let the run go on after a wave, not before this Unix time."""

    wave: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Everything that was done to a run from outside."""

    quiet: Sequence[Quiet] = ()
    rates: Sequence[Rate] = ()
    goes: Sequence[Go] = ()
    controls: Sequence[tuple[str, str]] = ()
    """The verb and value of each control that was confirmed, in order."""


UNSTEERED = Steering()
USUAL = Circumstances()


class Sent(NamedTuple):
    """One request of an operation.

    Attributes:
        what: how a violation names it.
        at: when it left or arrived, in Unix seconds.
        number: its place in the ledger; None for a departure.
        is_attempt: it is not a look-up.
        operations: whose it is: of a look-up, all operations of the device.
    """

    what: str
    at: float
    number: int | None
    is_attempt: bool
    operations: Sequence[Entry]

    @property
    def wave(self) -> int:
        """The first wave that it can belong to."""
        return min(int(operation["wave"] or 0) for operation in self.operations)


def check(
    history: History,
    circumstances: Circumstances = USUAL,
    steering: Steering = UNSTEERED,
) -> list[str]:
    """List everything that should not have happened; empty if the run kept its rules."""
    return list(_Checker(history, circumstances, steering).violations())


class _Checker:
    def __init__(self, history: History, circumstances: Circumstances, steering: Steering) -> None:
        self._history = history
        self._given = circumstances
        self._steering = steering
        self._slack_s = circumstances.clock_slack_s
        self._job = history.job
        self._rules = ACTIONS[history.job["provider"], history.job["action"]]
        self._requests = [e for e in history.ledger if e["n"] > circumstances.earlier]
        parameters = history.job.get("parameters", {})
        self._by_id = {operation["id"]: operation for operation in history.operations}
        self._by_key: dict[Key, list[Entry]] = defaultdict(list)
        self._by_device: dict[str, list[Entry]] = defaultdict(list)
        for operation in history.operations:
            key = key_of(parameters | operation["fields"])
            self._by_key[key].append(operation)
            self._by_device[key.device].append(operation)
        self._retried_at = {
            event["operation"]: event["ended_at"]
            for event in history.events
            if event["event"] == "retried"
        }
        self._arrivals = [*self._arrived()]
        self._departures = [*self._departed()]

    def violations(self) -> Iterator[str]:
        if "rollout" in self._job:
            yield from self._sizes()
            yield from self._order()
            yield from self._gates()
        yield from self._quiet()
        yield from self._aborts()
        yield from self._caps()
        yield from self._never()
        yield from self._rates()
        yield from self._controls()

    # ---- requests

    def _arrived(self) -> Iterator[Sent]:
        for entry in self._requests:
            serial = "" if entry["certSn"] is None else str(entry["certSn"])
            is_attempt = entry["action"] in self._rules.sends
            of_device = self._by_device.get(entry["device"], [])
            operations = self._by_key.get(Key(entry["device"], serial), of_device)
            if operations:
                what = f"{entry['action']} of {entry['device']} (request {entry['n']})"
                owners = operations if is_attempt else of_device
                yield Sent(what, entry["at"], entry["n"], is_attempt, owners)

    def _departed(self) -> Iterator[Sent]:
        for event in self._history.events:
            if event["event"] in {"attempt", "look_up"} and event["sent_at"] is not None:
                operation = self._by_id[event["operation"]]
                what = f"{event['event']} {event['attempt']} of line {operation['line']}"
                is_attempt = event["event"] == "attempt"
                yield Sent(what, event["sent_at"], None, is_attempt, [operation])

    def _again(self, sent: Sent) -> bool:
        """Whether it belongs to the wave that its operation is in now, and not to the one in which
        it failed before it was taken up again."""
        retried = [self._retried_at.get(operation["id"], 0.0) for operation in sent.operations]
        return sent.at >= max(retried, default=0.0)

    # ---- waves

    def _sizes(self) -> Iterator[str]:
        """The waves are those of the job, and each has its targets."""
        expected = self._planned_waves()
        known = [(row["name"], row["targets"]) for row in self._history.tables["waves"]]
        if known[: len(expected)] != expected:
            yield f"the waves are {known}, should be {expected}"
        elif not self._retried_at:
            places = {(o["line"], o["wave"]) for o in self._history.operations}
            counts = Counter(wave for _, wave in places)
            found = [(name, counts[number]) for number, (name, _) in enumerate(expected)]
            if found != expected:
                yield f"the operations are in the waves {found}, should be {expected}"

    def _planned_waves(self) -> list[tuple[str, int]]:
        """The waves as the job has them; what is taken up again becomes one more."""
        lines = {operation["line"] for operation in self._history.operations}
        return waves_of(len(lines), self._job["rollout"])

    def _over_at(self) -> list[float]:
        """By wave: when it and all before it were settled; infinite if they are not."""
        last = max((int(o["wave"] or 0) for o in self._history.operations), default=0)
        over = [0.0] * (last + 1)
        for operation in self._history.operations:
            settled = operation["state"] not in OPEN
            ended = operation["finished_at"] if settled else math.inf
            wave = int(operation["wave"] or 0)
            over[wave] = max(over[wave], math.inf if ended is None else ended)
        return [max(over[: number + 1]) for number in range(len(over))]

    def _order(self) -> Iterator[str]:
        over_at = self._over_at()
        between_s = seconds(self._job["rollout"].get("between", 0))
        planned = len(self._planned_waves())
        for sent in (*self._departures, *self._arrivals):
            wave = sent.wave
            if not wave or not self._again(sent):
                continue
            before = over_at[wave - 1]
            if sent.at < before - self._slack_s:
                yield f"{sent.what} left before wave {wave - 1} was settled"
            elif wave < planned and sent.at < before + between_s - self._slack_s:
                early_s = before + between_s - sent.at
                yield f"{sent.what} left {early_s:.3f} s too early after wave {wave - 1}"
        # by the ledger alone, whatever the store says
        last: dict[int, Sent] = {}
        for sent in self._arrivals:
            if sent.is_attempt and self._again(sent):
                last[sent.wave] = sent
        for sent in self._arrivals:
            if not self._again(sent):
                continue
            for wave in range(sent.wave):
                if wave in last and (last[wave].number or 0) > (sent.number or 0):
                    yield f"{sent.what} arrived before {last[wave].what} of an earlier wave"

    def _gates(self) -> Iterator[str]:
        """Each wave that waits for a person had its own `go`, said before the next wave began."""
        names = [row["name"] for row in self._history.tables["waves"]]
        confirmed = self._confirmed(names)
        unused = sorted(self._goes(), key=lambda go: go.at)
        for number, name in enumerate(names):
            if name not in confirmed:
                continue
            later = [s.at for s in self._arrivals if s.wave > number and self._again(s)]
            if not later:
                continue
            fits = [go for go in unused if go.wave == name and go.at <= min(later) + self._slack_s]
            if fits:
                unused.remove(fits[0])
            else:
                yield f"the run went on after the wave {name}, and nobody had said go"

    def _confirmed(self, names: Sequence[str]) -> set[str]:
        """The waves that wait for a person. Where one was dropped, because it is no larger than the
        one before, that one waits."""
        rollout = self._job["rollout"]
        confirm = rollout.get("confirm", ())
        if "all" in confirm:
            return set(names)
        written = [
            *(["canary"] if rollout.get("canary") else []),
            *map(str, rollout.get("waves", ())),
        ]
        kept = [name for name in names if name in written]
        return {
            next((n for n in reversed(written[: written.index(name) + 1]) if n in kept), "")
            for name in confirm
        }

    def _goes(self) -> Sequence[Go]:
        recorded = [
            Go(str(row["value"]), row["at"])
            for row in self._history.tables["controls"]
            if row["verb"] == "go"
        ]
        return self._steering.goes or recorded

    # ---- quiet

    def _quiet(self) -> Iterator[str]:
        for quiet in self._steering.quiet:
            for entry in self._requests:
                if quiet.begin + ARRIVAL_S < entry["at"] < quiet.end:
                    yield (
                        f"{entry['action']} {entry['device']} (request {entry['n']}) arrived"
                        f" {entry['at'] - quiet.begin:.3f} s after the run was {quiet.why}"
                    )
            for sent in self._departures:
                if quiet.begin + self._slack_s < sent.at < quiet.end - self._slack_s:
                    yield (
                        f"{sent.what} left {sent.at - quiet.begin:.3f} s after the run was"
                        f" {quiet.why}"
                    )

    # ---- abort

    def _aborts(self) -> Iterator[str]:
        aborts = self._history.tables["aborts"]
        for number, abort in enumerate(aborts, 1):
            end = abort["overridden_at"] or math.inf
            if end is math.inf and number < len(aborts):
                yield f"the abort {abort['id']} is pending, but the run went on"
            for sent in (*self._departures, *self._arrivals):
                late_s = sent.at - abort["at"] - self._slack_s
                late_s -= 0.0 if sent.number is None else ARRIVAL_S
                most_s = ABORT_S if sent.is_attempt else ABORT_S + LOOKUPS_S
                if late_s > most_s and sent.at < end - self._slack_s:
                    yield f"{sent.what}: {late_s:.3f} s after the abort {abort['id']}"
        if "abort" in self._job:
            yield from self._judged()
            yield from self._trips()

    def _judged(self) -> Iterator[str]:
        """Each operation that was settled after an attempt has been judged, each time once."""
        judged = Counter(row["operation"] for row in self._history.tables["settled"])
        last = {row["operation"]: row for row in self._history.tables["settled"]}
        again = Counter(e["operation"] for e in self._history.events if e["event"] == "retried")
        for operation in self._history.operations:
            id_, line = operation["id"], operation["line"]
            times = again[id_] + (operation["state"] not in OPEN and operation["attempts"] > 0)
            if judged[id_] > again[id_] + 1 or judged[id_] > times > 0:
                yield f"line {line}: was judged {judged[id_]} times, but settled {times} times"
            elif operation["state"] in OPEN or not operation["attempts"]:
                continue
            elif judged[id_] < 1:
                yield f"line {line}: was settled, but not judged by the rules"
            elif (last[id_]["state"], last[id_]["code"]) != (operation["state"], operation["code"]):
                yield f"line {line}: was judged as {last[id_]['state']} {last[id_]['code']}"

    def _trips(self) -> Iterator[str]:
        """The run aborts when a rule trips, and only then. Nothing that was settled is forgotten
        until somebody overrides the abort."""
        every = self._history.tables["aborts"]
        # an override of any abort, also of one by the check, lets the counts begin at zero
        zeroed_after = {a["settled"] for a in every if a["overridden_at"] is not None}
        aborts = deque(abort for abort in every if abort["rule"] in self._job["abort"])
        rules, last_id = AbortLimits(self._job["abort"]), 0
        pending: Entry | None = None  # the abort that a row before has led to
        for row in self._history.tables["settled"]:
            if any(last_id <= zeroed < row["id"] for zeroed in zeroed_after):
                rules = AbortLimits(self._job["abort"])
                pending = None
            last_id = row["id"]
            if pending is not None:
                continue  # it was under way
            tripped = rules.judge(row["state"], row["code"], row["wave"])
            if not tripped:
                continue
            name = f"abort.{', '.join(tripped)} tripped with line {self._line(row)}"
            if not aborts:
                yield f"{name}, but the run went on"
                return
            pending = aborts.popleft()
            if pending["rule"] not in tripped:
                yield f"{name}, but the abort {pending['id']} names {pending['rule']}"
            yield from self._under_way(row, pending)
        for abort in aborts:
            yield f"the run aborted by {abort['rule']}, which had not tripped"

    def _under_way(self, row: Entry, abort: Entry) -> Iterator[str]:
        """Attempts that were open when the outcome was known that tripped the rule, or left after
        it; and how long it took to notice. All times are the run's own."""
        events = self._history.events
        known = [e["ended_at"] for e in events if e["operation"] == row["operation"]]
        tripped_at = max(ended_at for ended_at in known if ended_at <= abort["at"])
        if abort["at"] > tripped_at + NOTICED_S + self._slack_s:
            late_s = abort["at"] - tripped_at
            yield f"the abort {abort['id']} came {late_s:.3f} s after the outcome that tripped it"
        in_flight = self._job.get("limits", {}).get("in_flight", 1000)
        end = abort["overridden_at"] or math.inf
        under_way = sum(
            event["event"] == "attempt"
            and event["sent_at"] is not None
            and event["sent_at"] < end
            and event["ended_at"] > tripped_at
            for event in events
        )
        if under_way > in_flight:
            yield (
                f"{under_way} attempts were under way or left after the abort {abort['id']};"
                f" at most {in_flight} may be in flight"
            )

    def _line(self, row: Entry) -> int:
        return int(self._by_id[row["operation"]]["line"])

    # ---- protect

    def _caps(self) -> Iterator[str]:
        most = self._job.get("protect", {}).get("max_operations")
        if most is None:
            return
        attempted = {(e["device"], e["certSn"]) for e in self._requests if self._is_send(e)}
        if len(attempted) > most:
            yield f"{len(attempted)} operations were attempted, but at most {most} may be"
        claimed = {
            o["id"] for o in self._history.operations if o["attempts"] or o["state"] == "in_flight"
        }
        if len(claimed) > most:
            yield f"{len(claimed)} operations were claimed, but at most {most} may be"

    def _is_send(self, entry: Entry) -> bool:
        return entry["action"] in self._rules.sends

    def _never(self) -> Iterator[str]:
        for request in self._requests:
            if request["action"] in NO_OPERATION or "=" not in request["device"]:
                continue
            fields = dict(part.partition("=")[::2] for part in request["device"].split("&"))
            if request["certSn"] is not None:
                fields = dict.fromkeys(SERIALS, str(request["certSn"])) | fields
            if is_protected(fields, self._history.never):
                yield (
                    f"{request['action']} of {request['device']} (request {request['n']}):"
                    " must never be touched"
                )

    # ---- rate

    def _rates(self) -> Iterator[str]:
        for rate in self._steering.rates:
            begin, end = rate.begin + RATE_S, rate.end
            arrived = sorted(e["at"] for e in self._requests if begin <= e["at"] < end)
            most, when = busiest_second(arrived)
            if most > rate.most + self._given.jitter:
                yield f"{most} requests arrived in the second from {when:.3f}; rate {rate.most}"
            slack_s = self._slack_s
            left = sorted(s.at for s in self._departures if begin + slack_s <= s.at < end - slack_s)
            most, when = busiest_second(left)
            if most > rate.most:
                yield f"{most} requests left in the second from {when:.3f}; rate {rate.most}"

    # ---- controls

    def _controls(self) -> Iterator[str]:
        recorded = [
            (row["verb"], "" if row["value"] is None else str(row["value"]))
            for row in self._history.tables["controls"]
        ]
        rest = iter(recorded)
        for control in self._steering.controls:
            if control not in rest:  # which also moves on behind it
                yield f"the control {' '.join(control)} was confirmed, but is not on record"
                return


# ---- what the job file says


class AbortLimits:
    """The limits of `[abort]`, applied to one settled operation after another.

    Args:
        section: the section of the job file.
    """

    def __init__(self, section: dict[str, Any]) -> None:
        self._limits = {rule: limit_of(value) for rule, value in section.items()}
        self._seen: dict[str, list[bool]] = {rule: [] for rule in section}

    def judge(self, state: str, code: Any, wave: int) -> list[str]:
        """Look at one more; return the rules that have tripped."""
        tripped = []
        for rule, (most, among) in self._limits.items():
            if rule == "canary" and wave:
                continue
            failed, unknown = state in {"failed", "flawed"}, state == "unknown"
            bad = {"failed": failed, "unknown": unknown, "canary": failed or unknown}.get(
                rule, (failed or unknown) and str(code) == rule
            )
            seen = self._seen[rule]
            seen.append(bad)
            if sum(seen[-among:] if among else seen) > most:
                tripped.append(rule)
        return tripped


def limit_of(value: Any) -> tuple[int, int]:
    """Read a limit: how many are tolerated, among how many; 0 for all."""
    if "%" not in str(value):
        return int(value), 0
    share, _, among = value.partition("% of ")
    return math.floor(Fraction(share) / 100 * int(among)), int(among)


def waves_of(total: int, rollout: dict[str, Any]) -> list[tuple[str, int]]:
    """The name of each wave and its number of targets."""
    sizes: list[tuple[str, int]] = []
    if rollout.get("canary"):
        sizes.append(("canary", rollout["canary"]))
    for value in rollout.get("waves", ()):
        if isinstance(value, str):
            share = Fraction(value.rstrip("% ")) / 100
            sizes.append((value, max(1, math.floor(share * total))))
        else:
            sizes.append((str(value), value))
    waves, done = [], 0
    for name, size in [*sizes, ("rest", total)]:
        if min(size, total) > done:
            waves.append((name, min(size, total) - done))
            done = min(size, total)
    return waves


def seconds(value: Any) -> float:
    """Read a duration such as "10m"."""
    if not isinstance(value, str):
        return float(value)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number = value.rstrip("msh d")
    return float(number) * units[value[len(number) :].strip()]
