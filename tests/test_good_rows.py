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
from hypothesis import given
from hypothesis import strategies as st
from job_folder import toml

from bulkcert import load_job
from bulkcert.errors import TargetsError
from bulkcert.identity import Identities
from bulkcert.job import Connection, Job, Limits
from bulkcert.model import Target
from bulkcert.plan import build
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import Action, Field
from bulkcert.providers.enos.actions import ENOS, REVOKE
from bulkcert.rundir import RunDirectory
from bulkcert.spreadsheet import any_may_be_cut, may_be_cut
from bulkcert.store.sqlite import new_store
from bulkcert.targets import TargetFile, file, lines, table
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

_ODD_NAMES = [
    *(
        "pump-0007",
        "1001",
        "0042",
        " A2 ",
        '"A3"',
        '"A,4"',
        '"A""5"',
        "gerät",
        "泵",
        "a.b",
        "certSn",
    ),
    *("", " ", "\t", "A\u00a0B", "A\u200b", "A\x01", "A\ufe0f", '"A\n6"', '"', 'A"7"', '"A"8'),
    *("1.5E+17", "3E+5", "12E34567", "='1'", '"=""007"""', "'A", "1,234", "35**62", "#N/A", "-"),
    *("assetId", " ASSETID ", "DeviceSn"),
]
_ODD_NUMBERS = [
    *(
        "0052739",
        "0",
        str(2**63 - 1),
        str(2**63),
        "9" * 40,
        "-5",
        " 7 ",
        "1234567890123450000",
        "*",
    ),
    *(
        "\u0663",
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
        "CaSn",
        "nan",
        "null",
    ),
    *("2024-01-02", "1.234.567", "00f26900ba87c3ef"),
]
_ODD_REASONS = ["", " ", "KEY_COMPROMISE", "key compromise", "99", "reason", "\u2028", '"1"', "\0"]
_ODD_NOTES = [
    *("", "é" * 1001, '"a\nb"', '"a\r\nb"', "a\rb", "\0", '"', "\udcff", "note", "=1", "\x85"),
    *("-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", "MIIE"),
]
_ODD_CELLS = (_ODD_NAMES, _ODD_NUMBERS, _ODD_REASONS, _ODD_NOTES)
_ODD_ROWS = [
    "",
    ",,,",
    " , ,\t,",
    "A1",
    "A1,1,,,,",
    "\x0b",
    "\x1c",
    "A\x85,5,,",
    "sep=;",
    '"',
    "{header}",
]


@st.composite
def _with_odd_cell(draw: st.DrawFn) -> str:
    cells, at = draw(_good).split(","), draw(st.integers(0, 3))
    cells[at] = draw(st.sampled_from(_ODD_CELLS[at]))
    return ",".join(cells)


