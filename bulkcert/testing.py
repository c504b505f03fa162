"""Tests for programs that use `bulkcert`, without a network and without waiting.

In: what a provider should respond, as a function. Out: a transport for `bulkcert.Run`. Everything
else of a run is real: signing, retries, look-ups, the run directory. Nothing here opens a
connection.

    def respond(request: Request) -> Response | None:
        if request.action == "revoke" and request.target["assetId"] == "A2":
            return Response(json={"code": 11404, "msg": "Device not found"})
        return None  # as the provider would

    async def test_one_refused_device(tmp_path):
        job = bulkcert.load_job("revoke.toml")
        with bulkcert.Run(job, tmp_path / "run", transport=FakeTransport(respond)) as run:
            summary = await run.execute()
        assert (summary.succeeded, summary.failed) == (2, 1)
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from multidict import CIMultiDict

from bulkcert.job import Job
from bulkcert.model import Fields
from bulkcert.providers import call
from bulkcert.providers.base import merged
from bulkcert.rehearsal import certificate_dates
from bulkcert.simulator import exchange
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import Clock
from bulkcert.simulator.vendors import Vendors
from bulkcert.timings import BreakerTimings, PacerTimings, Timings

__all__ = ["FakeTransport", "Request", "Response"]

_DEVICE = ("assetId", "productKey", "deviceKey", "CaSn", "DeviceSn")

_CEILING = 1_000_000.0
_STOP_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that a run has sent.

    Attributes:
        action: what it asks for: `token.get`, `list`, `revoke`, `renew` (EnOS);
            `GetDeviceCertificate` and the like (ApsaraMQ); empty for another provider.
        target: the fields that say which device and certificate it is about, as they were sent:
            `{"assetId": "A2", "certSn": 52739}`; empty for a token, and for another provider.
        method, path: of HTTP.
        query: the decoded parameters.
        headers: found in any letter case.
        body: as sent.
    """

    action: str
    target: Mapping[str, str | int]
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    _sent: exchange.Request = field(repr=False)

    @property
    def json(self) -> Any:
        """The decoded body; None if there is none.

        Raises:
            ValueError: the body is not JSON.
        """
        return orjson.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the provider responds.

    Attributes:
        json: encoded as the body; None for `body` as it is.
        status: HTTP status.
        headers: such as `{"Retry-After": "30"}`.
        body: what is sent instead of JSON.
    """

    json: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Respond = Callable[[Request], Response | Awaitable[Response | None] | None]

_NO_WAITS = Timings(
    first_look_s=0.0,
    first_backoff_s=0.001,
    longest_backoff_s=0.01,
    rest_s=0.0,
    first_call_patience_s=1.0,
    token_patience_s=1.0,
    first_alone_s=0.01,
    redirect_pause_s=0.0,
    chain_retry_s=0.0,
    commit_every_s=0.001,
    pacer=PacerTimings(
        first_pause_s=0.001,
        longest_pause_s=0.001,
        longest_obeyed_s=0.0,
        climb_step=1.0,
        climb_every_s=0.001,
    ),
    circuit_breaker=BreakerTimings(probe_every_s=0.01),
)
"""Waiting times of a run with a fake transport, which has nobody to spare."""


class FakeTransport:
    """Stands in for the network in a `bulkcert.Run`, and for the provider behind it.

    A run with it is marked as a rehearsal, so that no real run continues it. Nothing waits: neither
    the ceiling, nor pauses, nor retries, nor the settling time of what is in doubt. So its rates
    mean nothing.

    Args:
        respond: called with each request, also as a coroutine function. It returns the response, or
            None for what the provider would respond to it: EnOS and ApsaraMQ are simulated, with
            the targets of the run as the devices that exist. What it raises instead of returning
            is what happens to the request: `ConnectionRefusedError`: it is not sent. `TimeoutError`
            or another `OSError`: no response comes, and whether the request was executed is not
            known to the run. Anything else ends the run, such as a failed `assert`.
        fleet: path of a file with the devices that exist, instead of the targets of the run; see
            `bulkcert simulate --fleet`.

    Attributes:
        requests: what the runs have sent, in order.
        credentials: those that the simulated providers accept; `Run.execute` uses them by default.
    """

    def __init__(
        self, respond: Respond | None = None, *, fleet: str | os.PathLike[str] | None = None
    ) -> None:
        behaviour = Behaviour()
        self.requests: list[Request] = []
        self.credentials = {
            "ENOS_APP_KEY": behaviour.app_key,
            "ENOS_APP_SECRET": behaviour.app_secret,
            "ALIBABA_CLOUD_ACCESS_KEY_ID": behaviour.access_key_id,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": behaviour.access_key_secret,
        }
        self.timings = _NO_WAITS
        self._respond = respond
        self._fleet = None if fleet is None else Path(fleet)
        self._clock = Clock()
        self._vendors: Vendors | None = None
        self._open_channels = 0

    async def execute(self, request: Request) -> Response:
        """Let the provider execute a request, and return what it responds.

        For a function that changes the response, or loses it: `await fake.execute(request)`, then
        `raise TimeoutError`.

        Raises:
            LookupError: the provider is not simulated.
        """
        if self._vendors is None:
            raise LookupError(
                "FakeTransport simulates EnOS and ApsaraMQ only: for this provider, the function"
                " must return a Response to every request."
            )
        vendor = self._vendors.serving(request.path)
        sent = request._sent
        response = vendor.gate(sent) or await vendor.respond(vendor.read(sent))
        headers = {"Content-Type": response.content_type, **dict(response.headers)}
        return Response(status=response.status, headers=headers, body=response.body)

    # ---- for `Run`

    def prepare(self, job: Job, targets: Iterable[Fields]) -> Job:
        """Make the targets exist; return the job as it is executed, without waits."""
        if job.provider.simulated:
            if self._vendors is None:
                self._vendors = self._new_vendors(job)
            if self._fleet is None:
                for fields in targets:
                    self._vendors.add_row(merged(job.common, fields))
        connection = dataclasses.replace(job.connection, source_addresses=(), proxy="")
        limits = dataclasses.replace(
            job.limits,
            requests_per_second=_CEILING,
            requests_per_second_per_source_ip=None,
        )
        breaker = job.circuit_breaker
        stop_after_s = min(breaker.stop_after_seconds, _STOP_AFTER_S)
        return dataclasses.replace(
            job,
            connection=connection,
            limits=limits,
            retry=dataclasses.replace(job.retry, settling_seconds=0.0),
            circuit_breaker=dataclasses.replace(breaker, stop_after_seconds=stop_after_s),
        )

    def open_channel(self, endpoint: str, pace: call.Pace, timeout_s: float) -> call.Channel:
        """What the requests to an endpoint are sent through."""
        if self._vendors is not None:
            self._vendors.enos.authority.portal = self._vendors.enos.authority.portal or endpoint
        self._open_channels += 1
        return _Channel(self, pace, timeout_s)

    async def _close_channel(self) -> None:
        """End what was opened; with the last channel, the processes of the simulated provider."""
        self._open_channels -= 1
        if not self._open_channels and self._vendors is not None:
            await self._vendors.close()

    async def _answer(
        self, request: call.Request, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """What happens to a request: status, headers and body of its response, or an exception."""
        received = self._received(request, headers)
        self.requests.append(received)
        response = None if self._respond is None else self._respond(received)
        if inspect.isawaitable(response):
            response = await response
        if response is None:
            response = await self.execute(received)
        body = response.body if response.json is None else orjson.dumps(response.json)
        return response.status, CIMultiDict(response.headers), body

    def _new_vendors(self, job: Job) -> Vendors:
        dates = certificate_dates(job.select, time.time())
        behaviour = Behaviour(limit=0, mq_source_limit=0, **dates)
        vendors = Vendors(behaviour, self._clock.now_us(), open_world=False)
        if self._fleet is not None:
            vendors.add_file(self._fleet)
        return vendors

    def _received(self, request: call.Request, headers: Mapping[str, str]) -> Request:
        path, _, query = request.target.partition("?")
        sent = exchange.Request(
            self._clock.now_us(), "127.0.0.1", request.method, path, query, headers, request.body
        )
        action = ""
        target: dict[str, str | int] = {}
        if self._vendors is not None:
            asked = self._vendors.serving(path).read(sent)
            action = asked.action
            target = {name: value for name in _DEVICE if (value := asked.query.get(name))}
            if asked.cert_sn is not None and "DeviceSn" not in target:
                target["certSn"] = asked.cert_sn
        return Request(
            action=action,
            target=target,
            method=request.method,
            path=path,
            query=dict(request.query),
            headers=headers,
            body=request.body,
            _sent=sent,
        )


class _Channel:
    """A `bulkcert.providers.call.Channel` to the function of a test."""

    def __init__(self, transport: FakeTransport, pace: call.Pace, timeout_s: float) -> None:
        self.pace = pace
        self._transport = transport
        self._timeout_s = timeout_s

    async def send(
        self,
        request: call.Request,
        on_departure: call.OnDeparture,
        sign: call.Signer | None = None,
    ) -> call.Response | call.CallResult:
        """Send one request; see `bulkcert.providers.transport.Transport.send`."""
        try:
            departed_at = await self.pace.depart()
        except OSError as error:
            return _failed(call.CallKind.NOT_SENT, f"no connection: {error}")
        headers = CIMultiDict(request.headers)
        if sign is not None:
            headers.update(sign())
        on_departure("fake transport")
        await asyncio.sleep(0)  # no response is there at once
        try:
            status, received, body = await self._transport._answer(request, headers)
        except ConnectionRefusedError as error:
            return _failed(call.CallKind.NOT_SENT, f"no connection: {str(error) or 'refused'}")
        except TimeoutError:
            return _failed(call.CallKind.IN_DOUBT, f"no response within {self._timeout_s:g} s")
        except OSError as error:
            return _failed(call.CallKind.IN_DOUBT, f"connection lost: {str(error) or 'reset'}")
        return call.Response(status, received, body, departed_at)

    async def close(self) -> None:
        """Close the channel."""
        await self._transport._close_channel()

    def abort(self) -> None:
        """There are no connections."""


def _failed(kind: call.CallKind, message: str) -> call.CallResult:
    return call.CallResult(kind, message=message)
