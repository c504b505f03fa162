"""What the responses of EnOS mean. One table, to compare with the vendor's pages. Pure.

A response is judged by the code in its body, never by the HTTP status alone: business errors come
with status 200. Three envelopes are in use: `{code, msg, requestId, data}` by the services,
`{status, msg, business, data}` by the token service, `{message}` by the gateway. A response that
fits none of them leaves open what happened, and so does one that contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.clock import retry_after_s
from bulkcert.providers.decoding import (
    LONGEST_ID,
    integer,
    is_refusal,
    json_object,
    not_json,
    one_line,
    truth,
)
from bulkcert.providers.masking import masked

KINDS: dict[int, CallKind] = {
    0: CallKind.OK,
    401: CallKind.NOT_SENT,  # the gateway's own, in the body
    429: CallKind.THROTTLED,
    1001: CallKind.REFUSED,  # repeated request with a duplicated encryption
    1002: CallKind.UNUSABLE,  # appKey does not exist
    1003: CallKind.UNUSABLE,  # encryption is not valid: wrong secret
    1004: CallKind.REFUSED,  # invalid parameter
    1005: CallKind.IN_DOUBT,  # internal service exception
    1204: CallKind.REFUSED,  # failed to refresh the access token
    # The gateway rejected the request because of its token: empty, expired, and the `apim_status`
    # family of older clients.
    1202: CallKind.NOT_SENT,
    1203: CallKind.NOT_SENT,
    4011: CallKind.NOT_SENT,
    4012: CallKind.NOT_SENT,
    11404: CallKind.REFUSED,  # device cannot be found
    11833: CallKind.REFUSED,  # certificate is bound to another device
    # One code for all validation errors and most errors of state, such as "has been revoked".
    99400: CallKind.DISPUTED,
    99403: CallKind.REFUSED,  # missing permission
    99404: CallKind.DISPUTED,  # object does not exist
    99500: CallKind.IN_DOUBT,  # internal error of certificate, product or IoT Hub service
}
"""For all other codes see `kind_of`."""

ACCOUNT_WIDE = frozenset({99403})
"""Refusals whose reason may concern all requests."""

GATEWAY_KINDS: dict[int, CallKind] = {
    400: CallKind.REFUSED,  # Cannot process request body
    403: CallKind.REFUSED,  # Your IP address is not allowed
    404: CallKind.REFUSED,  # no such API behind this endpoint
    413: CallKind.REFUSED,  # Request size limit exceeded
}
"""By HTTP status, for responses in the gateway's own envelope; all others leave it open."""

GATEWAY_ACCOUNT_WIDE = frozenset({403, 404})
"""Likewise; but a firewall may dislike a single request."""


_CODES = ("code", "status", "apim_status")
"""The members that say how a request went, in one envelope or another."""

_TURNED_AWAY = {
    401: frozenset({CallKind.NOT_SENT, CallKind.UNUSABLE}),
    429: frozenset({CallKind.THROTTLED}),
}
"""HTTP statuses with which the gateway passes nothing on, and what a code beside them may mean."""

_RESULTS = frozenset({"cert", "certSN", "certSn", "accessToken"})
"""Members of `data` that only a success has."""


def judge(response: Response, now_s: float, secrets: tuple[str, ...] = ()) -> CallResult:
    """Judge a response. `CallResult.data` is the envelope's `data`, unchecked.

    The kind NOT_SENT means that the gateway did not accept the token.

    Args:
        response: any response.
        now_s: the provider's time, for a response without a `Date`.
        secrets: what the provider's texts must not show.
    """
    wait_s = retry_after_s(response.headers, now_s)
    return _judged(response, secrets).asked_to_wait(response.status, wait_s)


