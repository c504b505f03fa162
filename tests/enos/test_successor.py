"""Which certificate a renewal in doubt issued, by what `list` shows: listings in, verdicts out.

Each case names what the device has besides, or instead of, the certificate that is renewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from enos_vendor import signed_certificate

from bulkcert.model import LookupKind
from bulkcert.providers.call import CallKind, CallResult
from bulkcert.providers.enos.inventory import Certificate, Listing, Status
from bulkcert.providers.enos.successor import Baseline, Expected, find_successor, surplus_of

SENT_AT_S = 1_795_000_000.0
SENT_AT_MS = int(SENT_AT_S * 1000)
FIVE_MINUTES_MS = 300_000
"""By as much the provider's clocks may differ."""
SENT_UNTIL_MS = SENT_AT_MS + 60_000

OUR_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

HOLDS, ABSENT, UNCLEAR = LookupKind.HOLDS, LookupKind.ABSENT, LookupKind.UNCLEAR


OUR_PEM, OTHER_PEM = signed_certificate(OUR_KEY), signed_certificate(OTHER_KEY)
UNREADABLE_PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = OUR_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(serial: int, **changes: Any) -> Certificate:
    """A valid certificate, issued long before the renewal, that `list` names but does not show."""
    values: dict[str, Any] = {
        "serial": serial,
        "status": Status.VALID,
        "issuer": "CN=CA",
        "subject": "CN=A0",
        "issued_ms": SENT_AT_MS - 10 * FIVE_MINUTES_MS,
        "effective_ms": None,
        "expires_ms": None,
        "revoker": "",
        "revoker_reason": "",
        "issue_authority": "RSA",
        "pem": "",
    }
    return Certificate(**values | changes)


def old(status: Status = Status.VALID, reason: str = "") -> Certificate:
    """The certificate that is renewed."""
    return certificate(1, status=status, revoker_reason=reason)


def new(serial: int = 2, **changes: Any) -> Certificate:
    """A certificate that was issued after the renewal was sent."""
    return certificate(serial, **{"issued_ms": SENT_AT_MS} | changes)


def other(**changes: Any) -> Certificate:
    """Another certificate of the device, which was there before."""
    return certificate(9, **changes)


REVOKED, EXPIRED = {"status": Status.REVOKED}, {"status": Status.EXPIRED}


class Case(NamedTuple):
    """A listing with what is known of the renewal, and what follows from them."""

    listed: list[Certificate]
    kind: LookupKind
    message: str
    serial: int | None = None
    known: Sequence[int] = (1, 8, 9)
    surplus: tuple[int, ...] = ()
    key: bytes | None = None
    unique: bool = False


def found(*listed: Certificate, serial: int = 2, **known: Any) -> Case:
    """A case in which the new certificate is recognised."""
    message = f"the new certificate {serial} was found by list"
    return Case(list(listed), HOLDS, message, serial, **known)


def none(*listed: Certificate, old_one: str = "valid", **known: Any) -> Case:
    """A case without any new certificate."""
    message = f"there is no new certificate, the old one is {old_one}"
    return Case(list(listed), ABSENT, message, **known)


def unclear(*listed: Certificate, message: str, **known: Any) -> Case:
    """A case that can't be decided."""
    return Case(list(listed), UNCLEAR, message, **known)


def rivals(*listed: Certificate, **known: Any) -> Case:
    """A case in which the new certificate may just as well replace the other one."""
    message = "the new certificate may just as well replace certificate 9"
    return unclear(*listed, message=message, **known)


TWO = "2 certificates are new; it can't be determined which one is ours"
OURS: dict[str, Any] = {"key": KEY, "unique": True}
SHARED: dict[str, Any] = {"key": KEY, "unique": False}

NEITHER = "neither the old certificate nor a new one is in the device's list"
REPLACED = "the old certificate was replaced, but its successor is not in the list"
NOTHING_NEW = {
    "the old one is valid": none(old()),
    "the old one is revoked": none(old(Status.REVOKED), old_one="revoked"),
    "the old one was superseded": unclear(old(Status.REVOKED, "SUPERSEDED"), message=REPLACED),
    "the old one has expired": none(old(Status.EXPIRED), old_one="expired"),
    "the old one is absent": unclear(message=NEITHER),
    "the old one is absent, another is there": unclear(other(), message=NEITHER),
    "another was there before": none(old(), other()),
    "it was there before": none(old(), new(), known=[1, 2]),
}

