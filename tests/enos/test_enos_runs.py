"""Runs of EnOS jobs: what is special to EnOS, over real sockets against the simulator.

What every provider owes its callers is in `test_provider_conformance.py`. Here are the switches for
what EnOS does not document, its own refusals, and crashes at chosen requests.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS, devices, signing_request, with_requests
from go_between import Crash, CutError, Forger, GoBetween, Passing
from harness import InProcessJob, in_this_process
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
    """The rows that an action needs."""
    match action:
        case "list":
            return [{"assetId": row["assetId"]} for row in devices(count)]
        case "revoke":
            return devices(count)
    return with_requests(devices(count))


def not_as_promised(job: InProcessJob, action: str, **circumstances: Any) -> list[str]:
    """List what is wrong with a run in which every operation should have succeeded."""
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
async def test_devices_may_be_named_by_two_keys(tmp_path: Path, action: str) -> None:
    fleet: list[Row] = [{"productKey": "p 1", "deviceKey": f"d/ä+{n}"} for n in range(3)]
    rows = [row | ({"certSn": 7 + n} if action != "list" else {}) for n, row in enumerate(fleet)]
    if action in ("renew", "rotate"):
        rows = [row | {"csr": signing_request(row["deviceKey"])} for row in rows]
    async with in_this_process(tmp_path, ENOS, action, rows) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        assert job.violations() == []


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
async def test_undocumented_behaviour_may_go_either_way(
    tmp_path: Path, action: str, switches: dict[str, Any]
) -> None:
    behaviour: dict[str, Any] = {"seed": 5, "faults_on": "renew,revoke"}
    behaviour |= {"error_after": 0.2, "error_before": 0.1, "cut_after": 0.1}
    async with in_this_process(
        tmp_path, ENOS, action, targets(action), behaviour=behaviour | switches
    ) as job:
        await job.run()
        if switches.get("list_cert") == "serial" and action == "rotate":
            # A certificate that was lost, and that list does not show, can't be checked.
            assert job.violations() == []
            assert set(job.outcomes()) == {"succeeded", "unknown"}
        else:
            assert not_as_promised(job, action) == []


@pytest.mark.parametrize(
    ("date", "serial"), [("effectiveDate", "certSN"), ("effetiveDate", "certSn")]
)
async def test_both_spellings_are_read(tmp_path: Path, date: str, serial: str) -> None:
    def respell(response: Row) -> Row:
        for item in response["data"] if isinstance(response["data"], list) else [response["data"]]:
            item[serial] = item.pop("certSN")
            if "effetiveDate" in item:
                item[date] = item.pop("effetiveDate")
        return response

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


# ---- what list leaves out


@pytest.mark.parametrize("action", ["renew", "rotate"])
async def test_list_may_leave_out_the_old_certificate(tmp_path: Path, action: str) -> None:
    """The responses of all renewals are lost, so each one is looked up."""

    def without_old(response: Row) -> Row:
        new = [item for item in response["data"] if int(item["certSN"]) >= 2000]
        return response | {"data": new or response["data"]}

    behaviour = {"cut_after": 1.0, "faults_on": "renew", "renew_revokes_old": False}
    async with in_this_process(
        tmp_path,
        ENOS,
        action,
        targets(action, 3),
        behaviour=behaviour,
        between=Forger(list=without_old),
    ) as job:
        await job.run()
        assert not_as_promised(job, action) == []
        assert len(job.entries("revoke")) == (3 if action == "rotate" else 0)


@pytest.mark.parametrize("old_ones", ["valid", "revoked"])
async def test_nothing_is_revoked_while_the_new_certificate_is_not_in_the_list(
    tmp_path: Path, old_ones: str
) -> None:
    """The responses of the renewals arrive; only then `list` is asked about both certificates.
    Where the provider has revoked the old one itself, the operation fails as well."""

    def without_new(response: Row) -> Row:
        kept = [item for item in response["data"] if int(item["certSN"]) < 2000]
        return response | {"data": kept}

    forger = Forger(list=without_new)
    behaviour = {"renew_revokes_old": old_ones == "revoked"}
    async with in_this_process(
        tmp_path,
        ENOS,
        "rotate",
        targets("rotate", 3),
        behaviour=behaviour,
        between=forger,
        retry={"max_attempts": 3},
    ) as job:
        await job.run()
        assert job.outcomes() == ["failed"] * 3
        assert all("is not in the device's list" in r["message"] for r in job.results())
        assert len(job.entries("list")) == 3 * (1 + 3)  # before the renewal, and each attempt
        assert job.entries("revoke") == []
        forger.changes.clear()
        await job.run(retry_failed=True)
        assert not_as_promised(job, "rotate", retried=True) == []
        assert len(job.entries("revoke")) == (0 if old_ones == "revoked" else 3)


# ---- refusals


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("http", [200, 400])
async def test_each_target_has_its_own_outcome(tmp_path: Path, action: str, http: int) -> None:
    """Of four targets, one is good, one is unknown, one names the certificate of another device,
    and one is already revoked."""
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
        assert (unknown["code"], unknown["attempts"]) == (11404, int(action == "revoke"))
        assert "Device cannot be found" in unknown["message"]
        if action == "revoke":
            assert (others["code"], "bound to other devices" in others["message"]) == (99400, True)
        else:  # the look-up that comes first shows it
            assert (others["code"], "another device" in others["message"]) == (None, True)
        assert "revoked" in again["message"]
        assert job.certificates({"assetId": "A2"}) == {1002: "valid"}
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
        assert outcomes == {("failed", 99403, int(action in ("revoke", "list")))}
        assert job.violations() == []


async def test_a_list_fails_when_its_attempts_are_used_up(tmp_path: Path) -> None:
    behaviour = {"error_before": 1.0, "faults_on": "list"}
    rows, retry = targets("list", 2), {"max_attempts": 3}
    async with in_this_process(
        tmp_path, ENOS, "list", rows, behaviour=behaviour, retry=retry
    ) as job:
        await job.run()
        outcomes = {(r["outcome"], r["code"], r["attempts"]) for r in job.results()}
        assert outcomes == {("failed", 99500, 3)}
        assert job.violations() == []


class LosesResponses(GoBetween):
    """Loses all responses about a device from its first change on, while `losing`."""

    losing = True

    def __init__(self) -> None:
        super().__init__()
        self._devices: set[str] = set()

    async def after(self, passing: Passing, response: bytes) -> bytes:
        if passing.action in ("renew", "revoke"):
            self._devices.add(passing.device)
        return b"{}" if self.losing and passing.device in self._devices else response


@pytest.mark.parametrize("action", CHANGES)
async def test_an_undecided_operation_is_unknown_until_a_look_up_decides_it(
    tmp_path: Path, action: str
) -> None:
    between = LosesResponses()
    retry = {"max_attempts": 3}
    async with in_this_process(
        tmp_path, ENOS, action, targets(action, 3), between=between, retry=retry
    ) as job:
        summary = await job.run()
        assert job.outcomes() == ["unknown"] * 3
        assert summary.exit_code == 1
        sent = len(job.entries(STEPS[action][0]))
        assert sent == (
            9 if action == "revoke" else 3
        )  # a renewal is not repeated without a look-up
        between.losing = False
        summary = await job.run(retry_failed=True)
        assert summary.exit_code == 0
        assert job.outcomes() == ["succeeded"] * 3
        assert len(job.entries(STEPS[action][0])) == sent
        assert set(job.executed(STEPS[action][0]).values()) == {1}


# ---- crashes and combinations


class AtRequest(Crash):
    """Crashes at the n-th request or response."""

    def __init__(self) -> None:
        super().__init__(lambda passing, response: self._is_it_now())
        self.left = 0

    def _is_it_now(self) -> bool:
        self.left -= 1
        return self.left < 0


def any_combination(rng: random.Random) -> dict[str, Any]:
    """Draw a behaviour in which several things go wrong."""
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
    """Devices have one or two certificates, and renewals may or may not be identified by their
    signing request."""
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
        retry={"settling_seconds": 0.08},
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
async def test_a_new_certificate_that_may_replace_another_one_is_not_claimed(
    tmp_path: Path, action: str, its_old_one: int
) -> None:
    """Two certificates of one device are renewed; one renewal arrives, both responses are lost.

    The certificate that was renewed is still valid, or has been revoked, as by a rotation.
    """

    class OneArrives(GoBetween):
        async def before(self, passing: Passing) -> None:
            if passing.action == "renew" and passing.body["certSn"] == 1001:
                raise CutError

        async def after(self, passing: Passing, response: bytes) -> bytes:
            if passing.action == "renew":
                return b"{}"
            document = json.loads(response)
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


async def test_a_renewal_in_flight_at_a_crash_is_not_sent_again(tmp_path: Path) -> None:
    """It is executed one second after the crash, and the run continues at once."""
    in_flight: list[str] = []

    def all_have_left(passing: Passing, response: bytes | None) -> bool:
        if passing.action == "renew" and response is None:
            in_flight.append(passing.device)
        return len(in_flight) >= 3

    behaviour = {"renew_revokes_old": False, "execute_late": 1.0, "execute_late_by": 1.0}
    crash = Crash(all_have_left)
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        targets("renew", 3),
        behaviour=behaviour | {"faults_on": "renew"},
        between=crash,
        retry={"settling_seconds": 2.0},
    ) as job:
        await crash.crash(job)
        await job.run()
        assert not_as_promised(job, "renew", died=True) == []
