"""The history checker of the event log: is the chain sound, and does it tell what happened?

In: a `history.History`, what is known of its circumstances, what was done to the run from outside,
and how its processes ended. Out: a list of violations; empty for a log that is sound and true. Like
`history`, it is an oracle, so it uses no code of `bulkcert`: it reads the table `events` of the
checkpoint and `events.jsonl` as lines of JSON, and computes the digests itself.

What is checked:

    chain       numbers without gaps, each line with the SHA-256 digest of the line before, types
                and fields as documented
    file        is the table, line by line; after a death it may be torn or behind
    plan        changes only where it is amended
    processes   each has begun and ended, one after the other, with its exit code; one that was
                killed is noticed by the next
    waves       begin and end in order, at the right time, and their counts add up
    states      change; and while the log says that nothing is sent, nothing leaves
    controls    each one on record was asked for, and each one that was confirmed is in force
    aborts      are those on record, and so are the overrides
    approvals   are there before the first request of an operation
    figures     the outcomes add up, and are those of the checkpoint at the end
    privacy     no event names a device or a certificate
    notify      the command got each event at least once, in order

In a shared store several processes work at the same time, each with a lease, which names it in the
log: a lease begins once, ends once or is fenced, and logs nothing before and after that. When the
run is quiet depends on all of them; that is judged by `campaign_history` alone.

Tolerances are those of `campaign_history`. A state is written in the commit that finds it, and
obeyed after that commit: see `IN_FORCE_S`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from campaign_history import ARRIVAL_S, OPEN, UNSTEERED, USUAL, Steering
from history import IDENTITY, OUTCOMES, Circumstances, History

IN_FORCE_S = 1.0
"""How long the commit that records a state may take on a busy machine: as for an abort."""

LAST_SEEN_S = 5.0
"""A process notes its figures about twice a second, but it may have been paused for a while."""

LOG = "events.jsonl"
FIRST = "0" * 64

COMMON = ("seq", "at", "run", "plan", "type", "previous")
"""The fields of every event."""

FIELDS: dict[str, set[str]] = {
    "started": {"process", "total", "settled", "ceiling", "rehearsal", "options"},
    "ended": {"process", "exit_code", "why", "outcomes", "requests", "throttled", "busiest_second"},
    "fenced": {"process", "by", "silent_s", "operations"},
    "state": {"state", "reasons"},
    "wave": {"wave", "number", "change", "targets"},
    "control": {"change", "number", "verb", "value", "who", "why"},
    "check": {"verdict", "reason"},
    "throttle": {"change", "detail"},
    "breaker": {"before", "now", "reason"},
    "approval": {"who", "key", "expires_at", "statement", "abort"},
    "abort": {"abort", "rule", "text"},
    "override": {"abort", "who", "why"},
    "amendment": {"who", "changes", "before"},
    "retry": {"operations"},
    "recheck": {"who", "why", "operations"},
    "verification": {"agrees", "differs", "not_read", "sha256"},
}
"""The other fields, by type."""

LOST = {"process", "exit_code", "why", "last_seen"}
"""The fields of `ended` if the process could not write it itself."""

STATES = {"running", "paused", "closed", "held", "waiting"}

LEASED = {"process"}
"""In a shared store the other types have this field, too: which process has logged them."""

BY_A_PROCESS = {"state", "wave", "check", "throttle", "breaker", "abort", "retry"}
"""Types that only a process can write that works on the run. All others may also come between."""

OF_THE_RUN = ("state", "check")
"""Types of what is the same for all hosts of a shared store."""

EXIT_CODES = {0, 1, 2, 3, 4}

SHORTEST_NAME = 5
"""Characters. What is shorter, such as the serial 7, may be in a text by chance."""

_WORDS = re.compile(r"[^\w.:-]+")


class Event(NamedTuple):
    """One line of the log."""

    seq: int
    at: float
    type: str
    plan: str
    data: dict[str, Any]

    def __str__(self) -> str:
        return f"event {self.seq} ({self.type})"


class Process(NamedTuple):
    """What a log says about one process: its events from the start to the end.

    Attributes:
        start: the event.
        events: what it wrote in between, and what came in between from others.
        end: the event; None if there is none yet.
    """

    start: Event
    events: list[Event]
    end: Event | None

    @property
    def exit_code(self) -> int | None:
        """None if it was killed or fenced, or if it is not known to have ended."""
        return self.end.data.get("exit_code") if self.end else None


class Span(NamedTuple):
    """A time in which, by the log, nothing leaves."""

    why: str
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How the processes of a run have ended.

    Attributes:
        codes: the exit code of each, in order; negative if a signal ended it.
        notified: what the command of `[notify]` has got, one object per line: each event with its
            digest as `hash`. None if there is no such command.
        all_notified: the command had time to get everything.
    """

    codes: Sequence[int] | None = None
    notified: Sequence[bytes] | None = None
    all_notified: bool = True


