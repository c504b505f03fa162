"""Certificate revocation lists (CRLs): is a certificate that was revoked in the list of its CA?

In: the bytes of a list (PEM or DER), and certificates of CAs. Out: for a revoked certificate,
whether the list has it. A list that may not say what a reader would think is refused: one whose
signature is wrong, that only lists changes (delta), that lists certificates of other CAs
(indirect), or that covers only some certificates or reasons (RFC 5280, 5.2). What can't be compared
is said so, and is never "not in the list". Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from bulkcert.errors import RevocationListError
from bulkcert.providers.base import Revoked

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
_KNOWN_EXTENSIONS = (
    x509.AuthorityKeyIdentifier.oid,
    x509.IssuingDistributionPoint.oid,
)
"""Critical extensions that are understood here; RFC 5280 forbids to go by a list with others."""

_RDN = re.compile(r",\s*(?=[A-Za-z][\w.-]*\s*=|\d+(?:\.\d+)+\s*=)")
_HEX = re.compile(r"(?:0x)?[0-9a-f]+")
_BY_CHANCE = 2**40
"""A number above this is in a list because the certificate is, not by chance."""

_AGREED_CLOCKS_S = 300.0
"""How far the clock of the CA may be ahead of ours."""


class Listing(StrEnum):
    """Whether a list has a certificate."""

    LISTED = "listed"
    NOT_LISTED = "not_listed"
    EXPIRED = "expired"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that was read and checked.

    Attributes:
        source: the path or URL that it is from.
        issuer: name of the CA, as text.
        made_at, next_at: when it was made, and when the next one will have been.
        signed: its signature was checked; if not, the certificate of the CA is not known.
        serials: the serial numbers that it has.
        doubts: why it proves nothing, as sentences; none if it does.
    """

    source: str
    issuer: str
    made_at: datetime
    next_at: datetime | None
    signed: bool
    serials: frozenset[int]
    doubts: tuple[str, ...]
    attributes: frozenset[tuple[str, int]]

    def as_object(self) -> dict[str, Any]:
        """What `verify --json` says of it."""
        return {
            "source": self.source,
            "issuer": self.issuer,
            "this_update": _utc(self.made_at),
            "next_update": self.next_at and _utc(self.next_at),
            "entries": len(self.serials),
            "signature": "good" if self.signed else "not_checked",
            "doubts": list(self.doubts),
        }


def read(
    content: bytes, source: str, authorities: Iterable[x509.Certificate], now: datetime
) -> RevocationList:
    """Read a list and check it.

    Args:
        content: the list, in PEM or DER.
        source: where it is from, for messages.
        authorities: certificates among which that of its CA may be; they are trusted.
        now: the time.

    Raises:
        RevocationListError: it can't be used.
    """
    crl = _parsed(content, source)
    _refuse_partial(crl, source)
    signed = _check_signature(crl, source, authorities)
    doubts = []
    if not signed:
        doubts.append(
            f"the signature of {source} can't be checked: the certificate of its CA, "
            f"{_text(crl.issuer)}, is not known. Name it with --crl-issuer"
        )
    made_at, next_at = crl.last_update_utc, crl.next_update_utc
    if (made_at - now).total_seconds() > _AGREED_CLOCKS_S:
        doubts.append(f"{source} is from the future: {_utc(made_at)}")
    if next_at is not None and next_at < now:
        doubts.append(f"{source} has expired: the next list was due at {_utc(next_at)}")
    try:
        serials = frozenset(entry.serial_number for entry in crl)
    except _UNREADABLE as error:
        raise _unusable(source, f"its entries can't be read ({error})") from None
    return RevocationList(
        source,
        _text(crl.issuer),
        made_at,
        next_at,
        signed,
        serials,
        tuple(doubts),
        _attributes(crl.issuer),
    )


def look_up(lists: Sequence[RevocationList], revoked: Revoked) -> tuple[Listing, str]:
    """Look for a revoked certificate in the lists.

    Returns:
        Whether one of them has it; and if not, what to say of it, as a clause.
    """
    readings, issuer, expires_at = _described(revoked)
    own = [each for each in lists if issuer is None or each.attributes == issuer]
    if not own:
        return (
            Listing.NOT_COMPARED,
            f"none of the lists is of its CA, {revoked.issuer or 'whose name is not known'}",
        )
    if not readings:
        return (
            Listing.NOT_COMPARED,
            f"its serial number {revoked.serial!r} can't be read as a number",
        )
    found = [number for number in readings if any(number in each.serials for each in own)]
    if len(found) == len(readings) or any(number > _BY_CHANCE for number in found):
        return Listing.LISTED, ""
    if found:
        return (
            Listing.NOT_COMPARED,
            f"its serial number {revoked.serial} may be decimal or hexadecimal, and the list has"
            " only one of the two",
        )
    newest = max(own, key=lambda each: each.made_at)
    if expires_at is not None and expires_at <= newest.made_at:
        return Listing.EXPIRED, ""  # a CA may leave out what has expired: RFC 5280, 3.3
    when = f"of {_utc(newest.made_at)}"
    if newest.made_at.timestamp() < revoked.at_s:
        return (
            Listing.NOT_LISTED,
            f"not in the revocation list of its CA yet: the list {when} is older",
        )
    return Listing.NOT_LISTED, f"not in the revocation list of its CA {when}"


