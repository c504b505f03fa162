"""What every provider owes its callers, whatever goes wrong: one suite for all of them.

Jobs run over real sockets against a simulator, and its ledger is the oracle: what was executed, how
often, and for whom. A provider is described by one `vendor.Vendor`.

A provider of another package runs the suite with its own `Vendor`:

    BULKCERT_CONFORMANCE=my_vendor:VENDOR pytest tests/test_provider_conformance.py
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from apsaramq_vendor import APSARAMQ
from enos_vendor import ENOS
from harness import InProcessJob, JobUnderTest, ProcessJob, in_this_process
from history import key_of
from job_folder import write_json_lines
from vendor import ActionCase, FaultCase, Vendor

from bulkcert.errors import BulkcertError, CredentialsError, ProviderUnusableError
from bulkcert.providers import BUILT_IN

pytestmark = pytest.mark.system

NAMED = os.environ.get("BULKCERT_CONFORMANCE")
VENDORS: tuple[Vendor, ...] = (resolve_name(NAMED),) if NAMED else (ENOS, APSARAMQ)

Cases = Callable[[Vendor, ActionCase], Iterable[Any]]


def each(
    *more: tuple[str, Cases], only: Callable[[ActionCase], object] = lambda action: True
) -> Any:
    """Parametrise a test by vendor and action, and by further names with their values."""
    names = ["vendor", "action", *(name for name, _ in more)]
    values = [
        pytest.param(vendor, action, *case, id="-".join(map(_id, (vendor, action, *case))))
        for vendor in VENDORS
        for action in vendor.actions
        if only(action)
        for case in itertools.product(*(cases(vendor, action) for _, cases in more))
    ]
    return pytest.mark.parametrize(names, values)


def _id(value: Any) -> str:
    name = getattr(value, "name", None) or (value[0] if isinstance(value, tuple) else value)
    if isinstance(name, dict):
        name = ",".join(f"{key}={part}" for key, part in name.items())
    return str(name).replace(" ", "_")[:60]


def changing(action: ActionCase) -> bool:
    """Only actions that change certificates."""
    return action.changes


def samples(vendor: Vendor) -> list[ActionCase]:
    """The first action that changes something, and the first that reads."""
    found = {action.changes: action for action in reversed(vendor.actions)}
    return list(found.values())


def of_samples(cases: Cases) -> Cases:
    """The cases, for the sample actions of a vendor only."""
    return lambda vendor, action: cases(vendor, action) if action in samples(vendor) else ()


def not_as_promised(job: JobUnderTest, action: ActionCase, **circumstances: Any) -> list[str]:
    """List what is wrong with a run in which every operation should have succeeded."""
    wrong = job.violations(**circumstances)
    wrong += [str(result) for result in job.results() if result["outcome"] != "succeeded"]
    once = dict.fromkeys(map(key_of, job.rows), 1) if action.changes else {}
    if (executed := dict(job.executed(action.sends[0]))) != once:
        wrong.append(f"executed: {executed}")
    if action.wanted and set(job.states()) != {action.wanted}:
        wrong.append(f"states: {job.states()}")
    return wrong


def given(name: str) -> Cases:
    """The vendor's behaviour of this name, unless it is empty."""
    return lambda vendor, action: filter(None, [getattr(vendor, name)])


def attempts_only(action: ActionCase, behaviour: Any) -> dict[str, Any]:
    """The behaviour, with faults on attempts only."""
    return {**behaviour, "faults_on": ",".join(action.sends)}


@pytest.mark.skipif(bool(NAMED), reason="other providers may leave cases empty")
@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_the_built_in_providers_leave_no_case_empty(vendor: Vendor) -> None:
    """An empty case would only skip its test."""
    empty = {field.name for field in fields(vendor) if getattr(vendor, field.name) in ((), {})}
    assert empty <= {"checks"}
    assert any(action.already for action in vendor.actions)
    assert {action.name for action in vendor.actions} | {"list"} == {*BUILT_IN[vendor.name].actions}


# ---- success


@each()
async def test_success_takes_one_request_each(
    tmp_path: Path, vendor: Vendor, action: ActionCase
) -> None:
    rows = action.rows(40)
    async with in_this_process(
        tmp_path, vendor, action.name, rows, fleet=action.before(rows)
    ) as job:
        summary = await job.run()
        assert not_as_promised(job, action) == []
        assert (summary.exit_code, summary.total, summary.attempts) == (0, 40, 40)
        opening = len(vendor.opening & set(action.sends))
        assert len(job.entries(action.sends[0])) == 40 + opening
        results = job.results()
        assert {result["code"] for result in results} == {vendor.success}
        assert {result["attempts"] for result in results} == {1}
        ids = {result["request_id"] for result in results}
        assert len(ids) == 40
        assert all(ids)


