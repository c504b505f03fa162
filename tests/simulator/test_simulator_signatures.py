"""The simulator's own signature code against the vendors' published test vectors."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendor_clients import serving

from bulkcert.simulator import Behaviour
from bulkcert.simulator.apsaramq.signature import read_v3, sign_v1, sign_v3
from bulkcert.simulator.enos.signature import sign
from bulkcert.simulator.enos.tokens import encrypt
from bulkcert.simulator.exchange import Call, Request, parse_query

APP_KEY = "5acb82e7-a11e-4300-9164-c8b20b638e8b"
APP_SECRET = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
TIMESTAMP = "1572574909697"


def enos_call(query: str, body: str = "") -> Call:
    request = Request(0, "127.0.0.1", "POST", "/", query, {}, body.encode())
    return Call(request, "revoke", query=parse_query(query))


def test_published_vector_of_enos() -> None:
    body = '{\n  "count": 20,\n  "page": 1,\n  "desc": "描述"\n}'
    signature = sign(
        enos_call("k3=v3&k1=v1&k2=v2", body), "xxxxaaaxxxx", TIMESTAMP, "xxxappSecretxxx"
    )
    assert signature == "59828328f6c1f9771015dc74e4929ae30f518a35a3d2353972c2ea46556fc981"


def test_vector_of_the_encryption_of_token_calls() -> None:
    expected = "d23085d5da6d2086f439cdab0a3d4547f57a1ac82f372637aed6d43649f74255"
    assert encrypt(APP_KEY, TIMESTAMP, APP_SECRET) == expected


@pytest.mark.parametrize(
    ("query", "body", "expected"),
    [
        (
            "action=list&orgId=o15&assetId=A1",
            "",
            "3a37a17a168f029b63c81fd2d175bdf782058b6191c35d2723da57befa289ebc",
        ),
        (
            "action=revoke&orgId=o15&assetId=A1",
            '{"certSn":52739,"reason":4}',
            "e95ab8b9e794317199c9a483cadf29102dae46707b67c72b25dbd26af26a6464",
        ),
        (
            "action=revoke&orgId=o15&assetId=A1",
            '{"certSn": 52739, "reason": 4}',
            "ccfb05d20a46f32ff7d46ce6fe8da475873fed014bb6faf90dc9349e0c9e3df1",
        ),
        (
            "action=renew&orgId=o15&productKey=pk%201&deviceKey=dk%2F%C3%A4%2B",
            '{"certSn":52770,"validDay":220,"issueAuthority":"RSA"}',
            "92170bb78bcbb2ac0b1b4dfc934be51600fa71ea4678ea65bd083fdff9736515",
        ),
    ],
)
def test_vectors_of_enos_calls(query: str, body: str, expected: str) -> None:
    assert sign(enos_call(query, body), "APIMTOKEN-0001", TIMESTAMP, APP_SECRET) == expected


def test_unusual_queries_are_read_as_the_vendor_does() -> None:
    # repeated name: the first value counts; no value: signed as "null"; plus: a space
    assert parse_query("a=1&a=2&b&c=x+y&d=") == {"a": "1", "b": None, "c": "x y", "d": ""}
    plain = sign(enos_call("a=1&b=null&c=x%20y&d="), "T", TIMESTAMP, APP_SECRET)
    assert sign(enos_call("a=1&a=2&b&c=x+y&d="), "T", TIMESTAMP, APP_SECRET) == plain


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
MINIMAL = {
    "host": "onsmqtt.cn-hangzhou.aliyuncs.com",
    "x-acs-action": "InactivateDeviceCertificate",
    "x-acs-content-sha256": EMPTY,
    "x-acs-date": "2026-01-02T03:04:05Z",
    "x-acs-signature-nonce": "0123456789abcdef0123456789abcdef",
    "x-acs-version": "2020-04-20",
}
SDK = {
    **MINIMAL,
    "accept": "application/json",
    "user-agent": "sdk-frozen-agent/1.0",
    "x-acs-credentials-provider": "static_ak",
}
PLAIN = "CaSn=007269004887000001&DeviceSn=356217374433000001&MqttInstanceId=post-cn-7mz2d000001"
ODD = "CaSn=AB%3Acd%201%2A~%2F%2B&DeviceSn=%E8%AE%BE%E5%A4%87&MqttInstanceId="
ODD_AS_FORM = "MqttInstanceId=&CaSn=AB%3Acd+1%2A~%2F%2B&DeviceSn=%E8%AE%BE%E5%A4%87"
V3_VECTORS = [
    (MINIMAL, PLAIN, "773737c5119378319aba58217c8714db192e9794baf1f9ac4837a2a644c94550"),
    (
        {**MINIMAL, "x-acs-security-token": "STS.NTk3example"},
        PLAIN,
        "e1bb356ba214713293c03356aaf1c43446d24ff09854c84c316bf1e46aa400a8",
    ),
    (SDK, PLAIN, "075db782cb047ff2e2365c5935b2903e8868e5895ff4510c40250e6baf1a2feb"),
    (SDK, ODD, "493504f9b4bb4b5f69757e5370361aba39ba3f55ae5874cb9fba904aecd8a792"),
    (SDK, ODD_AS_FORM, "493504f9b4bb4b5f69757e5370361aba39ba3f55ae5874cb9fba904aecd8a792"),
]


@pytest.mark.parametrize(("headers", "query", "expected"), V3_VECTORS)
def test_v3_vectors(headers: dict[str, str], query: str, expected: str) -> None:
    request = Request(0, "127.0.0.1", "POST", "/", query, headers, b"")
    assert sign_v3(request, sorted(headers), "testAccessKeySecret") == expected


def test_the_v3_credential_is_read() -> None:
    authorization = "ACS3-HMAC-SHA256 Credential=id,SignedHeaders=host;x-acs-date,Signature=abc"
    headers = {**MINIMAL, "Authorization": authorization}
    credential = read_v3(Request(0, "", "POST", "/", "", headers, b""))
    assert (credential.access_key_id, credential.signature) == ("id", "abc")
    assert credential.signed_headers == ("host", "x-acs-date")


def test_v1_vector() -> None:
    query = (
        f"{PLAIN}&Action=InactivateDeviceCertificate&Format=json&Version=2020-04-20"
        "&Timestamp=2026-01-02T03%3A04%3A05Z&SignatureNonce=0123456789abcdef0123456789abcdef"
        "&SignatureMethod=HMAC-SHA1&SignatureVersion=1.0&AccessKeyId=testAccessKeyId"
        "&Signature=is%20not%20signed"
    )
    request = Request(0, "127.0.0.1", "POST", "/", query, {}, b"")
    assert sign_v1(request, "testAccessKeySecret") == "6gzjA8ENLQYAY/bjhsbjb8ocZ7E="


@given(
    method=st.sampled_from(["GET", "POST"]),
    parameters=st.dictionaries(
        st.text("ABCabc.1", min_size=1), st.text(st.characters(codec="utf-8")), min_size=1
    ),
    in_form=st.integers(0, 5),
)
def test_v1_signatures_match_those_of_the_vendors_sdk(
    method: str, parameters: dict[str, str], in_form: int
) -> None:
    sdk = pytest.importorskip("alibabacloud_tea_openapi.utils").Utils
    pairs = list(parameters.items())
    query, form = urlencode(pairs[in_form:]), urlencode(pairs[:in_form]).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = Request(0, "127.0.0.1", method, "/", query, headers, form)
    assert sign_v1(request, "secret") == sdk.get_rpcsignature(parameters, method, "secret")


@pytest.mark.system
async def test_a_v3_vector_is_accepted_over_http() -> None:
    behaviour = Behaviour(
        access_key_id="testAccessKeyId",
        access_key_secret="testAccessKeySecret",
        mq_clock_window=1e12,
    )
    authorization = (
        f"ACS3-HMAC-SHA256 Credential=testAccessKeyId,SignedHeaders={';'.join(sorted(MINIMAL))},"
        f"Signature={V3_VECTORS[0][2]}"
    )
    async with serving(behaviour) as client:
        response = await client.send(
            "POST", f"/?{PLAIN}", headers={**MINIMAL, "Authorization": authorization}
        )
    assert (response.status, response.json["DeviceSn"]) == (200, "356217374433000001")
