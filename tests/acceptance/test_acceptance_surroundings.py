"""Trouble around a run: consoles, file systems, terminals that close, faults, and other users."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from enos_vendor import ENOS, SUBJECT, devices
from harness import JobWith, ProcessJob, as_a_process
from processes import BULKCERT, until

pytestmark = pytest.mark.system


# ---- consoles and names


@pytest.fixture
def odd(job: ProcessJob) -> ProcessJob:
    """A job in a folder whose name is not Unicode, with names that not every console has.

    There are files that Python would import by mistake, if it looked into the current folder.
    """
    folder = Path(os.fsdecode(os.fsencode(job.folder) + b"/\xff-\xe9"))
    folder.mkdir()
    job.folder, job.job_file = folder, folder / "job.toml"
    job.run_dir = folder / "runs" / "吊销"
    (folder / "ca.pem").write_text("")
    for module in ("secrets", "aiohttp", "bulkcert"):
        (folder / f"{module}.py").write_text("raise SystemExit('imported by mistake')")
    job.write(name="吊销", targets="t.csv", connection={"ca_file": "ca.pem"})
    (folder / "t.csv").write_text("设备名,assetId,certSn\nx,泵站-é,1001\n", encoding="utf-8")
    return job


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "ascii", "utf-8"])
def test_commands_work_on_any_console(odd: ProcessJob, encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    plan = odd.bulkcert("plan", odd.job_file, environment=environment)
    assert plan.code == 0, plan
    del odd.document["connection"]["ca_file"]  # an empty one, so it can't be used
    odd.write()
    rehearsal = odd.bulkcert("run", odd.job_file, "--rehearse", environment=environment)
    assert rehearsal.code == 0, rehearsal
    run_dir = odd.folder / "runs" / "吊销-rehearsal"
    for words in (["status"], ["results"], ["results", "--format", "csv"], ["status", "--json"]):
        ended = odd.bulkcert(words[0], run_dir, *words[1:], environment=environment)
        assert ended.code == 0, ended
    assert json.loads(ended.out)["name"] == "吊销"  # data is UTF-8 on any console


# ---- file systems


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only, for root too."""
    for words in (["--bind", folder], ["-o", "remount,ro,bind", folder]):
        target = [folder] if words[0] == "--bind" else []
        if subprocess.run(["mount", *words, *target], capture_output=True, check=False).returncode:
            pytest.skip("this process may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_run_directory_on_read_only_media_can_be_read(
    finished: ProcessJob, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.run_dir, copy)
    with read_only(copy):
        for command in ("status", "results"):
            there = finished.bulkcert(command, finished.run_dir)
            assert finished.bulkcert(command, copy) == there
        assert finished.bulkcert("verify", copy, environment=finished.credentials).code == 0
        planned = finished.bulkcert("plan", finished.job_file, "--run-dir", copy)
        assert "can't continue the run of this job" in planned.err
        assert "--run-dir" not in planned.err  # elsewhere, everything would be done again


def test_a_job_in_a_folder_that_cannot_be_written_needs_a_run_directory(job: ProcessJob) -> None:
    (job.folder / "elsewhere").mkdir()
    jobs = job.folder / "jobs"
    jobs.mkdir()
    for file in (job.job_file, job.target_file):
        shutil.copy(file, jobs)
    with read_only(jobs):
        words = [jobs / job.job_file.name, "--rehearse"]
        ended = job.bulkcert("run", *words)
        assert ended.code == 2, ended
        assert f"{jobs}/runs/job-rehearsal can't be created: Read-only file system" in ended.err
        assert "--run-dir DIR" in ended.err
        planned = job.bulkcert("plan", words[0])
        assert planned.code == 0, planned
        assert "will need --run-dir DIR" in planned.err
        ended = job.bulkcert("run", *words, "--run-dir", "elsewhere/run")
    assert ended.code == 0, ended
    assert f"{job.folder}/elsewhere/run/results.jsonl" in ended.err


def test_a_copy_of_a_run_that_was_killed_can_be_read_on_read_only_media(
    job: ProcessJob, tmp_path: Path
) -> None:
    """What is in its WAL counts, whether or not the index of the WAL was copied too."""
    job.write(limits={"requests_per_second": 20})
    with job.start("--yes") as command:
        assert job.await_requests(8, command)
        until(lambda: json.loads(job.bulkcert("status", job.run_dir, "--json").out)["succeeded"])
        command.kill()
    assert (job.run_dir / "checkpoint.sqlite3-wal").stat().st_size
    there = _shown(job, job.run_dir)
    for name, suffixes in (("all", ("", "-wal", "-shm")), ("no-shm", ("", "-wal"))):
        copy = tmp_path / name
        copy.mkdir()
        for suffix in suffixes:
            shutil.copy(job.run_dir / f"checkpoint.sqlite3{suffix}", copy)
        with read_only(copy):
            assert _shown(job, copy) == there


