"""Sends one request over HTTP. Shared by all providers.

In: a request. Out: a `Response`, or a `CallResult` that says whether the request can have arrived.
Never raises for what the network or the server does, never repeats a request, and never follows a
redirect (credentials would go elsewhere, and a POST would become a GET).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from bulkcert.errors import JobError
from bulkcert.providers.call import (
    CallKind,
    CallResult,
    OnDeparture,
    Pace,
    Request,
    Response,
    Signer,
)
from bulkcert.providers.decoding import one_line
from bulkcert.timings import Timings

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MOST_CONNECTIONS = 5
"""Connections used for one request. The server may hang up on a connection while the request waits
for its turn; then another one is opened."""

LARGEST_BODY = 8 * 2**20
"""Bytes. A list of a thousand certificates fits; a body that never ends does not."""


class _Departure:
    """The departure of one request: it is signed, its deadline set, and the caller notified."""

    __slots__ = ("_deadlines", "_on_departure", "_sign", "_task", "at", "expired")

    def __init__(
        self, deadlines: _Deadlines, on_departure: OnDeparture, sign: Signer | None
    ) -> None:
        self._deadlines = deadlines
        self._on_departure = on_departure
        self._sign = sign
        self._task = asyncio.current_task()
        self.at: float | None = None
        self.expired = False

    def leave(self, now: float, headers: MutableMapping[str, str]) -> None:
        if self._sign is not None:
            headers.update(self._sign())
        self.at = now
        self._deadlines.begin(self, now)
        self._on_departure()

    @property
    def over(self) -> bool:
        return self._task is None

    def expire(self) -> None:
        """Cancel the request, unless it is over."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def undo_expiry(self) -> bool:
        """Undo the cancellation by `expire`; return False if there was none, or another one too."""
        return self.expired and self._task is not None and self._task.uncancel() == 0

    def end(self) -> None:
        """The request is over: drop all references.

        The task's context keeps this object, which refers to the task. A reference cycle for each
        request would make the garbage collector stop the program for a long time.
        """
        self._task = None
        del self._deadlines, self._on_departure, self._sign


class _Deadlines:
    """Cancels requests that take too long.

    All requests may take equally long, so they are due in the order in which they leave, and one
    timer is enough for all. Measured: `asyncio.timeout` took a twentieth of all CPU.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._due: deque[tuple[float, _Departure]] = deque()  # by time; some are over already
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, departure: _Departure, now: float) -> None:
        """Set the deadline of a request that leaves now."""
        while self._due and self._due[0][1].over:
            self._due.popleft()
        self._due.append((now + self._timeout_s, departure))
        if self._timer is None:
            self._set_timer()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._due[0][0], self._expire) if self._due else None

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._due and (self._due[0][1].over or self._due[0][0] <= now):
            self._due.popleft()[1].expire()
        self._set_timer()


_departure: ContextVar[_Departure] = ContextVar("_departure")


class _PacedConnector(aiohttp.TCPConnector):
    """Hands out a connection only together with the permission to use it at once.

    So nothing can leave without the pacer's permission, and no request waits after it.
    """

    def __init__(
        self, pace: Pace, context: ssl.SSLContext | bool, local_address: str | None
    ) -> None:
        local = None if local_address is None else (local_address, 0)
        super().__init__(limit=0, ssl=context, local_addr=local)
        self._pace = pace

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        for _ in range(MOST_CONNECTIONS):
            connection = await super().connect(req, traces, timeout)
            try:
                now = await self._pace.depart()
                if connection.protocol is not None and connection.protocol.is_connected():
                    _departure.get().leave(now, req.headers)
                    return connection
            except BaseException:
                connection.release()
                raise
            connection.close()  # the server hung up during the wait: a new one needs a new turn
        raise aiohttp.ClientConnectionError("the server hangs up on every connection")


class Transport:
    """A pool of connections to one endpoint.

    Args:
        endpoint: base URL without trailing slash.
        pace: asked before each request leaves.
        timeout_s: seconds that a response may take, from the moment its request left.
        ca_file: PEM file with a CA to trust besides the system's.
        local_address: IP address of this machine to send from, see `check_source_address`; None
            lets the system choose.
        connect_timeout_s: seconds that a connection may take to establish.

    Raises:
        JobError: the CA file can't be used.
    """

    def __init__(
        self,
        endpoint: str,
        pace: Pace,
        *,
        timeout_s: float,
        ca_file: Path | None = None,
        local_address: str | None = None,
        connect_timeout_s: float = Timings().connect_timeout_s,
    ) -> None:
        self.pace = pace
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._deadlines = _Deadlines(timeout_s)
        self._session = aiohttp.ClientSession(
            connector=_PacedConnector(pace, _tls_context(endpoint, ca_file), local_address),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            skip_auto_headers=["Content-Type"],  # a request without a body has none
            auto_decompress=False,  # no encoding was asked for, and a small body must stay small
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
        departure = _Departure(self._deadlines, on_departure, sign)
        _departure.set(departure)
        try:
            async with self._session.request(
                request.method,
                URL(self._endpoint + request.target, encoded=True),
                headers=request.headers,
                data=request.body or None,
                allow_redirects=False,
            ) as response:
                content = await _bounded_body(response)
                if content is None:
                    response.close()
                    return _in_doubt(f"the response is larger than {LARGEST_BODY >> 20} MiB")
                assert departure.at is not None
                return Response(response.status, response.headers, content, departure.at)
        except aiohttp.ClientConnectorCertificateError as error:
            return CallResult(
                CallKind.UNUSABLE,
                message=f"TLS can't verify the certificate of {error.host}:"
                f" {_certificate_problem(error)}",
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if departure.at is None:
                return CallResult(CallKind.NOT_SENT, message=f"no connection: {_reason(error)}")
            return _in_doubt(f"connection lost: {_reason(error)}")
        except asyncio.CancelledError:
            if departure.undo_expiry():
                return _in_doubt(f"no response within {self._timeout_s:g} s")
            raise
        finally:
            departure.end()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


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


def _tls_context(endpoint: str, ca_file: Path | None) -> ssl.SSLContext | bool:
    if endpoint.startswith("http://"):
        return True  # a loopback address, without TLS; making a context takes 0.17 s
    context = ssl.create_default_context()
    if ca_file is not None:
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


def _reason(error: BaseException) -> str:
    """The text of an error, which may quote what the server sent, at any length."""
    return one_line(str(error), 300) or type(error).__name__
