"""However a run is stopped, it can be resumed: no outcome is lost, nothing is done twice.

Signals are sent after a number of requests, never after an amount of time.
"""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
from harness import JobWith, ProcessJob
from processes import Command, stopped, until

pytestmark = pytest.mark.system

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_for_requests_in_flight_and_the_run_resumes(
    number: signal.Signals, job_with: JobWith
) -> None:
    with job_with(targets=200, latency=0.3) as job:
        job.write(limits={"requests_per_second": 150})
        with job.start("--yes") as command:
            assert job.await_requests(50, command)
            command.send(number)
            ended = command.wait()
        assert ended.code == 3, ended
        assert "requests in flight" in ended.err
        assert "Stopped early" in ended.err
        assert "again to continue from here" in ended.err
        assert job.violations(over=False) == []
        summary = job.summary()
        sent = [entry for entry in job.entries() if entry["action"] == "revoke"]
        assert all(entry["answered_at"] for entry in sent)
        assert summary["succeeded"] == len(sent) < 200
        assert summary["pending"] == 200 - len(sent)
        assert summary["unknown"] == 0

        assert job.run().code == 0
        assert job.violations() == []
        assert [entry["action"] for entry in job.entries()].count("revoke") == 200


def test_the_second_signal_quits_at_once_and_loses_no_outcome(job_with: JobWith) -> None:
    with job_with(targets=20, slow_first_byte=1.0, slow_first_byte_by=4, faults_on="revoke") as job:
        with job.start("--yes") as command:
            assert job.await_requests(15, command)
            command.send(signal.SIGINT)
            until(lambda: b"requests in flight" in _next_line(command))
            command.send(signal.SIGTERM)
            assert command.process.wait() == 3
            assert command.process.stderr
            last = command.process.stderr.read().decode()
        assert job.simulator.summary()["open"]  # it did not wait for these
        in_doubt = json.loads(job.bulkcert("status", job.run_dir, "--json").out)["unknown"]
        assert f"{in_doubt} operations may have been executed" in last
        assert not (job.run_dir / "summary.json").exists()
        until(lambda: not job.simulator.summary()["open"])
        assert job.violations(over=False, died=True, reported=False) == []
        assert job.run().code == 0
        assert job.violations(died=True) == []


def _next_line(command: Command) -> bytes:
    assert command.process.stderr
    return command.process.stderr.readline()


def test_a_signal_during_a_long_pause_stops_the_run_at_once(job_with: JobWith) -> None:
    """The provider asked for a pause of an hour; stopping must not wait for it."""
    with job_with(
        targets=20, throttle_retry_after=1.0, faults_on="revoke", retry_after=3600
    ) as job:
        with job.start("--yes") as command:
            assert job.await_requests(2, command)
            command.send(signal.SIGTERM)
            assert command.wait().code == 3
        assert job.summary()["pending"] == 20
        assert job.violations(over=False) == []


def test_kill_9_at_random_moments_loses_and_repeats_nothing(job_with: JobWith) -> None:
    rng = random.Random(9)
    with job_with(
        targets=400,
        error_before=0.05,
        error_after=0.05,
        cut_after=0.03,
        page_after=0.03,
        latency=0.02,
        latency_spread=0.1,
        seed=9,
    ) as job:
        job.write(limits={"requests_per_second": 250}, retry={"max_attempts": 20})
        for _ in range(4):
            with job.start("--yes", "--no-progress") as command:
                sent = len(job.entries())
                assert job.await_requests(sent + rng.randrange(2, 60), command)
                command.kill()
            until(lambda: not job.simulator.summary()["open"])
            assert job.violations(over=False, died=True, reported=False) == []
        assert job.run().code == 0
        assert job.violations(died=True) == []


def test_a_suspended_process_continues_below_the_ceiling(job_with: JobWith) -> None:
    with job_with(targets=150, latency=0.3) as job:
        job.write(limits={"requests_per_second": 100})
        with job.start("--yes") as command:
            for requests in (20, 60, 90):
                assert job.await_requests(requests, command)
                with stopped(command):
                    time.sleep(0.7)
            assert command.wait().code == 0
        # requests delayed by the suspension arrive together with those sent after it
        assert job.violations(jitter=3) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_after_the_end_do_not_change_the_exit_code(
    number: signal.Signals, job: ProcessJob
) -> None:
    with job.start("--yes") as command:
        until(lambda: (job.run_dir / "summary.json").exists())
        while command.process.poll() is None:
            command.send(number)
        ended = command.wait()
    assert ended.code in {0, 3}, ended
    assert job.violations() == []


def test_a_signal_before_anything_is_sent_sends_nothing(job: ProcessJob) -> None:
    with job.start("--yes", "--targets", "-", stdin="pipe") as command:
        assert command.process.stdin
        command.process.stdin.write(b"assetId,certSn\n" + b"A,1\n" * 100_000)
        command.send(signal.SIGTERM)
        ended = command.wait()
    assert ended.code in {3, -signal.SIGTERM}, ended  # the latter if Python is still starting
    assert job.entries() == []
    assert not (job.run_dir / "checkpoint.sqlite3").exists()


def test_a_signal_stops_verify_before_it_compares(job_with: JobWith) -> None:
    with job_with(targets=40) as job:
        job.write(limits={"requests_per_second": 20})
        assert job.run().code == 0
        sent = len(job.entries())
        words = ("verify", job.run_dir)
        with Command(words, job.folder, job.simulator.credentials) as command:
            assert job.await_requests(sent + 5, command)
            command.send(signal.SIGTERM)
            ended = command.wait()
        assert ended.code == 3, ended
        assert ended.out == ""
        assert "nothing was compared" in ended.err
