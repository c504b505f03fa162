"""`[select]`: the conditions that choose certificates when targets name only devices. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from bulkcert.model import FieldValue
from bulkcert.providers.base import Field
from bulkcert.providers.enos.inventory import Certificate, Status
from bulkcert.values import shown, text, whole_number

DAY_MS = 86_400_000


def status(value: object) -> str:
    """Parse a certificate status by name."""
    name = text(value).lower()
    if name.upper() not in Status.__members__:
        raise ValueError(f"must be one of valid, revoked, expired, not {shown(value)}")
    return name


def issue_authority(value: object) -> str:
    """Parse the kind of an issuing authority, RSA or ECC, in any letter case."""
    name = text(value).upper()
    if name not in ("RSA", "ECC"):
        raise ValueError(f"must be RSA or ECC, not {shown(value)}")
    return name


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
    ),
    Field(
        "issued_before",
        moment,
        moment_in_words,
        type="date, or date and time",
        meaning="issued before this moment; UTC unless it has an offset",
        example=date(2027, 1, 1),
    ),
    Field(
        "issued_after",
        moment,
        moment_in_words,
        type="date, or date and time",
        meaning="issued at this moment or later; UTC unless it has an offset",
        example=date(2026, 11, 21),
    ),
    Field(
        "expires_within_days",
        whole_number,
        type="whole number",
        meaning="expires within this number of days, or has already expired",
        example=30,
    ),
    Field(
        "issue_authority",
        issue_authority,
        type="`RSA` or `ECC`",
        meaning="kind of the authority that issued it",
        example="RSA",
    ),
    Field(
        "issuer",
        text,
        meaning="issuer, exactly as EnOS lists it",
        example="CN=EnOS CA, OU=EnOS, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
    ),
    Field(
        "subject_contains",
        text,
        meaning="part of the subject, in any letter case",
        example="O=Pumps",
    ),
)


def matches(certificate: Certificate, selection: Mapping[str, Any], now_s: float) -> bool:
    """Return whether a certificate meets all conditions.

    A certificate without a date meets no condition about that date.

    Args:
        certificate: as listed.
        selection: parsed conditions, by the names in `SELECT`.
        now_s: Unix time in seconds.
    """
    issued, expires = certificate.issued_ms, certificate.expires_ms
    conditions: dict[str, Callable[[Any], bool]] = {
        "status": lambda wanted: certificate.status.name.lower() == wanted,
        "issued_before": lambda at: issued is not None and issued < at,
        "issued_after": lambda at: issued is not None and issued >= at,
        "expires_within_days": lambda days: (
            expires is not None and expires < now_s * 1000 + days * DAY_MS
        ),
        "issue_authority": lambda name: certificate.issue_authority.upper() == name,
        "issuer": lambda name: certificate.issuer == name,
        "subject_contains": lambda part: part.casefold() in certificate.subject.casefold(),
    }
    return all(conditions[name](value) for name, value in selection.items())


def selected(
    certificates: list[Certificate], selection: Mapping[str, Any], now_s: float
) -> list[int]:
    """Return the serial numbers of the matching certificates, sorted, each once; see `matches`."""
    return sorted({c.serial for c in certificates if matches(c, selection, now_s)})
