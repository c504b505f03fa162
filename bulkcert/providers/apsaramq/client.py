"""Signed calls to OnsMqtt: signs a request, sends it, and judges the response.

Every request is signed when it leaves. A signature's date is valid for 15 minutes, and a request
may wait longer than that while everything is paused. A request that is sent again is signed again,
with a new nonce.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from bulkcert.errors import BulkcertError, CredentialsError, EndpointError, ProviderUnusableError
from bulkcert.providers.advice import advise
from bulkcert.providers.apsaramq import responses
from bulkcert.providers.apsaramq.advice import ADVICE
from bulkcert.providers.apsaramq.signature import EMPTY_HASH, authorization
from bulkcert.providers.call import CallKind, CallResult, Channel, OnDeparture, Request, heed
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.freshness import kept_copy, unless_kept
from bulkcert.providers.masking import masked
from bulkcert.providers.patience import Patience
from bulkcert.timings import Timings

_ANY_NEXT_STEP = (
    "Resolve this with the provider, then run the same command: it continues from here."
)
_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature"}) | {
    *("InvalidSecurityToken", "CheckAccountInfoFailed", "Missing", "InvalidTimeStamp"),
    *responses.PERMISSIONS,
}


_NO_WORD_YET = (CallKind.IN_DOUBT, CallKind.BUSY, CallKind.NOT_SENT, CallKind.THROTTLED)


class Client:
    """Calls OnsMqtt.

    Args:
        channel: sends the requests.
        endpoint: the base URL that it sends to.
        credentials: by the names of their environment variables.
        clock: learns the provider's time from the first response.
        timings: how long to retry the first call, and how long to pause.
    """

    def __init__(
        self,
        channel: Channel,
        endpoint: str,
        credentials: Mapping[str, str],
        clock: ProviderClock,
        timings: Timings = Timings(),
    ) -> None:
        self._timings = timings
        self._clock = clock
        self._channel = channel
        self._key_id = credentials["ALIBABA_CLOUD_ACCESS_KEY_ID"]
        self._secret = credentials["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
        self._secrets = tuple(value for value in credentials.values() if value)
        self._unchanging = {"host": urlsplit(endpoint).netloc, "x-acs-content-sha256": EMPTY_HASH}
        if token := credentials.get("ALIBABA_CLOUD_SECURITY_TOKEN"):
            self._unchanging["x-acs-security-token"] = token

    async def open(self, question: Request, tolerated: Collection[str] = ()) -> None:
        """Prove that the provider accepts the credentials.

        Args:
            question: a request that changes nothing; any response of the service proves them.
            tolerated: refusals that prove them, too.

        Raises:
            CredentialsError: the credentials are not accepted.
            EndpointError: the endpoint or the instance can't be used.
            ProviderUnusableError: the service does not respond properly.
        """
        patience = Patience(self._timings.first_call_patience_s, longest_backoff_s=2.0)
        ask = functools.partial(self._send, question)
        while True:
            result = await patience.call(ask)
            tolerable = responses.family(result.code) in tolerated
            if patience.hopeless(result) and not tolerable:
                raise _refusal(result)
            if result.kind not in _NO_WORD_YET and (tolerable or not result.account_wide):
                return
            if not await patience.back_off():
                raise ProviderUnusableError(
                    f"The provider does not respond properly: {result}",
                    "Check connection.endpoint or connection.region, and the provider's state,"
                    " then run again.",
                )

    async def call(self, request: Request, on_departure: OnDeparture) -> CallResult:
        """Send a request and judge the response.

        Raises:
            ProviderUnusableError: no further request will work; the error says what to do.
        """
        result = await self._send(request, on_departure)
        if result.kind is CallKind.UNUSABLE:
            raise ProviderUnusableError(
                f"The provider can no longer be used: {result}",
                advise(ADVICE, result.code) or _ANY_NEXT_STEP,
            )
        return result

    async def close(self) -> None:
        """Close all connections."""
        await self._channel.close()

    async def _send(self, request: Request, on_departure: OnDeparture) -> CallResult:
        def sign() -> Mapping[str, str]:
            return self._headers(request)

        response = await self._channel.send(request, on_departure, sign)
        if isinstance(response, CallResult):
            return response._replace(message=str(masked(response.message, self._secrets)))
        if not self._clock.known and not kept_copy(response.headers):
            self._clock.learn(response.headers)
        now_s = self._clock.now()
        result = responses.judge(response, self._timings.redirect_pause_s, now_s, self._secrets)
        result = unless_kept(response, result)
        heed(self._channel.pace, response.departed_at, result)
        return result

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {
            **self._unchanging,
            **dict(request.headers),
            "x-acs-date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-acs-signature-nonce": secrets.token_hex(16),
        }
        query = request.target.partition("?")[2]  # it is sent in the form that is signed
        headers["Authorization"] = authorization(
            request.method, query, headers, self._key_id, self._secret
        )
        return headers


def _refusal(result: CallResult) -> BulkcertError:
    family = responses.family(result.code)
    next_step = advise(ADVICE, result.code) or "Check connection.endpoint or connection.region."
    if family in _CREDENTIALS:
        return CredentialsError(f"ApsaraMQ does not accept the credentials: {result}", next_step)
    return EndpointError(f"The endpoint can't be used: {result}", next_step)
