"""Signed calls to EnOS: gets and renews the access token, signs, sends, judges.

A request that comes back because of its token is sent once more with a new one; that is not an
attempt of the operation, because the gateway did not let it through.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import orjson

from bulkcert.errors import (
    BulkcertError,
    CredentialsError,
    EndpointError,
    ProviderUnusableError,
)
from bulkcert.model import Answer, AnswerKind
from bulkcert.providers.base import MASK
from bulkcert.providers.call import Channel, OnDeparture, Request, Response
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.enos import responses
from bulkcert.providers.enos.requests import JSON_HEADERS
from bulkcert.providers.enos.signature import signature, token_digest
from bulkcert.timings import Timings

TOKEN_SERVICE = "/apim-token-service/v2.0/token"  # noqa: S105 - a path
REFRESH_BEFORE_S = 600.0
"""The vendor's own client refreshes so long before the token expires."""


def _nobody() -> None:
    """Nobody waits for the departure of a token request."""


class AccessToken:
    """The access token: one for all, asked for by one caller at a time.

    Args:
        transport: where to ask.
        app_key, app_secret: credentials of the application.
        clock: learns the provider's time from the token service.
    """

    def __init__(
        self, transport: Channel, app_key: str, app_secret: str, clock: ProviderClock
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._app_key = app_key
        self._app_secret = app_secret
        self._lock = asyncio.Lock()
        self._value = ""
        self._refresh_at = 0.0
        self._expires_at = 0.0
        self._last_timestamp_ms = 0
        self._failure: BulkcertError | None = None

    async def get(self, patience_s: float) -> str:
        """Return a token that is good as far as known.

        Raises:
            CredentialsError: the token service does not accept the credentials.
            ProviderUnusableError: no token can be had.
        """
        now = time.monotonic()
        if now < self._refresh_at:
            return self._value
        if now < self._expires_at and self._lock.locked():
            return self._value  # somebody refreshes it already, and it is still good
        async with self._lock:
            if self._failure is not None:
                raise self._failure  # who waited behind the one that failed need not try as long
            now = time.monotonic()
            if now >= self._expires_at:
                await self._obtain(patience_s)
            elif now >= self._refresh_at:
                await self._refresh()
            return self._value

    def reject(self, value: str) -> None:
        """Take note that the gateway did not accept this token."""
        if value == self._value:
            self._refresh_at = self._expires_at = 0.0

    async def _obtain(self, patience_s: float) -> None:
        give_up_at = time.monotonic() + patience_s
        backoff_s = 0.05
        while not self._accept(answer := await self._call("get", {})):
            if answer.kind is AnswerKind.UNUSABLE:
                self._failure = _refusal(answer)
                raise self._failure
            # 1001, a digest that was used before, is over with the next timestamp
            backoff_s = min(backoff_s * 2, 10.0)
            if time.monotonic() + backoff_s > give_up_at:
                self._failure = ProviderUnusableError(
                    f"No access token could be had from the token service: {_said(answer)}",
                    "Check connection.endpoint and the provider's state, then run again.",
                )
                raise self._failure
            await asyncio.sleep(backoff_s)

    async def _refresh(self) -> None:
        answer = await self._call("refresh", {"accessToken": self._value})
        if not self._accept(answer):
            # Not needed for anything: once it has expired, a new one is asked for.
            self._refresh_at = min(self._expires_at, time.monotonic() + REFRESH_BEFORE_S / 10)

    async def _call(self, operation: str, more: dict[str, str]) -> Answer:
        # A digest may be used once, and it depends on nothing but the millisecond.
        timestamp_ms = max(int(self._clock.now() * 1000), self._last_timestamp_ms + 1)
        self._last_timestamp_ms = timestamp_ms
        body = {
            "appKey": self._app_key,
            "timestamp": timestamp_ms,
            "encryption": token_digest(self._app_key, timestamp_ms, self._app_secret),
            **more,
        }
        request = Request(
            "POST", f"{TOKEN_SERVICE}/{operation}", body=orjson.dumps(body), headers=JSON_HEADERS
        )
        reply = await self._transport.send(request, _nobody)
        if isinstance(reply, Response):
            self._clock.learn(reply.headers)
        return _judge(self._transport, reply)

    def _accept(self, answer: Answer) -> bool:
        data: Any = answer.result
        if answer.kind is not AnswerKind.DONE or not isinstance(data, dict):
            return False
        value, life_s = data.get("accessToken"), data.get("expire")
        if not isinstance(value, str) or not _fits_into_header(value):
            return False
        if isinstance(life_s, bool) or not isinstance(life_s, int | float):
            return False
        now = time.monotonic()
        self._value = value
        # `get` returns a living token again with what is left of its life, so the answer's figure
        # counts. A short life is used up to its half.
        self._expires_at = now + life_s
        self._refresh_at = self._expires_at - min(REFRESH_BEFORE_S, life_s / 2)
        return True


class Client:
    """Calls certificate operations of EnOS.

    Args:
        transport: where to send.
        app_key, app_secret: credentials of the application.
        clock: what requests are dated by; the token service sets it.
        timings: how long a token is asked for.
    """

    def __init__(
        self,
        transport: Channel,
        app_key: str,
        app_secret: str,
        clock: ProviderClock,
        timings: Timings = Timings(),
    ) -> None:
        self._timings = timings
        self._transport = transport
        self._app_secret = app_secret
        self._clock = clock
        self._token = AccessToken(transport, app_key, app_secret, clock)

    async def open(self) -> None:
        """Get a token, so that bad credentials are known before anything else is sent."""
        await self._token.get(self._timings.first_call_patience_s)

    async def call(self, request: Request, on_departure: OnDeparture) -> Answer:
        """Send a request, a second time with a new token if need be, and judge the reply."""
        token = await self._token.get(self._timings.token_patience_s)
        answer = await self._send(request, token, on_departure)
        if answer.kind is AnswerKind.NOT_SENT and answer.code is not None:
            self._token.reject(token)
            answer = await self._send(
                request, await self._token.get(self._timings.token_patience_s), on_departure
            )
        return answer

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def _send(self, request: Request, token: str, on_departure: OnDeparture) -> Answer:
        def sign() -> dict[str, str]:
            # at the last moment: how old a timestamp may be is not documented
            timestamp_ms = int(self._clock.now() * 1000)
            return {
                "apim-accesstoken": token,
                "apim-timestamp": str(timestamp_ms),
                "apim-signature": signature(
                    token, request.query, request.body, timestamp_ms, self._app_secret
                ),
            }

        reply = await self._transport.send(request, on_departure, sign)
        answer = _judge(self._transport, reply)
        if token in answer.message:  # who refuses a token may quote it
            return replace(answer, message=answer.message.replace(token, MASK))
        return answer


def _fits_into_header(value: str) -> bool:
    return value != "" and value.isascii() and value.isprintable()


def _judge(transport: Channel, reply: Response | Answer) -> Answer:
    if isinstance(reply, Answer):
        return reply
    answer = responses.judge(reply)
    if answer.kind is AnswerKind.THROTTLED:
        transport.pace.throttled(reply.departed_at, answer.retry_after_s)
    return answer


def _refusal(answer: Answer) -> CredentialsError | EndpointError:
    if answer.code in (1002, 1003):
        return CredentialsError(
            f"EnOS does not accept the credentials: {_said(answer)}",
            "Check ENOS_APP_KEY and ENOS_APP_SECRET, and that they belong to this endpoint.",
        )
    return EndpointError(
        f"The endpoint can't be used: {_said(answer)}",
        "Check connection.endpoint; for a private CA, name its certificate in connection.ca_file.",
    )


def _said(answer: Answer) -> str:
    return f"{answer.code} {answer.message}" if answer.code is not None else answer.message