_good = st.integers(0, 30).map(lambda number: f"A{number},{number},1,x,t")
_odd = st.one_of(
    _with_odd_cell(),
    st.sampled_from(_ODD_ROWS),
    st.tuples(*map(st.sampled_from, _ODD_CELLS), st.just("t")).map(",".join),
)
_run = st.one_of(
    st.lists(_good, min_size=2, max_size=8),
    st.lists(st.sampled_from(["A1,,1,x,t", "A2,,1,x,t"]), min_size=2, max_size=4),
    st.lists(_odd, min_size=1, max_size=2),
)
_HEADERS = [
    *("assetId,certSn,reason,note,t", "DeviceSn,CaSn,site,note,t", "assetId,certSn,note,assetid,t"),
    *("assetId,certSn,deviceKey,productKey,t", "assetId,certSn,,rejected_line,t"),
    *("assetId,certSn,rejected_text,rejected_line,t", "assetId,certSn,outcome,line,finished_at"),
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
    patch.setattr(Table, "_good", lambda *_: None)


def same(
    content: bytes, header: str, parameters: Mapping[str, Any], block: int, chunk: int, doubled: int
) -> None:
    """Compare what is found by columns with what is found row by row."""
    provider = APSARAMQ if "DeviceSn" in header else ENOS
    action = provider.actions["inactivate" if provider is APSARAMQ else "revoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        patch.setattr(file, "_CHUNK", chunk)
        patch.setattr(table, "_MOST_DOUBLED", doubled)
        at_once = Reading(content, action, parameters)
        one_row_at_a_time(patch)
        each = Reading(content, action, parameters)
    assert not each.many
    assert (at_once.rows, at_once.error) == (each.rows, each.error)
    assert at_once.figures == each.figures


def as_bytes(header: str, rows: list[str], ending: str) -> bytes:
    text = "".join(f"{row}{ending}" for row in [header, *rows])
    return text.replace("{header}", header).encode(errors="surrogateescape")


@pytest.mark.parametrize("block", [12, 40, 5000])
@pytest.mark.parametrize("header", _HEADERS)
def test_no_odd_row_among_good_ones_is_overlooked(header: str, block: int) -> None:
    good = [f"A{number},{number},1,x,t" for number in range(3)]
    odd = [*_ODD_ROWS, "A1,,1,x,t"]
    for at, cells in enumerate(_ODD_CELLS):
        for cell in cells:
            row = ["A7", "7", "1", "x", "t"]
            row[at] = cell
            odd.append(",".join(row))
    for row in odd:
        for parameters in {}, {"certSn": 7}:
            content = as_bytes(header, [*good, row, *good], "\n")
            same(content, header, parameters, block, chunk=8000, doubled=0)


@given(
    header=st.sampled_from(_HEADERS),
    runs=st.lists(_run, min_size=2, max_size=6),
    ending=st.sampled_from(["\n", "\r\n", "\n\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    cut=st.integers(-2, 0),
    block=st.integers(12, 80) | st.just(5000),
    chunk=st.sampled_from([64, 200, 8000]),
    doubled=st.sampled_from([0, 2]),
    parameters=st.sampled_from([{}, {"reason": 1}, {"certSn": 7}, {"CaSn": "00aa"}]),
)
def test_columns_show_what_rows_show(
    header: str,
    runs: list[list[str]],
    ending: str,
    mark: bytes,
    cut: int,
    block: int,
    chunk: int,
    doubled: int,
    parameters: Mapping[str, Any],
) -> None:
    content = mark + as_bytes(header, [row for run in runs for row in run], ending)
    same(content[: len(content) + cut], header, parameters, block, chunk, doubled)


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


def test_rows_with_signing_requests_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("request.pem").write_text("request")
    action = replace(REVOKE, optional=(Field("csr", str, pem=True),))
    content = b"assetId,certSn,csr\n" + b"A1,1,request.pem\n" * 10
    reading = Reading(content, action, {})
    assert isinstance(reading.rows[0].found[0], Target)
    assert not reading.many  # many could fill the memory


@pytest.mark.parametrize("block", [12, 40, 5000])
def test_what_looks_good_inside_a_private_key_is_refused(block: int) -> None:
    key = ["-----BEGIN RSA PRIVATE KEY-----", "MIIE", "AQAB", "-----END RSA PRIVATE KEY-----"]
    content = as_bytes("assetId", ["A1", *key, "A2", "A3"], "\n")
    same(content, "assetId", {"certSn": 7}, block, chunk=8000, doubled=0)


@pytest.mark.parametrize(("block", "org_id"), [(100, "o1"), (2**14, "o1"), (2**14, "1" + "0" * 15)])
def test_a_plan_is_the_same_however_its_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, org_id: str
) -> None:
    monkeypatch.setattr(lines, "_BLOCK", block)
    header = "site,assetId,productKey,deviceKey,certSn"
    serials = [10**16 * number if number > 800 else number for number in range(900)]
    rows = [f"s{n % 7},A{n % 900},p,d,{serials[n % 900]}" for n in range(1000)]
    rows[500] = "s,,p,A500,5"
    (tmp_path / "targets.csv").write_text("\n".join([header, *rows, ""]))
    (tmp_path / "job.toml").write_text(
        toml(
            {
                "provider": "enos",
                "action": "revoke",
                "targets": "targets.csv",
                "connection": {"endpoint": "https://example.com", "org_id": org_id},
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
