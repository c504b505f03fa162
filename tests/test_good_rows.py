"""Many rows at once: what is found by columns is what is found row by row, whatever the file."""

from __future__ import annotations

import io
import itertools
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from job_folder import toml

from bulkcert import load_job
from bulkcert.errors import TargetsError
from bulkcert.identity import Identities
from bulkcert.job import Connection, Job, Limits
from bulkcert.model import Target
from bulkcert.plan import build
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import Action
from bulkcert.providers.enos.actions import ENOS, REVOKE
from bulkcert.rundir import RunDirectory
from bulkcert.spreadsheet import any_may_be_cut, may_be_cut
from bulkcert.store.sqlite import new_store
from bulkcert.targets import TargetFile, file, lines
from bulkcert.targets.row import GoodRows, Row, one_by_one
from bulkcert.targets.table import Table

JOB = Job(
    name="j",
    provider=ENOS,
    action=REVOKE,
    targets=None,
    connection=Connection(endpoint="https://example.com", options={"org_id": "1" + "0" * 15}),
    limits=Limits(requests_per_second=500.0),
)
KEY = "-----BEGIN RSA PRIVATE KEY-----"

_NAMES = [
    *("A1", "pump-0007", "1001", "0042", " A2 ", '"A3"', '"A,4"', '"A""5"', "gerät", "泵", "a.b"),
    *("", " ", "\t", "A\u00a0B", "A\u200b", "A\x01", "A\ufe0f", '"A\n6"', '"', 'A"7"', '"A"8'),
    *("1.5E+17", "3E+5", "12E34567", "='1'", '"=""007"""', "'A", "1,234", "35**62", "#N/A", "-"),
    *("assetId", " ASSETID ", "certSn", "Reason", "DeviceSn", "\0", KEY, "END PRIVATE KEY", "A\rB"),
]
_SERIALS = [
    *(
        "52739",
        "0052739",
        "0",
        str(2**63 - 1),
        str(2**63),
        "9" * 40,
        "-5",
        " 7 ",
        "1234567890123450000",
    ),
    *(
        "٣",
        "²",
        "5.0",
        "1E+5",
        "5 7",
        "",
        " ",
        "x",
        '"5',
        '"8"',
        "certSn",
        "00f26900ba87c3ef",
        "nan",
    ),
    *("2024-01-02", "null", "*", "1.234.567"),
]
_REASONS = ["", "", " ", "KEY_COMPROMISE", "key compromise", "1", "99", "reason", "\u2028"]
_NOTES = ["", "x", "é" * 1001, '"a\nb"', '"a\r\nb"', "note"]
_ODD_LINES = ["", ",,,", "A1", "A1,1,,,,", "\x0b", "\x1c", "A\x85,5,,", "sep=;", '"'], ["A9,9,1,z"]

_good = st.integers(0, 30).map(lambda number: f"A{number},{number},1,x")
_bad = st.tuples(*map(st.sampled_from, (_NAMES, _SERIALS, _REASONS, _NOTES))).map(",".join)
_odd = st.sampled_from([line for part in _ODD_LINES for line in part])
_runs = st.lists(
    st.one_of(st.lists(_good, min_size=3, max_size=8), st.lists(_bad | _odd, max_size=2)),
    max_size=6,
)
_HEADERS = [
    "assetId,certSn,reason,note",
    "DeviceSn,CaSn,site,note",
    "certSn,assetId,note,assetid",
    "assetId,certSn,deviceKey,productKey",
    "assetId,certSn,,rejected_line",
    "assetId,certSn,rejected_text,rejected_line",
    "line,target,outcome,certSn",
]


class Reading:
    """A target file that is read, as far as that goes, and everything that is known of it."""

    def __init__(self, content: bytes, action: Action, parameters: Mapping[str, Any]) -> None:
        targets = TargetFile(None, action, parameters, {}, stdin=io.BytesIO(content), format="csv")
        self.rows: list[Row] = []
        self.many: list[GoodRows] = []
        self.error = ""
        try:
            for rows in targets.read():
                self.rows += one_by_one([rows])
                if isinstance(rows, GoodRows):
                    self.many.append(rows)
        except TargetsError as error:
            self.error = f"{error.problem}\n{error.next_step}"
        self.figures = (
            *(targets.lines, targets.sha256, targets.header, targets.header_line, targets.advice),
            *(targets.unused_columns, targets.extra_columns, targets.without_certificates),
        )


def one_row_at_a_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Table, "_good", lambda table, line, rows: None)