UNKNOWN_ENDS = Ends()


def check(
    history: History,
    circumstances: Circumstances = USUAL,
    steering: Steering = UNSTEERED,
    ends: Ends = UNKNOWN_ENDS,
) -> list[str]:
    """List everything that is wrong with the log; empty if nothing is."""
    stored = [str(row["line"]).encode() for row in history.tables["events"]]
    faults = [*chain_faults(stored), *_copy_faults(history.files.get(LOG), stored, circumstances)]
    if faults:  # the rest can't be judged
        return faults
    return list(_Checker(history, circumstances, steering, ends, stored).violations())


# ---- the chain


def chain_faults(lines: Sequence[bytes]) -> Iterator[str]:
    """What is wrong with lines, whatever they are about."""
    previous = FIRST
    names = set()
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            kind = event["type"]
            fields = event.keys() - set(COMMON)
            datetime.fromisoformat(event["at"])
        except (ValueError, KeyError, TypeError) as error:
            yield f"event {number} can't be read: {error!r}"
            return
        if event["seq"] != number:
            yield f"event {number} has the number {event['seq']}"
        if event["previous"] != previous:
            yield f"event {number} does not have the digest of the one before"
        previous = hashlib.sha256(line).hexdigest()
        if kind not in FIELDS:
            yield f"event {number} is of an unknown type: {kind}"
        elif fields not in _forms(kind, event):
            yield f"event {number} ({kind}) has the fields {', '.join(sorted(fields))}"
        if not re.fullmatch(r"[0-9T:-]{19}\.\d{3}Z", event["at"]):
            yield f"event {number} has the time {event['at']}"
        names.add(event["run"])
    if len(names) > 1:
        yield f"the events name several runs: {', '.join(sorted(names))}"


def _forms(kind: str, event: dict[str, Any]) -> list[set[str]]:
    """The sets of fields that it may have."""
    if kind == "ended" and event.get("exit_code") is None:
        return [LOST]
    fields = FIELDS[kind]
    if kind == "wave" and event.get("change") == "over":
        fields = fields | {"outcomes"}
    return [fields, fields | LEASED]


def _copy_faults(
    content: bytes | None, stored: Sequence[bytes], circumstances: Circumstances
) -> Iterator[str]:
    whole = b"".join(line + b"\n" for line in stored)
    if content is None:
        if stored and circumstances.reported:
            yield f"there is no {LOG}"
    elif content == whole:
        return
    elif circumstances.reported and not _is_shared(stored):
        known = len(content.splitlines())
        yield f"{LOG} has {known} lines, which are not the {len(stored)} of the checkpoint"
    elif not whole.startswith(content[: content.rfind(b"\n") + 1]):
        yield f"{LOG} has lines that are not in the checkpoint"


def _is_shared(lines: Sequence[bytes]) -> bool:
    """Whether the run is in a shared store: its processes have leases."""
    return any(b'"lease"' in line for line in lines)


# ---- what it says