def _shown(job: ProcessJob, run_dir: Path) -> tuple[str, str]:
    """The status of a run without the command to go on, which names the folder; its results."""
    status, results = (job.bulkcert(command, run_dir).out for command in ("status", "results"))
    return status.partition("To continue")[0], results


def test_a_planted_link_gets_nothing(mixed: ProcessJob, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("out.csv.partial", "out.csv.tmp", ".out.csv.partial"):
        (tmp_path / name).symlink_to(victim)
    output = tmp_path / "out.csv"
    ended = mixed.bulkcert("results", mixed.run_dir, "--format", "csv", "-o", output)
    assert ended.code == 0, ended
    assert victim.read_text() == "precious"
    assert output.read_text().startswith("line,")


# ---- the end of a terminal session


@pytest.mark.parametrize("nohup", [False, True])
def test_the_end_of_a_terminal_session_stops_a_run_as_sigterm_does(
    job_with: JobWith, nohup: bool
) -> None:
    with job_with(targets=60, latency=0.2) as job:
        job.write(limits={"requests_per_second": 60})
        keep = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)} if nohup else {}
        with job.start("--yes", **keep) as command:
            assert job.await_requests(15, command)
            for _ in range(2):  # the kernel sends one, and the shell another
                command.send(signal.SIGHUP)
                time.sleep(0.05)
            ended = command.wait()
        assert ended.code == (0 if nohup else 3), ended
        assert job.violations(over=nohup) == []
        assert job.run().code == 0
        assert job.violations() == []


def test_a_signal_to_all_processes_of_a_run_does_not_break_its_key_workers(tmp_path: Path) -> None:
    """As a service manager or a shell sends it."""
    keys = {"generate": "ecdsa-p256", "subject": SUBJECT}
    with as_a_process(tmp_path, ENOS, "renew", devices(60), latency=0.1) as job:
        job.write(keys=keys, limits={"requests_per_second": 40})
        with job.start("--yes", start_new_session=True) as command:
            assert job.await_requests(10, command)
            os.killpg(command.pid, signal.SIGTERM)
            ended = command.wait()
        assert ended.code == 3, ended
        assert "makes keys" not in ended.err
        assert job.violations(over=False) == []
        assert job.run().code == 0
        assert job.violations() == []


def test_nothing_is_retried_before_it_is_confirmed(mixed: ProcessJob, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(mixed.run_dir, run_dir)
    before = mixed.bulkcert("results", run_dir).out
    terminal, stdin = pty.openpty()
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}  # does not know of which it is a copy
    with subprocess.Popen(
        [BULKCERT, "run", mixed.job_file, "--run-dir", run_dir, "--retry-failed"],
        env=os.environ | mixed.credentials | state,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        os.write(terminal, b"n\n")
        _, err = command.communicate(timeout=60)
    os.close(terminal)
    os.close(stdin)
    assert command.returncode == 2, err
    assert "1 operation that failed or are unknown" in err
    assert "nothing was sent" in err
    assert mixed.bulkcert("results", run_dir).out == before


# ---- faults of the program

FAULT = """
import bulkcert.providers.enos.revocation as revocation
import sys

async def fail(*_):
    raise ZeroDivisionError("in the revocation")

revocation.Revocation.attempt = fail
from bulkcert.cli import main
main()
"""


def test_a_fault_of_the_program_ends_a_run_with_reports_and_exit_code_3(
    job: ProcessJob, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    ended = subprocess.run(
        [BULKCERT.with_name("python"), "-c", FAULT, "run", job.job_file, "--yes"],
        cwd=job.folder,
        env=os.environ | job.credentials | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3, ended
    assert "bulkcert itself has failed: ZeroDivisionError: in the revocation" in ended.stderr
    assert "Traceback" not in ended.stderr
    [details] = temporary.glob("bulkcert-fault-*")
    assert "Traceback" in details.read_text()
    assert job.summary()["exit_code"] == 3
    assert len(job.results()) == 60
    assert job.run().code == 0
    assert job.violations(died=True) == []
