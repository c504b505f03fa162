"""What every action of EnOS owes its caller, over real sockets against the simulator.

The oracle is the simulator's ledger: what was executed, how often, and for whom.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS, devices, signing_request, with_requests
from go_between import Crash, CutError, Forger, GoBetween, Passing
from harness import SHORT_WAITS, InProcessJob, in_this_process
from history import key_of
from job_folder import Row

pytestmark = pytest.mark.system

CHANGES = ("revoke", "renew", "rotate")
ACTIONS = ("list", *CHANGES)
STEPS = {
    "list": ("list",),
    "revoke": ("revoke",),
    "renew": ("renew",),
    "rotate": ("renew", "revoke"),
}

FAULTS = {
    "not executed": (
        *("throttle_retry_after", "error_before", "cut_before", "page_before"),
        *("token_expired", "system_overflow", "html_ok", "redirect"),
    ),
    "executed": (
        *("error_after", "cut_after", "cut_inside", "page_after", "byte_by_byte"),
        *("json_cut_short", "wrong_types", "huge_body"),
    ),
}


def targets(action: str, count: int = 6) -> list[Row]:
    """Rows as an action needs them."""
    match action:
        case "list":
            return [{"assetId": row["assetId"]} for row in devices(count)]
        case "revoke":
            return devices(count)
    return with_requests(devices(count))


def not_as_promised(job: InProcessJob, action: str, **circumstances: Any) -> list[str]:
    """What is wrong with a run in which everything should have succeeded."""
    wrong = job.violations(**circumstances)
    wrong += [str(result) for result in job.results() if result["outcome"] != "succeeded"]
    if action == "list":
        return wrong
    once = dict.fromkeys(map(key_of, job.rows), 1)
    if (executed := dict(job.executed(STEPS[action][0]))) != once:
        wrong.append(f"executed: {executed}")
    for row in job.rows:
        if action != "renew" and job.certificates(row)[row["certSn"]] != "revoked":
            wrong.append(f"{row}: {job.certificates(row)}")
    return wrong


@pytest.mark.parametrize("action", ACTIONS)
async def test_success_takes_one_request_each(tmp_path: Path, action: str) -> None:
    async with in_this_process(tmp_path, ENOS, action, targets(action)) as job:
        summary = await job.run()
        assert not_as_promised(job, action) == []
        assert (summary.exit_code, summary.total, summary.attempts) == (0, 6, 6)
        assert len(job.entries(*STEPS[action])) == 6
        assert {(result["code"], result["attempts"]) for result in job.results()} == {(0, 1)}
        assert len({result["request_id"] for result in job.results()}) == 6


@pytest.mark.parametrize("action", ACTIONS)
async def test_devices_may_be_named_by_two_keys(tmp_path: Path, action: str) -> None:
    fleet: list[Row] = [{"productKey": "p 1", "deviceKey": f"d/ä+{n}"} for n in range(3)]
    rows = [row | ({"certSn": 7 + n} if action != "list" else {}) for n, row in enumerate(fleet)]
    if action in ("renew", "rotate"):
        rows = [row | {"csr": signing_request(row["deviceKey"])} for row in rows]
    async with in_this_process(tmp_path, ENOS, action, rows) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        assert job.violations() == []


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", FAULTS)
async def test_no_fault_loses_or_repeats_anything(tmp_path: Path, action: str, kind: str) -> None:
    behaviour: dict[str, Any] = {
        "seed": 4,
        "faults_on": ",".join(STEPS[action]),
        "byte_interval": 0.0,
        "huge_body_bytes": 8 * 2**20 + 1,
        "renew_revokes_old": kind == "not executed",
        **dict.fromkeys(FAULTS[kind], 0.05),
    }
    async with in_this_process(
        tmp_path, ENOS, action, targets(action, 50), behaviour=behaviour
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert set(FAULTS[kind]) <= {entry["fault"] for entry in job.entries()}


@pytest.mark.parametrize("action", ACTIONS)
async def test_what_comes_after_the_time_out_counts(tmp_path: Path, action: str) -> None:
    behaviour = {
        "seed": 3,
        "faults_on": ",".join(STEPS[action]),
        "slow_first_byte": 0.2,
        "slow_first_byte_by": 0.9,
        "execute_late": 0.2,
        "execute_late_by": 0.7,
        "renew_revokes_old": False,
    }
    limits = {"requests_per_second": 5000, "request_timeout_seconds": 0.5}
    async with in_this_process(
        tmp_path,
        ENOS,
        action,
        targets(action, 10),
        behaviour=behaviour,
        timings=replace(SHORT_WAITS, settling_s=0.4),
        limits=limits,
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert any(entry["status"] is None for entry in job.entries())


@pytest.mark.parametrize("action", CHANGES)
async def test_look_ups_meet_faults_too(tmp_path: Path, action: str) -> None:
    faults = ("cut_after", "json_cut_short", "page_before", "wrong_types", "throttle_retry_after")
    behaviour = {"seed": 1, "faults_on": "renew,revoke,list", **dict.fromkeys(faults, 0.1)}
    async with in_this_process(
        tmp_path, ENOS, action, targets(action, 12), behaviour=behaviour
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert any(entry["fault"] for entry in job.entries("list"))


SWITCHES: list[tuple[str, dict[str, Any]]] = [
    *((a, {"revoke_again": again}) for a in ("revoke", "rotate") for again in ("ok", "unbound")),
    *(
        (a, {"renew_revokes_old": old, "list_cert": cert})
        for a in ("renew", "rotate")
        for old in (True, False)
        for cert in ("serial", "pem")
    ),
    *((a, {"business_error_http": 500}) for a in CHANGES),
    ("revoke", {"auth_error": "status", "token_expired": 0.3}),
    ("revoke", {"auth_error": "code", "auth_error_http": 401, "token_expired": 0.3}),
    ("revoke", {"auth_error": "code", "auth_error_http": 500, "token_expired": 0.3}),
    ("renew", {"auth_error": "kong", "token_expired": 0.3}),
    ("renew", {"token_life": 0.2, "latency": 0.05}),
    ("renew", {"renew_authority": "same", "replay_check": True, "clock_window": 5.0}),
    ("rotate", {"cut_style": "reset", "keep_alive_requests": 2}),
]


@pytest.mark.parametrize(
    ("action", "switches"), SWITCHES, ids=lambda part: str(part).replace(" ", "")[:70]
)
async def test_whatever_is_undocumented(
    tmp_path: Path, action: str, switches: dict[str, Any]
) -> None:
    behaviour: dict[str, Any] = {"seed": 5, "faults_on": "renew,revoke"}
    behaviour |= {"error_after": 0.2, "error_before": 0.1, "cut_after": 0.1}
    async with in_this_process(
        tmp_path, ENOS, action, targets(action), behaviour=behaviour | switches
    ) as job:
        await job.run()
        if switches.get("list_cert") == "serial" and action == "rotate":
            # what was lost on its way, and is not shown by list, can't be checked
            assert job.violations() == []
            assert set(job.outcomes()) == {"succeeded", "unknown"}
        else:
            assert not_as_promised(job, action) == []


@pytest.mark.parametrize(
    ("date", "serial"), [("effectiveDate", "certSN"), ("effetiveDate", "certSn")]
)
async def test_either_spelling_is_read(tmp_path: Path, date: str, serial: str) -> None:
    def respell(answer: Row) -> Row:
        for item in answer["data"] if isinstance(answer["data"], list) else [answer["data"]]:
            item[serial] = item.pop("certSN")
            if "effetiveDate" in item:
                item[date] = item.pop("effetiveDate")
        return answer

    between = Forger(renew=respell, list=respell)
    behaviour = {"seed": 2, "cut_after": 0.5, "faults_on": "renew"}
    rows = targets("renew", 4)
    async with in_this_process(
        tmp_path, ENOS, "renew", rows, between=between, behaviour=behaviour
    ) as job:
        await job.run()
        assert not_as_promised(job, "renew") == []
        job.run_dir = tmp_path / "inventory"
        job.write(action="list")
        await job.run()
        for result in job.results():
            for certificate in result["result"]["certificates"]:
                assert certificate["effectiveDate"] == certificate["signDate"]
                assert certificate["certSN"].isdigit()


# ---- refusals


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("http", [200, 400])
async def test_each_target_has_an_outcome_of_its_own(
    tmp_path: Path, action: str, http: int
) -> None:
    """One good, one unknown, one with another's certificate, one that is revoked already."""
    rows = targets(action, 4)
    rows[2]["certSn"] = 1000
    fleet = [devices(4)[0], devices(4)[2], devices(4)[3] | {"certStatus": 1}]
    behaviour = {"business_error_http": http}
    async with in_this_process(
        tmp_path, ENOS, action, rows, fleet=fleet, behaviour=behaviour
    ) as job:
        summary = await job.run()
        revoked = "already_done" if action == "revoke" else "failed"
        assert job.outcomes() == ["succeeded", "failed", "failed", revoked]
        assert summary.exit_code == 1
        _, unknown, others, again = job.results()
        assert (unknown["code"], unknown["attempts"]) == (11404, 1)
        assert "Device cannot be found" in unknown["message"]
        assert (others["code"], "bound to other devices" in others["message"]) == (99400, True)
        assert "revoked" in again["message"]
        assert job.certificates({"assetId": "A2"}) == {1002: "valid"}
        assert job.violations() == []


