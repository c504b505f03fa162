"""ApsaraMQ for MQTT, API OnsMqtt 2020-04-20: the gateway in front of the certificate service.

In: HTTP requests to `/`. Out: responses as the vendor's gateway and service make them. Checks come
in this order: blocked source address, action, access key, date, signature, security token, nonce,
rate limit, HTTP method; then those of the service.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime

from bulkcert.simulator.apsaramq import signature
from bulkcert.simulator.apsaramq.certificates import CertificateService
from bulkcert.simulator.apsaramq.nonces import Nonces
from bulkcert.simulator.apsaramq.refusals import RefusedError
from bulkcert.simulator.apsaramq.registry import Registry
from bulkcert.simulator.apsaramq.responses import PROVIDER, Responses
from bulkcert.simulator.apsaramq.sources import Sources
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.exchange import (
    Call,
    CertificateState,
    Delivery,
    Request,
    Response,
    html_page,
    retry_after,
)
from bulkcert.simulator.window import FixedWindow, SlidingWindow, TokenBucket, Window

PATH = "/"
VERSION = "2020-04-20"
_GET, _GET_OR_POST = ("GET",), ("GET", "POST")
_GET_ONLY = {"GetDeviceCertificate", "ListDeviceCertificate", "ListDeviceCertificateByCaSn"}


class ApsaraMq:
    """The gateway and the service behind it.

    Args:
        now_us: Unix time at which the simulator started, in microseconds.
    """

    provider = PROVIDER

    def __init__(self, behaviour: Behaviour, registry: Registry, now_us: int) -> None:
        self._behaviour = behaviour
        self._sources = Sources(behaviour)
        self._windows: defaultdict[str, Window] = defaultdict(self._new_window)
        window_s = max(behaviour.mq_clock_window, behaviour.mq_clock_window_v1)
        self._nonces = Nonces(int(window_s * SECOND_US))
        self._token_ends_us = now_us + int(behaviour.security_token_life * SECOND_US)
        self._certificates = CertificateService(behaviour, registry, now_us // SECOND_US)
        self._responses = Responses(behaviour)

    def gate(self, request: Request) -> Response | None:
        """Turn away a request whose source address is blocked, or is blocked by this request."""
        action = request.headers.get("x-acs-action", "")
        if not self._sources.blocks(request.source, action, request.at_us):
            return None
        match self._behaviour.mq_block:
            case "reset":
                return Response(None, 403, fault="source_blocked", delivery=Delivery.RESET)
            case "timeout":
                hold_s = self._behaviour.mq_block_for
                blocked = Response(None, 403, fault="source_blocked", delivery=Delivery.CUT)
                return replace(blocked, hold_s=hold_s)
            case "403":
                return replace(html_page(403), fault="source_blocked")

    def read(self, request: Request) -> Call:
        """Find out what a request asks for."""
        query = dict(reversed(signature.parameters(request)))
        action = request.headers.get("x-acs-action") or query.get("Action", "")
        known = action if self._certificates.has_action(action) else "unknown"
        names = ("CaSn", "DeviceSn")
        device = "&".join(f"{name}={query[name]}" for name in names if query.get(name))
        scope = query.get("MqttInstanceId", "")
        return Call(request, known, device, query.get("DeviceSn"), scope, {**query})

    async def respond(self, call: Call) -> Response:
        """Check a call, execute it and respond."""
        try:
            self._check_sender(call)
            scope = call.action if self._behaviour.mq_limit_scope == "api" else ""
            if not self._windows[scope].admits(call.request.at_us):
                return self._responses.throttled(call, self._behaviour.mq_throttle_headers)
            if call.request.method not in (_GET if call.action in _GET_ONLY else _GET_OR_POST):
                raise RefusedError("UnsupportedHTTPMethod")
            return self._responses.success(call, self._certificates.execute(call))
        except RefusedError as refused:
            return self._responses.refusal(call, refused.code, refused.detail)

    def too_large(self) -> Response:
        """An HTML page from the gateway's front end."""
        return html_page(413)

    def throttled(self, call: Call, *, wait: bool) -> Response:
        """The gateway's response to too many calls of one API."""
        header: str = self._behaviour.mq_throttle_headers
        if header == "none":
            header = "x-acs-retry-after"
        return self._responses.throttled(call, header if wait else "none")

    def overloaded(self, call: Call, *, wait: bool) -> Response:
        """The service's own flow control, or the gateway's 503."""
        if not wait:
            return self._responses.refusal(call, "SystemOverFlow")
        response = self._responses.refusal(call, "ServiceUnavailable")
        return replace(response, headers=(*response.headers, retry_after(self._behaviour)))

    def internal_error(self, call: Call) -> Response:
        """The service's InternalError."""
        return self._responses.refusal(call, "InternalError")

    def token_expired(self, call: Call) -> Response:
        """The STS token has expired."""
        return self._responses.refusal(call, "InvalidSecurityToken.Expired")

    def certificates(self, named: dict[str, str], now_us: int) -> list[CertificateState]:
        """The states of a certificate, one for each instance in which it is registered."""
        return self._certificates.states(named.get("CaSn", ""), named.get("DeviceSn", ""))

    def _new_window(self) -> Window:
        limit = self._behaviour.limit
        match self._behaviour.mq_window:
            case "sliding":
                return SlidingWindow(limit, counts_refused=self._behaviour.limit_counts_refused)
            case "fixed":
                return FixedWindow(limit)
            case "bucket":
                return TokenBucket(limit)

    def _check_sender(self, call: Call) -> None:
        """Raise `RefusedError` unless the call is authentic, recent and not a replay."""
        request, behaviour = call.request, self._behaviour
        version = request.headers.get("x-acs-version") or call.query.get("Version")
        if call.action == "unknown" or version != VERSION:
            raise RefusedError("InvalidApi.NotFound")
        v3 = signature.is_v3(request)
        credential = (
            signature.read_v3(request)
            if v3
            else signature.read_v1({name: value or "" for name, value in call.query.items()})
        )
        if not credential.access_key_id:
            raise RefusedError("MissingAccessKeyId")
        if credential.access_key_id != behaviour.access_key_id:
            raise RefusedError("InvalidAccessKeyId.NotFound")
        window_s = behaviour.mq_clock_window if v3 else behaviour.mq_clock_window_v1
        self._check_date(credential.date, request.at_us, window_s)
        secret = behaviour.access_key_secret
        if not v3:
            if credential.signature != signature.sign_v1(request, secret):
                # the vendor's Python core reads this text, and crashes if it is missing
                text = signature.string_to_sign_v1(request)
                raise RefusedError("SignatureDoesNotMatch", f" server string to sign is:{text}")
        elif not signature.is_fully_signed(request, credential) or (
            credential.signature != signature.sign_v3(request, credential.signed_headers, secret)
        ):
            raise RefusedError("SignatureDoesNotMatch")
        self._check_security_token(credential.security_token, request.at_us)
        if not credential.nonce:
            raise RefusedError("MissingSignatureNonce")
        if not self._nonces.is_new(credential.nonce, request.at_us):
            raise RefusedError("SignatureNonceUsed")

    def _check_date(self, text: str, now_us: int, window_s: float) -> None:
        try:
            date = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise RefusedError("InvalidTimeStamp.Format") from None
        skew_s = abs(date.timestamp() - now_us / SECOND_US)
        if skew_s > window_s:
            raise RefusedError("InvalidTimeStamp.Expired")

    def _check_security_token(self, token: str, now_us: int) -> None:
        expected = self._behaviour.security_token
        if token and not expected:
            raise RefusedError("InvalidSecurityToken.MismatchWithAccessKey")
        if expected and not token:
            raise RefusedError("MissingSecurityToken")
        if token != expected:
            raise RefusedError("InvalidSecurityToken.Malformed")
        if expected and self._behaviour.security_token_life and now_us >= self._token_ends_us:
            raise RefusedError("InvalidSecurityToken.Expired")