class _Checker:
    def __init__(
        self,
        history: History,
        circumstances: Circumstances,
        steering: Steering,
        ends: Ends,
        lines: Sequence[bytes],
    ) -> None:
        self._history, self._given = history, circumstances
        self._steering, self._ends, self._lines = steering, ends, lines
        self._slack_s = circumstances.clock_slack_s
        self._events = [_event(line) for line in lines]
        self._processes: list[Process] = []
        self._shared = _is_shared(lines)
        self._wave_of = {o["id"]: int(o["wave"] or 0) for o in history.operations}
        self._retried = any(event.type == "retry" for event in self._events)

    def violations(self) -> Iterator[str]:
        yield from self._plans()
        yield from self._process_order()
        yield from self._exit_codes()
        yield from self._figures()
        yield from self._waves()
        yield from self._changes()
        yield from self._quiet()
        yield from self._steered()
        yield from self._controls()
        yield from self._aborts()
        yield from self._approvals()
        yield from self._verifications()
        yield from self._privacy()
        yield from self._notified()

    def _of_type(self, *types: str) -> list[Event]:
        return [event for event in self._events if event.type in types]

    def _plans(self) -> Iterator[str]:
        """The plan stays what it is until it is amended."""
        for before, event in itertools.pairwise(self._events):
            follows = event.type == "amendment" and event.data["before"] == before.plan
            if event.plan != before.plan and not follows:
                yield f"{event}: is about the plan {event.plan[:8]}, not {before.plan[:8]}"

    # ---- processes

    def _process_order(self) -> Iterator[str]:
        """One begins when the one before has ended; with leases, each of them begins and ends."""
        running: dict[str, int] = {}  # by lease, the place in the list
        for event in self._events:
            lease = event.data.get("process", {}).get("lease", "")
            if event.type == "started":
                known = {process.start.data["process"].get("lease") for process in self._processes}
                if lease in running:
                    yield f"{event}: the process before has not ended"
                elif lease and lease in known:
                    yield f"{event}: the lease {lease} has begun before"
                running[lease] = len(self._processes)
                self._processes.append(Process(event, [], None))
            elif event.type in {"ended", "fenced"}:
                yield from self._end(event, running.pop(lease, None))
            elif lease in running:
                self._processes[running[lease]].events.append(event)
            elif event.type in BY_A_PROCESS:
                yield f"{event}: no process works on the run"
        if running and self._given.reported:
            starts = [self._processes[place].start.seq for place in running.values()]
            yield f"the process of event {_listed(starts)} has not ended"

    def _end(self, event: Event, place: int | None) -> Iterator[str]:
        if place is None:
            # a host may die between the begin of its lease and its first word
            if event.type != "fenced" or not self._given.died:
                yield f"{event}: no process has started"
            return
        started = self._processes[place].start
        if any(event.data["process"][n] != started.data["process"][n] for n in ("host", "pid")):
            yield f"{event}: is not about the process of event {started.seq}"
        self._processes[place] = self._processes[place]._replace(end=event)

    def _exit_codes(self) -> Iterator[str]:
        known = [process.exit_code for process in self._processes]
        for process in self._processes:
            if process.exit_code not in {*EXIT_CODES, None}:
                yield f"{process.end}: exit code {process.exit_code}"
        yield from self._reported_code()
        if self._ends.codes is None:
            return
        wanted = iter(self._ends.codes)
        for process in self._processes:
            code = process.exit_code
            if not any(code == each or (code is None and each not in {0, 1, 4}) for each in wanted):
                yield (
                    f"the processes have ended with {_listed(known)} in the log,"
                    f" but with {_listed(self._ends.codes)}"
                )
                return
        if self._given.reported and self._ends.codes[-1] != known[-1]:
            yield f"the last process has ended with {self._ends.codes[-1]}, not with {known[-1]}"

    def _reported_code(self) -> Iterator[str]:
        """The summary was written by the last process, so both have its exit code."""
        if not self._given.reported or self._history.summary is None or not self._processes:
            return
        if self._shared:
            return  # whoever ends first reports what it sees
        logged, reported = self._processes[-1].exit_code, self._history.summary["exit_code"]
        if logged != reported:
            yield f"the log ends with the exit code {logged}, summary.json has {reported}"

    # ---- figures

    def _figures(self) -> Iterator[str]:
        # in the order in which they began; hosts end in another one
        sessions = self._history.sessions if self._shared else iter(self._history.sessions)
        most = len(self._history.operations)
        selects = "select" in self._history.job  # what a look-up finds becomes more operations
        before: Counter[str] = Counter()
        for process in sorted(self._processes, key=lambda each: each.end.seq if each.end else 0):
            total = process.start.data["total"]
            if total != most and not (selects and total < most):
                yield f"{process.start}: {total} operations, not {most}"
            if process.end is None or process.exit_code is None:
                before = Counter()  # not known
                continue
            data, outcomes = process.end.data, Counter(process.end.data["outcomes"])
            added_up = outcomes.total()
            if added_up != total and not (selects and total < added_up <= most):
                yield f"{process.end}: the outcomes add up to {added_up}, not to {total}"
            if not self._retried and before - outcomes - Counter(pending=most, unknown=most):
                yield f"{process.end}: fewer operations are settled than before"
            before = outcomes
            names = ("exit_code", "requests", "throttled", "busiest_second")
            if not any(all(row[name] == data[name] for name in names) for row in sessions):
                yield f"{process.end}: has other figures than the process noted"
            ceiling = process.start.data["ceiling"]
            if data["busiest_second"] > ceiling:
                yield f"{process.end}: {data['busiest_second']} requests in a second of {ceiling}"
        if self._given.reported and before:
            states = Counter(OUTCOMES[o["state"]] for o in self._history.operations)
            if before != states:
                yield f"the log ends with {_counts(before)}, the checkpoint has {_counts(states)}"

    # ---- waves

    def _waves(self) -> Iterator[str]:
        rows = {row["number"]: row for row in self._history.tables["waves"]}
        in_wave = Counter(self._wave_of.values())
        open_wave, last = None, -1
        for event in self._of_type("wave"):
            number, change = event.data["number"], event.data["change"]
            row = rows.get(number)
            if row is None or any(
                event.data[ours] != row[theirs]
                for ours, theirs in (("wave", "name"), ("targets", "targets"))
            ):
                yield f"{event}: there is no such wave: {event.data}"
            elif (change, number) == ("begun", last + 1) and open_wave is None:
                open_wave = last = number
                yield from self._nothing_before(event, number)
            elif (change, number) == ("over", open_wave):
                open_wave = None
                yield from self._everything_before(event, number)
                outcomes = Counter(event.data["outcomes"])
                if outcomes["pending"]:
                    yield f"{event}: {outcomes['pending']} operations are still to be done"
                if not self._retried and outcomes.total() != in_wave[number]:
                    yield (
                        f"{event}: the outcomes add up to {outcomes.total()},"
                        f" but it has {in_wave[number]} operations"
                    )
            else:
                yield f"{event}: wave {number} {change} after wave {last}"
        touched = [self._wave_of[o["id"]] for o in self._history.operations if o["attempts"]]
        if rows and touched and max(touched) > last:
            yield f"wave {max(touched)} has not begun in the log"
        settled = all(o["state"] not in OPEN for o in self._history.operations)
        if rows and settled and (open_wave is not None or last < max(rows)):
            yield f"everything is settled, but the log ends in wave {last}"

    def _nothing_before(self, event: Event, number: int) -> Iterator[str]:
        """Nothing of the wave has left before it has begun."""
        for entry in self._history.events:
            sent_at = entry["sent_at"]
            if self._retried or entry["event"] not in {"attempt", "look_up"} or sent_at is None:
                continue
            wave = self._wave_of[entry["operation"]]
            if wave == number and sent_at < event.at - self._slack_s:
                yield f"{event}: {entry['event']} of wave {number} left before"
                return

    def _everything_before(self, event: Event, number: int) -> Iterator[str]:
        """Everything of the wave was settled before it was over."""
        for operation in self._history.operations:
            ended_at = operation["finished_at"]
            late = ended_at is None or ended_at > event.at + self._slack_s
            if self._wave_of[operation["id"]] == number and late and not self._retried:
                yield f"{event}: line {operation['line']} was not settled yet"
                return

    # ---- states

    def _changes(self) -> Iterator[str]:
        """Whoever changes something says what was before, and changes it."""
        for process in self._processes:
            before: dict[str, Any] = {"breaker": "closed"}
            for event in process.events:
                data = event.data
                match event.type:
                    case "state":
                        value = (data["state"], tuple(data["reasons"]))
                        if data["state"] not in STATES:
                            yield f"{event}: unknown state {data['state']}"
                        if (data["state"] == "running") != (not data["reasons"]):
                            yield f"{event}: is {data['state']} for {_listed(data['reasons'])}"
                    case "check":
                        value = (data["verdict"], data["reason"])
                        if data["verdict"] not in {"go", "hold", "abort"}:
                            yield f"{event}: unknown verdict {data['verdict']}"
                    case "throttle":
                        value = data["change"]
                        if value == "over" and before.get("throttle") != "begun":
                            yield f"{event}: is over, but had not begun"
                    case "breaker":
                        value = data["now"]
                        if data["before"] != before["breaker"]:
                            yield f"{event}: from {data['before']}, but was {before['breaker']}"
                    case _:
                        continue
                of_run = self._shared and event.type in OF_THE_RUN
                if before.get(event.type) == value and not of_run:
                    yield f"{event}: says the same as the one before"
                before[event.type] = value
        if self._shared:
            yield from self._changes_of_run()

    def _changes_of_run(self) -> Iterator[str]:
        """What is the same for all hosts is logged by the first one that notices it. Two hosts may
        notice it at the same moment; one host never says it twice."""
        last: dict[str, tuple[Any, Any]] = {}
        for event in self._of_type(*OF_THE_RUN):
            data = dict(event.data)
            said = (data.pop("process", None), data)
            if last.get(event.type) == said:
                yield f"{event}: says the same as the one before"
            last[event.type] = said

    def _spans(self) -> Iterator[Span]:
        """When nothing leaves: before the first process, between two of them, and in every state
        other than running. After an abort there are no states, and look-ups may leave."""
        if self._shared:
            return
        begin, why = -math.inf, "no process had started"
        for process in self._processes:
            yield Span(why, begin, process.start.at)
            end_at = process.end.at if process.end else math.inf
            span: Span | None = None
            for event in process.events:
                is_over = event.type == "abort" or event.data.get("state") == "running"
                if is_over and span is not None:
                    yield span._replace(end=event.at)
                    span = None
                elif event.type == "state" and not is_over and span is None:
                    what = f"was {event.data['state']} (event {event.seq})"
                    span = Span(what, event.at, math.inf)
            if span is not None:
                yield span._replace(end=end_at)
            begin, why = end_at, "the process had ended"
        if begin < math.inf:
            yield Span(why, begin, math.inf)

    def _quiet(self) -> Iterator[str]:
        """Nothing leaves where the log says so, nor long after a killed process was last seen."""
        slack_s = self._slack_s
        departures = [
            (f"{e['event']} {e['attempt']} of operation {e['operation']}", e["sent_at"])
            for e in self._history.events
            if e["event"] in {"attempt", "look_up"} and e["sent_at"] is not None
        ]
        requests = [
            (f"{e['action']} {e['device']} (request {e['n']})", e["at"])
            for e in self._history.ledger
            if e["n"] > self._given.earlier
        ]
        unseen = [
            Span("its process had not been seen for long", seen_s + LAST_SEEN_S, end_s)
            for seen_s, end_s in self._unseen()
        ]
        for span in [*self._spans(), *unseen]:
            for what, at in departures:
                if span.begin + IN_FORCE_S + slack_s < at < span.end - slack_s:
                    yield f"{what} left, but {span.why}"
            for what, at in requests:
                if span.begin + IN_FORCE_S + ARRIVAL_S + slack_s < at < span.end - slack_s:
                    yield f"{what} arrived, but {span.why}"

    def _unseen(self) -> Iterator[tuple[float, float]]:
        """From when to when each killed process was not seen."""
        for process in self._processes:
            if process.end is not None and "last_seen" in process.end.data:
                yield _moment(process.end.data["last_seen"]), process.end.at

    def _steered(self) -> Iterator[str]:
        """What was confirmed to keep the run quiet is in the log. A killed process is quiet too."""
        spans = [(span.begin, span.end) for span in self._spans()] + [*self._unseen()]
        if self._shared:
            return
        for quiet in self._steering.quiet:
            at = quiet.begin
            if at == math.inf or self._slack_s > 1.0:
                continue  # never confirmed; or the clock of the log was set
            if not any(begin <= at + self._slack_s and at < end for begin, end in spans):
                yield f"the run was {quiet.why} from {at:.3f}, but is running in the log"

    # ---- controls and aborts

    def _controls(self) -> Iterator[str]:
        names = ("verb", "value", "who", "why")
        asked = {
            e.data["number"]: e for e in self._of_type("control") if e.data["change"] == "asked"
        }
        rows = {row["id"]: row for row in self._history.tables["controls"]}
        for number in sorted(asked.keys() ^ rows.keys()):
            where = "log" if number in asked else "checkpoint"
            yield f"control {number} is only in the {where}"
        for number in sorted(asked.keys() & rows.keys()):
            event, row = asked[number], rows[number]
            if any(event.data[name] != (row[name] or "") for name in names):
                yield f"{event}: is not control {number} of the checkpoint: {event.data}"
        in_force = [e for e in self._of_type("control") if e.data["change"] == "in_force"]
        for event in in_force:
            before = asked.get(event.data["number"])
            if before is None or before.seq > event.seq:
                yield f"{event}: control {event.data['number']} was not asked for"
            elif any(event.data[name] != before.data[name] for name in names):
                yield f"{event}: differs from what was asked for: {event.data}"
        yield from self._noted_controls({event.data["number"] for event in in_force})

    def _noted_controls(self, in_force: set[int]) -> Iterator[str]:
        """A control that came while a process worked, and that it has noted, is in force."""
        if self._shared or len(self._processes) != len(self._history.sessions):
            return  # one died before it noted anything
        for process, session in zip(self._processes, self._history.sessions, strict=True):
            for event in process.events:
                asked = event.type == "control" and event.data["change"] == "asked"
                if asked and session["control"] >= event.data["number"] not in in_force:
                    yield (
                        f"control {event.data['number']} is not in force in the log,"
                        " but its process has noted it"
                    )

    def _aborts(self) -> Iterator[str]:
        rows = self._history.tables["aborts"]
        aborts = [(e.data["abort"], e.data["rule"], e.data["text"]) for e in self._of_type("abort")]
        known = [(row["id"], row["rule"], row["text"]) for row in rows]
        if aborts != known:
            yield f"the log has the aborts {_listed(aborts)}, the checkpoint {_listed(known)}"
        overrides = [
            (e.data["abort"], e.data["who"], e.data["why"]) for e in self._of_type("override")
        ]
        known = [(r["id"], r["who"], r["why"]) for r in rows if r["overridden_at"] is not None]
        if overrides != known:
            yield f"the log has the overrides {_listed(overrides)}, the checkpoint {_listed(known)}"
        pending = ""
        for event in self._events:
            if event.type == "abort":
                if pending:
                    yield f"{event}: {pending} was not overridden"
                pending = event.data["abort"]
            elif event.type == "override":
                if event.data["abort"] != pending:
                    yield f"{event}: {event.data['abort']} is not what stopped the run"
                pending = ""
            elif event.type == "wave" and event.data["change"] == "begun" and pending:
                yield f"{event}: begins though {pending} has stopped the run"
            elif event.type == "ended" and pending and event.data["exit_code"] not in {4, None}:
                yield f"{event}: exit code {event.data['exit_code']} after the abort {pending}"

    # ---- approvals

    def _approvals(self) -> Iterator[str]:
        """As many people as the job wants have approved, before anything of an operation left."""
        required = self._history.job.get("approval", {}).get("required", 0)
        departures = [
            e["sent_at"]
            for e in self._history.events
            if e["event"] in {"attempt", "look_up"} and e["sent_at"] is not None
        ]
        if not required or not departures:
            return
        first_s = min(departures) + self._slack_s
        approvals = [e for e in self._of_type("approval") if not e.data["abort"]]
        people = {e.data["who"] for e in approvals if e.at <= first_s}
        if len(people) < required:
            yield f"{len(people)} people have approved before the first request, not {required}"
        for event in self._of_type("override"):
            approvals = self._of_type("approval")
            people = {e.data["who"] for e in approvals if e.data["abort"] == event.data["abort"]}
            if len(people) < required:
                yield f"{event}: {len(people)} people have approved it, not {required}"

    def _verifications(self) -> Iterator[str]:
        events = self._of_type("verification")
        for event in events:
            counts = [event.data[name] for name in ("agrees", "differs", "not_read")]
            if sum(counts) > len(self._history.operations):
                yield f"{event}: {sum(counts)} operations were verified"
        content = self._history.files.get("verify.jsonl")
        if not events or content is None:
            return
        if hashlib.sha256(content).hexdigest() != events[-1].data["sha256"]:
            yield f"{events[-1]}: verify.jsonl has another digest"

    # ---- privacy

    def _privacy(self) -> Iterator[str]:
        parameters = self._history.job.get("parameters", {})
        named = {
            str(operation["fields"][name])
            for operation in self._history.operations
            for name in IDENTITY
            if name in operation["fields"] and name not in parameters and name != "CaSn"
        }
        long = {name for name in named if len(name) >= SHORTEST_NAME}
        for event in self._events:
            for text in _texts(event.data):
                for name in sorted(long.intersection(_WORDS.split(text))):
                    yield f"{event}: names {name}: {text}"

    # ---- notify

    def _notified(self) -> Iterator[str]:
        if self._ends.notified is None:
            return
        last = 0
        for line in self._ends.notified:
            try:
                got = json.loads(line)
                digest, seq = got.pop("hash", None), got.get("seq")
            except (ValueError, AttributeError):
                yield f"the command got something else than an event: {line!r}"
                continue
            if seq is None and got.get("type") == "ended" and self._given.died:
                continue  # the store could not be written any more
            known = self._line(seq)
            if got != json.loads(known) or digest != hashlib.sha256(known).hexdigest():
                yield f"the command got an event {seq} that is not that of the log"
                continue
            if seq > last + 1:
                yield f"the command got event {seq} after event {last}"
            last = max(last, seq)
        if self._ends.all_notified and last < len(self._lines):
            yield f"the command got {last} events, the log has {len(self._lines)}"

    def _line(self, seq: Any) -> bytes:
        known = isinstance(seq, int) and 0 < seq <= len(self._lines)
        return self._lines[seq - 1] if known else b"null"


def _event(line: bytes) -> Event:
    data = json.loads(line)
    seq, at, _, plan, kind, _ = (data.pop(name) for name in COMMON)
    return Event(seq, _moment(at), kind, plan, data)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from itertools.chain.from_iterable(map(_texts, value.values()))
        case list():
            yield from itertools.chain.from_iterable(map(_texts, value))


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "nothing"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{many} {name}" for name, many in sorted((+counts).items()))
