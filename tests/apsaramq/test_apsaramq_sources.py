"""Two limits over real sockets: from two addresses to a simulator that blocks addresses."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import history
import pytest
from mqtt_scenes import MqttScene, devices, scene

from bulkcert import load_job
from bulkcert.errors import ProviderUnusableError

TWO = ["127.0.0.2", "127.0.0.3"]
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
            "the limit of the account (2 source addresses at 300 each could send more)",
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
        behaviour={"limit": 500, "mq_source_limit": 300, "latency": 0.02},
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
            assert history.busiest_second(arrived)[0] <= 300
        assert history.busiest_second(sorted(chain(*times.values())))[0] <= 500
        assert summary["busiest_second"] <= ceiling
        assert {entry["fault"] for entry in made.entries()} == {None}
        assert made.violations() == []
        if addresses:
            assert min(map(len, times.values())) >= 0.4 * count


async def get_blocked(made: MqttScene, address: str) -> None:
    """Somebody else on that machine sends too much from an address, while the run is going on."""
    await asyncio.sleep(0.5)
    connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send() -> None:
            async with session.get(made.simulator.endpoint + "/?other=1") as answer:
                await answer.read()

        tasks = [asyncio.create_task(send()) for _ in range(200)]
        await asyncio.wait(tasks, timeout=0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("block", ["reset", "403", "timeout"])
async def test_a_blocked_address_is_given_up_and_the_run_goes_on(
    tmp_path: Path, block: str
) -> None:
    behaviour: dict[str, Any] = {"mq_source_limit": 120, "mq_block": block, "mq_block_for": 60.0}
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
        others = asyncio.create_task(get_blocked(made, "127.0.0.3"))
        summary = await made.run()
        await others
        assert summary["exit_code"] == 0
        assert made.outcomes == {"succeeded": 300}
        [words] = made.notices
        assert words.startswith("Source address 127.0.0.3 gets no answers any more")
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
        guard={"stop_after_seconds": 0.5},
        retry={"max_attempts": 50},
    ) as made:
        with pytest.raises(ProviderUnusableError) as caught:
            await made.run()
        assert "No source address has been answered for" in caught.value.problem
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
        assert summary["exit_code"] == 0
        assert made.notices == []
        assert made.outcomes == {"succeeded": 500}
        assert made.violations() == []
        last = max(entry["at"] for entry in made.entries())
        late = {entry["source"] for entry in made.entries() if entry["at"] > last - 0.3}
        assert late == set(TWO)
