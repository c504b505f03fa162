"""The reports: results as JSON lines and CSV, the summary, and how they are written."""

from __future__ import annotations

import csv
import io
import json
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stores import Disk, MemoryReader, Row, manifest

from bulkcert.json_lines import utc
from bulkcert.model import FieldValue, Outcome, State
from bulkcert.report.results import results_csv, results_jsonl
from bulkcert.report.summary import exit_code, outcome_counts, states_of, summarize
from bulkcert.rundir import write_reports
from bulkcert.store.base import Record, Session


def record(number: int = 1, **changes: Any) -> Record:
    usual: dict[str, Any] = {
        "id": number,
        "line": number + 1,
        "fields": {"assetId": f"A{number}", "certSn": number},
        "state": State.SUCCEEDED,
        "attempts": 1,
        "code": 0,
        "message": "OK",
        "request_id": "r",
        "result": None,
        "finished_at": 1_795_300_000.1239,
    }
    return Record(**usual | changes)


def reader_of(states: dict[State, int], sessions: Sequence[Session] = ()) -> MemoryReader:
    """A store with this many operations in each state, each with two attempts."""
    rows = [
        Row(line=number + 1, fields={"assetId": f"A{number}"}, state=state, attempts=2)
        for number, state in enumerate(Counter(states).elements(), 1)
    ]
    return MemoryReader(Disk(dict(enumerate(rows, 1)), dict(enumerate(sessions))))


# ---- counts and exit codes


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({}, 0),
        ({State.SUCCEEDED: 2, State.ALREADY_DONE: 1}, 0),
        ({State.SUCCEEDED: 2, State.FAILED: 1}, 1),
        ({State.UNKNOWN: 1}, 1),
        ({State.SUCCEEDED: 2, State.PLANNED: 1}, 3),
        ({State.FAILED: 2, State.IN_FLIGHT: 1}, 3),
    ],
)
def test_the_states_decide_the_exit_code(states: dict[State, int], code: int) -> None:
    assert exit_code(states) == code


def test_every_state_has_one_outcome_and_every_outcome_is_counted() -> None:
    counts = outcome_counts(dict.fromkeys(State, 1))
    assert counts.keys() == set(Outcome)
    assert sum(counts.values()) == len(State)
    assert counts[Outcome.UNKNOWN] == 2  # an operation in flight may have been executed
    assert sorted(states_of(Outcome)) == sorted(State)


def test_the_summary_covers_all_processes() -> None:
    sessions = [
        Session(100.0, 110.0, requests=50, throttled=1, busiest_second=9, retried={"99500": 2}),
        Session(
            1000.0,
            1010.0,
            requests=150,
            throttled=2,
            busiest_second=7,
            exit_code=0,
            retried={"429": 3, "99500": 250},
        ),
    ]
    summary = summarize(reader_of({State.SUCCEEDED: 3, State.IN_FLIGHT: 2}, sessions))
    assert summary.as_object() == {
        "name": "job",
        "provider": "enos",
        "action": "revoke",
        "endpoint": "https://example.com",
        "rehearsal": False,
        "plan": manifest().plan.hash,
        "total": 5,
        "succeeded": 3,
        "already_done": 0,
        "failed": 0,
        "unknown": 2,
        "pending": 0,
        "left_out": 0,
        "protected": 0,
        "attempts": 10,
        "requests": 200,
        "throttled": 3,
        "retried": {"99500": 252, "429": 3},
        "started_at": "1970-01-01T00:01:40.000Z",
        "finished_at": "1970-01-01T00:16:50.000Z",
        "elapsed_seconds": 20.0,
        "requests_per_second": 10.0,
        "busiest_second": 9,
        "ceiling": 490.0,
        "errors": [],
        "error_kinds": 0,
        "remarks": [],
        "exit_code": 3,
    }


def test_every_kind_of_error_is_shown_or_counted_with_what_to_do() -> None:
    kinds = [f"kind {letter}" for letter in string.ascii_letters]
    rows = {
        number: Row(
            line=number, fields={}, state=State.FAILED, code=code, message=kinds[number % 25]
        )
        for number, code in enumerate([99403, *[99500] * 29], 1)
    }
    summary = summarize(MemoryReader(Disk(rows)))
    assert (len(summary.errors), summary.error_kinds) == (20, 26)
    assert sum(error.count for error in summary.errors) == 24
    permission = summarize(MemoryReader(Disk({1: rows[1]}))).errors[0]
    assert (permission.code, permission.message) == (99403, "kind b")
    assert "Device Management" in permission.advice


def test_remarks_are_counted_with_their_meaning() -> None:
    results = [{"remarks": ["no_ca"]}, {"remarks": ["no_ca", "of a later version"]}, None]
    rows = {
        number: Row(line=number, fields={}, state=State.SUCCEEDED, result=result)
        for number, result in enumerate(results, 1)
    }
    remarks = summarize(MemoryReader(Disk(rows))).remarks
    assert [(remark.name, remark.count) for remark in remarks] == [
        ("no_ca", 2),
        ("of a later version", 1),
    ]
    assert "its CA" in remarks[0].meaning
    reading = MemoryReader(Disk(rows, manifest=manifest(action="list")))
    assert summarize(reading).remarks == []


@pytest.mark.parametrize("revoked_too", [True, False])
def test_a_device_counts_as_valid_only_if_the_run_has_not_revoked_its_other_certificate(
    revoked_too: bool,
) -> None:
    noted = {"other_valid": ["2"], "remarks": ["other_valid"]}
    rows = {1: Row(line=1, fields={"assetId": "A", "certSn": 1}, state=State.ALREADY_DONE)}
    rows[1] = replace(rows[1], result=noted)
    if revoked_too:
        rows[2] = Row(line=2, fields={"assetId": "A", "certSn": 2}, state=State.SUCCEEDED)
    remarks = summarize(MemoryReader(Disk(rows))).remarks
    assert [(remark.name, remark.count) for remark in remarks] == (
        [] if revoked_too else [("other_valid", 1)]
    )


