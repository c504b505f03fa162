"""Certificate revocation lists: what they say of a certificate, and which are not to be used."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from bulkcert.errors import RevocationListError
from bulkcert.providers.base import Revoked
from bulkcert.revocation_list import Listing, RevocationList, certificates, look_up, read

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
LARGE = 2**63


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(x509.NameOID.EMAIL_ADDRESS, "ca@example.com"),
        ]
    )


CA = name("Pumps, CA")
AS_TEXT = r"EMAILADDRESS=ca@example.com, CN=Pumps\, CA, C=CN"


def certificate(
    subject: x509.Name,
    serial: int = 7,
    key: Any = KEY,
    until: datetime = NOW + 99 * DAY,
    **usage: Any,
) -> x509.Certificate:
    """A certificate that the CA has signed: its own, unless a subject is given."""
    builder = x509.CertificateBuilder(CA, subject, key.public_key(), serial, NOW - 99 * DAY, until)
    if usage:
        unset = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment"),
                *("data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
                *("encipher_only", "decipher_only"),
            ),
            False,
        )
        builder = builder.add_extension(x509.KeyUsage(**unset | usage), critical=True)
    return builder.sign(KEY, SHA256())


def crl(
    serials: Iterable[int] = (5, LARGE),
    *extensions: tuple[x509.ExtensionType, bool],
    issuer: x509.Name = CA,
    key: Any = KEY,
    made_at: datetime = NOW - DAY / 2,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer,
        last_update=made_at,
        next_update=made_at + DAY,
        extensions=[x509.Extension(each.oid, critical, each) for each, critical in extensions],
        revoked_certificates=[
            x509.RevokedCertificateBuilder().serial_number(n).revocation_date(NOW).build()
            for n in serials
        ],
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def known(content: bytes, *authorities: x509.Certificate) -> RevocationList:
    return read(content, "devices.crl", authorities or [certificate(CA)], NOW)


def pem(each: x509.Certificate) -> str:
    return each.public_bytes(Encoding.PEM).decode()


def said(revoked: Revoked, *lists: RevocationList) -> tuple[Listing, str]:
    return look_up(lists or [known(crl())], revoked)


def test_a_good_list_has_no_doubts() -> None:
    good = known(crl())
    assert (good.signed, good.doubts, good.serials) == (True, (), {5, LARGE})
    assert good.as_object() == {
        "source": "devices.crl",
        "issuer": r"1.2.840.113549.1.9.1=ca@example.com,CN=Pumps\, CA,C=CN",
        "this_update": "2026-11-26 00:00 UTC",
        "next_update": "2026-11-27 00:00 UTC",
        "entries": 2,
        "signature": "good",
        "doubts": [],
    }


def test_a_list_may_be_pem() -> None:
    text = x509.load_der_x509_crl(crl()).public_bytes(Encoding.PEM)
    assert known(b"a comment\n" + text).serials == {5, LARGE}


@pytest.mark.parametrize(
    ("authority", "signed"),
    [
        (certificate(CA), True),
        (certificate(CA, crl_sign=True), True),
        (certificate(CA, key_cert_sign=True), False),  # may not sign lists
        (certificate(name("Another CA")), False),
    ],
)
def test_the_signature_is_checked_where_the_ca_is_known(
    authority: x509.Certificate, signed: bool
) -> None:
    found = known(crl(), authority)
    assert found.signed is signed
    assert bool(found.doubts) is not signed


def test_a_ca_with_a_new_key_is_told_from_the_old_one_by_the_key() -> None:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key())
    builder = x509.CertificateBuilder(CA, CA, OTHER_KEY.public_key(), 1, NOW - DAY, NOW + DAY)
    subject = x509.SubjectKeyIdentifier.from_public_key(OTHER_KEY.public_key())
    old = builder.add_extension(subject, critical=False).sign(OTHER_KEY, SHA256())
    content = crl((5,), (identifier, False))
    assert not known(content, old).signed  # nothing is known of the signature, so it is not wrong
    assert known(content, old, certificate(CA)).signed


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (crl(key=OTHER_KEY), "its signature is not that of its CA"),
        (crl((5,), (x509.DeltaCRLIndicator(1), True)), "it is a delta list"),
        (
            crl((5,), (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)),
            r"a critical extension that is not known \(1.2.3\)",
        ),
        (b"", "it is not a certificate revocation list"),
        (crl()[:-1], "it is not a certificate revocation list"),
        (certificate(CA).public_bytes(Encoding.DER), "it is not a certificate revocation list"),
        (pem(certificate(CA)).encode(), "it is not a certificate revocation list"),
        (b"-----BEGIN X509 CRL-----\nrubbish\n-----END X509 CRL-----", "it is not a certificate"),
    ],
)
def test_a_list_that_may_mislead_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(RevocationListError, match=f"devices.crl can't be used: .*{reason}"):
        known(content)


@pytest.mark.parametrize(
    ("only", "reason"),
    [
        ({"indirect_crl": True}, "an indirect list"),
        ({"only_contains_ca_certs": True}, "a partial list"),
        ({"only_contains_attribute_certs": True}, "a partial list"),
        ({"only_some_reasons": frozenset([x509.ReasonFlags.key_compromise])}, "a partial list"),
        ({"only_contains_user_certs": True}, ""),
    ],
)
def test_lists_that_are_not_for_all_devices_are_refused(only: dict[str, Any], reason: str) -> None:
    settings: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    content = crl((5,), (x509.IssuingDistributionPoint(**settings | only), True))
    if not reason:
        assert known(content).serials == {5}
        return
    with pytest.raises(RevocationListError, match=reason):
        known(content)


@pytest.mark.parametrize(
    ("made_at", "doubt"),
    [
        (NOW - 2 * DAY, "has expired: the next list was due at 2026-11-25 12:00 UTC"),
        (NOW + DAY, "is from the future: 2026-11-27 12:00 UTC"),
    ],
)
def test_the_dates_of_a_list_are_checked(made_at: datetime, doubt: str) -> None:
    assert [doubt in each for each in known(crl(made_at=made_at)).doubts] == [True]


@pytest.mark.parametrize(
    ("serial", "listing"),
    [
        (5, Listing.LISTED),
        (6, Listing.NOT_LISTED),
        # text: hexadecimal or decimal, as nobody says which
        ("8000000000000000", Listing.LISTED),
        ("80:00:00:00:00:00:00:00", Listing.LISTED),
        ("0x8000000000000000", Listing.LISTED),
        (str(LARGE), Listing.LISTED),
        ("0005", Listing.LISTED),
        ("0b", Listing.NOT_LISTED),
        ("10", Listing.NOT_LISTED),
        ("serial-5", Listing.NOT_COMPARED),
        ("", Listing.NOT_COMPARED),
    ],
)
def test_serial_numbers_are_compared_as_numbers(serial: int | str, listing: Listing) -> None:
    assert said(Revoked(serial, at_s=NOW.timestamp()))[0] is listing


def test_small_numbers_that_may_be_meant_in_two_ways_are_not_compared() -> None:
    """Certificate 10 is not that with the number 16 in the list, nor the other way round."""
    for serials in ((10,), (16,)):
        listing, problem = said(Revoked("10"), known(crl(serials)))
        assert listing is Listing.NOT_COMPARED
        assert "its serial number 10 may be decimal or hexadecimal" in problem
    assert said(Revoked("10"), known(crl((10, 16))))[0] is Listing.LISTED
    device = pem(certificate(name("pump"), serial=16))  # the certificate itself decides
    assert said(Revoked("10", pem=device), known(crl((16,))))[0] is Listing.LISTED
    assert said(Revoked("10", pem=device), known(crl((10,))))[0] is Listing.NOT_LISTED


def test_a_list_says_nothing_of_the_certificates_of_another_ca() -> None:
    for issuer in ("CN=Another CA", "EMAILADDRESS=ca@example.com, CN=Pumps, C=CN"):
        listing, problem = said(Revoked(5, issuer))
        assert (listing, problem) == (
            Listing.NOT_COMPARED,
            f"none of the lists is of its CA, {issuer}",
        )
    assert said(Revoked(5, AS_TEXT))[0] is Listing.LISTED
    other = read(crl(issuer=name("Another CA")), "other.crl", [], NOW)
    assert said(Revoked(6, AS_TEXT), other, known(crl((6,))))[0] is Listing.LISTED
    assert said(Revoked(5, AS_TEXT), other, known(crl((6,))))[0] is Listing.NOT_LISTED


def test_it_is_said_whether_the_list_is_older_than_the_revocation() -> None:
    made_at = (NOW - DAY / 2).timestamp()
    assert said(Revoked(6, at_s=made_at + 1))[1] == (
        "not in the revocation list of its CA yet: the list of 2026-11-26 00:00 UTC is older"
    )
    assert said(Revoked(6, at_s=made_at - 1))[1] == (
        "not in the revocation list of its CA of 2026-11-26 00:00 UTC"
    )


def test_what_has_expired_need_not_be_listed() -> None:
    expired = pem(certificate(name("pump"), serial=6, until=NOW - DAY))
    assert said(Revoked(6, pem=expired))[0] is Listing.EXPIRED
    at_s = (NOW - DAY).timestamp()
    assert said(Revoked(6, expires_at_s=at_s))[0] is Listing.EXPIRED
    assert said(Revoked(5, expires_at_s=at_s))[0] is Listing.LISTED
    assert said(Revoked(6, expires_at_s=NOW.timestamp()))[0] is Listing.NOT_LISTED


@pytest.mark.slow
def test_a_large_list_takes_little_memory() -> None:
    serials = range(LARGE, LARGE + 100_000)
    content = crl(serials)
    tracemalloc.start()
    try:
        large = known(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20
    listings = [said(Revoked(serial), large)[0] for serial in (*serials, LARGE - 1)]
    assert listings.count(Listing.LISTED) == len(serials)
    assert listings[-1] is Listing.NOT_LISTED


def test_certificates_may_be_pem_or_der_or_rubbish() -> None:
    one, two = certificate(CA), certificate(CA, serial=8)
    assert certificates((pem(one) + pem(two)).encode()) == [one, two]
    assert certificates(one.public_bytes(Encoding.DER)) == [one]
    assert certificates(b"-----BEGIN CERTIFICATE-----") == certificates(b"") == []
