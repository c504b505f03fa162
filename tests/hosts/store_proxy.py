"""The way from one host to the shared store: it can be slow, cut, or lose the answer to a COMMIT.

In: the bytes of PostgreSQL's protocol. Out: the same, later or not at all. It reads no more of them
than it needs to see which statement a message contains. Each host has a way of its own. All ways
are served by one thread, beside the harness.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self

_STARTUP = 196608
_LONGEST_STATEMENT = 100_000


class Fate(Enum):
    """What happens to a statement that somebody waited for."""

    PASSES = "passes"
    ANSWER_LOST = "it is carried out, but the connection is reset before the answer"
    SILENCE = "it is carried out, but nothing is heard of it: the connection just hangs"
    LOST = "it never arrives, and the connection is reset"


@dataclass
class Trap:
    """Waits for a statement.

    Attributes:
        text: what it contains.
        fate: what happens to it.
        action: called when it is seen, in the thread of the proxy, before it is passed on.
        times: how often it is to happen.
    """

    text: bytes
    fate: Fate = Fate.PASSES
    action: Callable[[], None] = lambda: None
    times: int = 1
    sprung: threading.Event = field(default_factory=threading.Event)


class StoreProxy:
    """A way to the store, on a port of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, loop: Loop, address: str, socket: Path) -> None:
        self._loop = loop
        self._socket = socket
        self._traps: list[Trap] = []
        self._open = asyncio.Event()
        self._delay_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = loop.run(self._serve(address))

    async def _serve(self, address: str) -> int:
        self._open.set()
        self._server = await asyncio.start_server(self._connected, address, 0)
        return int(self._server.sockets[0].getsockname()[1])

    # ---- what is done to it; from any thread

    def set_trap(self, trap: Trap) -> Trap:
        """Wait for a statement."""
        self._loop.call(self._traps.append, trap)
        return trap

    def delay(self, seconds: float) -> None:
        """Let each message take so long in each direction."""
        self._delay_s = seconds

    def cut(self) -> None:
        """Lose everything from now on, and tell nobody."""
        self._loop.call(self._open.clear)

    def close_way(self) -> None:
        """The same as `cut`; for the action of a trap, which runs in the thread of the proxy."""
        self._open.clear()

    def heal(self) -> None:
        """Let through again what was sent, as the kernel's retransmissions do."""
        self._loop.call(self._open.set)

    def reset(self) -> None:
        """Reset all connections."""
        self._loop.call(self._abort_all)

    def close(self) -> None:
        """Close it, with all connections."""
        self._loop.call(self._server.close)
        self.reset()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    # ---- one connection

    async def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            await self._open.wait()
            far, forth = await asyncio.open_unix_connection(str(self._socket))
        except OSError:  # there is no server
            back.transport.abort()
            return
        self._writers |= {back, forth}
        connection = _Connection(self, back)
        tasks = [
            asyncio.ensure_future(connection.forth(near, forth)),
            asyncio.ensure_future(connection.back(far, back)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in (back, forth):
                writer.transport.abort()
                self._writers.discard(writer)

    async def passing(self) -> None:
        """Wait until something gets through."""
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        await self._open.wait()

    def fate_of(self, message: bytes) -> Fate:
        """What happens to a message of a client."""
        for trap in self._traps:
            if trap.times and trap.text in message[:_LONGEST_STATEMENT]:
                trap.times -= 1
                trap.action()
                trap.sprung.set()
                return trap.fate
        return Fate.PASSES


class _Connection:
    def __init__(self, proxy: StoreProxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._fate = Fate.PASSES

    async def forth(self, near: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        """Pass on what the client sends, message by message."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:  # requests for encryption are refused without a further word
                head = await near.readexactly(8)
                length, code = struct.unpack("!ii", head)
                message = head + await near.readexactly(length - 8)
                forth.write(message)
                if code == _STARTUP:
                    break
            while True:
                kind = await near.readexactly(5)
                message = kind + await near.readexactly(struct.unpack("!i", kind[1:])[0] - 4)
                fate = self._proxy.fate_of(message)
                await self._proxy.passing()
                if fate is Fate.LOST:
                    return
                if fate is not Fate.PASSES:
                    self._fate = fate
                forth.write(message)
                await forth.drain()

    async def back(self, far: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Pass on what the server answers."""
        with suppress(OSError):
            while content := await far.read(1 << 16):
                await self._proxy.passing()
                if self._fate is Fate.ANSWER_LOST:
                    return
                if self._fate is Fate.SILENCE:
                    await asyncio.Event().wait()
                back.write(content)
                await back.drain()


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Carry out some work there, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function there, and wait until it has returned."""

        async def called() -> None:
            function(*arguments)

        self.run(called())

    def close(self) -> None:
        """End everything that is under way there."""
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
