"""Is a new certificate the one that was requested? Pure.

Its serial number must be `certSN`, its public key that of the request, its validity as requested,
and it must be signed by `caCert`. Source: the parsed samples of the vendor's pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

DAY = timedelta(days=1)

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""Raised for PEM that is broken, or of a kind that the library does not know."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate as the provider returns it; `ca_pem` may be empty."""

    serial: int
    pem: str
    ca_pem: str = ""

    @property
    def chain(self) -> str:
        """The certificate followed by its CA, as in a PEM file."""
        return "".join(f"{pem.strip()}\n" for pem in (self.pem, self.ca_pem) if pem)


@dataclass(slots=True)
class Findings:
    """What a check found.

    Attributes:
        problems: what is wrong; the certificate is good if there is nothing.
        expires_at: the end of its validity, RFC 3339 in UTC.
        valid_days: its validity in days.
        clamped: the validity is shorter than requested.
    """

    problems: list[str] = field(default_factory=list)
    expires_at: str | None = None
    valid_days: int | None = None
    clamped: bool = False


def read_issued(data: Any) -> Issued | None:
    """Read the `data` of the response to a renewal; None if it contains no certificate."""
    if not isinstance(data, dict):
        return None
    serial = data.get("certSN", data.get("certSn"))
    pem, ca_pem = data.get("cert"), data.get("caCert")
    if isinstance(serial, bool) or not isinstance(serial, str | int) or not isinstance(pem, str):
        return None
    if not str(serial).isascii() or not str(serial).isdigit() or len(str(serial)) > 50:
        return None
    return Issued(int(serial), pem, ca_pem if isinstance(ca_pem, str) else "")


def check(issued: Issued, key: bytes | None, asked_days: int | None) -> Findings:
    """Check a new certificate.

    Args:
        issued: the certificate and its CA.
        key: the public key that it must have, see `encoded`; None if any will do.
        asked_days: the validity that was requested; None if any will do.
    """
    findings = Findings()
    try:
        certificate = x509.load_pem_x509_certificate(issued.pem.encode())
        has = encoded(certificate.public_key())
    except UNREADABLE as error:
        findings.problems.append(f"it can't be read ({error})")
        return findings
    if certificate.serial_number != issued.serial:
        findings.problems.append(f"its serial number is {certificate.serial_number}")
    if key is not None and has != key:
        findings.problems.append("its public key is not that of the request")
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    findings.expires_at = certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z")
    findings.valid_days = round(life / DAY)
    if asked_days is not None and abs(life - asked_days * DAY) >= DAY:
        if life > asked_days * DAY:
            findings.problems.append(
                f"it is valid for {findings.valid_days} days instead of {asked_days}"
            )
        findings.clamped = True  # to the remaining life of the CA, says the vendor
    if issued.ca_pem and (problem := _chain_problem(certificate, issued.ca_pem)):
        findings.problems.append(problem)
    return findings


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


def _chain_problem(certificate: x509.Certificate, ca_pem: str) -> str:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
    except InvalidSignature:
        return "it is not signed by caCert"
    except UNREADABLE as error:
        return f"it does not chain to caCert ({error})"
    return ""


def encoded(public_key: Any) -> bytes:
    """A public key as SubjectPublicKeyInfo in DER, for comparing keys."""
    spki: bytes = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return spki
