"""Which certificate of a device did a renewal in doubt issue, if any? Pure.

Before the first attempt the certificates of the device are recorded, see `Baseline`. The key of its
signing request identifies the new certificate for sure. Where it can't, because there was no
request or `list` does not show the certificates themselves, a certificate that is new since then
counts, if it was issued in the time of the renewal and can't replace another one. What is new and
does not meet that may still be ours: then nothing can be said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bulkcert.model import LookupKind
from bulkcert.providers.enos.inventory import Certificate, Listing, Status
from bulkcert.providers.enos.issuance import public_key_of

CLOCKS_APART_S = 300.0
"""How far apart the provider's own clocks may be, where time helps to show what is new."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The certificates of a device before a renewal; durable before the renewal is sent.

    Attributes:
        taken_at: when they were listed, by the provider's clock: Unix time in seconds.
        known: their serial numbers.
        subject: the subject of the certificate that is to be renewed.
        unreadable: how many certificates were listed without a serial number that can be read.
        has_key: a key was made by an attempt before that, which may have been executed after all.
    """

    taken_at: float
    known: list[int]
    subject: str
    unreadable: int = 0
    has_key: bool = False

    def as_step_data(self) -> dict[str, Any]:
        """The baseline as the store keeps it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known about the certificate that a renewal would have issued.

    Attributes:
        old_serial: serial number of the certificate that is renewed.
        before: the certificates of the device before the first attempt.
        sent_until: the last moment at which an attempt may have left, by the provider's clock: Unix
            time in seconds.
        key: the public key that it must have; None if that is not known.
        key_is_unique: no other operation can lead to a certificate with this key.
    """

    old_serial: int
    before: Baseline
    sent_until: float
    key: bytes | None
    key_is_unique: bool

    def new_in(self, listing: Listing) -> list[Certificate]:
        """The certificates that were not there before."""
        return [c for c in listing.certificates if c.serial not in self.before.known]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a listing shows of a renewal.

    Attributes:
        kind: `HOLDS` if the new certificate was found, else `ABSENT` or `UNCLEAR`.
        message: says so.
        found: the new certificate.
        surplus: see `surplus_of`.
    """

    kind: LookupKind
    message: str
    found: Certificate | None = None
    surplus: tuple[int, ...] = ()


def find_successor(listing: Listing, expected: Expected) -> Finding:
    """Find the certificate that a renewal issued."""
    unknown = expected.new_in(listing)
    keys = {c.serial: public_key_of(c.pem) if c.pem else None for c in unknown}
    if expected.key is not None:
        ours = [c for c in unknown if keys[c.serial] == expected.key]
        if ours and expected.key_is_unique:
            return _by_key(newest(ours)[0], listing, expected)
        unknown = [c for c in unknown if c in ours or keys[c.serial] is None]
    old = listing.find(expected.old_serial)
    if not unknown and listing.unreadable > expected.before.unreadable:
        return _unclear("a certificate is new, but its serial number can't be read")
    if not unknown:
        return _none_new(old)
    return _by_elimination(listing, old, unknown, expected)


def superseded(certificate: Certificate) -> bool:
    """Whether a certificate was revoked because another one replaces it."""
    reason = certificate.revoker_reason.upper()
    return certificate.status is Status.REVOKED and "SUPERSEDED" in reason


def newest(certificates: Iterable[Certificate]) -> list[Certificate]:
    """Sort certificates: valid ones first, the latest of them at the beginning."""
    return sorted(
        certificates,
        key=lambda c: (c.status is Status.VALID, c.issued_ms or 0, c.serial),
        reverse=True,
    )


def surplus_of(listing: Listing, expected: Expected, issued: int) -> tuple[int, ...]:
    """Valid certificates that earlier attempts of the renewal have issued besides `issued`, or may
    have issued if nothing shows their keys."""
    return tuple(
        certificate.serial
        for certificate in listing.certificates
        if certificate.serial not in (issued, *expected.before.known)
        and certificate.status is Status.VALID
        and _may_be_ours(certificate, expected)
    )


def _may_be_ours(certificate: Certificate, expected: Expected) -> bool:
    if expected.key is not None and certificate.pem:
        return public_key_of(certificate.pem) == expected.key
    # A renewal without a signing request keeps the subject.
    same_subject = certificate.subject == expected.before.subject
    return (expected.key is not None or same_subject) and _in_time(certificate, expected)


def _by_key(found: Certificate, listing: Listing, expected: Expected) -> Finding:
    if found.status is not Status.VALID:
        return _unclear(f"the new certificate {found.serial} is {found.status.name.lower()}")
    return _holds(found, surplus_of(listing, expected, found.serial))


def _none_new(old: Certificate | None) -> Finding:
    if old is None:
        return _unclear("neither the old certificate nor a new one is in the device's list")
    if superseded(old):
        return _unclear("the old certificate was replaced, but its successor is not in the list")
    now = old.status.name.lower()
    return Finding(LookupKind.ABSENT, f"there is no new certificate, the old one is {now}")


def _by_elimination(
    listing: Listing, old: Certificate | None, unknown: list[Certificate], expected: Expected
) -> Finding:
    """Judge certificates that are new and may be ours, although no key proves it."""
    others = [c for c in listing.certificates if c is not old and c not in unknown]
    if expected.key is None and old is not None:
        # A renewal without a signing request keeps the subject.
        foreign = {c.subject for c in others} - {old.subject}
        unknown = [c for c in unknown if c.subject not in foreign]
        others = [c for c in others if c.subject == old.subject]
        if not unknown:
            return _none_new(old)
    found = unknown[0]
    if len(unknown) > 1:
        count = len(unknown)
        return _unclear(f"{count} certificates are new; it can't be determined which one is ours")
    if found.status is not Status.VALID:
        return _unclear(f"the new certificate {found.serial} is {found.status.name.lower()}")
    if problem := _difference(found, old, expected):
        return _unclear(f"certificate {found.serial} is new, but {problem}")
    if old is None or not superseded(old):
        for other in others:
            # A revoked one may have been rotated a moment ago; an expired one is not renewed.
            if other.status is not Status.EXPIRED:
                return _unclear(
                    f"the new certificate may just as well replace certificate {other.serial}"
                )
    return _holds(found)


def _difference(new: Certificate, old: Certificate | None, expected: Expected) -> str:
    """Why a new certificate may not be the one that was requested; empty if it may well be."""
    if new.issued_ms is None:
        return "the list does not show when it was issued"
    if not _in_time(new, expected):
        return "was not issued at the time of the renewal"
    # A renewal without a signing request keeps subject and key.
    if expected.key is None and old is not None:
        if new.subject != old.subject:
            return "has another subject than the old one"
        if old.pem and new.pem and public_key_of(new.pem) != public_key_of(old.pem):
            return "has another key than the old one"
    return ""


def _in_time(certificate: Certificate, expected: Expected) -> bool:
    if certificate.issued_ms is None:
        return False
    first_s = expected.before.taken_at - CLOCKS_APART_S
    return first_s <= certificate.issued_ms / 1000 <= expected.sent_until + CLOCKS_APART_S


def _holds(found: Certificate, surplus: tuple[int, ...] = ()) -> Finding:
    message = f"the new certificate {found.serial} was found by list"
    return Finding(LookupKind.HOLDS, message, found, surplus)


def _unclear(message: str) -> Finding:
    return Finding(LookupKind.UNCLEAR, message)
