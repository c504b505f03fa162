"""Where runs are: beside the job file, by their name, and below a folder."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from job_folder import devices, toml, write_csv

from bulkcert import load_job
from bulkcert.cli import console, main
from bulkcert.errors import RunDirectoryError
from bulkcert.found_runs import RunState, runs_below
from bulkcert.known_runs import KnownRun, known_runs, remember
from bulkcert.model import Outcome, State
from bulkcert.preparation import prepare
from bulkcert.rundir import RunDirectory
from bulkcert.runs import default_directory, find
from bulkcert.store.base import Change, Session
from bulkcert.store.sqlite import SqliteStore

TARGETS = 3


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own, and a current folder in which nothing is."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return tmp_path / "state/bulkcert"


def write_job(folder: Path, file: str = "revoke.toml", **top: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "targets.csv", devices(TARGETS))
    document = {"provider": "enos", "action": "revoke", "targets": "targets.csv", **top}
    connection = {"endpoint": "https://example.com", "org_id": "o1"}
    (folder / file).write_text(toml(document | {"connection": connection}))
    return folder / file


def plan_run(
    job_file: Path, directory: Path, *settled: State, rehearsal: bool = False, at: float = 1e9
) -> Path:
    """Put a run of a job into a directory, with its first operations settled."""
    with RunDirectory(directory) as entered:
        prepare(load_job(job_file), entered, rehearsal=rehearsal)
    if settled:
        store = SqliteStore(directory / "checkpoint.sqlite3")
        with store.transaction():
            store.claim(len(settled))
            changes = [Change(n, State.IN_FLIGHT, s, 1) for n, s in enumerate(settled, 1)]
            store.record(changes)
            store.note_session(Session(at, at))
        store.close()
    return directory


def known(name: str, path: Path) -> Path:
    assert remember(KnownRun(name=name, path=path, action="revoke", provider="enos")) == ""
    return path


# ---- the run of a job


def test_a_run_is_kept_beside_its_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_job(tmp_path / "jobs")
    directory = tmp_path / "jobs/runs/revoke"
    assert default_directory(job, "revoke") == directory
    assert default_directory(job, "revoke", rehearsal=True) == Path(f"{directory}-rehearsal")
    monkeypatch.chdir(tmp_path / "jobs")
    assert default_directory(Path("revoke.toml"), "revoke") == directory


def test_a_job_named_through_a_link_is_the_same_job(tmp_path: Path) -> None:
    """Otherwise a link would begin the campaign anew."""
    job = write_job(tmp_path / "jobs")
    link = tmp_path / "tonight.toml"
    link.symlink_to(job)
    loaded = load_job(link)
    assert loaded.name == "revoke"
    assert loaded.targets == tmp_path / "jobs/targets.csv"
    assert default_directory(link, loaded.name) == tmp_path / "jobs/runs/revoke"


@pytest.fixture
def pipe() -> Iterator[Path]:
    reading, writing = os.pipe()
    os.close(writing)
    yield Path(f"/dev/fd/{reading}")
    os.close(reading)


def test_a_job_from_a_pipe_has_no_place_for_its_run(pipe: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (pipe, Path("/dev/stdin"), fifo):
        with pytest.raises(RunDirectoryError, match="not a file in a folder") as refused:
            default_directory(path, "job")
        assert "--run-dir DIR" in refused.value.next_step


def test_a_run_of_an_earlier_version_is_never_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions kept runs below the current folder."""
    job = write_job(tmp_path / "jobs")
    former = plan_run(job, tmp_path / "runs/revoke", State.SUCCEEDED)
    directory = tmp_path / "jobs/runs/revoke"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError) as refused:
        default_directory(job, "revoke")
    assert str(former) in refused.value.problem
    assert str(directory) in refused.value.problem
    assert f"--run-dir {former}\n" in refused.value.next_step
    assert f"mkdir -p {directory.parent} && mv {former} {directory}" in refused.value.next_step
    # a rehearsal changes nothing
    assert default_directory(job, "revoke", rehearsal=True).parent == directory.parent
    # the command that is shown helps
    directory.parent.mkdir()
    former.rename(directory)
    assert default_directory(job, "revoke") == directory


def test_results_alone_show_that_an_earlier_version_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "jobs")
    former = tmp_path / "runs/revoke"
    former.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert default_directory(job, "revoke") == tmp_path / "jobs/runs/revoke"
    (former / "results.jsonl").write_text("")
    (tmp_path / "jobs/runs/revoke").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="contains a run of this name") as refused:
        default_directory(job, "revoke")
    assert "This version can't continue it" in refused.value.next_step
    assert "no checkpoint" in refused.value.next_step


