"""What every action on device certificates keeps, whatever the provider does.

Runs over real sockets against the simulator; its ledger is the oracle. Faults are drawn per request
from a seed, so that most operations meet one now and then and none meets one for ever.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apsaramq_vendor import APSARAMQ, CA, CREDENTIALS, SENDS, devices
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
EVERY = [*CHANGES, "get"]
WANTED = {"inactivate": "inactive", "activate": "active", "delete": "not registered"}
BEFORE = {"activate": "0"}
"""`Status` of the certificates before, where the usual one is what is wanted."""

changes = pytest.mark.parametrize("action", CHANGES)
every_action = pytest.mark.parametrize("action", EVERY)


def existing(action: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a fleet in which nothing is as the action wants it."""
    return [row | {"Status": BEFORE.get(action, "1")} for row in rows]


# ---- good days


@every_action
async def test_success(tmp_path: Path, action: str) -> None:
    rows = devices(40)
    async with in_this_process(
        tmp_path, APSARAMQ, action, rows, fleet=existing(action, rows)
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        assert job.outcome_counts() == {"succeeded": 40}
        assert job.violations() == []
        assert [result["attempts"] for result in job.results()] == [1] * 40
        assert all(result["code"] == "OK" and result["request_id"] for result in job.results())
        if action != "get":
            assert job.states() == [WANTED[action]] * 40
            assert len(job.executed()) == job.executed().total() == 40


async def test_get_tells_the_certificate(tmp_path: Path) -> None:
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


@changes
@pytest.mark.parametrize("already", ["ok", "error"])
async def test_the_wanted_state_holds_before(tmp_path: Path, action: str, already: str) -> None:
    rows = devices(10)
    fleet = [row | {"Status": {"inactivate": "0"}.get(action, "1")} for row in rows]
    if action == "delete":
        fleet = [{"DeviceSn": "another", "CaSn": CA}]
    behaviour = {"mq_already": already}
    async with in_this_process(
        tmp_path, APSARAMQ, action, rows, fleet=fleet, behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        assert job.executed().total() == 0
        assert job.states() == [WANTED[action]] * 10
        # it is known only where the provider says so, or was asked
        told = already == "error" or action == "delete"
        assert job.outcome_counts() == {"already_done" if told else "succeeded": 10}
        assert job.violations() == []


@pytest.mark.parametrize("statuses", ["pages", "notice"])
@pytest.mark.parametrize("action", ["inactivate", "activate", "get"])
async def test_an_unknown_certificate_fails_at_once(
    tmp_path: Path, action: str, statuses: str
) -> None:
    rows = devices(3)
    fleet = [rows[0] | {"Status": BEFORE.get(action, "1")}, rows[1] | {"CaSn": "another"}]
    behaviour = {"mq_statuses": statuses}
    async with in_this_process(
        tmp_path, APSARAMQ, action, rows, fleet=fleet, behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 1
        assert [result["outcome"] for result in job.results()] == ["succeeded", "failed", "failed"]
        failed = job.results()[1]
        assert (failed["code"], failed["attempts"]) == ("FindDeviceBySnError", 1)
        assert len(job.entries(SENDS[action])) == 3 + (action == "get")
        assert job.violations() == []


async def test_serial_numbers_are_text(tmp_path: Path) -> None:
    """Leading zeros, letter case, and whatever else a serial number may have in it."""
    numbers = ["0017", "017", "17", "00aF", "00AF", "AB:cd 1*~/+", "设备", "a&b=c%20#?", "é" * 64]
    rows = [{"DeviceSn": number, "CaSn": CA} for number in numbers]
    async with in_this_process(tmp_path, APSARAMQ, "inactivate", rows[::2], fleet=rows) as job:
        await job.run()
        assert job.outcome_counts() == {"succeeded": len(rows[::2])}
        assert {key.serial: times for key, times in job.executed().items()} == dict.fromkeys(
            numbers[::2], 1
        )


# ---- faults

AGAIN = {
    "error_before": {},
    "error_after": {},
    "error_after by the notice": {"mq_statuses": "notice"},
    "cut_before": {},
    "cut_after": {},
    "cut_after by reset": {"cut_style": "reset"},
    "cut_inside": {},
    "page_before": {},
    "page_after": {},
    "html_ok": {},
    "redirect": {},
    "json_cut_short": {},
    "wrong_types": {},
}
"""Faults that leave open what happened, each with more of `Behaviour`."""


@every_action
@pytest.mark.parametrize("fault", AGAIN)
async def test_a_fault_is_settled_rightly(tmp_path: Path, action: str, fault: str) -> None:
    rows = devices(30)
    behaviour = {fault.partition(" ")[0]: 0.3, "seed": 3} | AGAIN[fault]
    async with in_this_process(
        tmp_path, APSARAMQ, action, rows, fleet=existing(action, rows), behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        assert job.outcome_counts() == {"succeeded": 30}
        # a redirect may be a throttle, and is counted as one
        found = [v for v in job.violations() if fault != "redirect" or "throttled" not in v]
        assert found == []
        assert any(entry["fault"] for entry in job.entries(SENDS[action]))
        if action != "get":
            assert job.states() == [WANTED[action]] * 30
            assert set(job.executed().values()) == {1}


@changes
@pytest.mark.parametrize("fault", ["error_after", "cut_after", "page_after", "wrong_types"])
async def test_attempts_used_up_are_settled_by_a_look(
    tmp_path: Path, action: str, fault: str
) -> None:
    """Not one attempt is answered as it should be, but each was executed."""
    rows = devices(12)
    behaviour = {fault: 1.0, "faults_on": SENDS[action]}
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        action,
        rows,
        fleet=existing(action, rows),
        behaviour=behaviour,
        retry={"max_attempts": 3},
    ) as job:
        await job.run()
        assert job.outcome_counts() == {"succeeded": 12}
        assert {result["attempts"] for result in job.results()} <= {1, 2, 3}
        assert job.states() == [WANTED[action]] * 12
        assert job.violations() == []


@changes
@pytest.mark.parametrize("fault", ["error_before", "cut_before", "page_before", "html_ok"])
async def test_what_was_never_executed_is_failed(tmp_path: Path, action: str, fault: str) -> None:
    rows = devices(12)
    behaviour = {fault: 1.0, "faults_on": SENDS[action]}
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        action,
        rows,
        fleet=existing(action, rows),
        behaviour=behaviour,
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        assert job.outcome_counts() == {"failed": 12}
        assert all("; looked up: the certificate is" in r["message"] for r in job.results())
        assert job.executed().total() == 0
        assert job.violations() == []


@changes
async def test_what_can_not_be_looked_up_is_unknown(tmp_path: Path, action: str) -> None:
    rows = devices(5)
    async with in_this_process(
        tmp_path, APSARAMQ, action, rows, behaviour={"outage_after": 1}, retry={"max_attempts": 2}
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 1
        assert job.outcome_counts() == {"unknown": 5}


@pytest.mark.parametrize("action", ["inactivate", "get"])
@pytest.mark.parametrize(
    "behaviour",
    [
        {"throttle": 0.3},
        {"throttle": 0.3, "mq_throttle_status": "429", "mq_throttle_code": "Throttling"},
        {"throttle": 0.3, "mq_throttle_status": "302", "mq_throttle_code": "Throttling.Api"},
        {"throttle_retry_after": 0.3, "mq_throttle_status": "503"},
        {"system_overflow": 0.3},
        {"system_overflow": 0.3, "mq_statuses": "notice"},
        {"limit": 12, "mq_throttle_headers": "x-ratelimit"},
    ],
    ids=lambda behaviour: ",".join(map(str, behaviour.values())),
)
async def test_throttled_answers_are_no_attempts(
    tmp_path: Path, action: str, behaviour: dict[str, Any]
) -> None:
    rows = devices(15)
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        action,
        rows,
        fleet=existing(action, rows),
        behaviour={"seed": 2} | behaviour,
    ) as job:
        summary = await job.run()
        assert job.outcome_counts() == {"succeeded": 15}
        assert {result["attempts"] for result in job.results()} == {1}
        turned_away = [
            entry
            for entry in job.entries()
            if str(entry["code"]).startswith(("Throttling", "SystemOverFlow"))
        ]
        assert summary.throttled == len(turned_away) > 0
        assert job.violations() == []


async def test_how_long_to_wait_is_obeyed(tmp_path: Path) -> None:
    """The limit is 5 a second, and every refused request says to come back after a second."""
    rows = devices(6)
    behaviour = {"limit": 5, "retry_after": 1, "mq_throttle_headers": "x-acs-retry-after"}
    async with in_this_process(tmp_path, APSARAMQ, "inactivate", rows, behaviour=behaviour) as job:
        await job.run()
        refused = job.entries(SENDS["inactivate"])[5:-1]
        assert refused
        last = job.entries(SENDS["inactivate"])[-1]
        assert last["at"] - refused[0]["at"] >= 1.0
        assert job.outcome_counts() == {"succeeded": 6}


# ---- answers about somebody else


@changes
async def test_an_answer_about_another_device_is_no_success(tmp_path: Path, action: str) -> None:
    """A provider that does not tell letter case apart names the device as it knows it."""
    known = [{"DeviceSn": "00AF01", "CaSn": CA, "Status": BEFORE.get(action, "1")}]
    asked_for = [{"DeviceSn": "00af01", "CaSn": CA}]
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        action,
        asked_for,
        fleet=known,
        behaviour={"mq_sn_case": False},
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        [result] = job.results()
        # a deleted one is not there under any name, which settles it
        assert result["outcome"] == ("succeeded" if action == "delete" else "unknown")
        assert job.executed().total() == 1


async def test_get_takes_no_other_certificate(tmp_path: Path) -> None:
    known = [{"DeviceSn": "00AF01", "CaSn": CA}]
    asked_for = [{"DeviceSn": "00af01", "CaSn": CA}]
    behaviour = {"mq_sn_case": False}
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "get",
        asked_for,
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
    """Run, and return what ended it before the first operation."""
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
@pytest.mark.parametrize("action", ["inactivate", "list"])
async def test_bad_credentials(
    tmp_path: Path, action: str, changed: dict[str, str], code: str
) -> None:
    rows = devices(3) if action == "inactivate" else [{"CaSn": CA}]
    async with in_this_process(
        tmp_path, APSARAMQ, action, rows, credentials=CREDENTIALS | changed
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert (code in error.problem, error.exit_code) == (True, 2)
        assert error.next_step
        assert not any(value in str(error) for value in changed.values())


async def test_a_security_token_is_sent_along(tmp_path: Path) -> None:
    credentials = CREDENTIALS | {"ALIBABA_CLOUD_SECURITY_TOKEN": "STS.example"}
    behaviour = {"security_token": "STS.example"}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(5), behaviour=behaviour, credentials=credentials
    ) as job:
        await job.run()
        assert job.outcome_counts() == {"succeeded": 5}


async def test_a_security_token_is_missing(tmp_path: Path) -> None:
    behaviour = {"security_token": "STS.example"}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(5), behaviour=behaviour
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert "MissingSecurityToken" in error.problem


async def test_a_token_that_has_expired_before_the_run(tmp_path: Path) -> None:
    behaviour = {"token_expired": 1.0}
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(5), behaviour=behaviour
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert "InvalidSecurityToken.Expired" in error.problem
        assert "A token can't be renewed from here" in error.next_step


@every_action
async def test_a_token_that_expires_stops_the_run_and_a_new_one_goes_on(
    tmp_path: Path, action: str
) -> None:
    rows = devices(60)
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        action,
        rows,
        fleet=existing(action, rows),
        behaviour={"token_expired": 0.05, "seed": 5},
        limits={"in_flight": 4},
    ) as job:
        stops: list[BulkcertError] = []
        while len(stops) < 20:
            try:
                await job.run()
            except (ProviderUnusableError, CredentialsError) as error:
                stops.append(error)
            else:
                break
        assert stops
        for stop in stops:
            assert "InvalidSecurityToken.Expired" in stop.problem
            assert "run the same command: it continues from here" in stop.next_step
        assert job.outcome_counts() == {"succeeded": 60}
        if action != "get":
            assert set(job.executed().values()) == {1}
            assert job.states() == [WANTED[action]] * 60


async def test_an_unknown_instance(tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(3), behaviour={"mq_instance": "another"}
    ) as job:
        error = await refused(job)
        assert isinstance(error, EndpointError)
        assert error.exit_code == 2
        assert "MqttInstanceNotFound" in error.problem
        assert "connection.instance_id" in error.next_step


@pytest.mark.parametrize("code", ["Forbidden.RAM", "NoPermission"])
async def test_who_may_not_look_up_is_told_at_once(tmp_path: Path, code: str) -> None:
    async with in_this_process(
        tmp_path, APSARAMQ, "inactivate", devices(3), behaviour={"refuse_all": code}
    ) as job:
        error = await refused(job)
        assert isinstance(error, CredentialsError)
        assert code in error.problem


async def test_an_endpoint_that_is_something_else(tmp_path: Path) -> None:
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
