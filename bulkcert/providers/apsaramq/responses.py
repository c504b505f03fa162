"""What the responses of ApsaraMQ for MQTT mean. One table, to compare with the vendor's pages.

A response is judged by `Code` in its body, never by the HTTP status: the same code comes with 400,
403, 417 or 500, depending on whether one believes the API's pages or the later notice "MQTT OpenAPI
status code adjustment"; an unknown certificate is a 500, and the service's own flow control a 403.
A response without a code is a success only if it is complete and shows what was done, which the
caller must check: the gateway's 200 with `{}` is not. One that contradicts itself is in doubt.

Sources: the error tables of the six operations' pages, "Error codes" of ApsaraMQ for MQTT, and for
the gateway the common error codes of Alibaba Cloud.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bulkcert.providers.apsaramq.advice import NOT_FOUND
from bulkcert.providers.apsaramq.xml import xml_object
from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.clock import retry_after_s
from bulkcert.providers.decoding import (
    LONGEST_ID,
    is_refusal,
    json_object,
    not_json,
    one_line,
    text_of,
    truth,
)
from bulkcert.providers.masking import masked

OK = "OK"
"""Our code for a success, which has none of its own."""

KINDS: dict[str, CallKind] = {
    # The service. Either a parameter is wrong, or the operation is not possible in this state: the
    # response to inactivating an inactive certificate is not documented.
    "ParameterFieldCheckFailed": CallKind.DISPUTED,
    "ParameterCheckFailed": CallKind.DISPUTED,
    "InvalidParameter": CallKind.DISPUTED,
    NOT_FOUND: CallKind.REFUSED,
    "MqttInstanceNotFound": CallKind.REFUSED,
    "MqttOwnerCheckError": CallKind.REFUSED,
    "InstancePermissionCheckFailed": CallKind.REFUSED,
    "PermissionCheckFailed": CallKind.REFUSED,
    "CheckAccountInfoFailed": CallKind.UNUSABLE,  # of the STS token
    "ApiNotSupport": CallKind.REFUSED,
    "InternalError": CallKind.IN_DOUBT,
    "SystemOverFlow": CallKind.THROTTLED,  # "system flow control, retry"
    # The gateway.
    "Throttling": CallKind.THROTTLED,  # with .User and .Api
    "ServiceUnavailable": CallKind.IN_DOUBT,
    # We never send a nonce twice: something on the way did, and this is the response to its copy.
    # The response to the first one is lost, and whether that was executed is not known.
    "SignatureNonceUsed": CallKind.IN_DOUBT,
    "InvalidAccessKeyId": CallKind.UNUSABLE,  # .NotFound, .Inactive
    "SignatureDoesNotMatch": CallKind.REFUSED,
    "IncompleteSignature": CallKind.REFUSED,
    "InvalidTimeStamp": CallKind.UNUSABLE,  # .Expired, .Format
    "InvalidSecurityToken": CallKind.UNUSABLE,  # .Expired, .Malformed, .MismatchWithAccessKey
    "Missing": CallKind.REFUSED,  # MissingSecurityToken, or any parameter
    "InvalidApi": CallKind.REFUSED,  # .NotFound
    "InvalidProduct": CallKind.REFUSED,
    "InvalidProtocol": CallKind.UNUSABLE,  # .NeedSsl
    "UnsupportedHTTPMethod": CallKind.REFUSED,
    "Forbidden": CallKind.REFUSED,  # with .RAM
    "NoPermission": CallKind.REFUSED,
}
"""By code, or by its part before the first dot. A code that is not listed is DISPUTED: it is a
refusal for a reason that we don't know."""

PERMISSIONS = frozenset({"Forbidden", "NoPermission"})
"""The credentials are good, but the account lacks a permission."""

ABOUT_INSTANCE = frozenset({"MqttInstanceNotFound", "MqttOwnerCheckError", "ApiNotSupport"}) | {
    *("InstancePermissionCheckFailed", "PermissionCheckFailed"),
}
"""The credentials are good, but this instance can't be used: released, of another account, or of
another edition."""

ACCOUNT_WIDE = (
    PERMISSIONS
    | ABOUT_INSTANCE
    | {
        *(
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "Missing",
            "InvalidApi",
            "InvalidProduct",
        ),
        "UnsupportedHTTPMethod",
    }
)
"""Refusals whose reason may concern all requests. But a target may name an instance of its own, and
something on the way may spoil the signature of a request with an odd parameter."""

_CODE = re.compile(r"[A-Za-z][\w.%-]{0,99}", re.ASCII)


def family(code: object) -> str:
    """The part of a code that stands in the table."""
    head = str(code).partition(".")[0]
    return "Missing" if re.match(r"Missing[A-Z]", head) else head