@each(("already", lambda vendor, action: action.already), only=lambda action: action.done)
async def test_the_wanted_state_may_hold_before(
    tmp_path: Path, vendor: Vendor, action: ActionCase, already: tuple[Any, str]
) -> None:
    assert action.done
    behaviour, outcome = already
    rows = action.rows(10)
    async with in_this_process(
        tmp_path, vendor, action.name, rows, fleet=action.done(rows), behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        assert job.outcome_counts() == {outcome: 10}
        assert job.executed().total() == 0
        assert job.states() == [action.wanted] * 10
        assert job.violations() == []


@each(("behaviour", lambda vendor, action: vendor.refusals), only=lambda action: action.absent)
async def test_something_that_does_not_exist_fails_at_once(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    rows = action.rows(3)
    fleet = action.before(rows[:1])
    if action.lookalike:
        fleet.append(action.lookalike(rows[1]))
    async with in_this_process(
        tmp_path, vendor, action.name, rows, fleet=fleet, behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 1
        assert job.outcomes() == ["succeeded", "failed", "failed"]
        attempts = 0 if action.looks_first else 1
        for failed in job.results()[1:]:
            assert (failed["code"], failed["attempts"]) == (action.absent, attempts)
            assert failed["result"] is None
        opening = len(vendor.opening & set(action.sends))
        assert len(job.entries(action.sends[0])) == 1 + 2 * attempts + opening
        assert job.violations() == []


# ---- faults


@each(("fault", lambda vendor, action: vendor.faults))
async def test_a_fault_loses_and_repeats_nothing(
    tmp_path: Path, vendor: Vendor, action: ActionCase, fault: FaultCase
) -> None:
    rows = action.rows(fault.rows)
    behaviour = attempts_only(action, fault.behaviour) if fault.on_attempts else fault.behaviour
    async with in_this_process(
        tmp_path, vendor, action.name, rows, fleet=action.before(rows), behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        wrong = not_as_promised(job, action)
        if fault.tolerated:
            wrong = [violation for violation in wrong if fault.tolerated not in violation]
        assert wrong == []
        assert fault.kinds <= {entry["fault"] for entry in job.entries(*action.sends)}


@each(("behaviour", given("lookup_faults")), only=changing)
async def test_look_ups_may_have_faults_too(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    rows = action.rows(12)
    names = ",".join({*action.sends, action.look_up})
    behaviour = {"faults_on": names, **behaviour}
    async with in_this_process(
        tmp_path, vendor, action.name, rows, fleet=action.before(rows), behaviour=behaviour
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert any(entry["fault"] for entry in job.entries(action.look_up))


@each(("fault", lambda vendor, action: vendor.always_executed), only=changing)
async def test_used_up_attempts_are_settled_by_a_look_up(
    tmp_path: Path, vendor: Vendor, action: ActionCase, fault: str
) -> None:
    """No attempt gets a proper response, but each is executed."""
    rows = action.rows(12)
    behaviour = attempts_only(action, {fault: 1.0})
    async with in_this_process(
        tmp_path,
        vendor,
        action.name,
        rows,
        fleet=action.before(rows),
        behaviour=behaviour,
        retry={"max_attempts": 3},
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert {result["attempts"] for result in job.results()} <= {1, 2, 3}


@each(("fault", lambda vendor, action: vendor.never_executed), only=changing)
async def test_what_was_never_executed_is_failed(
    tmp_path: Path, vendor: Vendor, action: ActionCase, fault: str
) -> None:
    rows = action.rows(12)
    behaviour = attempts_only(action, {fault: 1.0})
    async with in_this_process(
        tmp_path,
        vendor,
        action.name,
        rows,
        fleet=action.before(rows),
        behaviour=behaviour,
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        assert job.outcome_counts() == {"failed": 12}
        assert all(action.not_executed in result["message"] for result in job.results())
        assert job.executed().total() == 0
        assert job.violations() == []


@each(("behaviour", given("outage")), only=changing)
async def test_what_cannot_be_looked_up_is_unknown(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    rows = action.rows(5)
    async with in_this_process(
        tmp_path,
        vendor,
        action.name,
        rows,
        fleet=action.before(rows),
        behaviour=behaviour,
        retry={"max_attempts": 2},
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 1
        # without the look-up that comes first nothing was sent
        assert job.outcome_counts() == {"failed" if action.looks_first else "unknown": 5}


@each(("behaviour", given("late")))
async def test_what_is_executed_after_the_time_out_counts(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    rows = action.rows(10)
    async with in_this_process(
        tmp_path,
        vendor,
        action.name,
        rows,
        fleet=action.before(rows),
        behaviour=attempts_only(action, behaviour),
        retry={"settling_seconds": 0.4},
        limits={"request_timeout_seconds": 0.5},
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert any(entry["status"] is None for entry in job.entries())


# ---- throttling


@each(("behaviour", of_samples(lambda vendor, action: vendor.throttles)))
async def test_throttled_requests_are_not_attempts(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    rows = action.rows(15)
    async with in_this_process(
        tmp_path,
        vendor,
        action.name,
        rows,
        fleet=action.before(rows),
        behaviour={"seed": 2, **behaviour},
    ) as job:
        summary = await job.run()
        assert not_as_promised(job, action) == []
        assert {result["attempts"] for result in job.results()} == {1}
        turned_away = [entry for entry in job.entries() if vendor.turned_away(entry)]
        assert summary.throttled == len(turned_away) > 0


@each(
    (
        "behaviour",
        of_samples(lambda vendor, action: given("wait")(vendor, action) if action.changes else ()),
    )
)
async def test_a_wait_that_the_provider_asks_for_is_obeyed(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    """The limit is 5 a second; a refused request is to come back after a second."""
    rows = action.rows(6)
    async with in_this_process(
        tmp_path, vendor, action.name, rows, fleet=action.before(rows), behaviour=behaviour
    ) as job:
        await job.run()
        refused = [entry for entry in job.entries(*action.sends) if vendor.turned_away(entry)]
        assert refused
        last = job.entries(*action.sends)[-1]
        assert last["at"] - refused[0]["at"] >= 1.0
        assert job.outcome_counts() == {"succeeded": 6}


# ---- credentials


@each(("bad", of_samples(lambda vendor, action: vendor.bad_credentials)))
async def test_bad_credentials_stop_a_run_before_anything_is_sent(
    tmp_path: Path, vendor: Vendor, action: ActionCase, bad: tuple[dict[str, str], str]
) -> None:
    changed, text = bad
    credentials = {**vendor.credentials, **changed}
    async with in_this_process(
        tmp_path, vendor, action.name, action.rows(3), credentials=credentials
    ) as job:
        with pytest.raises(CredentialsError) as caught:
            await job.run()
        error = caught.value
        assert (text in error.problem, error.exit_code) == (True, 2)
        assert error.next_step
        assert not any(value in str(error) for value in changed.values())
        assert {entry["action"] for entry in job.entries()} <= vendor.opening
        assert len(job.entries()) <= 1


@each(("behaviour", given("expiry")))
async def test_credentials_that_expire_lose_and_repeat_nothing(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    """Where a run can't renew them itself, it stops, and the same command continues it."""
    rows = action.rows(60)
    async with in_this_process(
        tmp_path,
        vendor,
        action.name,
        rows,
        fleet=action.before(rows),
        behaviour=behaviour,
        limits={"in_flight": 4},
    ) as job:
        stops = await stops_until_finished(job)
        assert bool(stops) == bool(vendor.expiry_stops)
        for stop in stops:
            assert vendor.expiry_stops in stop.problem
            assert "run the same command: it continues from here" in stop.next_step
        assert not_as_promised(job, action, died=True) == []
        assert len({entry["fault"] for entry in job.entries()}) > 1


async def stops_until_finished(job: InProcessJob) -> list[BulkcertError]:
    """Run a job again and again until it is finished; return what stopped it before."""
    stops: list[BulkcertError] = []
    while len(stops) < 20:
        try:
            await job.run()
        except (ProviderUnusableError, CredentialsError) as error:
            stops.append(error)
        else:
            break
    return stops


# ---- crashes


@each(("behaviour", given("crash")), only=changing)
async def test_a_killed_run_continues_and_repeats_nothing(
    tmp_path: Path, vendor: Vendor, action: ActionCase, behaviour: dict[str, Any]
) -> None:
    """The installed command is killed twice with SIGKILL, and run once more."""
    rows = action.rows(60)
    fleet = write_json_lines(tmp_path / "existing.jsonl", action.before(rows))
    behaviour = {**vendor.behaviour, **attempts_only(action, behaviour)}
    async with vendor.simulator(behaviour, fleet) as simulator:
        job = ProcessJob(tmp_path, vendor, action.name, rows, simulator)
        job.write(limits={"requests_per_second": 200})
        wrong = await asyncio.to_thread(kill_and_continue, job, action)
        assert wrong == []


def kill_and_continue(job: ProcessJob, action: ActionCase) -> list[str]:
    """Kill a run twice, and run it to its end; list what is wrong."""
    for requests in (20, 45):
        with job.start("--yes") as command:
            assert job.await_requests(requests, command)
            command.kill()
    ended = job.run()
    assert ended.code == 0, ended
    return not_as_promised(job, action, died=True, jitter=30)
