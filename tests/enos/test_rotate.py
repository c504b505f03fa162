"""`rotate`: renew, check, only then revoke. A device whose renewal fails keeps its certificate."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from enos_vendor import (
    ENOS,
    SUBJECT,
    devices,
    new_certificate,
    public_key,
    signing_request,
    with_requests,
)
from go_between import Crash, Forger, GoBetween, Passing
from harness import InProcessJob, in_this_process
from history import key_of
from job_folder import Row

from bulkcert.errors import JobError, TargetsRejectedError

pytestmark = pytest.mark.system

KEYS = {"generate": "ecdsa-p256", "subject": SUBJECT}
FAULTS = ("error_before", "error_after", "cut_before", "cut_after", "json_cut_short", "page_after")


def out_of_order(job: InProcessJob) -> list[Row]:
    """List revocations sent before the renewal of the same certificate was executed."""
    renewed: set[tuple[str, int]] = set()
    early = []
    for entry in job.entries("renew", "revoke"):
        key = (entry["device"], entry["certSn"])
        if entry["action"] == "renew" and entry["executed"]:
            renewed.add(key)
        elif entry["action"] == "revoke" and key not in renewed:
            early.append(entry)
    return early


def left_alone(job: InProcessJob) -> list[Row]:
    """List results that are failures, and check that none of the old certificates was revoked."""
    found = [result for result in job.results() if result["outcome"] == "failed"]
    for result in found:
        assert job.executed("revoke")[key_of(result["target"])] == 0
        assert (result["code"], result["message"]) not in ((0, "OK"), (0, ""))
    return found


@pytest.mark.parametrize("supersedes", [True, False])
async def test_a_new_certificate_first_then_the_old_one_is_revoked(
    tmp_path: Path, supersedes: bool
) -> None:
    behaviour = {"renew_revokes_old": supersedes}
    parameters = {"reason": "KEY_COMPROMISE", "validDay": 90}
    async with in_this_process(
        tmp_path, ENOS, "rotate", devices(3), behaviour=behaviour, keys=KEYS, parameters=parameters
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        assert job.violations() == []
        assert len(job.entries("revoke")) == (0 if supersedes else 3)
        for result in job.results():
            device, old = result["target"]["assetId"], result["target"]["certSn"]
            new = int(result["result"]["certSN"])
            assert job.certificates({"assetId": device}) == {old: "revoked", new: "valid"}
            reasons = {c.cert_sn: c.reason for c in job.simulator.certificates(f"assetId={device}")}
            assert reasons == {old: 4 if supersedes else 1, new: None}
            assert result["result"]["replaces"] == str(old)
            assert result["result"]["valid_days"] == 90
            assert (job.run_dir / result["result"]["key_file"]).exists()


@pytest.mark.parametrize("supersedes", [True, False])
@pytest.mark.parametrize("list_cert", ["issued", "pem"])
async def test_the_order_is_never_swapped(tmp_path: Path, supersedes: bool, list_cert: str) -> None:
    behaviour = {"seed": 6, "faults_on": "renew,revoke,list", "list_cert": list_cert}
    behaviour |= {"renew_revokes_old": supersedes, **dict.fromkeys(FAULTS, 0.06)}
    async with in_this_process(
        tmp_path, ENOS, "rotate", with_requests(devices(40)), behaviour=behaviour
    ) as job:
        await job.run()
        assert out_of_order(job) == []
        assert job.violations() == []
        assert job.outcomes() == ["succeeded"] * 40


async def test_the_new_certificate_has_the_subject_of_the_old_one(tmp_path: Path) -> None:
    keys = {"generate": "ecdsa-p256"}
    async with in_this_process(tmp_path, ENOS, "rotate", devices(2), keys=keys) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 2
        for result in job.results():
            name = new_certificate(job, result).subject.rfc4514_string()
            assert f"CN=device-{result['target']['certSn']}," in name


# ---- the old certificate is left alone


@pytest.mark.parametrize(
    ("behaviour", "parameters"),
    [
        ({"product_max_valid_day": 365}, {"validDay": 366}),
        ({"bi_directional_auth": False}, {}),
        ({"error_before": 1.0, "faults_on": "renew"}, {}),
        ({"cut_before": 1.0, "faults_on": "renew"}, {}),
        ({"refuse_all": "99403"}, {}),
    ],
)
async def test_a_device_whose_renewal_fails_keeps_its_certificate(
    tmp_path: Path, behaviour: dict[str, Any], parameters: dict[str, Any]
) -> None:
    async with in_this_process(
        tmp_path,
        ENOS,
        "rotate",
        with_requests(devices(3)),
        behaviour=behaviour | {"renew_revokes_old": False},
        parameters=parameters,
        retry={"max_attempts": 3},
    ) as job:
        await job.run()
        assert len(left_alone(job)) == 3
        assert job.entries("revoke") == []
        for row in job.rows:
            assert job.certificates(row) in ({row["certSn"]: "valid"}, {})
        assert job.violations() == []


async def test_a_device_whose_new_certificate_is_not_as_requested_keeps_the_old_one(
    tmp_path: Path,
) -> None:
    other = signing_request("A0")

    def wrong_key(response: Row) -> Row:
        response["data"]["certSN"] = str(int(response["data"]["certSN"]) + 1)
        return response

    async with in_this_process(
        tmp_path,
        ENOS,
        "rotate",
        [row | {"csr": other} for row in devices(1)],
        behaviour={"renew_revokes_old": False},
        between=Forger(renew=wrong_key),
    ) as job:
        await job.run()
        (result,) = left_alone(job)
        assert "is not as requested" in result["message"]
        assert (job.run_dir / result["result"]["certificate_file"]).exists()
        assert job.certificates({"assetId": "A0"})[1000] == "valid"
        assert job.entries("revoke") == []


async def test_a_new_certificate_that_was_revoked_keeps_the_old_one_valid(tmp_path: Path) -> None:
    def gone(response: Row) -> Row:
        for item in response["data"]:
            if item["certSN"] != "1000":
                item["certStatus"] = 1
        return response

    behaviour = {"renew_revokes_old": False}
    rows, between = with_requests(devices(1)), Forger(list=gone)
    async with in_this_process(
        tmp_path, ENOS, "rotate", rows, behaviour=behaviour, between=between
    ) as job:
        await job.run()
        (result,) = left_alone(job)
        assert "the new one, 1000000001, is revoked" in result["message"]
        assert result["result"]["certSN"] in map(str, job.certificates({"assetId": "A0"}))
        assert job.certificates({"assetId": "A0"})[1000] == "valid"
        assert job.entries("revoke") == []


async def test_a_new_certificate_that_cannot_be_checked_revokes_nothing(tmp_path: Path) -> None:
    """Its response was lost, and `list` does not show it."""
    behaviour = {"cut_after": 1.0, "faults_on": "renew", "list_cert": "serial"}
    behaviour |= {"renew_revokes_old": False}
    async with in_this_process(
        tmp_path, ENOS, "rotate", with_requests(devices(2)), behaviour=behaviour
    ) as job:
        await job.run()
        assert job.outcomes() == ["unknown"] * 2
        assert all("it can't be checked" in result["message"] for result in job.results())
        assert job.entries("revoke") == []
        assert job.violations() == []


# ---- after the renewal


@pytest.mark.parametrize(
    "fault", [{"error_before": 1.0}, {"cut_before": 1.0}, {"page_before": 1.0}]
)
async def test_a_failure_after_the_renewal_is_reported_with_the_new_certificate(
    tmp_path: Path, fault: dict[str, float]
) -> None:
    behaviour = {"renew_revokes_old": False, "faults_on": "revoke", **fault}
    retry = {"max_attempts": 3}
    rows = with_requests(devices(2))
    async with in_this_process(
        tmp_path, ENOS, "rotate", rows, behaviour=behaviour, retry=retry
    ) as job:
        await job.run()
        assert job.outcomes() == ["failed"] * 2
        assert job.violations() == []
        for result in job.results():
            device, old = result["target"]["assetId"], result["target"]["certSn"]
            new = int(result["result"]["certSN"])
            assert job.certificates({"assetId": device}) == {old: "valid", new: "valid"}
            assert result["message"].startswith("renewed; revoking the old certificate: ")
            assert result["message"].endswith("; looked up: the old certificate is still valid")
            assert new_certificate(job, result).serial_number == new
        renewed = job.results()
        job.simulator._faults._borders.clear()  # the provider has recovered
        await job.run(retry_failed=True)
        assert job.outcomes() == ["succeeded"] * 2
        assert [r["result"] for r in job.results()] == [r["result"] for r in renewed]
        assert len(job.entries("renew")) == 2
        assert job.violations(retried=True) == []


async def test_without_a_look_at_the_new_certificate_nothing_is_revoked(
    tmp_path: Path,
) -> None:
    class LosesAllButRenewals(GoBetween):
        renewed = False

        async def after(self, passing: Passing, response: bytes) -> bytes:
            self.renewed |= passing.action == "renew"
            return b"{}" if passing.action != "renew" and self.renewed else response

    async with in_this_process(
        tmp_path,
        ENOS,
        "rotate",
        with_requests(devices(1)),
        behaviour={"renew_revokes_old": False},
        between=LosesAllButRenewals(),
        retry={"max_attempts": 3},
    ) as job:
        await job.run()
        (result,) = job.results()
        assert (result["outcome"], len(job.entries("revoke"))) == ("failed", 0)
        assert int(result["result"]["certSN"]) in job.certificates({"assetId": "A0"})


async def test_each_step_has_its_own_attempts(tmp_path: Path) -> None:
    retry, behaviour = {"max_attempts": 1}, {"renew_revokes_old": False}
    rows = with_requests(devices(2))
    async with in_this_process(
        tmp_path, ENOS, "rotate", rows, behaviour=behaviour, retry=retry
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 2


async def test_a_clamp_is_still_reported_after_the_second_step(tmp_path: Path) -> None:
    behaviour = {"renew_revokes_old": False, "ca_life": 40}
    rows = with_requests(devices(1))
    async with in_this_process(
        tmp_path, ENOS, "rotate", rows, behaviour=behaviour, parameters={"validDay": 365}
    ) as job:
        await job.run()
        (result,) = job.results()
        assert (result["result"]["valid_days"], result["result"]["asked_days"]) == (40, 365)


# ---- repetitions


@pytest.mark.parametrize("list_cert", ["serial", "pem"])
async def test_a_certificate_of_a_repeated_renewal_is_surplus_and_named(
    tmp_path: Path, list_cert: str
) -> None:
    """The first attempt is executed long after the settling time, when the second one is done."""

    class Late(GoBetween):
        first: Passing | None = None

        def __init__(self) -> None:
            self.repeated, self.executed = asyncio.Event(), asyncio.Event()

        async def before(self, passing: Passing) -> None:
            if passing.action == "renew" and self.first is None:
                self.first = passing
                self.cut_all()
                await self.repeated.wait()

        async def after(self, passing: Passing, response: bytes) -> bytes:
            if passing is self.first:
                self.executed.set()
            elif passing.action == "renew":
                self.repeated.set()
                await self.executed.wait()
            return response

    async with in_this_process(
        tmp_path,
        ENOS,
        "rotate",
        devices(1),
        behaviour={"renew_revokes_old": False, "list_cert": list_cert},
        between=Late(),
        keys=KEYS,
    ) as job:
        summary = await job.run()
        (result,) = job.results()
        assert result["outcome"] == "succeeded"
        new = int(result["result"]["certSN"])
        (surplus,) = set(job.certificates({"assetId": "A0"})) - {1000, new}
        assert result["result"]["surplus"] == [str(surplus)]
        assert [(remark.name, remark.count) for remark in summary.remarks] == [("surplus", 1)]


# ---- crashes

PHASES = {
    "before the renewal": ("renew", False),
    "after the renewal": ("renew", True),
    "before the look": ("list", False),
    "after the look": ("list", True),
    "before the revocation": ("revoke", False),
    "after the revocation": ("revoke", True),
}


@pytest.mark.parametrize(
    ("phase", "supersedes"),
    # a provider that supersedes leaves nothing to revoke
    [(phase, old) for phase in PHASES for old in (True, False) if not (old and "revoc" in phase)],
)
async def test_a_crash_in_any_phase_is_safe(tmp_path: Path, phase: str, supersedes: bool) -> None:
    action, after_response = PHASES[phase]
    times = itertools.count(1)

    def second_time(passing: Passing, response: bytes | None) -> bool:
        return (
            passing.action == action
            and (response is not None) == after_response
            and next(times) == 2
        )

    crash = Crash(second_time)
    behaviour = {"renew_revokes_old": supersedes}
    async with in_this_process(
        tmp_path, ENOS, "rotate", devices(4), behaviour=behaviour, between=crash, keys=KEYS
    ) as job:
        await crash.crash(job)
        await job.run()
        assert job.outcomes() == ["succeeded"] * 4
        assert out_of_order(job) == []
        assert job.violations(died=True) == []
        assert set(job.executed("renew").values()) == {1}
        for result in job.results():
            key = (job.run_dir / result["result"]["key_file"]).read_bytes()
            assert public_key(new_certificate(job, result)) == public_key(
                load_pem_private_key(key, None)
            )


# ---- keys and signing requests


async def test_a_rotation_needs_keys_or_signing_requests(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "rotate", devices(2)) as job:
        with pytest.raises(TargetsRejectedError) as caught:
            await job.run()
        assert [(r.line, r.field) for r in caught.value.first] == [(1, "csr"), (2, "csr")]
        assert job.entries("renew", "list") == []


async def test_a_rotation_refuses_signing_requests_beside_keys(tmp_path: Path) -> None:
    rows = with_requests(devices(1))
    async with in_this_process(
        tmp_path, ENOS, "rotate", rows, keys=KEYS, parameters={"csr": rows[0]["csr"]}
    ) as job:
        with pytest.raises(JobError, match=r"parameters\.csr"):
            await job.run()
