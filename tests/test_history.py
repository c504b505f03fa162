"""The history checker finds what is wrong: a good run, and seeded mutations of its history.

Each mutation is one that a bug in the program could cause, and the checker must name it. A mutation
that would make the reports disagree is applied to all of them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import history
import pytest
from enos_vendor import ENOS
from harness import ProcessJob
from history import Circumstances, Entry, History, Key, busiest_second, check, key_of
from processes import SimulatorProcess

pytestmark = pytest.mark.system

CEILING = 300
FLEET = 60
REVOKED_BEFORE = 3
NOT_THERE = 3


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A run with every kind of outcome but unknown, and with retries."""
    folder = tmp_path_factory.mktemp("recorded")
    fleet = folder / "known.csv"
    status = [1] * REVOKED_BEFORE + [0] * (FLEET - REVOKED_BEFORE - NOT_THERE)
    rows = [f"A{number:04},{1000 + number},{state}" for number, state in enumerate(status)]
    fleet.write_text("\n".join(["assetId,certSn,certStatus", *rows]) + "\n")
    with SimulatorProcess(
        folder / "ledger.jsonl", files={"fleet": fleet}, seed=1, error_after=0.1, throttle=0.03
    ) as simulator:
        targets = [{"assetId": f"A{number:04}", "certSn": 1000 + number} for number in range(FLEET)]
        job = ProcessJob(folder, ENOS, "revoke", targets, simulator)
        job.write(limits={"requests_per_second": CEILING})
        assert job.run().code == 1
        return job.history(fleet=fleet)


@pytest.fixture
def good(recorded: History) -> History:
    """A copy to mutate."""
    return copy.deepcopy(recorded)


def test_a_good_run_has_no_violations_and_every_outcome(good: History) -> None:
    assert check(good) == []
    outcomes = [operation["state"] for operation in good.operations]
    assert outcomes.count("already_done") == REVOKED_BEFORE
    assert outcomes.count("failed") == NOT_THERE
    assert any(operation["attempts"] > 1 for operation in good.operations)
    assert any(entry["code"] == 429 for entry in good.ledger)


# ---- mutations. Each takes a history and a random generator, changes the history, and returns text
# that a violation must contain.

Mutation = Callable[[History, random.Random], str]
MUTATIONS: dict[str, Mutation] = {}


def mutation(mutate: Mutation) -> Mutation:
    MUTATIONS[mutate.__name__] = mutate
    return mutate


def pick(
    history: History, rng: random.Random, state: str = "succeeded", attempts: int | None = None
) -> Entry:
    fitting = [o for o in history.operations if o["state"] == state]
    return rng.choice([o for o in fitting if attempts in {None, o["attempts"]}])


def name_of(operation: Entry) -> str:
    return f"{key_of(operation['fields'])}"


def result_of(history: History, operation: Entry) -> Entry:
    assert history.results is not None
    return next(r for r in history.results if r["line"] == operation["line"])


def requests_for(history: History, operation: Entry, action: str = "revoke") -> list[Entry]:
    key = key_of(operation["fields"])
    return [
        entry
        for entry in history.ledger
        if entry["action"] == action and Key(entry["device"], str(entry["certSn"])) == key
    ]


def become(history: History, operation: Entry, state: str) -> None:
    """Change the state in checkpoint, results and summary alike."""
    assert history.summary is not None
    result = result_of(history, operation)
    history.summary[result["outcome"]] -= 1
    operation["state"] = state
    if state in {"planned", "in_flight"}:
        operation["finished_at"] = result["finished_at"] = None
        history.summary["exit_code"] = 3
    result["outcome"] = history_outcome(state)
    history.summary[result["outcome"]] += 1


def history_outcome(state: str) -> str:
    return history.OUTCOMES[state]


def send(history: History, like: Entry, **changes: Any) -> Entry:
    """Add a request to the ledger, at its end unless `at` says otherwise."""
    last = history.ledger[-1]
    entry = like | {"n": last["n"] + 1, "at": last["at"] + 0.001, "fault": None} | changes
    history.ledger.append(entry)
    keep(history, entry)
    history.sessions[-1]["requests"] += 1
    assert history.summary is not None
    history.summary["requests"] += 1
    return entry


