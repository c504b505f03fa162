"""Which certificate of a device did a renewal in doubt issue, if any? Pure.

The key of its signing request identifies the new certificate for sure. Where it can't, because
there was no request or `list` does not show the certificates themselves, a serial number that is
new since the first attempt does, unless it may just as well replace another certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

from bulkcert.model import LookupKind
from bulkcert.providers.enos.inventory import Certificate, Listing, Status
from bulkcert.providers.enos.issuance import public_key_of

CLOCKS_APART_MS = 300_000
"""How far apart the provider's own clocks may be, where only time can show what is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known about the certificate that a renewal would have issued.

    Attributes:
        old_serial: serial number of the certificate that is renewed.
        known_before: all serial numbers of the device before the first attempt; None if unknown.
        first_sent_at: when the first attempt was claimed, by the provider's clock: Unix time in s.
        key: the public key that it must have; None if that is not known.
        key_is_unique: no other operation can lead to a certificate with this key.
    """

    old_serial: int
    known_before: list[int] | None
    first_sent_at: float
    key: bytes | None
    key_is_unique: bool


def find_successor(
    listing: Listing, expected: Expected
) -> tuple[LookupKind, str, Certificate | None]:
    """Find the certificate that a renewal issued.

    Returns:
        The kind of the look-up's result, a message, and the certificate if the kind is `HOLDS`.
    """
    old = listing.find(expected.old_serial)
    new, doubt = _candidates(listing, old, expected)
    if not new:
        now = old.status.name.lower() if old else "not there"
        return LookupKind.ABSENT, f"there is no new certificate, the old one is {now}", None
    found = new[0]
    if len(new) > 1:
        doubt = f"{len(new)} certificates are new; it can't be determined which one is ours"
    elif found.status is not Status.VALID:
        doubt = f"the new certificate {found.serial} is {found.status.name.lower()}"
    if doubt:
        return LookupKind.UNCLEAR, doubt, None
    return LookupKind.HOLDS, f"the new certificate {found.serial} was found by list", found


def _candidates(
    listing: Listing, old: Certificate | None, expected: Expected
) -> tuple[list[Certificate], str]:
    """The certificates that the renewal may have issued, and why they may not be its own."""
    known = {expected.old_serial}
    if expected.known_before is not None:
        known = set(expected.known_before)
    unknown = [c for c in listing.certificates if c.serial not in known]
    if expected.key is not None:
        keys = {c.serial: public_key_of(c.pem) if c.pem else None for c in unknown}
        ours = [c for c in unknown if keys[c.serial] == expected.key]
        if ours and expected.key_is_unique:
            return ours, ""
        unknown = [c for c in unknown if c in ours or keys[c.serial] is None]
    new = unknown
    if expected.known_before is None:
        since_ms = expected.first_sent_at * 1000 - CLOCKS_APART_MS
        new = [c for c in unknown if c.issued_ms is None or c.issued_ms >= since_ms]
    others = [c for c in listing.certificates if c is not old and c not in new]
    if expected.key is None and old is not None:
        # A renewal without a signing request keeps the subject.
        foreign = {c.subject for c in others} - {old.subject}
        new = [c for c in new if c.subject not in foreign]
        others = [c for c in others if c.subject == old.subject]
    return new, _rivalry(old, others) if new else ""


def _rivalry(old: Certificate | None, others: list[Certificate]) -> str:
    """Why a new certificate may just as well replace one of the others; empty if it can't."""
    if old is not None and _superseded(old):
        return ""
    for other in others:
        # A revoked one may have been rotated a moment ago; an expired one is not renewed.
        if other.status is not Status.EXPIRED:
            return f"the new certificate may just as well replace certificate {other.serial}"
    return ""


def _superseded(certificate: Certificate) -> bool:
    """Whether a certificate was revoked because another one replaces it."""
    reason = certificate.revoker_reason.upper()
    return certificate.status is Status.REVOKED and "SUPERSEDED" in reason
