"""Bad and repeated rows: listed as they were written, corrected, left out, and done later."""

from __future__ import annotations

import csv
import gzip
import io
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from job_folder import toml

from bulkcert import load_job
from bulkcert.errors import RunDirectoryError, TargetsError, TargetsRejectedError
from bulkcert.model import State
from bulkcert.plan import Plan
from bulkcert.preparation import prepare
from bulkcert.rejections import command_for_corrected
from bulkcert.report.summary import summarize
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Change
from bulkcert.store.sqlite import SqliteStore

HEADER = "assetId,certSn,reason,Site\n"
GOOD = "A1,1,,Köln\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIBsecretMIIBsecretMIIBsecretMIIBsecretMIIB\n"


class Folder:
    """A folder with a job, whose target file changes, and run directories."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job()

    def job(self, **sections: Any) -> None:
        document = {
            "provider": "enos",
            "action": "revoke",
            "targets": "fleet.csv",
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
        }
        (self.path / "job.toml").write_text(toml(document | sections))

    def prepare(
        self,
        content: str | bytes | None = None,
        name: str = "fleet.csv",
        run: str = "run",
        **how: Any,
    ) -> Plan | None:
        if content is not None:
            packed = content.encode() if isinstance(content, str) else content
            (self.path / name).write_bytes(packed)
        job = replace(load_job(self.path / "job.toml"), targets=self.path / name)
        directory = RunDirectory(self.path / run)
        with directory:
            return prepare(job, directory, **how)

    def refused(self, content: str | bytes, name: str = "fleet.csv", **how: Any) -> TargetsError:
        with pytest.raises(TargetsError) as caught:
            self.prepare(content, name, **how)
        return caught.value

    def rows(self, name: str = "run/rejected.csv") -> list[dict[str, str]]:
        with (self.path / name).open(newline="") as file:
            return list(csv.DictReader(file, strict=True))

    def operations(self, run: str = "run") -> list[dict[str, Any]]:
        with closing(RunDirectory(self.path / run).reader()) as reader:
            return [record.target for record in reader.records()]

    def begin(self, run: str = "run") -> None:
        """Settle the first operation."""
        store = SqliteStore(RunDirectory(self.path / run).checkpoint)
        with closing(store), store.transaction():
            store.claim(1)
            store.record([Change(1, State.IN_FLIGHT, State.SUCCEEDED, 1)])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# ---- what is listed


def test_a_row_is_listed_as_it_was_written(folder: Folder) -> None:
    folder.refused(HEADER + GOOD + 'A2,"1,5",NOPE,"=1+1 ""x"""\n')
    [row] = folder.rows()
    assert row["rejected_line"] == "3"
    assert row["rejected_field"] == "certSn, reason"
    assert row["rejected_reason"].startswith("certSn must be a whole number, not '1,5'")
    assert "; reason is not a revocation reason: 'NOPE'" in row["rejected_reason"]
    assert row["rejected_text"] == ""
    assert list(row)[4:] == ["assetId", "certSn", "reason", "Site"]
    assert [*row.values()][4:] == ["A2", "1,5", "NOPE", '=1+1 "x"']


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"A2,2", "A2,2"),
        (b"A2,2,,,,more", "A2,2,,,,more"),
        (b'"A2"x,2,,', '"A2"x,2,,'),
        (b"A2,2,,M\xfcnchen", "A2,2,,M\ufffdnchen"),
        (b'A2,"2,,', 'A2,"2,,'),
        (b"A2\0,2,,", "A2\0,2,,"),
        (b"A" * 2**20 + b",2,,", "not text"),
        (b"A2,2" + b"," * 40_000, "A2,2" + "," * 29_996 + "…"),
    ],
)
def test_a_row_that_is_not_one_is_kept_as_text_and_never_used(
    folder: Folder, line: bytes, text: str
) -> None:
    folder.refused((HEADER + GOOD).encode() + line + b"\n")
    [row] = folder.rows()
    assert row["rejected_text"] == text
    assert not any(row[name] for name in ("assetId", "certSn", "reason", "Site"))
    error = folder.refused((folder.path / "run/rejected.csv").read_bytes(), run="next")
    assert isinstance(error, TargetsRejectedError)
    if "\0" not in text:
        assert "still has a rejected_text" in error.first[0].reason


