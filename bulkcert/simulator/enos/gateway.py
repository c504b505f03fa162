"""The EnOS API gateway: rate limit, access token, signature, and routing to the services.

In: HTTP requests to all of the vendor's paths. Out: responses in the format of whoever responds:
the gateway (Kong, `{message}`), the token service (`{status, ...}`) or the certificate service
(`{code, ...}`). Whatever the services do is behind the checks here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.enos.authority import Authority
from bulkcert.simulator.enos.certificates import CertificateService, identify
from bulkcert.simulator.enos.fleet import Fleet
from bulkcert.simulator.enos.portal import PORTAL_PATHS, Portal
from bulkcert.simulator.enos.refusals import (
    BAD_ARGUMENT,
    INTERNAL_ERROR,
    INTERNAL_ERRORS,
    NO_PERMISSION,
    RefusedError,
    missing,
)
from bulkcert.simulator.enos.signature import sign
from bulkcert.simulator.enos.tokens import MESSAGES as TOKEN_MESSAGES
from bulkcert.simulator.enos.tokens import TokenService, status_response
from bulkcert.simulator.exchange import (
    Call,
    CertificateState,
    Request,
    Response,
    parse_query,
    retry_after,
)
from bulkcert.simulator.window import SlidingWindow

Action = Callable[[Call], Awaitable[Response]]

_TOKEN_PATHS = {
    "/apim-token-service/v2.0/token/get": "token.get",
    "/apim-token-service/v2.0/token/refresh": "token.refresh",
}
_BUSINESS_PATHS = {
    "/connect-service/v2.0/certificates": {
        "list": "list",
        "revoke": "revoke",
        "renew": "renew",
        "apply": "apply",
    },
    "/connect-service/v2.1/products": {"get": "products.get"},
}
_METHODS = {"list": "GET", "products.get": "GET"}  # all others are POST, and change something


class Enos:
    """The gateway and the services behind it.

    Args:
        now_s: Unix time at which the certificate authorities' validity starts.

    Attributes:
        authority: the certificate authorities; must be closed at the end.
    """

    provider = "enos"

    def __init__(self, behaviour: Behaviour, fleet: Fleet, now_s: int) -> None:
        self._behaviour = behaviour
        self.authority = Authority(behaviour, fleet, now_s)
        self._tokens = TokenService(behaviour)
        self._certificates = certificates = CertificateService(behaviour, fleet, self.authority)
        portal = Portal(behaviour, self.authority)
        self._window = SlidingWindow(behaviour.limit, counts_refused=behaviour.limit_counts_refused)
        self._signatures: set[str] = set()
        self._refuse_all = int(behaviour.refuse_all) if behaviour.refuse_all.isdecimal() else 0
        names = filter(None, behaviour.read_only.split(","))
        self._read_only = frozenset(f"assetId={name}" for name in names)
        self._public: dict[str, Action] = {
            "token.get": self._tokens.get,
            "token.refresh": self._tokens.refresh,
            "cacert": portal.cacert,
            "crl": portal.crl,
        }
        self._business: dict[str, Action] = {
            "list": certificates.list_all,
            "revoke": certificates.revoke,
            "renew": certificates.renew,
            "apply": certificates.apply,
            "products.get": certificates.get_product,
        }

    def gate(self, request: Request) -> Response | None:
        """Turn away a request over the limit, which all calls of the account share."""
        if self._window.admits(request.at_us):
            return None
        headers: tuple[tuple[str, str], ...] = ()
        if self._behaviour.limit_headers != "none":
            headers = (
                ("X-RateLimit-Limit-Second", str(self._behaviour.limit)),
                ("X-RateLimit-Remaining-Second", "0"),
            )
        if self._behaviour.limit_headers == "retry-after":
            headers = (*headers, retry_after(self._behaviour))
        return gateway_response(429, "API rate limit exceeded", headers)

    def read(self, request: Request) -> Call:
        """Find out what a request asks for."""
        query = parse_query(request.query)
        call = Call(request, "unknown", query=query, document=_parse_json(request.body))
        if action := _TOKEN_PATHS.get(request.path) or PORTAL_PATHS.get(request.path):
            call.action = action
        elif actions := _BUSINESS_PATHS.get(request.path):
            call.action = actions.get(query.get("action") or "", "unknown")
            names = ("assetId", "productKey", "deviceKey")
            call.device = "&".join(f"{name}={query[name]}" for name in names if query.get(name))
            call.scope = query.get("orgId") or ""
            call.cert_sn = _for_ledger(self._certificates.parameter(call, "certSn"))
        return call

    async def respond(self, call: Call) -> Response:
        """Check a call, execute it and respond."""
        request = call.request
        if action := self._public.get(call.action):
            expected = "POST" if request.path in _TOKEN_PATHS else "GET"
            if request.method != expected:
                return gateway_response(405, "Method not allowed")
            return await action(call)
        if request.path not in _BUSINESS_PATHS:
            return gateway_response(404, "no Route matched with those values")
        if refusal := self._check_authentication(call):
            return refusal
        if request.body and not isinstance(call.document, dict):
            return gateway_response(400, "Cannot process request body")
        try:
            self._check_common_parameters(call)
            return await self._business[call.action](call)
        except RefusedError as refused:
            return self._certificates.refusal(refused.code, refused.message)

    def certificates(self, named: dict[str, str], now_us: int) -> list[CertificateState]:
        """The certificates of a device, oldest first."""
        return self._certificates.states(identify(named), now_us // SECOND_US)

    def too_large(self) -> Response:
        """The gateway's 413."""
        return gateway_response(413, "Request size limit exceeded")

    def throttled(self, call: Call, *, wait: bool) -> Response:
        """The gateway's 429."""
        headers = (retry_after(self._behaviour),) if wait else ()
        return gateway_response(429, "API rate limit exceeded", headers)

    def overloaded(self, call: Call, *, wait: bool) -> Response:
        """The gateway's 503."""
        headers = (retry_after(self._behaviour),) if wait else ()
        return gateway_response(503, "Service unavailable", headers)

    def internal_error(self, call: Call) -> Response:
        """99500 from one of three services, by the device; or 1005 from the token service."""
        if call.action.startswith("token."):
            return status_response(1005)
        message = INTERNAL_ERRORS[sum(call.device.encode()) % len(INTERNAL_ERRORS)]
        return self._certificates.refusal(INTERNAL_ERROR, message)

    def token_expired(self, call: Call) -> Response:
        """1203 for this call. The next `token/get` returns another token."""
        if call.action.startswith("token."):
            return status_response(1005)  # a token call carries no token that could be expired
        self._tokens.forget_current()
        return self._auth_error(1203)

    def _check_authentication(self, call: Call) -> Response | None:
        """The gateway's refusal of a call, or None if the call is authenticated."""
        headers, behaviour = call.request.headers, self._behaviour
        token = headers.get("apim-accesstoken", "")
        signature = headers.get("apim-signature", "")
        timestamp = headers.get("apim-timestamp", "")
        if not token:
            return self._auth_error(1202)
        if not self._tokens.is_valid(token, call.request.at_us):
            return self._auth_error(1203)
        if not signature:
            return None if behaviour.unsigned_calls else self._auth_error(1202)
        if signature != sign(call, token, timestamp, behaviour.app_secret):
            return gateway_response(401, "Invalid authentication credentials")
        if behaviour.clock_window and not self._is_recent(timestamp, call.request.at_us):
            return gateway_response(401, "Invalid authentication credentials")
        if behaviour.replay_check:
            if signature in self._signatures:
                return gateway_response(401, "Invalid authentication credentials")
            self._signatures.add(signature)
        return None

    def _is_recent(self, timestamp: str, now_us: int) -> bool:
        if not timestamp.isdecimal():
            return False
        skew_us = abs(int(timestamp) * 1000 - now_us)
        return skew_us <= self._behaviour.clock_window * SECOND_US

    def _auth_error(self, code: int) -> Response:
        http_status = self._behaviour.auth_error_http
        match self._behaviour.auth_error:
            case "status":
                return status_response(code, http_status)
            case "code":
                refusal = self._certificates.refusal(code, TOKEN_MESSAGES[code])
                return Response(code, http_status, refusal.body)
            case "kong":
                return gateway_response(401, "Invalid authentication credentials")

    def _check_common_parameters(self, call: Call) -> None:
        """Raise `RefusedError` if a parameter that all actions share is wrong."""
        if self._refuse_all:
            raise RefusedError(self._refuse_all)
        if not call.query.get("action"):
            raise missing("action")
        if call.request.method != _METHODS.get(call.action, "POST") or call.action == "unknown":
            raise RefusedError(BAD_ARGUMENT, "Invalid Argument action:action is invalid")
        org_id = call.query.get("orgId")
        if not org_id:
            raise missing("orgId")
        if self._behaviour.org_id not in ("", org_id):
            raise RefusedError(NO_PERMISSION, f"Denied resource:  orgId {org_id}")
        if call.action not in _METHODS and call.device in self._read_only:
            raise RefusedError(NO_PERMISSION, f"Denied resource:  {call.device}")


def gateway_response(
    status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """A response from the gateway itself."""
    return Response(status, status, orjson.dumps({"message": message}), headers=headers)


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return None


def _for_ledger(value: Any) -> int | str | None:
    """A serial number as the ledger shows it; text if it is neither a number nor text."""
    return value if value is None or isinstance(value, int | str) else repr(value)
