"""The dispatcher of one of several hosts, on a virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection

import pytest
from test_dispatch import World, Writer, dispatcher
from virtual_time import run_virtually

from bulkcert.store.claims import Claimed


class AmongOthers(Writer):
    """A store whose operations other hosts are working on, for now.

    Attributes:
        others_work: whether they do.
        asked: how often something was to be claimed.
    """

    others_work = True
    asked = 0

    async def claim(self, most: int, lookup_first: Collection[int]) -> Claimed:
        self.asked += 1
        if self.others_work:
            await self.flush()
            return Claimed()
        return await super().claim(most, lookup_first)


def test_a_host_does_not_end_while_others_may_leave_something() -> None:
    async def scene() -> None:
        rng = random.Random(1)
        writer = AmongOthers(3, rng)
        running = dispatcher(World(writer, rng, trouble=0.0))
        ending = asyncio.create_task(running.run())
        for asked in (1, 2, 3):
            await asyncio.sleep(60)
            assert writer.asked == asked  # not again and again by itself
            assert not ending.done()
            running.ask_again()
        writer.others_work = False
        await asyncio.sleep(60)
        running.ask_again()
        assert await ending

    run_virtually(scene())


def test_a_stop_ends_a_host_that_waits_for_others() -> None:
    async def scene() -> None:
        rng = random.Random(1)
        running = dispatcher(World(AmongOthers(3, rng), rng))
        ending = asyncio.create_task(running.run())
        await asyncio.sleep(60)
        running.stop()
        running.ask_again()
        assert not await ending

    run_virtually(scene())


@pytest.mark.parametrize(("hosts", "most"), [(1, 12), (3, 4), (50, 1)])
def test_hosts_divide_how_many_requests_may_be_open(hosts: int, most: int) -> None:
    async def scene() -> None:
        rng = random.Random(1)
        world = World(Writer(100, rng), rng, trouble=0.0)
        running = dispatcher(world, in_flight=12)
        running.share(hosts)
        assert await running.run()
        assert world.most_open == most

    run_virtually(scene())