def judge(
    response: Response, redirect_pause_s: float, now_s: float, secrets: tuple[str, ...] = ()
) -> CallResult:
    """Judge a response. OK only means that there is no error code; `data` is the whole body then.

    `retry_after_s` is set when senders should pause, whatever the kind is. Besides
    the vendor's own headers the standard one counts, which a load balancer in front may send.

    The vendor's FAQ on STS warns that a throttled request may get a redirect. But a redirect may
    just as well come from something else on the way. So it counts as an attempt, unlike other
    throttled responses, or a run behind such a thing would never end; yet all senders pause for
    `redirect_pause_s`.

    Args:
        response: any response.
        redirect_pause_s: see above.
        now_s: the provider's time, for a response without a `Date`.
        secrets: what the provider's texts must not show.
    """
    result = _judged(response, redirect_pause_s, secrets)
    waits = (result.retry_after_s, retry_after_s(response.headers, now_s))
    return result.asked_to_wait(
        response.status, max((wait for wait in waits if wait is not None), default=None)
    )


def _judged(response: Response, redirect_pause_s: float, secrets: tuple[str, ...]) -> CallResult:
    body = json_object(response)
    if body is None:
        body = xml_object(text_of(response))
    if body is None:
        pause_s = redirect_pause_s if 300 <= response.status < 400 else None
        return _without_code(response, not_json(response), pause_s)
    code = _member(body, "Code")
    if isinstance(code, str) and _CODE.fullmatch(code) and code != OK:
        return _with_code(response, body, code, secrets)
    request_id = one_line(masked(_member(body, "RequestId"), secrets), LONGEST_ID)
    if code is not None:
        problem = f"whose code is not one: {one_line(masked(code, secrets), 40) or '?'}"
    elif response.status != 200:
        problem = "that has no code"
    elif not request_id:
        problem = "that shows nothing"
    elif truth(_member(body, "Success", True)) is not True:
        problem = "that does not claim success"
    else:
        return CallResult(CallKind.OK, OK, "", request_id, body)
    result = _without_code(response, f"HTTP {response.status} with JSON {problem}")
    return result._replace(request_id=request_id or None)


def _with_code(
    response: Response, body: Mapping[str, Any], code: str, secrets: tuple[str, ...]
) -> CallResult:
    unknown = CallKind.THROTTLED if response.status == 429 else CallKind.DISPUTED
    kind = KINDS.get(family(code), unknown)
    text = one_line(masked(_member(body, "Message"), secrets))
    pause_s = vendor_wait_s(response.headers, throttled=kind is CallKind.THROTTLED)
    if (
        truth(_member(body, "Success"))
        or body.get("code") not in (None, code)
        or (response.status == 429 and kind is not CallKind.THROTTLED)
        or body.get("DeviceSn")  # a refusal beside a result
        or body.get("Data")
    ):
        kind = CallKind.IN_DOUBT
        problem = f"a response that contradicts itself (HTTP {response.status}, {code})"
        text = one_line(f"{problem}: {text}" if text else problem)
    return CallResult(
        kind,
        code,
        text,
        one_line(masked(_member(body, "RequestId"), secrets), LONGEST_ID) or None,
        retry_after_s=pause_s,
        account_wide=kind is CallKind.REFUSED and family(code) in ACCOUNT_WIDE,
    )


def _member(body: Mapping[str, Any], name: str, otherwise: Any = None) -> Any:
    """A member that is not null. The vendor's own SDK also takes names that begin in lower case."""
    for spelling in (name, name[0].lower() + name[1:]):
        if body.get(spelling) is not None:
            return body[spelling]
    return otherwise


def vendor_wait_s(headers: Mapping[str, str], *, throttled: bool) -> float | None:
    """How long the gateway asks to wait, in seconds, by headers of its own with milliseconds.

    Current SDKs read `x-acs-retry-after`, from any error. Older ones read `x-ratelimit-*`, such as
    `Limit:1,Remain:0,TimeLeft:2000,Reset:1234`; this is also sent while the quota is not used up,
    so it counts for throttled responses only.
    """
    waits = [headers.get("x-acs-retry-after", "").strip()]
    if throttled:
        for name in ("x-ratelimit-user-api", "x-ratelimit-user"):
            waits += re.findall(r"(?:^|,)\s*TimeLeft:\s*(\d+)", headers.get(name, ""))
    milliseconds = [int(wait[:12]) for wait in waits if wait.isascii() and wait.isdigit()]
    longest = max(milliseconds, default=0)
    return longest / 1000 if longest else None


def _without_code(response: Response, message: str, pause_s: float | None = None) -> CallResult:
    if response.status == 429:
        return CallResult(CallKind.THROTTLED, 429, message)
    if is_refusal(response.status):
        return CallResult(CallKind.DISPUTED, response.status, message, account_wide=True)
    return CallResult(CallKind.IN_DOUBT, response.status, message, retry_after_s=pause_s)


def unexpected(call: CallResult, what: str) -> CallResult:
    """A call whose response has no error code, but does not contain what was asked for either."""
    return call.unreadable(f"the response is something other than {what}")