def test_a_run_of_a_provider_that_is_not_installed_has_a_summary() -> None:
    rows = {1: Row(line=1, fields={}, state=State.FAILED, code=7, message="no")}
    summary = summarize(MemoryReader(Disk(rows, manifest=manifest(provider="gone"))))
    (error,) = summary.errors
    assert (error.code, error.advice) == (7, "")


def test_a_run_that_left_rows_out_is_not_all_good() -> None:
    left_out = Disk({1: Row(line=1, fields={}, state=State.SUCCEEDED)}, {}, manifest(left_out=2))
    summary = summarize(MemoryReader(left_out))
    assert (summary.left_out, summary.exit_code) == (2, 1)
    assert exit_code({State.PLANNED: 1}, left_out=2) == 3


def test_a_run_that_was_never_started_has_a_summary() -> None:
    summary = summarize(reader_of({State.PLANNED: 3}))
    assert (summary.pending, summary.requests, summary.started_at) == (3, 0, None)
    assert (summary.requests_per_second, summary.busiest_second) == (0.0, 0)


# ---- records


def test_the_other_columns_of_a_target_come_after_its_fields_which_take_precedence() -> None:
    (line,) = results_jsonl([record(extra={"Site": "Köln", "assetId": "other"})])
    assert list(json.loads(line)["target"].items()) == [
        ("assetId", "A1"),
        ("certSn", 1),
        ("Site", "Köln"),
    ]


@given(st.floats(0, 32_000_000_000))
@example(1795303813.9999996)
@example(1795303813.2849998)
def test_times_are_formatted_as_datetime_formats_them(seconds: float) -> None:
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    assert utc(seconds) == moment.replace("+00:00", "Z")


def test_a_result_is_one_line_of_json_with_times_in_utc_milliseconds() -> None:
    record_ = record(code="Odd", message='"quoted"\n', result={"a": [1]})
    [line] = results_jsonl([record_])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "line": 2,
        "target": {"assetId": "A1", "certSn": 1},
        "outcome": "succeeded",
        "code": "Odd",
        "message": '"quoted"\n',
        "request_id": "r",
        "attempts": 1,
        "finished_at": "2026-11-21T22:26:40.123Z",
        "result": {"a": [1]},
    }


def test_csv_has_a_column_for_each_field_and_quotes_special_characters() -> None:
    odd = 'a "b", c\nd'
    records = [record(1, message=odd), record(2, fields={"assetId": odd}, code=None, result=[1])]
    content = b"".join(
        results_csv(records, ["assetId", "certSn", "reason"], (), ["assetId"])
    ).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert list(rows[0]) == [
        *("line", "assetId", "certSn", "reason", "outcome", "code", "message"),
        *("request_id", "attempts", "finished_at", "result"),
    ]
    assert [row["message"] for row in rows] == ['a "b", c\\nd', "OK"]
    assert [row["assetId"] for row in rows] == ["A1", 'a "b", c\\nd']
    assert [row["certSn"] for row in rows] == ["1", ""]
    assert [row["code"] for row in rows] == ["0", ""]
    assert [row["result"] for row in rows] == ["", "[1]"]


def test_csv_of_an_inventory_has_a_row_for_each_certificate() -> None:
    certificates = [{"certSN": "1", "status": "valid"}, {"certSN": "2", "status": "revoked"}]
    records = [
        record(1, fields={"assetId": "A1"}, result={"certificates": certificates}),
        record(2, fields={"assetId": "A2"}, result={"certificates": []}),
        record(3, fields={"assetId": "A3"}, state=State.FAILED),
    ]
    content = b"".join(results_csv(records, ["assetId"], ["certSN", "status"])).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert [(r["assetId"], r["certSn"], r["status"]) for r in rows] == [
        *(("A1", "1", "valid"), ("A1", "2", "revoked"), ("A2", "", ""), ("A3", "", "")),
    ]


def test_long_csv_is_streamed_in_chunks() -> None:
    chunks = list(results_csv((record(n) for n in range(1, 5000)), ["assetId"]))
    assert len(chunks) > 2
    assert b"".join(chunks).count(b"\n") == 5000


# ---- writing


def test_reports_replace_older_ones(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("old")
    summary = write_reports(reader_of({State.SUCCEEDED: 2}), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary.as_object()
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", "summary.json"}


def test_the_manifest_of_certificates_leaves_out_signing_requests(tmp_path: Path) -> None:
    fields: dict[str, FieldValue] = {"assetId": "A1", "certSn": 1, "csr": "a long one"}
    result = {"certSN": "9", "replaces": "1", "certificate_file": "certificates/A1.pem"}
    renewed = Row(line=2, fields=fields, state=State.SUCCEEDED, result=result)
    failed = Row(line=3, fields={"assetId": "A2"}, state=State.FAILED)
    (tmp_path / "certificates").mkdir()
    write_reports(MemoryReader(Disk({1: renewed, 2: failed})), tmp_path)
    content = (tmp_path / "certificates" / "manifest.csv").read_text()
    [row] = csv.DictReader(io.StringIO(content))
    assert (row["assetId"], row["deviceKey"]) == ("A1", "")
    assert "a long one" not in content
    assert (row["certSn"], row["replaces"], row["key_file"]) == ("9", "1", "")
