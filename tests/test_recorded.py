"""`results.jsonl` is read back, alone, as it was written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bulkcert.cli import main
from bulkcert.errors import RunDirectoryError
from bulkcert.model import State
from bulkcert.report.recorded import RecordedResults
from bulkcert.report.results import results_jsonl
from bulkcert.store.base import Record


def record(number: int, state: State, result: Any = None) -> Record:
    fields: dict[str, Any] = {"assetId": f"-A{number}"}
    code, finished_at = (None, None) if state is State.PLANNED else ("X", 1_795_300_000.123)
    return Record(number, number + 1, fields, state, 1, code, "=m", "r", result, finished_at)


RECORDS = [
    record(1, State.SUCCEEDED, {"certificates": [{"certSN": "7", "subject": "=s"}, {"x": 1}]}),
    record(2, State.ALREADY_DONE),
    record(3, State.FAILED),
    record(4, State.UNKNOWN),
    record(5, State.PLANNED),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(results_jsonl(RECORDS)))
    return path


def test_records_are_read_back(file: Path) -> None:
    results = RecordedResults(file)
    assert list(results.records()) == RECORDS
    assert results.columns() == (["assetId"], ["certSN", "subject", "x"])


@pytest.mark.parametrize("whole_folder", [True, False])
def test_the_command_reads_the_file_where_there_is_no_checkpoint(
    file: Path, whole_folder: bool
) -> None:
    def results(*words: str) -> str:
        ended = CliRunner().invoke(
            main, ["results", str(file.parent if whole_folder else file), *words]
        )
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout

    assert results() == file.read_text()
    failed = results("--outcome", "failed", "--outcome", "unknown")
    assert [json.loads(line)["line"] for line in failed.splitlines()] == [4, 5]
    rows = list(csv.DictReader(io.StringIO(results("--format", "csv"))))
    assert [row["assetId"] for row in rows] == ["-A1", "-A1", "-A2", "-A3", "-A4", "-A5"]
    assert {row["message"] for row in rows} == {"'=m"}
    assert [row["subject"] for row in rows][:2] == ["'=s", ""]


def test_names_of_columns_are_defused_too(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    odd = RECORDS[1]._replace(fields={"=1+1": "x"})
    path.write_bytes(b"".join(results_jsonl([odd])))
    ended = CliRunner().invoke(main, ["results", str(path), "--format", "csv"])
    assert ended.stdout.startswith("line,'=1+1,outcome,")


@pytest.mark.parametrize("command", ["status", "verify"])
def test_commands_that_need_more_name_the_one_that_does_not(
    file: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkcert.cli.verify.interrupt_on_signals", lambda: None)
    ended = CliRunner().invoke(main, [command, str(file.parent)])
    assert ended.exit_code == 2
    assert f"`bulkcert results {file.parent}` works without it." in ended.stderr


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b"\xff", b'{"line": 1, "outcome": "odd"}'])
def test_another_file_is_refused_with_its_line(file: Path, line: bytes) -> None:
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(RunDirectoryError, match=r"results\.jsonl, line 6: "):
        list(RecordedResults(file).records())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"can.t be read: No such file"):
        list(RecordedResults(tmp_path / "results.jsonl").records())


def test_status_reads_the_summary_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    outcomes = {"succeeded": 2, "already_done": 0, "failed": 1, "unknown": 0, "pending": 0}
    figures = {"requests": 5, "requests_per_second": 1.0, "throttled": 0, "elapsed_seconds": 5.0}
    summary = {"name": "july", "exit_code": 1, **outcomes, **figures}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert text.exit_code == 0, text.stderr
    assert "july: finished" in text.stdout
    assert "summary.json: the checkpoint is not here" in text.stdout
    shown = json.loads(CliRunner().invoke(main, ["status", str(tmp_path), "--json"]).stdout)
    assert shown["failed"] == 1
    assert shown["state"] == "over"
    (tmp_path / "summary.json").write_text("[]")
    assert CliRunner().invoke(main, ["status", str(tmp_path)]).exit_code == 2