def keep(history: History, entry: Entry) -> None:
    """Add a request to the history table."""
    for operation in history.operations:
        if key_of(operation["fields"]).device == entry["device"]:
            event = {
                "operation": operation["id"],
                "event": "look_up" if entry["action"] == "list" else "attempt",
                "attempt": operation["attempts"],
                "sent_at": entry["at"],
                "ended_at": entry["at"],
                "code": entry["code"],
            }
            history.events.append(event)


def expect_attempt(history: History, operation: Entry) -> None:
    """Count one more attempt in all reports."""
    assert history.summary is not None
    operation["attempts"] += 1
    result_of(history, operation)["attempts"] += 1
    history.summary["attempts"] += 1


@mutation
def a_result_is_missing(good: History, rng: random.Random) -> str:
    assert good.results is not None
    good.results.remove(rng.choice(good.results))
    return "results.jsonl has 59 lines"


@mutation
def a_result_is_there_twice(good: History, rng: random.Random) -> str:
    assert good.results is not None
    good.results.append(rng.choice(good.results))
    return "results.jsonl has 61 lines"


@mutation
def results_are_in_another_order(good: History, rng: random.Random) -> str:
    assert good.results is not None
    at = rng.randrange(1, len(good.results))
    good.results.insert(at - 1, good.results.pop(at))
    return "differ in line"


@mutation
def a_result_says_something_else(good: History, rng: random.Random) -> str:
    result = result_of(good, pick(good, rng))
    name = rng.choice(["outcome", "code", "message", "request_id", "attempts", "finished_at"])
    result[name] = "something else"
    return f"line {result['line']}: results.jsonl and checkpoint differ in {name}"


@mutation
def there_are_no_reports(good: History, rng: random.Random) -> str:
    setattr(good, rng.choice(["results", "summary"]), None)
    return "there are no reports"


@mutation
def a_count_is_wrong(good: History, rng: random.Random) -> str:
    assert good.summary is not None
    names = ["total", "attempts", "requests", "throttled", *set(history.OUTCOMES.values())]
    name = rng.choice(sorted(names))
    good.summary[name] += rng.choice([-1, 1])
    return f"summary.json: {name} is"


@mutation
def the_exit_code_is_wrong(good: History, rng: random.Random) -> str:
    assert good.summary is not None
    good.summary["exit_code"] = rng.choice([0, 2, 3])
    return "summary.json: exit_code is"


@mutation
def an_operation_is_missing(good: History, rng: random.Random) -> str:
    operation = rng.choice(good.operations)
    good.operations.remove(operation)
    return f"line {operation['line']}, assetId={operation['fields']['assetId']}"


@mutation
def an_operation_is_there_twice(good: History, rng: random.Random) -> str:
    operation = rng.choice(good.operations)
    good.operations.append(operation | {"id": 1000})
    return f"line {operation['line']}, assetId={operation['fields']['assetId']}"


@mutation
def an_operation_nobody_asked_for(good: History, rng: random.Random) -> str:
    operation = rng.choice(good.operations)
    good.operations.append(operation | {"id": 1000, "line": 5000})
    return "line 5000"


@mutation
def an_operation_is_about_another_certificate(good: History, rng: random.Random) -> str:
    operation = rng.choice(good.operations)
    operation["fields"]["certSn"] += 1
    return f"line {operation['line']}: assetId={operation['fields']['assetId']}"


@mutation
def an_executed_one_is_called_failed(good: History, rng: random.Random) -> str:
    operation = pick(good, rng)
    become(good, operation, "failed")
    return f"{name_of(operation)}: was executed, but is failed"


@mutation
def an_executed_one_is_called_pending(good: History, rng: random.Random) -> str:
    operation = pick(good, rng)
    become(good, operation, "planned")
    return f"{name_of(operation)}: was executed, but is pending"


@mutation
def an_executed_one_is_called_already_done(good: History, rng: random.Random) -> str:
    operation = pick(good, rng)
    become(good, operation, "already_done")
    return f"{name_of(operation)}: is already_done, but was executed by this run"


@mutation
def a_failed_one_is_called_succeeded(good: History, rng: random.Random) -> str:
    operation = pick(good, rng, "failed")
    become(good, operation, "succeeded")
    return f"{name_of(operation)}: is succeeded, but was not executed"


@mutation
def a_failed_one_is_called_already_done(good: History, rng: random.Random) -> str:
    operation = pick(good, rng, "failed")
    become(good, operation, "already_done")
    return f"{name_of(operation)}: is already_done, but was never executed"


