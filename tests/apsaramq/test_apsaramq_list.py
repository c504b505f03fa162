"""`list`: one page after another, each of them an operation."""

from __future__ import annotations

import csv
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apsaramq_vendor import APSARAMQ, CA, INSTANCE
from harness import InProcessJob, in_this_process
from job_folder import Row

from bulkcert.errors import BulkcertError, TargetsRejectedError
from bulkcert.providers import BUILT_IN
from bulkcert.report.results import results_csv
from bulkcert.rundir import open_reader

pytestmark = pytest.mark.system

OTHER_CA = "00f26900ba870000a7"
BY_CA, ALL = "ListDeviceCertificateByCaSn", "ListDeviceCertificate"


def certificates(ca_sn: str, count: int, **more: str) -> list[Row]:
    """Rows of a fleet."""
    return [{"CaSn": ca_sn, "DeviceSn": f"00{n:04}", **more} for n in range(count)]


def listed(job: InProcessJob) -> list[tuple[str, str]]:
    """The certificates in the results, in order."""
    return [
        (certificate["CaSn"], certificate["DeviceSn"])
        for result in job.results()
        for certificate in (result["result"] or {}).get("certificates", [])
    ]


def pages(job: InProcessJob) -> list[tuple[int, int, int]]:
    """The line, the page and the number of certificates of each result."""
    return [
        (r["line"], r["target"].get("PageNo", 1), len(r["result"]["certificates"]))
        for r in job.results()
    ]


@pytest.mark.parametrize("total", ["documented", "rows", "pages"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
async def test_all_certificates_of_a_ca_are_listed(tmp_path: Path, count: int, total: str) -> None:
    fleet = certificates(CA, count) + certificates(OTHER_CA, 3)
    behaviour = {"mq_total": total}
    async with in_this_process(
        tmp_path, APSARAMQ, "list", [{"CaSn": CA}], fleet=fleet, behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert listed(job) == [(row["CaSn"], row["DeviceSn"]) for row in fleet[:count]]
        assert len(job.results()) == len(job.entries(BY_CA)) == count // 100 + 1
        assert summary.total == summary.succeeded == len(job.results())
        assert job.results()[-1]["message"] == (
            f"page {count // 100 + 1}: {count % 100} certificates, the last"
        )


async def test_certificates_of_instances_and_of_cas_are_listed(tmp_path: Path) -> None:
    here, there = {"MqttInstanceId": INSTANCE}, {"MqttInstanceId": "another"}
    fleet = [
        *certificates(CA, 120, **here),
        *certificates(OTHER_CA, 30, **here),
        *certificates(CA, 7, **there),
        *certificates(OTHER_CA, 5, **there),
    ]
    rows = [here, {"CaSn": OTHER_CA}, there | {"CaSn": CA}]
    async with in_this_process(tmp_path, APSARAMQ, "list", rows, fleet=fleet) as job:
        await job.run()
        # in the order of the target file, whichever request came first
        assert pages(job) == [(1, 1, 100), (1, 2, 50), (2, 1, 30), (3, 1, 7)]
        assert len(job.entries(ALL)) == 2
        assert len(job.entries(BY_CA)) == 2


@pytest.mark.parametrize(
    "fault", ["error_after", "cut_before", "cut_inside", "wrong_types", "json_cut_short", "html_ok"]
)
async def test_faults_lose_and_repeat_no_page(tmp_path: Path, fault: str) -> None:
    fleet = [row for n in range(6) for row in certificates(f"00CA{n}", 230)]
    rows = [{"CaSn": f"00CA{n}"} for n in range(6)]
    behaviour = {fault: 0.3, "seed": 4}
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "list",
        rows,
        fleet=fleet,
        behaviour=behaviour,
        retry={"max_attempts": 50},
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        assert listed(job) == [(row["CaSn"], row["DeviceSn"]) for row in fleet]


async def test_a_stopped_run_continues_with_the_current_page(tmp_path: Path) -> None:
    fleet = certificates(CA, 950)
    behaviour = {"token_expired": 0.3, "seed": 1, "faults_on": BY_CA}
    async with in_this_process(
        tmp_path, APSARAMQ, "list", [{"CaSn": CA}], fleet=fleet, behaviour=behaviour
    ) as job:
        starts = 1
        while starts < 20:
            try:
                summary = await job.run()
            except BulkcertError:
                starts += 1
            else:
                break
        assert starts > 1
        # ten pages; an empty one may follow, because the last process has not counted all of them
        assert summary.exit_code == 0
        assert summary.total in (10, 11)
        assert listed(job) == [(row["CaSn"], row["DeviceSn"]) for row in fleet]
        served = [entry for entry in job.entries(BY_CA) if entry["code"] == "OK"]
        assert len(served) == summary.total


async def test_a_refused_page_is_reported(tmp_path: Path) -> None:
    behaviour = {"mq_max_page": 2}
    async with in_this_process(
        tmp_path, APSARAMQ, "list", [{"CaSn": CA}], fleet=certificates(CA, 250), behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert (summary.exit_code, summary.succeeded, summary.failed) == (1, 2, 1)
        failed = job.results()[-1]
        assert (failed["target"]["PageNo"], failed["code"]) == (3, "ParameterFieldCheckFailed")


async def test_a_list_may_start_at_a_later_page(tmp_path: Path) -> None:
    rows = [{"CaSn": CA, "PageNo": 3}]
    async with in_this_process(
        tmp_path, APSARAMQ, "list", rows, fleet=certificates(CA, 250)
    ) as job:
        await job.run()
        assert pages(job) == [(1, 3, 50), (1, 4, 0)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "does not name the device"),
        ({"CaSn": CA, "PageNo": 0}, "must be 1 or more"),
        ({"CaSn": 7}, "must be text, not the number 7"),
        ({"CaSn": "x" * 129}, "is longer than 128 bytes"),
        ({"CaSn": "é" * 65}, "is longer than 128 bytes"),
    ],
)
async def test_bad_rows_are_rejected(tmp_path: Path, row: Row, reason: str) -> None:
    async with in_this_process(tmp_path, APSARAMQ, "list", [row], fleet=[]) as job:
        with pytest.raises(TargetsRejectedError) as caught:
            await job.run()
        assert reason in caught.value.first[0].reason
        assert job.entries() == []


async def test_the_report_has_a_row_per_certificate_and_is_a_target_file(tmp_path: Path) -> None:
    """A report of a list can be the target file of another job."""
    fleet = certificates(CA, 130) + certificates(OTHER_CA, 2)
    rows = [{"CaSn": CA}, {"CaSn": "none of these"}, {"CaSn": OTHER_CA}]
    async with in_this_process(tmp_path, APSARAMQ, "list", rows, fleet=fleet) as job:
        await job.run()
        action = BUILT_IN["apsaramq"].actions["list"]
        with closing(open_reader(job.run_dir)) as reader:
            content = b"".join(results_csv(reader.records(), action.fields, action.result_columns))
        found: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(content.decode())))
        header = content.splitlines()[0].decode().split(",")
        assert len(header) == len(set(header))
        assert [row["DeviceSn"] for row in found if row["CaSn"] == CA] == [
            row["DeviceSn"] for row in fleet[:130]
        ]
        empty = [row for row in found if not row["DeviceSn"]]
        assert [row["CaSn"] for row in empty] == ["none of these"]
        assert {row["Status"] for row in found} == {"active", ""}