def _judged(response: Response, secrets: tuple[str, ...]) -> CallResult:
    body = json_object(response)
    if body is None:
        kind = CallKind.DISPUTED if is_refusal(response.status) else CallKind.IN_DOUBT
        return _without_code(response, kind, not_json(response), kind is CallKind.DISPUTED)
    for name in ("msg", "message", "requestId"):
        if name in body:
            body[name] = masked(body[name], secrets)
    said = {name: value for name in _CODES if (value := body.get(name)) is not None}
    codes = [code for value in said.values() if (code := integer(value)) is not None]
    text = one_line(body.get("msg")) or one_line(body.get("message"))
    if codes:
        return _with_code(response, body, said, codes, text)
    if body.get("message") is not None and not said:
        kind = GATEWAY_KINDS.get(response.status, CallKind.IN_DOUBT)
        return _without_code(response, kind, text, response.status in GATEWAY_ACCOUNT_WIDE)
    if said:
        text = _quoted("JSON whose code is not a number", response, said, text)
    else:
        text = f"HTTP {response.status} with JSON that has no code"
    return _without_code(response, CallKind.IN_DOUBT, text, request_id=_request_id(body))


def _with_code(
    response: Response,
    body: Mapping[str, Any],
    said: Mapping[str, Any],
    codes: Sequence[int],
    text: str,
) -> CallResult:
    code, kind = codes[0], kind_of(codes[0], response.status)
    if _contradictory(response.status, body, said, codes):
        code, kind = next(filter(None, codes), response.status), CallKind.IN_DOUBT
        text = _quoted("a response that contradicts itself", response, said, text)
    return CallResult(
        kind,
        code,
        text,
        _request_id(body),
        body.get("data"),
        account_wide=kind is CallKind.REFUSED and code in ACCOUNT_WIDE,
    )


def _without_code(
    response: Response,
    kind: CallKind,
    text: str,
    account_wide: bool = False,
    request_id: str | None = None,
) -> CallResult:
    match response.status:
        case 401:
            text = "the gateway does not accept the access token"
            return CallResult(CallKind.NOT_SENT, 401, text)
        case 429:
            return CallResult(CallKind.THROTTLED, 429, text or "Too Many Requests")
        case status:
            return CallResult(kind, status, text, request_id, account_wide=account_wide)


def _quoted(problem: str, response: Response, said: Mapping[str, Any], text: str) -> str:
    """Describe a response that can't be judged, with what it says."""
    numbers = ", ".join(f"{name} {one_line(value, 40) or '?'}" for name, value in said.items())
    problem = f"{problem} (HTTP {response.status}, {numbers})"
    return one_line(f"{problem}: {text}" if text else problem)


def _request_id(body: Mapping[str, Any]) -> str | None:
    return one_line(body.get("requestId"), LONGEST_ID) or None


def _contradictory(
    status: int, body: Mapping[str, Any], said: Mapping[str, Any], codes: Sequence[int]
) -> bool:
    """Whether a response claims different things at once.

    Args:
        status: its HTTP status.
        body: all its members.
        said: those of `_CODES`.
        codes: the numbers in them.
    """
    if len(codes) > 1 or status in _TURNED_AWAY:
        kinds = {kind_of(code, status) for code in codes}
        if len(kinds) > 1 or not kinds <= _TURNED_AWAY.get(status, kinds):
            return True
    success, data = truth(body.get("success")), body.get("data")
    if 0 in codes:
        return len(codes) < len(said) or not 200 <= status < 300 or success is False
    return success is True or (isinstance(data, dict) and not _RESULTS.isdisjoint(data))


def kind_of(code: int, status: int) -> CallKind:
    """What a code means, in a response with this HTTP status."""
    if code == 0 and not 200 <= status < 300:
        return CallKind.IN_DOUBT  # it contradicts itself
    if code in KINDS:
        return KINDS[code]
    # Not listed: refused, for a reason that we don't know. Broken servers respond with a code too.
    broken = status >= 500 or 500 <= code < 600
    return CallKind.IN_DOUBT if broken else CallKind.DISPUTED