@mutation
def a_failed_one_was_never_refused(good: History, rng: random.Random) -> str:
    operation = pick(good, rng, "failed")
    for entry in good.ledger:
        if entry["device"] == key_of(operation["fields"]).device:
            entry["code"] = 99500
    return f"{name_of(operation)}: is failed, but was never refused and has attempts left"


@mutation
def a_run_that_is_over_has_work_left(good: History, rng: random.Random) -> str:
    operation = pick(good, rng, "failed")
    become(good, operation, rng.choice(["planned", "in_flight"]))
    return f"{name_of(operation)}: is {operation['state']}, but the run is finished"


@mutation
def an_open_operation_has_a_finishing_time(good: History, rng: random.Random) -> str:
    operation = pick(good, rng, "failed")
    operation["state"] = "planned"
    return f"{name_of(operation)}: is planned, but has a finishing time"


@mutation
def a_success_is_not_in_the_ledger(good: History, rng: random.Random) -> str:
    operation = pick(good, rng)
    for entry in requests_for(good, operation):
        good.ledger.remove(entry)
    return f"{name_of(operation)}: is succeeded, but was not executed"


@mutation
def a_success_was_not_executed(good: History, rng: random.Random) -> str:
    operation = pick(good, rng)
    for entry in requests_for(good, operation):
        entry["executed"] = False
    return f"{name_of(operation)}: is succeeded, but was not executed"


@mutation
def a_request_is_not_recorded(good: History, rng: random.Random) -> str:
    operation = pick(good, rng)
    for record in (operation, result_of(good, operation)):
        record["attempts"] -= 1
    assert good.summary is not None
    good.summary["attempts"] -= 1
    return f"{name_of(operation)}: has {operation['attempts']} recorded attempts, the ledger has"


@mutation
def a_revocation_is_sent_again_after_its_success(good: History, rng: random.Random) -> str:
    """Within the 30 ms between the response and its record, so only the response shows it."""
    operation = pick(good, rng, attempts=1)
    answered = requests_for(good, operation)[-1]
    again = send(good, answered, executed=False, code=99400, at=answered["answered_at"])
    operation["finished_at"] = again["at"]
    expect_attempt(good, operation)
    return f"{name_of(operation)}: revoke was sent again (request {again['n']}) after its success"


@mutation
def a_request_is_sent_after_its_response_was_recorded(good: History, rng: random.Random) -> str:
    operation = pick(good, rng, rng.choice(["succeeded", "failed", "already_done"]))
    answered = requests_for(good, operation)[-1]
    late_s = rng.uniform(0.1, 3)
    send(good, answered, executed=False, at=operation["finished_at"] + late_s)
    expect_attempt(good, operation)
    return f"{name_of(operation)}: revoke was sent {late_s:.3f} s after its response was recorded"


@mutation
def a_request_belongs_to_no_operation(good: History, rng: random.Random) -> str:
    like = rng.choice([e for e in good.ledger if e["action"] in {"revoke", "list"}])
    stranger = send(good, like, device="assetId=B1")
    return f"request {stranger['n']}: {like['action']} of assetId=B1"


@mutation
def another_certificate_of_the_device_is_revoked(good: History, rng: random.Random) -> str:
    like = rng.choice([e for e in good.ledger if e["action"] == "revoke"])
    stranger = send(good, like, certSn=like["certSn"] + 1)
    return f"request {stranger['n']}: revoke of {like['device']}"


@mutation
def a_redirect_is_followed(good: History, rng: random.Random) -> str:
    stranger = send(good, rng.choice(good.ledger), action="redirected", device="", certSn=None)
    return f"request {stranger['n']}: redirected of"


@mutation
def arrivals_exceed_the_ceiling(good: History, rng: random.Random) -> str:
    at = rng.uniform(0, 1e6)
    good.ledger += [good.ledger[-1] | {"n": 10_000 + n} for n in range(CEILING)]
    for entry in good.ledger:
        entry["at"] = at + rng.uniform(0, 0.99)
    return f"{len(good.ledger)} requests arrived in the second"


@mutation
def departures_exceed_the_ceiling(good: History, rng: random.Random) -> str:
    good.sessions[0]["busiest_second"] = CEILING + 1
    return f"{CEILING + 1} requests left in a second"


@mutation
def requests_are_not_counted(good: History, rng: random.Random) -> str:
    sent = sum(entry["action"] != "token.get" for entry in good.ledger)
    good.sessions[0]["requests"] = sent - 1
    return f"the sessions recorded {sent - 1} requests"


