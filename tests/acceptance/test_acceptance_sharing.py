"""Two processes on one account share its ceiling; one of them is killed, and the other one has it
all again."""

from __future__ import annotations

from pathlib import Path

import pytest
from enos_vendor import ENOS
from harness import JobWith, ProcessJob
from history import busiest_second
from job_folder import devices
from processes import until

pytestmark = pytest.mark.system

CEILING = 100
JITTER = 5 + CEILING // 20
"""Arrivals in the busiest second above the ceiling, because a busy machine delays some."""


def test_two_processes_share_a_ceiling_and_the_survivor_of_a_kill_has_it_all(
    job_with: JobWith, tmp_path: Path
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with job_with(targets=400, latency=0.02) as job:
        job.write(limits={"requests_per_second": CEILING})
        rows = [
            dict(zip(("assetId", "certSn"), row, strict=True)) for row in devices(400, prefix="B")
        ]
        (tmp_path / "other").mkdir()
        other = ProcessJob(tmp_path / "other", ENOS, "revoke", rows, job.simulator)
        other.write(limits={"requests_per_second": CEILING})
        environment = job.credentials | state

        def sent(prefix: str) -> list[float]:
            entries = job.simulator.entries()
            return [e["at"] for e in entries if e["device"].startswith(f"assetId={prefix}")]

        with (
            job.start("--yes", environment=environment) as survivor,
            other.start("--yes", environment=environment) as killed,
        ):
            until(lambda: len(sent("B")) >= 60)
            shown = job.bulkcert("status", job.run_dir)
            killed.kill()
            ended = survivor.wait()
        assert ended.code == 0
        told = f"shares the ceiling of {CEILING}/s with 1 other process on this account: run "
        assert told in ended.err
        assert f"pid {killed.pid}." in ended.err
        assert f"shares {CEILING}/s with run" in shown.out
        arrived = sorted(entry["at"] for entry in job.simulator.entries())
        assert busiest_second(arrived)[0] <= CEILING + JITTER
        last = sent("B")[-1]
        alone = [at for at in sent("") if at > last]
        assert busiest_second(alone)[0] > 0.7 * CEILING
