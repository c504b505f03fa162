"""The limits of an account and of a source address, over real sockets."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import history
import pytest
from apsaramq_vendor import APSARAMQ, devices
from harness import InProcessJob, in_this_process

from bulkcert import load_job
from bulkcert.errors import ProviderUnusableError

pytestmark = pytest.mark.system

TWO = ["127.0.0.2", "127.0.0.3"]
JITTER = 1.1
"""Requests that leave evenly bunch up on arrival, because a machine pauses now and then. The
departures themselves are tested on a virtual clock (`tests/test_sources.py`). With two addresses
the account's limit binds, so each address stays far below its own limit all the same."""

DEFAULTS = {"requests_per_second": 500, "requests_per_second_per_source_ip": 300}


def arrivals(job: InProcessJob) -> dict[str, list[float]]:
    """The arrival times of requests, by source address."""
    times: dict[str, list[float]] = defaultdict(list)
    for entry in job.entries():
        times[entry["source"]].append(entry["at"])
    return times


@pytest.mark.parametrize(
    ("addresses", "count", "ceiling", "words"),
    [
        (
            [],
            500,
            300,
            "1 source address at 300; apsaramq blocks an address that sends more"
            " (the account may send 500)",
        ),
        (
            TWO,
            1000,
            500,
            "the account's limit (2 source addresses at 300 each could send more)",
        ),
    ],
    ids=["one address", "two addresses"],
)
async def test_both_limits_are_kept_and_no_address_is_blocked(
    tmp_path: Path, addresses: list[str], count: int, ceiling: float, words: str
) -> None:
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "inactivate",
        devices(count),
        behaviour={
            "limit": int(500 * JITTER),
            "mq_source_limit": 300 if addresses else int(300 * JITTER),
            "latency": 0.02,
        },
        limits=DEFAULTS,
        connection={"source_addresses": addresses} if addresses else {},
    ) as job:
        loaded = load_job(job.job_file)
        assert (loaded.ceiling, loaded.bound_by) == (ceiling, words)
        summary = await job.run()
        assert job.outcome_counts() == {"succeeded": count}
        assert job.notices() == []
        times = arrivals(job)
        assert sorted(times) == (TWO if addresses else ["127.0.0.1"])
        for arrived in times.values():
            assert history.busiest_second(arrived)[0] <= (300 if addresses else 300 * JITTER)
        assert history.busiest_second(sorted(chain(*times.values())))[0] <= 500 * JITTER
        assert summary.busiest_second <= ceiling
        assert {entry["fault"] for entry in job.entries()} == {None}
        assert job.violations(jitter=int(500 * (JITTER - 1))) == []
        if addresses:
            assert min(map(len, times.values())) >= 0.4 * count


def block(job: InProcessJob, address: str) -> None:
    """Block an address as if it had sent too much, which a slow machine can't do by itself."""
    job.simulator._vendors.apsaramq._sources._blocked_until_us[address] = sys.maxsize


@pytest.mark.parametrize("how", ["reset", "403", "timeout"])
async def test_a_blocked_address_is_given_up_and_the_run_continues(
    tmp_path: Path, how: str
) -> None:
    behaviour: dict[str, Any] = {"mq_source_limit": 10_000, "mq_block": how, "mq_block_for": 60.0}
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "inactivate",
        devices(300),
        behaviour=behaviour | {"latency": 0.01},
        limits={
            "requests_per_second": 150,
            "requests_per_second_per_source_ip": 100,
            "request_timeout_seconds": 0.2,
        },
        connection={"source_addresses": TWO},
        retry={"max_attempts": 20},
    ) as job:
        asyncio.get_running_loop().call_later(0.5, block, job, "127.0.0.3")
        summary = await job.run_alone()  # the blocked requests stay open
        assert summary.exit_code == 0
        assert job.outcome_counts() == {"succeeded": 300}
        [words] = job.notices()
        assert words.startswith(
            "Source address 127.0.0.3 has stopped responding; the other address still"
        )
        assert {entry["source"] for entry in job.entries()[-100:]} == {"127.0.0.2"}
        assert set(job.executed().values()) == {1}


@pytest.mark.parametrize("addresses", [[], TWO], ids=["one address", "two addresses"])
async def test_a_run_stops_when_no_address_is_left(tmp_path: Path, addresses: list[str]) -> None:
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "inactivate",
        devices(400),
        behaviour={"outage_after": 60, "outage_for": 60.0},
        limits={"requests_per_second": 500, "requests_per_second_per_source_ip": 500},
        connection={"source_addresses": addresses} if addresses else {},
        circuit_breaker={"stop_after_seconds": 0.5, "failing_share": 1000},  # sources only
        retry={"max_attempts": 50},
    ) as job:
        with pytest.raises(ProviderUnusableError) as caught:
            await job.run()
        assert "No source address has got a response for" in caught.value.problem
        assert caught.value.exit_code == 3
        assert job.outcome_counts().keys() <= {"succeeded", "unknown", "pending"}
        assert job.outcome_counts()["pending"] > 0


async def test_an_outage_gives_up_no_address_and_the_run_finishes(tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path,
        APSARAMQ,
        "inactivate",
        devices(500),
        behaviour={"outage_after": 100, "outage_for": 0.5},
        limits={"requests_per_second": 500, "requests_per_second_per_source_ip": 300},
        connection={"source_addresses": TWO},
        retry={"max_attempts": 50},
    ) as job:
        summary = await job.run()
        assert summary.exit_code == 0
        assert job.notices() == []
        assert job.outcome_counts() == {"succeeded": 500}
        assert job.violations() == []
        last = max(entry["at"] for entry in job.entries())
        late = {entry["source"] for entry in job.entries() if entry["at"] > last - 0.3}
        assert late == set(TWO)
