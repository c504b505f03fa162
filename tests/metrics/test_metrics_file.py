"""The file with the metrics: always complete, and never in the way of the run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bulkcert.metrics.file import MetricsFile, replace
from bulkcert.timings import MetricsTimings

AT_ONCE = MetricsTimings(write_every_s=0.001)


def test_the_file_is_replaced_again_and_again_and_at_the_end(tmp_path: Path) -> None:
    path, written = tmp_path / "metrics.prom", threading.Semaphore(0)
    texts = iter(range(1_000_000))

    def text() -> bytes:
        written.release()
        return b"%d\n" % next(texts)

    file = MetricsFile(path, text, AT_ONCE)
    file.start()
    for _ in range(5):
        assert written.acquire(timeout=60)
    file.close()
    assert path.read_bytes() == b"%d\n" % (next(texts) - 1)
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.prom"]


def test_a_disk_that_does_not_respond_holds_up_the_end_for_a_moment_only(tmp_path: Path) -> None:
    responds, asked = threading.Event(), threading.Event()

    def text() -> bytes:
        asked.set()
        assert responds.wait(60)
        return b""

    file = MetricsFile(tmp_path / "metrics.prom", text, MetricsTimings(last_write_s=0.01))
    file.start()
    assert asked.wait(60)
    file.close()
    assert file._thread.is_alive()
    responds.set()
    file._thread.join(60)


def test_what_can_t_be_written_is_written_the_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = threading.Semaphore(0)

    def text() -> bytes:
        asked.release()
        return b"1\n"

    file = MetricsFile(folder / "metrics.prom", text, AT_ONCE)
    file.start()
    assert asked.acquire(timeout=60)
    assert asked.acquire(timeout=60)
    folder.mkdir()
    file.close()
    assert (folder / "metrics.prom").read_bytes() == b"1\n"


def test_a_file_that_can_t_be_replaced_stays_as_it_is_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    (tmp_path / "metrics.prom").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace(tmp_path / "metrics.prom", b"1\n")
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.prom"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    (tmp_path / "metrics.prom").symlink_to(other)
    replace(tmp_path / "metrics.prom", b"1\n")
    assert other.read_bytes() == b"theirs"
    assert (tmp_path / "metrics.prom").read_bytes() == b"1\n"
