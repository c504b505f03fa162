"""What people and programs read: JSON on standard output, messages, log files, the bar."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import termios
from pathlib import Path

import pytest
from harness import JobWith, ProcessJob
from processes import BULKCERT, Command, bulkcert, without_credentials

pytestmark = pytest.mark.system

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


# ---- run


def test_a_run_prints_its_summary_as_json_and_its_messages_with_times(
    job: ProcessJob, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    ended = job.run("--json", "--log-file", log, "--log-format", "text")
    assert ended.code == 0
    assert json.loads(ended.out) == job.summary()
    lines, logged = ended.err.splitlines(), log.read_text().splitlines()
    assert [line for line in logged if line in lines] == lines
    started, last = (line.partition("Z ")[2] for line in logged if line not in lines)
    assert "started process" in started  # the event log
    assert "ended with exit code 0" in last
    assert all(re.match(f"{TIME} ", line) for line in lines)
    assert any("Finished: 60 operations" in line for line in lines)


def test_a_quiet_run_prints_the_result_and_its_log_has_everything(
    job: ProcessJob, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    ended = job.run("-q", "--log-file", log, "--log-format", "json")
    entries = [json.loads(line) for line in ended.err.splitlines()]
    assert [entry["event"] for entry in entries] == ["end"]
    assert entries[0]["summary"] == job.summary()
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert {entry["event"] for entry in logged} >= {"plan", "progress", "end"}
    assert logged[0]["plan"]["total"] == 60


def test_a_run_shows_retries_on_request(job_with: JobWith) -> None:
    with job_with(targets=20, error_before=0.5, faults_on="revoke", seed=1) as job:
        ended = job.run("-v")
        assert ended.code == 0
        again = re.findall(rf"{TIME} line \d+: sent again in \d+\.\d s, after 99500 ", ended.err)
        assert len(again) == job.summary()["retried"]["99500"]


def test_a_run_that_a_fault_ends_early_prints_its_summary_with_the_error(
    job_with: JobWith,
) -> None:
    with job_with(targets=200, error_before=1.0, faults_on="revoke") as job:
        breaker = {"stop_after_seconds": 1}
        job.write(circuit_breaker=breaker, limits={"requests_per_second": 100})
        ended = job.run("--json")
        assert ended.code == 3, ended
        printed = json.loads(ended.out)
        error = printed.pop("error")
        assert error["exit_code"] == 3
        assert error["problem"].startswith("Nearly everything has failed")
        assert error["problem"] in ended.err
        assert printed == job.summary()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["run", "job.toml", "--json"], "there is no terminal to ask"),
        (["run", "job.toml", "--yes", "--json"], "Credentials are missing"),
        (["run", "missing.toml", "--yes", "--json"], "missing.toml"),
        (["run", "--json"], "Missing argument"),
        (["plan", "missing.toml", "--json"], "missing.toml"),
        (["status", "missing", "--json"], "missing"),
    ],
)
def test_errors_are_json_objects_for_whoever_wants_json(
    words: list[str], problem: str, job: ProcessJob
) -> None:
    ended = bulkcert(*words, folder=job.folder)
    assert ended.code == 2
    error = json.loads(ended.out)["error"]
    assert problem in error["problem"]
    assert error["exit_code"] == 2
    assert problem in ended.err
    assert job.entries() == []


# ---- plan


def test_plan_prints_one_json_object(job: ProcessJob) -> None:
    ended = job.bulkcert("plan", job.job_file, "--json")
    assert (ended.code, ended.err) == (0, "")
    plan = json.loads(ended.out)
    expected = {
        "name": "job",
        "provider": "enos",
        "action": "revoke",
        "undone_by": None,
        "account": {"org_id": "o1"},
        "total": 60,
        "ceiling": 3000,
        "requests": 60,
    }
    assert {name: plan[name] for name in expected} == expected
    assert plan["sample_request"]["headers"]["apim-signature"] == "********"


def test_plan_prints_bad_rows_as_json(job: ProcessJob) -> None:
    job.write_rows([("A", 1), ("B", "x"), ("C", "")])
    ended = job.bulkcert("plan", job.job_file, "--json")
    assert ended.code == 2
    error = json.loads(ended.out)["error"]
    assert error["rejected"] == 2
    assert [(row["line"], row["field"]) for row in error["first_rejected"]] == [
        (3, "certSn"),
        (4, "certSn"),
    ]


def test_a_signal_ends_planning_with_a_clear_line(job: ProcessJob) -> None:
    with Command(["plan", job.job_file, "--targets", "-"], job.folder, stdin="pipe") as command:
        assert command.process.stdin
        command.process.stdin.write(b"assetId,certSn\n" + b"A,1\n" * 100_000)
        command.send(signal.SIGINT)
        ended = command.wait()
    assert ended.code in {3, -signal.SIGINT}, ended  # the latter if Python is still starting
    if ended.code == 3:
        assert ended.err == "Stopped.\n"


# ---- a reader that goes away


@pytest.mark.parametrize(
    "words",
    [
        ["results", "RUN"],
        ["results", "RUN", "--format", "csv"],
        ["results", "RUN", "-o", "-"],
        ["results", "RUN", "-o", "/dev/stdout"],
        ["status", "RUN"],
        ["status", "RUN", "--json"],
        ["plan", "JOB"],
        ["plan", "JOB", "--json"],
    ],
    ids=" ".join,
)
def test_a_command_whose_reader_goes_away_ends_silently_as_other_tools_do(
    words: list[str], finished: ProcessJob
) -> None:
    names = {"RUN": finished.run_dir, "JOB": finished.job_file}
    read, write = os.pipe()
    os.close(read)
    try:
        ended = bulkcert(*(names.get(w, w) for w in words), folder=finished.folder, stdout=write)
    finally:
        os.close(write)
    assert (ended.code, ended.err) == (128 + signal.SIGPIPE, "")


def test_a_run_ends_as_it_does_when_nobody_reads_its_summary(job: ProcessJob) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert job.run("--json", stdout=write).code == 0
    finally:
        os.close(write)


# ---- the bar


def test_the_bar_fits_a_narrow_terminal(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 30})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    environment = without_credentials() | job.simulator.credentials | {"TERM": "xterm"}
    process = subprocess.Popen(
        [BULKCERT, "run", job.job_file, "--yes"],
        cwd=job.folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with process:
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0, shown
    text = re.sub(r"\x1b\[\d*[A-Za-z]", "", shown.decode())
    bars = [line for line in re.split(r"[\r\n]+", text) if "/60" in line]
    assert len(bars) >= 3
    assert max(map(len, bars)) <= 39
    assert "60/60" in bars[-1]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""