@settings(max_examples=400)
@given(
    header=st.sampled_from(_HEADERS),
    runs=_runs,
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    start=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff"]),
    cut=st.integers(-3, 0),
    block=st.integers(20, 200),
    chunk=st.integers(64, 300),
    parameters=st.sampled_from([{}, {"reason": 1}, {"assetId": "A1"}, {"CaSn": "00aa"}]),
)
@example(
    header=_HEADERS[0],
    runs=[["assetId,certSn,reason,note", "A1,1,1,x"]],
    ending="\n",
    start=b"",
    cut=0,
    block=200,
    chunk=300,
    parameters={},
)
def test_columns_show_what_rows_show(
    header: str,
    runs: list[list[str]],
    ending: str,
    start: bytes,
    cut: int,
    block: int,
    chunk: int,
    parameters: Mapping[str, Any],
) -> None:
    rows = [row for run in runs for row in run]
    content = start + "".join(f"{row}{ending}" for row in [header, *rows]).encode()
    content = content[: len(content) + cut]
    provider = APSARAMQ if "DeviceSn" in header else ENOS
    action = provider.actions["inactivate" if provider is APSARAMQ else "revoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        patch.setattr(file, "_CHUNK", chunk)
        at_once = Reading(content, action, parameters)
        one_row_at_a_time(patch)
        one_by_one = Reading(content, action, parameters)
    assert not one_by_one.many
    assert (at_once.rows, at_once.error) == (one_by_one.rows, one_by_one.error)
    assert at_once.figures == one_by_one.figures


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "AB", "1234567890123450000", "1" + "0" * 15]),
            st.sampled_from([0, 7, 10**14, 10**15, 12345678901234500, 10**15 + 1]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["reason", "orgId", "deviceKey"]),
)
def test_many_rows_are_about_what_each_of_them_is_about(
    rows: list[tuple[str, int]], other: str
) -> None:
    columns: dict[str, Any] = {
        "assetId": [text for text, _ in rows],
        "certSn": [number for _, number in rows],
        other: [text for text, _ in reversed(rows)],
    }
    identities, many = Identities(JOB), GoodRows(2, [["", "", ""]] * len(rows), columns)
    each = [target for row in many for target in row.found if isinstance(target, Target)]
    assert [target.fields for target in each] == list(many.fields())
    assert identities.operations(many) == [identities.operation(row.fields) for row in each]
    for column in columns.values():
        assert any_may_be_cut(column) or not any(map(may_be_cut, column))


def test_good_rows_are_read_many_at_once_and_bad_ones_are_not() -> None:
    rows = [f"A{number},{number}" for number in range(5000)]
    rows[2500] = "A2500,x"
    content = "\n".join(["assetId,certSn", *rows, ""]).encode()
    reading = Reading(content, REVOKE, {})
    assert [row.found[0].line for row in reading.rows] == list(range(2, 5002))
    at_once = [row.found[0].line for rows in reading.many for row in rows]
    assert len(at_once) > 3000
    assert 2502 not in at_once
    assert max(at_once) == 5001  # it goes on after the bad row


@pytest.mark.parametrize("block", [100, 2**14])
def test_a_plan_is_the_same_however_its_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(lines, "_BLOCK", block)
    header = "site,assetId,productKey,deviceKey,certSn"
    rows = [
        f"s{number % 7},A{number % 900},p,d,{10**16 * (number % 900)}" for number in range(1000)
    ]
    rows[500] = "s,,p,A500,5"
    (tmp_path / "targets.csv").write_text("\n".join([header, *rows, ""]))
    (tmp_path / "job.toml").write_text(
        toml(
            {
                "provider": "enos",
                "action": "revoke",
                "targets": "targets.csv",
                "connection": {"endpoint": "https://example.com", "org_id": "o1"},
            }
        )
    )
    job, plans = load_job(tmp_path / "job.toml"), []
    for at_once in (True, False):
        if not at_once:
            one_row_at_a_time(monkeypatch)
        directory = RunDirectory(tmp_path / f"run-{at_once}")
        directory.create()
        plan = build(job, TargetFile.of(job), directory.checkpoint, directory)
        with closing(sqlite3.connect(directory.checkpoint)) as db:
            operations = db.execute("SELECT * FROM operations ORDER BY id").fetchall()
        listed = directory.repeated.read_bytes()
        plans.append((replace(plan, hash=plan.hash), operations, listed))
    assert plans[0] == plans[1]
    assert len(plans[0][1]) == 900
    assert len(plans[0][0].warnings) == 2


def test_finding_repeated_rows_takes_time_in_proportion_to_them(tmp_path: Path) -> None:
    steps = []
    for many in (500, 1000):
        with new_store(tmp_path / "checkpoint.sqlite3") as plan:
            plan.add_all(2, [{"assetId": "A"}] * many, (), [n // 2 for n in range(many)])
            ticks = itertools.count()
            plan._db.set_progress_handler(lambda ticks=ticks: next(ticks) < 0, 100)
            assert len(list(plan.repeated())) == many // 2
            steps.append(next(ticks))
    assert steps[1] < 2.5 * steps[0]
