"""One connection: its requests and their responses, and nothing that nobody asked for.

In: the bytes of a request. Out: its response. Never takes bytes for a response that came before the
request, and reports when the request is in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler

from bulkcert.providers.call import Permit

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

    from aiohttp.connector import Connection
    from aiohttp.http_parser import RawResponseMessage

LONGEST_HEADER = 2**16
"""Bytes of one header. aiohttp gives up after 8,190, but gateways send longer ones."""

MOST_HEADERS = 1000
"""Headers of one response. aiohttp gives up after 128."""

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
        connection: what aiohttp's connector knows it by.
        idle_since: when its last response was complete, on the monotonic clock.
        socket: the socket of the connection.
        source: IP address of this machine that it begins at.
    """

    connection: Connection
    idle_since = 0.0
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
        self._end_write()
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

    def begin_write(self) -> bool:
        """Whether this process may write now. If so, `write` must follow, or `keep`."""
        self._writing = self._permit is not None and self._permit.begin_write()
        return self._writing or self._permit is None

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
        self._end_write()
        self._idle = True
        self._acknowledge()

    def give_up(self) -> None:
        """Close the connection, also for aiohttp's connector."""
        self.connection.close()

    def _acknowledge(self) -> None:
        """Acknowledge at once what has come, and what comes next."""
        if _TCP_QUICKACK is not None:
            with contextlib.suppress(OSError):  # it has just ended
                self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