async def test_a_list_of_an_unknown_device_fails(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "list", targets("list", 2), fleet=devices(1)) as job:
        await job.run()
        assert job.outcomes() == ["succeeded", "failed"]
        assert (job.results()[1]["code"], job.results()[1]["result"]) == (11404, None)


@pytest.mark.parametrize("again", ["refused", "unbound", "ok"])
async def test_what_is_revoked_already_is_done(tmp_path: Path, again: str) -> None:
    fleet = [row | {"certStatus": 1} for row in devices(4)]
    behaviour = {"revoke_again": again, "business_error_http": 500}
    async with in_this_process(
        tmp_path, ENOS, "revoke", devices(4), fleet=fleet, behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert set(job.outcomes()) == {"succeeded" if again == "ok" else "already_done"}
        assert summary.exit_code == 0
        assert not any(entry["executed"] for entry in job.entries())
        assert job.violations() == []


@pytest.mark.parametrize("action", ["renew", "rotate"])
async def test_a_revoked_certificate_is_not_renewed(tmp_path: Path, action: str) -> None:
    fleet = [row | {"certStatus": 1} for row in devices(8)]
    behaviour = {"seed": 2, "faults_on": "renew", "cut_before": 0.3, "error_before": 0.3}
    async with in_this_process(
        tmp_path, ENOS, action, targets(action, 8), fleet=fleet, behaviour=behaviour
    ) as job:
        await job.run()
        assert set(job.outcomes()) == {"failed"}
        assert all("has been revoked" in result["message"] for result in job.results())
        assert job.violations() == []


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_missing_permission_is_final(tmp_path: Path, action: str) -> None:
    async with in_this_process(
        tmp_path, ENOS, action, targets(action, 3), behaviour={"refuse_all": "99403"}
    ) as job:
        await job.run()
        outcomes = {(r["outcome"], r["code"], r["attempts"]) for r in job.results()}
        assert outcomes == {("failed", 99403, 1)}
        assert job.violations() == []


async def test_a_list_that_never_works_fails(tmp_path: Path) -> None:
    behaviour = {"error_before": 1.0, "faults_on": "list"}
    rows, retry = targets("list", 2), {"max_attempts": 3}
    async with in_this_process(
        tmp_path, ENOS, "list", rows, behaviour=behaviour, retry=retry
    ) as job:
        await job.run()
        outcomes = {(r["outcome"], r["code"], r["attempts"]) for r in job.results()}
        assert outcomes == {("failed", 99500, 3)}
        assert job.violations() == []


class Deaf(GoBetween):
    """Loses every answer, but those of the token service, until it is told to listen."""

    listening = False

    async def after(self, passing: Passing, answer: bytes) -> bytes:
        return answer if self.listening or passing.action == "get" else b"{}"


@pytest.mark.parametrize("action", CHANGES)
async def test_what_nobody_can_tell_is_unknown_until_it_can_be_told(
    tmp_path: Path, action: str
) -> None:
    deaf = Deaf()
    retry = {"max_attempts": 3}
    async with in_this_process(
        tmp_path, ENOS, action, targets(action, 3), between=deaf, retry=retry
    ) as job:
        summary = await job.run()
        assert job.outcomes() == ["unknown"] * 3
        assert summary.exit_code == 1
        sent = len(job.entries(STEPS[action][0]))
        assert sent == (9 if action == "revoke" else 3)  # a renewal never again without a look
        deaf.listening = True
        summary = await job.run(retry_failed=True)
        assert summary.exit_code == 0
        assert job.outcomes() == ["succeeded"] * 3
        assert len(job.entries(STEPS[action][0])) == sent
        assert set(job.executed(STEPS[action][0]).values()) == {1}


# ---- crashes, and everything at once


class AtRequest(Crash):
    """Crashes before or after the n-th request or answer."""

    def __init__(self) -> None:
        super().__init__(lambda passing, answer: self._is_it_now())
        self.left = 0

    def _is_it_now(self) -> bool:
        self.left -= 1
        return self.left < 0


def any_combination(rng: random.Random) -> dict[str, Any]:
    """A behaviour in which several things go wrong."""
    behaviour: dict[str, Any] = {
        "seed": rng.randrange(1000),
        "faults_on": rng.choice(["list,revoke,renew", "renew,revoke", "renew"]),
        "execute_late_by": 0.03,
        "renew_revokes_old": rng.random() < 0.5,
        "revoke_again": rng.choice(["refused", "unbound", "ok"]),
        "list_cert": rng.choice(["issued", "serial", "pem"]),
        "auth_error": rng.choice(["status", "code", "kong"]),
        "business_error_http": rng.choice([200, 400, 500]),
        "cut_style": rng.choice(["close", "reset"]),
        "keep_alive_requests": rng.choice([0, 3]),
    }
    faults = [*FAULTS["not executed"], *FAULTS["executed"], "execute_late"]
    faults = [fault for fault in faults if fault not in ("byte_by_byte", "huge_body")]
    for fault in rng.sample(faults, rng.randint(1, 4)):
        behaviour[fault] = rng.choice([0.05, 0.1, 0.2])
    return behaviour


@pytest.mark.parametrize("seed", range(9))
async def test_any_combination_of_faults_and_crashes(tmp_path: Path, seed: int) -> None:
    """Devices have one or two certificates, and what renews them may or may not be told apart."""
    rng = random.Random(seed)
    action = CHANGES[seed % 3]
    each = rng.choice([1, 2])
    fleet: list[Row] = [{"assetId": f"A{n // each}", "certSn": 1000 + n} for n in range(6)]
    by_request = action == "rotate" or (action == "renew" and rng.random() < 0.5)
    rows = with_requests(fleet) if by_request else fleet
    behaviour, crash, died = any_combination(rng), AtRequest(), False
    async with in_this_process(
        tmp_path,
        ENOS,
        action,
        rows,
        fleet=fleet,
        behaviour=behaviour,
        between=crash,
        timings=replace(SHORT_WAITS, settling_s=0.08),
    ) as job:
        for crash.left in rng.sample(range(2, 30), rng.choice([0, 1, 2])):
            died |= await crash.run_until_crash(job)
        await job.run()
        assert job.violations(died=died) == []
        assert max(job.executed("renew").values(), default=1) == 1
        for row in fleet:
            assert action == "revoke" or "valid" in job.certificates(row).values()


@pytest.mark.parametrize("action", ["renew", "rotate"])
@pytest.mark.parametrize("its_old_one", [0, 1])
async def test_a_new_certificate_that_may_be_anothers_is_not_claimed(
    tmp_path: Path, action: str, its_old_one: int
) -> None:
    """Two certificates of one device are renewed; one renewal arrives, both answers are lost.

    The one that was renewed is still valid, or was revoked meanwhile, as a rotation does.
    """

    class OneArrives(GoBetween):
        async def before(self, passing: Passing) -> None:
            if passing.action == "renew" and passing.body["certSn"] == 1001:
                raise CutError

        async def after(self, passing: Passing, answer: bytes) -> bytes:
            if passing.action == "renew":
                return b"{}"
            document = json.loads(answer)
            for item in document["data"] if passing.action == "list" else ():
                if item["certSN"] == "1000":
                    item |= {"certStatus": its_old_one, "revokerReason": "KEY COMPROMISE"}
            return json.dumps(document).encode()

    fleet: list[Row] = [{"assetId": "A0", "certSn": 1000 + n} for n in range(2)]
    rows = [row | {"csr": signing_request("A0")} for row in fleet]
    behaviour = {"list_cert": "serial", "renew_revokes_old": False}
    async with in_this_process(
        tmp_path, ENOS, action, rows, fleet=fleet, between=OneArrives(), behaviour=behaviour
    ) as job:
        await job.run()
        assert job.outcomes() == ["unknown", "unknown"]
        assert "may just as well replace" in job.results()[1]["message"]
        assert job.results()[1]["result"] is None
        assert sum(job.executed("renew").values()) == 1


async def test_a_renewal_under_way_at_a_crash_is_not_sent_again(tmp_path: Path) -> None:
    """It is executed a second after the crash, and the run goes on at once."""
    under_way: list[str] = []

    def all_have_left(passing: Passing, answer: bytes | None) -> bool:
        if passing.action == "renew" and answer is None:
            under_way.append(passing.device)
        return len(under_way) >= 3

    behaviour = {"renew_revokes_old": False, "execute_late": 1.0, "execute_late_by": 1.0}
    crash = Crash(all_have_left)
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        targets("renew", 3),
        behaviour=behaviour | {"faults_on": "renew"},
        between=crash,
        timings=replace(SHORT_WAITS, settling_s=2.0),
    ) as job:
        await crash.crash(job)
        await job.run()
        assert not_as_promised(job, "renew", died=True) == []
