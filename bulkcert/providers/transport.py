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
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from bulkcert.errors import JobError
from bulkcert.providers import departure
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
from bulkcert.providers.connector import PacedConnector
from bulkcert.providers.decoding import one_line
from bulkcert.timings import Timings
from bulkcert.version import VERSION

LARGEST_BODY = 8 * 2**20
"""Bytes, once decompressed. A list of a thousand certificates fits; a body that never ends does
not."""

LONGEST_HEADER = 2**16
"""Bytes of one header. aiohttp gives up after 8,190, but gateways send longer ones."""

MOST_HEADERS = 1000
"""Headers of one response. aiohttp gives up after 128."""

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",
    "User-Agent": f"bulkcert/{VERSION}",
}
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
        self._deadlines = departure.Deadlines(timeout_s)
        self._proxy = URL(proxy) if proxy else None
        if local_address is not None:
            _check_family(local_address, proxy or endpoint)
        context = _tls_context(endpoint, ca_file)
        once = timings.connect_timeout_s  # for each address of the endpoint
        self._connector = PacedConnector(pace, context, local_address, timings, permit)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=timings.dns_timeout_s + 3 * once, sock_connect=once
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            skip_auto_headers=["Content-Type"],  # a request without a body has none
            auto_decompress=False,  # we do it ourselves, in bounded memory
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )
        # aiohttp repeats a GET on its own when the connection dies. Repeating is not its decision.
        self._session._retry_connection = False

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
        leaving = departure.Departure(self._deadlines, on_departure, sign)
        departure.current.set(leaving)
        try:
            async with self._session.request(
                request.method,
                URL(self._endpoint + request.target, encoded=True),
                headers=request.headers,
                data=request.body or None,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                content = await _bounded_body(response)
                if content is None:
                    response.close()
                    return _too_large()
                if response.status == 407 and self._proxy is not None:
                    return self._proxy_failed("407 Proxy Authentication Required", unusable=True)
                assert leaving.at is not None
                return _response(response.status, response.headers, content, leaving.at)
        except aiohttp.ClientConnectorCertificateError as error:
            return CallResult(
                CallKind.UNUSABLE,
                message=f"TLS can't verify the certificate of {error.host}:"
                f" {_certificate_problem(error)}",
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if leaving.at is None:
                return self._not_sent(error)
            return _in_doubt(_broken_off(error))
        except asyncio.CancelledError:
            if leaving.undo_expiry():
                return _in_doubt(f"no response within {self._timeout_s:g} s")
            raise
        finally:
            leaving.end()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

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


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes | None:
    if response.content_length is not None and response.content_length <= LARGEST_BODY:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


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
    if isinstance(error, aiohttp.ClientResponseError):  # what came is not HTTP as we read it
        return f"the response can't be read: {one_line(error.message, 300)}"
    return f"connection lost: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """The text of an error, which may quote what the server sent, at any length."""
    return one_line(str(error), 300) or type(error).__name__
