"""Several processes on one run in a shared store, and the commands that look at it by name."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import JobWith, ProcessJob
from postgres import new_database
from processes import Command, until

pytestmark = pytest.mark.system

CEILING = 100
TARGETS = 300


@pytest.fixture
def job(job_with: JobWith, postgres: str) -> Iterator[ProcessJob]:
    """A job in a shared store, with as many targets as two hosts need a few seconds for."""
    with job_with(targets=TARGETS, latency=0.02) as job, new_database(postgres) as store:
        job.write(store=store, limits={"requests_per_second": CEILING})
        yield job


def revoked(job: ProcessJob) -> Counter[str]:
    """How often each device was revoked."""
    return Counter(e["device"] for e in job.simulator.entries() if e["effect"] == "revoked")


def test_two_hosts_carry_out_one_run(job: ProcessJob, tmp_path: Path) -> None:
    environment = job.credentials | {"BULKCERT_STORE": job.document["store"]}
    machine = tmp_path / "machine"
    machine.mkdir()
    joins = ["work", "job", "--wait", "60", "--json"]
    with Command(joins, machine, environment) as second, job.start("--yes") as first:
        ended = [first.wait(), second.wait()]
    hosts = json.loads(job.bulkcert("hosts", job.job_file, "--json").out)
    assert [each.code for each in ended] == [0, 0], ended
    assert set(revoked(job).values()) == {1}
    assert len(revoked(job)) == TARGETS
    assert [host["state"] for host in hosts["hosts"]] == ["left", "left"]
    assert "Waiting for the run 'job' to begin." in ended[1].err
    assert "joining        job, with" in ended[1].err
    summary = json.loads(ended[1].out)
    assert (summary["total"], summary["succeeded"], summary["exit_code"]) == (TARGETS, TARGETS, 0)
    assert job.summary()["requests"] == summary["requests"]
    assert not (job.run_dir / "checkpoint.sqlite3").exists()
    again = job.run()  # nothing is left to do, on any host
    assert (again.code, len(revoked(job))) == (0, TARGETS)


def test_a_host_leaves_and_the_others_go_on(job: ProcessJob, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with job.start("--yes") as first, job.start("--yes", "--run-dir", "second") as second:
        until(lambda: len(revoked(job)) > TARGETS // 3)
        second.send(signal.SIGINT)
        left = second.wait()
        assert len(revoked(job)) < TARGETS
        stayed = first.wait()
    assert (left.code, stayed.code) == (3, 0), (left, stayed)
    assert set(revoked(job).values()) == {1}
    assert len(revoked(job)) == TARGETS


def test_a_run_that_nobody_has_begun_is_not_joined(job: ProcessJob) -> None:
    environment = job.credentials | {"BULKCERT_STORE": job.document["store"]}
    missing = job.bulkcert("work", "nothing", environment=environment)
    assert (missing.code, "has no run 'nothing'" in missing.err) == (2, True)
    refused = job.start("--plan", "0" * 64).wait()  # it is planned, and not confirmed
    assert refused.code == 2
    waiting = job.bulkcert("work", "job", environment=environment)
    assert (waiting.code, "has not begun" in waiting.err) == (2, True)
    assert not revoked(job)


def test_the_url_of_a_store_has_no_password(job: ProcessJob) -> None:
    secret = "postgresql://ann:hunter2@db.example.com/bulkcert"
    for words, environment in (
        (["plan", job.job_file, "--store", secret], {}),
        (["work", "job", "--store", secret], {}),
        (["work", "job"], {"BULKCERT_STORE": secret}),
    ):
        ended = job.bulkcert(*words, environment=environment)
        assert (ended.code, "contains a password" in ended.err) == (2, True), ended
        assert "hunter2" not in ended.err + ended.out
    job.write(store=secret)
    ended = job.run()
    assert (ended.code, "store contains a password" in ended.err) == (2, True), ended
    assert "hunter2" not in ended.err
