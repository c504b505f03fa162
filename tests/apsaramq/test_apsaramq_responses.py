"""What responses mean, compared with the vendor's tables."""

from __future__ import annotations

import string
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.apsaramq.certificates import read_certificate, read_page
from bulkcert.providers.apsaramq.responses import KINDS, judge
from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.simulator.apsaramq.refusals import GATEWAY, SERVICE

ROW = CallKind.DISPUTED  # refused for this row, unless the wanted state already holds
GONE = CallKind.REFUSED
RUN = CallKind.UNUSABLE
ALL = "refused, perhaps for the whole account"
BUSY = CallKind.BUSY
RETRY = CallKind.IN_DOUBT
THROTTLE = CallKind.THROTTLED

# code: (meaning, HTTP statuses by the pages of the API, by the notice, by pages of other products)
TABLE: dict[str, tuple[CallKind | str, tuple[int, ...]]] = {
    "ParameterFieldCheckFailed": (ROW, (400, 500)),
    "FindDeviceBySnError": (GONE, (500, 400)),
    "MqttInstanceNotFound": (ALL, (500, 400)),
    "MqttOwnerCheckError": (ALL, (500, 403)),
    "InternalError": (RETRY, (500, 417)),
    "SystemOverFlow": (THROTTLE, (500, 403)),
    "ApiNotSupport": (ALL, (404,)),
    "InstancePermissionCheckFailed": (ALL, (400,)),
    "PermissionCheckFailed": (ALL, (400,)),
    "CheckAccountInfoFailed": (RUN, (400,)),
    "InvalidParameter.CaSn": (ROW, (400,)),
    "ParameterCheckFailed": (ROW, (400,)),
    "Throttling": (THROTTLE, (400, 429, 503, 302)),
    "Throttling.User": (THROTTLE, (400, 429, 503, 302)),
    "Throttling.Api": (THROTTLE, (400, 429, 503, 302)),
    "ServiceUnavailable": (RETRY, (503, 500)),
    "InvalidAccessKeyId.NotFound": (RUN, (404, 400)),
    "InvalidAccessKeyId.Inactive": (RUN, (400,)),
    "SignatureDoesNotMatch": (ALL, (400, 403)),
    "SignatureNonceUsed": (RETRY, (400,)),
    "InvalidTimeStamp.Expired": (RUN, (400,)),
    "InvalidTimeStamp.Format": (RUN, (400,)),
    "InvalidSecurityToken.Expired": (RUN, (403, 400)),
    "InvalidSecurityToken.Malformed": (RUN, (403, 400)),
    "InvalidSecurityToken.MismatchWithAccessKey": (RUN, (403, 400)),
    "MissingSecurityToken": (ALL, (400,)),
    "MissingDeviceSn": (ALL, (400,)),
    "InvalidApi.NotFound": (ALL, (404,)),
    "InvalidProduct.NotFound": (ALL, (404,)),
    "InvalidProtocol.NeedSsl": (RUN, (400,)),
    "UnsupportedHTTPMethod": (ALL, (400,)),
    "Forbidden.RAM": (ALL, (403,)),
    "NoPermission": (ALL, (403,)),
    "Forbidden": (ALL, (403,)),
    "SomethingNew.OfTheVendor": (ROW, (400, 500)),
}


def judged(response: Response) -> CallResult:
    return judge(response, redirect_pause_s=1.5, now_s=0.0)


def response(body: Any, status: int = 200, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, 0.0)


@pytest.mark.parametrize(
    ("code", "status"), [(code, status) for code, (_, some) in TABLE.items() for status in some]
)
def test_every_code_of_the_reference_means_the_same_with_any_status(code: str, status: int) -> None:
    document = {"RequestId": "R-1", "HostId": "h", "Code": code, "Message": "It is\n so."}
    result = judged(response(document, status))
    meaning = TABLE[code][0]
    assert (result.kind, result.account_wide) == (
        (CallKind.REFUSED, True) if meaning == ALL else (meaning, False)
    )
    assert (result.code, result.message, result.request_id) == (code, "It is so.", "R-1")
    assert result.data is None
    # an error with status 200, and lower-case keys, which the vendor's SDK accepts
    assert judged(response(document)).kind is result.kind
    lower_case = judged(response({"code": code, "message": "m"}, status))
    assert (lower_case.kind, lower_case.message) == (result.kind, "m")


