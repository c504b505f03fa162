"""Files are replaced completely or not at all, and directories are synced."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import until

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


# ---- several names


class WatchedLock:
    """A lock that counts who wants it."""

    def __init__(self) -> None:
        self.wanted = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.wanted += 1
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def test_names_that_wait_for_a_sync_are_synced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that began before a name was there does not count for it."""
    begun, go_on = threading.Event(), threading.Event()
    synced: list[Path] = []

    def sync(path: Path) -> None:
        synced.append(path)
        begun.set()
        go_on.wait()

    monkeypatch.setattr(durable, "sync", sync)
    names, lock = durable.NameSync(tmp_path), WatchedLock()
    monkeypatch.setattr(names, "_lock", lock)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(names.sync)
        begun.wait()
        waiting = [threads.submit(names.sync) for _ in range(3)]
        until(lambda: lock.wanted == 4)
        go_on.set()
        for each in (first, *waiting):
            each.result()
    assert synced == [tmp_path] * 2


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_another_name_even_without_hard_links(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "first"
    durable.write(path, b"key")
    for _ in range(2):  # once more, as after a crash
        named = durable.add_name(path, "second")
        assert (named.name, named.read_bytes()) == ("second", b"key")
        assert named.stat().st_mode & 0o777 == 0o600
        assert named.samefile(path) == links
    path.unlink()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"key"]


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
