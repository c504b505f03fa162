"""The samples and error tables of the vendor's three EnOS pages.

`samples/` has what the pages print; the comments here say which page. The texts of errors are those
of the column "Type".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from enos_vendor import ENOS, devices
from harness import in_this_process

from bulkcert.providers.advice import advise
from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.enos.actions import REVOKE_REASONS, revoke_reason, signing_request
from bulkcert.providers.enos.advice import ADVICE
from bulkcert.providers.enos.inventory import Status, read_certificates
from bulkcert.providers.enos.issuance import issue_authority_for
from bulkcert.providers.enos.requests import list_request, renew_request, revoke_request
from bulkcert.providers.enos.responses import judge

SAMPLES = Path(__file__).parent / "samples"


def answer(content: bytes) -> CallResult:
    return judge(Response(200, {}, content, 0.0), 0.0)


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


# ---- Revoke Certificate


def test_the_sample_of_a_revocation_is_what_is_sent() -> None:
    fields = {"assetId": "yourDeviceAssetId", "certSn": 52739, "reason": 0}
    request = revoke_request("yourOrgId", fields)
    assert request.method == "POST"
    assert request.target == (
        "/connect-service/v2.0/certificates?action=revoke&assetId=yourDeviceAssetId&orgId=yourOrgId"
    )
    assert orjson.loads(request.body) == orjson.loads(sample("revoke-request.json"))


def test_the_sample_of_a_response_to_a_revocation_is_a_success() -> None:
    assert answer(sample("revoke-response.json")) == CallResult(
        CallKind.OK, 0, "OK", "e3391ff8-19ba-4809-b944-c1b29f468af9", None
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("UNSPECIFIED", 0),
        ("KEY_COMPROMISE", 1),
        ("AFFILIATION_CHANGED", 3),
        ("SUPERSEDED", 4),
        ("CESSATION_OF_OPERATION", 5),
        ("CERTIFICATE_HOLD", 6),
        ("PRIVILEGE_WITHDRAWN", 9),
    ],
)
def test_a_reason_may_be_given_by_name_and_by_number(name: str, number: int) -> None:
    for written in (name, name.lower(), name.replace("_", " "), number, str(number)):
        assert revoke_reason(written) == number
    assert REVOKE_REASONS[name] == number
    fields = {"assetId": "A1", "certSn": 1, "reason": revoke_reason(name)}
    assert orjson.loads(revoke_request("o1", fields).body)["reason"] == number


# ---- Renew Certificate

SDK_SAMPLE = {"productKey": "ymcDiAHd", "deviceKey": "TT6MyEFaO7", "certSn": 2667, "validDay": 220}


def test_the_signing_request_of_the_sample_is_accepted_with_its_older_label() -> None:
    """`BEGIN NEW CERTIFICATE REQUEST` is what some tools write (RFC 7468, section 7)."""
    pem = sample("renew-csr.pem").decode()
    assert pem.startswith("-----BEGIN NEW CERTIFICATE REQUEST-----\n")
    parsed = signing_request(pem)
    assert parsed == f"{pem}\n"
    ours = x509.load_pem_x509_csr(parsed.encode())
    assert ours.subject.rfc4514_string() == (
        "1.2.840.113549.1.9.1=4Dnb1T1,OU=EnOS,CN=MRmIyzPW,O=EnOS,L=Shanghai,ST=Shanghai,C=CN"
    )
    assert issue_authority_for(parsed) == "RSA"


def test_the_sample_of_a_renewal_is_what_is_sent() -> None:
    csr = signing_request(sample("renew-csr.pem").decode())
    request = renew_request("o15444172373271", {**SDK_SAMPLE, "csr": csr})
    assert request.method == "POST"
    assert dict(request.query) == {
        "action": "renew",
        "orgId": "o15444172373271",
        "productKey": "ymcDiAHd",
        "deviceKey": "TT6MyEFaO7",
    }
    assert orjson.loads(request.body) == {"certSn": 2667, "validDay": 220, "csr": csr}


# ---- List Certificate


@pytest.mark.parametrize("asset", ["yourAssetId", "youAssetId"])  # its two samples
def test_the_samples_of_a_list_are_what_is_sent(asset: str) -> None:
    request = list_request("youOrgId", {"assetId": asset})
    assert (request.method, request.body) == ("GET", b"")
    assert request.target == (
        f"/connect-service/v2.0/certificates?action=list&assetId={asset}&orgId=youOrgId"
    )


@pytest.mark.parametrize("name", ["list-response-1.json", "list-response-2.json"])
def test_the_samples_of_a_list_are_read(name: str) -> None:
    """The second has `audit` only once; in both, `cert` is the serial number."""
    result = answer(sample(name))
    assert (result.kind, result.request_id) == (
        CallKind.OK,
        "318d8b1f-1f27-4dd4-8299-b75a2015d425",
    )
    first, second, third = read_certificates(result.data)
    assert [c.serial for c in (first, second, third)] == [52725, 52726, 52727]
    assert [c.status for c in (first, second, third)] == [
        Status.REVOKED,
        Status.VALID,
        Status.EXPIRED,
    ]
    assert [c.issue_authority for c in (first, second, third)] == ["RSA", "ECC", "ECC"]
    assert (first.issued_ms, first.effective_ms, first.expires_ms) == (
        1_581_216_505_000,
        1_581_216_505_000,  # from `effetiveDate`, as the samples spell it
        1_582_080_505_000,
    )
    assert (first.revoker, first.revoker_reason) == ("IoT_Hub", "KEY COMPROMISE")
    assert (second.revoker, second.revoker_reason) == ("", "")
    assert third.subject == (
        "EMAILADDRESS=xT7EaR, OU=EnOS, CN=xMen1, O=EnOS, L=Shanghai, ST=Shanghai, C=CN"
    )
    assert second.as_result()["expireDate"] == "2020-02-19T03:16:01Z"
    assert {c.pem for c in (first, second, third)} == {""}
    printed = orjson.loads(sample(name))["data"]
    for item, certificate in zip(printed, (first, second, third), strict=True):
        shown = certificate.as_result()
        assert (shown["audit"], shown["isEnosCert"]) == (item.get("audit"), True)
        assert shown["cert"] == item["cert"] or shown["cert"] == ""


# ---- the error tables

DETAILS = "message: (message content), detail message: (detailed message content)"
ERRORS = [
    (99400, "invalid argument: The device identifier is invalid", "assetId"),
    (99400, "Invalid Argument certSn:certSn is missing", "certSn"),
    (
        99400,
        "Call ca error!: Certificate service err info:, code: (code), " + DETAILS,
        "detail message",
    ),
    (99400, "Invalid cert request!" + DETAILS, "detail message"),
    (99400, "Query cert is failed!" + DETAILS, "detail message"),
    (
        99400,
        "When calling Certificate Services, the call parameters are invalid." + DETAILS,
        "detail message",
    ),
    (99400, "The serial number of the certificate to be updated is required.", "certSn"),
    (99400, "The serial number of the new certificate is invalid (less than 0).", "0 or more"),
    (
        99400,
        "The certificate list bound to the device does not have the certificate, or the certificate"
        " is bound to other devices.",
        "list of certificates",
    ),
    (11404, "Device cannot be found", "registered"),
    (11404, "device can not be found", "registered"),
    (11833, "certificate already bind to another device", "another device"),
    (99403, "Denied resource:  orgId o1558", "full access to Device Management"),
    (99500, "Internal error of certificate service.", "EnOS administrator"),
    (99500, "Internal error of product service.", "EnOS administrator"),
    (99500, "Internal error of IoT Hub service.", "EnOS administrator"),
    (99500, "Internal error of IoT hub service.", "EnOS administrator"),
]
KINDS = {
    99400: CallKind.DISPUTED,
    11404: CallKind.REFUSED,
    11833: CallKind.REFUSED,
    99403: CallKind.REFUSED,
    99500: CallKind.IN_DOUBT,
}


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(("code", "text", "advice"), ERRORS)
def test_each_row_of_the_error_tables_is_judged_and_has_advice(
    code: int, text: str, advice: str, status: int
) -> None:
    body: dict[str, Any] = {"code": code, "msg": text, "requestId": "r", "data": None}
    result = judge(Response(status, {}, json.dumps(body).encode(), 0.0), 0.0)
    assert (result.kind, result.code) == (KINDS[code], code)
    assert result.message == " ".join(text.split())
    assert advice in advise(ADVICE, result.code, result.message)


# ---- 99500 in a run


@pytest.mark.system
async def test_what_was_sent_again_is_visible_although_everything_succeeded(tmp_path: Path) -> None:
    behaviour = {"seed": 2, "error_before": 0.4, "faults_on": "revoke"}
    async with in_this_process(tmp_path, ENOS, "revoke", devices(40), behaviour=behaviour) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 40
        internal_errors = [entry for entry in job.entries("revoke") if entry["code"] == 99500]
        assert internal_errors
        assert job.summary()["retried"] == {"99500": len(internal_errors)}
        assert job.summary()["errors"] == []
