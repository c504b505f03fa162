"""The V3 signature, compared with the vendor's printed vector and with reference vectors."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.apsaramq.requests import change_request, get_request, list_request
from bulkcert.providers.apsaramq.signature import EMPTY_HASH, authorization, canonical_query

PLAIN = {
    "CaSn": "007269004887000001",
    "DeviceSn": "356217374433000001",
    "MqttInstanceId": "post-cn-7mz2d000001",
}
ODD = {"CaSn": "AB:cd 1*~/+", "DeviceSn": "设备", "MqttInstanceId": ""}
MINIMAL = {
    "host": "onsmqtt.cn-hangzhou.aliyuncs.com",
    "x-acs-action": "InactivateDeviceCertificate",
    "x-acs-content-sha256": EMPTY_HASH,
    "x-acs-date": "2026-01-02T03:04:05Z",
    "x-acs-signature-nonce": "0123456789abcdef0123456789abcdef",
    "x-acs-version": "2020-04-20",
}
SDK = MINIMAL | {
    "accept": "application/json",
    "user-agent": "sdk-frozen-agent/1.0",
    "x-acs-credentials-provider": "static_ak",
}
VECTORS = {
    "A": (MINIMAL, PLAIN, "773737c5119378319aba58217c8714db192e9794baf1f9ac4837a2a644c94550"),
    "B": (
        MINIMAL | {"x-acs-security-token": "STS.NTk3example"},
        PLAIN,
        "e1bb356ba214713293c03356aaf1c43446d24ff09854c84c316bf1e46aa400a8",
    ),
    "C": (SDK, PLAIN, "075db782cb047ff2e2365c5935b2903e8868e5895ff4510c40250e6baf1a2feb"),
    "D": (SDK, ODD, "493504f9b4bb4b5f69757e5370361aba39ba3f55ae5874cb9fba904aecd8a792"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_signatures_match_the_vectors_of_the_reference(name: str) -> None:
    headers, parameters, signature = VECTORS[name]
    query = canonical_query(parameters.items())
    value = authorization("POST", query, headers, "testAccessKeyId", "testAccessKeySecret")
    names = ";".join(sorted(headers))
    assert value == (
        f"ACS3-HMAC-SHA256 Credential=testAccessKeyId,SignedHeaders={names},Signature={signature}"
    )


def test_signatures_match_the_vendors_printed_vector() -> None:
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    query = canonical_query(
        {
            "RegionId": "cn-shanghai",
            "ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd",
        }.items()
    )
    value = authorization("POST", query, headers, "YourAccessKeyId", "YourAccessKeySecret")
    assert value.endswith(
        "Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    )


header_values = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=30)
secrets = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1)


@given(
    method=st.sampled_from(["GET", "POST"]),
    parameters=st.dictionaries(
        st.sampled_from(["CaSn", "DeviceSn", "MqttInstanceId", "PageNo", "PageSize"]),
        st.text(st.characters(codec="utf-8")),
    ),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "host", "user-agent", "x-acs-date", "x-acs-version"]),
        header_values,
    ),
    body=st.binary(max_size=30),
    secret=secrets,
)
def test_signatures_match_those_of_the_vendors_sdk(
    method: str, parameters: dict[str, str], headers: dict[str, str], body: bytes, secret: str
) -> None:
    sdk = pytest.importorskip("alibabacloud_tea_openapi.utils").Utils
    digest = hashlib.sha256(body).hexdigest()
    headers = headers | {"x-acs-content-sha256": digest}
    request = SimpleNamespace(method=method, pathname="/", query=parameters, headers=headers)
    query = canonical_query(parameters.items())
    assert authorization(method, query, headers, "id", secret) == (
        sdk.get_authorization(request, "ACS3-HMAC-SHA256", digest, "id", secret)
    )


def test_odd_characters_are_sent_in_the_form_that_is_signed() -> None:
    request = change_request("inactivate", "", ODD)
    assert request.target == (
        "/?CaSn=AB%3Acd%201%2A~%2F%2B&DeviceSn=%E8%AE%BE%E5%A4%87&MqttInstanceId="
    )


serial_numbers = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(ca_sn=serial_numbers, device_sn=serial_numbers)
def test_serial_numbers_survive_every_step(ca_sn: str, device_sn: str) -> None:
    from urllib.parse import parse_qs

    fields = {"CaSn": ca_sn, "DeviceSn": device_sn}
    for request in (
        change_request("delete", "i", fields),
        get_request("i", fields),
        list_request("i", fields),
    ):
        query = parse_qs(request.target.removeprefix("/?"), strict_parsing=True)
        assert query["CaSn"] == [ca_sn]
        assert query["MqttInstanceId"] == ["i"]
        assert query.get("DeviceSn", [device_sn]) == [device_sn]
        assert {(name, value) for name, [value] in query.items()} == set(request.query)


def test_requests_have_the_documented_form() -> None:
    fields = {"CaSn": "007", "DeviceSn": "00F2"}
    made = {
        "inactivate": change_request("inactivate", "i", fields),
        "activate": change_request("activate", "i", fields),
        "delete": change_request("delete", "i", fields),
        "get": get_request("i", fields),
        "by CA": list_request("i", {"CaSn": "007", "PageNo": 3}),
        "all": list_request("i", {"MqttInstanceId": "other"}),
    }
    said = {name: (r.method, r.target, dict(r.headers)["x-acs-action"]) for name, r in made.items()}
    one = "/?CaSn=007&DeviceSn=00F2&MqttInstanceId=i"
    assert said == {
        "inactivate": ("POST", one, "InactivateDeviceCertificate"),
        "activate": ("POST", one, "ActiveDeviceCertificate"),
        "delete": ("POST", one, "DeleteDeviceCertificate"),
        "get": ("GET", one, "GetDeviceCertificate"),
        "by CA": (
            "GET",
            "/?CaSn=007&MqttInstanceId=i&PageNo=3&PageSize=100",
            "ListDeviceCertificateByCaSn",
        ),
        "all": ("GET", "/?MqttInstanceId=other&PageNo=1&PageSize=100", "ListDeviceCertificate"),
    }
    assert all(dict(r.headers)["x-acs-version"] == "2020-04-20" for r in made.values())
    assert all(r.body == b"" for r in made.values())
