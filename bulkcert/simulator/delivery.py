"""Send a response as it should be sent, or as a fault wants it.

In: a response, and the HTTP request that it belongs to. Out: bytes on the connection, and whether
all of them were written. An ordinary response is written in one piece, and its first lines are
cached: most of the simulator's speed comes from this.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from codecs import BOM_UTF8
from dataclasses import replace
from email.utils import formatdate
from functools import lru_cache
from http.client import responses as phrases

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.exchange import JSON_TYPE, Delivery, Response

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # l_onoff, l_linger of struct linger
_CHUNK = b" " * (1 << 18)  # JSON may end with any amount of white space


class AlreadySent(web.StreamResponse):
    """Tells aiohttp that the response was written already, and whether to keep the connection."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keeps_connection = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._keeps_connection

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class ResponseWriter:
    """Writes responses to connections."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._keep = AlreadySent(keep_alive=True)
        self._close = AlreadySent(keep_alive=False)

    async def write(
        self, http: web.BaseRequest, response: Response, *, last: bool
    ) -> tuple[bool, web.StreamResponse]:
        """Send a response, or do to the connection what the response says instead.

        Args:
            http: the request that it belongs to.
            response: what to send, and how.
            last: close the connection afterwards.

        Returns:
            Whether the whole response was written, and what to return to aiohttp.
        """
        transport = http.transport
        if transport is None or transport.is_closing():
            return False, self._close
        last = last or not http.keep_alive
        if self._behaviour.bom and response.content_type == JSON_TYPE:
            response = replace(response, body=BOM_UTF8 + response.body)
        body = b"" if http.method == "HEAD" else response.body
        if response.delivery is Delivery.HUGE and body:
            return await self._write_huge(http, response)
        content = _head(response.status, response.content_type, last)
        if self._behaviour.dates:
            content += _date(int(time.time() + self._behaviour.dates_ahead))
        for name, value in response.headers:
            content += f"{name}: {value}\r\n".encode("latin-1")
        content += b"Content-Length: %d\r\n\r\n%b" % (len(response.body), body)
        match response.delivery:
            case Delivery.WHOLE | Delivery.HUGE:
                transport.write(content)
            case Delivery.TWICE:
                transport.write(content + content)
            case Delivery.DRIPPING:
                if not await self._drip(transport, content):
                    return False, self._close
            case Delivery.CUT_INSIDE:
                transport.write(content[: len(content) - max(1, len(body) // 2)])
                await asyncio.sleep(0)  # lets the bytes go out before a reset
                self._cut(transport)
                return False, self._close
            case Delivery.CUT:
                self._cut(transport)
                return False, self._close
            case Delivery.RESET:
                _reset(transport)
                return False, self._close
        return True, self._close if last else self._keep

    async def _drip(self, transport: asyncio.Transport, content: bytes) -> bool:
        for at in range(len(content)):
            if transport.is_closing():
                return False
            transport.write(content[at : at + 1])
            await asyncio.sleep(self._behaviour.byte_interval)
        return True

    async def _write_huge(
        self, http: web.BaseRequest, response: Response
    ) -> tuple[bool, web.StreamResponse]:
        stream = web.StreamResponse(status=response.status)
        stream.content_type = "application/json"
        rest = stream.content_length = max(self._behaviour.huge_body_bytes, len(response.body))
        try:
            await stream.prepare(http)
            await stream.write(response.body)
            rest -= len(response.body)
            while rest:
                await stream.write(_CHUNK[:rest])
                rest -= min(rest, len(_CHUNK))
        except ConnectionError:
            return False, self._close
        return True, stream

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
    """The status line and the headers that most responses share."""
    phrase = phrases.get(status, "")  # an option may ask for a status without a name
    connection = "Connection: close\r\n" if last else ""
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n{connection}"
    return head.encode("latin-1")
