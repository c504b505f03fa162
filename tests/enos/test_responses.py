"""What responses of EnOS mean: row by row of the vendor's tables, and for any other content.

The kinds here are written down from the vendor's pages, not from the code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.enos.responses import GATEWAY_KINDS, KINDS, judge, kind_of

DONE = CallKind.OK
REFUSED = CallKind.REFUSED
DISPUTED = CallKind.DISPUTED
IN_DOUBT = CallKind.IN_DOUBT
NOT_SENT = CallKind.NOT_SENT
THROTTLED = CallKind.THROTTLED
UNUSABLE = CallKind.UNUSABLE
BUSY = CallKind.BUSY

REQUEST_ID = "e3391ff8-5c3c-4f5e-a2f7-6d7a0b5b8f5e"


def answer_to(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> CallResult:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(Response(status, CIMultiDict(headers or {}), content, 0.0), time.time())


def business(code: object, message: object, data: object = None) -> dict[str, Any]:
    return {"code": code, "msg": message, "requestId": REQUEST_ID, "data": data}


def token_service(status: object, message: str, data: object = None) -> dict[str, Any]:
    return {"status": status, "msg": message, "business": "apim-token-service", "data": data}


# ---- the vendor's tables

TOKEN_CODES = [
    (0, "SUCCESS", DONE),
    (1001, "repeated request with a duplicated encryption", REFUSED),
    (1002, "appKey does not exist", UNUSABLE),
    (1003, "encryption is not valid", UNUSABLE),
    (1004, "invalid parameter", REFUSED),
    (1005, "internal service exception", IN_DOUBT),
    (1202, "a parameter is empty", NOT_SENT),
    (1203, "access token has expired", NOT_SENT),
    (1204, "failed to refresh the access token", REFUSED),
]

GATEWAY = [
    (400, "Cannot process request body", REFUSED),
    (401, "Invalid authentication credentials", NOT_SENT),
    (403, "Your IP address is not allowed", REFUSED),
    (404, "no Route matched with those values", REFUSED),
    (413, "Request size limit exceeded", REFUSED),
    (429, "API rate limit exceeded", THROTTLED),
    (500, "An unexpected error occurred", IN_DOUBT),
    (502, "An invalid response was received from the upstream server", IN_DOUBT),
    (503, "Service unavailable", IN_DOUBT),
    (504, "The upstream server is timing out", IN_DOUBT),
]

BUSINESS_CODES = [
    (0, "OK", DONE),
    # one code for all invalid input and for most states, so only a look-up can decide
    (99400, "invalid argument: The device identifier is invalid", DISPUTED),
    (99400, "Device identifier is invalid", DISPUTED),
    (99400, "Invalid Argument certSn:certSn is missing", DISPUTED),
    (99400, "Invalid Argument csr:csr is missing", DISPUTED),
    (99400, "Invalid Argument action:action is missing", DISPUTED),
    (99400, "Invalid Argument orgId:  orgId does not exist", DISPUTED),
    (99400, "the validity period exceeds the maximum validity period of the product", DISPUTED),
    (99400, "product does not support bi-directional authorization", DISPUTED),
    (99400, "Call ca error!: Certificate service err info:, code: (1), message: (x)", DISPUTED),
    (99400, "Invalid cert request!message: (x), detail message: (y)", DISPUTED),
    (99400, "Duplicate subject by certificate request!message: (x)", DISPUTED),
    (99400, "Revoke cert is failed!message: x", DISPUTED),
    (99400, "Renew cert is failed!message: x", DISPUTED),
    (99400, "Query cert is failed!message: (x), detail message: (y)", DISPUTED),
    (99400, "When calling Certificate Services, the call parameters are invalid.", DISPUTED),
    (99400, "serial number of the certificate to be updated is required", DISPUTED),
    (99400, "serial number of the new certificate is invalid (less than 0)", DISPUTED),
    (99400, "original certificate has been revoked and cannot be updated", DISPUTED),
    (99400, "original certificate has expired and cannot be updated", DISPUTED),
    (99400, "certificate list bound to the device does not have the certificate", DISPUTED),
    (99403, "Denied resource:  orgId o1558", REFUSED),
    (99404, "object does not exist", DISPUTED),
    (11404, "Device cannot be found", REFUSED),
    (11833, "Certificate is already bound to another device", REFUSED),
    (99500, " Internal Server Error", IN_DOUBT),
    (99500, "internal error of certificate service", IN_DOUBT),
]


@pytest.mark.parametrize("http_status", [200, 400, 403, 500])
@pytest.mark.parametrize(("code", "message", "kind"), TOKEN_CODES[1:] + BUSINESS_CODES[1:])
@pytest.mark.parametrize("envelope", [business, token_service])
def test_a_documented_code_means_the_same_in_any_envelope_and_with_any_http_status(
    envelope: Any, code: int, message: str, kind: CallKind, http_status: int
) -> None:
    response = answer_to(envelope(code, message), http_status)
    assert (response.kind, response.code) == (kind, code)
    assert response.message == " ".join(message.split())
    assert response.request_id == (REQUEST_ID if envelope is business else None)


@pytest.mark.parametrize(("status", "message", "kind"), GATEWAY)
def test_responses_of_the_gateway_itself_are_judged_by_http_status(
    status: int, message: str, kind: CallKind
) -> None:
    response = answer_to({"message": message}, status)
    assert (response.kind, response.code) == (kind, status)
    assert status == 401 or response.message == message


@pytest.mark.parametrize("code", [4011, 4012])
def test_the_older_gateway_reports_a_bad_token_in_its_own_way(code: int) -> None:
    assert answer_to({"apim_status": code, "apim_refreshtoken": "x"}).kind is NOT_SENT


@pytest.mark.parametrize("body", [b"", b"<html>x</html>", b"{}", b'{"message":"x"}', b"[0]"])
@pytest.mark.parametrize(("status", "kind"), [(401, NOT_SENT), (429, THROTTLED)])
def test_the_gateway_passes_nothing_on_when_it_responds_with_401_or_429(
    status: int, kind: CallKind, body: bytes
) -> None:
    response = answer_to(body, status)
    assert (response.kind, response.code) == (kind, status)
    assert response.message


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        *((401, code, NOT_SENT) for code in (401, 1202, 1203, 4011, 4012)),
        *((401, code, UNUSABLE) for code in (1002, 1003)),
        (429, 429, THROTTLED),
    ],
)
def test_a_code_beside_401_or_429_may_say_more(status: int, code: int, kind: CallKind) -> None:
    for body in ({"code": code}, {"status": code}):
        response = answer_to(body, status)
        assert (response.kind, response.code) == (kind, code)


# ---- contradictions


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, {"status": 0, "code": 99400}, 99400),
        (200, {"status": 99500, "code": 0}, 99500),
        (200, {"code": 0, "apim_status": 4011}, 4011),
        (200, {"status": "0", "code": "11404"}, 11404),
        (200, {"status": 200, "code": 0}, 200),
        (200, {"status": 1203, "code": 99400}, 99400),
        (200, {"status": 99403, "code": 99400}, 99400),
        (200, {"status": "error", "code": 0}, 200),
        (200, {"status": False, "code": 0}, 200),
        (200, {"status": 0, "code": [0]}, 200),
        (200, {"code": 0, "status": 2**63}, 200),
        (200, {"code": 0, "success": False}, 200),
        (200, {"code": 0, "success": "false"}, 200),
        (200, {"code": 99400, "success": True}, 99400),
        (200, {"code": 99403, "data": {"certSN": "7", "cert": "-----BEGIN"}}, 99403),
        (200, {"status": 1003, "data": {"accessToken": "x", "expire": 7200}}, 1003),
        (401, {"code": 0}, 401),
        (401, {"code": 99500}, 99500),
        (401, {"code": 99400}, 99400),
        (429, {"code": 0}, 429),
        (429, {"status": 99500}, 99500),
        (429, {"code": 99400}, 99400),
    ],
)
def test_a_response_that_contradicts_itself_is_in_doubt(
    status: int, body: dict[str, Any], code: int
) -> None:
    response = answer_to(body | {"msg": "so it is", "requestId": REQUEST_ID}, status)
    assert (response.kind, response.code) == (IN_DOUBT, code)
    assert response.message.startswith(f"a response that contradicts itself (HTTP {status}, ")
    assert response.message.endswith("): so it is")
    assert response.request_id == REQUEST_ID
    assert response.account_wide is False


def test_numbers_that_mean_the_same_do_not_contradict_each_other() -> None:
    assert answer_to({"code": 0, "status": "0", "success": True}).kind is DONE
    assert answer_to({"code": 99400, "status": 400}, 400).kind is DISPUTED
    assert answer_to({"code": 99403, "status": 11404}).code == 99403
    assert answer_to({"code": 99403, "success": False, "data": {"detail": 1}}).kind is REFUSED


def test_a_code_that_is_not_a_number_is_not_the_gateway_s_own_refusal() -> None:
    response = answer_to({"code": "E", "message": "no"}, 400)
    assert (response.kind, response.code) == (IN_DOUBT, 400)
    assert "code is not a number" in response.message


# ---- success

CERTIFICATE = {"certSN": "1", "certStatus": 0}


@pytest.mark.parametrize("data", [None, [], [CERTIFICATE], {"cert": "x"}, "text", 7])
def test_a_success_passes_its_data_on_unchanged(data: object) -> None:
    assert answer_to(business(0, "OK", data)) == CallResult(DONE, 0, "OK", REQUEST_ID, data)
    assert answer_to(token_service(0, "SUCCESS", data)) == CallResult(
        DONE, 0, "SUCCESS", None, data
    )


@pytest.mark.parametrize("http_status", [199, 300, 301, 302, 304, 400, 403, 404, 500, 502, 503])
def test_code_0_with_a_contradicting_status_is_in_doubt(http_status: int) -> None:
    response = answer_to(business(0, "OK"), http_status)
    assert (response.kind, response.code) == (IN_DOUBT, http_status)
    assert response.message.startswith("a response that contradicts itself")
    assert kind_of(0, http_status) is IN_DOUBT


@pytest.mark.parametrize("http_status", [200, 201, 299])
def test_code_0_is_a_success_with_any_status_of_a_success(http_status: int) -> None:
    assert answer_to(business(0, "OK"), http_status).kind is DONE
    assert kind_of(0, http_status) is DONE


@pytest.mark.parametrize(
    "code",
    [
        None,
        False,
        True,
        0.0,
        -0.0,
        "",
        " ",
        "OK",
        "0x0",
        "-0",
        "+0",
        "²",
        "٠",
        [0],
        {"0": 0},
        [],
        {},
    ],
)
def test_only_the_number_0_or_its_digit_is_success(code: object) -> None:
    assert answer_to(business(code, "OK")).kind is IN_DOUBT
    assert answer_to(token_service(code, "OK")).kind is IN_DOUBT
    assert answer_to({"code": "0"}).kind is DONE


def test_a_code_may_be_a_number_or_its_digits() -> None:
    assert answer_to(business("99400", "no")) == CallResult(DISPUTED, 99400, "no", REQUEST_ID)


def test_what_is_not_a_number_is_ignored_beside_a_refusal() -> None:
    assert answer_to({"status": "error", "code": 99403}).kind is REFUSED
    assert answer_to({"status": None, "code": None, "apim_status": 4012}).kind is NOT_SENT


@pytest.mark.parametrize(
    "code", [2**63, -(2**63) - 1, 10**30, "9" * 31, str(2**63), "0" * 31, 1e30, {"a": [0]}, True]
)
def test_a_number_that_can_not_be_recorded_is_not_a_code(code: object) -> None:
    for body in (business(code, "x"), token_service(code, "x"), {"apim_status": code}):
        response = answer_to(body)
        assert (response.kind, response.code) == (IN_DOUBT, 200)
        assert response.message.startswith("JSON whose code is not a number (HTTP 200, ")
    response = answer_to(business(code, "what it says"))
    assert response.message.endswith("): what it says")
    assert response.request_id == REQUEST_ID


# ---- codes outside the tables


@pytest.mark.parametrize(
    "code", [1, -1, 7, 400, 404, 499, 600, 42900, 99405, 99999, 2**63 - 1, -(2**63)]
)
def test_an_unknown_code_is_a_disputed_refusal(code: int) -> None:
    assert answer_to(business(code, "who knows")).kind is DISPUTED
    assert answer_to(business(code, "who knows"), 400).kind is DISPUTED
    assert answer_to(business(code, "who knows"), 499).kind is DISPUTED


@pytest.mark.parametrize("http_status", [500, 502, 503, 599])
def test_an_unknown_code_with_a_server_error_is_in_doubt(http_status: int) -> None:
    assert answer_to(business(77, "oops"), http_status).kind is IN_DOUBT


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_code_that_repeats_the_status_of_a_server_error_is_in_doubt(status: int) -> None:
    """Application servers respond like this when a service breaks; older versions did, too."""
    body = {
        "timestamp": "2026-11-21T19:03:11.120+0000",
        "status": status,
        "error": "Internal Server Error",
        "message": "No message available",
        "path": "/connect-service/v2.0/certificates",
    }
    assert answer_to(body, status).kind is IN_DOUBT
    assert answer_to(body, 200).kind is IN_DOUBT


# ---- malformed responses


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"", "HTTP 200 with no JSON object"),
        (200, b"null", "HTTP 200 with no JSON object"),
        (200, b"[]", "HTTP 200 with no JSON object"),
        (200, b"0", "HTTP 200 with no JSON object"),
        (200, b'"OK"', "HTTP 200 with no JSON object"),
        (200, b"\xff\xfe\x00", "HTTP 200 with no JSON object"),
        (200, b'{"code":0,"msg":"OK","requestId":"e33', "HTTP 200 with broken JSON, code 0"),
        (200, b'{"code":0}{"code":0}', "HTTP 200 with broken JSON, code 0"),
        (200, b'{"code":NaN}', "HTTP 200 with broken JSON, code NaN"),
        (200, b"<html><body>OK</body></html>", "HTTP 200 with an HTML page"),
        (502, b"<!DOCTYPE html>\r\n<HTML>\r\n<h1>502</h1>", "HTTP 502 with an HTML page"),
        (302, b"", "HTTP 302, a redirect, which is not followed"),
        (307, b"<html>", "HTTP 307, a redirect, which is not followed"),
        (200, b"{}", "HTTP 200 with JSON that has no code"),
        (302, b"{}", "HTTP 302 with JSON that has no code"),
        (500, b'{"error":"x"}', "HTTP 500 with JSON that has no code"),
    ],
)
def test_a_response_in_no_known_envelope_is_in_doubt(status: int, body: bytes, said: str) -> None:
    assert answer_to(body, status) == CallResult(IN_DOUBT, status, said)


@pytest.mark.parametrize("cut", range(1, 92, 3))
def test_json_that_was_cut_short_is_in_doubt(cut: int) -> None:
    whole = json.dumps(business(0, "OK")).encode()
    assert answer_to(whole).kind is DONE
    assert answer_to(whole[:-cut] if cut < len(whole) else b"").kind is IN_DOUBT


@pytest.mark.parametrize(
    "said", [None, 5, 1.5, True, ["a", {"b": 1}], {"en": "x"}, "", "x" * 10_000, "a\0b\x1b[31mc"]
)
def test_the_message_becomes_one_short_printable_line(said: object) -> None:
    for response in (
        answer_to(business(99400, said)),
        answer_to({"message": said}, 400),
        answer_to({"message": said}, 429),
        answer_to({**business(99400, "x"), "requestId": said}),
    ):
        for text in (response.message, response.request_id or ""):
            assert len(text) <= 500
            assert text.isprintable()


def test_a_request_id_is_cut_after_100_characters() -> None:
    assert answer_to({**business(99400, "no"), "requestId": "r" * 500}).request_id == "r" * 100


def test_a_throttled_response_without_words_has_a_message() -> None:
    assert answer_to({"message": ""}, 429).message == "Too Many Requests"


def test_line_ends_in_the_message_become_spaces() -> None:
    assert answer_to(business(99400, " no\r\n\tway\u2028out ")).message == "no way out"


def test_deeply_nested_json_does_no_harm() -> None:
    for depth in (100, 500, 900, 1000, 1020, 5000, 100_000):
        deep = b"[" * depth + b"]" * depth
        for member in (b"msg", b"message", b"requestId", b"code", b"data"):
            answer_to(b'{"code":99400,"' + member + b'":' + deep + b"}")
            answer_to(b'{"' + member + b'":' + deep + b"}", 400)
            answer_to(b'{"' + member + b'":' + deep + b"}", 429)


# ---- Retry-After, which tests/test_clock.py reads in all its forms


def retry_after(body: object, status: int, value: str = "7") -> tuple[CallKind, float | None]:
    result = answer_to(body, status, {"retry-AFTER": value})
    return result.kind, result.retry_after_s


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"message": "API rate limit exceeded"}, 429, THROTTLED),
        (b"<html>", 429, THROTTLED),
        (business(429, "too many"), 200, THROTTLED),
        ({"message": "Service unavailable"}, 503, BUSY),
        (b"<html>", 503, BUSY),
        (b"", 503, BUSY),
        (business(99500, "maintenance"), 503, BUSY),
        # all others count as attempts, or a run behind something that always sends it never ends
        ({"message": "An unexpected error occurred"}, 500, IN_DOUBT),
        (b"<html>", 502, IN_DOUBT),
        (business(99500, "internal error"), 200, IN_DOUBT),
    ],
)
def test_a_requested_wait_is_heeded_where_it_may_be_meant(
    body: object, status: int, kind: CallKind
) -> None:
    assert retry_after(body, status) == (kind, 7.0)


@pytest.mark.parametrize(
    ("body", "status"),
    [(business(0, "OK"), 200), (business(99400, "no"), 503), ({"message": "Forbidden"}, 403)],
)
def test_a_definite_answer_does_not_ask_to_wait(body: object, status: int) -> None:
    kind, wait_s = retry_after(body, status)
    assert kind in (DONE, DISPUTED, REFUSED)
    assert wait_s is None


def test_503_without_a_readable_wait_counts_as_any_other_error() -> None:
    assert answer_to(b"<html>", 503).kind is IN_DOUBT
    assert retry_after(b"<html>", 503, "soon") == (IN_DOUBT, None)


# ---- refusals that may concern everything


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (business(99403, "Denied resource"), 200, REFUSED),
        ({"message": "Your IP address is not allowed"}, 403, REFUSED),
        ({"message": "no Route matched with those values"}, 404, REFUSED),
        # A firewall may also hide the response to what was executed: look.
        (b"<html>", 403, DISPUTED),
        (b"<html>", 404, DISPUTED),
        (b"Request Entity Too Large", 413, DISPUTED),
    ],
)
def test_a_refusal_may_concern_the_whole_account(body: object, status: int, kind: CallKind) -> None:
    result = answer_to(body, status)
    assert (result.kind, result.account_wide) == (kind, True)
    assert result.as_attempt().account_wide
    assert result.as_failed_lookup("list").account_wide


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (business(99400, "no"), 400),
        (business(11404, "no"), 404),
        ({"message": "Cannot process request body"}, 400),
        (b"<html>", 408),
        (b"<html>", 429),
        (b"<html>", 502),
    ],
)
def test_other_results_concern_their_own_target(body: object, status: int) -> None:
    assert not answer_to(body, status).account_wide


# ---- any content

numbers = st.one_of(st.integers(-(10**32), 10**32), st.sampled_from([0, 1203, 99400, 99500]))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        numbers,
        numbers.map(str),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab"), inner, max_size=3)
    ),
    max_leaves=5,
)
members = st.sampled_from(
    ["code", "status", "apim_status", "msg", "message", "requestId", "data", "business"]
)
bodies = st.one_of(
    st.binary(max_size=30),
    st.dictionaries(members, values, max_size=6).map(lambda body: json.dumps(body).encode()),
    st.tuples(st.dictionaries(members, values, max_size=6), st.integers(1, 9)).map(
        lambda both: json.dumps(both[0]).encode()[: -both[1]]
    ),
)
header_values = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=20),
    st.from_regex(
        r"\A(Mon, )?[0-9]{1,3} (Jan|Feb|XXX) [0-9]{1,12} [0-9:]{1,9}( GMT| [+-][0-9]{1,20})?\Z"
    ),
)
headers_ = st.dictionaries(
    st.sampled_from(["Retry-After", "retry-after", "Content-Type", "Location"]), header_values
)


def really_says_0(content: bytes) -> bool:
    """Whether every one of the three members that is there is 0, as a number or as a digit."""
    body = json.loads(content)
    said = [body[name] for name in ("status", "code", "apim_status") if body.get(name) is not None]
    zero = [value for value in said if (type(value) is int and value == 0) or value == "0"]
    return bool(zero) and len(zero) == len(said)


@given(content=bodies, status=st.integers(100, 999), headers=headers_)
@example(b'{"code":0}', 200, {})
@example(b"", 429, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999"})
@example(b"", 429, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +" + "9" * 5000})
def test_any_response_is_judged_and_only_a_real_0_is_success(
    content: bytes, status: int, headers: dict[str, str]
) -> None:
    response = answer_to(content, status, headers)
    if response.kind is DONE:
        assert 200 <= status < 300
        assert really_says_0(content)
        assert response.code == 0
    assert isinstance(response.code, int)
    assert -(2**63) <= response.code < 2**63
    assert response.message.isprintable()
    assert len(response.message) <= 500
    assert len(response.request_id or "") <= 100
    assert response.retry_after_s is None or (
        response.kind in {THROTTLED, IN_DOUBT, BUSY} and 0 <= response.retry_after_s < float("inf")
    )
    assert (response.kind is BUSY) <= (status == 503 and response.retry_after_s is not None)
    assert response.kind in {*GATEWAY_KINDS.values(), *KINDS.values(), BUSY}