def test_a_run_is_not_moved_into_a_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "jobs")
    former = plan_run(job, tmp_path / "runs/revoke")
    (tmp_path / "jobs/runs/revoke").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError) as refused:
        default_directory(job, "revoke")
    assert f"--run-dir {former}\n" in refused.value.next_step
    assert "mv " not in refused.value.next_step


def test_a_checkpoint_of_another_version_says_who_can_continue_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "jobs")
    former = plan_run(job, tmp_path / "runs/revoke")
    with contextlib.closing(sqlite3.connect(former / "checkpoint.sqlite3")) as db:
        db.execute("PRAGMA user_version = 3")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError) as refused:
        default_directory(job, "revoke")
    assert "schema version 3" in refused.value.next_step
    assert "--run-dir" not in refused.value.next_step


def test_a_run_at_both_places_is_the_one_beside_the_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "jobs")
    plan_run(job, tmp_path / "runs/revoke")
    directory = plan_run(job, tmp_path / "jobs/runs/revoke")
    monkeypatch.chdir(tmp_path)
    assert default_directory(job, "revoke") == directory


def test_a_link_to_the_runs_of_an_earlier_version_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "jobs")
    plan_run(job, tmp_path / "runs/revoke")
    (tmp_path / "jobs/runs").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert default_directory(job, "revoke") == tmp_path / "jobs/runs/revoke"


# ---- the run that somebody names


def test_a_run_is_found_by_directory_job_file_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "jobs", name="november")
    directory = known("november", plan_run(job, tmp_path / "jobs/runs/november"))
    for named in (str(directory), str(job), "november"):
        assert find(named) == directory
    monkeypatch.chdir(tmp_path / "jobs")
    for named in ("runs/november", "./revoke.toml", "revoke.toml", "november"):
        assert find(named) == directory


