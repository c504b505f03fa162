"""The run directory: its lock, whatever the file system can do, and what is not followed in it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from bulkcert import durable
from bulkcert.errors import RunDirectoryError
from bulkcert.rundir import RunDirectory, is_locked

NO_LOCKS = [errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


class FileSystem:
    """A file system that fails with this error number when something is locked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, *, files_too: bool) -> None:
        real = fcntl.flock

        def flock(descriptor: int, kind: int) -> None:
            if files_too or stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            real(descriptor, kind)

        monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_where_directories_cannot_be_locked_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    FileSystem(monkeypatch, number, files_too=False)
    with RunDirectory(tmp_path / "run"):
        assert is_locked(tmp_path / "run")
        with pytest.raises(RunDirectoryError, match="in use by another process"):
            RunDirectory(tmp_path / "run").__enter__()
    assert not is_locked(tmp_path / "run")
    with RunDirectory(tmp_path / "run"):  # a folder with nothing but a lock is a new one
        pass


@pytest.mark.parametrize("number", NO_LOCKS)
def test_where_nothing_can_be_locked_the_folder_and_the_reason_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    FileSystem(monkeypatch, number, files_too=True)
    with pytest.raises(RunDirectoryError) as refused:
        RunDirectory(tmp_path / "run").__enter__()
    assert refused.value.problem == (f"{tmp_path / 'run'} can't be locked: {os.strerror(number)}")
    assert "--run-dir" in refused.value.next_step
    assert not is_locked(tmp_path / "run")  # so a finished run can still be read


def test_a_lock_file_of_another_host_shows_that_the_run_is_going_on(tmp_path: Path) -> None:
    """This host may be able to lock the directory itself, such as the server of the NFS."""
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_what_killed_processes_left_is_removed_and_is_not_in_the_way(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "keys", tmp_path / "certificates"):
        folder.mkdir(exist_ok=True)
        durable.new_partial(folder).write_text("half a file")
    (tmp_path / "results.jsonl").write_text("")
    (tmp_path / "keys" / "A1.key.pem").write_text("a key")
    with RunDirectory(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".gitignore",
        "A1.key.pem",
        "results.jsonl",
    ]


def test_a_new_directory_in_which_planning_was_killed_is_used_again(tmp_path: Path) -> None:
    durable.new_partial(tmp_path).write_text("half a plan")
    for _ in range(2):  # a new one may also be one that was only entered
        with RunDirectory(tmp_path):
            assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_git_takes_up_nothing_of_a_run(tmp_path: Path) -> None:
    """Run directories are beside job files, and private keys may be in them."""
    with RunDirectory(tmp_path / "runs/job"):
        assert (tmp_path / "runs/job/.gitignore").read_text() == "*\n"


def test_a_run_can_be_paused_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "PAUSE").touch()
    with RunDirectory(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "PAUSE").exists()


def test_a_run_of_another_user_is_said_to_be_one(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    run = RunDirectory(folder / "run")
    run.create()
    folder.chmod(0o000)
    user = os.geteuid()
    try:
        if user == 0:  # who may look everywhere
            os.seteuid(65534)
        with pytest.raises(RunDirectoryError, match="may not look into"):
            run.reader()
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
