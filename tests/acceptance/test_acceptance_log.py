"""The event log and its copy under bad conditions: in the way, on a full disk, watched for ever."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from harness import JobWith, ProcessJob

pytestmark = pytest.mark.system


def test_a_copy_that_cannot_be_written_stops_nothing(job: ProcessJob) -> None:
    copy = job.run_dir / "events.jsonl"
    copy.mkdir(parents=True)
    ended = job.run()
    assert ended.code == 0, ended
    assert ended.err.count("events.jsonl can't be written") == 1
    copy.rmdir()
    assert job.run().code == 0  # there is nothing left to do but this
    assert job.violations() == []


def test_a_reader_that_holds_a_snapshot_disturbs_nobody(job_with: JobWith) -> None:
    """The checkpoint can't reuse its log meanwhile; the space is given back when it has gone."""
    with job_with(targets=300) as job:
        job.write(limits={"requests_per_second": 300})
        checkpoint = job.run_dir / "checkpoint.sqlite3"
        log = checkpoint.with_name("checkpoint.sqlite3-wal")
        with job.start("--yes") as command:
            assert job.await_requests(20, command)
            with contextlib.closing(
                sqlite3.connect(f"{checkpoint.as_uri()}?mode=ro", uri=True)
            ) as db:
                db.execute("BEGIN")
                (before,) = db.execute("SELECT count(*) FROM history").fetchone()
                assert command.wait().code == 0
                assert db.execute("SELECT count(*) FROM history").fetchone() == (before,)
                assert log.stat().st_size > 0
        assert job.violations() == []
        job.later = job.simulator.requests
        assert job.bulkcert("verify", job.run_dir, environment=job.credentials).code == 0
        assert not log.exists() or log.stat().st_size == 0
        assert job.violations() == []
