"""Is a new certificate the one that was requested? Pure.

Its serial number must be `certSN`, its public key that of the request, and it must be signed by
`caCert`. Its validity must be as requested, by the vendor's rules: the requested number of days, or
730 if none was requested; or less, if the CA itself expires earlier. Sources: the vendor's page
"Renew Certificate", and its samples as parsed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256

from bulkcert.providers.decoding import bounded_text, one_line
from bulkcert.providers.enos.inventory import pem_of

DAY = timedelta(days=1)

DEFAULT_VALID_DAYS = 730
"""Days of validity that EnOS takes where a renewal asks for none."""

_CERTIFICATE = re.compile(
    "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.ASCII | re.DOTALL
)

LONGEST_URL = 2000
"""Characters of `certChainURL` that are kept."""

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""Raised for PEM that is broken, or of a kind that the library does not know."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate as the provider returns it.

    Attributes:
        serial: `certSN`.
        pem: `cert`.
        ca_pem: `caCert`; empty where it is missing.
        chain_url: `certChainURL`, where the CA can be fetched; empty where it is missing.
    """

    serial: int
    pem: str
    ca_pem: str = ""
    chain_url: str = ""

    @property
    def has_ca(self) -> bool:
        """Whether the CA is known: by itself, or behind the certificate."""
        return bool(self.chain)

    @property
    def leaf(self) -> str:
        """The certificate alone, as the content of a PEM file; what is not PEM is left as it is."""
        return f"{(_CERTIFICATE.findall(self.pem) or [self.pem.strip()])[0]}\n"

    @property
    def chain(self) -> str:
        """The certificates of its CA, each once, as the content of a PEM file; or empty."""
        behind = _CERTIFICATE.findall(self.pem)[1:]
        ca = _CERTIFICATE.findall(self.ca_pem) or [self.ca_pem.strip()]
        return "".join(f"{pem}\n" for pem in dict.fromkeys([*behind, *ca]) if pem)

    @property
    def fullchain(self) -> str:
        """The certificate followed by those of its CA, as a TLS server presents them."""
        return self.leaf + self.chain


@dataclass(slots=True)
class Findings:
    """What a check found.

    Attributes:
        problems: what is wrong; the certificate is good if there is nothing.
        identity: what identifies it beside its serial number: `subject`, `fingerprint_sha256`, and
            `public_key_sha256` of its SubjectPublicKeyInfo; empty if it can't be read.
        valid_from, expires_at: its validity, RFC 3339 in UTC.
        valid_days: its validity in days.
        expected_days: the validity that it should have; None if it has that.
        ends_with_ca: it is shorter because it ends together with its CA, as the vendor documents.
    """

    problems: list[str] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)
    valid_from: str | None = None
    expires_at: str | None = None
    valid_days: int | None = None
    expected_days: int | None = None
    ends_with_ca: bool = False

    @property
    def validity(self) -> str:
        """How the validity differs from what it should be, as a phrase; empty if it does not."""
        if self.expected_days is None:
            return ""
        reason = ": the CA expires then" if self.ends_with_ca else ""
        return f"valid for {self.valid_days} days instead of {self.expected_days}{reason}"


def read_issued(data: Any) -> Issued | None:
    """Read the `data` of the response to a renewal; None if it contains no certificate."""
    if not isinstance(data, dict):
        return None
    named = next((data[name] for name in ("certSN", "certSn") if data.get(name) is not None), None)
    serial, cert, ca = bounded_text(named, 50), data.get("cert"), data.get("caCert")
    if not (serial.isascii() and serial.isdigit()) or not isinstance(cert, str):
        return None
    return Issued(
        int(serial),
        pem_of(cert) or cert,
        (pem_of(ca) or ca).strip() if isinstance(ca, str) else "",
        one_line(data.get("certChainURL"), LONGEST_URL),
    )


