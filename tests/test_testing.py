"""The fake transport: what a test of a program can make a provider do, without a network."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_folder import toml, write_csv

import bulkcert
from bulkcert.errors import CredentialsError, ProviderUnusableError, RunDirectoryError
from bulkcert.testing import FakeTransport, Request, Response

DEVICES = 5
Rows = list[dict[str, Any]]
EnosJob = Callable[..., bulkcert.Job]


def make_job(folder: Path, action: str = "revoke", **sections: Any) -> bulkcert.Job:
    document: dict[str, Any] = {
        "provider": "enos",
        "action": action,
        "targets": "targets.csv",
        "connection": {"endpoint": "https://apim.example.com", "org_id": "o1"},
    }
    rows = [(f"A{number}", 1000 + number) for number in range(1, DEVICES + 1)]
    write_csv(folder / "targets.csv", rows)
    (folder / "job.toml").write_text(toml(document | sections))
    return bulkcert.load_job(folder / "job.toml")


async def execute(job: bulkcert.Job, folder: Path, fake: FakeTransport) -> bulkcert.Summary:
    with bulkcert.Run(job, folder / "run", transport=fake) as run:
        return await run.execute()


def about(request: Request, device: str) -> bool:
    """Whether a request asks to revoke this device's certificate."""
    return request.action == "revoke" and request.target["assetId"] == device


async def test_the_provider_is_simulated_unless_a_test_says_otherwise(tmp_path: Path) -> None:
    fake = FakeTransport()
    summary = await execute(make_job(tmp_path), tmp_path, fake)
    assert (summary.succeeded, summary.exit_code) == (DEVICES, 0)
    assert Counter(request.action for request in fake.requests) == {
        "token.get": 1,
        "revoke": DEVICES,
    }
    sent = fake.requests[1]
    assert sent.target == {"assetId": "A1", "certSn": 1001}
    assert (sent.method, sent.path) == ("POST", "/connect-service/v2.0/certificates")
    assert sent.query == {"action": "revoke", "assetId": "A1", "orgId": "o1"}
    assert sent.json["certSn"] == 1001
    assert sent.headers["APIM-AccessToken"]


async def test_a_response_takes_the_place_of_the_provider_s(tmp_path: Path) -> None:
    def respond(request: Request) -> Response | None:
        if about(request, "A2"):
            return Response(json={"code": 11404, "msg": "not found", "requestId": "r-2"})
        return None

    summary = await execute(make_job(tmp_path), tmp_path, FakeTransport(respond))
    assert (summary.succeeded, summary.failed, summary.exit_code) == (DEVICES - 1, 1, 1)
    [failed] = bulkcert.results(tmp_path / "run", "failed")
    assert (failed.code, failed.message, failed.request_id) == (11404, "not found", "r-2")
    assert failed.target["assetId"] == "A2"


async def test_no_pause_is_waited_for(tmp_path: Path) -> None:
    throttles = iter([Response(status=429, headers={"retry-after": "86400"})] * 3)

    async def respond(request: Request) -> Response | None:
        return next(throttles, None) if request.action == "revoke" else None

    async with asyncio.timeout(60):
        summary = await execute(
            make_job(tmp_path, limits={"requests_per_second": 0.01}),
            tmp_path,
            FakeTransport(respond),
        )
    assert (summary.succeeded, summary.throttled) == (DEVICES, 3)


@pytest.mark.parametrize(
    ("error", "executed", "attempts"),
    [
        (TimeoutError(), False, 2),
        (TimeoutError(), True, 2),
        (ConnectionResetError(), False, 2),
        (ConnectionRefusedError(), False, 1),
    ],
)
async def test_a_request_may_get_no_response(
    error: OSError, executed: bool, attempts: int, tmp_path: Path
) -> None:
    lost: list[Request] = []

    async def respond(request: Request) -> Response | None:
        if about(request, "A3") and not lost:
            lost.append(request)
            if executed:
                assert (await fake.execute(request)).status == 200
            raise error
        return None

    fake = FakeTransport(respond)
    summary = await execute(make_job(tmp_path), tmp_path, fake)
    assert summary.succeeded == DEVICES
    [result] = [r for r in bulkcert.results(tmp_path / "run") if r.target["assetId"] == "A3"]
    assert result.attempts == attempts


async def test_what_never_works_ends_soon(tmp_path: Path) -> None:
    def respond(request: Request) -> Response | None:
        if request.action == "token.get":
            return None
        raise TimeoutError

    async with asyncio.timeout(60):
        summary = await execute(make_job(tmp_path), tmp_path, FakeTransport(respond))
        assert (summary.unknown, summary.exit_code) == (DEVICES, 1)

        def refuse(request: Request) -> Response:
            raise ConnectionRefusedError

        with pytest.raises(ProviderUnusableError, match="no connection: refused"):
            await execute(make_job(tmp_path), tmp_path / "second", FakeTransport(refuse))