OTHER_TIME = "certificate 2 is new, but was not issued at the time of the renewal"
NO_TIME = "certificate 2 is new, but the list does not show when it was issued"
BY_TIME = {
    "issued as the renewal was sent": found(old(), new()),
    "five minutes before": found(old(), new(issued_ms=SENT_AT_MS - FIVE_MINUTES_MS)),
    "a moment earlier than that": unclear(
        old(), new(issued_ms=SENT_AT_MS - FIVE_MINUTES_MS - 1), message=OTHER_TIME
    ),
    "five minutes after": found(old(), new(issued_ms=SENT_UNTIL_MS + FIVE_MINUTES_MS)),
    "a moment later than that": unclear(
        old(), new(issued_ms=SENT_UNTIL_MS + FIVE_MINUTES_MS + 1), message=OTHER_TIME
    ),
    "without a date of issue": unclear(old(), new(issued_ms=None), message=NO_TIME),
    "two without a date of issue": unclear(
        old(), new(issued_ms=None), new(3, issued_ms=None), message=TWO
    ),
    "two": unclear(old(), new(), new(3), message=TWO),
    "three": unclear(old(), new(), new(3), new(4), message=TWO.replace("2", "3", 1)),
    "two, one of them revoked": unclear(old(), new(**REVOKED), new(3), message=TWO),
    "revoked": unclear(old(), new(**REVOKED), message="the new certificate 2 is revoked"),
    "expired": unclear(old(), new(**EXPIRED), message="the new certificate 2 is expired"),
    "the old one is absent": found(new()),
    "the old one is absent, the new one revoked": unclear(
        new(**REVOKED), message="the new certificate 2 is revoked"
    ),
    "the old one is absent, two are new": unclear(new(), new(3), message=TWO),
}

RIVALS = {
    "another is valid": rivals(old(), other(), new()),
    "another is revoked": rivals(old(), other(**REVOKED), new()),
    "another has expired": found(old(), other(**EXPIRED), new()),
    "others have expired, one has not": rivals(old(), certificate(8, **EXPIRED), other(), new()),
    "the old one is absent, another is valid": rivals(other(), new()),
    "the old one is absent, another is revoked": rivals(other(**REVOKED), new()),
    "the old one is absent, another has expired": found(other(**EXPIRED), new()),
    "the old one is absent, another has another subject": rivals(other(subject="CN=B"), new()),
    "superseded": found(old(Status.REVOKED, "SUPERSEDED"), other(), new()),
    "superseded, in other words": found(
        old(Status.REVOKED, "certificate superseded by its renewal"), other(), new()
    ),
    "revoked for another reason": rivals(old(Status.REVOKED, "KEY COMPROMISE"), other(), new()),
    "revoked without a reason": rivals(old(Status.REVOKED), other(), new()),
    "a reason without a revocation": rivals(old(Status.VALID, "SUPERSEDED"), other(), new()),
    "expired after it was superseded": rivals(old(Status.EXPIRED, "SUPERSEDED"), other(), new()),
}

BY_SUBJECT = {
    "the other has another subject": found(old(), other(subject="CN=B"), new()),
    "the new one has the other's subject": none(old(), other(subject="CN=B"), new(subject="CN=B")),
    "the new one has the other's subject, the old one was superseded": unclear(
        old(Status.REVOKED, "SUPERSEDED"),
        other(subject="CN=B"),
        new(subject="CN=B"),
        message=REPLACED,
    ),
    "one for each": found(old(), other(subject="CN=B"), new(3, subject="CN=B"), new()),
    "nobody's subject": unclear(
        old(),
        other(subject="CN=B"),
        new(subject="CN=C"),
        message="certificate 2 is new, but has another subject than the old one",
    ),
    "a signing request may change the subject": rivals(old(), other(subject="CN=B"), new(), **OURS),
    "a signing request may have the other's subject": rivals(
        old(), other(subject="CN=B"), new(subject="CN=B"), **OURS
    ),
}

