"""Runs of ApsaraMQ jobs: what is special to ApsaraMQ, over real sockets against the simulator.

What every provider owes its callers is in `test_provider_conformance.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from apsaramq_vendor import APSARAMQ, CA, CREDENTIALS, devices
from harness import SHORT_WAITS, InProcessJob, in_this_process

from bulkcert.errors import (
    BulkcertError,
    CredentialsError,
    EndpointError,
    JobError,
    ProviderUnusableError,
)

pytestmark = pytest.mark.system

CHANGES = ["inactivate", "activate", "delete"]
BEFORE = {"activate": "0"}
"""The `Status` of certificates before an action, where it is not the usual one."""

changes = pytest.mark.parametrize("action", CHANGES)


# ---- certificates


async def test_get_returns_the_certificate(tmp_path: Path) -> None:
    rows = devices(2)
    fleet = [rows[0], rows[1] | {"Status": "0"}]
    async with in_this_process(tmp_path, APSARAMQ, "get", rows, fleet=fleet) as job:
        await job.run()
        certificates = [result["result"]["certificates"] for result in job.results()]
        assert [len(found) for found in certificates] == [1, 1]
        for row, [found], status in zip(rows, certificates, ["active", "inactive"], strict=True):
            assert {name: found[name] for name in row} == row
            assert found["Status"] == status
            assert found["DeviceName"] == f"device-{row['DeviceSn']}"
            assert found["DeviceContent"].startswith("-----BEGIN DEVICECERTIFICATE-----\n")
            assert found["ValidBegin"].endswith("Z")
            assert found["ValidBegin"] < found["ValidEnd"]


async def test_serial_numbers_are_text(tmp_path: Path) -> None:
    """They may have leading zeros, letters of either case, and any other character."""
    numbers = ["0017", "017", "17", "00aF", "00AF", "AB:cd 1*~/+", "设备", "a&b=c%20#?", "é" * 64]
    rows = [{"DeviceSn": number, "CaSn": CA} for number in numbers]
    async with in_this_process(tmp_path, APSARAMQ, "inactivate", rows[::2], fleet=rows) as job:
        await job.run()
        assert job.outcome_counts() == {"succeeded": len(rows[::2])}
        assert {key.serial: times for key, times in job.executed().items()} == dict.fromkeys(
            numbers[::2], 1
        )


# ---- responses about another certificate


@changes
async def test_a_response_about_another_certificate_is_not_a_success(
    tmp_path: Path, action: str
) -> None:
    """A provider that ignores letter case names the certificate as it knows it."""
    known = [{"DeviceSn": "00AF01", "CaSn": CA, "Status": BEFORE.get(action, "1")}]
    wanted = [{"DeviceSn": "00af01", "CaSn": CA}]
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        action,
        wanted,
        fleet=known,
        behaviour={"mq_sn_case": False},
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        [result] = job.results()
        # A deleted certificate does not exist under any name, which settles it.
        assert result["outcome"] == ("succeeded" if action == "delete" else "unknown")
        assert job.executed().total() == 1


async def test_get_does_not_report_another_certificate(tmp_path: Path) -> None:
    known = [{"DeviceSn": "00AF01", "CaSn": CA}]
    wanted = [{"DeviceSn": "00af01", "CaSn": CA}]
    behaviour = {"mq_sn_case": False}
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "get",
        wanted,
        fleet=known,
        behaviour=behaviour,
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        [result] = job.results()
        assert (result["outcome"], result["result"]) == ("failed", None)
        assert "something other than this certificate" in result["message"]


# ---- credentials, endpoint, instance


async def refused(job: InProcessJob) -> BulkcertError:
    """Run the job, and return the error that stops it before the first operation."""
    with pytest.raises(BulkcertError) as caught:
        await job.run()
    assert {entry["action"] for entry in job.entries()} <= {"GetDeviceCertificate"}
    assert len(job.entries()) <= 1
    return caught.value


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"ALIBABA_CLOUD_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId.NotFound"),
        ({"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "wrong"}, "SignatureDoesNotMatch"),
        ({"ALIBABA_CLOUD_SECURITY_TOKEN": "STS.x"}, "InvalidSecurityToken.MismatchWithAccessKey"),
    ],
)
async def test_bad_credentials_stop_a_list(
    tmp_path: Path, changed: dict[str, str], code: str
) -> None:
    rows = [{"CaSn": CA}]
    async with in_this_process(
        tmp_path, APSARAMQ, "list", rows, credentials=CREDENTIALS | changed
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert (code in error.problem, error.exit_code) == (True, 2)
        assert error.next_step
        assert not any(value in str(error) for value in changed.values())


async def test_a_security_token_is_sent(tmp_path: Path) -> None:
    credentials = CREDENTIALS | {"ALIBABA_CLOUD_SECURITY_TOKEN": "STS.example"}
    behaviour = {"security_token": "STS.example"}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(5), behaviour=behaviour, credentials=credentials
    ) as job:
        await job.run()
        assert job.outcome_counts() == {"succeeded": 5}


async def test_a_missing_security_token_stops_the_run(tmp_path: Path) -> None:
    behaviour = {"security_token": "STS.example"}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(5), behaviour=behaviour
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert "MissingSecurityToken" in error.problem


async def test_a_security_token_that_has_already_expired_stops_the_run(tmp_path: Path) -> None:
    behaviour = {"token_expired": 1.0}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(5), behaviour=behaviour
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert "InvalidSecurityToken.Expired" in error.problem
        assert "A token can't be renewed from here" in error.next_step


async def test_an_unknown_instance_stops_the_run(tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(3), behaviour={"mq_instance": "another"}
    ) as job:
        error = await refused(job)
        assert isinstance(error, EndpointError)
        assert error.exit_code == 2
        assert "MqttInstanceNotFound" in error.problem
        assert "connection.instance_id" in error.next_step


@pytest.mark.parametrize("code", ["Forbidden.RAM", "NoPermission"])
async def test_a_missing_permission_to_look_up_stops_the_run(tmp_path: Path, code: str) -> None:
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(3), behaviour={"refuse_all": code}
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert code in error.problem


async def test_an_endpoint_that_is_not_apsaramq_stops_the_run(tmp_path: Path) -> None:
    behaviour = {"html_ok": 1.0}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(1), behaviour=behaviour
    ) as job:
        timings = replace(SHORT_WAITS, first_call_patience_s=0.05)
        with pytest.raises(ProviderUnusableError, match="HTTP 200 with an HTML page"):
            await job.run(timings=timings)


async def test_an_address_that_is_not_local_is_refused(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, APSARAMQ, "inactivate", devices(1)) as job:
        job.write(connection={"source_addresses": ["203.0.113.9"]})
        error = await refused(job)
        assert isinstance(error, JobError)
        assert error.exit_code == 2
        assert job.entries() == []