def test_a_job_file_with_faults_still_finds_its_run(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    directory = plan_run(job, tmp_path / "runs/revoke")
    job.write_text('provider = "gone"\nnonsense = 1\n')
    assert find(str(job)) == directory


def test_a_run_in_the_current_folder_has_a_name_though_nobody_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = plan_run(write_job(tmp_path), tmp_path / "runs/revoke")
    monkeypatch.chdir(tmp_path)
    assert find("revoke") == directory


def test_two_runs_of_one_name_are_both_named(tmp_path: Path) -> None:
    both = [
        known("revoke", plan_run(write_job(tmp_path / folder), tmp_path / folder / "runs/revoke"))
        for folder in ("a", "b")
    ]
    with pytest.raises(RunDirectoryError) as refused:
        find("revoke")
    assert all(str(directory) in refused.value.problem for directory in both)
    (both[0] / "checkpoint.sqlite3").unlink()
    assert find("revoke") == both[1]


def test_two_names_of_one_directory_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = known("revoke", plan_run(write_job(tmp_path), tmp_path / "runs/revoke"))
    (tmp_path / "revoke").symlink_to(directory)
    monkeypatch.chdir(tmp_path)
    assert find("revoke").resolve() == directory


def test_a_run_that_was_moved_or_removed_is_not_known(tmp_path: Path) -> None:
    directory = known("revoke", plan_run(write_job(tmp_path), tmp_path / "runs/revoke"))
    moved = directory.rename(tmp_path / "archive")
    assert known_runs() == []
    for named in ("revoke", str(tmp_path / "revoke.toml")):
        with pytest.raises(RunDirectoryError, match=f"is no longer in {directory}") as refused:
            find(named)
        assert "bulkcert run" not in refused.value.next_step  # that would do everything again
    assert find(str(moved)) == moved


def test_a_misspelt_name_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    known("november", plan_run(write_job(tmp_path), tmp_path / "runs/revoke"))
    with pytest.raises(RunDirectoryError) as refused:
        find("novmber")
    assert refused.value.next_step == "Did you mean 'november'?"


def test_a_job_without_a_run_says_where_others_of_its_name_are(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with pytest.raises(RunDirectoryError, match="There is no run of") as refused:
        find(str(job))
    assert f"bulkcert run {job}" in refused.value.next_step
    rehearsal = plan_run(job, tmp_path / "runs/revoke-rehearsal", rehearsal=True)
    with pytest.raises(RunDirectoryError) as refused:
        find(str(job))
    assert str(rehearsal) in refused.value.next_step


def test_a_file_that_is_no_job_is_not_taken_for_one(tmp_path: Path) -> None:
    write_job(tmp_path)
    with pytest.raises(RunDirectoryError, match="neither a run directory nor a job file"):
        find(str(tmp_path / "targets.csv"))


# ---- what this user knows


def test_a_known_run_is_one_small_private_file(state: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("first", "second"):  # another run in the same directory
        known(name, tmp_path / "run")
    [file] = (state / "runs").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [run.name for run in known_runs()] == ["second"]
    assert json.loads(file.read_text()) == {
        "name": "second",
        "path": str(tmp_path / "run"),
        "action": "revoke",
        "provider": "enos",
    }


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"name": 1, "path": "relative"}']
)
def test_damaged_files_in_the_state_folder_are_ignored(
    content: bytes, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    known("good", tmp_path / "run")
    (state / "runs/other.json").write_bytes(content)
    assert [run.name for run in known_runs()] == ["good"]


def test_a_path_that_is_not_unicode_is_remembered(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    path.mkdir()
    known("odd", path)
    assert [run.path for run in known_runs()] == [path]


def test_a_state_folder_that_cannot_be_used_costs_nothing_but_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = KnownRun(name="x", path=tmp_path, action="revoke", provider="enos")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert "Not a directory" in remember(run)
    assert known_runs() == []


# ---- the runs below a folder


def test_runs_below_a_folder_come_with_state_and_counts_the_latest_first(tmp_path: Path) -> None:
    job = write_job(tmp_path / "jobs")
    done = [State.SUCCEEDED, State.FAILED, State.ALREADY_DONE]
    plan_run(job, tmp_path / "a/b/c/finished", *done, at=2e9)
    plan_run(job, tmp_path / "interrupted", State.SUCCEEDED, at=3e9)
    plan_run(job, tmp_path / "a/rehearsal", State.SUCCEEDED, rehearsal=True, at=1e9)
    plan_run(job, tmp_path / "planned")
    os.utime(tmp_path / "planned/checkpoint.sqlite3", (5e8, 5e8))
    found = runs_below(tmp_path)
    assert (found.unreadable, found.complete) == ([], True)
    assert [(str(run.path.relative_to(tmp_path)), run.state) for run in found.runs] == [
        ("interrupted", RunState.INTERRUPTED),
        ("a/b/c/finished", RunState.OVER),
        ("a/rehearsal", RunState.INTERRUPTED),
        ("planned", RunState.NOT_BEGUN),
    ]
    assert [run.rehearsal for run in found.runs] == [False, False, True, False]
    assert [run.name for run in found.runs] == ["revoke", "revoke", "revoke-rehearsal", "revoke"]
    counts = found.runs[1].counts
    assert (counts[Outcome.SUCCEEDED], counts[Outcome.FAILED], sum(counts.values())) == (1, 1, 3)


def test_what_is_in_flight_is_unknown_only_once_nobody_works_on_it(tmp_path: Path) -> None:
    job = write_job(tmp_path / "jobs")
    directory = plan_run(job, tmp_path / "run", State.SUCCEEDED)
    with contextlib.closing(SqliteStore(directory / "checkpoint.sqlite3")) as store:
        with store.transaction():
            store.claim(1)
        with RunDirectory(directory):
            [running] = runs_below(tmp_path / "run").runs
            ended = CliRunner().invoke(main, ["runs", str(directory)])
        [interrupted] = runs_below(tmp_path / "run").runs
    assert (running.state, running.in_flight, running.counts[Outcome.UNKNOWN]) == ("running", 1, 0)
    assert "1 of 3  " in ended.stdout
    assert (interrupted.state, interrupted.in_flight) == ("interrupted", 0)
    assert interrupted.counts[Outcome.UNKNOWN] == 1


def test_links_and_hidden_folders_are_not_followed(tmp_path: Path) -> None:
    plan_run(write_job(tmp_path / "jobs"), tmp_path / "elsewhere/run")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    plan_run(tmp_path / "jobs/revoke.toml", folder / ".hidden/run")
    assert runs_below(folder).runs == []
    assert len(runs_below(folder / "link").runs) == 1  # the folder itself was asked for


def test_too_many_folders_are_not_all_looked_at(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "many" / name).mkdir(parents=True)
    assert runs_below(tmp_path / "many", 4).complete
    assert not runs_below(tmp_path / "many", 3).complete


def test_runs_are_below_one_another_where_the_terminal_is_too_narrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: int | None = None
    monkeypatch.setattr(console, "columns", lambda name: columns)
    run_dir = tmp_path / "jobs/runs/revoke"
    plan_run(write_job(tmp_path / "jobs"), run_dir)
    folder = str(run_dir.parent)
    table = CliRunner().invoke(main, ["runs", folder]).stdout.splitlines()
    columns = len(table[1])
    assert CliRunner().invoke(main, ["runs", folder]).stdout.splitlines() == table
    columns -= 1
    entry = CliRunner().invoke(main, ["runs", folder]).stdout.splitlines()
    assert entry[0] == "revoke"
    assert entry[1].startswith("  not begun · enos revoke · 0 of 3 · ")
    assert entry[2] == f"  {run_dir}"


def test_damaged_runs_are_shown_as_such(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"not a database" * 100)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "checkpoint.sqlite3").write_bytes(content)
    reports = tmp_path / "runs/reports"
    reports.mkdir()
    (reports / "results.jsonl").write_text("")
    (reports / "summary.json").write_text("[]")
    runs = runs_below(tmp_path / "runs").runs
    assert sorted(run.name for run in runs) == ["empty", "reports", "text"]
    assert {run.state for run in runs} == {RunState.UNREADABLE}
    assert all(run.problem for run in runs)
    ended = CliRunner().invoke(main, ["runs", str(tmp_path)])
    assert ended.exit_code == 0
    assert ended.stdout.count("unreadable") == 3


def test_runs_and_status_say_the_same(tmp_path: Path) -> None:
    def json_of(*words: str) -> Any:
        return json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)

    job = write_job(tmp_path)
    runs = tmp_path / "runs"
    plan_run(job, runs / "planned")
    plan_run(job, runs / "interrupted", State.SUCCEEDED, State.UNKNOWN)
    plan_run(job, runs / "over", State.SUCCEEDED, State.FAILED, State.ALREADY_DONE)
    plan_run(job, runs / "rehearsed", State.SUCCEEDED, rehearsal=True)
    states = {}
    for run in json_of("runs", str(runs)):
        status = json_of("status", run["run_dir"])
        assert {name: status[name] for name in ("state", "unknown", "total")} == {
            name: run[name] for name in ("state", "unknown", "total")
        }
        states[Path(run["run_dir"]).name] = run["state"]
    assert states == {
        "planned": "not_begun",
        "interrupted": "interrupted",
        "over": "over",
        "rehearsed": "interrupted",
    }
    table = CliRunner().invoke(main, ["runs", str(runs)]).stdout
    assert "1 of 3, 1 unknown" in table

    def headline(name: str) -> str:
        return CliRunner().invoke(main, ["status", str(runs / name)]).stdout.splitlines()[0]

    assert headline("interrupted").endswith(", 1 of 3 operations done")
    assert headline("planned") == "revoke: not begun, 0 of 3 operations done"
    assert headline("rehearsed").startswith("revoke-rehearsal: interrupted after ")
    assert headline("over").startswith("revoke: finished in ")


def test_the_reports_of_a_run_are_enough(tmp_path: Path) -> None:
    job = write_job(tmp_path / "jobs")
    directory = RunDirectory(plan_run(job, tmp_path / "runs/x", State.SUCCEEDED))
    directory.write_reports()
    (directory.path / "results.jsonl").with_name("checkpoint.sqlite3").unlink()
    [run] = runs_below(tmp_path / "runs").runs
    assert (run.name, run.state) == ("revoke", RunState.INTERRUPTED)
    assert run.counts[Outcome.SUCCEEDED] == 1


def test_results_that_were_printed_to_a_file_are_not_a_run(tmp_path: Path) -> None:
    write_job(tmp_path)
    (tmp_path / "results.jsonl").write_text("")
    plan_run(tmp_path / "revoke.toml", tmp_path / "runs/revoke")
    assert [run.path for run in runs_below(tmp_path).runs] == [tmp_path / "runs/revoke"]


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    path = plan_run(job, tmp_path / "runs/revoke", State.SUCCEEDED, State.FAILED)
    table = CliRunner().invoke(main, ["runs", str(tmp_path)]).stdout.splitlines()
    assert [line.split("  ")[0] for line in table] == ["NAME  ".strip(), "revoke"]
    assert table[1].split("  ") == [
        "revoke",
        "interrupted",
        "enos revoke",
        "2 of 3, 1 failed",
        "2001-09-09 01:46Z",
        str(path),
    ]
    ended = CliRunner().invoke(main, ["runs", str(tmp_path), "--json"])
    [run] = json.loads(ended.stdout)
    assert (run["name"], run["state"], run["failed"], run["total"], run["run_dir"]) == (
        "revoke",
        "interrupted",
        1,
        3,
        str(path),
    )
    assert run["worked_on_at"] == "2001-09-09T01:46:40.000Z"
    nothing = CliRunner().invoke(main, ["runs", str(tmp_path / "here")])
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "There are no runs below" in nothing.stderr


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["runs", str(tmp_path / "nowhere")])
    assert ended.exit_code == 2
    assert "can't be read" in ended.stderr
