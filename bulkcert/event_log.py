"""The log of a run: what happened to it, each event chained to the one before. Pure.

In: what happened. Out: events with a number and the digest of the event before, so that nobody can
change, remove or insert one without changing all that follow; and what is wrong with such a chain.
The store keeps the log; docs/events.md describes it. An event never names a device, nor contains
text that may: of what a provider said it has the code alone.

A process is named by its host and its number. In a shared store its lease identifies it besides,
and all that a host logs names the process, because several of them work on the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

import orjson

from bulkcert.control import ControlEntry
from bulkcert.json_lines import as_json, utc
from bulkcert.model import Outcome
from bulkcert.rules.check import CheckResult
from bulkcert.rules.gate import Reason

FIRST = "0" * 64
"""What stands for the digest of the event before the first one."""


class EventType(StrEnum):
    """What an event is about. A closed set."""

    STARTED = "started"
    ENDED = "ended"
    FENCED = "fenced"
    STATE = "state"
    WAVE = "wave"
    CONTROL = "control"
    CHECK = "check"
    THROTTLE = "throttle"
    BREAKER = "breaker"
    APPROVAL = "approval"
    ABORT = "abort"
    OVERRIDE = "override"
    AMENDMENT = "amendment"
    RETRY = "retry"
    RECHECK = "recheck"
    VERIFICATION = "verification"


class Happened(NamedTuple):
    """Something that has happened, and is not in the log yet.

    Attributes:
        at: when, as Unix time in seconds.
        type: what it is about.
        data: the fields that an event of this type has.
    """

    at: float
    type: EventType
    data: Mapping[str, Any]

    def by(self, process: Mapping[str, Any]) -> Happened:
        """The same, with the process that logs it: where several may work on the run.

        Args:
            process: its host, its number and its lease; what is about a process names that one.
        """
        if "process" in self.data:
            return self
        return self._replace(data={"process": dict(process), **self.data})


class RunEvent(NamedTuple):
    """One event of the log.

    Attributes:
        seq: its number, from 1.
        at: when it happened, as Unix time in seconds.
        run: the name of the run.
        plan: the hash of the plan at that time.
        type: what it is about.
        data: the fields that an event of this type has.
        previous: the hash of the event before; `FIRST` if there is none.
    """

    seq: int
    at: float
    run: str
    plan: str
    type: EventType
    data: Mapping[str, Any]
    previous: str

    @property
    def line(self) -> bytes:
        """The event as one line of `events.jsonl`, without the line end."""
        return as_json(self.as_object())

    @property
    def hash(self) -> str:
        """The SHA-256 digest of the line, in hexadecimal digits."""
        return hashlib.sha256(self.line).hexdigest()

    def as_object(self) -> dict[str, Any]:
        """The JSON object of the line."""
        return {
            "seq": self.seq,
            "at": utc(self.at),
            "run": self.run,
            "plan": self.plan,
            "type": str(self.type),
            **self.data,
            "previous": self.previous,
        }

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Return the event of a line.

        Raises:
            ValueError: it is not one.
        """
        fields = orjson.loads(line)
        if not isinstance(fields, dict):
            raise ValueError("is not a JSON object")
        try:
            seq, at, run, plan = (fields.pop(name) for name in ("seq", "at", "run", "plan"))
            kind, previous = fields.pop("type"), fields.pop("previous")
        except KeyError as error:
            raise ValueError(f"has no field {error}") from None
        if type(seq) is not int or not all(isinstance(t, str) for t in (at, run, plan, previous)):
            raise ValueError("has a field of another type")
        at_s = datetime.fromisoformat(at).timestamp()
        return cls(seq, at_s, run, plan, EventType(kind), fields, previous)


def following(before: RunEvent | None, run: str, plan: str, happened: Happened) -> RunEvent:
    """Return the event that follows another one; the first one if there is none."""
    seq, previous = (before.seq + 1, before.hash) if before else (1, FIRST)
    return RunEvent(seq, happened.at, run, plan, happened.type, happened.data, previous)


def unrecorded(run: str, plan: str, happened: Happened) -> dict[str, Any]:
    """The JSON object of what has happened and could not become an event of the log."""
    around = {"at": utc(happened.at), "run": run, "plan": plan, "type": str(happened.type)}
    return {**around, **happened.data, "recorded": False}


