"""The ApsaraMQ side, beyond what the tests with the vendor's SDK cover."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aiohttp
import pytest
from vendor_clients import moment_as_text, serving

from bulkcert.simulator import Behaviour

pytestmark = pytest.mark.system

LIMITED = {"limit": 3, "mq_source_limit": 0}


async def test_calls_change_the_state_and_are_in_the_ledger() -> None:
    async with serving() as client:
        assert (await client.mq()).json["DeviceSn"] == "0042"
        again = await client.mq()
        assert (again.status, again.json["DeviceSn"]) == (200, "0042")
        item = (await client.mq_get()).json["Data"]
        assert (item["Status"], item["CaSn"], item["DeviceSn"]) == ("0", "007", "0042")
        assert all(isinstance(value, str) for value in item.values())
        await client.mq("ActiveDeviceCertificate")
        assert client.simulator.certificates("CaSn=007&DeviceSn=0042")[0].status == "active"
        entries = client.simulator.ledger
    assert [(entry["effect"], entry["executed"]) for entry in entries] == [
        ("inactivated", True),
        ("none", False),
        ("none", False),
        ("activated", True),
    ]
    assert entries[0]["provider"] == "apsaramq"
    assert entries[0]["device"] == "CaSn=007&DeviceSn=0042"
    assert (entries[0]["certSn"], entries[0]["code"]) == ("0042", "OK")


async def test_deleted_certificates_are_not_listed() -> None:
    async with serving() as client:
        for n in range(5):
            await client.mq_get(DeviceSn=f"d{n}")
        await client.mq_get(DeviceSn="d9", CaSn="008")
        await client.mq("DeleteDeviceCertificate", DeviceSn="d1")

        async def page(action: str, number: int) -> tuple[int, list[str]]:
            response = await client.mq_get(action, PageNo=str(number), PageSize="3")
            data = response.json["Data"]
            return data["Total"], [item["DeviceSn"] for item in data["DeviceCertificateVOS"]]

        assert await page("ListDeviceCertificate", 1) == (2, ["d0", "d2", "d3"])
        assert await page("ListDeviceCertificate", 2) == (2, ["d4", "d9"])
        assert await page("ListDeviceCertificate", 3) == (2, [])
        assert await page("ListDeviceCertificateByCaSn", 2) == (4, ["d4"])
        elsewhere = await client.mq_get(
            "ListDeviceCertificate", PageNo="1", PageSize="3", MqttInstanceId="other"
        )
        assert elsewhere.json["Data"]["DeviceCertificateVOS"] == []


@pytest.mark.parametrize(("total", "expected"), [("rows", 4), ("pages", 2)])
async def test_total_counts_rows_or_pages(total: Any, expected: int) -> None:
    async with serving(Behaviour(mq_total=total, mq_max_page=1)) as client:
        for n in range(4):
            await client.mq_get(DeviceSn=f"d{n}")
        pages = {"PageNo": "1", "PageSize": "3"}
        for action in ("ListDeviceCertificate", "ListDeviceCertificateByCaSn"):
            assert (await client.mq_get(action, **pages)).json["Data"]["Total"] == expected
        beyond = await client.mq_get("ListDeviceCertificate", PageNo="2", PageSize="3")
        assert beyond.code == "ParameterFieldCheckFailed"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"CaSn": ""}, "ParameterFieldCheckFailed"),
        ({"DeviceSn": ""}, "ParameterFieldCheckFailed"),
        ({"DeviceSn": "9" * 129}, "ParameterFieldCheckFailed"),
        ({"DeviceSn": "a\0b"}, "ParameterFieldCheckFailed"),
        ({"MqttInstanceId": ""}, "ParameterFieldCheckFailed"),
        ({"MqttInstanceId": "other"}, "MqttInstanceNotFound"),
    ],
)
async def test_invalid_parameters_are_refused(parameters: dict[str, str], code: str) -> None:
    async with serving(Behaviour(mq_instance="i")) as client:
        response = await client.mq(**parameters)
        assert response.code == code
        assert set(response.json) == {"RequestId", "HostId", "Code", "Message", "Recommend"}
        assert response.headers["x-acs-request-id"] == response.json["RequestId"]
        for page in ({"PageNo": "0", "PageSize": "5"}, {"PageNo": "1", "PageSize": "101"}):
            response = await client.mq_get("ListDeviceCertificate", **page)
            assert response.code == "ParameterFieldCheckFailed"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-acs-version": "2019-01-01"}, "InvalidApi.NotFound"),
        ({"x-acs-date": "today"}, "InvalidTimeStamp.Format"),
        ({"x-acs-signature-nonce": ""}, "MissingSignatureNonce"),
        ({"x-acs-content-sha256": "0" * 64}, "SignatureDoesNotMatch"),
        ({"x-acs-security-token": "STS"}, "InvalidSecurityToken.MismatchWithAccessKey"),
    ],
)
async def test_invalid_headers_are_refused(headers: dict[str, str], code: str) -> None:
    async with serving() as client:
        assert (await client.mq(headers=headers)).code == code
        assert client.simulator.certificates("CaSn=007&DeviceSn=0042") == []


async def test_the_gateway_checks_action_method_and_access_key() -> None:
    async with serving() as client:
        assert (await client.mq("EraseEverything")).code == "InvalidApi.NotFound"
        wrong_verb = await client.mq("GetDeviceCertificate")
        assert (wrong_verb.status, wrong_verb.code) == (400, "UnsupportedHTTPMethod")
        assert client.simulator.ledger[-2]["action"] == "unknown"
        anonymous = {"x-acs-action": "GetDeviceCertificate", "x-acs-version": "2020-04-20"}
        unsigned = await client.send("GET", "/?Format=JSON", headers=anonymous)
        assert unsigned.code == "MissingAccessKeyId"
        other = {**anonymous, "Authorization": "ACS3-HMAC-SHA256 Credential=other,Signature=0"}
        unknown = await client.send("GET", "/", headers=other)
        assert (unknown.status, unknown.code) == (404, "InvalidAccessKeyId.NotFound")
    async with serving(Behaviour(mq_gateway_statuses="400")) as client:
        assert (await client.send("GET", "/", headers=other)).status == 400


async def test_every_acs_header_must_be_signed() -> None:
    async with serving() as client:
        client.session.headers["x-acs-extra"] = "not signed"
        assert (await client.mq()).code == "SignatureDoesNotMatch"


async def test_old_dates_and_used_nonces_are_refused() -> None:
    async with serving(Behaviour(mq_clock_window=60)) as client:
        old = (datetime.now(UTC) - timedelta(seconds=61)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert (await client.mq(headers={"x-acs-date": old})).code == "InvalidTimeStamp.Expired"
        nonce = {"x-acs-signature-nonce": "once"}
        assert (await client.mq(headers=nonce)).status == 200
        assert (await client.mq(headers=nonce)).code == "SignatureNonceUsed"


async def test_the_security_token_is_checked_and_expires() -> None:
    token = {"x-acs-security-token": "STS.a"}
    async with serving(Behaviour(security_token="STS.a")) as client:
        assert (await client.mq(headers=token)).status == 200
        bad = await client.mq(headers={"x-acs-security-token": "STS.b"})
        assert (bad.status, bad.code) == (403, "InvalidSecurityToken.Malformed")
    async with serving(Behaviour(security_token="STS.a", security_token_life=0.05)) as client:
        await asyncio.sleep(0.06)
        assert (await client.mq(headers=token)).code == "InvalidSecurityToken.Expired"


async def test_the_older_signature_is_accepted_and_checked() -> None:
    async with serving() as client:
        assert (await client.mq_v1()).json["DeviceSn"] == "0042"
        assert client.simulator.ledger[-1]["action"] == "InactivateDeviceCertificate"
    async with serving(Behaviour(access_key_secret="other")) as client:
        refused = await client.mq_v1()
        assert refused.code == "SignatureDoesNotMatch"
        # the vendor's older clients compare this with what they have signed
        message, _, text = refused.json["Message"].partition(" server string to sign is:")
    assert message == "Specified signature is not matched with our calculation."
    assert text.startswith("POST&%2F&AccessKeyId%3Dsimulator-id%26Action%3DInactivate")
    assert "Signature%3D" not in text


@pytest.mark.parametrize(
    "in_form",
    [
        lambda name: True,
        lambda name: name in ("CaSn", "DeviceSn", "MqttInstanceId"),
        lambda name: name == "Signature",
    ],
    ids=["everything", "the action's parameters", "the signature"],
)
async def test_parameters_of_the_older_signature_may_be_a_form(
    in_form: Callable[[str], bool],
) -> None:
    async with serving() as client:
        odd = "AB:cd 1*~/+设备"
        response = await client.mq_v1(DeviceSn=odd, in_form=in_form)
        assert response.json["DeviceSn"] == odd
        entry = client.simulator.ledger[-1]
        assert (entry["action"], entry["device"], entry["effect"]) == (
            *("InactivateDeviceCertificate", f"CaSn=007&DeviceSn={odd}", "inactivated"),
        )
        assert (await client.mq_v1(in_form=in_form, MqttInstanceId=None)).code == (
            "ParameterFieldCheckFailed"
        )


async def test_parameters_of_a_v3_call_may_be_a_form() -> None:
    async with serving() as client:
        response = await client.mq(form={"DeviceSn": "00 43", "CaSn": "007"})
        assert response.json["DeviceSn"] == "00 43"
        assert client.simulator.ledger[-1]["device"] == "CaSn=007&DeviceSn=00 43"
        # the signature covers the body
        digest = {"x-acs-content-sha256": hashlib.sha256(b"").hexdigest()}
        refused = await client.mq(form={"DeviceSn": "0044"}, headers=digest)
        assert refused.code == "SignatureDoesNotMatch"
        # what is not sent as a form is not read as one
        octets = {"content-type": "application/octet-stream"}
        refused = await client.mq(form={"DeviceSn": "0044"}, headers=octets)
        assert refused.code == "ParameterFieldCheckFailed"


async def test_dates_of_the_older_signature_are_good_for_31_minutes() -> None:
    async with serving() as client:
        assert (await client.mq_v1(Timestamp=moment_as_text(30 * 60))).status == 200
        old = await client.mq_v1(Timestamp=moment_as_text(32 * 60))
        assert old.code == "InvalidTimeStamp.Expired"
        old = await client.mq(headers={"x-acs-date": moment_as_text(16 * 60)})
        assert old.code == "InvalidTimeStamp.Expired"


@pytest.mark.parametrize("asked", [None, "XML", "xml"])
async def test_the_older_kind_of_call_gets_xml_unless_it_asks_for_json(asked: str | None) -> None:
    async with serving() as client:
        done = await client.mq_v1(DeviceSn="<&>", Format=asked)
        assert done.headers["Content-Type"] == "text/xml;charset=utf-8"
        document = ElementTree.fromstring(done.body)
        assert document.tag == "InactivateDeviceCertificateResponse"
        assert document.findtext("DeviceSn") == "<&>"
        assert document.findtext("RequestId") == done.headers["x-acs-request-id"]
        await client.mq_v1(DeviceSn="2")
        page = await client.mq_v1(
            "ListDeviceCertificate", method="GET", Format=asked, PageNo="1", PageSize="9"
        )
        document = ElementTree.fromstring(page.body)
        listed = document.findall("Data/DeviceCertificateVOS/DeviceSn")
        assert [element.text for element in listed] == ["<&>", "2"]
        refused = await client.mq_v1(Format=asked, CaSn="")
        document = ElementTree.fromstring(refused.body)
        assert (refused.status, document.tag) == (400, "Error")
        assert document.findtext("Code") == "ParameterFieldCheckFailed"


async def test_the_gateway_may_refuse_in_xml() -> None:
    behaviour = Behaviour(mq_gateway_xml=True, **LIMITED)
    async with serving(behaviour) as client:
        assert (await client.mq(CaSn="")).code == "ParameterFieldCheckFailed"  # by the service
        responses = [await client.mq() for _ in range(3)]
    assert responses[0].json["DeviceSn"] == "0042"
    assert ElementTree.fromstring(responses[-1].body).findtext("Code") == "Throttling.User"


async def test_only_get_and_post_are_accepted() -> None:
    async with serving() as client:
        for method in ("PUT", "DELETE"):
            assert (await client.mq(method=method)).code == "UnsupportedHTTPMethod"
        assert (await client.mq(method="HEAD")).status == 400
        assert client.simulator.certificates("CaSn=007&DeviceSn=0042") == []


async def test_lists_in_forms_that_nobody_documents() -> None:
    pages = {"PageNo": "1", "PageSize": "2"}
    async with serving(Behaviour(null_lists=True)) as client:
        empty = await client.mq_get("ListDeviceCertificate", **pages)
        assert empty.json["Data"]["DeviceCertificateVOS"] is None
    async with serving(Behaviour(odd_items=True)) as client:
        await client.mq_get(DeviceSn="1")
        page = (await client.mq_get("ListDeviceCertificate", **pages)).json["Data"]
        assert [item["Status"] for item in page["DeviceCertificateVOS"]] == ["1", 9]
        await client.mq_get(DeviceSn="2")  # a full page has no room for it
        page = (await client.mq_get("ListDeviceCertificate", **pages)).json["Data"]
        assert [item["Status"] for item in page["DeviceCertificateVOS"]] == ["1", "1"]


@pytest.mark.parametrize(
    ("behaviour", "status", "header"),
    [
        (Behaviour(**LIMITED), 400, None),
        (Behaviour(**LIMITED, mq_throttle_status="503"), 503, None),
        (
            Behaviour(**LIMITED, mq_throttle_headers="x-acs-retry-after", retry_after=2),
            400,
            ("x-acs-retry-after", "2000"),
        ),
        (
            Behaviour(**LIMITED, mq_throttle_headers="x-ratelimit"),
            400,
            ("x-ratelimit-user-api", "Limit:3,Remain:0,TimeLeft:1000,Reset:1000"),
        ),
        (
            Behaviour(**LIMITED, mq_throttle_headers="retry-after", mq_throttle_status="429"),
            429,
            ("Retry-After", "1"),
        ),
        (
            Behaviour(**LIMITED, mq_throttle_status="302", mq_throttle_code="Throttling"),
            302,
            ("Location", "/redirected/apsaramq"),
        ),
        (Behaviour(**LIMITED, mq_throttle_code="SystemOverFlow"), 400, None),
    ],
)
async def test_each_api_has_its_own_limit(
    behaviour: Behaviour, status: int, header: tuple[str, str] | None
) -> None:
    async with serving(behaviour) as client:
        responses = [await client.mq() for _ in range(4)]
        assert (await client.mq_get()).status == 200  # another API, another limit
    assert [response.status for response in responses] == [200, 200, 200, status]
    assert responses[-1].code == behaviour.mq_throttle_code
    assert header is None or responses[-1].headers[header[0]] == header[1]


async def test_the_limit_may_be_for_all_apis() -> None:
    async with serving(Behaviour(**LIMITED, mq_limit_scope="all")) as client:
        statuses = [(await client.mq()).status, *[(await client.mq_get()).status for _ in "123"]]
    assert statuses == [200, 200, 200, 400]


@pytest.mark.parametrize("window", ["fixed", "bucket"])
async def test_fixed_windows_and_buckets_limit_too(window: Any) -> None:
    async with serving(Behaviour(**LIMITED, mq_window=window)) as client:
        statuses = Counter([(await client.mq()).status for _ in range(12)])
    assert statuses[200] >= 3
    assert statuses[400] >= 1


@pytest.mark.parametrize("style", ["reset", "timeout", "403"])
async def test_a_source_over_its_limit_is_blocked(style: Any) -> None:
    behaviour = Behaviour(mq_source_limit=3, mq_block=style, mq_block_for=0.2)
    async with serving(behaviour) as client:
        for _ in range(3):
            assert (await client.mq()).status == 200
        if style == "403":
            assert (await client.mq()).status == 403
        else:
            with pytest.raises(aiohttp.ClientError):
                await client.mq()
        entry = client.simulator.ledger[-1]
        assert (entry["fault"], entry["executed"]) == ("source_blocked", False)
        assert entry["status"] == (403 if style == "403" else None)
        elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with aiohttp.ClientSession(connector=elsewhere) as session:
            client.session, own = session, client.session
            assert (await client.mq()).status == 200
            client.session = own
        assert client.simulator.ledger[-1]["source"] == "127.0.0.2"
        assert len(await client.listed()) == 1  # EnOS does not block addresses
        assert client.simulator.summary()["busiest_second_of"]["127.0.0.2"] == 1


async def test_a_block_expires() -> None:
    behaviour = Behaviour(mq_source_limit=1, mq_block="403", mq_block_for=1.0)
    async with serving(behaviour) as client:
        assert [(await client.mq()).status for _ in range(2)] == [200, 403]
        await asyncio.sleep(1.1)
        assert (await client.mq()).status == 200


async def test_the_source_limit_can_be_per_api() -> None:
    async with serving(Behaviour(mq_source_limit=2, mq_source_scope="api")) as client:
        assert [(await client.mq()).status for _ in range(2)] == [200, 200]
        assert [(await client.mq_get()).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("behaviour", "code", "status"),
    [
        (Behaviour(error_before=1.0), "InternalError", 500),
        (Behaviour(error_before=1.0, mq_statuses="notice"), "InternalError", 417),
        (Behaviour(system_overflow=1.0), "SystemOverFlow", 500),
        (Behaviour(system_overflow=1.0, mq_statuses="notice"), "SystemOverFlow", 403),
        (Behaviour(token_expired=1.0), "InvalidSecurityToken.Expired", 403),
        (Behaviour(throttle=1.0), "Throttling.User", 400),
        (Behaviour(refuse_all="MqttOwnerCheckError"), "MqttOwnerCheckError", 500),
        (Behaviour(refuse_all="NoPermission"), "NoPermission", 403),
    ],
)
async def test_faults_use_the_vendors_codes_and_statuses(
    behaviour: Behaviour, code: str, status: int
) -> None:
    async with serving(behaviour) as client:
        response = await client.mq()
        assert (response.code, response.status) == (code, status)
        assert client.simulator.ledger[-1]["code"] == code
        assert client.simulator.ledger[-1]["executed"] is False


async def test_throttle_fault_with_retry_after() -> None:
    async with serving(Behaviour(throttle_retry_after=1.0)) as client:
        assert (await client.mq()).headers["x-acs-retry-after"] == "1000"


async def test_setting_the_present_state_can_be_an_error() -> None:
    async with serving(Behaviour(mq_already="error")) as client:
        assert (await client.mq()).status == 200
        assert (await client.mq()).code == "ParameterFieldCheckFailed"


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with serving() as client:
        assert (await client.send("POST", "/", b"x" * (2**20 + 1))).status == 413


@pytest.mark.parametrize(
    ("header", "rows", "instance"),
    [
        ("CaSn,DeviceSn,Status", ("007,0042,", "007,0043,0", "007,0042,"), "any"),
        ("CaSn,DeviceSn,Status,MqttInstanceId", ("007,0042,,i", "007,0043,0,i"), "i"),
    ],
)
async def test_only_certificates_of_the_fleet_file_exist(
    tmp_path: Path, header: str, rows: tuple[str, ...], instance: str
) -> None:
    fleet = tmp_path / "fleet.csv"
    fleet.write_text("\n".join((header, *rows)))
    async with serving(fleet=fleet) as client:
        named = {"MqttInstanceId": instance}
        assert (await client.mq_get(**named)).json["Data"]["Status"] == "1"
        assert (await client.mq_get(DeviceSn="0043", **named)).json["Data"]["Status"] == "0"
        # without the leading zeros it is another certificate
        for wrong in ({"DeviceSn": "42"}, {"CaSn": "7"}):
            assert (await client.mq_get(**wrong, **named)).code == "FindDeviceBySnError"
        listed = await client.mq_get("ListDeviceCertificate", PageNo="1", PageSize="9", **named)
        assert len(listed.json["Data"]["DeviceCertificateVOS"]) == 2
        await client.mq("DeleteDeviceCertificate", **named)
        assert (await client.mq(**named)).code == "FindDeviceBySnError"


async def test_letter_case_of_serial_numbers() -> None:
    async with serving(Behaviour(mq_sn_case=False)) as client:
        await client.mq(DeviceSn="AbC")
        assert (await client.mq_get(DeviceSn="aBc")).json["Data"]["Status"] == "0"
    async with serving() as client:
        await client.mq(DeviceSn="AbC")
        assert (await client.mq_get(DeviceSn="aBc")).json["Data"]["Status"] == "1"
