"""The check of a new certificate: the problems that it finds, whatever its input."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from enos_vendor import PrivateKey, public_key, signing_request
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.enos.actions import signing_request as parsed_request
from bulkcert.providers.enos.issuance import (
    Issued,
    check,
    issue_authority_for,
    public_key_of,
    read_issued,
    serial_of,
)

KEY = ec.generate_private_key(ec.SECP256R1())
CA_KEY = rsa.generate_private_key(65537, 2048)
NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
REQUEST = signing_request("A1", KEY)


def certificate(
    serial: int = 77,
    days: float = 365,
    *,
    key: PrivateKey = KEY,
    issuer: str = "CA",
    subject: x509.Name | None = None,
    by: PrivateKey = CA_KEY,
) -> str:
    """A certificate in PEM."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    asked_for = x509.load_pem_x509_csr(REQUEST.encode()).subject
    builder = x509.CertificateBuilder().issuer_name(name(issuer))
    builder = builder.subject_name(asked_for if subject is None else subject)
    builder = builder.public_key(key.public_key()).serial_number(serial)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=days))
    return builder.sign(by, SHA256()).public_bytes(Encoding.PEM).decode()


def authority(key: PrivateKey = CA_KEY, days: float = 3650) -> str:
    """The certificate of a CA."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.public_key(key.public_key())
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=days))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


CA = authority()


def test_a_certificate_as_requested_has_no_problems() -> None:
    found = check(Issued(77, certificate(), CA), REQUEST, 365)
    assert (found.problems, found.valid_days, found.validity) == ([], 365, "")
    assert found.expires_at == "2027-11-21T12:30:00Z"


def test_what_is_not_known_is_not_checked() -> None:
    assert check(Issued(77, certificate()), None, None).problems == []


@pytest.mark.parametrize(
    ("issued", "problem"),
    [
        (Issued(78, certificate(), CA), "its serial number is 77"),
        (Issued(77, certificate(key=CA_KEY), CA), "its public key is not that of the request"),
        (Issued(77, certificate(days=366), CA), "it is valid for 366 days instead of 365"),
        (Issued(77, certificate(issuer="another"), CA), "it is not signed by caCert"),
        (Issued(77, certificate(by=KEY), CA), "it is not signed by caCert"),
        (Issued(77, certificate(), authority(KEY)), "it is not signed by caCert"),
        (Issued(77, certificate(), "no CA at all"), "caCert can't be read"),
        (Issued(77, "52739", CA), "it can't be read"),
    ],
)
def test_each_deviation_from_the_request_is_reported(issued: Issued, problem: str) -> None:
    (reported,) = check(issued, REQUEST, 365).problems
    assert problem in reported


COUNTRY = x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "CN")
COMMON = x509.NameAttribute(x509.NameOID.COMMON_NAME, "A1")
PRINTABLE = x509.NameAttribute(x509.NameOID.COMMON_NAME, "A1", x509.name._ASN1Type.PrintableString)


@pytest.mark.parametrize(
    ("asked", "issued", "is_the_same"),
    [
        ([COUNTRY, COMMON], [COUNTRY, COMMON], True),
        ([COUNTRY, COMMON], [COMMON, COUNTRY], True),
        ([COMMON], [PRINTABLE], True),
        ([COMMON], [COUNTRY, COMMON], False),
        ([COUNTRY, COMMON], [COMMON], False),
        ([COMMON], [x509.NameAttribute(x509.NameOID.COMMON_NAME, "A2")], False),
        ([COMMON], [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "A1")], False),
        ([COMMON], [], False),
    ],
)
def test_the_subject_must_be_that_of_the_request(
    asked: list[x509.NameAttribute[str]],
    issued: list[x509.NameAttribute[str]],
    is_the_same: bool,
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(asked))
    request = builder.sign(KEY, SHA256()).public_bytes(Encoding.PEM).decode()
    found = check(Issued(77, certificate(subject=x509.Name(issued)), CA), request, 365)
    assert (found.problems == []) is is_the_same
    assert all("not that of the request" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("days", "differs", "wrong"),
    [
        (365.0, False, False),
        (365.9, False, False),  # less than a day is rounding by the provider
        (364.1, False, False),
        (364.0, True, False),
        (40.0, True, False),
        (366.0, True, True),
        (3650.0, True, True),
    ],
)
def test_a_shorter_validity_is_reported_and_a_longer_one_is_wrong(
    days: float, differs: bool, wrong: bool
) -> None:
    found = check(Issued(77, certificate(days=days), CA), None, 365)
    assert (bool(found.validity), bool(found.problems)) == (differs, wrong)
    assert not found.ends_with_ca


@pytest.mark.parametrize(
    ("ca_days", "ends_with_ca"),
    [(40, True), (39.1, True), (41, True), (41.1, False), (38.9, False), (3650, False)],
)
@pytest.mark.parametrize("asked_days", [365, None])
def test_only_the_end_of_the_ca_explains_a_shorter_validity(
    ca_days: float, ends_with_ca: bool, asked_days: int | None
) -> None:
    """The vendor: where fewer days are left of the CA, its end is the end of the certificate."""
    issued = Issued(77, certificate(days=40), authority(days=ca_days))
    found = check(issued, None, asked_days)
    assert (found.problems, found.ends_with_ca) == ([], ends_with_ca)
    said = f"valid for 40 days instead of {asked_days or 730}"
    assert found.validity == (f"{said}: the CA expires then" if ends_with_ca else said)


def test_without_the_ca_nothing_explains_a_shorter_validity() -> None:
    assert not check(Issued(77, certificate(days=40)), None, 365).ends_with_ca
    # a kept certificate is followed by its CA
    kept = Issued(77, certificate(days=40), authority(days=40)).fullchain
    assert check(Issued(77, kept), None, 365).ends_with_ca


@pytest.mark.parametrize(("days", "differs"), [(730, False), (365, True), (1095, True)])
def test_the_vendors_default_of_730_days_is_checked(days: int, differs: bool) -> None:
    """It may have been changed for this account, so another validity is reported but not wrong."""
    found = check(Issued(77, certificate(days=days), CA), None, None)
    assert (bool(found.validity), found.problems) == (differs, [])


@pytest.mark.parametrize("asked_days", [10**9, 10**18])
def test_any_number_of_days_may_have_been_requested(asked_days: int) -> None:
    found = check(Issued(77, certificate(), CA), None, asked_days)
    assert found.validity == f"valid for 365 days instead of {asked_days}"


def test_the_ca_may_be_anywhere_in_a_chain() -> None:
    other = authority(KEY)
    for chain in (CA + other, other + CA):
        assert check(Issued(77, certificate(), chain), None, 365).problems == []
    assert check(Issued(77, certificate() + CA, other), None, 365).problems == []


@pytest.mark.parametrize("certificate_ends", ["", "\n", "\r\n"])
@pytest.mark.parametrize("authority_ends", ["", "\n"])
def test_the_chain_is_valid_pem_whatever_its_parts_end_with(
    certificate_ends: str, authority_ends: str
) -> None:
    """In the vendor's samples, one of them ends with a line break and the other does not."""
    issued = Issued(77, certificate().rstrip() + certificate_ends, CA.rstrip() + authority_ends)
    loaded = x509.load_pem_x509_certificates(issued.fullchain.encode())
    assert [each.serial_number for each in loaded] == [77, 1]
    assert issued.fullchain.endswith("-----\n")
    assert Issued(77, certificate()).fullchain.count("BEGIN") == 1


