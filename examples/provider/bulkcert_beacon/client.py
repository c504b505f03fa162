"""Signed calls to Beacon: signs a request, sends it, and judges the response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from bulkcert.errors import CredentialsError, EndpointError, ProviderUnusableError
from bulkcert.model import Fields, Operation
from bulkcert.providers.base import Setup, merged
from bulkcert.providers.call import CallKind, CallResult, OnDeparture, Request, heed
from bulkcert.providers.freshness import unless_kept
from bulkcert_beacon.requests import account_request
from bulkcert_beacon.responses import judge
from bulkcert_beacon.signature import signature


class Client:
    """Calls Beacon for one job.

    Args:
        setup: the job's account, parameters and credentials, and what sends requests.
    """

    def __init__(self, setup: Setup) -> None:
        self.account = setup.options["account"]
        self._key, self._secret = (setup.credentials[f"BEACON_{n}"] for n in ("KEY", "SECRET"))
        self._parameters = setup.parameters
        self._channel = setup.channel
        self._patience_s = setup.timings.first_call_patience_s

    def fields(self, operation: Operation) -> Fields:
        """Return the target's fields over the job's parameters."""
        return merged(self._parameters, operation.fields)

    async def open(self) -> None:
        """Prove that Beacon accepts the credentials, before anything is changed.

        Raises:
            CredentialsError: it does not accept them.
            EndpointError: the account or the endpoint can't be used.
            ProviderUnusableError: Beacon does not respond properly.
        """
        give_up_at = time.monotonic() + self._patience_s
        backoff_s = 0.1
        while (result := await self._send(account_request(self.account), _nobody)).kind in (
            CallKind.IN_DOUBT,
            CallKind.NOT_SENT,
            CallKind.THROTTLED,
        ):
            if time.monotonic() + backoff_s > give_up_at:
                raise ProviderUnusableError(
                    f"Beacon does not respond properly: {result}",
                    "Check connection.endpoint and Beacon's state, then run again.",
                )
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, 2.0)
        if result.code in ("unknown_key", "bad_signature"):
            raise CredentialsError(
                f"Beacon does not accept the credentials: {result}",
                "Check BEACON_KEY and BEACON_SECRET, and that they belong together.",
            )
        if result.kind is not CallKind.OK:
            raise EndpointError(
                f"The account can't be used: {result}",
                "Check connection.endpoint and connection.account.",
            )

    async def call(self, request: Request, on_departure: OnDeparture) -> CallResult:
        """Send a request once, and judge the response.

        Raises:
            ProviderUnusableError: no further request will work.
        """
        result = await self._send(request, on_departure)
        if result.kind is CallKind.UNUSABLE:
            raise ProviderUnusableError(
                f"Beacon can no longer be used: {result}",
                "Resolve this with Beacon, then run the same command: it continues from here.",
            )
        return result

    async def close(self) -> None:
        """Close all connections."""
        await self._channel.close()

    async def _send(self, request: Request, on_departure: OnDeparture) -> CallResult:
        def sign() -> Mapping[str, str]:  # called when the request leaves, so the time is fresh
            now_s = int(time.time())
            return {
                "Beacon-Key": self._key,
                "Beacon-Time": str(now_s),
                "Beacon-Signature": signature(request, now_s, self._secret),
            }

        response = await self._channel.send(request, on_departure, sign)
        if isinstance(response, CallResult):  # there was no response
            return response
        result = unless_kept(response, judge(response))  # what a cache says settles nothing
        heed(self._channel.pace, response.departed_at, result)  # if throttled, everybody pauses
        return result


def _nobody(_source: str) -> None:
    """No operation waits for the departure of this request."""
