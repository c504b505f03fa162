"""The certificates of a device, as a `list` call shows them. Pure.

The vendor's tables and samples spell some names in two ways; both are read. What decides nothing is
taken as it comes; what decides must be of the documented type.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from bulkcert.model import LookupKind, LookupResult
from bulkcert.providers.call import CallKind, CallResult
from bulkcert.providers.decoding import one_line, utc
from bulkcert.values import INT64_MAX

BEGIN_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_YEAR_10000_MS = 253_402_300_800_000  # the first moment that `datetime` can't represent


class Status(IntEnum):
    """`certStatus`."""

    VALID = 0
    REVOKED = 1
    EXPIRED = 2


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate in the response to a `list` call.

    Attributes:
        serial: `certSN`.
        status: `certStatus`.
        issuer, subject: distinguished names as text.
        issued_ms, effective_ms, expires_ms: `signDate`, `effetiveDate` (sic) or `effectiveDate`,
            `expireDate`; milliseconds since 1970, None where missing.
        revoker, revoker_reason: empty unless revoked.
        issue_authority: RSA or ECC.
        pem: the certificate itself; empty where the provider gives only its number.
    """

    serial: int
    status: Status
    issuer: str
    subject: str
    issued_ms: int | None
    effective_ms: int | None
    expires_ms: int | None
    revoker: str
    revoker_reason: str
    issue_authority: str
    pem: str

    def as_result(self) -> dict[str, Any]:
        """The certificate for the reports: the vendor's names, the status by name, dates in UTC."""
        return {
            "certSN": str(self.serial),
            "status": self.status.name.lower(),
            "issuer": self.issuer,
            "subject": self.subject,
            "signDate": utc(self.issued_ms),
            "effectiveDate": utc(self.effective_ms),
            "expireDate": utc(self.expires_ms),
            "revoker": self.revoker,
            "revokerReason": self.revoker_reason,
            "issueAuthority": self.issue_authority,
            "cert": self.pem,
        }


RESULT_COLUMNS = (
    *("certSN", "status", "issuer", "subject", "signDate", "effectiveDate", "expireDate"),
    *("revoker", "revokerReason", "issueAuthority", "cert"),
)


@dataclass(frozen=True, slots=True)
class Listing:
    """All certificates of a device, and the call that showed them."""

    certificates: list[Certificate]
    call: CallResult

    def find(self, serial: int) -> Certificate | None:
        """The certificate with this serial number."""
        return next((c for c in self.certificates if c.serial == serial), None)

    def shows(self, kind: LookupKind, message: str, result: Any = None) -> LookupResult:
        """The result of a look-up that was decided by this listing."""
        return LookupResult(kind, self.call.code, message, self.call.request_id, result)


def read_listing(call: CallResult) -> Listing | LookupResult:
    """Read the response to a `list` call, or return the result of the failed look-up."""
    if call.kind is not CallKind.OK:
        return call.as_failed_lookup("list")
    try:
        return Listing(read_certificates(call.data), call)
    except ValueError as problem:
        return call.unreadable(str(problem)).as_failed_lookup("list")


def read_certificates(data: Any) -> list[Certificate]:
    """Read the `data` of a response to a `list` call.

    Raises:
        ValueError: these are not certificates; with a sentence that says so.
    """
    try:
        if not isinstance(data, list):
            raise TypeError("data must be a list")
        return [_certificate(item) for item in data]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = type(error).__name__
        raise ValueError(f"list returned something other than certificates ({reason})") from error


def _certificate(item: dict[str, Any]) -> Certificate:
    status = item["certStatus"]
    if type(status) is not int:
        raise TypeError("certStatus must be a number")
    cert = item.get("cert")
    return Certificate(
        serial=_serial(item["certSN"] if "certSN" in item else item["certSn"]),
        status=Status(status),
        issuer=_text(item.get("issuer")),
        subject=_text(item.get("subject")),
        issued_ms=_milliseconds(item.get("signDate")),
        effective_ms=_milliseconds(item.get("effetiveDate", item.get("effectiveDate"))),
        expires_ms=_milliseconds(item.get("expireDate")),
        revoker=_text(item.get("revoker")),
        revoker_reason=one_line(_text(item.get("revokerReason"))),
        issue_authority=_text(item.get("issueAuthority")),
        pem=cert if isinstance(cert, str) and cert.lstrip().startswith(BEGIN_CERTIFICATE) else "",
    )


def _serial(value: object) -> int:
    digits = str(value) if type(value) is int else value
    if not isinstance(digits, str) or not (digits.isascii() and digits.isdigit()):
        raise TypeError("certSN must be a number or its digits")
    if (serial := int(digits)) > INT64_MAX:
        raise ValueError("certSN must be an integer of at most 64 bits")
    return serial


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _milliseconds(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _YEAR_10000_MS else None