def test_the_simulator_uses_only_codes_of_the_reference() -> None:
    ours = {"MissingAccessKeyId", "MissingSignatureNonce"}  # one of the codes Missing{Param}
    assert set(SERVICE) | set(GATEWAY) <= set(TABLE) | ours


def test_the_table_contains_only_codes_of_the_reference() -> None:
    known = {code.partition(".")[0] for code in TABLE}
    assert set(KINDS) - known == {"Missing", "IncompleteSignature"}


@pytest.mark.parametrize("body", [{}, [], b"", b"null", b"1", b'"OK"', b"{", {"Foo": 1}])
@pytest.mark.parametrize("status", [200, 204, 301, 302, 403, 500, 502])
def test_an_empty_response_is_not_a_success(body: Any, status: int) -> None:
    result = judged(response(body, status))
    assert result.kind is (CallKind.DISPUTED if status == 403 else CallKind.IN_DOUBT)
    assert result.code == status
    assert result.message


def test_an_html_page_is_reported_as_one() -> None:
    assert judged(response(b"<HTML>", 502)).message == "HTTP 502 with an HTML page"


@pytest.mark.parametrize("code", [0, 1, True, "", "OK", "<html>", ["Throttling"], {"a": 1}, "a b"])
def test_an_invalid_code_settles_nothing(code: Any) -> None:
    result = judged(response({"RequestId": "R", "Code": code}))
    assert (result.kind, result.request_id) == (CallKind.IN_DOUBT, "R")
    assert result.message.startswith("HTTP 200 with JSON whose code is not one: ")
    assert judged(response({"RequestId": "R", "Code": code}, 500)).kind is CallKind.IN_DOUBT


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"Code": "MqttInstanceNotFound", "Success": True}),
        (200, {"Code": "MqttInstanceNotFound", "success": "true"}),
        (400, {"Code": "Throttling.User", "code": "InternalError"}),
        (400, {"Code": "MqttInstanceNotFound", "code": 0}),
        (429, {"Code": "MqttInstanceNotFound"}),
        (429, {"Code": "InternalError"}),
        (429, {"Code": "InvalidAccessKeyId.NotFound"}),
        (200, {"Code": "FindDeviceBySnError", "DeviceSn": "1"}),
        (200, {"Code": "FindDeviceBySnError", "Data": {"DeviceSn": "1"}}),
    ],
)
def test_a_response_that_contradicts_itself_is_in_doubt(status: int, body: dict[str, Any]) -> None:
    result = judged(response({"RequestId": "R", "Message": "no"} | body, status))
    assert (result.kind, result.code, result.request_id) == (RETRY, body["Code"], "R")
    problem = f"a response that contradicts itself (HTTP {status}, {body['Code']})"
    assert result.message == f"{problem}: no"
    assert result.account_wide is False


@pytest.mark.parametrize("success", [False, "false", "no", 0, 1, [], "OK"])
def test_a_response_that_does_not_claim_success_is_none(success: Any) -> None:
    for name in ("Success", "success"):
        assert judged(response({"RequestId": "R", "DeviceSn": "1", name: success})).kind is RETRY
        refusal = {"Code": "FindDeviceBySnError", name: success}
        assert judged(response(refusal, 500)).kind is GONE


@pytest.mark.parametrize("more", [{}, {"Success": True}, {"success": "true"}, {"Code": None}])
def test_a_response_may_claim_success(more: dict[str, Any]) -> None:
    assert judged(response({"RequestId": "R", "DeviceSn": "1"} | more)).kind is CallKind.OK


