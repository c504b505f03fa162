"""Connections to one endpoint: when they are made, which may be used, and for how long.

In: a request that is ready to leave. Out: it is written, as soon as it may be, to a connection on
which nothing has happened that nobody asked for. Never uses a connection with bytes that came
before the request: they would be taken for its response. Never writes without the permit of this
process, if it needs one, and reports when the request is written.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import ssl
import struct
import time
import weakref
from functools import cached_property
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from bulkcert.providers.call import Pace, Permit
from bulkcert.providers.departure import Departure
from bulkcert.providers.lateness import Lateness
from bulkcert.timings import Timings

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.tracing import Trace

MOST_CONNECTIONS = 5
"""Connections used for one request. The server may hang up on a connection while the request waits
for its turn; then another one is opened."""

MOST_RESTING = 100
"""Connections that rest at the same time; see `Timings.rest_s`. If there are more, the one that has
rested longest is used: it has seen a hundred requests leave since."""

LONGEST_HEADER = 2**16
"""Bytes of one header. aiohttp gives up after 8,190, but gateways send longer ones."""

MOST_HEADERS = 1000
"""Headers of one response. aiohttp gives up after 128."""

_UNUSABLE = "the server hangs up on every connection, or sends before it is asked"
_NOT_PERMITTED = "this host has to stand still"
_AT_ONCE = struct.pack("ii", 1, 0)  # as `struct linger`: closing breaks the connection
_IN_ORDER = struct.pack("ii", 0, 0)
_TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only
_TCP_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # likewise


class Conversation(ResponseHandler):
    """Writes the requests of one connection, reads their responses, and ends it when bytes arrive
    that are not one.

    A server or a proxy may send one response too many. On a connection that is kept alive, it would
    be taken for the response to the next request (aio-libs/aiohttp#13656).

    Args:
        kernel_gives_up_s: how long the kernel sends again what is not acknowledged.
        permit: asked before a request is written, and learns when it is. With one, what the kernel
            has not sent when this process dies is never sent.

    Attributes:
        socket: the socket of the connection.
        source: IP address of this machine that it begins at.
    """

    socket: TransportSocket
    source: str

    def __init__(self, kernel_gives_up_s: float, permit: Permit | None) -> None:
        super().__init__(asyncio.get_running_loop())
        self._kernel_gives_up_s = kernel_gives_up_s
        self._permit = permit
        self._used = False  # a request was written
        self._writing = False  # a request is permitted, and perhaps not written
        self._idle = False  # a response is complete, and the next request has not left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.socket = transport.get_extra_info("socket")
        self.source = transport.get_extra_info("sockname")[0]
        if _TCP_USER_TIMEOUT is not None:
            limit_ms = int(self._kernel_gives_up_s * 1000)
            self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, limit_ms)
        if self._permit is not None:
            self._linger(_AT_ONCE)
        self._unread = select.poll()
        self._unread.register(self.socket, select.POLLIN)

    def close(self) -> None:
        """Close the connection in an orderly way."""
        if self._permit is not None and self.is_connected():
            self._linger(_IN_ORDER)
        super().close()

    def break_off(self) -> None:
        """Close the connection by a reset, and drop what the kernel has not sent."""
        if self.is_connected():
            self._linger(_AT_ONCE)
            self.abort()

    def _linger(self, how: bytes) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)

    def data_received(self, data: bytes) -> None:
        if self._idle:  # nobody has asked
            self.abort()
        else:
            super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for this after each piece, whether reading is paused or not."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def has_unread(self) -> bool:
        """Whether something has come that the loop has not read yet."""
        return self.is_connected() and bool(self._unread.poll(0))

    def is_usable(self) -> bool:
        """Whether a request may leave: it is connected, and nothing came that nobody asked for."""
        return self.is_connected() and not self.should_close

    def begin_write(self, connection: Connection) -> bool:
        """Whether this process may write now, to this connection. If so, `write` must follow, or
        the connection be released or closed."""
        if self._permit is None:
            return True
        self._writing = self._permit.begin_write()
        if self._writing:
            connection.add_callback(self._end_write)
        return self._writing

    def write(self, request: bytes) -> None:
        """Write a request; its response may come."""
        assert self.transport is not None
        self._idle = False
        self.set_response_params(
            read_until_eof=True,
            auto_decompress=False,  # we do it ourselves, in bounded memory
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )
        self.transport.write(request)
        if not self._used:
            self._used = True
            # what a TLS server says first is acknowledged too, or it may hold back its response
            self._acknowledge()
        # what the kernel would not take is written at the latest when the response is complete
        if self._writing and self.transport.get_write_buffer_size() == 0:
            self._end_write()

    def _end_write(self) -> None:
        """What was to be written is in the kernel, or never will be."""
        if self._writing:
            self._writing = False
            assert self._permit is not None
            self._permit.end_write()

    async def response(self) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        """Return the head of the response, and what its body can be read from.

        Raises:
            aiohttp.ClientError: the connection broke.
            aiohttp.http.HttpProcessingError: what came is not HTTP.
        """
        while True:
            message, body = await self.read()
            if message.code >= 200 or message.code == 101:
                return message, body

    def complete(self) -> None:
        """The response is complete. It is acknowledged at once: a server may hold back what else it
        has for us until then, and the next request would bring the acknowledgement."""
        self._idle = True
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Acknowledge at once what has come, and what comes next."""
        if _TCP_QUICKACK is not None and self.is_connected():
            self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)