@pytest.mark.parametrize(
    "rows",
    [
        f'A2,2,,"{KEY}-----END PRIVATE KEY-----"\n',
        f"A2,2,,{KEY}-----END PRIVATE KEY-----\n",
        f"A2,2,{KEY}\n",
        f"{KEY.splitlines()[1]}\nA2,x,,\n",
    ],
)
def test_a_private_key_is_not_copied(folder: Folder, rows: str) -> None:
    error = folder.refused(HEADER + GOOD + rows)
    assert "secret" not in str(error)
    assert all("secret" not in path.read_text() for path in (folder.path / "run").glob("r*"))
    assert folder.rows()[0]["rejected_text"] == "not copied: it may contain a private key"


def test_rows_of_json_lines_are_listed_as_objects_too(folder: Folder) -> None:
    rows = [
        '{"assetId": "A1", "certSn": 1}',
        '{"assetId": "A2", "certSn": "x", "Site": {"a": [1]}}',
        '{"assetId": "A3", "certSn": 3, "certSn": 4}',
        "not JSON",
        json.dumps({"assetId": "A4", "certSn": 4, "k": KEY}).replace("E KEY", "E\\u0020KEY"),
    ]
    folder.refused("\n".join(rows), "fleet.jsonl")
    listed = (folder.path / "run/rejected.jsonl").read_text()
    [second, third, fourth, fifth] = map(json.loads, listed.splitlines())
    reason = "certSn must be a whole number, not 'x'"
    about = {"rejected_line": 2, "rejected_field": "certSn", "rejected_reason": reason}
    assert second == {**about, **json.loads(rows[1])}
    assert [third["rejected_text"], fourth["rejected_text"]] == rows[2:4]
    assert fifth["rejected_text"].startswith("not copied")
    assert json.loads(folder.rows()[0]["rejected_text"]) == json.loads(rows[1])
    folder.prepare(listed.splitlines()[0].replace('"x"', "2"), "next.jsonl", run="next")
    assert folder.operations("next") == [{"assetId": "A2", "certSn": 2, "Site": {"a": [1]}}]


def test_a_bad_certificate_of_a_record_is_listed_without_the_good_ones(folder: Folder) -> None:
    certificates = [{"certSN": serial} for serial in ("1", "-2", "3")]
    record = {"line": 7, "target": {"assetId": "A1"}, "outcome": "succeeded", "finished_at": None}
    record["result"] = {"certificates": certificates}
    folder.job(columns={"assetId": "other"})
    folder.prepare(json.dumps(record), "results.jsonl", skip_rejected=True)
    assert [target["certSn"] for target in folder.operations()] == [1, 3]
    corrected = (folder.path / "run/rejected.jsonl").read_text().replace('"-2"', '"2"')
    folder.prepare(corrected, "next.jsonl", run="next")
    assert folder.operations("next") == [{"assetId": "A1", "certSn": 2}]


def test_rows_of_compressed_files_and_workbooks_are_listed(folder: Folder) -> None:
    folder.refused(gzip.compress((HEADER + "A2,x,,Köln\n").encode()), "fleet.csv.gz")
    assert folder.rows()[0]["Site"] == "Köln"
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["assetId", "certSn", "Site"], ["A1", 10**17 + 3, 1.5], ["A2", "x", "y"]):
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    folder.refused(content.getvalue(), "fleet.xlsx")
    [lossy, bad] = folder.rows()
    assert (lossy["certSn"], lossy["rejected_text"]) == ("", "certSn: 1.00000E+17")
    assert (lossy["assetId"], lossy["Site"]) == ("A1", "1.5")
    assert (bad["certSn"], bad["rejected_text"]) == ("x", "")


def test_contradictions_are_listed_in_full_and_repeated_rows_apart(folder: Folder) -> None:
    rows = [GOOD, "A2,2,1,a\n", GOOD, "A2,2,4,b\n", "A2,2,1,c\n", "A3,3,,\n"]
    plan = folder.prepare(HEADER + "".join(rows), skip_rejected=True)
    assert plan is not None
    assert (plan.operations, plan.left_out, plan.repeated_total) == (2, 2, 2)
    assert [target["assetId"] for target in folder.operations()] == ["A1", "A3"]
    assert [(row["rejected_line"], row["Site"]) for row in folder.rows()] == [
        ("3", "a"),
        ("5", "b"),
    ]
    repeated = folder.rows("run/repeated.csv")
    assert [(row["repeated_line"], row["Site"]) for row in repeated] == [("4", "Köln"), ("6", "c")]
    error = folder.refused((folder.path / "run/repeated.csv").read_text(), run="next")
    assert "would be done a second time" in error.problem


