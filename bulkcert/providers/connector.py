"""Connections to one endpoint: when they are made, which may be used, and for how long.

In: a request that is ready to leave. Out: it is written, as soon as it may be, to a connection on
which nothing has happened that nobody asked for. Never uses a connection with bytes that came
before the request: they would be taken for its response. Never writes without the permit of this
process, if it needs one.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
import weakref
from collections import deque

import aiohttp
from yarl import URL

from bulkcert.providers.call import Pace, Permit
from bulkcert.providers.conversation import Conversation
from bulkcert.providers.departure import Departure
from bulkcert.providers.lateness import Lateness
from bulkcert.timings import Timings

MOST_CONNECTIONS = 5
"""Connections used for one request. The server may hang up on a connection while the request waits
for its turn; then another one is opened."""

MOST_RESTING = 50
"""Connections that rest at the same time; see `Timings.rest_s`. At 500 requests/s there are never
more. If there are, the one that has rested longest is used: it has seen fifty requests leave since.
Each connection takes room in the processor's cache, with TLS most of all."""

_LONGEST_IDLE_S = 15.0
"""After this time a connection is not used again: the server, or what stands between, may have
forgotten it."""

_UNUSABLE = "the server hangs up on every connection, or sends before it is asked"
_NOT_PERMITTED = "this host has to stand still"


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


class Connector:
    """Uses a connection only together with the permission to do so at once.

    So nothing can leave without the pacer's permission, and no request waits after it. aiohttp
    opens connections and encrypts them; which of them is used is decided here.

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
        self._endpoint, self._proxy = endpoint, proxy
        self._resolver = Resolver(timings.dns_timeout_s, local_address)
        self._tcp = aiohttp.TCPConnector(
            limit=0,
            ssl=context,
            local_addr=None if local_address is None else (local_address, 0),
            resolver=self._resolver,
        )
        # aiohttp has no public way to choose what reads a connection
        self._tcp._factory = self._new_conversation  # type: ignore[assignment]
        once_s = timings.connect_timeout_s  # for each address of the endpoint
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=timings.dns_timeout_s + 3 * once_s, sock_connect=once_s
        )
        self._pace = pace
        self._rest_s = timings.rest_s
        self._rests = False  # until a connection has been used again
        self._idle: deque[Conversation] = deque()  # the one first that has been longest
        self._lateness = Lateness(pace, timings.lateness)
        self._permit = permit
        self._kernel_gives_up_s = timings.lateness.kernel_gives_up_s
        self._open = weakref.WeakSet[Conversation]()

    async def leave(self, leaving: Departure) -> Conversation:
        """Have a request leave as soon as it may; return the connection that gets the response. It
        must be kept or given up.

        Raises:
            aiohttp.ClientError, OSError: there is no connection.
            ValueError: the request can't be written.
        """
        problem = _UNUSABLE
        for _ in range(MOST_CONNECTIONS):
            conversation = self._rested()
            if conversation is None:
                conversation = await self._opened()
            try:
                now = await self._pace.depart()
                if conversation.has_unread():
                    # The loop reads it now. It may be a message of TLS, which is for nobody.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                usable = conversation.is_usable()
                if usable and conversation.begin_write():
                    request = leaving.leave(now, conversation.source)
                    self._lateness.watch(leaving, conversation.socket, now)
                    conversation.write(request)  # last: what it is written on is not kept
                    return conversation
            except BaseException:
                self.keep(conversation)
                raise
            problem = _NOT_PERMITTED if usable else _UNUSABLE
            conversation.give_up()  # it ended during the wait: another one needs a new turn
        raise aiohttp.ClientConnectionError(problem)

    def keep(self, conversation: Conversation) -> None:
        """Keep a connection for another request, if it can be used for one."""
        if conversation.is_usable():
            conversation.complete()
            conversation.idle_since = time.monotonic()
            self._idle.append(conversation)
        else:
            conversation.give_up()

    def abort(self) -> None:
        """Break all connections; nothing that the kernel has not sent is sent any more."""
        for conversation in list(self._open):
            conversation.break_off()

    async def close(self) -> None:
        """Close all connections, and the resolver."""
        self._lateness.close()
        while self._idle:
            self._idle.pop().give_up()
        await self._tcp.close()
        await self._resolver.close()

    def _rested(self) -> Conversation | None:
        """Return a connection that has rested; None if another one must be opened.

        The first operation uses the connection of the opening request all the same. So its response
        comes soon, and if it asks to wait, little else has left.
        """
        idle, now = self._idle, time.monotonic()
        while idle and not (idle[0].is_connected() and now - idle[0].idle_since < _LONGEST_IDLE_S):
            idle.popleft().give_up()
        if not idle:
            return None
        rests = self._rests and len(idle) < MOST_RESTING
        if rests and now - idle[0].idle_since < self._rest_s:
            return None
        self._rests = True
        return idle.popleft()

    async def _opened(self) -> Conversation:
        """Open a connection."""
        url = URL(self._endpoint)
        # only says where to connect to: it is never written
        where = aiohttp.ClientRequest(
            "GET", url, loop=asyncio.get_running_loop(), proxy=self._proxy
        )
        try:
            connection = await self._tcp.connect(where, [], self._timeout)
        except TimeoutError as error:
            text = f"no connection to {self._endpoint} within the time limit"
            raise aiohttp.ConnectionTimeoutError(text) from error
        conversation = connection.protocol
        assert isinstance(conversation, Conversation)
        conversation.connection = connection
        return conversation

    def _new_conversation(self) -> Conversation:
        conversation = Conversation(self._kernel_gives_up_s, self._permit)
        self._open.add(conversation)
        return conversation