def check(issued: Issued, request: str | None, asked_days: int | None) -> Findings:
    """Check a new certificate.

    Args:
        issued: the certificate and its CA.
        request: the signing request (PEM) whose key and subject it must have; None if there was
            none.
        asked_days: the validity that was requested; None if none was, and the default applies.
    """
    findings = Findings()
    try:
        certificate, *authorities = x509.load_pem_x509_certificates(issued.pem.encode())
        key, subject = encoded(certificate.public_key()), certificate.subject
    except UNREADABLE as error:
        findings.problems.append(f"it can't be read ({error})")
        return findings
    findings.identity = {
        "subject": one_line(subject.rfc4514_string()),
        "fingerprint_sha256": certificate.fingerprint(SHA256()).hex(),
        "public_key_sha256": hashlib.sha256(key).hexdigest(),
    }
    if certificate.serial_number != issued.serial:
        findings.problems.append(f"its serial number is {certificate.serial_number}")
    if request is not None:
        asked_for = x509.load_pem_x509_csr(request.encode())
        if key != encoded(asked_for.public_key()):
            findings.problems.append("its public key is not that of the request")
        if _attributes(subject) != _attributes(asked_for.subject):
            shown = one_line(subject.rfc4514_string())
            findings.problems.append(f"its subject is {shown}, not that of the request")
    try:
        if issued.ca_pem:
            authorities += x509.load_pem_x509_certificates(issued.ca_pem.encode())
    except UNREADABLE as error:
        findings.problems.append(f"caCert can't be read ({error})")
    else:
        if authorities and not any(_is_issued_by(certificate, each) for each in authorities):
            findings.problems.append("it is not signed by caCert")
    _check_validity(certificate, authorities, asked_days, findings)
    return findings


def _check_validity(
    certificate: x509.Certificate,
    authorities: list[x509.Certificate],
    asked_days: int | None,
    findings: Findings,
) -> None:
    """Compare the validity with the vendor's rules.

    Longer than requested is a problem. Shorter is none, whatever the reason: the certificate is
    good for as long as it lasts. Without a request a longer one is none either: the default may
    have changed.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    life = end - start
    expected_days = DEFAULT_VALID_DAYS if asked_days is None else asked_days
    findings.valid_from, findings.expires_at = (
        moment.isoformat().replace("+00:00", "Z") for moment in (start, end)
    )
    findings.valid_days = round(life / DAY)
    # compared as numbers of days, because `timedelta` can't represent any number
    difference_days = life / DAY - expected_days
    if abs(difference_days) < 1:  # less than a day is rounding
        return
    findings.expected_days = expected_days
    if difference_days > 0:
        if asked_days is not None:
            findings.problems.append(f"it is {findings.validity}")
    else:
        findings.ends_with_ca = any(abs(end - ca.not_valid_after_utc) <= DAY for ca in authorities)


def _attributes(name: x509.Name) -> Counter[tuple[str, Any]]:
    """What a name says, whatever the order of its attributes and the types of their strings."""
    return Counter((attribute.oid.dotted_string, attribute.value) for attribute in name)


def public_key_of(pem: str) -> bytes | None:
    """The public key in a certificate or signing request (PEM); None if it can't be read."""
    try:
        if "REQUEST-----" in pem:
            return encoded(x509.load_pem_x509_csr(pem.encode()).public_key())
        return encoded(x509.load_pem_x509_certificate(pem.encode()).public_key())
    except UNREADABLE:
        return None


def serial_of(pem: str) -> int | None:
    """The serial number of the first certificate in PEM; None if it can't be read."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).serial_number
    except UNREADABLE:
        return None


def issue_authority_for(csr: str) -> str:
    """The authority that can sign a request: RSA or ECC, as its key is."""
    key = x509.load_pem_x509_csr(csr.encode()).public_key()
    return "RSA" if isinstance(key, rsa.RSAPublicKey) else "ECC"


def is_signed_by(pem: str, ca_pem: str) -> bool:
    """Whether one of the certificates in `ca_pem` has signed the first one in `pem`."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        authorities = x509.load_pem_x509_certificates(ca_pem.encode())
    except UNREADABLE:
        return False
    return any(_is_issued_by(certificate, authority) for authority in authorities)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def encoded(public_key: Any) -> bytes:
    """A public key as SubjectPublicKeyInfo in DER, for comparing keys."""
    spki: bytes = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return spki
