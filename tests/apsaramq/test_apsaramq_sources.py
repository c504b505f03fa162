"""Two limits over real sockets: from two addresses to a simulator that blocks addresses."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import history
import pytest
from mqtt_scenes import MqttScene, devices, scene

from bulkcert import load_job
from bulkcert.errors import ProviderUnusableError

pytestmark = pytest.mark.system

TWO = ["127.0.0.2", "127.0.0.3"]
JITTER = 1.1
"""What leaves evenly arrives crowded where the machine pauses now and then, as test machines do.
How exact the departures are is tested on a virtual clock (`tests/test_sources.py`). From two
addresses the account's limit binds, so that each of them stays far below its own even so."""

DEFAULTS = {"requests_per_second": 500, "requests_per_second_per_source_ip": 300}


def arrivals(made: MqttScene) -> dict[str, list[float]]:
    """When requests came, by where from."""
    times: dict[str, list[float]] = defaultdict(list)
    for entry in made.entries():
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
async def test_both_limits_are_kept_and_nobody_is_blocked(
    tmp_path: Path, addresses: list[str], count: int, ceiling: float, words: str
) -> None:
    async with scene(
        tmp_path,
        "inactivate",
        devices(count),
        behaviour={
            "limit": int(500 * JITTER),
            "mq_source_limit": 300 if addresses else int(300 * JITTER),
            "latency": 0.02,
        },
        limits=DEFAULTS,
        connection={"source_addresses": addresses} if addresses else {},
    ) as made:
        job = load_job(made.job_file)
        assert (job.ceiling, job.bound_by) == (ceiling, words)
        summary = await made.run()
        assert made.outcomes == {"succeeded": count}
        assert made.notices == []
        times = arrivals(made)
        assert sorted(times) == (TWO if addresses else ["127.0.0.1"])
        for arrived in times.values():
            assert history.busiest_second(arrived)[0] <= (300 if addresses else 300 * JITTER)
        assert history.busiest_second(sorted(chain(*times.values())))[0] <= 500 * JITTER
        assert summary.busiest_second <= ceiling
        assert {entry["fault"] for entry in made.entries()} == {None}
        assert made.violations(jitter=int(500 * (JITTER - 1))) == []
        if addresses:
            assert min(map(len, times.values())) >= 0.4 * count


def block(made: MqttScene, address: str) -> None:
    """Block an address as if it had sent too much, however slow this machine is."""
    made.simulator._apsaramq._sources._blocked_until_us[address] = sys.maxsize


@pytest.mark.parametrize("how", ["reset", "403", "timeout"])
async def test_a_blocked_address_is_given_up_and_the_run_goes_on(tmp_path: Path, how: str) -> None:
    behaviour: dict[str, Any] = {"mq_source_limit": 10_000, "mq_block": how, "mq_block_for": 60.0}
    async with scene(
        tmp_path,
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
    ) as made:
        asyncio.get_running_loop().call_later(0.5, block, made, "127.0.0.3")
        summary = await made.run()
        assert summary.exit_code == 0
        assert made.outcomes == {"succeeded": 300}
        [words] = made.notices
        assert words.startswith(
            "Source address 127.0.0.3 has stopped responding; the other address still"
        )
        assert {entry["source"] for entry in made.entries()[-100:]} == {"127.0.0.2"}
        assert set(made.executed.values()) == {1}


@pytest.mark.parametrize("addresses", [[], TWO], ids=["one address", "two addresses"])
async def test_a_run_stops_when_no_address_is_left(tmp_path: Path, addresses: list[str]) -> None:
    async with scene(
        tmp_path,
        "inactivate",
        devices(400),
        behaviour={"outage_after": 60, "outage_for": 60.0},
        limits={"requests_per_second": 500, "requests_per_second_per_source_ip": 500},
        connection={"source_addresses": addresses} if addresses else {},
        circuit_breaker={"stop_after_seconds": 0.5, "failing_share": 1000},  # sources only
        retry={"max_attempts": 50},
    ) as made:
        with pytest.raises(ProviderUnusableError) as caught:
            await made.run()
        assert "No source address has got a response for" in caught.value.problem
        assert caught.value.exit_code == 3
        assert made.outcomes.keys() <= {"succeeded", "unknown", "pending"}
        assert made.outcomes["pending"] > 0


async def test_an_outage_gives_up_no_address_and_the_run_ends_well(tmp_path: Path) -> None:
    async with scene(
        tmp_path,
        "inactivate",
        devices(500),
        behaviour={"outage_after": 100, "outage_for": 0.5},
        limits={"requests_per_second": 500, "requests_per_second_per_source_ip": 300},
        connection={"source_addresses": TWO},
        retry={"max_attempts": 50},
    ) as made:
        summary = await made.run()
        assert summary.exit_code == 0
        assert made.notices == []
        assert made.outcomes == {"succeeded": 500}
        assert made.violations() == []
        last = max(entry["at"] for entry in made.entries())
        late = {entry["source"] for entry in made.entries() if entry["at"] > last - 0.3}
        assert late == set(TWO)
