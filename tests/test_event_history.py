"""The checker of the event log finds what is wrong: a good log, and mutations of it.

The log is that of the made-up campaign: one process until the abort, one that goes on after its
override and is killed, and one that finishes the run. Each mutation is one that a bug in the engine
could cause, or somebody who edits the log, and the checker must name it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from event_history import FIRST, LOG, Ends, check
from history import OUTCOMES, Circumstances
from sample_campaign import BEGUN, FAILED, TAKES_S, TARGETS, WAVES, Campaign

KILLED_AFTER = 30
"""The last operation of the process that is killed."""

PROCESS = {"host": "ops1", "pid": 7, "user": "ann", "version": "1.0"}
CODES = [4, -9, 1]

Fields = dict[str, Any]


class LoggedCampaign(Campaign):
    """The campaign with its event log, which can be changed until it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Fields] = []
        self.notified: list[bytes] | None = None
        self._processes()
        self._what_happened()
        self.log.sort(key=lambda event: float(event["at"]))

    def _add(self, at: float, type_: str, **data: Any) -> None:
        self.log.append({"at": at, "type": type_, **data})

    def _processes(self) -> None:
        abort_end = self.abort["at"] + 1.0
        killed_at = self.operation(KILLED_AFTER)["finished_at"]
        over_at = self.at + 1.0
        figures = {"process": PROCESS, "requests": 20, "throttled": 0, "busiest_second": 19}
        common = {"total": TARGETS, "ceiling": 20.0, "rehearsal": False, "process": PROCESS}
        self._add(BEGUN - 1, "started", settled=0, options=[], **common)
        approval = {"statement": "s", "expires_at": "2026-01-01T00:00:00.000Z"}
        for at, abort in [(BEGUN - 1, ""), (self.abort["overridden_at"], "k7pf")]:
            for who in ("ann", "bob"):
                self._add(at, "approval", who=who, key=f"key of {who}", abort=abort, **approval)
        self._add(
            abort_end,
            "ended",
            exit_code=4,
            why="The rules have stopped the run.",
            outcomes=self.outcomes(abort_end),
            **figures,
        )
        self._add(
            self.abort["overridden_at"], "started", settled=17, options=["override=k7pf"], **common
        )
        self._add(
            killed_at,
            "ended",
            exit_code=None,
            why="killed",
            last_seen=_utc(killed_at - 0.5),
            process=PROCESS,
        )
        self._add(killed_at, "started", settled=30, options=[], **common)
        self._add(over_at, "ended", exit_code=1, why="", outcomes=self.outcomes(over_at), **figures)
        self.history.sessions.extend(
            figures | {"exit_code": code, "control": control}
            for code, control in [(4, 3), (None, 4), (1, 5)]
        )
        self._add(
            over_at + 10,
            "verification",
            agrees=37,
            differs=0,
            not_read=0,
            sha256=hashlib.sha256(b"{}\n").hexdigest(),
        )
        self.history.files["verify.jsonl"] = b"{}\n"

    def _what_happened(self) -> None:
        for number, (name, size) in enumerate(WAVES):
            of_wave = [o for o in self.history.operations if o["wave"] == number]
            first, last_s = of_wave[0]["id"], max(o["finished_at"] for o in of_wave)
            sent_at = min(e["sent_at"] for e in self.history.events if e["operation"] == first)
            wave = {"wave": name, "number": number, "targets": size}
            self._add(sent_at - 0.01, "wave", change="begun", **wave)
            outcomes = Counter(OUTCOMES[o["state"]] for o in of_wave)
            self._add(last_s, "wave", change="over", outcomes=dict(outcomes), **wave)
        for row in self.history.tables["controls"]:
            control = {name: row[name] for name in ("verb", "value", "who", "why")}
            self._add(row["at"], "control", change="asked", number=row["id"], **control)
            self._add(row["at"], "control", change="in_force", number=row["id"], **control)
        reasons = ["paused (by ann@ops1)"]
        self._add(self.pause.begin, "state", state="paused", reasons=reasons)
        self._add(self.pause.end, "state", state="running", reasons=[])
        names = ("rule", "text")
        self._add(
            self.abort["at"],
            "abort",
            abort=self.abort["id"],
            **{name: self.abort[name] for name in names},
        )
        self.abort.update({"who": "bob@ops1", "why": "they are spares"})
        self._add(
            self.abort["overridden_at"] - 0.1,
            "override",
            abort=self.abort["id"],
            who="bob@ops1",
            why="they are spares",
        )
        self._add(self.rate.begin, "throttle", change="begun", detail="429")
        self._add(self.rate.begin + 0.1, "breaker", before="closed", now="open", reason="5xx")
        self._add(self.rate.begin + 0.2, "breaker", before="open", now="closed", reason="")
        self._add(self.rate.begin + 0.3, "throttle", change="over", detail="")
        self._add(BEGUN - 0.9, "check", verdict="go", reason="")
        self._add(BEGUN - 0.5, "check", verdict="go", reason="all is well")

    def outcomes(self, at: float) -> Fields:
        """The outcomes at a time."""
        found = Counter(
            OUTCOMES[o["state"]] if o["finished_at"] <= at else "pending"
            for o in self.history.operations
        )
        return {name: found[name] for name in dict.fromkeys(OUTCOMES.values())}

    # ---- for mutations

    def all_of(self, type_: str, **data: Any) -> list[Fields]:
        """The events of a type with this data, in order."""
        return [
            event for event in self.log if event["type"] == type_ and data.items() <= event.items()
        ]

    def one(self, type_: str, **data: Any) -> Fields:
        return self.all_of(type_, **data)[0]

    def lines(self) -> list[bytes]:
        """The log as it is written: numbered and chained."""
        lines: list[bytes] = []
        for number, event in enumerate(self.log, 1):
            common = {"run": "job", "plan": "p" * 64, "seq": number}
            common |= {"plan": event["plan"]} if "plan" in event else {}
            previous = hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST
            fields = event | common | {"at": _utc(event["at"]), "previous": previous}
            lines.append(json.dumps(fields).encode())
        return lines

    def received(self) -> list[bytes]:
        """What the command gets: each event with its digest."""
        return [
            json.dumps(json.loads(line) | {"hash": hashlib.sha256(line).hexdigest()}).encode()
            for line in self.lines()
        ]

    def found(self, *, written: list[bytes] | None = None, **circumstances: Any) -> list[str]:
        """What the checker finds; `written` instead of the log as it is."""
        lines = self.lines() if written is None else written
        self.history.tables["events"] = [
            {"seq": number, "line": line.decode()} for number, line in enumerate(lines, 1)
        ]
        self.history.files.setdefault(LOG, b"".join(line + b"\n" for line in lines))
        ends = Ends(codes=CODES, notified=self.notified)
        return check(self.history, Circumstances(**circumstances), self.steering, ends)