async def test_a_failed_assertion_ends_the_run_and_reaches_the_test(tmp_path: Path) -> None:
    def respond(request: Request) -> Response | None:
        assert request.action == "token.get", "not expected"
        return None

    with pytest.raises(AssertionError, match="not expected"):
        await execute(make_job(tmp_path), tmp_path, FakeTransport(respond))


async def test_other_credentials_are_refused_as_by_the_provider(tmp_path: Path) -> None:
    fake = FakeTransport()
    run = bulkcert.Run(make_job(tmp_path), tmp_path / "run", transport=fake)
    with run, pytest.raises(CredentialsError):
        await run.execute(fake.credentials | {"ENOS_APP_SECRET": "wrong"})


async def test_a_stopped_run_goes_on_and_failed_ones_are_retried(tmp_path: Path) -> None:
    job, broken = make_job(tmp_path, limits={"in_flight": 1}), True

    def respond(request: Request) -> Response | None:
        return Response(json={"code": 11404}) if broken and about(request, "A1") else None

    fake = FakeTransport(respond)
    with bulkcert.Run(job, tmp_path / "run", transport=fake) as run:
        summary = await run.execute(on_event=lambda event: run.stop())
        assert summary.exit_code == 3
    assert (await execute(job, tmp_path, fake)).failed == 1
    broken = False
    with bulkcert.Run(job, tmp_path / "run", transport=fake, retry_failed=True) as run:
        assert run.plan is None  # the same run
        assert (await run.execute()).succeeded == DEVICES
    with pytest.raises(RunDirectoryError, match="rehearsal was True"):
        bulkcert.Run(job, tmp_path / "run").__enter__()


async def test_apsaramq_is_simulated_too(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        provider="apsaramq",
        action="inactivate",
        connection={"region": "cn-hangzhou", "instance_id": "post-cn-1"},
    )
    (tmp_path / "targets.csv").write_text("CaSn,DeviceSn\n007,0012\n007,0013\n")

    def respond(request: Request) -> Response | None:
        if request.target.get("DeviceSn") == "0013" and request.action.startswith("Inactivate"):
            return Response(status=403, json={"Code": "NoPermission", "Message": "no"})
        return None

    fake = FakeTransport(respond)
    await execute(job, tmp_path, fake)
    outcomes = {r.target["DeviceSn"]: str(r.outcome) for r in bulkcert.results(tmp_path / "run")}
    assert outcomes == {"0012": "succeeded", "0013": "failed"}
    assert {"CaSn": "007", "DeviceSn": "0012"} in [request.target for request in fake.requests]


async def test_for_another_provider_the_function_responds_to_everything(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job = dataclasses.replace(job, provider=dataclasses.replace(job.provider, simulated=False))

    def respond(request: Request) -> Response | None:
        assert (request.action, request.target) == ("", {})
        if request.path.startswith("/apim-token-service/"):
            return Response(json={"status": 0, "data": {"accessToken": "t", "expire": 7200}})
        return Response(json={"code": 0}) if request.query["assetId"] != "A5" else None

    with pytest.raises(LookupError, match="must return a Response"):
        await execute(job, tmp_path, FakeTransport(respond))
    outcomes = Counter(result.outcome for result in bulkcert.results(tmp_path / "run"))
    assert outcomes == {"succeeded": DEVICES - 1, "unknown": 1}


async def test_selected_certificates_are_found(tmp_path: Path) -> None:
    job = make_job(tmp_path, select={"expires_within_days": 30, "issued_before": "2026-01-01"})
    (tmp_path / "targets.csv").write_text("assetId\nA1\nA2\n")
    assert (await execute(job, tmp_path, FakeTransport())).succeeded == 2


async def test_a_fleet_file_says_what_exists(tmp_path: Path) -> None:
    fleet = write_csv(tmp_path / "fleet.csv", [("A1", 1001)])
    summary = await execute(make_job(tmp_path), tmp_path, FakeTransport(fleet=str(fleet)))
    assert (summary.succeeded, summary.failed) == (1, DEVICES - 1)


@pytest.mark.system
def test_renewals_are_signed_by_a_simulated_authority_also_on_another_loop(tmp_path: Path) -> None:
    fake = FakeTransport()
    for number in (1, 2):
        job = make_job(tmp_path, "renew", keys={"generate": "ecdsa-p256"}, name=f"renew-{number}")
        (tmp_path / "targets.csv").write_text(f"assetId,certSn\nA{number},10{number}\n")
        with bulkcert.Run(job, tmp_path / f"run-{number}", transport=fake) as run:
            assert asyncio.run(run.execute()).succeeded == 1
        assert list((tmp_path / f"run-{number}" / "certificates").glob("*.pem"))