@pytest.mark.parametrize(
    ("data", "serial"),
    [
        ({"certSN": "52771", "cert": "pem"}, 52771),
        ({"certSn": "52771", "cert": "pem"}, 52771),
        ({"certSN": 52771, "cert": "pem", "caCert": None}, 52771),
        ({"certSN": "9" * 50, "cert": "pem"}, int("9" * 50)),
        ({"certSN": "9" * 5000, "cert": "pem"}, None),
        ({"certSN": -1, "cert": "pem"}, None),
        ({"certSN": "٣", "cert": "pem"}, None),
        ({"certSN": True, "cert": "pem"}, None),
        ({"certSN": 1.5, "cert": "pem"}, None),
        ({"certSN": "", "cert": "pem"}, None),
        ({"certSN": "52771"}, None),
        ({"certSN": "52771", "cert": 52771}, None),
        ({"cert": "pem"}, None),
        (None, None),
        ([], None),
        ("OK", None),
    ],
)
def test_only_a_number_with_a_certificate_is_read_as_issued(data: Any, serial: int | None) -> None:
    issued = read_issued(data)
    assert (issued and issued.serial) == serial


def test_the_ca_and_its_address_are_read() -> None:
    data = {"certSN": "1", "cert": "pem", "caCert": " ca\n", "certChainURL": "https://x.example/ca"}
    assert read_issued(data) == Issued(1, "pem", "ca", "https://x.example/ca")
    odd = {"certSN": None, "certSn": "1", "cert": "pem", "caCert": 7, "certChainURL": ["x"]}
    assert read_issued(odd) == Issued(1, "pem")


