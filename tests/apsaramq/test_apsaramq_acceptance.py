"""The installed command with jobs for ApsaraMQ, as a user runs it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from apsaramq_vendor import APSARAMQ, devices
from harness import ProcessJob, as_a_process
from history import key_of
from processes import bulkcert

pytestmark = pytest.mark.system

JOBS = Path(__file__).parents[2] / "jobs"
CHANGES = ["inactivate", "activate", "delete"]


def rehearsed(tmp_path: Path, job: Path) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Rehearse a job; return its output, the results, and the simulator's ledger."""
    run_dir = tmp_path / "rehearsal"
    ended = bulkcert("run", job, "--rehearse", "--run-dir", run_dir, folder=tmp_path)
    assert ended.code == 0, ended
    assert ended.out == ""
    results = (run_dir / "results.jsonl").read_text().splitlines()
    ledger = (run_dir / "ledger.jsonl").read_text().splitlines()
    return ended.err, [json.loads(r) for r in results], [json.loads(e) for e in ledger]


@pytest.mark.parametrize("action", [*CHANGES, "get"])
def test_the_sample_jobs_are_rehearsed(tmp_path: Path, action: str) -> None:
    said, results, ledger = rehearsed(tmp_path, JOBS / f"apsaramq-{action}.toml")
    with (JOBS / "devices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [result["target"] for result in results] == rows
    assert {result["outcome"] for result in results} == {"succeeded"}
    assert "300 requests in any second" in said
    assert "1 source address at 300; apsaramq blocks an address that sends more" in said
    assert ("delete is not a revocation" in said) == (action == "delete")
    if action in ("inactivate", "delete"):
        executed = Counter(entry["certSn"] for entry in ledger if entry["executed"])
        assert executed == {row["DeviceSn"]: 1 for row in rows}
    if action == "get":
        assert all(len(result["result"]["certificates"]) == 1 for result in results)


def test_the_sample_inventory_is_rehearsed(tmp_path: Path) -> None:
    _, results, _ = rehearsed(tmp_path, JOBS / "apsaramq-list.toml")
    assert [(r["line"], r["target"].get("PageNo", 1)) for r in results] == [
        *((2, 1), (2, 2), (3, 1), (3, 2)),
    ]
    assert [len(r["result"]["certificates"]) for r in results] == [100, 50, 100, 50]
    run_dir = tmp_path / "rehearsal"
    ended = bulkcert("results", run_dir, "--format", "csv", folder=tmp_path)
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert len({(row["CaSn"], row["DeviceSn"]) for row in rows}) == len(rows) == 300


def test_the_plan_shows_a_request_without_secrets(tmp_path: Path) -> None:
    ended = bulkcert("plan", JOBS / "apsaramq-inactivate.toml", folder=tmp_path)
    assert ended.code == 0
    assert "https://onsmqtt.cn-hangzhou.aliyuncs.com/?CaSn=" in ended.out
    assert "x-acs-action: InactivateDeviceCertificate" in ended.out
    assert "Authorization: ACS3-HMAC-SHA256 ********" in ended.out


LIMITS = {"requests_per_second": 500, "requests_per_second_per_source_ip": 300}


def test_a_job_is_killed_continued_and_verified(tmp_path: Path) -> None:
    rows = devices(300)
    faults = {"latency": 0.05, "error_after": 0.1, "cut_after": 0.05, "seed": 1}
    with as_a_process(tmp_path, APSARAMQ, "inactivate", rows, mq_source_limit=0, **faults) as job:
        job.write(limits=LIMITS)
        for requests in (60, 150):
            with job.start("--yes") as command:
                job.await_requests(requests, command)
                command.kill()
        ended = job.run()
        assert ended.code == 0, ended
        assert "so far" in ended.err
        assert "set by 1 source address at 300" in ended.err
        assert job.violations(died=True, jitter=30) == []
        executed = job.executed()
        verified = job.bulkcert("verify", job.run_dir, environment=job.credentials)
        assert verified.code == 0, verified
        assert executed == dict.fromkeys(map(key_of, rows), 1)


def test_verify_reports_what_has_changed_since(tmp_path: Path) -> None:
    with as_a_process(tmp_path, APSARAMQ, "inactivate", devices(5), mq_source_limit=0) as job:
        assert job.run().code == 0
        # another job activates one of them again
        folder = tmp_path / "other"
        folder.mkdir()
        other = ProcessJob(folder, APSARAMQ, "activate", devices(1), job.simulator)
        assert other.run().code == 0
        verified = job.bulkcert("verify", job.run_dir, environment=job.credentials)
        assert verified.code == 1
        [difference] = [json.loads(line) for line in verified.out.splitlines()]
        assert difference["line"] == 2
        assert difference["difference"] == "the certificate is active, and should be inactive"


def test_a_deletion_is_verified_by_the_absence_of_the_certificate(tmp_path: Path) -> None:
    rows = devices(2)
    with as_a_process(tmp_path, APSARAMQ, "delete", rows, fleet=rows[:1], mq_source_limit=0) as job:
        assert job.run().code == 0
        verified = job.bulkcert("verify", job.run_dir, environment=job.credentials)
        assert (verified.code, verified.out) == (0, "")


def test_missing_credentials_are_named(tmp_path: Path) -> None:
    ended = bulkcert("run", JOBS / "apsaramq-get.toml", folder=tmp_path)
    assert ended.code == 2
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET" in ended.err
