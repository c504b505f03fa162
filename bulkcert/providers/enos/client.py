"""Signed calls to EnOS: obtains and renews the access token, signs, sends, judges.

A request that was turned away because of its token never reached the service. Its token is given
up, and whoever sends the next request gets a new one.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import orjson

from bulkcert.errors import (
    BulkcertError,
    CredentialsError,
    EndpointError,
    ProviderUnusableError,
)
from bulkcert.providers.call import (
    CallKind,
    CallResult,
    Channel,
    OnDeparture,
    Request,
    Response,
    heed,
)
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.decoding import integer
from bulkcert.providers.enos import responses
from bulkcert.providers.enos.requests import JSON_HEADERS
from bulkcert.providers.enos.signature import signature, token_digest
from bulkcert.providers.freshness import unless_kept
from bulkcert.providers.masking import masked
from bulkcert.providers.patience import Patience
from bulkcert.timings import Timings

TOKEN_SERVICE = "/apim-token-service/v2.0/token"  # noqa: S105 - a path
REFRESH_BEFORE_S = 600.0
"""How long before it expires a token is refreshed, as the vendor's own client does."""


def _nobody(_source: str) -> None:
    """Nothing has to happen when a token request leaves."""


class AccessToken:
    """The access token: one for all requests, obtained by one caller at a time.

    Args:
        transport: where to ask.
        app_key, app_secret: credentials of the application.
        clock: learns the provider's time from the token service, and measures the life of a token.
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
        """Return a token that is valid as far as known.

        Raises:
            CredentialsError: the token service does not accept the credentials.
            ProviderUnusableError: no token could be obtained.
        """
        now = self._clock.elapsed_s()
        if now < self._refresh_at:
            return self._value
        if now < self._expires_at and self._lock.locked():
            return self._value  # somebody is refreshing it, and it is still valid
        async with self._lock:
            if self._failure is not None:
                raise self._failure  # those who waited for the failed call need not try as long
            now = self._clock.elapsed_s()
            if now >= self._expires_at:
                await self._obtain(patience_s)
            elif now >= self._refresh_at:
                await self._refresh()
            return self._value

    def reject(self, value: str) -> None:
        """Note that the gateway did not accept this token."""
        if value == self._value:
            self._refresh_at = self._expires_at = 0.0

    async def _obtain(self, patience_s: float) -> None:
        patience = Patience(patience_s, longest_backoff_s=10.0)
        get = functools.partial(self._call, "get", {})
        while not self._accept(result := await patience.call(get)):
            # What was let through before may have been refused by mistake.
            hopeless = patience.hopeless(result)
            if hopeless and (result.kind is CallKind.UNUSABLE or not self._value):
                self._failure = _refusal(result)
                raise self._failure
            # 1001 means a digest that was used before; the next timestamp makes a new one
            if not await patience.back_off():
                self._failure = ProviderUnusableError(
                    f"Could not obtain an access token from the token service: {result}",
                    "Check connection.endpoint and the provider's state, then run again.",
                )
                raise self._failure

    async def _refresh(self) -> None:
        result = await self._call("refresh", {"accessToken": self._value}, _nobody)
        if not self._accept(result):
            # Harmless: once the token has expired, a new one is obtained.
            self._refresh_at = min(
                self._expires_at, self._clock.elapsed_s() + REFRESH_BEFORE_S / 10
            )

    async def _call(
        self, operation: str, more: dict[str, str], on_departure: OnDeparture
    ) -> CallResult:
        # It is dated here, and would be old when a long pause is over.
        await self._transport.pace.pause_over()
        # A digest may be used only once, and it depends on nothing but the millisecond.
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
        response = await self._transport.send(request, on_departure)
        if isinstance(response, Response):
            self._clock.learn(response.headers)
        return _judge(self._transport, response, self._clock, (self._value, self._app_secret))

    def _accept(self, result: CallResult) -> bool:
        data: Any = result.data
        if result.kind is not CallKind.OK or not isinstance(data, dict):
            return False
        value, life_s = data.get("accessToken"), data.get("expire")
        if not isinstance(value, str) or not _fits_into_header(value):
            return False
        if isinstance(life_s, str):
            life_s = integer(life_s)
        if isinstance(life_s, bool) or not isinstance(life_s, int | float):
            return False
        now = self._clock.elapsed_s()
        self._value = value
        # `get` may return the current token with what is left of its life, so that figure counts.
        # A short life is used up to half of it.
        self._expires_at = now + life_s
        self._refresh_at = self._expires_at - min(REFRESH_BEFORE_S, life_s / 2)
        return True


class Client:
    """Calls certificate operations of EnOS.

    Args:
        transport: where to send.
        app_key, app_secret: credentials of the application.
        clock: dates requests; learns the time from the token service.
        timings: how long to try for a token.
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

    async def call(self, request: Request, on_departure: OnDeparture) -> CallResult:
        """Send a request, and judge the response.

        Raises:
            BulkcertError: no request will work any more; this one was not executed.
        """
        token = await self._token.get(self._timings.token_patience_s)
        result = await self._send(request, token, on_departure)
        if result.kind is CallKind.NOT_SENT and result.code is not None:
            self._token.reject(token)
        if result.kind is CallKind.UNUSABLE:
            raise ProviderUnusableError(
                f"The provider can no longer be used: {result}",
                "Resolve this with the provider, then run the same command: it continues from"
                " here.",
            )
        return result

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def _send(self, request: Request, token: str, on_departure: OnDeparture) -> CallResult:
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

        response = await self._transport.send(request, on_departure, sign)
        result = _judge(self._transport, response, self._clock, (token, self._app_secret))
        return unless_kept(response, result) if isinstance(response, Response) else result


def _fits_into_header(value: str) -> bool:
    return value != "" and value.isascii() and value.isprintable()


def _judge(
    transport: Channel,
    response: Response | CallResult,
    clock: ProviderClock,
    secrets: tuple[str, ...],
) -> CallResult:
    if isinstance(response, CallResult):
        return response._replace(message=str(masked(response.message, secrets)))
    # only a response that asks to wait needs the time
    now_s = clock.now() if "Retry-After" in response.headers else 0.0
    result = responses.judge(response, now_s, secrets)
    heed(transport.pace, response.departed_at, result)
    return result


def _refusal(result: CallResult) -> CredentialsError | EndpointError:
    if result.code in (1002, 1003):
        return CredentialsError(
            f"EnOS does not accept the credentials: {result}",
            "Check ENOS_APP_KEY and ENOS_APP_SECRET, and that they belong to this endpoint.",
        )
    return EndpointError(
        f"The endpoint can't be used: {result}",
        "Check connection.endpoint; for a private CA, name its certificate in connection.ca_file.",
    )
