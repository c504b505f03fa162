"""What the answers of ApsaraMQ for MQTT mean. One table, to be held beside the vendor's pages.

Judged by `Code` in the body, never by the HTTP status: the same code comes as 400, 403, 417 or 500,
depending on whether one believes the API's pages or the later notice "MQTT OpenAPI status code
adjustment"; an unknown certificate is a 500, and the service's own flow control a 403. An answer
without a code is a success only if it is complete and says what was done, which whoever asked must
check: the gateway's 200 with `{}` is none.

Sources: the error tables of the six operations' pages, "Error codes" of ApsaraMQ for MQTT, and for
the gateway the common error codes of Alibaba Cloud.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bulkcert.model import Answer, AnswerKind
from bulkcert.providers.call import Response
from bulkcert.providers.decoding import json_object, not_json, one_line

NOT_FOUND = "FindDeviceBySnError"
"""No such certificate is registered."""

OK = "OK"
"""Our code for an answer that has none."""

KINDS: dict[str, AnswerKind] = {
    # the service. A parameter may be wrong, or the state is not one to do this in: what is said to
    # inactivating an inactive certificate is not documented.
    "ParameterFieldCheckFailed": AnswerKind.DISPUTED,
    "ParameterCheckFailed": AnswerKind.DISPUTED,
    "InvalidParameter": AnswerKind.DISPUTED,
    NOT_FOUND: AnswerKind.REFUSED,
    "MqttInstanceNotFound": AnswerKind.UNUSABLE,
    "MqttOwnerCheckError": AnswerKind.UNUSABLE,
    "InstancePermissionCheckFailed": AnswerKind.UNUSABLE,
    "PermissionCheckFailed": AnswerKind.UNUSABLE,
    "CheckAccountInfoFailed": AnswerKind.UNUSABLE,  # of the STS token
    "ApiNotSupport": AnswerKind.UNUSABLE,
    "InternalError": AnswerKind.IN_DOUBT,
    "SystemOverFlow": AnswerKind.THROTTLED,  # "system flow control, retry"
    # the gateway
    "Throttling": AnswerKind.THROTTLED,  # with .User and .Api
    "ServiceUnavailable": AnswerKind.IN_DOUBT,
    # We never send a nonce twice: something on the way did, and this is the answer to its copy. The
    # answer to the first one is lost, and with it whether that was executed.
    "SignatureNonceUsed": AnswerKind.IN_DOUBT,
    "InvalidAccessKeyId": AnswerKind.UNUSABLE,  # .NotFound, .Inactive
    "SignatureDoesNotMatch": AnswerKind.UNUSABLE,
    "IncompleteSignature": AnswerKind.UNUSABLE,
    "InvalidTimeStamp": AnswerKind.UNUSABLE,  # .Expired, .Format
    "InvalidSecurityToken": AnswerKind.UNUSABLE,  # .Expired, .Malformed, .MismatchWithAccessKey
    "Missing": AnswerKind.UNUSABLE,  # MissingSecurityToken, or any parameter
    "InvalidApi": AnswerKind.UNUSABLE,  # .NotFound
    "InvalidProduct": AnswerKind.UNUSABLE,
    "InvalidProtocol": AnswerKind.UNUSABLE,  # .NeedSsl
    "UnsupportedHTTPMethod": AnswerKind.UNUSABLE,
    "Forbidden": AnswerKind.UNUSABLE,  # with .RAM
    "NoPermission": AnswerKind.UNUSABLE,
}
"""By the code, or by its part before the first dot. What is not listed is DISPUTED: it was refused,
but who knows why."""

PERMISSIONS = frozenset({"Forbidden", "NoPermission"})
"""What the account may not do, though it is who it says it is."""

_CODE = re.compile(r"[A-Za-z][\w.%-]{0,99}", re.ASCII)


def family(code: object) -> str:
    """The part of a code by which it is in the table."""
    head = str(code).partition(".")[0]
    return "Missing" if re.match(r"Missing[A-Z]", head) else head


def judge(reply: Response, redirect_pause_s: float) -> Answer:
    """Turn a reply into an answer. DONE means no more than that it has no error code in it.

    `Answer.result` is the whole body then. `retry_after_s` is set when senders should pause,
    whatever the kind is.

    The vendor's FAQ on STS warns that a throttled request may come back as a redirect. It might as
    well be a detour that has nothing to do with the vendor, so it counts as an attempt, unlike
    other throttled responses, or a run against such a thing would never end; but all senders pause
    for `redirect_pause_s`.
    """
    body = json_object(reply)
    if body is None:
        pause_s = redirect_pause_s if 300 <= reply.status < 400 else None
        return _without_code(reply, not_json(reply), pause_s)
    request_id = one_line(body.get("RequestId") or body.get("requestId")) or None
    code = body.get("Code", body.get("code"))
    if isinstance(code, str) and _CODE.fullmatch(code) and code != OK:
        kind = KINDS.get(family(code), AnswerKind.DISPUTED)
        said = one_line(body.get("Message") or body.get("message"))
        pause_s = retry_after_s(reply.headers, throttled=kind is AnswerKind.THROTTLED)
        return Answer(kind, code, said, request_id, retry_after_s=pause_s)
    if code is not None:
        return _without_code(reply, f"HTTP {reply.status} with JSON whose code is none")
    if reply.status != 200:
        return _without_code(reply, f"HTTP {reply.status} with JSON that has no code")
    if request_id is None:
        return _without_code(reply, "HTTP 200 with JSON that says nothing")
    return Answer(AnswerKind.DONE, OK, "", request_id, body)


def retry_after_s(headers: Mapping[str, str], *, throttled: bool) -> float | None:
    """How long the gateway asks to wait, in seconds; it counts in milliseconds.

    `x-acs-retry-after` is what current SDKs read, from any error. `x-ratelimit-*` is what former
    ones read, `Limit:1,Remain:0,TimeLeft:2000,Reset:1234`; a quota that is not used up has it too,
    so it counts for throttled answers only.
    """
    waits = [headers.get("x-acs-retry-after", "").strip()]
    if throttled:
        for name in ("x-ratelimit-user-api", "x-ratelimit-user"):
            waits += re.findall(r"(?:^|,)\s*TimeLeft:\s*(\d+)", headers.get(name, ""))
    milliseconds = [int(wait[:12]) for wait in waits if wait.isascii() and wait.isdigit()]
    longest = max(milliseconds, default=0)
    return longest / 1000 if longest else None


def _without_code(reply: Response, said: str, pause_s: float | None = None) -> Answer:
    kind = AnswerKind.THROTTLED if reply.status == 429 else AnswerKind.IN_DOUBT
    return Answer(kind, reply.status, said, retry_after_s=pause_s)
