"""An HTTP proxy on loopback: tunnels with CONNECT, and passes on requests for whole URLs.

In: requests as clients send them to a proxy. Out: what the server behind it responds. It may ask
for a user name and a password.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


@dataclass
class HttpProxy:
    """A proxy that finds every name on loopback.

    Attributes:
        credentials: `user:password` that it asks for; empty for none.
        refusal: the status line of every response to CONNECT, instead of a tunnel; empty for none.
        silent: never responds.
        asked: the first line of each request.
        port: where it listens.
    """

    credentials: str = ""
    refusal: str = ""
    silent: bool = False
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve; yields the URL."""
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *headers = head.split("\r\n")
        self.asked.append(first)
        if self.silent:
            await asyncio.Event().wait()
        wanted = base64.b64encode(self.credentials.encode()).decode()
        given = [h for h in headers if h.lower().startswith("proxy-authorization:")]
        if self.credentials and given != [f"Proxy-Authorization: Basic {wanted}"]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = first.split(" ")
        if method == "CONNECT":
            if self.refusal:
                writer.write(f"{self.refusal}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            port, passed = int(target.rpartition(":")[2]), b""
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urlsplit(target)
            port = url.port or 80
            path = url._replace(scheme="", netloc="").geturl()
            # one request for each connection, so that no other one is passed on unread
            ours = f"{method} {path} HTTP/1.1\r\nConnection: close"
            passed = head.replace(first, ours, 1).encode()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            far_writer.write(passed)
            ways = [_forward(reader, far_writer), _forward(far_reader, writer)]
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # either has hung up
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            far_writer.transport.abort()


async def _forward(source: Reader, sink: Writer) -> None:
    while piece := await source.read(65536):
        sink.write(piece)
        await sink.drain()