def chain_fault(lines: Iterable[bytes]) -> str:
    """Say what is wrong with a chain of events; empty if nothing is.

    A chain that was cut at its end is sound: compare its last event with what is known of it.

    Args:
        lines: the lines of `events.jsonl`, with or without their line ends.
    """
    expected, seq = FIRST, 0
    for number, line in enumerate(lines, 1):
        content = line.removesuffix(b"\n")
        try:
            event = RunEvent.parse(content)
        except ValueError as error:
            return f"line {number} is not an event: {error}"
        if event.seq != seq + 1:
            return f"line {number} has the number {event.seq}, not {seq + 1}"
        if event.previous != expected:
            return f"line {number} does not follow from the line before it"
        seq, expected = event.seq, hashlib.sha256(content).hexdigest()
    return ""


# ---- what happens, by type


def started(
    at: float,
    *,
    process: Mapping[str, Any],
    total: int,
    settled: int,
    ceiling: float,
    rehearsal: bool,
    options: Sequence[str],
) -> Happened:
    """A process has begun to work on the run.

    Args:
        at: when.
        process: its host, its number, its user and the version of bulkcert; in a shared store its
            lease besides.
        total: operations of the run.
        settled: how many of them were settled before.
        ceiling: requests per second.
        rehearsal: it is a rehearsal.
        options: what else it was asked to do, such as "no-wait".
    """
    data = {
        "process": dict(process),
        "total": total,
        "settled": settled,
        "ceiling": ceiling,
        "rehearsal": rehearsal,
        "options": list(options),
    }
    return Happened(at, EventType.STARTED, data)


def ended(
    at: float,
    exit_code: int,
    why: str,
    outcomes: Mapping[Outcome, int],
    *,
    process: Mapping[str, Any],
    requests: int,
    throttled: int,
    busiest_second: int,
) -> Happened:
    """A process has ended its work on the run.

    Args:
        at: when.
        exit_code: of the process.
        why: why it ended early, as a sentence; empty if the run is over.
        outcomes: operations by outcome.
        process: its host and its number; in a shared store its lease besides.
        requests: how many it has sent.
        throttled: responses that asked it to slow down.
        busiest_second: most requests in any rolling second.
    """
    data = {
        "process": dict(process),
        "exit_code": exit_code,
        "why": why,
        "outcomes": {str(outcome): outcomes.get(outcome, 0) for outcome in Outcome},
        "requests": requests,
        "throttled": throttled,
        "busiest_second": busiest_second,
    }
    return Happened(at, EventType.ENDED, data)


def lost(at: float, process: Mapping[str, Any], last_seen: float) -> Happened:
    """A process is known to have ended without a word: it was killed, or lost its store.

    Args:
        at: when that was noticed.
        process: its host and its number.
        last_seen: when it last noted its figures, as Unix time in seconds.
    """
    data = {
        "process": dict(process),
        "exit_code": None,
        "why": "the process was killed, or could not write its store any more",
        "last_seen": utc(last_seen),
    }
    return Happened(at, EventType.ENDED, data)


def fenced(
    at: float, process: Mapping[str, Any], *, by: str, silent_s: float, operations: int
) -> Happened:
    """A host of a shared store was silent for too long: it may send nothing more.

    Args:
        at: when, by the clock of the store.
        process: its host, its number and its lease.
        by: the name of the host that has noticed it.
        silent_s: for how long, by the monotonic clock of that host.
        operations: how many operations it had, which others may take over now.
    """
    data = {
        "process": dict(process),
        "by": by,
        "silent_s": round(silent_s, 1),
        "operations": operations,
    }
    return Happened(at, EventType.FENCED, data)


def state(at: float, reasons: Sequence[Reason]) -> Happened:
    """The rules have begun or ceased to let nothing leave; no reasons if everything may."""
    name = str(reasons[0].kind) if reasons else "running"
    return Happened(at, EventType.STATE, {"state": name, "reasons": list(map(str, reasons))})


