"""Full disks and unusable run directories: a clear message, and recorded outcomes stay good."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import JobWith, ProcessJob
from processes import Ended

pytestmark = pytest.mark.system


def file_size_limit(largest_file: int) -> Callable[[], None]:
    """Limit the size of each file the process writes; beyond it, writes fail as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mount], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this process may not mount a file system")
    yield mount
    subprocess.run(["umount", mount], check=True)


def fill(folder: Path) -> Path:
    """Fill up a disk; return the file that fills it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return filler


def test_a_disk_that_fills_up_stops_the_run_and_recorded_outcomes_stay_good(
    job_with: JobWith, tiny_disk: Path
) -> None:
    with job_with(targets=600) as job:
        job.run_dir = tiny_disk / "run"
        job.write(limits={"requests_per_second": 200})
        with job.start("--yes", "--run-dir", job.run_dir) as command:
            assert job.await_requests(60, command)
            filler = fill(tiny_disk)
            ended = command.wait()
        assert ended.code == 3, ended
        assert "Free some space" in ended.err
        filler.unlink()
        recorded = job.history().operations
        assert job.violations(over=False, died=True, reported=False) == []
        assert job.run("--run-dir", job.run_dir).code == 0
        assert job.violations(died=True) == []
        for before, after in zip(recorded, job.history().operations, strict=True):
            if before["finished_at"] is not None:
                assert after == before


def test_a_disk_without_room_for_the_plan_stops_the_run_before_it_sends(
    job: ProcessJob, tiny_disk: Path
) -> None:
    fill(tiny_disk)
    ended = job.run("--run-dir", tiny_disk / "run")
    assert ended.code == 2, ended
    assert str(tiny_disk) in ended.err
    assert job.entries() == []


@pytest.mark.parametrize("size", [0, 12_000])
def test_a_plan_that_cannot_be_written_is_reported_and_leaves_nothing_behind(
    size: int, job: ProcessJob
) -> None:
    ended = job.run(preexec_fn=file_size_limit(size), measured=False)
    assert ended.code == 2, ended
    assert "checkpoint.sqlite3 can't be written" in ended.err
    assert job.entries() == []
    assert {path.name for path in job.run_dir.iterdir()} <= {".gitignore"}


def test_bad_rows_are_printed_even_if_rejected_csv_cannot_be_written(job: ProcessJob) -> None:
    (job.run_dir / "rejected.csv").mkdir(parents=True)
    job.write_rows([(f"A{number}", -1) for number in range(30)])
    ended = job.run()
    assert ended.code == 2, ended
    assert "rejected.csv can't be written" in ended.err
    assert ended.err.count("certSn must not be negative") == 20
    assert job.entries() == []


def test_a_checkpoint_that_cannot_grow_stops_the_run(job_with: JobWith) -> None:
    with job_with(targets=600) as job:
        job.write(limits={"requests_per_second": 300})
        ended = job.run(preexec_fn=file_size_limit(160_000), measured=False)
        assert ended.code == 3, ended
        assert "Free some space" in ended.err
        assert job.violations(over=False, died=True, reported=False) == []
        assert job.run().code == 0
        assert job.violations(died=True) == []


def test_reports_that_cannot_be_written_are_written_by_the_next_run(job: ProcessJob) -> None:
    job.run_dir.mkdir(parents=True)
    (job.run_dir / "results.jsonl").mkdir()
    ended = job.run()
    assert ended.code == 3, ended
    assert "reports can't be written" in ended.err
    (job.run_dir / "results.jsonl").rmdir()
    sent = len(job.entries())
    assert job.run().code == 0
    assert len(job.entries()) == sent
    assert job.violations() == []


def _file_in_place_of_the_parent(job: ProcessJob) -> None:
    job.run_dir.parent.write_text("")


def _file_in_its_place(job: ProcessJob) -> None:
    job.run_dir.parent.mkdir()
    job.run_dir.write_text("")


def _in_the_way(name: str) -> Callable[[ProcessJob], None]:
    def put(job: ProcessJob) -> None:
        (job.run_dir / name / "deep").mkdir(parents=True)

    return put


def _content(content: bytes) -> Callable[[ProcessJob], None]:
    def put(job: ProcessJob) -> None:
        job.run_dir.mkdir(parents=True)
        (job.run_dir / "checkpoint.sqlite3").write_bytes(content)

    return put


def _other_version(job: ProcessJob) -> None:
    _start_without_progress(job)
    with sqlite3.connect(job.run_dir / "checkpoint.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def _damaged(job: ProcessJob) -> None:
    """Damage all of the checkpoint but its first page."""
    _start_without_progress(job)
    checkpoint = job.run_dir / "checkpoint.sqlite3"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


def _start_without_progress(job: ProcessJob) -> None:
    """Leave a run in the run directory that has not sent any operation yet."""
    job.run(environment=job.simulator.credentials | {"ENOS_APP_KEY": "wrong"})
    job.earlier = job.simulator.requests


UNUSABLE: dict[str, Callable[[ProcessJob], None]] = {
    "a file in place of the parent": _file_in_place_of_the_parent,
    "a file in its place": _file_in_its_place,
    "a folder in place of the checkpoint": _in_the_way("checkpoint.sqlite3"),
    "an empty checkpoint": _content(b""),
    "text in place of the checkpoint": _content(b"Dear diary\n" * 500),
    "a checkpoint of another version": _other_version,
    "a damaged checkpoint": _damaged,
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_run_directory_is_named_and_nothing_is_sent(case: str, job: ProcessJob) -> None:
    UNUSABLE[case](job)
    ended: Ended = job.run()
    assert ended.code == 2, ended
    assert "runs" in ended.err
    # where a run may have begun, it must not begin again elsewhere
    assert ("--run-dir" in ended.err) == case.startswith("a file in")
    assert job.entries() == []


@pytest.mark.parametrize("command", ["status", "results"])
@pytest.mark.parametrize("case", ["text in place of the checkpoint", "a damaged checkpoint"])
def test_a_damaged_checkpoint_is_reported_by_the_commands_that_read_it(
    case: str, command: str, job: ProcessJob
) -> None:
    UNUSABLE[case](job)
    ended = job.bulkcert(command, job.run_dir)
    assert ended.code == 2, ended
    assert "checkpoint.sqlite3" in ended.err


def test_plan_works_where_no_run_directory_can_be_created(job: ProcessJob) -> None:
    """A good target file leaves nothing to write."""
    _file_in_place_of_the_parent(job)
    assert job.bulkcert("plan", job.job_file).code == 0
    job.write_rows([("A", -1)])
    ended = job.bulkcert("plan", job.job_file)
    assert ended.code == 2
    assert "can't be created" in ended.err
