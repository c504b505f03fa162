"""What a rehearsal tells its simulator: the job's limits, and certificates that the job finds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from job_folder import toml
from processes import bulkcert

from bulkcert.job import Job
from bulkcert.jobfile import load_job
from bulkcert.rehearsal import on_loopback, simulator_options

ENOS = {"endpoint": "https://apim.example.com", "org_id": "o1"}
APSARAMQ = {"region": "cn-hangzhou", "instance_id": "post-cn-1"}
NOW_S = 1_790_000_000.0


def make_job(folder: Path, provider: str, action: str, **sections: Any) -> Job:
    connection = {"enos": ENOS, "apsaramq": APSARAMQ}[provider]
    document = {"provider": provider, "action": action, "targets": "targets.csv"}
    path = folder / "job.toml"
    path.write_text(toml({**document, "connection": connection, **sections}))
    return load_job(path)


@pytest.mark.parametrize(
    ("provider", "limits", "account", "source"),
    [
        ("enos", {}, "500", "0"),
        ("enos", {"requests_per_second": 80.5}, "80", "0"),
        ("enos", {"requests_per_second": 0.5}, "1", "0"),
        ("enos", {"requests_per_second_per_source_ip": 40}, "40", "40"),
        ("apsaramq", {}, "300", "300"),
    ],
)
def test_the_simulator_has_exactly_the_limits_of_the_job(
    tmp_path: Path, provider: str, limits: dict[str, float], account: str, source: str
) -> None:
    action = {"enos": "revoke", "apsaramq": "inactivate"}[provider]
    options = simulator_options(make_job(tmp_path, provider, action, limits=limits), NOW_S)
    assert (options["limit"], options["mq-source-limit"]) == (account, source)
    assert options["mq-limit-scope"] == "all"


@pytest.mark.parametrize(("own", "expected"), [(30.0, 1.0), (0.5, 0.5)])
def test_nobody_waits_for_executions_that_cannot_happen(
    tmp_path: Path, own: float, expected: float
) -> None:
    job = make_job(tmp_path, "enos", "renew", retry={"settling_seconds": own})
    assert on_loopback(job).retry.settling_seconds == expected


def test_every_valid_certificate_has_the_key_that_is_looked_for(tmp_path: Path) -> None:
    select = {"public_key": "0" * 64, "issue_authority": "RSA"}
    job = on_loopback(make_job(tmp_path, "enos", "revoke", select=select))
    assert job.select == {"status": "valid", "issue_authority": "RSA"}


@pytest.mark.parametrize(
    "select",
    [
        {"status": "valid"},
        {"issued_before": "2020-01-01"},
        {"issued_before": "2026-09-01", "issued_after": "2026-08-31T12:00:00"},
        {"issued_after": "2026-09-20", "status": "valid"},
        {"issued_before": "2024-01-01", "status": "valid"},
        {"issued_before": "2026-09-01", "expires_within_days": 30, "status": "valid"},
        {"expires_within_days": 1},
    ],
)
def test_the_jobs_selection_finds_the_simulators_certificates(
    tmp_path: Path, select: dict[str, Any]
) -> None:
    job = make_job(tmp_path, "enos", "renew", select=select)
    options = simulator_options(job, NOW_S)
    signed_s = NOW_S - int(float(options["certificate-age"]) * 86_400)
    left_s = signed_s + int(options["certificate-life"]) * 86_400 - NOW_S
    assert signed_s <= NOW_S
    assert signed_s * 1000 < job.select.get("issued_before", math.inf)
    assert signed_s * 1000 >= job.select.get("issued_after", -math.inf)
    assert left_s < job.select.get("expires_within_days", math.inf) * 86_400
    assert (left_s > 0) or "status" not in select


@pytest.mark.system
def test_a_rehearsal_reads_the_targets_as_the_job_does(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        "enos",
        "revoke",
        columns={"deviceKey": "Device", "certSn": "Serial No."},
        parameters={"productKey": "p"},
    )
    assert job.targets
    job.targets.write_text("Device,Serial No.,Site\nd1,5,x\nd2,6,y\n")
    ended = bulkcert("run", "job.toml", "--rehearse", "--run-dir", "run", folder=tmp_path)
    assert ended.code == 0, ended
    ledger = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in ledger]
    assert {(e["device"], e["certSn"]) for e in entries if e["executed"]} == {
        ("productKey=p&deviceKey=d1", 5),
        ("productKey=p&deviceKey=d2", 6),
    }


@pytest.mark.system
@pytest.mark.parametrize(
    ("provider", "action", "targets", "scopes"),
    [
        ("enos", "revoke", "assetId,certSn,orgId\nA1,5,\nA1,5,o2\n", {"o1", "o2"}),
        (
            "apsaramq",
            "inactivate",
            "DeviceSn,CaSn,MqttInstanceId\n01,07,\n01,07,post-cn-2\n",
            {"post-cn-1", "post-cn-2"},
        ),
    ],
)
def test_targets_of_several_organizations_or_instances_are_rehearsed(
    tmp_path: Path, provider: str, action: str, targets: str, scopes: set[str]
) -> None:
    job = make_job(tmp_path, provider, action)
    assert job.targets
    job.targets.write_text(targets)
    ended = bulkcert("run", "job.toml", "--rehearse", "--run-dir", "run", folder=tmp_path)
    assert ended.code == 0, ended
    ledger = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    executed = [entry for entry in map(json.loads, ledger) if entry["executed"]]
    assert {entry["scope"] for entry in executed} == scopes
    assert len(executed) == 2