@mutation
def too_many_responses_are_counted_as_throttled(good: History, rng: random.Random) -> str:
    good.sessions[0]["throttled"] = 1 + sum(entry["code"] == 429 for entry in good.ledger)
    return "throttled responses"


@mutation
def a_secret_is_written(good: History, rng: random.Random) -> str:
    secret = rng.choice([s for s in history.SECRETS if s != "APIMTOKEN-"] + ["APIMTOKEN-0123abcd"])
    name = rng.choice([*good.files, "new.log"])
    content = good.files.get(name, b"")
    at = rng.randrange(len(content) + 1)
    good.files[name] = content[:at] + secret.encode() + content[at:]
    return f"{name}: contains"


def as_action(good: History, action: str) -> None:
    """Turn the history into that of another action: renewals instead of revocations."""
    good.job["action"] = action
    for entry in good.ledger:
        if entry["action"] == "revoke":
            entry["action"] = "renew"
    for operation in good.operations:
        # unlike a revocation, a renewal may not be sent without a look-up, nor again without one
        requests = requests_for(good, operation, "renew")
        for again in requests[:1] + [e for e in requests if e["code"] != 429][1:]:
            look = look_at(operation, again["n"] - 0.5, again["at"])
            good.ledger.append(look)
            keep(good, look)
            good.sessions[0]["requests"] += 1
            assert good.summary is not None
            good.summary["requests"] += 1
    good.ledger.sort(key=lambda entry: float(entry["n"]))


def look_at(operation: Entry, number: float, at: float) -> Entry:
    return {
        "n": number,
        "at": at,
        "action": "list",
        "device": key_of(operation["fields"]).device,
        "certSn": None,
        "executed": False,
        "code": 0,
        "fault": None,
        "answered_at": at,
    }


def test_the_same_history_is_good_for_renewals(good: History) -> None:
    as_action(good, "renew")
    assert check(good) == []


@mutation
def a_renewal_is_executed_twice(good: History, rng: random.Random) -> str:
    as_action(good, "renew")
    operation = pick(good, rng)
    first = requests_for(good, operation, "renew")[-1]
    look = send(good, look_at(operation, 0, 0), at=first["at"])
    send(good, first, n=look["n"] + 1, executed=True, at=first["at"])
    expect_attempt(good, operation)
    return f"{name_of(operation)}: renew was executed 2 times"


@mutation
def a_renewal_is_sent_before_a_look_up(good: History, rng: random.Random) -> str:
    as_action(good, "renew")
    operation = pick(good, rng, attempts=1)
    first = requests_for(good, operation, "renew")[0]
    [look] = [e for e in good.ledger if e["action"] == "list" and e["device"] == first["device"]]
    look["n"] = first["n"] + 0.5
    good.ledger.sort(key=lambda entry: float(entry["n"]))
    return f"{name_of(operation)}: renew was sent (request {first['n']}) before a look-up"


@mutation
def a_renewal_is_sent_again_without_a_look_up(good: History, rng: random.Random) -> str:
    as_action(good, "renew")
    operation = pick(good, rng, attempts=1)  # operations with more attempts were looked up
    first = requests_for(good, operation, "renew")[-1]
    again = send(good, first, executed=False, code=99500, at=first["at"])
    expect_attempt(good, operation)
    return f"{name_of(operation)}: renew was sent again without a look-up (request {again['n']})"


@mutation
def the_old_certificate_is_revoked_before_the_new_one_exists(
    good: History, rng: random.Random
) -> str:
    as_action(good, "rotate")
    operation = pick(good, rng)
    renewal = requests_for(good, operation, "renew")[0]
    send(good, renewal, action="revoke", at=renewal["at"] - 0.001, code=99400, executed=False)
    expect_attempt(good, operation)
    return f"{name_of(operation)}: revoke was sent"


def events_of(history: History, operation: Entry) -> list[Entry]:
    return [event for event in history.events if event["operation"] == operation["id"]]


@mutation
def a_request_is_not_in_the_history(good: History, rng: random.Random) -> str:
    event = rng.choice(good.events)
    good.events.remove(event)
    operation = next(o for o in good.operations if o["id"] == event["operation"])
    name = key_of(operation["fields"]).device
    return f"{name}: {'list' if event['event'] == 'look_up' else 'revoke'} (request "


@mutation
def an_attempt_is_in_the_history_as_a_look_up(good: History, rng: random.Random) -> str:
    event = rng.choice([event for event in good.events if event["event"] == "attempt"])
    event["event"] = "look_up"
    return "is not in the history"


