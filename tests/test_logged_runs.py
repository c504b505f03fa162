"""The event log of whole runs, by what a process may end with. The checker of each run looks at the
log as well, see `event_history`; here is what no other test would notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS, devices
from harness import InProcessJob, in_this_process

from bulkcert.errors import CredentialsError, ProviderUnusableError
from bulkcert.event_log import EventType, RunEvent

pytestmark = pytest.mark.system


def last_event(job: InProcessJob) -> RunEvent:
    return RunEvent.parse((job.run_dir / "events.jsonl").read_bytes().splitlines()[-1])


async def test_the_log_ends_with_the_exit_code_of_a_run_that_left_rows_out(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "revoke", devices(5)) as job:
        job.write_targets([*job.rows, {"assetId": "A", "certSn": -1}])
        summary = await job.run(skip_rejected=True)
        assert summary.exit_code == last_event(job).data["exit_code"] == 1


async def test_the_log_ends_with_the_exit_code_of_a_process_that_sent_nothing(
    tmp_path: Path,
) -> None:
    wrong = ENOS.credentials | {"ENOS_APP_KEY": "wrong"}
    async with in_this_process(tmp_path, ENOS, "revoke", devices(5), credentials=wrong) as job:
        with pytest.raises(CredentialsError) as raised:
            await job.run()
        ended = last_event(job)
        assert ended.type is EventType.ENDED
        assert ended.data["exit_code"] == raised.value.exit_code == 2
        assert "does not accept the credentials" in ended.data["why"]
        assert ended.data["outcomes"]["pending"] == 5


async def test_what_is_in_doubt_at_the_end_is_unknown_in_the_log_as_in_the_reports(
    tmp_path: Path,
) -> None:
    behaviour: dict[str, Any] = {"cut_after": 1.0, "faults_on": "revoke,list"}
    breaker = {"stop_after_seconds": 1}
    async with in_this_process(
        tmp_path, ENOS, "revoke", devices(5), behaviour=behaviour, circuit_breaker=breaker
    ) as job:
        with pytest.raises(ProviderUnusableError):
            await job.run()
        assert last_event(job).data["outcomes"]["unknown"] == job.summary()["unknown"] == 5
