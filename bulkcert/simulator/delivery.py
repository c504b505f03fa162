"""Putting a reply on the wire, well or badly.

In: a reply and the request that it answers. Out: bytes on the connection, and whether all of them
were handed over. A whole answer is written in one piece, from a head that is made once for all
answers alike: this is what most of the simulator's speed comes from.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from email.utils import formatdate
from functools import lru_cache
from http.client import responses

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.exchange import Delivery, Reply

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # l_onoff, l_linger of struct linger
_CHUNK = b" " * (1 << 18)  # JSON may end in any amount of white space


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer is on its way already, and whether the connection goes on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._goes_on = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._goes_on

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Courier:
    """Delivers replies as a behaviour says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._going_on = Sent(keep_alive=True)
        self._last = Sent(keep_alive=False)

    async def deliver(
        self, http: web.BaseRequest, reply: Reply, *, last: bool
    ) -> tuple[bool, web.StreamResponse]:
        """Send a reply, or do to the connection what it says instead.

        Args:
            last: the connection is closed after it.

        Returns:
            Whether the whole answer was handed over; and what the server is to be given.
        """
        transport = http.transport
        if transport is None or transport.is_closing():
            return False, self._last
        last = last or not http.keep_alive
        if reply.delivery is Delivery.HUGE:
            return await self._deliver_huge(http, reply)
        content = _head(reply.status, reply.content_type, last)
        if self._behaviour.dates:
            content += _date(int(time.time()))
        for name, value in reply.headers:
            content += f"{name}: {value}\r\n".encode("latin-1")
        content += b"Content-Length: %d\r\n\r\n%b" % (len(reply.body), reply.body)
        match reply.delivery:
            case Delivery.WHOLE:
                transport.write(content)
            case Delivery.DRIPPING:
                if not await self._drip(transport, content):
                    return False, self._last
            case Delivery.CUT_INSIDE:
                transport.write(content[: -len(reply.body) // 2])
                await asyncio.sleep(0)  # so that a reset does not overtake what was written
                self._cut(transport)
                return False, self._last
            case Delivery.CUT:
                self._cut(transport)
                return False, self._last
            case Delivery.RESET:
                _reset(transport)
                return False, self._last
        return True, self._last if last else self._going_on

    async def _drip(self, transport: asyncio.Transport, content: bytes) -> bool:
        for at in range(len(content)):
            if transport.is_closing():
                return False
            transport.write(content[at : at + 1])
            await asyncio.sleep(self._behaviour.byte_interval)
        return True

    async def _deliver_huge(
        self, http: web.BaseRequest, reply: Reply
    ) -> tuple[bool, web.StreamResponse]:
        response = web.StreamResponse(status=reply.status)
        response.content_type = "application/json"
        rest = response.content_length = max(self._behaviour.huge_body_bytes, len(reply.body))
        try:
            await response.prepare(http)
            await response.write(reply.body)
            rest -= len(reply.body)
            while rest:
                await response.write(_CHUNK[:rest])
                rest -= min(rest, len(_CHUNK))
        except ConnectionError:
            return False, self._last
        return True, response

    def _cut(self, transport: asyncio.Transport) -> None:
        if self._behaviour.cut_style == "reset":
            _reset(transport)
        else:
            transport.close()


def _reset(transport: asyncio.Transport) -> None:
    plain: socket.socket = transport.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


@lru_cache(maxsize=1)
def _date(unix_s: int) -> bytes:
    return f"Date: {formatdate(unix_s, usegmt=True)}\r\n".encode("latin-1")


@lru_cache(maxsize=256)
def _head(status: int, content_type: str, last: bool) -> bytes:
    """The lines that most answers have in common."""
    phrase = responses.get(status, "")  # an option may ask for a status that has no name
    connection = "Connection: close\r\n" if last else ""
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n{connection}"
    return head.encode("latin-1")
