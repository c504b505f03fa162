"""However a run is stopped, it can be resumed: no outcome is lost, nothing is done twice.

Signals are sent after a number of requests, never after an amount of time.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from processes import Command, Scene, stopped, until

pytestmark = pytest.mark.system

Stage = Callable[..., AbstractContextManager[Scene]]

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_for_requests_in_flight_and_the_run_resumes(
    number: signal.Signals, stage: Stage
) -> None:
    with stage(targets=200, latency=0.3) as scene:
        scene.write(limits={"requests_per_second": 150})
        with scene.start("--yes") as command:
            assert scene.await_requests(50, command)
            command.send(number)
            ended = command.wait()
        assert ended.code == 3, ended
        assert "Waiting for requests in flight" in ended.err
        assert "Stopped early" in ended.err
        assert "again to continue from here" in ended.err
        assert scene.violations(over=False) == []
        summary = scene.summary()
        sent = [entry for entry in scene.entries() if entry["action"] == "revoke"]
        assert all(entry["answered_at"] for entry in sent)
        assert summary["succeeded"] == len(sent) < 200
        assert summary["pending"] == 200 - len(sent)
        assert summary["unknown"] == 0

        assert scene.run().code == 0
        assert scene.violations() == []
        assert [entry["action"] for entry in scene.entries()].count("revoke") == 200


def test_the_second_signal_quits_at_once_and_loses_no_outcome(stage: Stage) -> None:
    with stage(targets=20, slow_first_byte=1.0, slow_first_byte_by=4, faults_on="revoke") as scene:
        with scene.start("--yes") as command:
            assert scene.await_requests(15, command)
            command.send(signal.SIGINT)
            until(lambda: b"requests in flight" in _next_line(command))
            command.send(signal.SIGTERM)
            assert command.process.wait() == 3
        assert scene.simulator.summary()["open"]  # it did not wait for these
        assert not (scene.run_dir / "summary.json").exists()
        until(lambda: not scene.simulator.summary()["open"])
        assert scene.violations(over=False, died=True, reported=False) == []
        assert scene.run().code == 0
        assert scene.violations(died=True) == []


def _next_line(command: Command) -> bytes:
    assert command.process.stderr
    return command.process.stderr.readline()


def test_a_signal_during_a_long_pause_stops_the_run_at_once(stage: Stage) -> None:
    """The provider asked for a pause of an hour; stopping must not wait for it."""
    with stage(targets=20, throttle_retry_after=1.0, faults_on="revoke", retry_after=3600) as scene:
        with scene.start("--yes") as command:
            assert scene.await_requests(2, command)
            command.send(signal.SIGTERM)
            assert command.wait().code == 3
        assert scene.summary()["pending"] == 20
        assert scene.violations(over=False) == []


def test_kill_9_at_random_moments_loses_and_repeats_nothing(stage: Stage) -> None:
    rng = random.Random(9)
    with stage(
        targets=400,
        error_before=0.05,
        error_after=0.05,
        cut_after=0.03,
        page_after=0.03,
        latency=0.02,
        latency_spread=0.1,
        seed=9,
    ) as scene:
        scene.write(limits={"requests_per_second": 250}, retry={"max_attempts": 20})
        for _ in range(4):
            with scene.start("--yes", "--no-progress") as command:
                sent = len(scene.entries())
                assert scene.await_requests(sent + rng.randrange(2, 60), command)
                command.kill()
            until(lambda: not scene.simulator.summary()["open"])
            assert scene.violations(over=False, died=True, reported=False) == []
        assert scene.run().code == 0
        assert scene.violations(died=True) == []


def test_a_suspended_process_continues_below_the_ceiling(stage: Stage) -> None:
    with stage(targets=150, latency=0.3) as scene:
        scene.write(limits={"requests_per_second": 100})
        with scene.start("--yes") as command:
            for requests in (20, 60, 90):
                assert scene.await_requests(requests, command)
                with stopped(command):
                    time.sleep(0.7)
            assert command.wait().code == 0
        # requests delayed by the suspension arrive together with those sent after it
        assert scene.violations(jitter=3) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_after_the_end_do_not_change_the_exit_code(
    number: signal.Signals, scene: Scene
) -> None:
    with scene.start("--yes") as command:
        until(lambda: (scene.run_dir / "summary.json").exists())
        while command.process.poll() is None:
            command.send(number)
        ended = command.wait()
    assert ended.code in {0, 3}, ended
    assert scene.violations() == []


def test_a_signal_before_anything_is_sent_sends_nothing(scene: Scene) -> None:
    with scene.start("--yes", "--targets", "-", stdin="pipe") as command:
        assert command.process.stdin
        command.process.stdin.write(b"assetId,certSn\n" + b"A,1\n" * 100_000)
        command.send(signal.SIGTERM)
        ended = command.wait()
    assert ended.code in {3, -signal.SIGTERM}, ended  # the latter if Python is still starting
    assert scene.entries() == []
    assert not (scene.run_dir / "checkpoint.sqlite3").exists()


def test_a_signal_stops_verify_before_it_compares(stage: Stage) -> None:
    with stage(targets=40) as scene:
        scene.write(limits={"requests_per_second": 20})
        assert scene.run().code == 0
        sent = len(scene.entries())
        words = ("verify", scene.run_dir)
        with Command(words, scene.folder, scene.simulator.credentials) as command:
            assert scene.await_requests(sent + 5, command)
            command.send(signal.SIGTERM)
            ended = command.wait()
        assert ended.code == 3, ended
        assert ended.out == ""
        assert "nothing was compared" in ended.err