def _utc(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@pytest.fixture
def good() -> LoggedCampaign:
    return LoggedCampaign()


def test_a_good_log_has_no_violations(good: LoggedCampaign) -> None:
    good.history.job["approval"] = {"required": 2}
    good.notified = good.received()
    assert good.found() == []


# ---- mutations of what happened

Mutation = Callable[[LoggedCampaign, random.Random], str]
MUTATIONS: dict[str, Mutation] = {}


def mutation(mutate: Mutation) -> Mutation:
    MUTATIONS[mutate.__name__] = mutate
    return mutate


@mutation
def a_process_has_no_start(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(rng.choice(good.all_of("started")))
    return "no process has started"


@mutation
def a_process_has_no_end(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(rng.choice(good.all_of("ended")[:2]))
    return "the process before has not ended"


@mutation
def an_end_is_about_another_process(good: LoggedCampaign, rng: random.Random) -> str:
    end = rng.choice(good.all_of("ended"))
    end["process"] = PROCESS | rng.choice([{"host": "ops2"}, {"pid": 8}])
    return "is not about the process of event"


@mutation
def the_last_process_has_no_end(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(good.all_of("ended")[-1])
    return "has not ended"


@mutation
def the_exit_code_is_another(good: LoggedCampaign, rng: random.Random) -> str:
    good.all_of("ended")[-1]["exit_code"] = 0
    return "the processes have ended with 4, None, 0 in the log, but with 4, -9, 1"


@mutation
def the_exit_code_is_impossible(good: LoggedCampaign, rng: random.Random) -> str:
    good.all_of("ended")[-1]["exit_code"] = 5
    return "exit code 5"


@mutation
def an_end_counts_an_outcome_twice(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice([good.all_of("ended")[0], good.all_of("ended")[2]])["outcomes"]["failed"] += 1
    return f"the outcomes add up to {TARGETS + 1}, not to {TARGETS}"


@mutation
def an_end_counts_one_outcome_as_another(good: LoggedCampaign, rng: random.Random) -> str:
    outcomes = good.all_of("ended")[-1]["outcomes"]
    outcomes["succeeded"] -= 1
    outcomes["unknown"] += 1
    return "the log ends with 3 failed, 36 succeeded, 1 unknown, the checkpoint has"


@mutation
def an_end_has_other_figures(good: LoggedCampaign, rng: random.Random) -> str:
    good.all_of("ended")[-1][rng.choice(["requests", "throttled"])] += 1
    return "has other figures than the process noted"


@mutation
def a_start_counts_other_operations(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice(good.all_of("started"))["total"] -= 1
    return f"{TARGETS - 1} operations, not {TARGETS}"


@mutation
def a_wave_is_missing(good: LoggedCampaign, rng: random.Random) -> str:
    number = rng.randrange(3)
    for event in good.all_of("wave", number=number):
        good.log.remove(event)
    return f"wave {number + 1} begun after wave {number - 1}"


@mutation
def the_last_wave_does_not_end(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(good.all_of("wave")[-1])
    return "everything is settled, but the log ends in wave 3"


@mutation
def the_last_wave_does_not_begin(good: LoggedCampaign, rng: random.Random) -> str:
    for event in good.all_of("wave", number=3):
        good.log.remove(event)
    return "wave 3 has not begun in the log"


@mutation
def a_wave_begins_twice(good: LoggedCampaign, rng: random.Random) -> str:
    event = rng.choice(good.all_of("wave", change="begun"))
    good.log.insert(good.log.index(event), dict(event))
    return f"wave {event['number']} begun after wave {event['number']}"


@mutation
def a_wave_begins_before_the_one_before_is_over(good: LoggedCampaign, rng: random.Random) -> str:
    number = rng.randrange(3)
    over, begun = (
        good.one("wave", number=number, change="over"),
        good.one("wave", number=number + 1, change="begun"),
    )
    first, second = good.log.index(over), good.log.index(begun)
    good.log[first], good.log[second] = begun, over
    return f"wave {number + 1} begun after wave {number}"


@mutation
def a_wave_begins_too_late(good: LoggedCampaign, rng: random.Random) -> str:
    event = rng.choice(good.all_of("wave", change="begun"))
    event["at"] += 0.2
    return f"of wave {event['number']} left before"


@mutation
def a_wave_ends_too_early(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice(good.all_of("wave", change="over"))["at"] -= TAKES_S / 2
    return "was not settled yet"


@mutation
def a_wave_has_lost_an_operation(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice(good.all_of("wave", change="over"))["outcomes"]["succeeded"] -= 1
    return "the outcomes add up to"


@mutation
def a_wave_ends_with_work_left(good: LoggedCampaign, rng: random.Random) -> str:
    outcomes = rng.choice(good.all_of("wave", change="over"))["outcomes"]
    outcomes |= {"succeeded": outcomes["succeeded"] - 1, "pending": 1}
    return "1 operations are still to be done"


@mutation
def a_wave_has_another_name(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice(good.all_of("wave"))["wave"] = "dodo"
    return "there is no such wave"


@mutation
def something_leaves_while_the_log_says_paused(good: LoggedCampaign, rng: random.Random) -> str:
    good.move(8, rng.uniform(good.pause.begin + 1.5, good.pause.end - 0.1))
    return "attempt 1 of operation 8 left, but was paused"


@mutation
def something_arrives_while_the_log_says_paused(good: LoggedCampaign, rng: random.Random) -> str:
    at = rng.uniform(good.pause.begin + 1.5, good.pause.end - 0.1)
    token = {"action": "token.get", "device": "", "certSn": None, "at": at, "n": 1000}
    good.history.ledger.append(good.history.ledger[0] | token)
    return "token.get  (request 1000) arrived, but was paused"


@mutation
def something_arrives_between_two_processes(good: LoggedCampaign, rng: random.Random) -> str:
    at = good.abort["overridden_at"] - 0.2
    good.history.ledger.append(good.history.ledger[0] | {"at": at, "n": 1000})
    return "(request 1000) arrived, but the process had ended"


@mutation
def something_arrives_before_all_processes(good: LoggedCampaign, rng: random.Random) -> str:
    good.history.ledger.append(good.history.ledger[0] | {"at": BEGUN - 2.0, "n": 1000})
    return "(request 1000) arrived, but no process had started"


@mutation
def a_killed_process_was_last_seen_too_early(good: LoggedCampaign, rng: random.Random) -> str:
    good.one("ended", exit_code=None)["last_seen"] = _utc(BEGUN)
    return "arrived, but its process had not been seen for long"


@mutation
def a_pause_is_not_in_the_log(good: LoggedCampaign, rng: random.Random) -> str:
    for event in good.all_of("state"):
        good.log.remove(event)
    return "the run was paused from"


@mutation
def the_log_ends_a_pause_too_late(good: LoggedCampaign, rng: random.Random) -> str:
    """Or, which is the same, the run goes on too early."""
    event = good.one("state", state="running")
    good.log.remove(event)
    return "left, but was paused"


@mutation
def a_state_is_repeated(good: LoggedCampaign, rng: random.Random) -> str:
    event = good.one("state", state="paused")
    good.log.insert(good.log.index(event), dict(event))
    return "says the same as the one before"


@mutation
def a_state_has_no_reason(good: LoggedCampaign, rng: random.Random) -> str:
    good.one("state", state="paused")["reasons"] = []
    return "is paused for nothing"


@mutation
def a_state_comes_between_two_processes(good: LoggedCampaign, rng: random.Random) -> str:
    event = {"type": "state", "at": 0.0, "state": "paused", "reasons": ["paused"]}
    good.log.insert(0, event)
    return "no process works on the run"


@mutation
def the_breaker_changes_from_another_state(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(good.one("breaker", now="open"))
    return "from open, but was closed"


@mutation
def a_throttle_ends_that_has_not_begun(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(good.one("throttle", change="begun"))
    return "is over, but had not begun"


@mutation
def a_control_was_not_asked_for(good: LoggedCampaign, rng: random.Random) -> str:
    event = rng.choice(good.all_of("control", change="asked"))
    good.log.remove(event)
    return f"control {event['number']} was not asked for"


@mutation
def a_control_is_in_force_before_it_is_asked_for(good: LoggedCampaign, rng: random.Random) -> str:
    number = rng.randrange(1, 6)
    asked = good.one("control", change="asked", number=number)
    good.log.remove(asked)
    good.log.append(asked)
    return f"control {number} was not asked for"


@mutation
def a_control_is_only_in_the_log(good: LoggedCampaign, rng: random.Random) -> str:
    del good.history.tables["controls"][3]
    return "control 4 is only in the log"


@mutation
def a_control_has_another_reason(good: LoggedCampaign, rng: random.Random) -> str:
    event = rng.choice(good.all_of("control", change="asked"))
    event["why"] = "because"
    return f"is not control {event['number']} of the checkpoint"


@mutation
def a_control_comes_into_force_for_another_reason(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice(good.all_of("control", change="in_force"))["who"] = "eve@elsewhere"
    return "differs from what was asked for"


@mutation
def a_control_that_a_process_obeys_is_not_in_force(good: LoggedCampaign, rng: random.Random) -> str:
    event = rng.choice(good.all_of("control", change="in_force"))
    good.log.remove(event)
    return f"control {event['number']} is not in force in the log, but its process has noted it"


@mutation
def an_abort_is_not_in_the_log(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(good.one("abort"))
    return "the log has the aborts nothing, the checkpoint"


@mutation
def an_override_is_not_in_the_log(good: LoggedCampaign, rng: random.Random) -> str:
    good.log.remove(good.one("override"))
    return "the log has the overrides nothing, the checkpoint"


@mutation
def an_override_has_no_reason(good: LoggedCampaign, rng: random.Random) -> str:
    good.one("override")["why"] = ""
    return "the log has the overrides"


@mutation
def an_override_comes_before_the_abort(good: LoggedCampaign, rng: random.Random) -> str:
    override = good.one("override")
    good.log.remove(override)
    good.log.insert(good.log.index(good.one("abort")), override)
    return "k7pf is not what stopped the run"


@mutation
def a_process_ends_well_after_an_abort(good: LoggedCampaign, rng: random.Random) -> str:
    good.one("ended", exit_code=4)["exit_code"] = 3
    return "exit code 3 after the abort k7pf"


@mutation
def an_approval_is_missing(good: LoggedCampaign, rng: random.Random) -> str:
    good.history.job["approval"] = {"required": 2}
    good.log.remove(rng.choice(good.all_of("approval", abort="")))
    return "1 people have approved before the first request, not 2"


@mutation
def one_person_approves_twice(good: LoggedCampaign, rng: random.Random) -> str:
    good.history.job["approval"] = {"required": 2}
    good.one("approval", who="bob")["who"] = "ann"
    return "1 people have approved before the first request, not 2"


@mutation
def an_approval_comes_too_late(good: LoggedCampaign, rng: random.Random) -> str:
    good.history.job["approval"] = {"required": 2}
    rng.choice(good.all_of("approval", abort=""))["at"] += 2.0
    return "1 people have approved before the first request, not 2"


@mutation
def an_override_is_not_approved(good: LoggedCampaign, rng: random.Random) -> str:
    good.history.job["approval"] = {"required": 2}
    good.log.remove(rng.choice(good.all_of("approval", abort="k7pf")))
    return "1 people have approved it, not 2"


@mutation
def the_verification_is_about_another_file(good: LoggedCampaign, rng: random.Random) -> str:
    good.history.files["verify.jsonl"] = b"{}\n{}\n"
    return "verify.jsonl has another digest"


@mutation
def the_verification_counts_too_many(good: LoggedCampaign, rng: random.Random) -> str:
    good.one("verification")["differs"] = 10
    return "47 operations were verified"


@mutation
def an_event_names_a_device(good: LoggedCampaign, rng: random.Random) -> str:
    name = f"A{rng.randrange(1, TARGETS):04}"
    type_, field = rng.choice([("ended", "why"), ("abort", "text"), ("throttle", "detail")])
    text = f"something about {name}, and more"
    good.one(type_)[field] = text
    if type_ == "abort":
        good.abort["text"] = text
    return f"names {name}: something about"


@mutation
def an_event_names_a_device_within_a_list(good: LoggedCampaign, rng: random.Random) -> str:
    good.one("state", state="paused")["reasons"] = ["paused (by ann: A0007)"]
    return "names A0007"


@mutation
def the_command_misses_an_event(good: LoggedCampaign, rng: random.Random) -> str:
    number = rng.randrange(1, len(good.log) - 1)
    good.notified = good.received()
    del good.notified[number]
    return f"the command got event {number + 2} after event {number}"


@mutation
def the_command_misses_the_last_event(good: LoggedCampaign, rng: random.Random) -> str:
    good.notified = good.received()[:-1]
    return f"the command got {len(good.log) - 1} events, the log has {len(good.log)}"


@mutation
def the_command_gets_another_event(good: LoggedCampaign, rng: random.Random) -> str:
    good.notified = good.received()
    good.notified[7] = good.notified[7].replace(b'"type"', b'"kind"')
    return "the command got an event 8 that is not that of the log"


@mutation
def the_command_gets_another_digest(good: LoggedCampaign, rng: random.Random) -> str:
    good.notified = [*good.received()[:8], *good.lines()[8:]]
    return "the command got an event 9 that is not that of the log"


@mutation
def the_command_gets_an_event_that_is_not_in_the_log(
    good: LoggedCampaign, rng: random.Random
) -> str:
    good.notified = [*good.received(), good.received()[-1].replace(b'"seq": ', b'"seq": 1')]
    return "that is not that of the log"


@mutation
def the_command_gets_rubbish(good: LoggedCampaign, rng: random.Random) -> str:
    good.notified = [*good.received(), b"hello"]
    return "something else than an event"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_is_found(name: str, seed: int, good: LoggedCampaign) -> None:
    expected = MUTATIONS[name](good, random.Random(seed))
    violations = good.found()
    assert any(expected in violation for violation in violations), violations


@mutation
def the_plan_changes_by_itself(good: LoggedCampaign, rng: random.Random) -> str:
    rng.choice(good.log[1:])["plan"] = "q" * 64
    return "is about the plan qqqqqqqq, not pppppppp"


@mutation
def an_amendment_is_about_another_plan(good: LoggedCampaign, rng: random.Random) -> str:
    amended(good, before="r" * 64)
    return "(amendment): is about the plan qqqqqqqq, not pppppppp"


def amended(good: LoggedCampaign, before: str) -> None:
    """Let the plan change before the second process."""
    index = good.log.index(good.all_of("started")[1])
    good.log.insert(
        index,
        {
            "at": good.log[index]["at"],
            "type": "amendment",
            "who": "ann@ops1",
            "changes": ["limits.requests_per_second was 10 and is now 20"],
            "before": before,
        },
    )
    for event in good.log[index:]:
        event["plan"] = "q" * 64


def test_an_amendment_changes_the_plan(good: LoggedCampaign) -> None:
    amended(good, before="p" * 64)
    assert good.found() == []


# ---- mutations of what is written


def test_a_line_that_is_changed_is_found(good: LoggedCampaign) -> None:
    lines = good.lines()
    lines[4] = lines[4].replace(b'"type"', b' "type"')
    assert "event 6 does not have the digest of the one before" in good.found(written=lines)


def test_a_line_that_is_missing_is_found(good: LoggedCampaign) -> None:
    lines = good.lines()
    del lines[4]
    violations = good.found(written=lines)
    assert "event 5 has the number 6" in violations
    assert "event 5 does not have the digest of the one before" in violations


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b'"breaker"', b'"fuse"', "is of an unknown type: fuse"),
        (b'"verdict"', b'"opinion"', "(check) has the fields opinion, reason"),
        (b"Z", b"+00:00", "has the time"),
        (b'{"at"', b'["at"', "can't be read"),
        (b'"run": "job"', b'"run": "job2"', "the events name several runs"),
    ],
)
def test_a_line_of_another_form_is_found(
    before: bytes, after: bytes, expected: str, good: LoggedCampaign
) -> None:
    lines = good.lines()
    number = next(n for n, line in enumerate(lines) if before in line)
    lines[number] = lines[number].replace(before, after)
    assert any(expected in violation for violation in good.found(written=lines))


def test_a_file_that_differs_from_the_checkpoint_is_found(good: LoggedCampaign) -> None:
    lines = good.lines()
    good.history.files[LOG] = b"".join(line + b"\n" for line in lines[:-1])
    assert good.found() == [
        f"{LOG} has {len(lines) - 1} lines, which are not the {len(lines)} of the checkpoint"
    ]


def test_a_file_may_be_torn_or_behind_while_the_process_is_dead(good: LoggedCampaign) -> None:
    good.history.files[LOG] = b"".join(line + b"\n" for line in good.lines())[:-10]
    assert good.found(reported=False) == []
    good.history.files[LOG] = good.history.files[LOG][:-2000].replace(b"paused", b"passed")
    assert good.found(reported=False) == [f"{LOG} has lines that are not in the checkpoint"]


def test_a_missing_file_is_found(good: LoggedCampaign) -> None:
    good.history.files[LOG] = b""
    assert good.found() != []
    good.found()
    del good.history.files[LOG]
    good.history.tables["events"] = [{"seq": 1, "line": good.lines()[0].decode()}]
    assert check(good.history) == [f"there is no {LOG}"]


def test_the_command_may_get_an_event_again(good: LoggedCampaign) -> None:
    got = good.received()
    good.notified = [*got[:5], *got[3:8], *got[8:]]
    assert good.found() == []


def test_the_command_may_hear_of_an_end_that_could_not_be_recorded(good: LoggedCampaign) -> None:
    good.notified = [
        *good.received()[:20],
        b'{"type":"ended","exit_code":3}',
        *good.received()[20:],
    ]
    assert good.found(died=True) == []
    assert good.found() == ["the command got an event None that is not that of the log"]


def test_a_pause_may_begin_while_a_killed_process_is_not_noticed(good: LoggedCampaign) -> None:
    """It was confirmed because no process works on the run."""
    end = good.one("ended", exit_code=None)
    good.pause = good.pause._replace(begin=end["at"] - 0.2, end=end["at"])
    assert not any("running in the log" in violation for violation in good.found())


def test_what_a_selection_finds_are_more_operations(good: LoggedCampaign) -> None:
    good.history.job["select"] = {"status": "valid"}
    for event in good.all_of("started"):
        event["total"] -= 3
    assert good.found() == []


def test_look_ups_may_leave_after_an_abort_though_the_run_was_paused(
    good: LoggedCampaign,
) -> None:
    """The log has no states after an abort, so the pause may have been lifted."""
    index = good.log.index(good.one("abort"))
    at = good.abort["at"]
    state = {"type": "state", "at": at, "state": "held", "reasons": ["held (check: late)"]}
    good.log.insert(index, state)
    good.send(17, "look_up", at + 0.9)
    good.one("ended", exit_code=4)["at"] += 1.0
    good.history.events[-1]["sent_at"] = at + 1.3
    assert not any("held" in violation for violation in good.found())


def test_the_outcomes_of_the_made_up_campaign_add_up(good: LoggedCampaign) -> None:
    assert good.all_of("ended")[-1]["outcomes"]["failed"] == len(FAILED)


# ---- several hosts


@pytest.fixture
def shared(good: LoggedCampaign) -> LoggedCampaign:
    """A run of two hosts, of which one is fenced, and goes on with another lease."""
    ends = good.all_of("ended")
    outcomes = ends[-1]["outcomes"]
    good.log = [event for event in good.log if event["type"] in {"wave", "approval", "control"}]
    good.history.tables["aborts"].clear()
    good.history.tables["controls"].clear()
    good.log = [event for event in good.log if event["type"] != "control"]
    good.log = [event for event in good.log if event.get("abort", "") == ""]
    for event in good.all_of("wave"):
        event["process"] = PROCESS | {"lease": "b"}
    first, last = BEGUN - 1, good.at + 1.0
    for lease, begin, end in (("a", first, 0.0), ("b", first, last), ("c", last - 5, last)):
        process = PROCESS | {"lease": lease}
        good._add(
            *(begin, "started"),
            total=TARGETS,
            ceiling=20.0,
            rehearsal=False,
            process=process,
            settled=0,
            options=[],
        )
        good._add(begin + 0.1, "check", verdict="go", reason="", process=process)
        figures = {"exit_code": 1, "requests": 20, "throttled": 0, "busiest_second": 19}
        if end:
            good.history.sessions.append(figures)
            good._add(end, "ended", why="", outcomes=outcomes, process=process, **figures)
        else:
            good._add(
                *(last - 6, "fenced"),
                by="ops2",
                silent_s=8.0,
                operations=3,
                process=process,
            )
    good.log.sort(key=lambda event: float(event["at"]))
    return good


def _found(shared: LoggedCampaign) -> list[str]:
    lines = shared.lines()
    shared.history.tables["events"] = [{"line": line.decode()} for line in lines]
    shared.history.files[LOG] = b"".join(line + b"\n" for line in lines[:-1])
    return check(shared.history, Circumstances(retried=True))


def test_hosts_work_at_the_same_time(shared: LoggedCampaign) -> None:
    assert _found(shared) == []


def test_a_lease_that_was_fenced_logs_nothing_more(shared: LoggedCampaign) -> None:
    late = shared.one("check") | {"at": shared.one("fenced")["at"] + 1, "reason": "late"}
    late["process"] = PROCESS | {"lease": "a"}
    shared.log.append(late)
    shared.log.sort(key=lambda event: float(event["at"]))
    assert any("no process works on the run" in each for each in _found(shared))


def test_a_lease_begins_once(shared: LoggedCampaign) -> None:
    again = shared.one("started", process=PROCESS | {"lease": "c"})
    again["process"] = PROCESS | {"lease": "a"}
    assert any("the lease a has begun before" in each for each in _found(shared))


def test_a_lease_ends_once(shared: LoggedCampaign) -> None:
    shared.log.append(shared.one("fenced") | {"at": shared.at + 2.0})
    assert any("no process has started" in each for each in _found(shared))


def test_a_lease_that_has_neither_ended_nor_is_fenced(shared: LoggedCampaign) -> None:
    shared.log.remove(shared.one("fenced"))
    assert any("has not ended" in each for each in _found(shared))


def test_the_first_host_that_notices_a_state_of_the_run_logs_it(shared: LoggedCampaign) -> None:
    paused = {"state": "paused", "reasons": ["paused (by ann@ops1)"]}
    running: dict[str, Any] = {"state": "running", "reasons": []}
    at = BEGUN
    for lease, state in (("a", paused), ("b", running), ("a", paused), ("b", paused)):
        at += 0.2
        shared._add(at, "state", process=PROCESS | {"lease": lease}, **state)
    shared.log.sort(key=lambda event: float(event["at"]))
    assert _found(shared) == []
    shared._add(at + 0.1, "state", process=PROCESS | {"lease": "b"}, **paused)
    shared.log.sort(key=lambda event: float(event["at"]))
    assert [each.partition(": ")[2] for each in _found(shared)] == [
        "says the same as the one before"
    ]
