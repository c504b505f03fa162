"""Files are replaced completely or not at all, and directories are synced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkcert import durable


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    durable.write(path, b"first")
    assert path.stat().st_mode & 0o777 == 0o600

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("old")
    with pytest.raises(TypeError), durable.replacing(path) as file:
        file.writelines([b"new", "not bytes"])  # type: ignore[list-item]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_of_each_new_directory_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync", synced.append)
    durable.make_directory(tmp_path / "runs" / "july")
    assert synced == [tmp_path / "runs", tmp_path]
    assert (tmp_path / "runs" / "july").stat().st_mode & 0o777 == 0o700
    synced.clear()
    durable.make_directory(
        tmp_path / "runs" / "july"
    )  # as if created by a process that was then killed
    assert synced == [tmp_path / "runs"]


def test_a_parent_folder_without_read_permission_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(durable, "sync", forbidden)
    durable.make_directory(tmp_path / "runs")
    assert (tmp_path / "runs").is_dir()


# ---- links and permissions


def test_a_link_in_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "results.jsonl"
    path.symlink_to(victim)
    durable.write(path, b"new")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_a_file_is_written_under_a_name_that_nobody_can_guess(tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with durable.replacing(tmp_path / "file"):
            names |= {path.name for path in tmp_path.iterdir() if path.name != "file"}
    assert len(names) == 2
    assert all(durable.is_partial(name) and len(name) < 50 for name in names)


@pytest.mark.parametrize("link", [False, True])
def test_a_file_is_never_created_over_another_one_nor_through_a_link(
    tmp_path: Path, link: bool
) -> None:
    path = tmp_path / "file"
    if link:
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("old")
    with pytest.raises(FileExistsError):
        durable.create(path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    path.chmod(mode)
    with durable.replacing(path) as file:
        file.write(b"new")
    assert path.stat().st_mode & 0o777 == mode
    durable.write(path, b"a key")
    assert path.stat().st_mode & 0o777 == 0o600  # whatever it was before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
@pytest.mark.parametrize(("before", "after"), [(0o666, 0o640), (0o600, 0o600)])
def test_a_file_of_another_user_never_opens_ours_to_everybody(
    tmp_path: Path, before: int, after: int
) -> None:
    path = tmp_path / "out.csv"
    path.write_text("planted")
    path.chmod(before)
    os.chown(path, 12345, 12345)
    umask = os.umask(0o027)
    try:
        with durable.replacing(path):
            pass
    finally:
        os.umask(umask)
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, after)


def test_the_umask_decides_who_can_read_a_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with durable.replacing(tmp_path / "out.csv"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o640
