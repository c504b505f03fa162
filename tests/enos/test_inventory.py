"""How the certificates of a device are read: the vendor's samples, and any other data."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.model import LookupKind, LookupResult
from bulkcert.providers.call import CallKind, CallResult
from bulkcert.providers.enos.inventory import (
    Certificate,
    Listing,
    Status,
    read_certificates,
    read_listing,
)
from bulkcert.values import INT64_MAX

# as in the vendor's sample of a `list` response, with its misspelling
SAMPLE = {
    "certSN": "52725",
    "cert": "52725",
    "certStatus": 1,
    "issuer": "CN=EnOS CA, OU=EnOS, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
    "subject": "EMAILADDRESS=a@b.c, CN=dev, OU=EnOS, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
    "signDate": 1572574909697,
    "effetiveDate": 1572574909698,
    "expireDate": 1635646909699,
    "audit": {"createBy": "o15", "createTime": 1572574909697, "ns": "o15", "deleted": False},
    "revoker": "IoT_Hub",
    "revokerReason": "KEY COMPROMISE",
    "isEnosCert": True,
    "issueAuthority": "RSA",
}
MISSING = object()


def listed(data: object) -> CallResult:
    return CallResult(CallKind.OK, 0, "OK", "request", data)


def changed(**members: object) -> dict[str, Any]:
    return {name: value for name, value in (SAMPLE | members).items() if value is not MISSING}


def read_one(**members: object) -> Certificate:
    [certificate] = read_certificates([changed(**members)])
    return certificate


def kind_for(data: object) -> LookupKind:
    """Read something that is not a list of certificates; return the kind of the failed look-up."""
    result = read_listing(listed(data))
    assert isinstance(result, LookupResult)
    assert (result.code, result.request_id, result.result) == (0, "request", None)
    assert result.message.startswith("list returned something other than certificates")
    return result.kind


def test_the_vendors_sample_is_read_in_full() -> None:
    assert read_one() == Certificate(
        serial=52725,
        status=Status.REVOKED,
        issuer="CN=EnOS CA, OU=EnOS, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
        subject="EMAILADDRESS=a@b.c, CN=dev, OU=EnOS, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
        issued_ms=1572574909697,
        effective_ms=1572574909698,
        expires_ms=1635646909699,
        revoker="IoT_Hub",
        revoker_reason="KEY COMPROMISE",
        issue_authority="RSA",
        pem="",  # the sample shows its number instead
    )


def test_the_result_for_the_reports_has_the_vendors_names_and_dates_in_utc() -> None:
    result = read_one().as_result()
    assert result["certSN"] == "52725"
    assert result["status"] == "revoked"
    assert result["signDate"] == "2019-11-01T02:21:49.697000Z"
    assert orjson.loads(orjson.dumps(result)) == result


# ---- spellings


@pytest.mark.parametrize("serial", ["52725", 52725, "052725"])
@pytest.mark.parametrize("name", ["certSN", "certSn"])
def test_the_serial_is_read_in_both_spellings_as_number_or_digits(
    name: str, serial: object
) -> None:
    assert read_one(**{"certSN": MISSING, name: serial}).serial == 52725


def test_the_spelling_of_the_sample_takes_precedence_over_that_of_the_table() -> None:
    assert read_one(certSn="1").serial == 52725


def test_the_start_of_validity_is_read_in_both_spellings() -> None:
    assert read_one(effetiveDate=MISSING, effectiveDate=7).effective_ms == 7
    assert read_one(effetiveDate=6, effectiveDate=7).effective_ms == 6
    assert read_one(effetiveDate=MISSING).effective_ms is None


@pytest.mark.parametrize("status", Status)
def test_the_documented_statuses_are_read(status: Status) -> None:
    assert read_one(certStatus=int(status)).status is status
    assert [int(known) for known in Status] == [0, 1, 2]


# ---- wrong types: members that decide must be right


@pytest.mark.parametrize(
    "serial",
    [
        *(None, True, False, 52725.0, 1.5, -1, "-1", "+1", "", " ", " 52725 ", "0x1", "1_0"),
        *("٣", "²", "52725a", [], ["1"], {}, {"1": 1}, "9" * 5000, 2**63, str(2**63)),
        MISSING,
    ],
    ids=lambda serial: repr(serial)[:20],
)
def test_an_invalid_serial_number_makes_the_look_up_fail(serial: object) -> None:
    assert kind_for([changed(certSN=serial)]) is LookupKind.FAILED


def test_the_smallest_and_the_largest_serial_number_are_read() -> None:
    assert read_one(certSN=str(INT64_MAX)).serial == INT64_MAX
    assert read_one(certSN=0).serial == 0


@pytest.mark.parametrize(
    "status", [None, True, False, "1", 1.0, 3, -1, 10**30, [], {}, "revoked", MISSING]
)
def test_an_invalid_status_makes_the_look_up_fail(status: object) -> None:
    assert kind_for([changed(certStatus=status)]) is LookupKind.FAILED


@pytest.mark.parametrize(
    "data",
    [
        *(None, {}, "", "text", 0, 7, 1.5, True, False, {"certificates": []}, SAMPLE),
        *([None], [[]], [SAMPLE, None], ["52725"], [52725], [SAMPLE, {}], [[SAMPLE]]),
    ],
    ids=lambda data: repr(data)[:20],
)
def test_data_that_is_not_a_list_of_certificates_makes_the_look_up_fail(data: object) -> None:
    """One bad item is enough: it may be the one that matters."""
    assert kind_for(data) is LookupKind.FAILED


@pytest.mark.parametrize("rubbish", [None, True, 7, 1.5, [], {}, ["x"], {"a": 1}, MISSING])
def test_members_that_decide_nothing_may_be_anything(rubbish: object) -> None:
    names = ("issuer", "subject", "revoker", "revokerReason", "issueAuthority", "cert", "audit")
    certificate = read_one(**dict.fromkeys(names, rubbish))
    assert (certificate.serial, certificate.status) == (52725, Status.REVOKED)
    assert certificate.issuer == certificate.revoker_reason == certificate.pem == ""


@pytest.mark.parametrize(
    "date", [None, True, "1572574909697", 1.5, -1, 10**14 * 3, 2**63, [], {}, MISSING]
)
def test_an_invalid_date_is_left_out(date: object) -> None:
    certificate = read_one(signDate=date, effetiveDate=date, expireDate=date)
    assert certificate.issued_ms is certificate.effective_ms is certificate.expires_ms is None
    assert certificate.as_result()["expireDate"] is None


def test_the_latest_date_is_shown() -> None:
    shown = read_one(expireDate=253_402_300_799_000).as_result()["expireDate"]
    assert shown == "9999-12-31T23:59:59Z"


def test_a_reason_becomes_one_short_printable_line() -> None:
    assert read_one(revokerReason=" KEY\r\n\x1b[31mCOMPROMISE ").revoker_reason == (
        "KEY [31mCOMPROMISE"
    )
    assert len(read_one(revokerReason="x" * 10_000).revoker_reason) <= 500


def test_a_certificate_is_not_confused_with_its_number() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    assert read_one(cert=pem).pem == pem
    assert read_one(cert="\n" + pem).pem == "\n" + pem
    assert read_one(cert="52725").pem == ""


# ---- finding a certificate


def test_the_certificate_is_found_among_others() -> None:
    listing = read_listing(
        listed([changed(certSN=str(serial), certStatus=serial % 3) for serial in range(1000)])
    )
    assert isinstance(listing, Listing)
    found = listing.find(500)
    assert found is not None
    assert (found.serial, found.status) == (500, Status.EXPIRED)
    assert listing.find(1000) is None


def test_a_device_may_have_no_certificates() -> None:
    listing = read_listing(listed([]))
    assert isinstance(listing, Listing)
    assert listing.certificates == []
    assert listing.find(1) is None


# ---- failed calls


@pytest.mark.parametrize("kind", [CallKind.REFUSED, CallKind.DISPUTED])
def test_a_refused_look_up_settles_nothing(kind: CallKind) -> None:
    refusal = CallResult(kind, 11404, "Device cannot be found", "request", [SAMPLE])
    assert read_listing(refusal) == LookupResult(
        LookupKind.UNCLEAR, 11404, "list was refused: 11404 Device cannot be found", "request"
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (CallKind.IN_DOUBT, LookupKind.FAILED),
        (CallKind.NOT_SENT, LookupKind.NOT_SENT),
        (CallKind.THROTTLED, LookupKind.THROTTLED),
    ],
)
def test_a_call_that_shows_no_certificates_is_a_failed_look_up(
    kind: CallKind, expected: LookupKind
) -> None:
    call = CallResult(kind, 99500, "x", retry_after_s=7)
    assert read_listing(call) == LookupResult(expected, 99500, "x")


# ---- any data

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.integers(0, 3),
        st.integers(0, 10**6).map(str),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(list(SAMPLE)), inner)
    ),
    max_leaves=4,
)
items = st.dictionaries(st.sampled_from([*SAMPLE, "certSn", "effectiveDate"]), values, max_size=4)


@given(st.one_of(values, st.lists(st.one_of(values, items.map(lambda item: SAMPLE | item)))))
def test_any_data_is_read_or_makes_the_look_up_fail(data: object) -> None:
    listing = read_listing(listed(data))
    if isinstance(listing, LookupResult):
        assert listing.kind is LookupKind.FAILED
        return
    certificates = listing.certificates
    assert isinstance(data, list)
    assert len(certificates) == len(data)
    for certificate, item in zip(certificates, data, strict=True):
        serial = item["certSN"] if "certSN" in item else item["certSn"]
        assert int(serial) == certificate.serial <= INT64_MAX
        assert item["certStatus"] == certificate.status
        orjson.dumps(certificate.as_result())


def test_deeply_nested_json_does_no_harm() -> None:
    deep = orjson.loads(b"[" * 1000 + b"]" * 1000)
    for name in SAMPLE:
        read_listing(listed([changed(**{name: deep})]))
    assert kind_for(deep) is LookupKind.FAILED