def certificates(content: bytes) -> list[x509.Certificate]:
    """All certificates in PEM text, or the one in DER; none if they can't be read."""
    try:
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_certificates(content)
        return [x509.load_der_x509_certificate(content)]
    except _UNREADABLE:
        return []


def _parsed(content: bytes, source: str) -> x509.CertificateRevocationList:
    try:
        if b"-----BEGIN" in content[:4096]:
            return x509.load_pem_x509_crl(content)
        return x509.load_der_x509_crl(content)
    except _UNREADABLE:
        raise _unusable(source, "it is not a certificate revocation list, in PEM or DER") from None


def _refuse_partial(crl: x509.CertificateRevocationList, source: str) -> None:
    try:
        extensions = list(crl.extensions)
    except _UNREADABLE as error:
        raise _unusable(source, f"its extensions can't be read ({error})") from None
    for extension in extensions:
        if extension.oid == x509.DeltaCRLIndicator.oid:
            raise _unusable(
                source,
                "it is a delta list, which has only the changes since another list; these are not"
                " supported",
            )
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            point = extension.value
            if point.indirect_crl:
                raise _unusable(
                    source,
                    "it is an indirect list, with certificates of several CAs; these are not"
                    " supported",
                )
            if (
                point.only_contains_ca_certs
                or point.only_contains_attribute_certs
                or point.only_some_reasons
            ):
                raise _unusable(
                    source,
                    "it is a partial list, which does not have all devices or all reasons; these"
                    " are not supported",
                )
        if extension.critical and extension.oid not in _KNOWN_EXTENSIONS:
            raise _unusable(
                source,
                f"it has a critical extension that is not known ({extension.oid.dotted_string})",
            )


def _check_signature(
    crl: x509.CertificateRevocationList, source: str, authorities: Iterable[x509.Certificate]
) -> bool:
    """Whether the signature is good; False if the certificate of the CA is not there."""
    found = False
    for authority in authorities:
        if _attributes(authority.subject) != _attributes(crl.issuer) or not _may_sign(
            authority, crl
        ):
            continue
        found = True
        try:
            if crl.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
                return True
        except _UNREADABLE:
            continue
    if found:
        raise _unusable(
            source, f"its signature is not that of its CA, {_text(crl.issuer)}; do not trust it"
        )
    return False


def _may_sign(authority: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    """Whether a certificate of the right name may be that of the CA: by its key and its usage."""
    try:
        usage = _extension(authority.extensions, x509.KeyUsage)
        if usage is not None and not usage.crl_sign:
            return False
        wanted = _extension(crl.extensions, x509.AuthorityKeyIdentifier)
        own = _extension(authority.extensions, x509.SubjectKeyIdentifier)
    except _UNREADABLE:
        return True
    if wanted is None or own is None or wanted.key_identifier is None:
        return True
    return bool(wanted.key_identifier == own.digest)


def _extension(extensions: x509.Extensions, kind: Any) -> Any:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _described(
    revoked: Revoked,
) -> tuple[tuple[int, ...], frozenset[tuple[str, int]] | None, datetime | None]:
    """The numbers that a serial number may stand for, its CA and the end of its validity.

    What the certificate itself says comes first: a provider may have a number of its own.
    """
    known = certificates(revoked.pem.encode()) if revoked.pem else []
    if known:
        certificate = known[0]
        return (
            (certificate.serial_number,),
            _attributes(certificate.issuer),
            certificate.not_valid_after_utc,
        )
    issuer = _values(revoked.issuer) if revoked.issuer else None
    expires_at = (
        None if revoked.expires_at_s is None else datetime.fromtimestamp(revoked.expires_at_s, UTC)
    )
    return _readings(revoked.serial), issuer, expires_at


def _readings(serial: int | str) -> tuple[int, ...]:
    """The numbers that a serial number stands for: text may be hexadecimal or decimal."""
    if isinstance(serial, int):
        return (serial,)
    digits = re.sub(r"[:\s-]", "", serial).lower()
    if not _HEX.fullmatch(digits):
        return ()
    numbers = {int(digits, 16)}
    if digits.isdecimal() and ":" not in serial:
        numbers.add(int(digits))
    return tuple(numbers)


def _attributes(name: x509.Name) -> frozenset[tuple[str, int]]:
    """What a name says, whatever the order of its attributes and the names of their types."""
    return frozenset(Counter(str(attribute.value) for attribute in name).items())


def _values(name: str) -> frozenset[tuple[str, int]]:
    """The same of a name that is written as text, such as "CN=EnOS CA, O=EnOS"."""
    values = [part.partition("=")[2].strip() for part in _RDN.split(name)]
    return frozenset(Counter(re.sub(r"\\(.)", r"\1", value) for value in values).items())


def _text(name: x509.Name) -> str:
    return name.rfc4514_string()


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _unusable(source: str, reason: str) -> RevocationListError:
    return RevocationListError(
        f"{source} can't be used: {reason}.", "Name the current, full list of the CA with --crl."
    )
