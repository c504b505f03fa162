"""The certificates of a device, as a `list` call shows them. Pure.

The vendor's tables and samples spell some names in two ways; both are read. Services write numbers
as text and text as numbers; both are read, too. An item that can't be read does not hide the
others: it is kept as it came, and only a question about that very certificate stays open.
"""

from __future__ import annotations

import base64
import binascii
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from typing import Any

from bulkcert import public_keys
from bulkcert.model import LookupKind, LookupResult
from bulkcert.providers.call import CallKind, CallResult
from bulkcert.providers.decoding import (
    as_received,
    bounded_text,
    integer,
    one_line,
    storable,
    utc,
)
from bulkcert.values import INT64_MAX

_EARLIEST_MS = 100_000_000_000
"""In 1973. A smaller number is not a date in milliseconds: it is in seconds, or means "not set"."""
_YEAR_10000_MS = 253_402_300_800_000  # the first moment that `datetime` can't represent
_LONGEST_SERIAL = 50  # decimal digits; RFC 5280, 4.1.2.2 allows 20 bytes
_SHORTEST_DER = 100  # bytes; no certificate is that short

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_PEM = re.compile(f"{_BEGIN}(.*?){_END}", re.DOTALL)


class Status(IntEnum):
    """`certStatus`; and `UNCLEAR` if it is not documented, or the list contradicts itself."""

    VALID = 0
    REVOKED = 1
    EXPIRED = 2
    UNCLEAR = -1