@mutation
def the_history_has_another_time(good: History, rng: random.Random) -> str:
    event = rng.choice(good.events)
    later = rng.choice([-60.0, 60.0])
    event["sent_at"] += later
    event["ended_at"] += later
    return "is not in the history"


@mutation
def the_history_has_it_under_another_operation(good: History, rng: random.Random) -> str:
    one, other = rng.sample(good.operations, 2)
    event = rng.choice(events_of(good, one))
    event["operation"] = other["id"]
    return f"{key_of(one['fields']).device}: "


@mutation
def the_history_has_a_request_that_was_never_sent(good: History, rng: random.Random) -> str:
    event = rng.choice([event for event in good.events if event["event"] == "attempt"])
    good.events.append(dict(event))
    return f"of the history got {event['code']}, but is not in the ledger"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_found(name: str, seed: int, good: History) -> None:
    expected = MUTATIONS[name](good, random.Random(seed))
    violations = check(good)
    assert any(expected in violation for violation in violations), (expected, violations)


# ---- what is not a violation, and the figures behind it


def test_a_revocation_may_be_repeated_if_its_look_up_got_no_response(good: History) -> None:
    """After a crash the response is lost, and the provider may fail at look-ups."""
    operation = pick(good, random.Random(0))
    answered = requests_for(good, operation)[-1]
    at = answered["answered_at"]
    send(good, look_at(operation, 0, 0), at=at, code=99500, fault="error_before")
    send(good, answered, executed=False, code=99400, at=at)
    expect_attempt(good, operation)
    assert check(good) == []


def test_what_a_dead_process_did_not_record_is_not_a_violation(good: History) -> None:
    requests_are_not_counted(good, random.Random(0))
    reports = Circumstances(died=True, reported=False)
    assert check(good, reports) == []


def test_what_was_open_when_its_process_died_need_not_be_in_the_history(good: History) -> None:
    """But only of operations that are in flight still, or were taken over since."""
    operation = pick(good, random.Random(0), attempts=1)
    (attempt,) = events_of(good, operation)
    good.events.remove(attempt)
    assert len(check(good)) == 1
    died = Circumstances(died=True)
    assert "is not in the history" in check(good, died)[0]
    taken_over = attempt | {"event": "taken_over", "ended_at": attempt["ended_at"] + 1}
    good.events.append(taken_over)
    assert check(good, died) == []
    assert len(check(good)) == 1
    taken_over["ended_at"] -= 60
    assert len(check(good, died)) == 1


def test_what_never_arrived_may_be_in_the_history(good: History) -> None:
    operation = pick(good, random.Random(0))
    lost = events_of(good, operation)[0] | {"code": None}
    good.events.append(lost)
    assert check(good) == []


def test_what_was_executed_before_the_run_is_already_done(good: History) -> None:
    operation = pick(good, random.Random(0))
    become(good, operation, "already_done")
    for event in events_of(good, operation):
        good.events.remove(event)
    for entry in good.ledger:
        if entry["device"] == key_of(operation["fields"]).device:
            entry["n"] = 0
    assert check(good) == []


def test_jitter_permits_exactly_that_many_more_arrivals(good: History) -> None:
    arrivals_exceed_the_ceiling(good, random.Random(0))
    more = len(good.ledger) - CEILING
    crowded = "requests arrived in the second"
    assert not any(crowded in v for v in check(good, Circumstances(jitter=more)))
    assert any(crowded in v for v in check(good, Circumstances(jitter=more - 1)))


def test_the_busiest_second_excludes_its_end() -> None:
    assert busiest_second([0.0, 0.5, 1.0, 1.25, 1.5]) == (3, 0.5)
    assert busiest_second([0.0, 0.999999, 1.0]) == (2, 0.0)
    assert busiest_second([]) == (0, 0.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'assetId,certSn\nA1,1\n\n"A\n2",2\nA3,\n'),
        ("t.jsonl", '{"assetId": "A1", "certSn": 1}\n\n{"assetId": "A\\n2"}\n'),
    ],
)
def test_rows_are_read_with_their_lines(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    lines = [(line, row["assetId"]) for line, row in history.read_rows(path)]
    assert lines == (
        [(2, "A1"), (4, "A\n2"), (6, "A3")] if "csv" in name else [(1, "A1"), (3, "A\n2")]
    )
