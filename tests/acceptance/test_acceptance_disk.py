"""Full disks and unusable run directories: a clear message, and recorded outcomes stay good."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from processes import Ended, Scene

pytestmark = pytest.mark.system

Stage = Callable[..., AbstractContextManager[Scene]]


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
    stage: Stage, tiny_disk: Path
) -> None:
    with stage(targets=600) as scene:
        scene.run_dir = tiny_disk / "run"
        scene.write(limits={"requests_per_second": 200})
        with scene.start("--yes", "--run-dir", scene.run_dir) as command:
            assert scene.await_requests(60, command)
            filler = fill(tiny_disk)
            ended = command.wait()
        assert ended.code == 3, ended
        assert "Free some space" in ended.err
        filler.unlink()
        recorded = scene.history().operations
        assert scene.violations(over=False, died=True, reported=False) == []
        assert scene.run("--run-dir", scene.run_dir).code == 0
        assert scene.violations(died=True) == []
        for before, after in zip(recorded, scene.history().operations, strict=True):
            if before["finished_at"] is not None:
                assert after == before


def test_a_disk_without_room_for_the_plan_stops_the_run_before_it_sends(
    scene: Scene, tiny_disk: Path
) -> None:
    fill(tiny_disk)
    ended = scene.run("--run-dir", tiny_disk / "run")
    assert ended.code == 2, ended
    assert str(tiny_disk) in ended.err
    assert scene.entries() == []


@pytest.mark.parametrize("size", [0, 12_000])
def test_a_plan_that_cannot_be_written_is_reported_and_leaves_nothing_behind(
    size: int, scene: Scene
) -> None:
    ended = scene.run(preexec_fn=file_size_limit(size), measured=False)
    assert ended.code == 2, ended
    assert "checkpoint.sqlite3 can't be written" in ended.err
    assert scene.entries() == []
    assert not any(scene.run_dir.iterdir())


def test_bad_rows_are_printed_even_if_rejected_csv_cannot_be_written(scene: Scene) -> None:
    (scene.run_dir / "rejected.csv").mkdir(parents=True)
    scene.write_rows([(f"A{number}", -1) for number in range(30)])
    ended = scene.run()
    assert ended.code == 2, ended
    assert "rejected.csv can't be written" in ended.err
    assert ended.err.count("certSn must not be negative") == 20
    assert scene.entries() == []


def test_a_checkpoint_that_cannot_grow_stops_the_run(stage: Stage) -> None:
    with stage(targets=600) as scene:
        scene.write(limits={"requests_per_second": 300})
        ended = scene.run(preexec_fn=file_size_limit(160_000), measured=False)
        assert ended.code == 3, ended
        assert "Free some space" in ended.err
        assert scene.violations(over=False, died=True, reported=False) == []
        assert scene.run().code == 0
        assert scene.violations(died=True) == []


def test_reports_that_cannot_be_written_are_written_by_the_next_run(scene: Scene) -> None:
    scene.run_dir.mkdir(parents=True)
    (scene.run_dir / "results.jsonl").mkdir()
    ended = scene.run()
    assert ended.code == 3, ended
    assert "reports can't be written" in ended.err
    (scene.run_dir / "results.jsonl").rmdir()
    sent = len(scene.entries())
    assert scene.run().code == 0
    assert len(scene.entries()) == sent
    assert scene.violations() == []


def _file_in_place_of_the_parent(scene: Scene) -> None:
    scene.run_dir.parent.write_text("")


def _file_in_its_place(scene: Scene) -> None:
    scene.run_dir.parent.mkdir()
    scene.run_dir.write_text("")


def _in_the_way(name: str) -> Callable[[Scene], None]:
    def put(scene: Scene) -> None:
        (scene.run_dir / name / "deep").mkdir(parents=True)

    return put


def _content(content: bytes) -> Callable[[Scene], None]:
    def put(scene: Scene) -> None:
        scene.run_dir.mkdir(parents=True)
        (scene.run_dir / "checkpoint.sqlite3").write_bytes(content)

    return put


def _other_version(scene: Scene) -> None:
    _start_without_progress(scene)
    with sqlite3.connect(scene.run_dir / "checkpoint.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def _damaged(scene: Scene) -> None:
    """Damage all of the checkpoint but its first page."""
    _start_without_progress(scene)
    checkpoint = scene.run_dir / "checkpoint.sqlite3"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


def _start_without_progress(scene: Scene) -> None:
    """Leave a run in the run directory that has not sent any operation yet."""
    scene.run(environment=scene.simulator.credentials | {"ENOS_APP_KEY": "wrong"})
    scene.earlier = scene.simulator.requests


UNUSABLE: dict[str, Callable[[Scene], None]] = {
    "a file in place of the parent": _file_in_place_of_the_parent,
    "a file in its place": _file_in_its_place,
    "a folder in place of the checkpoint": _in_the_way("checkpoint.sqlite3"),
    "a folder in place of the plan": _in_the_way("checkpoint.sqlite3.partial"),
    "an empty checkpoint": _content(b""),
    "text in place of the checkpoint": _content(b"Dear diary\n" * 500),
    "a checkpoint of another version": _other_version,
    "a damaged checkpoint": _damaged,
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_run_directory_is_named_and_nothing_is_sent(case: str, scene: Scene) -> None:
    UNUSABLE[case](scene)
    ended: Ended = scene.run()
    assert ended.code == 2, ended
    assert "runs" in ended.err
    assert "--run-dir" in ended.err
    assert scene.entries() == []


@pytest.mark.parametrize("command", ["status", "results"])
@pytest.mark.parametrize("case", ["text in place of the checkpoint", "a damaged checkpoint"])
def test_a_damaged_checkpoint_is_reported_by_the_commands_that_read_it(
    case: str, command: str, scene: Scene
) -> None:
    UNUSABLE[case](scene)
    ended = scene.bulkcert(command, scene.run_dir)
    assert ended.code == 2, ended
    assert "checkpoint.sqlite3" in ended.err


def test_plan_works_where_no_run_directory_can_be_created(scene: Scene) -> None:
    """A good target file leaves nothing to write."""
    _file_in_place_of_the_parent(scene)
    assert scene.bulkcert("plan", scene.job_file).code == 0
    scene.write_rows([("A", -1)])
    ended = scene.bulkcert("plan", scene.job_file)
    assert ended.code == 2
    assert "can't be used" in ended.err