NO_SERIAL = -1
"""Stands for a serial number that can't be read."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate in the response to a `list` call.

    Attributes:
        serial: `certSN`, or `NO_SERIAL`; up to 20 bytes, because a device may have certificates of
            other CAs.
        status: `certStatus`.
        doubt: why the status is `UNCLEAR`, as a clause about the certificate; else empty.
        issuer, subject: distinguished names as text; empty where missing.
        issued_ms, effective_ms, expires_ms: `signDate`, `effetiveDate` (sic) or `effectiveDate`,
            `expireDate`; milliseconds since 1970, None where missing.
        revoker, revoker_reason: empty unless revoked.
        issue_authority: RSA or ECC; empty where missing.
        pem: the certificate itself; empty where the provider gives only its number.
        item: the item of the list, as it came.
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
    doubt: str = ""
    item: Any = field(default=None, compare=False, repr=False)

    @property
    def has_own_serial(self) -> bool:
        """Whether the serial number can be read, and is one that EnOS takes."""
        return 0 <= self.serial <= INT64_MAX

    def as_result(self) -> dict[str, Any]:
        """The certificate for the reports: the vendor's names, the status by name, dates in UTC.

        `public_key_sha256` is that of the SubjectPublicKeyInfo, if the list has the certificate.
        What can't be read is shown as it came. An item without a serial number has a member
        `as_received` with its JSON.
        """
        item = self.item if isinstance(self.item, dict) else {}
        status = _documented(item.get("certStatus")) if self.doubt else self.status
        shown = {
            "certSN": _shown(_first(item, "certSN", "certSn")),
            "status": _shown(item.get("certStatus")) if status is None else status.name.lower(),
            "issuer": self.issuer,
            "subject": self.subject,
            "signDate": utc(self.issued_ms) or _shown(item.get("signDate")),
            "effectiveDate": utc(self.effective_ms)
            or _shown(_first(item, "effetiveDate", "effectiveDate")),
            "expireDate": utc(self.expires_ms) or _shown(item.get("expireDate")),
            "revoker": self.revoker,
            "revokerReason": self.revoker_reason,
            "isEnosCert": storable(item.get("isEnosCert")),
            "issueAuthority": self.issue_authority,
            "audit": storable(item.get("audit")),
            "public_key_sha256": public_keys.of_certificate(self.pem),
            "cert": self.pem,
        }
        if self.serial == NO_SERIAL:
            return shown | {"as_received": as_received(self.item)}
        return shown | {"certSN": str(self.serial)}


RESULT_COLUMNS = (
    *("certSN", "status", "issuer", "subject", "signDate", "effectiveDate", "expireDate"),
    *(
        "revoker",
        "revokerReason",
        "isEnosCert",
        "issueAuthority",
        "audit",
        "public_key_sha256",
        "cert",
    ),
)


_NOT_GOOD = (LookupKind.REFUSED, LookupKind.FLAWED, LookupKind.UNCLEAR, LookupKind.NOT_YET)


@dataclass(frozen=True, slots=True)
class Listing:
    """All certificates of a device, and the call that showed them.

    Attributes:
        certificates: those that EnOS can be asked to act on: their serial number has at most 64
            bits.
        call: the call that showed them.
        others: the certificates of other CAs with longer serial numbers, and what can't be read.
    """

    certificates: list[Certificate]
    call: CallResult
    others: Sequence[Certificate] = ()

    @property
    def unreadable(self) -> int:
        """Number of certificates whose serial number can't be read. If there are any, what is not
        found may be there all the same."""
        return sum(certificate.serial == NO_SERIAL for certificate in self.others)

    def find(self, serial: int) -> Certificate | None:
        """The certificate with this serial number."""
        return next((c for c in self.certificates if c.serial == serial), None)

    def shows(self, kind: LookupKind, message: str, result: Any = None) -> LookupResult:
        """The result of a look-up that was decided by this listing.

        It has the code of the call, which says OK, only if the operation can be OK as well.
        """
        code = None if kind in _NOT_GOOD else self.call.code
        return LookupResult(kind, code, message, self.call.request_id, result)


def read_listing(call: CallResult) -> Listing | LookupResult:
    """Read the response to a `list` call, or return the result of the failed look-up."""
    if call.kind is not CallKind.OK:
        return call.as_failed_lookup("list")
    try:
        certificates = read_certificates(call.data)
    except ValueError as problem:
        return call.unreadable(str(problem)).as_failed_lookup("list")
    return Listing(
        [certificate for certificate in certificates if certificate.has_own_serial],
        call,
        [certificate for certificate in certificates if not certificate.has_own_serial],
    )


def read_certificates(data: Any) -> list[Certificate]:
    """Read the `data` of a response to a `list` call; None means that there are no certificates.

    What can't be read in an item becomes the serial number `NO_SERIAL` or the status `UNCLEAR`. The
    status is also unclear if one serial number is listed with different ones.

    Raises:
        ValueError: no item is a certificate; with a sentence that says so.
    """
    items = [] if data is None else data
    if not isinstance(items, list):
        raise ValueError("list returned something other than certificates: not a list")
    certificates = [_certificate(item) for item in items]
    if certificates and all(certificate.serial == NO_SERIAL for certificate in certificates):
        raise ValueError("list returned something other than certificates: none has a number")
    statuses: dict[int, set[Status]] = {}
    for certificate in certificates:
        statuses.setdefault(certificate.serial, set()).add(certificate.status)
    contradicted = {
        serial for serial, some in statuses.items() if len(some) > 1 and serial != NO_SERIAL
    }
    doubt = "is listed twice, with different statuses"
    return [
        replace(certificate, status=Status.UNCLEAR, doubt=certificate.doubt or doubt)
        if certificate.serial in contradicted
        else certificate
        for certificate in certificates
    ]


def _certificate(received: object) -> Certificate:
    item: Mapping[str, Any] = received if isinstance(received, dict) else {}
    serial = _serial(_first(item, "certSN", "certSn"))
    status, doubt = _documented(item.get("certStatus")), ""
    if status is None:
        shown = one_line(item.get("certStatus"), 40) or "null"
        status, doubt = Status.UNCLEAR, f"has the unknown status {shown}"
    return Certificate(
        serial=serial,
        status=status,
        issuer=bounded_text(item.get("issuer"), 10_000),
        subject=bounded_text(item.get("subject"), 10_000),
        issued_ms=_milliseconds(item.get("signDate")),
        effective_ms=_milliseconds(_first(item, "effetiveDate", "effectiveDate")),
        expires_ms=_milliseconds(item.get("expireDate")),
        revoker=one_line(item.get("revoker")),
        revoker_reason=one_line(item.get("revokerReason")),
        issue_authority=one_line(item.get("issueAuthority"), 100),
        pem=pem_of(item.get("cert")),
        doubt=doubt,
        item=received,
    )


def _first(item: Mapping[str, Any], *names: str) -> Any:
    """The first of these members that is not null."""
    return next((item[name] for name in names if item.get(name) is not None), None)


def _serial(value: object) -> int:
    digits = bounded_text(value, _LONGEST_SERIAL)
    return int(digits) if digits.isascii() and digits.isdigit() else NO_SERIAL


def _documented(value: object) -> Status | None:
    number = integer(value)
    return Status(number) if number in (Status.VALID, Status.REVOKED, Status.EXPIRED) else None


def _milliseconds(value: object) -> int | None:
    """A date in milliseconds since 1970, as a number, as digits, or in ISO 8601 with its offset."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    milliseconds = integer(value)
    if milliseconds is None and isinstance(value, str) and len(value) < 40:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        if at.tzinfo is None:  # of which zone?
            return None
        milliseconds = int(at.timestamp() * 1000)
    if milliseconds is None or not _EARLIEST_MS <= milliseconds < _YEAR_10000_MS:
        return None
    return milliseconds


def pem_of(value: object) -> str:
    """A certificate in PEM, from PEM or from base64; empty if it is something else.

    Escaped line ends, and missing ones, are repaired. PEM that can't be decoded stays as it came.
    """
    cert = bounded_text(value)
    if r"\n" in cert:
        cert = cert.replace(r"\r", "").replace(r"\n", "\n")
    if _BEGIN not in cert:
        return _as_pem(cert)
    repaired = [_as_pem(body) for body in _PEM.findall(cert)]
    return "".join(repaired) if repaired and all(repaired) else cert


def _as_pem(content: str) -> str:
    """PEM from base64; empty if it is not the base64 of an ASN.1 sequence, as certificates are."""
    try:
        der = base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        return ""
    if not der.startswith(b"\x30") or len(der) < _SHORTEST_DER:
        return ""
    lines = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"{_BEGIN}\n{lines}\n{_END}\n"


def _shown(value: object) -> str | None:
    return one_line(value) or None
