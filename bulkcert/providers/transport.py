"""Sends one request over HTTP. Shared by all providers.

In: a request. Out: a `Response`, or a `CallResult` that says whether the request can have arrived.
Never raises for what the network or the server does, never repeats a request, and never follows a
redirect (credentials would go elsewhere, and a POST would become a GET).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from bulkcert.errors import JobError
from bulkcert.providers.base import MASK
from bulkcert.providers.call import (
    CallKind,
    CallResult,
    OnDeparture,
    Pace,
    Permit,
    Request,
    Response,
    Signer,
)
from bulkcert.providers.compression import TooLargeError, decompressed
from bulkcert.providers.connector import Connector
from bulkcert.providers.conversation import Conversation
from bulkcert.providers.decoding import one_line
from bulkcert.providers.departure import Deadlines, Departure
from bulkcert.providers.wire import Wire
from bulkcert.timings import Timings

LARGEST_BODY = 8 * 2**20
"""Bytes, once decompressed. A list of a thousand certificates fits; a body that never ends does
not."""

_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


class Transport:
    """A pool of connections to one endpoint.

    Args:
        endpoint: base URL without trailing slash.
        pace: asked before each request leaves.
        timeout_s: seconds that a response may take, from the moment its request left.
        ca_file: PEM file with a CA to trust besides the system's.
        local_address: IP address of this machine to send from, see `check_source_address`; None
            lets the system choose.
        proxy: URL of an HTTP proxy to send through, perhaps with a user name and a password; empty
            for none.
        permit: asked directly before each request is written; None if this process may always send.
        timings: how long finding an address and connecting may take.

    Raises:
        JobError: the CA file can't be used, or the local address can't reach the endpoint.
    """

    def __init__(
        self,
        endpoint: str,
        pace: Pace,
        *,
        timeout_s: float,
        ca_file: Path | None = None,
        local_address: str | None = None,
        proxy: str = "",
        permit: Permit | None = None,
        timings: Timings = Timings(),
    ) -> None:
        self.pace = pace
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._deadlines = Deadlines(timeout_s)
        self._proxy = URL(proxy) if proxy else None
        if local_address is not None:
            _check_family(local_address, proxy or endpoint)
        context = _tls_context(endpoint, ca_file)
        self._connector = Connector(
            endpoint, pace, context, local_address, self._proxy, timings, permit
        )

    @cached_property
    def _wire(self) -> Wire:
        # with TLS, a proxy only connects
        return Wire(self._endpoint, None if self._endpoint.startswith("https:") else self._proxy)

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        """Send one request.

        Args:
            request: sent exactly as it is, with the headers that HTTP itself needs.
            on_departure: called when the request leaves.
            sign: makes the headers that authenticate the request; None if it needs none.

        Returns:
            The response; or, if there is none, a result of kind NOT_SENT, IN_DOUBT or UNUSABLE.
        """
        leaving = Departure(
            self._deadlines,
            on_departure,
            lambda: self._wire.bytes_of(request, sign() if sign is not None else {}),
        )
        conversation: Conversation | None = None
        try:
            conversation = await self._connector.leave(leaving)
            assert leaving.at is not None
            message, stream = await conversation.response()
            content = await _bounded(stream)
            if content is None:
                return _too_large()
            self._connector.keep(conversation)
            conversation = None
            if message.code == 407 and self._proxy is not None:
                return self._proxy_failed("407 Proxy Authentication Required", unusable=True)
            return _response(message.code, message.headers, content, leaving.at)
        except aiohttp.ClientConnectorCertificateError as error:
            return CallResult(
                CallKind.UNUSABLE,
                message=f"TLS can't verify the certificate of {error.host}:"
                f" {_certificate_problem(error)}",
            )
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            if leaving.at is None:
                return self._not_sent(error)
            return _in_doubt(_broken_off(error))
        except asyncio.CancelledError:
            if leaving.undo_expiry():
                return _in_doubt(f"no response within {self._timeout_s:g} s")
            raise
        finally:
            leaving.end()
            if conversation is not None:
                conversation.give_up()

    async def close(self) -> None:
        """Close all connections."""
        await self._connector.close()

    def abort(self) -> None:
        """Break all connections at once. What the kernel has not sent by then is never sent."""
        self._connector.abort()

    def _not_sent(self, error: Exception) -> CallResult:
        """The result of a request that never left, with what the operator may overlook."""
        if self._proxy is None:
            message = f"no connection: {_reason(error)}"
            set_names = [name for name in _PROXY_VARIABLES if _in_environment(name)]
            if set_names:
                are = "is" if len(set_names) == 1 else "are"
                message += (
                    f" ({' and '.join(set_names)} {are} set, but proxy variables of the environment"
                    " are not used: name the proxy in connection.proxy)"
                )
            return CallResult(CallKind.NOT_SENT, message=message)
        refused = isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407
        return self._proxy_failed(str(error) or type(error).__name__, unusable=refused)

    def _proxy_failed(self, text: str, *, unusable: bool) -> CallResult:
        """The result of a request that came to its end at the proxy."""
        proxy = self._proxy
        assert proxy is not None
        public = str(proxy.with_user(None))
        for secret in (str(proxy), proxy.raw_password, proxy.password):
            text = text.replace(secret, MASK) if secret else text
        message = f"no connection through the proxy {public}: {one_line(text, 300)}"
        return CallResult(CallKind.UNUSABLE if unusable else CallKind.NOT_SENT, message=message)


def _in_environment(name: str) -> bool:
    return any(os.environ.get(spelling) for spelling in (name, name.lower()))


def _response(
    status: int, headers: Mapping[str, str], content: bytes, departed_at: float
) -> Response | CallResult:
    flaw = ""
    try:
        body = decompressed(content, headers.get("Content-Encoding", ""), LARGEST_BODY)
    except TooLargeError:
        return _too_large()
    except ValueError as damage:
        body, flaw = b"", str(damage)
    return Response(status, headers, body, departed_at, flaw)


def _too_large() -> CallResult:
    return _in_doubt(f"the response is larger than {LARGEST_BODY >> 20} MiB")


async def _bounded(body: aiohttp.StreamReader) -> bytes | None:
    """The body of a response; None if it is too large."""
    if body.is_eof():  # most come together with the head
        content = body.read_nowait()
        return content if len(content) <= LARGEST_BODY else None
    whole = bytearray()
    while content := await body.readany():
        whole += content
        if len(whole) > LARGEST_BODY:
            return None
    return bytes(whole)


def check_source_address(address: str) -> None:
    """Make sure that this machine can send from an IP address.

    Raises:
        JobError: it is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise JobError(
            f"connection.source_addresses: cannot send from {address}: {_reason(error)}",
            "It must be an address of this machine. `ip address` lists them.",
        ) from error