def xml(root: str, status: int = 400, content_type: str = "text/xml", **members: str) -> CallResult:
    inside = "".join(f"<{name}>{text}</{name}>" for name, text in members.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?><{root}>{inside}</{root}>'.encode()
    return judged(Response(status, {"Content-Type": content_type}, body, 0.0))


@pytest.mark.parametrize("code", TABLE)
def test_an_error_in_xml_means_the_same_as_in_json(code: str) -> None:
    """The gateway writes XML when it has not understood that JSON is wanted."""
    status = TABLE[code][1][0]
    result = xml("Error", status, RequestId="R-1", HostId="h", Code=code, Message="It is so.")
    assert result == judged(
        response({"RequestId": "R-1", "Code": code, "Message": "It is so."}, status)
    )
    assert xml("Error", status, "application/json", Code=code).kind is result.kind


def test_a_success_in_xml_is_a_success_only_with_what_shows_it() -> None:
    result = xml("InactivateDeviceCertificateResponse", 200, RequestId="R-1", DeviceSn="0042")
    assert (result.kind, result.data) == (CallKind.OK, {"RequestId": "R-1", "DeviceSn": "0042"})
    assert xml("Response", 500, RequestId="R-1", DeviceSn="0042").kind is RETRY
    assert xml("html", 200, body="x").message == "HTTP 200 with an HTML page"


def test_xml_may_come_in_another_character_set() -> None:
    body = "<Error><Code>Throttling.User</Code><Message>请求过于频繁</Message></Error>".encode(
        "gbk"
    )
    head = b'<?xml version="1.0" encoding="GBK"?>'
    for content in (body, head + body, (head + body).decode("gbk").encode("utf-16")):
        result = judged(Response(400, {"Content-Type": "text/xml"}, content, 0.0))
        assert (result.kind, result.code) == (THROTTLE, "Throttling.User")
        assert result.message == "请求过于频繁"


def test_a_response_without_a_code_must_have_the_status_of_success() -> None:
    document = {"RequestId": "R", "DeviceSn": "1"}
    assert judged(response(document)).kind is CallKind.OK
    assert judged(response(document, 500)).kind is CallKind.IN_DOUBT


@pytest.mark.parametrize(
    ("body", "status"), [({"Code": "InternalError"}, 500), ({"Code": 7}, 200), ({}, 200)]
)
def test_a_request_id_is_bounded_and_may_be_missing(body: dict[str, Any], status: int) -> None:
    assert judged(response(body | {"RequestId": "r" * 500}, status)).request_id == "r" * 100
    assert judged(response(body, status)).request_id is None


def test_a_throttled_page_has_the_code_429() -> None:
    result = judged(response(b"<html>", 429))
    assert (result.kind, result.code) == (CallKind.THROTTLED, 429)


@pytest.mark.parametrize(
    ("status", "kind", "pause_s"),
    [
        *((299, RETRY, None), (300, RETRY, 1.5), (302, RETRY, 1.5), (399, RETRY, 1.5)),
        (400, ROW, None),
    ],
)
def test_a_redirect_may_be_a_throttle_or_anything_else(
    status: int, kind: CallKind, pause_s: float | None
) -> None:
    result = judged(response(b"<html>", status))
    assert (result.kind, result.retry_after_s) == (kind, pause_s)
    assert judged(response(b"<html>", 429)).kind is CallKind.THROTTLED


@pytest.mark.parametrize(
    ("headers", "throttled", "other"),
    [
        ({}, None, None),
        ({"x_acs_retry_after": "1500"}, 1.5, 1.5),
        ({"x_acs_retry_after": " 20 "}, 0.02, 0.02),
        ({"x_acs_retry_after": "0"}, None, None),
        ({"x_acs_retry_after": "-5"}, None, None),
        ({"x_acs_retry_after": "soon"}, None, None),
        ({"x_acs_retry_after": "1.5"}, None, None),
        ({"x_acs_retry_after": "²"}, None, None),  # digits outside ASCII
        ({"x_acs_retry_after": "٣"}, None, None),
        ({"x_ratelimit_user": "TimeLeft:٣"}, None, None),
        ({"x_ratelimit_user_api": "Limit:1,Remain:0,TimeLeft:2000,Reset:1234"}, 2.0, None),
        (
            {
                "x_ratelimit_user_api": "Limit:1,Remain:0,TimeLeft:2000,Reset:1234",
                "x_ratelimit_user": "Limit:1,Remain:0, TimeLeft: 3000",
            },
            3.0,
            None,
        ),
        ({"x_ratelimit_user": "TimeLeft:1", "x_acs_retry_after": "7"}, 0.007, 0.007),
        ({"x_ratelimit_user": "NotTimeLeft:5000"}, None, None),
        # not a header of this vendor, but of what may be in front
        ({"Retry_After": "3"}, 3.0, 3.0),
        ({"Retry_After": "3", "x_acs_retry_after": "1500"}, 3.0, 3.0),
        ({"Retry_After": "1", "x_acs_retry_after": "1500"}, 1.5, 1.5),
        ({"Retry_After": "0"}, 0.0, 0.0),
        ({"Retry_After": "²"}, None, None),
    ],
)
def test_the_requested_wait_is_read(
    headers: dict[str, str], throttled: float | None, other: float | None
) -> None:
    assert judged(response({"Code": "Throttling"}, 400, **headers)).retry_after_s == throttled
    assert judged(response({"Code": "InternalError"}, 500, **headers)).retry_after_s == other
    assert judged(response({"RequestId": "R"}, 200, **headers)).retry_after_s is None


@pytest.mark.parametrize("status", [400, 403, 404, 413, 431])
def test_a_page_that_refuses_may_hide_what_was_executed_and_may_concern_all(status: int) -> None:
    result = judged(response(b"<html>", status))
    assert (result.kind, result.account_wide) == (CallKind.DISPUTED, True)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"<html>", 429, THROTTLE),
        ({"Code": "SomethingNew", "Message": "slow down"}, 429, THROTTLE),
        ({"Code": "SystemOverFlow"}, 403, THROTTLE),
        (b"<html>", 503, BUSY),
        ({"Code": "ServiceUnavailable"}, 503, BUSY),
        ({"Code": "Throttling.User"}, 503, THROTTLE),
        ({"Code": "InternalError"}, 500, RETRY),
        (b"<html>", 302, RETRY),
    ],
)
def test_the_standard_header_counts_whatever_the_body_is(
    body: Any, status: int, kind: CallKind
) -> None:
    result = judged(response(body, status, Retry_After="5"))
    assert (result.kind, result.retry_after_s) == (kind, 5.0)


