"""Reading the certificates of a device: what the vendor's samples look like, and any rubbish."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.model import Answer, AnswerKind
from bulkcert.providers.enos.inventory import Certificate, Status, find, read_certificates
from bulkcert.values import INT64_MAX

# as in the vendor's sample of a `list` answer, its misspelling included
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


def listed(data: object) -> Answer:
    return Answer(AnswerKind.DONE, 0, "OK", "request", data)


def changed(**members: object) -> dict[str, Any]:
    return {name: value for name, value in (SAMPLE | members).items() if value is not MISSING}


def read_one(**members: object) -> Certificate:
    certificates = read_certificates(listed([changed(**members)]))
    assert isinstance(certificates, list)
    [certificate] = certificates
    return certificate


def refused_as(data: object) -> AnswerKind:
    """Read something that is no list of certificates; return the kind of what comes of it."""
    answer = read_certificates(listed(data))
    assert isinstance(answer, Answer)
    assert (answer.code, answer.request_id, answer.result) == (0, "request", None)
    assert answer.message.startswith("list answered with something else than certificates")
    return answer.kind


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
        pem="",  # the sample has its number there
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


def test_the_samples_spelling_goes_before_the_tables() -> None:
    assert read_one(certSn="1").serial == 52725


def test_the_begin_of_validity_is_read_in_both_spellings() -> None:
    assert read_one(effetiveDate=MISSING, effectiveDate=7).effective_ms == 7
    assert read_one(effetiveDate=6, effectiveDate=7).effective_ms == 6
    assert read_one(effetiveDate=MISSING).effective_ms is None


@pytest.mark.parametrize("status", Status)
def test_the_documented_statuses(status: Status) -> None:
    assert read_one(certStatus=int(status)).status is status
    assert [int(known) for known in Status] == [0, 1, 2]


# ---- wrong types: what decides must be right


@pytest.mark.parametrize(
    "serial",
    [
        *(None, True, False, 52725.0, 1.5, -1, "-1", "+1", "", " ", " 52725 ", "0x1", "1_0"),
        *("٣", "²", "52725a", [], ["1"], {}, {"1": 1}, "9" * 5000, 2**63, str(2**63)),
        MISSING,
    ],
    ids=lambda serial: repr(serial)[:20],
)
def test_a_serial_that_is_none_leaves_it_open(serial: object) -> None:
    assert refused_as([changed(certSN=serial)]) is AnswerKind.IN_DOUBT


def test_the_largest_serial() -> None:
    assert read_one(certSN=str(INT64_MAX)).serial == INT64_MAX
    assert read_one(certSN=0).serial == 0


@pytest.mark.parametrize(
    "status", [None, True, False, "1", 1.0, 3, -1, 10**30, [], {}, "revoked", MISSING]
)
def test_a_status_that_is_none_leaves_it_open(status: object) -> None:
    assert refused_as([changed(certStatus=status)]) is AnswerKind.IN_DOUBT


@pytest.mark.parametrize(
    "data",
    [
        *(None, {}, "", "text", 0, 7, 1.5, True, False, {"certificates": []}, SAMPLE),
        *([None], [[]], [SAMPLE, None], ["52725"], [52725], [SAMPLE, {}], [[SAMPLE]]),
    ],
    ids=lambda data: repr(data)[:20],
)
def test_data_that_is_no_list_of_certificates_leaves_it_open(data: object) -> None:
    """Nor does one bad item go by unseen: it may be the one that matters."""
    assert refused_as(data) is AnswerKind.IN_DOUBT


@pytest.mark.parametrize("rubbish", [None, True, 7, 1.5, [], {}, ["x"], {"a": 1}, MISSING])
def test_what_does_not_decide_may_be_anything(rubbish: object) -> None:
    names = ("issuer", "subject", "revoker", "revokerReason", "issueAuthority", "cert", "audit")
    certificate = read_one(**dict.fromkeys(names, rubbish))
    assert (certificate.serial, certificate.status) == (52725, Status.REVOKED)
    assert certificate.issuer == certificate.revoker_reason == certificate.pem == ""


@pytest.mark.parametrize(
    "date", [None, True, "1572574909697", 1.5, -1, 10**14 * 3, 2**63, [], {}, MISSING]
)
def test_a_date_that_is_none_is_left_out(date: object) -> None:
    certificate = read_one(signDate=date, effetiveDate=date, expireDate=date)
    assert certificate.issued_ms is certificate.effective_ms is certificate.expires_ms is None
    assert certificate.as_result()["expireDate"] is None


def test_the_last_date_that_can_be_shown() -> None:
    shown = read_one(expireDate=253_402_300_799_000).as_result()["expireDate"]
    assert shown == "9999-12-31T23:59:59Z"


def test_a_reason_becomes_one_short_printable_line() -> None:
    assert read_one(revokerReason=" KEY\r\n\x1b[31mCOMPROMISE ").revoker_reason == (
        "KEY [31mCOMPROMISE"
    )
    assert len(read_one(revokerReason="x" * 10_000).revoker_reason) <= 500


def test_a_certificate_is_told_from_its_number() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    assert read_one(cert=pem).pem == pem
    assert read_one(cert="\n" + pem).pem == "\n" + pem
    assert read_one(cert="52725").pem == ""


# ---- which one


def test_the_certificate_is_found_among_others() -> None:
    certificates = read_certificates(
        listed([changed(certSN=str(serial), certStatus=serial % 3) for serial in range(1000)])
    )
    assert isinstance(certificates, list)
    found = find(certificates, 500)
    assert found is not None
    assert (found.serial, found.status) == (500, Status.EXPIRED)
    assert find(certificates, 1000) is None


def test_a_device_without_certificates_has_none() -> None:
    assert read_certificates(listed([])) == []
    assert find([], 1) is None


# ---- answers that are none


@pytest.mark.parametrize("kind", [AnswerKind.REFUSED, AnswerKind.DISPUTED])
def test_a_refused_look_up_settles_nothing(kind: AnswerKind) -> None:
    refusal = Answer(kind, 11404, "Device cannot be found", "request", [SAMPLE])
    assert read_certificates(refusal) == Answer(
        AnswerKind.UNCLEAR, 11404, "list was refused: 11404 Device cannot be found", "request"
    )


@pytest.mark.parametrize(
    "kind",
    [AnswerKind.IN_DOUBT, AnswerKind.NOT_SENT, AnswerKind.THROTTLED, AnswerKind.UNUSABLE],
)
def test_an_answer_that_says_nothing_of_certificates_is_handed_on(kind: AnswerKind) -> None:
    answer = Answer(kind, 99500, "x", retry_after_s=7)
    assert read_certificates(answer) is answer


# ---- anything at all

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
def test_anything_is_read_or_leaves_it_open(data: object) -> None:
    certificates = read_certificates(listed(data))
    if isinstance(certificates, Answer):
        assert certificates.kind is AnswerKind.IN_DOUBT
        return
    assert isinstance(data, list)
    assert len(certificates) == len(data)
    for certificate, item in zip(certificates, data, strict=True):
        serial = item["certSN"] if "certSN" in item else item["certSn"]
        assert int(serial) == certificate.serial <= INT64_MAX
        assert item["certStatus"] == certificate.status
        orjson.dumps(certificate.as_result())


def test_json_that_is_nested_deeply_breaks_nothing() -> None:
    deep = orjson.loads(b"[" * 1000 + b"]" * 1000)
    for name in SAMPLE:
        read_certificates(listed([changed(**{name: deep})]))
    assert refused_as(deep) is AnswerKind.IN_DOUBT