def _check_family(address: str, url: str) -> None:
    """Make sure that an address can reach the host of a URL, if that is an address too."""
    host = urlsplit(url).hostname or ""
    try:
        far = ipaddress.ip_address(host)
    except ValueError:
        return  # a name; which addresses it has is found out later
    near = ipaddress.ip_address(address)
    if near.version != far.version:
        raise JobError(
            f"connection.source_addresses: {address} is an IPv{near.version} address, and can't"
            f" reach {host}, which is an IPv{far.version} address.",
            f"Use an IPv{far.version} address of this machine, or leave source_addresses out.",
        )


def _tls_context(endpoint: str, ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None or endpoint.startswith("http://"):
        # The default context of aiohttp, which it has made by now in the same way. Making one takes
        # as long as a hundred requests. Without TLS, on a loopback address, it is not used.
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise JobError(
            f"connection.ca_file can't be used: {ca_file}: {_reason(error)}",
            "It must be a readable PEM file with the certificate of the CA.",
        ) from error
    return context


def _in_doubt(message: str) -> CallResult:
    return CallResult(CallKind.IN_DOUBT, message=message)


def _certificate_problem(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    return getattr(cause, "verify_message", "") or _reason(cause)


def _broken_off(error: Exception) -> str:
    """Why there is no response although the request has left."""
    if isinstance(error, HttpProcessingError):  # what came is not HTTP as we read it
        return f"the response can't be read: {one_line(error.message, 300)}"
    return f"connection lost: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """The text of an error, which may quote what the server sent, at any length."""
    return one_line(str(error), 300) or type(error).__name__
