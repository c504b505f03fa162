"""A notify command beside a run of the installed program, however its process ends."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness import JobWith, ProcessJob
from processes import Command, until

from bulkcert.event_log import chain_fault
from bulkcert.report.summary import RESUMABLE

pytestmark = pytest.mark.system


def got(job: ProcessJob) -> list[dict[str, Any]]:
    """What the command has kept; a line that is being written does not count."""
    file = job.folder / "got.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def events(job: ProcessJob) -> list[dict[str, Any]]:
    lines = (job.run_dir / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def notify(job: ProcessJob, script: str, **sections: Any) -> None:
    job.write(notify={"command": ["sh", "-c", script]}, **sections)


def test_after_kill_9_each_event_arrives_at_least_once_in_order_without_a_gap(
    job_with: JobWith,
) -> None:
    with job_with(targets=400) as job:
        rollout = {"waves": list(range(20, 400, 20))}
        limits = {"requests_per_second": 200}
        notify(job, "sleep 0.05; cat >> got.jsonl", rollout=rollout, limits=limits)
        for number in (3, 9, 16):
            with job.start("--yes") as command:
                until(lambda number=number: len(got(job)) >= number or command.process.poll())
                command.kill()
        assert job.run().code == 0
        numbers = [event["seq"] for event in got(job)]
        log = events(job)
        assert sorted(set(numbers)) == list(range(1, len(log) + 1))
        assert all(before <= after <= before + 1 for before, after in itertools.pairwise(numbers))
        assert len(numbers) <= len(log) + 3  # one that came twice for each process that was killed
        assert [event["type"] for event in log].count("started") == 4
        assert job.violations(died=True) == []


def _hanging(job: ProcessJob, **limits: int) -> Command:
    """A run whose command hangs with the first event."""
    notify(job, "echo $$ > pid; sleep 1000", limits=limits)
    command = job.start("--yes")
    until(lambda: (job.folder / "pid").exists() and (job.folder / "pid").read_text().strip())
    return command


def _has_ended(job: ProcessJob) -> bool:
    file = job.run_dir / "events.jsonl"
    return file.exists() and b'"type":"ended"' in file.read_bytes()


def test_a_second_signal_leaves_at_once_and_the_next_process_passes_on_what_is_left(
    job: ProcessJob,
) -> None:
    with _hanging(job, requests_per_second=20) as command:
        assert job.await_requests(2, command)
        command.send(signal.SIGTERM)
        until(lambda: _has_ended(job))
        assert command.process.poll() is None
        command.send(signal.SIGINT)
        ended = command.wait()
    assert ended.code == RESUMABLE
    assert "Quit; nothing recorded is lost." in ended.err
    until(lambda: not _is_running(job))
    notify(job, "cat >> got.jsonl")
    assert job.run().code == 0
    assert [event["seq"] for event in got(job)] == [event["seq"] for event in events(job)]
    stopped = next(event for event in got(job) if event["type"] == "ended")
    assert (stopped["exit_code"], bool(stopped["why"])) == (RESUMABLE, True)


def test_when_the_run_is_over_one_signal_cuts_the_wait_for_the_command_short(
    job: ProcessJob,
) -> None:
    with _hanging(job, requests_per_second=3000) as command:
        until(lambda: _has_ended(job))
        command.send(signal.SIGINT)
        ended = command.wait()
    assert ended.code == 0
    assert "What is left is passed on when the run is started again." in ended.err
    assert "Finished" in ended.err
    assert not _is_running(job)


def test_what_verify_finds_in_the_middle_of_a_run_arrives(job: ProcessJob) -> None:
    """Two processes add to one log, and its chain stays sound."""
    notify(job, "cat >> got.jsonl", rollout={"canary": 5, "confirm": ["canary"]})
    with job.start("--yes") as command:
        until(lambda: any(event.get("state") == "waiting" for event in got(job)))
        verified = job.bulkcert("verify", job.run_dir, environment=job.credentials)
        until(lambda: any(event["type"] == "verification" for event in got(job)))
        command.send(signal.SIGTERM)
        assert command.wait().code == RESUMABLE
    assert verified.code == 0, verified
    lines = (job.run_dir / "events.jsonl").read_bytes().splitlines()
    assert chain_fault(lines) == ""
    assert [event["seq"] for event in got(job)] == list(range(1, len(lines) + 1))


def test_what_verify_finds_after_the_end_arrives_at_once(job: ProcessJob) -> None:
    notify(job, "cat >> got.jsonl")
    assert job.run().code == 0
    assert job.bulkcert("verify", job.job_file, environment=job.credentials).code == 0
    assert [event["type"] for event in got(job)] == ["started", "ended", "verification"]
    assert [event["seq"] for event in got(job)] == [1, 2, 3]


def test_verify_does_not_mind_a_notify_command_that_fails(job: ProcessJob) -> None:
    assert job.run().code == 0
    notify(job, "exit 1")
    ended = job.bulkcert("verify", job.job_file, environment=job.credentials)
    assert ended.code == 0, ended
    assert "The notify command has failed" in ended.err


def _is_running(job: ProcessJob) -> bool:
    """Whether somebody is left of the command and of what it has started."""
    group = (job.folder / "pid").read_text().strip()
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True)
    running = (line.split() for line in listed.stdout.splitlines())
    return any(pgid == group and stat[0] != "Z" for pgid, stat in running)


def test_the_end_of_a_run_that_loses_its_disk_arrives_although_it_can_not_be_recorded(
    job_with: JobWith,
) -> None:
    with job_with(targets=400) as job:
        notify(job, "cat >> got.jsonl", limits={"requests_per_second": 200})
        with job.start("--yes") as command:
            assert job.await_requests(20, command)
            _break(job.run_dir / "checkpoint.sqlite3")
            ended = command.wait()
        assert ended.code == RESUMABLE, ended
        last = got(job)[-1]
        assert (last["type"], last["exit_code"], last["recorded"]) == ("ended", RESUMABLE, False)
        assert last.keys().isdisjoint({"seq", "previous", "hash"})
        assert "can't be written" in last["why"]
        assert last["outcomes"]["pending"] > 0
        assert (last["run"], last["plan"]) == ("job", got(job)[0]["plan"])
        _repair(job.run_dir / "checkpoint.sqlite3")
        assert job.run().code == 0
        numbers = [event["seq"] for event in got(job) if "seq" in event]
        assert sorted(set(numbers)) == list(range(1, len(events(job)) + 1))


def _break(checkpoint: Path) -> None:
    """Let everything that is written from now on fail, as on a full disk."""
    with closing(sqlite3.connect(checkpoint)) as db, db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON sessions BEGIN"
            " SELECT RAISE(ABORT, 'database or disk is full'); END"
        )


def _repair(checkpoint: Path) -> None:
    with closing(sqlite3.connect(checkpoint)) as db, db:
        db.execute("DROP TRIGGER full")