# ---- any content

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text()
known_keys = st.sampled_from(
    [
        *("RequestId", "Code", "code", "Message", "Data", "DeviceSn", "CaSn", "Status", "PageNo"),
        "Success",
        *("PageSize", "DeviceCertificateVOS", "ValidBegin", "ValidEnd"),
    ]
)
documents = st.recursive(
    scalars | st.sampled_from([*TABLE, "0", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(known_keys | st.text(max_size=3), inner)
    ),
    max_leaves=12,
)
elements = st.dictionaries(
    st.sampled_from(["RequestId", "Code", "Message", "DeviceSn", "Data", "Success"]),
    st.text(st.characters(exclude_categories=["C"], exclude_characters="<>&"), max_size=5)
    | st.sampled_from([*TABLE, "true", "<a>1</a>", "&x;"]),
)
xml_bodies = elements.map(
    lambda d: f"<R>{''.join(f'<{name}>{text}</{name}>' for name, text in d.items())}</R>".encode()
)
bodies = (
    xml_bodies
    | st.binary(max_size=60)
    | documents.map(lambda d: orjson.dumps(d, option=orjson.OPT_NON_STR_KEYS))
)
headers = st.dictionaries(
    st.sampled_from(["x-acs-retry-after", "x-ratelimit-user", "x-ratelimit-user-api"]),
    st.text(string.printable) | st.integers().map("TimeLeft:{}".format),
)


@given(body=bodies, status=st.integers(100, 599), headers=headers)
def test_any_response_is_judged(body: bytes, status: int, headers: dict[str, str]) -> None:
    result = judged(Response(status, headers, body, 0.0))
    assert result.kind in {*KINDS.values(), CallKind.DISPUTED, CallKind.OK, CallKind.BUSY}
    assert result.message.isprintable()
    assert len(result.message) <= 500
    assert len(result.request_id or "") <= 100
    assert type(result.code) is int or (isinstance(result.code, str) and len(result.code) <= 100)
    assert result.retry_after_s is None or result.retry_after_s >= 0
    if result.kind is CallKind.OK:
        assert status == 200
        assert result.data.get("Code") is None
        assert result.data.get("code") is None
        assert result.data.get("Success", True) in (True, "true", None)
        assert result.request_id


@given(document=documents, number=st.integers(1, 3))
def test_any_document_is_read_or_refused(document: Any, number: int) -> None:
    page = read_page(document, number, 100)
    if page is not None:
        assert str(document["Data"]["PageNo"]) == str(number)
        orjson.dumps(page.certificates)
        assert page.certificates or page.is_last(number, None)
    certificate = read_certificate(document)
    if certificate is not None:
        assert certificate["DeviceSn"] == str(document["DeviceSn"])
        orjson.dumps(certificate)


# ---- certificates

VO = {
    "CaSn": "007269004887000001",
    "DeviceSn": "00F2",
    "DeviceName": "pump",
    "DeviceContent": "-----BEGIN DEVICECERTIFICATE-----\nAA==\n-----END DEVICECERTIFICATE-----",
    "Status": "1",
    "ValidBegin": "1654137303000",
    "ValidEnd": "1685673303500",
}


def test_a_certificate_shows_all_fields_with_its_status_by_name_and_dates_in_utc() -> None:
    assert read_certificate(VO) == VO | {
        "Status": "active",
        "ValidBegin": "2022-06-02T02:35:03Z",
        "ValidEnd": "2023-06-02T02:35:03.500000Z",
        "public_key_sha256": None,  # what the vendor's sample has is not a certificate
    }
    assert (read_certificate(VO | {"Status": "0"}) or {})["Status"] == "inactive"


def test_unneeded_members_may_be_anything() -> None:
    certificate = read_certificate(VO | {"Status": "7", "ValidBegin": "never", "ValidEnd": None})
    assert certificate is not None
    assert certificate["Status"] == "7"
    assert (certificate["ValidBegin"], certificate["ValidEnd"]) == ("never", None)


@pytest.mark.parametrize("name", ["CaSn", "DeviceSn", "Status"])
@pytest.mark.parametrize("value", ["", None, [], {}, "x" * 201 * 1000])
def test_needed_members_must_be_readable(name: str, value: Any) -> None:
    assert (read_certificate(VO | {name: value}) is None) == (name != "Status" or not value)


def test_numbers_are_read_as_the_text_of_their_digits() -> None:
    numbers = {"CaSn": 7, "DeviceSn": 356217374433000001, "Status": 1, "ValidEnd": 1685673303500}
    assert read_certificate(VO | numbers) == read_certificate(
        VO | {name: str(value) for name, value in numbers.items()}
    )


def test_texts_are_bounded_and_line_ends_restored() -> None:
    escaped = VO["DeviceContent"].replace("\n", r"\n")
    certificate = read_certificate(VO | {"DeviceName": "x" * 10**6, "DeviceContent": escaped})
    assert certificate is not None
    assert certificate["DeviceContent"] == VO["DeviceContent"]
    assert len(certificate["DeviceName"]) == 500
    deep = orjson.loads(b"[" * 1000 + b"]" * 1000)
    for name in VO:
        orjson.dumps(read_certificate(VO | {name: deep}))


# ---- pages


def page(count: int, **changes: Any) -> dict[str, Any]:
    data = {"Total": 1, "PageNo": 2, "PageSize": 100, "DeviceCertificateVOS": [VO] * count}
    return {"RequestId": "R", "Data": {k: v for k, v in (data | changes).items() if v != "MISSING"}}


def is_last(number: int, seen: int | None, count: int, **changes: Any) -> bool:
    read = read_page(page(count, PageNo=number, **changes), number, 100)
    assert read is not None
    assert len(read.certificates) == count
    return read.is_last(number, seen)


@pytest.mark.parametrize("total", [0, 1, 99, 100, 10_000, "many", None, "MISSING"])
@pytest.mark.parametrize("nothing", [[], None, "MISSING"])
def test_an_empty_page_is_the_last(total: Any, nothing: Any) -> None:
    """Some services write null for an empty list, or leave it out."""
    assert is_last(3, 200, 0, Total=total, DeviceCertificateVOS=nothing)
    assert is_last(1, 0, 0, Total=total, DeviceCertificateVOS=nothing, HasMore=True)


@pytest.mark.parametrize(
    ("total", "last"),
    [
        *((3, True), ("3", True), (1, True), (2, True)),  # read as a number of pages
        *((250, True), ("250", True)),  # read as a number of certificates
        *((4, False), (249, False), (251, False), (0, False)),
        *(("many", False), (None, False), ("MISSING", False), (True, False), ({}, False)),
    ],
)
def test_a_page_that_is_not_full_may_be_the_last(total: Any, last: bool) -> None:
    assert is_last(3, 250, 50, Total=total) is last
    # a full one may always have a successor, whatever Total counts
    assert is_last(3, 300, 100, Total=300) is False
    assert is_last(3, 300, 100, Total=3) is False


def test_without_the_pages_before_the_certificates_are_not_counted() -> None:
    assert is_last(3, None, 50, Total=250) is False
    assert is_last(3, None, 50, Total=3) is True


@pytest.mark.parametrize(
    ("said", "last"), [(False, True), (True, False), ("false", True), ("TRUE", False)]
)
@pytest.mark.parametrize("count", [99, 100])
def test_the_provider_may_say_whether_there_is_more(said: Any, last: bool, count: int) -> None:
    assert is_last(2, None, count, HasMore=said, Total=2) is last


def test_pages_may_be_smaller_than_requested() -> None:
    assert is_last(2, 100, 50, PageSize=50, Total=2) is False
    assert is_last(2, 100, 49, PageSize=50, Total=2) is True
    assert is_last(2, 199, 99, PageSize=None, Total=2) is True
    assert is_last(2, 199, 99, PageSize="many", Total=2) is True


@pytest.mark.parametrize("odd", [{}, {"DeviceSn": "1"}, None, "x", VO | {"CaSn": ""}])
def test_an_odd_item_is_shown_as_it_came(odd: Any) -> None:
    read = read_page(page(0, DeviceCertificateVOS=[odd, VO]), 2, 100)
    assert read is not None
    strange, plain = read.certificates
    assert plain == read_certificate(VO)
    assert orjson.loads(strange["as_received"]) == odd
    assert strange["DeviceSn"] == (odd.get("DeviceSn", "") if isinstance(odd, dict) else "")


@pytest.mark.parametrize(
    "changes",
    [
        *({"PageNo": number} for number in (1, 3, None, 2.0, True, "two")),
        *({"DeviceCertificateVOS": items} for items in ({}, "x", 0, [{}], [None, 1])),
    ],
)
def test_another_page_or_something_else_is_not_accepted(changes: dict[str, Any]) -> None:
    assert read_page(page(3, **changes), 2, 100) is None
    assert read_page(page(3, PageNo="2"), 2, 100) is not None
