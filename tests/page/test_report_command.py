"""`bulkcert report`: the page of a run, with the commands that go on from there."""

from __future__ import annotations

import html
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from campaign_run import TARGETS, planned_run, settle, store_of
from click.testing import CliRunner, Result

from bulkcert.cli import main
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Abort, Session

BEGIN_S = 1_780_056_000.0


def report(run: Path, output: str = "-") -> Result:
    return CliRunner().invoke(main, ["report", str(run), "-o", output])


def page(run: Path) -> str:
    """The page of a run, with its text as a reader sees it."""
    result = report(run)
    assert result.exit_code == 0, result.output
    return html.unescape(result.stdout)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of which half is done."""
    directory = planned_run(tmp_path)
    settle(directory, 1, TARGETS // 2)
    with store_of(directory) as store:
        store.note_session(Session(BEGIN_S, BEGIN_S + 9, exit_code=3))
    return directory


def fail(run: RunDirectory, state: str) -> None:
    settle(run, 1, TARGETS)
    with closing(sqlite3.connect(run.checkpoint)) as db, db:
        db.execute("UPDATE operations SET state = ? WHERE id = 1", (state,))


def test_it_is_written_to_a_file_or_to_standard_output(run: RunDirectory, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert report(run.path, str(file)).output == ""
    assert file.read_bytes() == report(run.path).stdout_bytes
    assert file.read_bytes().startswith(b"<!DOCTYPE html>")


def test_an_interrupted_run_has_the_command_that_continues_it(run: RunDirectory) -> None:
    text = page(run.path)
    assert "Not over: it was stopped early, and can be continued" in text
    assert f"bulkcert run {run.path.parent.parent / 'job.toml'}\n" in text.replace("</code>", "\n")


@pytest.mark.parametrize("state", ["failed", "unknown"])
def test_a_run_that_is_over_has_the_commands_for_what_went_wrong(
    run: RunDirectory, state: str
) -> None:
    fail(run, state)
    text = page(run.path)
    assert f"bulkcert results {run.path} --outcome {state}" in text
    assert f"bulkcert run {run.path.parent.parent / 'job.toml'} --retry-failed" in text


def test_a_run_that_went_well_has_no_commands(run: RunDirectory) -> None:
    settle(run, 1, TARGETS)
    text = page(run.path)
    assert "every operation succeeded or was already done" in text
    assert "<pre>" not in text


def test_rows_that_were_left_out_can_be_done_in_the_next_run(run: RunDirectory) -> None:
    settle(run, 1, TARGETS)
    with store_of(run) as store:
        store.update_manifest(replace(run.manifest(), left_out=2, protected=1))
    text = page(run.path)
    assert "Over, but 2 rows were left out" in text
    assert f"--targets {run.rejected} --new" in text


def test_what_was_rehearsed_can_be_done_for_real(tmp_path: Path) -> None:
    planned = planned_run(tmp_path)
    settle(planned, 1, TARGETS)
    with store_of(planned) as store:
        store.update_manifest(replace(planned.manifest(), rehearsal=True))
        store.note_session(Session(BEGIN_S, BEGIN_S + 9, exit_code=0))
    rehearsed = planned.path.rename(planned.path.with_name("job-rehearsal"))
    text = page(rehearsed)
    assert "REHEARSAL" in text
    assert "verified: its simulator is gone" in text
    assert f"bulkcert run {tmp_path / 'job.toml'}</code>" in text


def test_a_run_that_stopped_itself_has_the_command_that_overrides(run: RunDirectory) -> None:
    with store_of(run) as store:
        store.add_abort(Abort("7c01be", BEGIN_S + 9, "failed", "11 of <b>500</b> failed"))
    result = report(run.path)
    assert "Stopped by its own rules" in result.stdout
    assert "--override 7c01be --why TEXT" in result.stdout
    assert "11 of &lt;b&gt;500&lt;/b&gt; failed" in result.stdout


def test_while_a_process_works_the_page_is_as_of_what_it_has_recorded(run: RunDirectory) -> None:
    with run:
        first = page(run.path)
        assert "Running" in first
        assert "As recorded at" in first
        assert page(run.path) == first


@pytest.mark.parametrize("arguments", [[], ["nothing", "-o", "-"], ["nothing"]])
def test_wrong_usage_writes_nothing(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["report", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_page_that_cannot_be_written_is_an_error(run: RunDirectory, tmp_path: Path) -> None:
    result = report(run.path, str(tmp_path / "missing" / "report.html"))
    assert result.exit_code == 2
    assert "can't be written" in result.stderr