def test_rows_from_standard_input_can_be_listed_after_it_was_read(folder: Folder) -> None:
    job = replace(load_job(folder.path / "job.toml"), targets=None)
    with RunDirectory(folder.path / "run") as directory:
        stdin = io.BytesIO((HEADER + GOOD + "A1,1,,again\n").encode())
        prepare(job, directory, stdin=stdin)
    assert folder.rows("run/repeated.csv")[0]["Site"] == "again"


# ---- leaving rows out


def test_bad_rows_are_left_out_on_request_and_counted(folder: Folder) -> None:
    content = HEADER + GOOD + "A2,x,,\nA3,y,z,\n"
    error = folder.refused(content)
    assert "has 3 errors; nothing was sent" in error.problem
    assert "Or leave the bad rows out with --skip-rejected" in error.next_step
    job, run = folder.path / "job.toml", folder.path / "run"
    command = f"bulkcert run {job} --targets {run}/rejected.csv --new --run-dir {run}"
    assert error.next_step.splitlines()[2] == f"  {command}"
    plan = folder.prepare(skip_rejected=True)
    assert plan is not None
    assert (plan.operations, plan.left_out, plan.rejected_total) == (1, 2, 3)
    with closing(RunDirectory(folder.path / "run").reader()) as reader:
        assert summarize(reader).left_out == 2
    # the decision is kept
    assert folder.prepare() is None
    folder.begin()
    assert folder.prepare() is None
    assert len(folder.rows()) == 2


def test_not_all_rows_can_be_left_out(folder: Folder) -> None:
    error = folder.refused(HEADER + "A2,x,,\n", skip_rejected=True)
    assert "All rows of the target file are bad" in error.problem


@pytest.mark.parametrize(
    "rows",
    [
        'A2,"2,,\nA3,3,,\n',  # never closed
        '"A2,2,,\nA3,3,,\n"A4,4,,\n',  # text after the end
        'A2,"2\nA3,3,,\nA4,4",,\n',  # swallowed by a field
    ],
)
def test_a_row_that_may_have_swallowed_others_cannot_be_left_out(folder: Folder, rows: str) -> None:
    error = folder.refused(HEADER + GOOD + rows, skip_rejected=True)
    assert "The row on line 3 may contain several rows" in error.problem


def test_a_row_with_line_breaks_that_belong_to_it_can_be_left_out(folder: Folder) -> None:
    plan = folder.prepare(HEADER + GOOD + 'A2,x,,"two\nlines"\n', skip_rejected=True)
    assert plan is not None
    assert plan.left_out == 1


# ---- corrected files


def test_a_corrected_file_is_planned_anew_unless_the_run_has_begun(folder: Folder) -> None:
    folder.prepare(HEADER + GOOD + "A2,x,,\n", skip_rejected=True)
    plan = folder.prepare(HEADER + GOOD + "A2,2,,\n")
    assert plan is not None
    assert (plan.operations, plan.left_out) == (2, 0)
    assert not (folder.path / "run/rejected.csv").exists()


def test_a_corrected_file_is_not_done_again_once_the_run_has_begun(folder: Folder) -> None:
    folder.prepare(HEADER + GOOD + "A2,x,,\n", skip_rejected=True)
    folder.begin()
    with pytest.raises(RunDirectoryError) as caught:
        folder.prepare(HEADER + GOOD + "A2,2,,\n")
    rejected = folder.path / "run/rejected.csv"
    assert f"left out are in {rejected}" in caught.value.next_step
    assert "--targets " in caught.value.next_step
    assert "would do everything again" in caught.value.next_step
    # corrected there, it is a run of its own
    rejected.write_text(rejected.read_text().replace(",x,", ",2,"))
    folder.prepare(None, "run/rejected.csv", run="run-rejected")
    assert folder.operations("run-rejected") == [{"assetId": "A2", "certSn": 2, "Site": ""}]


@pytest.mark.parametrize("begun", [True, False])
def test_the_list_of_a_run_is_not_overwritten_by_itself(folder: Folder, begun: bool) -> None:
    folder.prepare(HEADER + GOOD + "A2,x,,\n", skip_rejected=True)
    before = (folder.path / "run/rejected.csv").read_text()
    if begun:
        folder.begin()
    with pytest.raises((TargetsError, RunDirectoryError)) as caught:
        folder.prepare(None, "run/rejected.csv")
    assert "--new" in caught.value.next_step
    assert (folder.path / "run/rejected.csv").read_text() == before


def test_corrected_rows_are_the_next_run_where_the_runs_of_a_job_are_kept(tmp_path: Path) -> None:
    job, run = tmp_path / "my job.toml", tmp_path / "runs/job"
    assert command_for_corrected(job, run) == (
        f"bulkcert run '{job}' --targets {run}/rejected.csv --new"
    )
