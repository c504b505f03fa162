"""Never-touch lists: nothing is ever sent for what is on one, as the simulator's ledger shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from harness import JobWith, ProcessJob
from history import key_of
from job_folder import write_csv

pytestmark = pytest.mark.system


def touched(job: ProcessJob, *actions: str) -> list[bool]:
    """Whether any request was about it, for each target."""
    devices = {entry["device"] for entry in job.entries(*actions)}
    return [key_of(row).device in devices for row in job.rows]


def test_a_hit_refuses_the_run_and_leaving_it_out_ends_with_1(job: ProcessJob) -> None:
    first, second, *_ = (row["assetId"] for row in job.rows)
    write_csv(job.folder / "never.csv", [(first, "Ward 4", "ventilator")], "assetId,owner,note")
    write_csv(job.folder / "global.csv", [(f"{second}*",)], "assetId")
    job.write(protect={"never": "never.csv"})
    environment = {**job.simulator.credentials, "BULKCERT_NEVER": str(job.folder / "global.csv")}
    refused = job.bulkcert("run", job.job_file, "--yes", environment=environment)
    assert refused.code == 2
    assert "Error: 2 targets must not be touched; nothing was sent." in refused.err
    assert f"line 2: assetId '{first}' must not be touched: line 2 of" in refused.err
    assert "never.csv, owner Ward 4, note ventilator" in refused.err
    assert f"(assetId '{second}*')" in refused.err
    assert not any(touched(job))
    ended = job.bulkcert(
        "run", job.job_file, "--yes", "--skip-protected", "--json", environment=environment
    )
    assert ended.code == 1, ended
    summary = json.loads(ended.out)
    assert (summary["succeeded"], summary["left_out"]) == (len(job.rows) - 2, 2)
    assert touched(job) == [False, False, *[True] * (len(job.rows) - 2)]


def test_what_a_selection_found_fails_and_the_run_goes_on(job: ProcessJob) -> None:
    today = datetime.now(UTC).date()
    write_csv(job.folder / "never.csv", [(job.rows[0]["certSn"],)], "certSn")
    job.write_targets([{"assetId": row["assetId"]} for row in job.rows])
    job.write(protect={"never": "never.csv"}, select={"issued_before": str(today)})
    ended = job.run()
    assert ended.code == 1, ended.err
    assert [r["code"] for r in job.results() if r["outcome"] == "failed"] == ["PROTECTED"]
    assert "must not be touched: line 2 of" in ended.err
    assert "If its owner agrees, take it off the list first." in ended.err
    assert touched(job, "revoke") == [False, *[True] * (len(job.rows) - 1)]


def test_a_list_that_has_grown_since_is_in_force_when_the_run_goes_on(job_with: JobWith) -> None:
    with job_with(latency=0.05) as job:
        job.write(limits={"requests_per_second": 40})
        with job.start("--yes") as command:
            assert job.await_requests(10, command)
        protected = job.rows[-1]["assetId"]
        write_csv(job.folder / "global.csv", [(protected,)], "assetId")
        environment = {**job.credentials, "BULKCERT_NEVER": str(job.folder / "global.csv")}
        ended = job.run(environment=environment)
        assert ended.code == 1, ended
        *rest, last = job.results()
        assert (last["outcome"], last["code"], last["attempts"]) == ("failed", "PROTECTED", 0)
        assert {result["outcome"] for result in rest} == {"succeeded"}
        assert touched(job) == [*[True] * (len(job.rows) - 1), False]
