"""A run is steered from another process: it pauses, survives, goes on, and waits for a go."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from harness import JobWith, ProcessJob
from processes import Command, until

pytestmark = pytest.mark.system


def status(job: ProcessJob) -> dict[str, Any]:
    return dict(json.loads(job.bulkcert("status", job.run_dir, "--json").out))


def control(job: ProcessJob, *words: object) -> str:
    verb, *value = words
    ended = job.bulkcert("control", verb, job.job_file, *value)
    assert ended.code == 0, ended
    return ended.out


def sent(job: ProcessJob) -> int:
    return len(job.entries("revoke"))


def held_by(job: ProcessJob, reason: str) -> None:
    """Wait until a reason holds the run, and nothing is open."""

    def holds() -> bool:
        figures = status(job)
        held = any(each.startswith(reason) for each in figures.get("reasons", ()))
        return held and figures["open_requests"] == 0

    until(holds)


def test_a_pause_holds_through_kill_9_and_the_file_as_long_as_it_is_there(
    job_with: JobWith,
) -> None:
    with job_with(targets=400, latency=0.3) as job:
        job.write(limits={"requests_per_second": 100})
        with job.start("--yes") as command:
            assert job.await_requests(50, command)
            said = control(job, "pause", "--why", "help desk is flooded")
            before = sent(job)
            assert said.startswith("paused; ")
            assert said.endswith(" were under way, all answered\n")
            command.kill()
        figures = status(job)
        assert (figures["state"], figures["unknown"]) == ("interrupted", 0)
        with job.start("--yes") as command:
            # repeating it is harmless, and shows that the new process has read it
            again = ("control", "pause", job.job_file)
            until(lambda: job.bulkcert(*again).out == "paused; no request was under way\n")
            assert sent(job) == before
            assert control(job, "resume") == "resumed\n"
            assert job.await_requests(before + 30, command)
            _pauses_for_the_file(job, command)
            assert control(job, "stop", "--why", "enough").startswith("stopped; ")
            ended = command.wait()
        assert ended.code == 3
        for text in ("Resumed, by ", "Nothing is sent yet: paused (by ", "enough."):
            assert text in ended.err
        assert re.search(r" of 400 \(\d+%\), 0.0/s of 100, .*paused \(by ", ended.err)
        assert job.violations(over=False) == []
        assert job.run().code == 0
        assert job.violations() == []


def _pauses_for_the_file(job: ProcessJob, command: Command) -> None:
    (job.run_dir / "PAUSE").write_text("ask Ann\n")
    held_by(job, "paused (by the file PAUSE: ask Ann)")
    before = sent(job)
    control(job, "rate", 50)  # takes a look of the process at its rules
    assert sent(job) == before
    (job.run_dir / "PAUSE").unlink()
    assert job.await_requests(before + 10, command)


def test_a_wave_waits_for_its_go(job_with: JobWith) -> None:
    with job_with(targets=60) as job:
        job.write(rollout={"canary": 5, "waves": ["50%"], "confirm": ["canary"]})
        with job.start("--yes", "--no-progress") as command:
            held_by(job, "waiting (go canary)")
            assert sent(job) == 5
            early = job.bulkcert("control", "go", job.job_file, "50%")
            assert early.code == 2
            assert "wave canary is over, and 50% has not begun" in early.err
            assert control(job, "go", "canary").startswith("go after canary\n")
            ended = command.wait()
        assert ended.code == 0
        assert "Go after canary, by " in ended.err
        assert [wave["state"] for wave in status(job)["waves"]] == ["done", "done", "over"]
        over = job.bulkcert("control", "pause", job.job_file)
        assert over.code == 2
        assert job.violations() == []