def wave_begun(at: float, name: str, number: int, targets: int) -> Happened:
    """A wave has begun."""
    data = {"wave": name, "number": number, "change": "begun", "targets": targets}
    return Happened(at, EventType.WAVE, data)


def wave_over(
    at: float, name: str, number: int, targets: int, outcomes: Mapping[Outcome, int]
) -> Happened:
    """Every operation of a wave is settled."""
    data = {
        "wave": name,
        "number": number,
        "change": "over",
        "targets": targets,
        "outcomes": {str(outcome): many for outcome, many in outcomes.items() if many},
    }
    return Happened(at, EventType.WAVE, data)


def control(at: float, entry: ControlEntry, *, in_force: bool) -> Happened:
    """Somebody has asked something of the run, or a process obeys it from now on."""
    data = {
        "change": "in_force" if in_force else "asked",
        "number": entry.id,
        "verb": str(entry.verb),
        "value": entry.value,
        "who": entry.who,
        "why": entry.why,
    }
    return Happened(at, EventType.CONTROL, data)


def checked(result: CheckResult) -> Happened:
    """The outside check says something else than before."""
    data = {"verdict": str(result.verdict), "reason": result.reason}
    return Happened(result.ended_s, EventType.CHECK, data)


def throttled(at: float, detail: str, *, over: bool = False) -> Happened:
    """The provider has begun to slow the run down, or has ceased to."""
    change = "over" if over else "begun"
    return Happened(at, EventType.THROTTLE, {"change": change, "detail": detail})


def breaker(at: float, before: str, now: str, reason: str) -> Happened:
    """The circuit breaker has changed its state.

    Args:
        at: when.
        before, now: its states.
        reason: the provider's commonest code; empty if there is none.
    """
    return Happened(at, EventType.BREAKER, {"before": before, "now": now, "reason": reason})


def approved(
    at: float, *, who: str, key: str, expires_at: float, statement: bytes, abort: str
) -> Happened:
    """Somebody's approval was used to begin the plan, or to go on after an abort.

    Args:
        at: when.
        who: the name in the signers file.
        key: the fingerprint of the key.
        expires_at: until when it counts, as Unix time in seconds.
        statement: what was signed.
        abort: the id of the abort; empty for the plan.
    """
    data = {
        "who": who,
        "key": key,
        "expires_at": utc(expires_at),
        "statement": hashlib.sha256(statement).hexdigest(),
        "abort": abort,
    }
    return Happened(at, EventType.APPROVAL, data)


def aborted(at: float, abort: str, rule: str, text: str) -> Happened:
    """A rule has stopped the run."""
    return Happened(at, EventType.ABORT, {"abort": abort, "rule": rule, "text": text})


def overridden(at: float, abort: str, who: str, why: str) -> Happened:
    """Somebody goes on nevertheless."""
    return Happened(at, EventType.OVERRIDE, {"abort": abort, "who": who, "why": why})


def amended(at: float, who: str, changes: Sequence[str], before: str) -> Happened:
    """The limits or rules of the run have changed.

    Args:
        at: when.
        who: who did that.
        changes: what has changed, one phrase each.
        before: the hash of the plan until then.
    """
    data = {"who": who, "changes": list(changes), "before": before}
    return Happened(at, EventType.AMENDMENT, data)


def retried(at: float, operations: int) -> Happened:
    """Failed and unknown operations were put back to work."""
    return Happened(at, EventType.RETRY, {"operations": operations})


def rechecked(at: float, who: str, why: str, operations: int) -> Happened:
    """Somebody lets the run go on after its store has lost commits.

    Args:
        at: when, by the clock of the store.
        who, why: who that is, and the reason that was given.
        operations: how many are looked up before anything is sent for them.
    """
    return Happened(at, EventType.RECHECK, {"who": who, "why": why, "operations": operations})


def verified(at: float, agrees: int, differs: int, not_read: int, digest: str) -> Happened:
    """The devices of the run were read back.

    Args:
        at: when.
        agrees, differs, not_read: number of operations by verdict.
        digest: the SHA-256 digest of `verify.jsonl`.
    """
    data = {"agrees": agrees, "differs": differs, "not_read": not_read, "sha256": digest}
    return Happened(at, EventType.VERIFICATION, data)
