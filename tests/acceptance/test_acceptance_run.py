"""`bulkcert run`: what it sends, what it prints, and what it leaves in the run directory."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS
from harness import JobWith, ProcessJob
from processes import (
    BULKCERT,
    LIMIT_S,
    Ended,
    SimulatorProcess,
    bulkcert,
    stopped,
    until,
    without_credentials,
)

pytestmark = pytest.mark.system


# ---- a plan is carried out once


def test_a_plan_is_carried_out_once(job: ProcessJob) -> None:
    """In a copied folder, under another name and in another directory, it would do all again."""
    assert job.run().code == 0
    sent = job.simulator.requests
    copy = job.folder.with_name("copy")
    shutil.copytree(job.folder, copy, ignore=shutil.ignore_patterns("runs"))
    (copy / "renamed.toml").write_text(job.job_file.read_text())
    repetitions = (
        [copy / "job.toml"],
        [copy / "renamed.toml"],
        [job.job_file, "--run-dir", "elsewhere"],
    )
    for words in repetitions:
        ended = job.bulkcert("run", *words, "--yes", environment=job.simulator.credentials)
        assert ended.code == 2, ended
        assert f"run 1 of job in {job.run_dir}" in ended.err
        assert "--run-dir" not in ended.err
    assert job.simulator.requests == sent
    planned = json.loads(job.bulkcert("plan", job.job_file, "--json").out)["plan"]
    assert job.summary()["plan"] == planned


def test_the_next_run_of_a_job_goes_on_by_itself(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 60})
    assert job.run("--new").code == 0  # the first one, as from cron
    assert job.run().code == 0
    with job.start("--yes", "--new") as command:
        assert job.await_requests(75, command)
        shown = job.bulkcert("status", job.job_file, "--json")
        assert json.loads(shown.out)["state"] == "running"
        command.send(signal.SIGINT)
        ended = command.wait()
    assert (ended.code, "the same command without --new" in ended.err) == (3, True)
    refused = job.run("--new")
    assert (refused.code, "is not over" in refused.err) == (2, True)
    assert job.run().code == 0
    assert json.loads((job.folder / "runs/job-2/summary.json").read_text())["total"] == 60


def test_a_plan_is_confirmed_by_its_hash(job: ProcessJob) -> None:
    earlier, shown = job.simulator.requests, job.bulkcert("plan", job.job_file).out
    grouped = " ".join(re.findall(r"\b[0-9a-f]{4}\b", shown.split("plan  ")[1])[:16])
    words = ("run", job.job_file, "--plan")
    credentials = job.simulator.credentials
    ended = job.bulkcert(*words, grouped.replace("0", "1"), environment=credentials)
    assert (ended.code, grouped in ended.err) == (2, True)
    assert job.simulator.requests == earlier
    assert job.bulkcert(*words, grouped.upper(), environment=credentials).code == 0


# ---- a successful run


def test_a_successful_run_does_everything_once_and_exits_with_0(finished: ProcessJob) -> None:
    assert finished.ended.code == 0, finished.ended
    assert finished.violations() == []
    assert finished.summary()["exit_code"] == 0
    assert finished.summary()["succeeded"] == 60


def test_a_run_ends_by_saying_what_happened_how_fast_and_what_is_next(finished: ProcessJob) -> None:
    ended = finished.ended
    assert ended.out == ""  # standard output is for data
    assert "Finished: 60 operations" in ended.err
    assert "succeeded            60" in ended.err
    assert "of 3,000 allowed" in ended.err
    assert "results.jsonl" in ended.err
    assert "Nothing is left to do." in ended.err


def test_the_run_directory_is_private_and_contains_the_documented_files(
    finished: ProcessJob,
) -> None:
    assert stat.S_IMODE(finished.run_dir.stat().st_mode) == 0o700
    names = {path.name for path in finished.run_dir.iterdir()}
    database = {"checkpoint.sqlite3", "checkpoint.sqlite3-wal", "checkpoint.sqlite3-shm"}
    others = {"results.jsonl", "summary.json", "events.jsonl", "metrics.prom", ".gitignore"}
    assert names - database == others
    assert (finished.run_dir / ".gitignore").read_text() == "*\n"  # a run may be in a repository
    assert "checkpoint.sqlite3" in names


def test_results_have_the_documented_fields_in_target_order(finished: ProcessJob) -> None:
    results = finished.results()
    assert [result["line"] for result in results] == list(range(2, 62))
    result = results[3]
    assert result.pop("request_id")
    assert result.pop("finished_at").endswith("Z")
    assert result == {
        "line": 5,
        "target": {"assetId": finished.rows[3]["assetId"], "certSn": 1003},
        "outcome": "succeeded",
        "code": 0,
        "message": "OK",
        "attempts": 1,
        "result": None,
    }


def test_the_summary_has_the_documented_fields_and_adds_up(finished: ProcessJob) -> None:
    summary = finished.summary()
    outcomes = ("succeeded", "already_done", "failed", "unknown", "pending")
    assert summary["total"] == sum(summary[name] for name in outcomes) == 60
    assert summary["requests"] == 61  # one for the token
    assert summary["attempts"] == 60
    assert summary["throttled"] == 0
    assert summary["started_at"] < summary["finished_at"]
    assert 0 < summary["busiest_second"] <= 61
    assert summary["elapsed_seconds"] > 0
    assert summary["requests_per_second"] > 0


def test_a_target_column_overrides_the_job_parameter(job: ProcessJob) -> None:
    """The headers are mapped, and one row is repeated: it is reported, and done once."""
    job.write(
        parameters={"reason": "CESSATION_OF_OPERATION"},
        columns={"assetId": "Asset ID", "certSn": "Serial", "reason": "Why"},
    )
    rows = [
        ("x", job.rows[n]["assetId"], 1000 + n, why)
        for n, why in enumerate(["", "9", "SUPERSEDED"])
    ]
    job.write_rows([*rows, rows[1]], "Comment,Asset ID,Serial,Why")
    assert job.run().code == 0
    assert "line 5: the same operation as line 3" in job.ended.err
    assert (job.run_dir / "repeated.csv").read_text().splitlines()[1].startswith("5,")
    assert job.violations() == []
    states = [job.simulator.certificates(f"assetId={row['assetId']}") for row in job.rows[:3]]
    assert [state[0].reason for state in states] == [5, 9, 4]


def test_devices_can_be_identified_by_product_key_and_device_key(
    job_with: JobWith, tmp_path: Path
) -> None:
    with SimulatorProcess(tmp_path / "ledger.jsonl") as open_world:
        job = ProcessJob(tmp_path, ENOS, "revoke", [], open_world)
        job.write_rows([("p 1", "d/ä+&1", 7)], "productKey,deviceKey,certSn")
        assert job.run().code == 0
        assert job.violations() == []


def test_failed_operations_make_the_exit_code_1(mixed: ProcessJob) -> None:
    assert mixed.ended.code == 1
    assert mixed.violations() == []
    assert [r["outcome"] for r in mixed.results()] == ["succeeded", "failed", "succeeded"]
    assert "--retry-failed" in mixed.ended.err
    assert "99400" in mixed.ended.err


def test_certificates_that_are_already_revoked_are_already_done(finished: ProcessJob) -> None:
    again = ProcessJob(finished.folder, ENOS, "revoke", finished.rows, finished.simulator)
    again.run_dir = finished.folder / "again"
    assert again.run("--run-dir", again.run_dir).code == 0
    assert again.violations() == []
    assert {result["outcome"] for result in again.results()} == {"already_done"}


# ---- confirmation and credentials


def test_an_action_that_changes_certificates_needs_yes_without_a_terminal(job: ProcessJob) -> None:
    ended = job.start().wait()
    assert ended.code == 2
    assert "--yes" in ended.err
    assert job.entries() == []


def on_a_terminal(job: ProcessJob, answer: str) -> Ended:
    """Run in a pseudo terminal, and answer the question that it asks."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [BULKCERT, "run", job.job_file],
        cwd=job.folder,
        env=without_credentials() | job.simulator.credentials | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # makes Ctrl-C reach the process
    )
    os.close(theirs)
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    with process:
        shown = b""
        asked = False
        while chunk := _read(ours):
            shown += chunk
            if not asked and b"to start: " in shown:
                asked = True
                until(lambda: _sleeps(process.pid))
                os.write(ours, answer.encode())
    watchdog.cancel()
    os.close(ours)
    return Ended(process.returncode, "", shown.decode())


