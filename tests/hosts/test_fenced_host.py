"""A host that was fenced breaks its connections, and begins anew without waiting for responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from enos_vendor import ENOS, devices
from harness import in_this_process

from bulkcert.providers.clock import boot_time_s
from bulkcert.store.place import SharedPlace
from bulkcert.timings import HostTimings

pytestmark = pytest.mark.system

OPEN = 20
PATIENCE_S = 60.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


def fence(place: SharedPlace) -> None:
    """End the lease of the one host of a run, as another one does."""
    with closing(place.open_for(HostTimings(), boot_time_s)) as other:
        ended = False
        while not ended:  # it beats meanwhile
            ended = any(other.fence(seen, "another", 9.0) is not None for seen in other.others())


async def test_a_fenced_host_gives_up_its_requests_at_once(
    tmp_path: Path, shared_store: str
) -> None:
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        devices(OPEN),
        behaviour={
            "slow_first_byte": 1.0,
            "slow_first_byte_by": 10 * PATIENCE_S,
            "faults_on": "revoke",
        },
        limits={"request_timeout_seconds": 5 * PATIENCE_S},
        store=shared_store,
        name="fenced-host",
    ) as job:
        working = asyncio.create_task(job.run_alone())
        await until(lambda: job.simulator.summary()["open"] == OPEN)
        place = job.running.directory.place
        assert isinstance(place, SharedPlace)
        await asyncio.to_thread(fence, place)
        # without an abort, its old life would end only with the last of its requests
        await until(lambda: any("begins anew" in notice for notice in job.notices()))
        job.running.stop()
        await working
