"""Serves the metrics to those who scrape them.

In: an address, and what returns the text. Out: `GET /metrics`. One thread with an event loop of its
own, whatever arrives: it accepts connections one after the other at a bounded rate, keeps few of
them and each for a short time, and drops the oldest one for a new one. So somebody who hangs, sends
garbage or opens a thousand connections holds up neither the run nor others who scrape, and takes no
memory. The figures have no secrets and no device in them, so there is nothing to log in to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bulkcert.errors import MetricsError
from bulkcert.metrics.address import Address
from bulkcert.timings import MetricsTimings

MOST_CONNECTIONS = 20
"""Connections that are open at the same time. A scrape takes a few milliseconds."""

MOST_BYTES = 8192
"""The head of a request is never longer."""

_BACKLOG = 128


class MetricsServer:
    """Serves the text inside its context.

    Args:
        address: where.
        text: returns the text; called in the thread.
        content_type: of the text.
        timings: how long somebody who scrapes may take.

    Attributes:
        url: where the text can be fetched.

    Raises (on entering):
        MetricsError: the port is taken, or the address is not one of this machine.
    """

    url: str

    def __init__(
        self,
        address: Address,
        text: Callable[[], bytes],
        content_type: str,
        timings: MetricsTimings = MetricsTimings(),
    ) -> None:
        self._address, self._text, self._timings = address, text, timings
        self._content_type = content_type
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest first

    def __enter__(self) -> Self:
        try:
            self._socket = _listen(self._address)
        except OSError as error:
            # Python repeats the address in the reason
            reason = (error.strerror or str(error)).partition(" (while ")[0]
            raise MetricsError(
                f"Metrics can't be served at {self._address}: {reason}.",
                "Name a free port and an address of this machine with --metrics HOST:PORT, or let"
                " the system choose a port with --metrics 0.",
            ) from error
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{Address(host, port)}/metrics"
        self._loop = asyncio.new_event_loop()
        # a daemon, so that it can't keep the process alive
        self._thread = threading.Thread(target=self._run, name="metrics server", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._timings.request_s)
        self._socket.close()

    # ---- in the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.add_reader(self._socket, self._accept)
            self._loop.run_forever()
            self._loop.remove_reader(self._socket)
            for task in self._connections:
                task.cancel()
            self._loop.run_until_complete(
                asyncio.gather(*self._connections, return_exceptions=True)
            )
        finally:
            self._loop.close()

    def _accept(self) -> None:
        """Accept one connection, and the next one in a moment."""
        self._loop.remove_reader(self._socket)
        wait_s = self._timings.accept_every_s
        try:
            connection, _ = self._socket.accept()
        except OSError:  # too many open files, or it is gone already
            wait_s = self._timings.retry_accept_s
        else:
            self._keep(connection)
        self._loop.call_later(wait_s, self._loop.add_reader, self._socket, self._accept)

    def _keep(self, connection: socket.socket) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._serve(connection))
        self._connections[task] = None

        def ended(task: asyncio.Task[None]) -> None:
            connection.close()
            self._connections.pop(task, None)

        task.add_done_callback(ended)

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # which a TimeoutError is, too
            async with asyncio.timeout(self._timings.request_s):
                head = b""
                while b"\r\n\r\n" not in head:
                    part = await self._loop.sock_recv(connection, MOST_BYTES - len(head))
                    if not part:
                        return  # it has gone, or asks for too much
                    head += part
                await self._loop.sock_sendall(connection, self._response(head))

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _http("405 Method Not Allowed", b"Only GET is allowed.\n")
        if path != b"/metrics":
            return _http("404 Not Found", b"The metrics are at /metrics.\n")
        return _http("200 OK", self._text(), self._content_type, head_only=method == b"HEAD")


def _http(
    status: str, body: bytes, content_type: str = "text/plain", *, head_only: bool = False
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)


def _listen(address: Address) -> socket.socket:
    """Take the port. From then on connections are accepted by the system, if not yet by us.

    Raises:
        OSError: it is taken, or the address is not one of this machine.
    """
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    both = where[0] == "::" and socket.has_dualstack_ipv6()
    listening = socket.create_server(
        where[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both
    )
    listening.setblocking(False)
    return listening