def _sleeps(pid: int) -> bool:
    """Return whether a process waits for input; Python can miss a Ctrl-C just before that."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(
    "answer",
    ["y\n", "61\n", "\n", "\x04", "\x03"],
    ids=["y", "another number", "enter", "eof", "ctrl-c"],
)
def test_nothing_is_sent_without_confirmation(answer: str, job: ProcessJob) -> None:
    ended = on_a_terminal(job, answer)
    assert ended.code == 2, ended.err  # 1 would mean that operations have failed
    assert "60 from 60 rows" in ended.err
    words = " ".join(ended.err.split())  # the terminal is narrow
    assert f"revoke on enos at {job.simulator.endpoint}, org_id o1" in words
    assert "60 operations are still to do." in words
    assert "This is not a rehearsal, and it can't be undone." in words
    assert "nothing was sent" in words
    assert job.entries() == []


def test_a_confirmed_run_shows_a_progress_bar(job: ProcessJob) -> None:
    on_a_terminal(job, "n\n")  # declining once does not block a later run
    ended = on_a_terminal(job, "60\n")
    assert ended.code == 0, ended.err
    assert "100%" in ended.err
    assert job.violations() == []


def test_missing_credentials_are_named_and_nothing_is_sent(job: ProcessJob) -> None:
    ended = job.run(environment={"ENOS_APP_KEY": "simulator-key"})
    assert ended.code == 2
    assert "ENOS_APP_SECRET" in ended.err
    assert job.entries() == []


@pytest.mark.parametrize("wrong", ["ENOS_APP_KEY", "ENOS_APP_SECRET"])
def test_wrong_credentials_stop_the_run_before_any_operation_is_sent(
    wrong: str, job: ProcessJob
) -> None:
    ended = job.run(environment=job.simulator.credentials | {wrong: "wrong-one"})
    assert ended.code == 2
    assert "does not accept the credentials" in ended.err
    assert "wrong-one" not in ended.err
    assert {entry["action"] for entry in job.entries()} == {"token.get"}
    # with the right credentials, the same run continues
    assert job.run().code == 0
    assert job.violations() == []
    assert job.summary()["requests"] == len(job.entries())


# ---- the run directory


def test_running_a_finished_run_again_sends_nothing(mixed: ProcessJob) -> None:
    sent = mixed.simulator.requests
    assert mixed.start("--yes").wait().code == 1
    assert mixed.simulator.requests == sent
    assert mixed.violations() == []


def test_retry_failed_sends_only_the_failed_operations_again(job: ProcessJob) -> None:
    job.write_rows([(job.rows[0]["assetId"], 9999), (job.rows[1]["assetId"], 1001)])
    assert job.run().code == 1
    before = len(job.entries())
    assert job.run("--retry-failed").code == 1
    again = job.entries()[before:]
    assert [entry["certSn"] for entry in again if entry["action"] == "revoke"] == [9999]
    assert job.violations(retried=True) == []


@pytest.mark.parametrize(
    ("section", "difference"),
    [
        ({"parameters": {"reason": 1}}, "parameters.reason was 'not set' and is now 1"),
        ({"connection": {"org_id": "o2"}}, "connection.org_id was 'o1' and is now 'o2'"),
        ({"connection": {"endpoint": "http://127.0.0.1:9"}}, "connection.endpoint was"),
        ({"columns": {"assetId": "assetId"}}, "columns.assetId was"),
        ({"targets": "fewer.csv"}, "the content of the target file has changed"),
    ],
    ids=["parameters", "option", "endpoint", "columns", "targets"],
)
def test_a_run_directory_of_a_changed_job_is_refused(
    section: dict[str, Any], difference: str, finished: ProcessJob, tmp_path: Path
) -> None:
    changed = ProcessJob(tmp_path, ENOS, "revoke", finished.rows, finished.simulator)
    (tmp_path / "fewer.csv").write_text("assetId,certSn\nA,1\n")
    changed.write(**section)
    ended = changed.run("--run-dir", finished.run_dir)
    assert ended.code == 2
    assert difference in ended.err
    assert "Undo the change" in ended.err
    assert "--run-dir" not in ended.err  # it would do everything a second time
    assert changed.entries() == []


def test_limits_and_attempts_may_change_when_a_run_is_resumed(finished: ProcessJob) -> None:
    slower = ProcessJob(finished.folder, ENOS, "revoke", finished.rows, finished.simulator)
    slower.write(limits={"requests_per_second": 10, "in_flight": 1}, retry={"max_attempts": 1})
    assert slower.run().code == 0


def test_a_run_is_found_from_every_folder_by_directory_job_file_and_name(
    job: ProcessJob, tmp_path: Path
) -> None:
    job.write(name=tmp_path.name)  # no other test has a run of this name
    job.run_dir = job.folder / "runs" / tmp_path.name
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "tonight.toml"
    link.symlink_to(job.job_file)

    def command(*words: object) -> Ended:
        return bulkcert(*words, folder=elsewhere, environment=job.simulator.credentials)

    assert command("run", link, "--yes").code == 0
    assert str(job.run_dir) in command("run", "../job.toml", "--yes").err
    assert job.violations() == []
    assert list(elsewhere.iterdir()) == [link]
    for named in (job.run_dir, "../job.toml", link, tmp_path.name):
        for words in (("status", named), ("results", named), ("verify", named)):
            ended = command(*words)
            assert ended.code == 0, (words, ended)
    ended = command("status", "nothing")
    assert ended.code == 2
    assert "'nothing' is neither" in ended.err


def test_a_run_of_an_earlier_version_is_continued_only_when_it_is_named(job: ProcessJob) -> None:
    """It is below the current folder; the same command must not begin the campaign anew.

    What this version has begun there, it knows, too.
    """
    job.run_dir = job.folder / "runs/job"
    assert job.run().code == 0
    sent = len(job.entries())
    jobs = job.folder / "jobs"
    jobs.mkdir()
    for file in (job.job_file, job.target_file):
        file.rename(jobs / file.name)
    words = ("run", jobs / job.job_file.name, "--yes")
    refused = job.bulkcert(*words, environment=job.simulator.credentials)
    assert refused.code == 2
    [shown] = re.findall(r"--run-dir (\S+)", refused.err)
    named = job.bulkcert(*words, "--run-dir", shown, environment=job.simulator.credentials)
    assert named.code == 0, named
    assert len(job.entries()) == sent


def test_a_job_from_a_pipe_needs_a_run_directory_and_continues_in_it(job: ProcessJob) -> None:
    content = job.job_file.read_bytes()
    words = ("run", "/dev/stdin", "--yes")
    ended = job.bulkcert(*words, stdin=content, environment=job.simulator.credentials)
    assert ended.code == 2
    assert "--run-dir DIR" in ended.err
    for _ in range(2):
        ended = job.bulkcert(
            *words, "--run-dir", job.run_dir, stdin=content, environment=job.simulator.credentials
        )
        assert ended.code == 0, ended
    assert job.violations() == []


def test_a_second_process_in_the_same_run_directory_is_refused(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 40})
    with job.start("--yes") as first:
        assert job.await_requests(5, first)
        with stopped(first):  # it must not finish before the second one begins
            second = job.run()
        assert second.code == 2
        assert "in use by another process" in second.err
        assert first.wait().code == 0
    assert job.violations() == []


def test_a_folder_with_other_content_is_refused_as_a_run_directory(job: ProcessJob) -> None:
    """Using it would change its mode, and mix foreign files with those of the run."""
    folder = job.folder / "mine"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").write_text("Dear")
    ended = job.run("--run-dir", folder)
    assert ended.code == 2
    assert "letter.txt" in ended.err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert job.entries() == []


def test_targets_can_be_overridden_if_their_content_stays_the_same(job: ProcessJob) -> None:
    content = job.target_file.read_bytes()
    other = job.folder / "other.csv"
    other.write_bytes(content)
    job.write(targets="nowhere.csv")
    assert job.run("--targets", "-", stdin=content).code == 0
    job.write(targets="targets.csv")
    assert job.violations() == []
    sent = len(job.entries())
    assert job.run("--targets", "other.csv").code == 0
    ended = job.run("--targets", "-", stdin=content + b"X,1\n")
    assert ended.code == 2
    assert "target file has changed" in ended.err
    assert len(job.entries()) == sent


# ---- rehearsal


def test_a_rehearsal_needs_no_credentials_and_calls_only_its_own_simulator(
    job: ProcessJob,
) -> None:
    job.write(
        connection={"endpoint": "https://apim.example.com"}, limits={"requests_per_second": 300}
    )
    ended = job.start("--rehearse", environment={}).wait()
    assert ended.code == 0, ended
    assert "no certificate was touched" in ended.err
    job.run_dir = job.folder / "runs" / "job-rehearsal"
    checker = Path(__file__).parents[1] / "history.py"
    check = subprocess.run(
        [sys.executable, checker, job.job_file, job.run_dir], capture_output=True, check=False
    )
    assert check.returncode == 0, check.stdout
    assert job.summary()["succeeded"] == 60
    assert job.entries() == []


def test_a_finished_rehearsal_starts_over_and_no_real_run_continues_it(
    job: ProcessJob,
) -> None:
    content = job.target_file.read_bytes()
    words = ("--rehearse", "--targets", "-", "--run-dir", "here")
    for _ in range(2):
        ended = job.start(*words, stdin=content, environment={}).wait()
        assert ended.code == 0, ended
        assert "60 from 60 rows" in ended.err
    ended = job.run("--run-dir", "here")
    assert ended.code == 2
    assert "rehearsal" in ended.err
    assert job.entries() == []


# ---- refusals, throttling, and output that nobody reads


def test_a_refused_operation_is_sent_only_once(job_with: JobWith) -> None:
    with job_with(refuse_all="11404") as job:
        ended = job.run()
        assert ended.code == 1
        assert {(r["outcome"], r["code"]) for r in job.results()} == {("failed", 11404)}
        assert len(job.entries()) == 61
        assert job.violations() == []
        assert "60 x 11404" in ended.err


def test_a_missing_permission_stops_the_run_at_once_and_fails_nothing(job_with: JobWith) -> None:
    with job_with(targets=500, refuse_all="99403") as job:
        ended = job.run()
        assert ended.code == 3
        assert "in a row: 99403" in ended.err
        assert "full access to Device Management" in ended.err
        log = (job.run_dir / "events.jsonl").read_text()
        assert 'in a row: 99403"' in log  # and not the text, which names a device
        assert {(r["outcome"], r["attempts"]) for r in job.results()} == {("pending", 0)}
        assert 30 <= len(job.entries("revoke")) < 300
        assert job.violations(over=False) == []


def test_a_throttled_run_slows_down_and_loses_no_outcome(job_with: JobWith) -> None:
    """The limit is half the ceiling, requests are throttled at random, and tokens expire."""
    with job_with(
        targets=120,
        limit=60,
        limit_headers="retry-after",
        retry_after=0,
        throttle_retry_after=0.05,
        token_expired=0.05,
        token_life=2,
        seed=7,
    ) as job:
        job.write(limits={"requests_per_second": 120})
        ended = job.run()
        assert ended.code == 0, ended
        assert job.violations() == []
        throttled = [entry for entry in job.entries() if entry["code"] == 429]
        assert job.summary()["throttled"] == len(throttled) > 0
        assert {entry["code"] for entry in job.entries()} >= {0, 429, 1203}
        assert {result["attempts"] for result in job.results()} == {1}


def test_progress_is_printed_as_lines_unless_it_is_turned_off(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 60})
    assert "of 60 (" in job.run().err
    silent = job.run("--new", "--no-progress")
    assert silent.code == 0
    assert "of 60 (" not in silent.err


def test_a_run_finishes_when_standard_error_cannot_be_written(job: ProcessJob) -> None:
    """It is on a full disk, or closed. A crash would exit with 1, as failed operations do."""
    job.write(limits={"requests_per_second": 80})
    with Path("/dev/full").open("wb") as full:
        assert job.run(stderr=full).code == 0
    assert job.violations() == []
    assert job.run("--new", preexec_fn=lambda: os.close(2)).code == 0
    assert json.loads((job.folder / "runs/job-2/summary.json").read_text())["exit_code"] == 0


def test_a_summary_that_cannot_be_printed_does_not_mean_that_nothing_was_sent(
    job: ProcessJob,
) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = job.run("--json", stdout=full)
    assert ended.code == 3, ended
    assert "Standard output can't be written: No space left on device" in ended.err
    again = job.run("--json")
    assert (again.code, json.loads(again.out)["exit_code"]) == (0, 0)


def test_a_run_finishes_when_the_reader_of_its_output_goes_away(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 80})
    with job.start("--yes") as command:
        assert job.await_requests(10, command)
        assert command.process.stderr
        command.process.stderr.close()
        assert command.process.wait() == 0
    assert job.violations() == []


def test_a_limit_of_open_files_is_raised_or_reported(job: ProcessJob) -> None:
    def limit(soft: int, hard: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    warning = "may open only 500 files, too few for 1,000 requests in flight"
    assert job.run(preexec_fn=limit(500, 2000)).code == 0
    assert warning not in job.ended.err
    assert job.run("--new", preexec_fn=limit(500, 500)).code == 0
    assert warning in job.ended.err
