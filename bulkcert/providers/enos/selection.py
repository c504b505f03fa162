"""`[select]`: the conditions that choose certificates when targets name only devices. Pure.

A condition about something that a certificate does not show can't be judged. That is neither a
match nor none: it is an error, unless another condition excludes the certificate anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from bulkcert import public_keys
from bulkcert.model import FieldValue
from bulkcert.pem import has_private_key
from bulkcert.providers.base import Field
from bulkcert.providers.enos.inventory import NO_SERIAL, Certificate, Status
from bulkcert.values import shown, text, whole_number

if TYPE_CHECKING:
    from cryptography import x509

DAY_MS = 86_400_000


def status(value: object) -> str:
    """Parse a certificate status by name."""
    name = text(value).lower()
    if name not in ("valid", "revoked", "expired"):
        raise ValueError(f"must be one of valid, revoked, expired, not {shown(value)}")
    return name


def issue_authority(value: object) -> str:
    """Parse the kind of an issuing authority, RSA or ECC, in any letter case."""
    name = text(value).upper()
    if name not in ("RSA", "ECC"):
        raise ValueError(f"must be RSA or ECC, not {shown(value)}")
    return name


def public_key(value: object) -> str:
    """Parse a public key, given by its SHA-256 or in PEM, into the SHA-256 as 64 digits."""
    name = value if isinstance(value, str) else ""
    digits = name.replace(":", "").strip().lower()
    if re.fullmatch("[0-9a-f]{64}", digits):
        return digits
    if "-----BEGIN" in name and not has_private_key(name):
        return public_keys.in_file(name.encode())
    raise ValueError(
        "must be the SHA-256 of a public key, in 64 hexadecimal digits, or the path of a file with"
        " the key"
    )


def moment(value: object) -> int:
    """Parse a date, with or without a time, into milliseconds since 1970.

    It is in UTC unless it has an offset.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"must be a date such as 2026-11-21, not {shown(value)}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError("must be a date such as 2026-11-21")
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return int(value.timestamp() * 1000)


def moment_in_words(value: FieldValue) -> str:
    """Show a moment as date and time in UTC."""
    return f"{datetime.fromtimestamp(int(value) / 1000, UTC):%Y-%m-%d %H:%M} UTC"


SELECT = (
    Field(
        "status",
        status,
        type="`valid`, `revoked` or `expired`",
        meaning="status as EnOS lists it",
        example="valid",
        clause="are {}",
    ),
    Field(
        "issued_before",
        moment,
        moment_in_words,
        type="date, or date and time",
        meaning="issued before this moment; UTC unless it has an offset",
        example=date(2026, 1, 1),
        clause="were issued before {}",
        past=True,
    ),
    Field(
        "issued_after",
        moment,
        moment_in_words,
        type="date, or date and time",
        meaning="issued at this moment or later; UTC unless it has an offset",
        example=date(2025, 7, 1),
        clause="were issued at {} or later",
        past=True,
    ),
    Field(
        "expires_within_days",
        whole_number,
        type="whole number",
        meaning="expires within this number of days, or has already expired",
        example=30,
        clause="expire within {} days or have expired",
    ),
    Field(
        "issue_authority",
        issue_authority,
        type="`RSA` or `ECC`",
        meaning="kind of the authority that issued it",
        example="RSA",
        clause="were issued by the {} authority",
    ),
    Field(
        "issuer",
        text,
        meaning="issuer, exactly as EnOS lists it",
        example="CN=EnOS CA, OU=EnOS, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
        clause="have the issuer {}",
    ),
    Field(
        "subject_contains",
        text,
        meaning="part of the subject, in any letter case",
        example="O=Pumps",
        clause="have {} in the subject",
    ),
    Field(
        "public_key",
        public_key,
        type="path, PEM, or 64 hexadecimal digits",
        meaning="the public key: a file, relative to the job file, with a certificate, signing"
        " request, public or private key that has it; or the SHA-256 of its SubjectPublicKeyInfo",
        example="compromised.pem",
        clause="have the public key with the SHA-256 {}",
        from_file=public_keys.in_file,
    ),
)


