"""A bad network between a job and the simulator: a TCP proxy that delays, cuts and slows down.

In: bytes from either side. Out: the same bytes, later, slower, twice, or not at all; never others.
Each decision depends only on the seed and the number of the connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """What the network does to connections.

    Attributes:
        delay_s: seconds that each piece takes, in each direction.
        bytes_per_second: rate of responses; 0 for no limit.
        cut: share of connections that are reset after some bytes of requests, or of responses.
        half_close: share of connections whose responses end in the middle, by an orderly FIN, while
            requests still get through.
        stall: share of connections that go silent forever after their first response.
        repeat_after_s: each piece of a response comes a second time, this many seconds later.
        seed: determines which connections, and where in them.
    """

    delay_s: float = 0.0
    bytes_per_second: int = 0
    cut: float = 0.0
    half_close: float = 0.0
    stall: float = 0.0
    repeat_after_s: float | None = None
    seed: int = 0

    @asynccontextmanager
    async def serving(self, endpoint: str) -> AsyncIterator[str]:
        """Run the proxy in front of an endpoint; yields the endpoint of the proxy."""
        scheme, _, place = endpoint.partition("://")
        host, _, port = place.rpartition(":")
        proxy = _Proxy(self, host, int(port))
        server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0, backlog=1000)
        try:
            yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await proxy.end()


class _Proxy:
    def __init__(self, network: Network, host: str, port: int) -> None:
        self._network = network
        self._target = (host, port)
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        rng = random.Random(f"{self._network.seed} {self._connections}")
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                await self._carry(rng, (reader, writer), (far_reader, far_writer))
            finally:
                far_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test is over
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def end(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(
        self,
        rng: random.Random,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        network, fate = self._network, rng.random()
        up_to = down_to = stalls_at = None
        if fate < network.cut:
            up_to = rng.randrange(1, 3000) if rng.random() < 0.5 else None
            down_to = None if up_to else rng.randrange(1, 3000)
        elif fate < network.cut + network.half_close:
            stalls_at = -1
            down_to = rng.randrange(1, 1500)
        elif fate < network.cut + network.half_close + network.stall:
            stalls_at = rng.randrange(200, 1500)
        half = stalls_at == -1
        async with asyncio.TaskGroup() as tasks:
            up = tasks.create_task(_forward(near[0], far[1], network.delay_s, 0, up_to))
            down = tasks.create_task(
                _forward(
                    far[0],
                    near[1],
                    network.delay_s,
                    network.bytes_per_second,
                    down_to,
                    ends_orderly=half,
                    stalls_at=None if half else stalls_at,
                    repeat_after_s=network.repeat_after_s,
                )
            )
            ended, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if half and down in ended:
                await up  # requests still get through, and are executed
            up.cancel()
            down.cancel()


async def _forward(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    delay_s: float,
    bytes_per_second: int,
    up_to: int | None,
    *,
    ends_orderly: bool = False,
    stalls_at: int | None = None,
    repeat_after_s: float | None = None,
) -> None:
    """Forward at most `up_to` bytes; returns when the connection should end."""
    passed = 0
    while piece := await source.read(256 if bytes_per_second else 65536):
        await asyncio.sleep(delay_s)
        if up_to is not None and passed + len(piece) >= up_to:
            sink.write(piece[: up_to - passed])
            await sink.drain()
            if ends_orderly:
                sink.write_eof()
            return
        if stalls_at is not None and passed >= stalls_at:
            await asyncio.Event().wait()
        sink.write(piece)
        await sink.drain()
        if repeat_after_s is not None:
            asyncio.get_running_loop().call_later(repeat_after_s, _write, sink, piece)
        passed += len(piece)
        if bytes_per_second:
            await asyncio.sleep(len(piece) / bytes_per_second)


def _write(sink: asyncio.StreamWriter, piece: bytes) -> None:
    if not sink.is_closing():
        sink.write(piece)
