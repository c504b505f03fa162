"""How the certificates of a device are read: the vendor's samples, and any other data."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from enos_vendor import signed_certificate
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.model import LookupKind, LookupResult
from bulkcert.providers.call import CallKind, CallResult
from bulkcert.providers.enos.inventory import (
    NO_SERIAL,
    RESULT_COLUMNS,
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


def read(data: object) -> Listing:
    listing = read_listing(listed(data))
    assert isinstance(listing, Listing)
    return listing


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
    one, other = 1572574909698, 1572574909699
    assert read_one(effetiveDate=MISSING, effectiveDate=other).effective_ms == other
    assert read_one(effetiveDate=None, effectiveDate=other).effective_ms == other
    assert read_one(effetiveDate=one, effectiveDate=other).effective_ms == one
    assert read_one(effetiveDate=MISSING).effective_ms is None


def test_the_documented_statuses_are_read() -> None:
    for number, status in enumerate((Status.VALID, Status.REVOKED, Status.EXPIRED)):
        assert read_one(certStatus=number).status is status
        assert read_one(certStatus=str(number)).status is status


# ---- odd items


@pytest.mark.parametrize(
    "serial",
    [
        *(None, True, False, 52725.0, 1.5, -1, "-1", "+1", "", " ", " 52725 ", "0x1", "1_0"),
        *("٣", "²", "52725a", "4A:3F", [], ["1"], {}, {"1": 1}, "9" * 5000, 1e40, MISSING),
    ],
    ids=lambda serial: repr(serial)[:20],
)
def test_a_serial_number_that_can_not_be_read_hides_no_other_certificate(serial: object) -> None:
    listing = read([changed(certSN=serial), changed(certSN="7", certStatus=0)])
    assert [c.serial for c in listing.certificates] == [7]
    [other] = listing.others
    assert (other.serial, other.status) == (NO_SERIAL, Status.REVOKED)
    assert listing.unreadable == 1  # so what is not found may still be there
    assert kind_for([changed(certSN=serial)]) is LookupKind.FAILED


def test_the_smallest_and_the_largest_serial_number_are_read() -> None:
    assert read_one(certSN=str(INT64_MAX)).serial == INT64_MAX
    assert read_one(certSN=0).serial == 0


@pytest.mark.parametrize("serial", [2**63, 2**158 + 12345, 10**49 - 1])
def test_a_longer_serial_number_belongs_to_another_ca(serial: int) -> None:
    """RFC 5280 allows 20 bytes; EnOS takes at most 8."""
    listing = read([changed(certSN=str(serial), isEnosCert=False), changed(certSN="7")])
    assert [c.serial for c in listing.certificates] == [7]
    assert [c.serial for c in listing.others] == [serial]
    assert listing.unreadable == 0
    assert listing.others[0].as_result()["certSN"] == str(serial)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        *((None, None), (True, "True"), (False, "False"), (1.0, "1.0"), (3, "3"), (-1, "-1")),
        *(("3", "3"), (10**30, str(10**30)), ([], None), ({}, None), ("revoked", "revoked")),
        (MISSING, None),
    ],
)
def test_an_unknown_status_leaves_one_certificate_unclear(status: object, shown: object) -> None:
    listing = read([changed(certStatus=status), changed(certSN="7", certStatus=0)])
    odd, plain = listing.certificates
    assert (odd.status, plain.status) == (Status.UNCLEAR, Status.VALID)
    assert odd.doubt == f"has the unknown status {shown or 'null'}"
    assert odd.as_result()["status"] == shown
    assert listing.unreadable == 0


def test_a_certificate_that_is_listed_with_two_statuses_is_unclear() -> None:
    listing = read([changed(certStatus=0), changed(certStatus=1), changed(certSN="7")])
    one, other, plain = listing.certificates
    assert one.status is other.status is Status.UNCLEAR
    assert one.doubt == "is listed twice, with different statuses"
    assert [c.as_result()["status"] for c in (one, other)] == ["valid", "revoked"]
    assert plain.status is Status.REVOKED
    again = read([changed(certStatus=1), changed(certStatus="1")])
    assert {c.status for c in again.certificates} == {Status.REVOKED}


@pytest.mark.parametrize("odd", [None, [], "52725", 52725, {}, {"certStatus": 0}, True, 1.5])
def test_an_item_that_is_no_certificate_is_shown_as_it_came(odd: object) -> None:
    listing = read([SAMPLE, odd])
    assert [c.serial for c in listing.certificates] == [52725]
    [other] = listing.others
    assert other.as_result()["certSN"] is None
    assert orjson.loads(other.as_result()["as_received"]) == odd


@pytest.mark.parametrize(
    "data",
    [
        *({}, "", "text", 0, 7, 1.5, True, False, {"certificates": []}, SAMPLE),
        *([None], [[]], ["52725"], [52725], [{}], [[SAMPLE]], [{"certStatus": 0}]),
    ],
    ids=lambda data: repr(data)[:20],
)
def test_data_without_any_certificate_makes_the_look_up_fail(data: object) -> None:
    assert kind_for(data) is LookupKind.FAILED


@pytest.mark.parametrize("rubbish", [None, True, 7, 1.5, [], {}, ["x"], {"a": 1}, MISSING])
def test_members_that_decide_nothing_may_be_anything(rubbish: object) -> None:
    names = ("issuer", "subject", "revoker", "revokerReason", "issueAuthority", "cert", "audit")
    certificate = read_one(**dict.fromkeys(names, rubbish))
    assert (certificate.serial, certificate.status) == (52725, Status.REVOKED)
    assert certificate.pem == ""
    assert certificate.issuer == ("7" if rubbish == 7 else "")
    orjson.dumps(certificate.as_result())


AT_MS = 1572574909697


@pytest.mark.parametrize(
    "date",
    [
        *(AT_MS, str(AT_MS), float(AT_MS), "2019-11-01T02:21:49.697Z"),
        *("2019-11-01T10:21:49.697+0800", "2019-11-01 02:21:49.697000+00:00"),
    ],
)
def test_a_date_is_read_in_every_form_that_leaves_no_doubt(date: object) -> None:
    certificate = read_one(signDate=date, effetiveDate=date, expireDate=date)
    assert certificate.issued_ms == certificate.effective_ms == certificate.expires_ms == AT_MS


@pytest.mark.parametrize(
    ("date", "shown"),
    [
        *((None, None), (True, "True"), (1.5, "1.5"), (-1, "-1"), ([], None), ({}, None)),
        *((10**14 * 3, "300000000000000"), (2**63, str(2**63)), ("yesterday", "yesterday")),
        *((0, "0"), ("0", "0")),  # often means "not set"
        *((1572574909, "1572574909"), ("1572574909", "1572574909")),  # in seconds?
        ("2019-11-01T02:21:49", "2019-11-01T02:21:49"),  # of which zone?
        (MISSING, None),
    ],
)
def test_a_date_that_can_not_be_read_is_shown_as_it_came(date: object, shown: object) -> None:
    certificate = read_one(signDate=date, effetiveDate=date, expireDate=date)
    assert certificate.issued_ms is certificate.effective_ms is certificate.expires_ms is None
    result = certificate.as_result()
    assert result["signDate"] == result["effectiveDate"] == result["expireDate"] == shown


def test_the_latest_date_is_shown() -> None:
    shown = read_one(expireDate=253_402_300_799_000).as_result()["expireDate"]
    assert shown == "9999-12-31T23:59:59Z"


def test_a_reason_becomes_one_short_printable_line() -> None:
    assert read_one(revokerReason=" KEY\r\n\x1b[31mCOMPROMISE ").revoker_reason == (
        "KEY [31mCOMPROMISE"
    )
    assert len(read_one(revokerReason="x" * 10_000).revoker_reason) <= 500


def test_what_decides_nothing_survives_into_the_results() -> None:
    result = read_one().as_result()
    assert result["audit"] == SAMPLE["audit"]
    assert result["isEnosCert"] is True
    assert tuple(result) == RESULT_COLUMNS
    assert read_one(isEnosCert=MISSING, audit=MISSING).as_result()["audit"] is None


# ---- the certificate itself


PEM = signed_certificate()
DER = base64.b64decode("".join(PEM.splitlines()[1:-1]))


def test_a_certificate_is_read_in_every_form() -> None:
    base64_only = base64.b64encode(DER).decode()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    for cert in (
        PEM,
        "\n" + PEM,
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", r"\n"),
        PEM.replace("\n", r"\r\n"),
        f"{begin} {base64_only} {end}",
        base64_only,
        base64.encodebytes(DER).decode(),
    ):
        assert read_one(cert=cert).pem == PEM
        assert read_one(cert=cert).as_result()["cert"] == PEM
    assert read_one(cert=PEM + PEM).pem == PEM + PEM  # a chain


@pytest.mark.parametrize("cert", ["52725", "MII=", "MAAA", "QUJD" * 100, "", "x" * 10**6, 52725])
def test_a_certificate_is_not_confused_with_its_number(cert: object) -> None:
    assert read_one(cert=cert).pem == ""


def test_pem_that_can_not_be_decoded_stays_as_it_came() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    assert read_one(cert=pem).pem == pem


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


@pytest.mark.parametrize("data", [[], None])
def test_a_device_may_have_no_certificates(data: object) -> None:
    """Some services write null for an empty list."""
    listing = read(data)
    assert listing.certificates == listing.others == []
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
    items = data if isinstance(data, list) else []
    everything = [*listing.certificates, *listing.others]
    assert len(everything) == len(items)
    for certificate in listing.certificates:
        item = certificate.item
        assert int(item["certSN"] if item.get("certSN") is not None else item["certSn"]) == (
            certificate.serial
        )
        assert 0 <= certificate.serial <= INT64_MAX
        if certificate.status is not Status.UNCLEAR:
            assert str(item["certStatus"]) == str(int(certificate.status))
    for certificate in everything:
        assert orjson.loads(orjson.dumps(certificate.as_result()))


def test_deeply_nested_json_does_no_harm() -> None:
    deep = orjson.loads(b"[" * 1000 + b"]" * 1000)
    for name in SAMPLE:
        listing = read([changed(**{name: deep}), changed(certSN="7")])
        for certificate in (*listing.certificates, *listing.others):
            orjson.dumps(certificate.as_result())
    assert kind_for(deep) is LookupKind.FAILED