def selected(
    certificates: Iterable[Certificate], selection: Mapping[str, Any], now_s: float
) -> list[int]:
    """Return the serial numbers of the matching certificates, sorted, each once.

    Args:
        certificates: as listed.
        selection: parsed conditions, by the names in `SELECT`.
        now_s: Unix time in seconds.

    Raises:
        ValueError: it can't be decided for a certificate, or it matches and can't be named to EnOS;
            the sentence names the condition and the certificate.
    """
    met: dict[int, bool] = {}
    problem = ""
    for certificate in certificates:
        try:
            meets = matches(certificate, selection, now_s)
        except ValueError as error:
            problem = problem or str(error)
            continue
        if met.setdefault(certificate.serial, meets) is not meets:
            raise ValueError(
                f"[select] can't be judged: certificate {certificate.serial} is listed twice, and"
                " only one of them matches"
            )
    matching = sorted(serial for serial, meets in met.items() if meets)
    if problem and matching:
        named = ", ".join(map(str, matching))
        problem += f". Nothing was done for this device; these match: {named}"
    if problem:
        raise ValueError(problem)
    return matching


def matches(certificate: Certificate, selection: Mapping[str, Any], now_s: float) -> bool:
    """Return whether a certificate meets all conditions; see `selected`.

    What it does not show matters only if it meets all other conditions.
    """
    met = {name: _meets(certificate, name, value, now_s) for name, value in selection.items()}
    if False in met.values():
        return False
    which = f"certificate {certificate.serial}"
    if certificate.serial == NO_SERIAL:
        which = "a certificate without a readable serial number"
    for name, meets in met.items():
        if meets is None:
            lacks = f"has no readable {_SHOWN_BY[name]}"
            if name == "status":
                lacks = certificate.doubt
            raise ValueError(f"select.{name} can't be judged: {which} {lacks}")
    if not certificate.has_own_serial:
        raise ValueError(
            f"{which} may match [select], but EnOS can't be asked to act on it: it takes serial"
            " numbers of at most 64 bits"
        )
    return True


_SHOWN_BY = {
    "status": "certStatus",
    "issued_before": "signDate",
    "issued_after": "signDate",
    "expires_within_days": "expireDate",
    "issue_authority": "issueAuthority",
    "issuer": "issuer",
    "subject_contains": "subject",
    "public_key": "cert",
}
"""Condition: the member of a certificate that shows whether it is met."""


def _meets(certificate: Certificate, condition: str, value: Any, now_s: float) -> bool | None:
    """Whether a certificate meets one condition; None if it does not show what is asked for."""
    issued, issuer, subject = certificate.issued_ms, certificate.issuer, certificate.subject
    match condition:
        case "status":
            status = certificate.status
            return None if status is Status.UNCLEAR else status.name.lower() == value
        case "issued_before":
            return None if issued is None else issued < value
        case "issued_after":
            return None if issued is None else issued >= value
        case "expires_within_days":
            expires = _expires_ms(certificate)
            return None if expires is None else expires < now_s * 1000 + value * DAY_MS
        case "issue_authority":
            authority = _issue_authority(certificate)
            return authority == value if authority else None
        case "issuer":
            return issuer == value if issuer else None
        case "subject_contains":
            return value.casefold() in subject.casefold() if subject else None
        case _:  # the public key
            digest = public_keys.of_certificate(certificate.pem)
            return None if digest is None else digest == value


def _expires_ms(certificate: Certificate) -> int | None:
    if certificate.expires_ms is None and (decoded := _decoded(certificate)):
        return int(decoded.not_valid_after_utc.timestamp() * 1000)
    return certificate.expires_ms


def _issue_authority(certificate: Certificate) -> str:
    """RSA or ECC, by the signature if the list does not say it; empty if neither does."""
    authority = certificate.issue_authority.upper()
    if not authority and (decoded := _decoded(certificate)):
        algorithm = decoded.signature_algorithm_oid.dotted_string
        authority = next((n for oid, n in _SIGNATURES.items() if algorithm.startswith(oid)), "")
    return authority


_SIGNATURES = {"1.2.840.113549.1.1.": "RSA", "1.2.840.10045.4.": "ECC"}
"""Beginnings of the object identifiers of signature algorithms (RFC 3279, 2.2.1 and 2.2.3)."""


def _decoded(certificate: Certificate) -> x509.Certificate | None:
    if not certificate.pem:
        return None
    # imported only where needed: X.509 takes long to load
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return x509.load_pem_x509_certificate(certificate.pem.encode())
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return None