class Resolver(aiohttp.abc.AbstractResolver):
    """Finds the addresses of a host by DNS: in bounded time, and only those that can be reached.

    Args:
        timeout_s: how long that may take, in seconds. The system may try for half a minute.
        local_address: IP address to send from; it reaches only addresses of its own family.
    """

    def __init__(self, timeout_s: float, local_address: str | None) -> None:
        self._timeout_s = timeout_s
        self._local_address = local_address
        self._system = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: there are none, or they were not found in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._system.resolve(host, port, family)
        except TimeoutError:
            text = f"DNS did not respond within {self._timeout_s:g} s"
            raise OSError(errno.ETIMEDOUT, text) from None
        if self._local_address is None:
            return found
        is_ipv6 = ":" in self._local_address
        usable = [address for address in found if (":" in address["host"]) is is_ipv6]
        if found and not usable:
            ours, theirs = ("IPv6", "IPv4") if is_ipv6 else ("IPv4", "IPv6")
            text = f"{self._local_address} is an {ours} address, and {host} has only {theirs} ones"
            raise OSError(errno.EADDRNOTAVAIL, text)
        return usable

    async def close(self) -> None:
        """Release what the resolver uses."""
        await self._system.close()


class _Where(aiohttp.ClientRequest):
    """Where to connect to, as aiohttp wants to be asked. It is never written."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        """Names the pool of connections to use, the same for all requests."""
        return super().connection_key


class PacedConnector(aiohttp.TCPConnector):
    """Uses a connection only together with the permission to do so at once.

    So nothing can leave without the pacer's permission, and no request waits after it.

    Args:
        endpoint: base URL without trailing slash.
        pace: asked before each request leaves.
        context: for TLS.
        local_address: IP address of this machine to send from; None lets the system choose.
        proxy: URL of an HTTP proxy to connect through; None for none.
        timings: how long DNS and connecting may take, and when a request is late.
        permit: asked directly before each request is written; None if this process may always send.
    """

    def __init__(
        self,
        endpoint: str,
        pace: Pace,
        context: ssl.SSLContext | bool,
        local_address: str | None,
        proxy: URL | None,
        timings: Timings,
        permit: Permit | None = None,
    ) -> None:
        super().__init__(
            limit=0,
            ssl=context,
            local_addr=None if local_address is None else (local_address, 0),
            resolver=Resolver(timings.dns_timeout_s, local_address),
        )
        once_s = timings.connect_timeout_s  # for each address of the endpoint
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=timings.dns_timeout_s + 3 * once_s, sock_connect=once_s
        )
        self._endpoint, self._proxy = endpoint, proxy
        self._pace = pace
        self._rest_s = timings.rest_s
        self._rests = False  # until a connection has been used again
        self._lateness = Lateness(pace, timings.lateness)
        self._permit = permit
        self._kernel_gives_up_s = timings.lateness.kernel_gives_up_s
        self._open = weakref.WeakSet[Conversation]()
        # aiohttp has no public way to choose what reads a connection
        self._factory = self._new_conversation  # type: ignore[assignment]

    async def leave(self, leaving: Departure) -> Connection:
        """Have a request leave as soon as it may; return the connection, which gets the response.

        Raises:
            aiohttp.ClientError, OSError: there is no connection.
            ValueError: the request can't be written.
        """
        problem = _UNUSABLE
        for _ in range(MOST_CONNECTIONS):
            connection = await self._connection()
            conversation = connection.protocol
            assert isinstance(conversation, Conversation)
            try:
                now = await self._pace.depart()
                if conversation.has_unread():
                    # The loop reads it now. It may be a message of TLS, which is for nobody.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                usable = conversation.is_usable()
                if usable and conversation.begin_write(connection):
                    conversation.write(leaving.leave(now, conversation.source))
                    self._lateness.watch(leaving, conversation.socket, now)
                    return connection
            except BaseException:
                connection.release()
                raise
            problem = _NOT_PERMITTED if usable else _UNUSABLE
            connection.close()  # it ended during the wait: another one needs a new turn
        raise aiohttp.ClientConnectionError(problem)

    async def _connection(self) -> Connection:
        try:
            return await self.connect(self._where, [], self._timeout)
        except TimeoutError as error:
            text = f"no connection to {self._endpoint} within the time limit"
            raise aiohttp.ConnectionTimeoutError(text) from error

    @cached_property
    def _where(self) -> aiohttp.ClientRequest:
        url = URL(self._endpoint)
        return _Where("GET", url, loop=self._loop, proxy=self._proxy)

    def abort(self) -> None:
        """Break all connections; nothing that the kernel has not sent is sent any more."""
        for conversation in list(self._open):
            conversation.break_off()

    def _new_conversation(self) -> Conversation:
        conversation = Conversation(self._kernel_gives_up_s, self._permit)
        self._open.add(conversation)
        return conversation

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        """Return a connection that has rested; None has aiohttp open a new one.

        The first operation uses the connection of the opening request all the same. So its response
        comes soon, and if it asks to wait, little else has left.
        """
        idle = self._conns.get(key)  # by the time since when they are idle
        rests = self._rests and len(idle or ()) < MOST_RESTING
        if rests and idle and time.monotonic() - idle[0][1] < self._rest_s:
            return None
        self._rests = self._rests or bool(idle)
        return await super()._get(key, traces)

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, and the resolver."""
        self._lateness.close()
        await super().close(abort_ssl=abort_ssl)
        await self._resolver.close()
