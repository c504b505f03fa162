"""The server of the simulator: from the arrival of a request to its line in the ledger.

In: HTTP requests on a loopback address. Out: the vendors' responses, changed by the faults that the
behaviour asks for; and the ledger. The time of arrival is read before anything else happens, and
nothing here may block the event loop: either mistake would falsify the ledger.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.cache import Cache
from bulkcert.simulator.clock import SECOND_US, Clock
from bulkcert.simulator.delivery import ResponseWriter
from bulkcert.simulator.exchange import (
    REDIRECTED,
    Call,
    CertificateState,
    Delivery,
    Request,
    Response,
    html_page,
)
from bulkcert.simulator.faults import Faults, respond_with
from bulkcert.simulator.inspection import INSPECTION_PATH, Inspection, json_response
from bulkcert.simulator.ledger import Entry, Ledger, LedgerError
from bulkcert.simulator.vendors import Vendors

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_BACKLOG = 4096


class _Server(web.Server):
    """Counts connections; and the requests on each connection, if their number is limited."""

    def __init__(self, handler: Handler, *, keep_alive_requests: int, **options: Any) -> None:
        super().__init__(handler, **options)
        self.accepted = 0
        self._most = keep_alive_requests
        self._served: dict[Any, int] = {}

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        self.accepted += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        self._served.pop(handler, None)
        super().connection_lost(handler, exc)

    def is_last(self, http: web.BaseRequest) -> bool:
        """Count a request on its connection. Returns whether it is the last one allowed."""
        if not self._most:
            return False
        served = self._served[http.protocol] = self._served.get(http.protocol, 0) + 1
        return served >= self._most


class Simulator:
    """Both vendors on one loopback port, as an async context manager.

    Args:
        behaviour: how the simulator behaves.
        fleet: file with the devices and certificates that exist; None makes all devices exist.
        ledger: file for the ledger; None keeps the ledger in memory.
        host: a loopback address.
        port: 0 takes any free port.
        tls: serves HTTPS instead of HTTP.

    Attributes:
        endpoint: base URL, once the simulator is running.
        writing: the task that writes the ledger; it ends early only with a `LedgerError`.

    Raises:
        ValueError: the host is not a loopback address, or the fleet file is invalid.
        OSError: a file can't be read or written, or the port is in use.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        fleet: str | os.PathLike[str] | None = None,
        ledger: str | os.PathLike[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if host != "localhost" and not ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address")
        self.behaviour = behaviour or Behaviour()
        self._host, self._port, self._tls = host, port, tls
        self._fleet_path = None if fleet is None else Path(fleet)
        self._ledger_path = None if ledger is None else Path(ledger)
        self._outage_until_us: int | None = None
        self._open: set[asyncio.Task[Any] | None] = set()  # requests that have not ended

    async def __aenter__(self) -> Self:
        behaviour = self.behaviour
        self._clock = Clock()
        fleet = self._fleet_path
        self._vendors = Vendors(behaviour, self._clock.now_us(), open_world=fleet is None)
        if fleet is not None:
            self._vendors.add_file(fleet)
        self._faults = Faults(behaviour)
        self._cache = Cache(behaviour)
        self._writer = ResponseWriter(behaviour)
        self._ledger = Ledger(self._ledger_path)
        self._inspection = Inspection(self._ledger, self.summary, self._states)
        self._ledger.open()
        self.writing = asyncio.create_task(self._ledger.keep_written())
        self._server = _Server(
            self._serve,
            keep_alive_requests=behaviour.keep_alive_requests,
            keepalive_timeout=behaviour.keep_alive,
            access_log=None,
        )
        # clients that still wait for a response when the simulator stops don't get one
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.01)
        try:
            await self._listen()
        except OSError:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _listen(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self._host, self._port, backlog=_BACKLOG, ssl_context=self._tls
        )
        await site.start()
        host, port = self._runner.addresses[0][:2]
        scheme = "https" if self._tls else "http"
        name = f"[{host}]" if ":" in host else self._host
        self.endpoint = self._vendors.enos.authority.portal = f"{scheme}://{name}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        # a request may outlive its connection, and the ledger must still show what it did
        open_requests = [task for task in self._open if task]
        for task in open_requests:
            task.cancel()
        await asyncio.gather(*open_requests, return_exceptions=True)
        await self._vendors.close()
        self.writing.cancel()
        with suppress(asyncio.CancelledError, LedgerError):
            await self.writing
        await self._ledger.close()

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """Every request that has ended so far; `bulkcert.simulator.ledger` explains the fields."""
        return self._ledger.entries()

    def summary(self) -> dict[str, Any]:
        """Counts and rates of the ledger, and the number of connections."""
        summary = self._ledger.summary()
        summary["connections"] = {
            "accepted": self._server.accepted,
            "open": len(self._server.connections),
        }
        return summary

    def certificates(self, device: str) -> list[CertificateState]:
        """The certificates of a device, oldest first; none if no request has mentioned it.

        Args:
            device: the device as the ledger names it, such as `assetId=A1`.
        """
        named = dict(part.partition("=")[::2] for part in device.split("&"))
        return self._states(named)

    def _states(self, named: dict[str, str]) -> list[CertificateState]:
        return self._vendors.certificates(named, self._clock.now_us())

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        at_us = self._clock.now_us()
        path, _, query = http.raw_path.partition("?")
        if path.startswith(INSPECTION_PATH):
            return await self._inspection.respond(http, path, query)
        entry = self._ledger.arrive(at_us, http.remote or "")
        request = Request(at_us, entry.source, http.method, path, query, http.headers, b"")
        task = asyncio.current_task()
        self._open.add(task)
        try:
            return await self._handle(http, request, entry)
        finally:
            self._open.discard(task)
            self._ledger.end(entry)

    async def _handle(
        self, http: web.BaseRequest, request: Request, entry: Entry
    ) -> web.StreamResponse:
        """Respond to a request, and fill in its entry."""
        if request.path.startswith(REDIRECTED):
            return self._respond_to_redirected(request, entry)
        vendor = self._vendors.serving(request.path)
        entry.provider = vendor.provider
        # before the body is read, so that limits count arrivals in their order
        gated = self._outage(entry) or vendor.gate(request) or self._cache.find(request)
        if http.can_read_body:
            try:
                request = request._replace(body=await http.read())
            except web.HTTPRequestEntityTooLarge:
                gated = gated or vendor.too_large()
            except ConnectionError:
                entry.action = "incomplete"  # the client left before it had sent the whole body
                return web.Response()
        call = vendor.read(request)
        entry.action, entry.scope, entry.device = call.action, call.scope, call.device
        entry.cert_sn = call.cert_sn
        draw = self._faults.no_fault if gated else self._faults.draw(call)
        entry.fault = draw.fault  # at once: a stop may end the request before it has a response
        due_us = request.at_us + int(draw.latency_s * SECOND_US)
        if draw.fault == "execute_late":
            due_us += int(self.behaviour.execute_late_by * SECOND_US)
            await self._wait_until(due_us)
        with _recorded_effect(entry, call):
            response = gated or await respond_with(draw.fault, draw.variant, vendor, call)
        self._cache.store(request, response)
        entry.code, entry.fault = response.code, response.fault
        if draw.fault == "slow_first_byte":
            due_us += int(self.behaviour.slow_first_byte_by * SECOND_US)
        due_us += int(response.hold_s * SECOND_US)
        await self._wait_until(due_us)
        last = self._server.is_last(http) or draw.fault == "page_late"
        written, result = await self._writer.write(http, response, last=last)
        if written:
            entry.status, entry.answered_us = response.status, self._clock.now_us()
        if draw.fault == "page_late":  # the service behind the gateway works on
            await self._wait_until(due_us + int(self.behaviour.execute_late_by * SECOND_US))
            with _recorded_effect(entry, call):
                entry.code = (await vendor.respond(call)).code
        return result

    def _respond_to_redirected(self, request: Request, entry: Entry) -> web.StreamResponse:
        """Respond to a client that followed a redirect; for every client it looks like success."""
        entry.provider, entry.action = request.path.removeprefix(REDIRECTED), "redirected"
        document = {"code": 0, "status": 0, "msg": "OK", "data": None, "RequestId": "0"}
        entry.status, entry.answered_us = 200, self._clock.now_us()
        return json_response(document)

    async def _wait_until(self, due_us: int) -> None:
        if (wait_us := due_us - self._clock.now_us()) > 0:
            await asyncio.sleep(wait_us / SECOND_US)

    def _outage(self, entry: Entry) -> Response | None:
        """The response to all requests during an outage, or None if there is no outage now."""
        behaviour = self.behaviour
        if not 0 < behaviour.outage_after < entry.n:
            return None
        if self._outage_until_us is None:
            self._outage_until_us = entry.at_us + int(behaviour.outage_for * SECOND_US)
        if entry.at_us >= self._outage_until_us:
            return None
        if behaviour.outage_style == "page":
            return replace(html_page(502), fault="outage")
        return Response(None, 502, fault="outage", delivery=Delivery.CUT)


@contextmanager
def _recorded_effect(entry: Entry, call: Call) -> Iterator[None]:
    """Fill in what a call changed, however its execution ends."""
    try:
        yield
    finally:
        entry.effect, entry.executed = call.effect, call.effect != "none"
        entry.issued = call.issued