BY_KEY = {
    "its key": found(old(), new(pem=OUR_PEM), **OURS),
    "its key, whatever its date": found(old(), new(pem=OUR_PEM, issued_ms=1), **OURS),
    "its key, without a date": found(old(), new(pem=OUR_PEM, issued_ms=None), **OURS),
    "its key beside rivals": found(old(), other(), new(pem=OUR_PEM), **OURS),
    "its key beside one not shown": found(old(), new(3), new(pem=OUR_PEM), surplus=(3,), **OURS),
    "its key, the old one is absent": found(other(), new(pem=OUR_PEM), **OURS),
    "its key, but known before": none(old(), new(pem=OUR_PEM), known=[1, 2], **OURS),
    "its key on the old one only": none(certificate(1, pem=OUR_PEM, issued_ms=SENT_AT_MS), **OURS),
    "its key, revoked": unclear(
        old(), new(pem=OUR_PEM, **REVOKED), message="the new certificate 2 is revoked", **OURS
    ),
    "its key twice": found(
        old(), new(pem=OUR_PEM), new(3, pem=OUR_PEM), serial=3, surplus=(2,), **OURS
    ),
    "its key twice, the later one revoked": found(
        old(), new(pem=OUR_PEM), new(3, pem=OUR_PEM, **REVOKED), **OURS
    ),
    "another key": none(old(), new(pem=OTHER_PEM), **OURS),
    "another key than the old one": unclear(
        certificate(1, pem=OUR_PEM),
        new(pem=OTHER_PEM),
        message="certificate 2 is new, but has another key than the old one",
    ),
    "the key of the old one": found(certificate(1, pem=OUR_PEM), new(pem=OUR_PEM)),
    "no request, only the old key is shown": found(certificate(1, pem=OUR_PEM), new()),
    "no request, only the new key is shown": found(old(), new(pem=OUR_PEM)),
    "another key, the old one is absent": unclear(new(pem=OTHER_PEM), message=NEITHER, **OURS),
    "another key and one not shown": rivals(
        old(), certificate(9, pem=OTHER_PEM, issued_ms=SENT_AT_MS), new(), known=[1], **OURS
    ),
    "not shown": found(old(), new(), **OURS),
    "not shown, there before": none(old(), other(), **OURS),
    "not readable": found(old(), new(pem=UNREADABLE_PEM), **OURS),
    "not shown, beside a rival": rivals(old(), other(), new(), **OURS),
    "a shared key": found(old(), new(pem=OUR_PEM), **SHARED),
    "a shared key, issued before": unclear(
        old(), new(pem=OUR_PEM, issued_ms=1), message=OTHER_TIME, **SHARED
    ),
    "a shared key beside a rival": rivals(old(), other(), new(pem=OUR_PEM), **SHARED),
    "a shared key and one not shown": unclear(
        old(), new(pem=OUR_PEM), new(3), message=TWO, **SHARED
    ),
    "a shared key and another key": rivals(
        old(),
        certificate(9, pem=OTHER_PEM, issued_ms=SENT_AT_MS),
        new(pem=OUR_PEM),
        known=[1],
        **SHARED,
    ),
}

CASES = {
    f"{group}: {name}": case
    for group, cases in {
        "nothing new": NOTHING_NEW,
        "by time": BY_TIME,
        "rivals": RIVALS,
        "by subject": BY_SUBJECT,
        "by key": BY_KEY,
    }.items()
    for name, case in cases.items()
}


def expected(case: Case) -> Expected:
    return Expected(
        old_serial=1,
        before=Baseline(SENT_AT_S, list(case.known), "CN=A0"),
        sent_until=SENT_UNTIL_MS / 1000,
        key=case.key,
        key_is_unique=case.unique,
    )


def shown(*listed: Certificate) -> Listing:
    return Listing(list(listed), CallResult(CallKind.OK, 0))


def verdict(case: Case, listed: list[Certificate]) -> tuple[Any, ...]:
    """What the program makes of a listing."""
    finding = find_successor(shown(*listed), expected(case))
    serial = finding.found.serial if finding.found else None
    return finding.kind, finding.message, serial, finding.surplus


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_successor_is_found_or_the_reason_given(case: Case) -> None:
    assert verdict(case, case.listed) == (case.kind, case.message, case.serial, case.surplus)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_order_of_the_list_does_not_matter(case: Case) -> None:
    assert verdict(case, case.listed[::-1]) == (case.kind, case.message, case.serial, case.surplus)


SURPLUS = {
    "nothing else": ([old(), new()], None, ()),
    "one without a key, in time": ([old(), new(), new(3)], None, (3,)),
    "one without a key, with another subject": ([old(), new(), new(3, subject="CN=B")], None, ()),
    "one without a key, at another time": ([old(), new(), new(3, issued_ms=1)], None, ()),
    "one without a key, without a date": ([old(), new(), new(3, issued_ms=None)], None, ()),
    "one with our key, whatever its date": ([new(), new(3, pem=OUR_PEM, issued_ms=1)], KEY, (3,)),
    "one with another key": ([new(), new(3, pem=OTHER_PEM)], KEY, ()),
    "one that is not shown": ([new(), new(3)], KEY, (3,)),
    "one that is not shown, with another subject": ([new(), new(3, subject="B")], KEY, (3,)),
    "one that is not shown, at another time": ([new(), new(3, issued_ms=1)], KEY, ()),
    "one that is revoked": ([new(), new(3, **REVOKED)], None, ()),
    "one that was there before": ([new(), new(9)], None, ()),
}


@pytest.mark.parametrize(("listed", "key", "surplus"), SURPLUS.values(), ids=SURPLUS)
def test_what_an_earlier_attempt_has_issued_besides_is_surplus(
    listed: list[Certificate], key: bytes | None, surplus: tuple[int, ...]
) -> None:
    case = Case(listed, HOLDS, "", key=key, unique=key is not None)
    assert surplus_of(shown(*listed), expected(case), 2) == surplus
