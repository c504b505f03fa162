"""The socket of the simulator: arrival, limit, fault, answer, ledger.

In: HTTP requests on a loopback address. Out: the answers of the services, made worse by the faults
that are asked for, and the ledger. The time of arrival is read before anything else is done, and
nothing here may hold up the event loop: both would falsify the ledger.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, replace
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from bulkcert.simulator.apsaramq.gateway import PATH, ApsaraMq
from bulkcert.simulator.apsaramq.registry import Registry
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import DAY_S, SECOND_US, Clock
from bulkcert.simulator.delivery import Courier
from bulkcert.simulator.enos.fleet import Fleet
from bulkcert.simulator.enos.gateway import Enos
from bulkcert.simulator.exchange import (
    REDIRECTED,
    CertificateState,
    Delivery,
    Reply,
    Request,
    Service,
    page_reply,
    parse_query,
)
from bulkcert.simulator.faults import Faults, reply_with
from bulkcert.simulator.fleet_file import read_rows
from bulkcert.simulator.ledger import Entry, Ledger, LedgerError

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

ADMIN = "/_simulator/"
_BACKLOG = 4096


class _Server(web.Server):
    """Counts connections, and the requests on each if that number has a limit."""

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
        """Count one more request on its connection; whether it is the last."""
        if not self._most:
            return False
        served = self._served[http.protocol] = self._served.get(http.protocol, 0) + 1
        return served >= self._most


class Simulator:
    """Both vendors on one loopback port; an async context manager.

    Args:
        behaviour: how it behaves.
        fleet: file with the devices and certificates that exist; without it all do.
        ledger: file for the ledger; without it the ledger is kept in memory.
        host: a loopback address.
        port: 0 for any that is free.
        tls: to serve HTTPS.

    Raises:
        ValueError: the host is not a loopback address, or the fleet file can't be used.
        OSError: a file can't be read or written, or the port is taken.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        fleet: Path | None = None,
        ledger: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if host != "localhost" and not ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address")
        self.behaviour = behaviour or Behaviour()
        self._host, self._port, self._tls = host, port, tls
        self._fleet_path, self._ledger_path = fleet, ledger
        self._outage_until_us: int | None = None
        self._open: set[asyncio.Task[Any] | None] = set()  # requests that have not ended

    async def __aenter__(self) -> Self:
        behaviour = self.behaviour
        self._clock = Clock()
        now_us = self._clock.now_us()
        fleet = Fleet(
            open_world=self._fleet_path is None,
            signed_at_s=now_us // SECOND_US - int(behaviour.certificate_age * DAY_S),
            life_days=behaviour.certificate_life,
        )
        registry = Registry(
            open_world=self._fleet_path is None, case_sensitive=behaviour.mq_sn_case
        )
        self._load_fleet(fleet, registry)
        self._faults = Faults(behaviour)
        self._courier = Courier(behaviour)
        self._enos = Enos(behaviour, fleet, now_us // SECOND_US)
        self._apsaramq = ApsaraMq(behaviour, registry, now_us)
        self._ledger = Ledger(self._ledger_path)
        self._ledger.open()
        self.writing = asyncio.create_task(self._ledger.keep_written())
        self._server = _Server(
            self._serve,
            keep_alive_requests=behaviour.keep_alive_requests,
            keepalive_timeout=behaviour.keep_alive,
            access_log=None,
        )
        # whoever is still waiting for an answer when the simulator stops does not get one
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
        self.endpoint = self._enos.authority.portal = f"{scheme}://{name}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        # a request may outlive its connection, and what it did belongs into the ledger
        open_requests = [task for task in self._open if task]
        for task in open_requests:
            task.cancel()
        await asyncio.gather(*open_requests, return_exceptions=True)
        await self._enos.authority.close()
        self.writing.cancel()
        with suppress(asyncio.CancelledError, LedgerError):
            await self.writing
        await self._ledger.close()

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """Every request that has ended so far, as `bulkcert.simulator.ledger` explains."""
        return self._ledger.entries()

    def summary(self) -> dict[str, Any]:
        """Counts and rates of the ledger, and the connections."""
        summary = self._ledger.summary()
        summary["connections"] = {
            "accepted": self._server.accepted,
            "open": len(self._server.connections),
        }
        return summary

    def certificates(self, device: str) -> list[CertificateState]:
        """The certificates of a device, the oldest first; none if it was never heard of.

        Args:
            device: as in the ledger, such as `assetId=A1`.
        """
        named = dict(part.partition("=")[::2] for part in device.split("&"))
        return self._states(named)

    def _states(self, named: dict[str, str]) -> list[CertificateState]:
        service = self._apsaramq if "CaSn" in named else self._enos
        return service.certificates(named, self._clock.now_us())

    def _load_fleet(self, fleet: Fleet, registry: Registry) -> None:
        """Have the rows of the fleet file taken, each by whom it belongs to."""
        if self._fleet_path is None:
            return
        for line, row in read_rows(self._fleet_path):
            try:
                mqtt = "CaSn" in row or "MqttInstanceId" in row
                (registry.take if mqtt else fleet.take)(row)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{self._fleet_path}, row {line}: {error}") from None

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        at_us = self._clock.now_us()
        path, _, query = http.raw_path.partition("?")
        if path.startswith(ADMIN):
            return await self._administer(http, path.removeprefix(ADMIN), query)
        entry = self._ledger.arrive(at_us, http.remote or "")
        request = Request(at_us, entry.source, http.method, path, query, http.headers, b"")
        task = asyncio.current_task()
        self._open.add(task)
        try:
            return await self._converse(http, request, entry)
        finally:
            self._open.discard(task)
            self._ledger.end(entry)

    async def _converse(
        self, http: web.BaseRequest, request: Request, entry: Entry
    ) -> web.StreamResponse:
        """Have a request answered, and note in its entry what became of it."""
        if request.path.startswith(REDIRECTED):
            return await self._welcome_redirected(http, request, entry)
        service: Service = self._apsaramq if request.path == PATH else self._enos
        entry.provider = service.provider
        # before the body is waited for, so that limits see arrivals in their order
        gated = self._outage(entry) or service.gate(request)
        if http.can_read_body:
            try:
                request = request._replace(body=await http.read())
            except web.HTTPRequestEntityTooLarge:
                gated = gated or service.too_large()
            except ConnectionError:
                entry.action = "incomplete"  # the client was gone before its request was whole
                return web.Response()
        call = service.read(request)
        entry.action, entry.device, entry.cert_sn = call.action, call.device, call.cert_sn
        draw = self._faults.untouched if gated else self._faults.draw(call)
        due_us = request.at_us + int(draw.latency_s * SECOND_US)
        if draw.fault == "execute_late":
            due_us += int(self.behaviour.execute_late_by * SECOND_US)
            await self._wait_until(due_us)
        try:
            reply = gated or await reply_with(draw.fault, draw.variant, service, call)
        finally:
            entry.effect, entry.executed = call.effect, call.effect != "none"
            entry.issued = call.issued
        entry.code, entry.fault = reply.code, reply.fault
        if draw.fault == "slow_first_byte":
            due_us += int(self.behaviour.slow_first_byte_by * SECOND_US)
        await self._wait_until(due_us + int(reply.hold_s * SECOND_US))
        delivered, response = await self._courier.deliver(
            http, reply, last=self._server.is_last(http)
        )
        if delivered:
            entry.status, entry.answered_us = reply.status, self._clock.now_us()
        return response

    async def _welcome_redirected(
        self, http: web.BaseRequest, request: Request, entry: Entry
    ) -> web.StreamResponse:
        """Answer whoever followed a redirect with what looks like success to everyone."""
        entry.provider, entry.action = request.path.removeprefix(REDIRECTED), "redirected"
        document = {"code": 0, "status": 0, "msg": "OK", "data": None, "RequestId": "0"}
        entry.status, entry.answered_us = 200, self._clock.now_us()
        return _json_response(document)

    async def _wait_until(self, due_us: int) -> None:
        if (wait_us := due_us - self._clock.now_us()) > 0:
            await asyncio.sleep(wait_us / SECOND_US)

    def _outage(self, entry: Entry) -> Reply | None:
        """What everyone gets while the vendor is out of order."""
        behaviour = self.behaviour
        if not 0 < behaviour.outage_after < entry.n:
            return None
        if self._outage_until_us is None:
            self._outage_until_us = entry.at_us + int(behaviour.outage_for * SECOND_US)
        if entry.at_us >= self._outage_until_us:
            return None
        if behaviour.outage_style == "page":
            return replace(page_reply(502), fault="outage")
        return Reply(None, 502, fault="outage", delivery=Delivery.CUT)

    async def _administer(self, http: web.BaseRequest, name: str, query: str) -> web.StreamResponse:
        """Answer a request to the simulator itself; these are neither counted nor limited."""
        parameters = parse_query(query)
        match name:
            case "ledger":
                after = parameters.get("after") or "0"
                if not after.isdecimal():
                    return web.Response(status=400, text="after is not a number\n")
                return await self._send_ledger(http, int(after))
            case "summary":
                return _json_response(self.summary())
            case "device":
                named = {name: value or "" for name, value in parameters.items()}
                return _json_response([asdict(state) for state in self._states(named)])
        return web.Response(status=404, text="there are ledger, summary and device\n")

    async def _send_ledger(self, http: web.BaseRequest, after: int) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/jsonl"
        await response.prepare(http)
        async for block in self._ledger.blocks(after):
            await response.write(block)
        await response.write_eof()
        return response


def _json_response(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")