def test_what_is_kept_of_a_response_is_bounded() -> None:
    data = {"cert": "pem", "certChainURL": "https://x.example/" + "a" * 5000}
    issued = read_issued({"certSN": "9" * 50, **data})
    assert issued is not None
    assert len(issued.chain_url) == 2000
    assert read_issued({"certSN": "9" * 51, **data}) is None


def test_the_ca_may_stand_behind_the_certificate() -> None:
    assert Issued(1, certificate() + CA).has_ca
    assert Issued(1, certificate(), CA).has_ca
    assert not Issued(1, certificate()).has_ca


def test_the_leaf_and_its_chain_are_separate_files_too() -> None:
    leaf, other = certificate(), authority(KEY)
    issued = Issued(77, leaf + CA, CA + other)
    assert (issued.leaf, issued.chain) == (leaf, CA + other)
    assert issued.fullchain == issued.leaf + issued.chain
    assert (Issued(77, certificate()).chain, Issued(77, "no PEM").leaf) == ("", "no PEM\n")


def test_a_chain_without_its_ca_is_the_certificate_alone() -> None:
    assert Issued(1, "pem").fullchain == "pem\n"
    assert Issued(1, "pem\n", "ca").fullchain == "pem\nca\n"


@pytest.mark.parametrize(
    "written",
    [
        lambda pem: pem,
        lambda pem: pem.replace("\n", r"\n"),
        lambda pem: pem.replace("\n", "\r\n"),
        lambda pem: "".join(pem.splitlines()[1:-1]),  # base64 without its header
    ],
)
def test_certificates_are_read_in_whatever_form_they_come(written: Callable[[str], str]) -> None:
    issued = read_issued({"certSN": "77", "cert": written(GOOD), "caCert": written(CA)})
    assert issued is not None
    assert check(issued, REQUEST, 365).problems == []
    assert x509.load_pem_x509_certificates(issued.fullchain.encode())[1].serial_number == 1


def test_the_authority_suits_the_key() -> None:
    assert issue_authority_for(signing_request("A1", KEY)) == "ECC"
    assert issue_authority_for(signing_request("A1", CA_KEY)) == "RSA"


def test_keys_and_numbers_are_read_from_certificates_and_requests() -> None:
    assert public_key_of(certificate()) == public_key_of(signing_request("A1", KEY))
    assert public_key_of(certificate()) == public_key(KEY)
    assert serial_of(certificate() + CA) == 77
    assert serial_of("52739") is None
    assert public_key_of("52739") is None


def damaged(pem: str, at: int, value: int) -> str:
    """Return PEM with one byte of its content replaced."""
    first, *lines, last = pem.strip().splitlines()
    der = bytearray(base64.b64decode("".join(lines)))
    der[at % len(der)] = value
    return f"{first}\n{base64.encodebytes(bytes(der)).decode()}{last}\n"


GOOD, REQUEST = certificate(), signing_request("A1", KEY)


@given(st.integers(0, 2000), st.integers(0, 255))
def test_damage_is_reported_and_never_raised(at: int, value: int) -> None:
    """Some of the results have curves or versions that the library does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns about odd but readable input
        odd = damaged(GOOD, at, value)
        check(Issued(77, odd, CA), REQUEST, 365)
        check(Issued(77, GOOD, damaged(CA, at, value)), REQUEST, 365)
        check(Issued(77, GOOD, damaged(CA, at, value)), REQUEST, None)
        public_key_of(odd)
        serial_of(odd)
        request = damaged(REQUEST, at, value)
        public_key_of(request)
        if request != REQUEST:
            try:
                parsed_request(request)
            except ValueError:
                return
            assert x509.load_pem_x509_csr(request.encode()).is_signature_valid


@pytest.mark.parametrize("pem", [GOOD, REQUEST])
def test_an_unknown_curve_is_reported(pem: str) -> None:
    first, *lines, last = pem.strip().splitlines()
    der = base64.b64decode("".join(lines))
    p256, odd = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030155")
    body = base64.encodebytes(der.replace(p256, odd)).decode()
    changed = f"{first}\n{body}{last}\n"
    assert p256 in der
    assert public_key_of(changed) is None
    if pem is REQUEST:
        with pytest.raises(ValueError, match="not a readable certificate signing request"):
            parsed_request(changed)
    else:
        (problem,) = check(Issued(77, changed), None, None).problems
        assert "it can't be read" in problem
