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
