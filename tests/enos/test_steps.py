"""The steps of `renew` and `rotate` with a scripted certificate service. Nothing is sent.

A step must cope with whatever `list` shows: also with the old or the new certificate absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bulkcert.keys import KeyMaker
from bulkcert.keyspec import Subject
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Fields,
    LookupKind,
    LookupResult,
    Operation,
)
from bulkcert.providers.call import CallKind, CallResult, OnDeparture
from bulkcert.providers.enos.certificate_folder import CertificateFolder
from bulkcert.providers.enos.inventory import Listing, Status, read_certificates
from bulkcert.providers.enos.renewal import Renewal, Subjects
from bulkcert.providers.enos.rotation import CheckedRenewal, OldRevocation
from bulkcert.providers.enos.service import CertificateService

OLD, NEW = 1000, 2000
VALID, REVOKED, EXPIRED = Status.VALID, Status.REVOKED, Status.EXPIRED
HELD = "held, the old certificate is not revoked: "
SENT_AT_S = 1_795_000_000.0
STEP_DATA = {"certSN": str(NEW), "certificate_file": "certificates/A0+1000.pem"}

Listed = Listing | LookupResult
FAILURE = LookupResult(LookupKind.FAILED, 99500, "lost", "R")


def item(serial: int, status: Status = VALID, **changes: Any) -> dict[str, Any]:
    """One certificate as `list` returns it."""
    names = {"certSN": str(serial), "certStatus": int(status), "subject": f"CN=device-{serial}"}
    return names | {"signDate": int(SENT_AT_S * 1000)} | changes


def listing(*items: dict[str, Any]) -> Listing:
    """A response to `list`."""
    return Listing(read_certificates(list(items)), CallResult(CallKind.OK, 0, "OK", "R"))


class ScriptedService(CertificateService):
    """Stands for the certificate service: one listing, and one response to everything else."""

    def __init__(self, listed: Listed = FAILURE, call: CallResult | None = None) -> None:
        self._listed, self._call = listed, call

    def fields(self, operation: Operation) -> dict[str, Any]:
        return operation.fields

    async def listing(self, operation: Operation, on_departure: OnDeparture) -> Listed:
        return self._listed

    async def revoke(self, operation: Operation, on_departure: OnDeparture) -> CallResult:
        assert self._call
        return self._call

    async def renew(self, fields: Fields, on_departure: OnDeparture) -> CallResult:
        assert self._call
        return self._call


def operation(step_data: Any = None) -> Operation:
    """An operation on the old certificate, sent a while ago."""
    fields: dict[str, Any] = {"assetId": "A0", "certSn": OLD}
    return Operation(1, 1, fields, step_data=step_data, first_sent_at=SENT_AT_S)


def departed() -> None:
    """Nobody wants to know."""


# ---- the subject of the old certificate


async def test_the_subject_of_the_old_certificate_is_found() -> None:
    step = Subjects(ScriptedService(listing(item(3000), item(OLD), item(NEW))))
    result = await step.look_up(operation(), departed)
    assert (result.kind, result.message, result.code) == (LookupKind.HOLDS, "", 0)
    assert result.result == {"subject": "CN=device-1000", "known": [3000, OLD, NEW]}


@pytest.mark.parametrize("others", [[], [item(NEW)]])
async def test_without_the_old_certificate_there_is_nothing_to_renew(
    others: Sequence[dict[str, Any]],
) -> None:
    result = await Subjects(ScriptedService(listing(*others))).look_up(operation(), departed)
    assert (result.kind, result.result) == (LookupKind.REFUSED, None)
    assert result.message == "the device has no such certificate"


async def test_a_failed_look_up_of_the_subject_stays_one() -> None:
    assert await Subjects(ScriptedService()).look_up(operation(), departed) is FAILURE


# ---- a renewal


@pytest.mark.parametrize("data", [None, {}, {"certSN": "7"}, {"cert": "PEM"}, [], "7"])
async def test_a_success_without_a_certificate_is_in_doubt(data: Any, tmp_path: Path) -> None:
    setup: Any = SimpleNamespace(keys=None, selection={})
    service = ScriptedService(call=CallResult(CallKind.OK, 0, "OK", "R", data))
    step = Renewal(service, setup, None, CertificateFolder(tmp_path))
    result = await step.attempt(operation(), departed)
    assert result == AttemptResult(
        AttemptKind.IN_DOUBT, 0, "the response says OK, but contains no certificate", "R"
    )


class UnusableSubject(KeyMaker):
    """Stands for a maker of keys to which the subject of the old certificate is of no use."""

    async def signing_request(self, name: str, subject: Subject) -> str:
        raise AssertionError("the subject can't be parsed")


async def test_a_new_certificate_whose_request_can_not_be_made_again_settles_nothing(
    tmp_path: Path,
) -> None:
    setup: Any = SimpleNamespace(keys=SimpleNamespace(subject=""), selection={})
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    service = ScriptedService(listing(item(OLD), item(NEW, cert=pem)))
    keys = UnusableSubject("ecdsa-p256", tmp_path)
    step = Renewal(service, setup, keys, CertificateFolder(tmp_path))
    in_doubt = operation({"subject": "not a name", "known": [OLD]})
    result = await step.look_up(in_doubt, departed)
    assert result.kind is LookupKind.UNCLEAR
    assert "was found by list, but can't be checked: the subject " in result.message


# ---- a renewal in doubt


def renewal(listed: Listed, folder: Path) -> Renewal:
    """The step of `renew` for a target without a signing request."""
    setup: Any = SimpleNamespace(keys=None, selection={})
    return Renewal(ScriptedService(listed), setup, None, CertificateFolder(folder))


NOTHING_NEW = "there is no new certificate, the old one is "
FOUND = f"the new certificate {NEW} was found by list, which does not show the certificate itself"
DEVICE = {
    "only the old one": ([item(OLD)], LookupKind.ABSENT, f"{NOTHING_NEW}valid"),
    "the old one, expired": ([item(OLD, EXPIRED)], LookupKind.ABSENT, f"{NOTHING_NEW}expired"),
    "none": ([], LookupKind.ABSENT, f"{NOTHING_NEW}not there"),
    "both": ([item(OLD), item(NEW)], LookupKind.HOLDS, FOUND),
    "the new one without a date": (
        [item(OLD), item(NEW, signDate=None)],
        LookupKind.HOLDS,
        FOUND,
    ),
    "only the new one": ([item(NEW)], LookupKind.HOLDS, FOUND),
    "only the new one, revoked": (
        [item(NEW, REVOKED)],
        LookupKind.UNCLEAR,
        f"the new certificate {NEW} is revoked",
    ),
    "only an earlier one": (
        [item(9, signDate=10**12)],
        LookupKind.ABSENT,
        f"{NOTHING_NEW}not there",
    ),
    "the new one and an earlier one": (
        [item(9, signDate=10**12), item(NEW)],
        LookupKind.UNCLEAR,
        "the new certificate may just as well replace certificate 9",
    ),
    "the new one and an earlier one, expired": (
        [item(9, EXPIRED, signDate=10**12), item(NEW)],
        LookupKind.HOLDS,
        FOUND,
    ),
}


@pytest.mark.parametrize(("listed", "kind", "message"), DEVICE.values(), ids=DEVICE)
async def test_a_renewal_in_doubt(
    tmp_path: Path, listed: list[dict[str, Any]], kind: LookupKind, message: str
) -> None:
    step = renewal(listing(*listed), tmp_path)
    result = await step.look_up(operation(), departed)
    assert (result.kind, result.message) == (kind, message)
    expected = {"certSN": str(NEW), "replaces": str(OLD)} if kind is LookupKind.HOLDS else None
    assert result.result == expected
    assert (result.code, result.request_id) == (0, "R")


@pytest.mark.parametrize(("listed", "kind", "message"), DEVICE.values(), ids=DEVICE)
async def test_a_rotation_does_not_go_on_with_what_it_could_not_check(
    tmp_path: Path, listed: list[dict[str, Any]], kind: LookupKind, message: str
) -> None:
    """Where `renew` would be done, `rotate` holds the old certificate."""
    step = CheckedRenewal(renewal(listing(*listed), tmp_path))
    result = await step.look_up(operation(), departed)
    if kind is LookupKind.HOLDS:
        kind, message = LookupKind.UNCLEAR, f"{message}, so it can't be checked"
    assert (result.kind, result.message) == (kind, HELD + message)


@pytest.mark.parametrize(
    ("known", "kind"), [([OLD, NEW], LookupKind.ABSENT), ([OLD], LookupKind.HOLDS)]
)
async def test_serial_numbers_known_before_decide_what_is_new(
    tmp_path: Path, known: list[int], kind: LookupKind
) -> None:
    step = renewal(listing(item(NEW, signDate=10**12)), tmp_path)
    result = await step.look_up(operation({"known": known, "subject": "CN=A0"}), departed)
    assert result.kind is kind


async def test_a_failed_look_up_of_the_new_certificate_stays_one(tmp_path: Path) -> None:
    assert await renewal(FAILURE, tmp_path).look_up(operation(), departed) is FAILURE
    step = CheckedRenewal(renewal(FAILURE, tmp_path))
    assert await step.look_up(operation(), departed) is FAILURE


# ---- a rotation's renewal, checked


class ScriptedRenewal(Renewal):
    """Stands for the renewal: every attempt and every look-up has the same result."""

    def __init__(self, attempt: AttemptResult, look_up: LookupResult) -> None:
        self._results = attempt, look_up

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        return self._results[0]

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        return self._results[1]


def checked(attempt: AttemptKind, look_up: LookupKind, result: Any = None) -> CheckedRenewal:
    """The first step of `rotate` over a renewal with these results."""
    return CheckedRenewal(
        ScriptedRenewal(
            AttemptResult(attempt, 7, "said", "R", result),
            LookupResult(look_up, 7, "said", "R", result),
        )
    )


@pytest.mark.parametrize("kind", AttemptKind)
async def test_an_attempt_without_a_good_certificate_says_that_the_old_one_is_held(
    kind: AttemptKind,
) -> None:
    step = checked(kind, LookupKind.FAILED, STEP_DATA)
    result = await step.attempt(operation(), departed)
    held = kind in (AttemptKind.REFUSED, AttemptKind.FLAWED)
    message = f"{HELD}said" if held else "said"
    assert result == AttemptResult(kind, 7, message, "R", STEP_DATA)


HELD_AFTER = {LookupKind.REFUSED, LookupKind.FLAWED, LookupKind.ABSENT, LookupKind.UNCLEAR}


@pytest.mark.parametrize("kind", LookupKind)
async def test_a_look_up_without_a_good_certificate_says_that_the_old_one_is_held(
    kind: LookupKind,
) -> None:
    step = checked(AttemptKind.DONE, kind, STEP_DATA)
    result = await step.look_up(operation(), departed)
    message = f"{HELD}said" if kind in HELD_AFTER else "said"
    assert result == LookupResult(kind, 7, message, "R", STEP_DATA)


@pytest.mark.parametrize("file", [{}, {"certificate_file": ""}])
async def test_a_certificate_without_a_file_was_not_checked(file: dict[str, str]) -> None:
    step = checked(AttemptKind.DONE, LookupKind.HOLDS, {"certSN": "2000"} | file)
    result = await step.look_up(operation(), departed)
    assert result.kind is LookupKind.UNCLEAR
    assert result.message == f"{HELD}said, so it can't be checked"


# ---- the revocation of the old certificate

OLD_ONE = {
    "both valid": ([item(OLD), item(NEW)], LookupKind.ABSENT, "the certificate is still valid"),
    "the old one revoked": (
        [item(OLD, REVOKED), item(NEW)],
        LookupKind.HOLDS,
        "the certificate is revoked",
    ),
    "the old one superseded": (
        [item(OLD, REVOKED, revokerReason="SUPERSEDED"), item(NEW)],
        LookupKind.HOLDS,
        "the certificate is revoked (SUPERSEDED)",
    ),
    "the old one revoked in other words": (
        [item(OLD, REVOKED, revokerReason="replaced by renewal"), item(NEW)],
        LookupKind.HOLDS,
        "the certificate is revoked (replaced by renewal)",
    ),
    "the old one expired": (
        [item(OLD, EXPIRED), item(NEW)],
        LookupKind.ABSENT,
        "the certificate is not revoked but has expired",
    ),
    "the old one absent": (
        [item(NEW)],
        LookupKind.UNCLEAR,
        "the device has no such certificate",
    ),
    "the new one revoked": (
        [item(OLD), item(NEW, REVOKED)],
        LookupKind.REFUSED,
        f"{HELD}the new one, {NEW}, is revoked itself",
    ),
    "the new one expired": (
        [item(OLD), item(NEW, EXPIRED)],
        LookupKind.REFUSED,
        f"{HELD}the new one, {NEW}, is expired itself",
    ),
    "the new one revoked, the old one too": (
        [item(OLD, REVOKED), item(NEW, REVOKED)],
        LookupKind.FLAWED,
        f"the certificate is revoked, but the new one, {NEW}, is revoked too",
    ),
    "the new one revoked, the old one absent": (
        [item(NEW, REVOKED)],
        LookupKind.REFUSED,
        f"{HELD}the new one, {NEW}, is revoked itself",
    ),
    # The new certificate was checked on paper before; `list` may show it later than others.
    "the new one absent": ([item(OLD)], LookupKind.ABSENT, "the certificate is still valid"),
    "the new one absent, the old one revoked": (
        [item(OLD, REVOKED)],
        LookupKind.HOLDS,
        "the certificate is revoked",
    ),
    "both absent": ([], LookupKind.UNCLEAR, "the device has no such certificate"),
    "only another one": (
        [item(9, REVOKED)],
        LookupKind.UNCLEAR,
        "the device has no such certificate",
    ),
}


@pytest.mark.parametrize(("listed", "kind", "message"), OLD_ONE.values(), ids=OLD_ONE)
async def test_the_old_certificate_is_looked_up_beside_the_new_one(
    listed: list[dict[str, Any]], kind: LookupKind, message: str
) -> None:
    step = OldRevocation(ScriptedService(listing(*listed)))
    result = await step.look_up(operation(STEP_DATA), departed)
    assert result == LookupResult(kind, 0, message, "R", STEP_DATA)


async def test_a_failed_look_up_of_the_old_certificate_keeps_the_new_one() -> None:
    step = OldRevocation(ScriptedService(FAILURE))
    result = await step.look_up(operation(STEP_DATA), departed)
    assert result == FAILURE._replace(result=STEP_DATA)


@pytest.mark.parametrize("kind", [CallKind.OK, CallKind.IN_DOUBT, CallKind.DISPUTED])
async def test_an_attempt_to_revoke_keeps_the_new_certificate(kind: CallKind) -> None:
    call = CallResult(kind, 0, "said", "R")
    step = OldRevocation(ScriptedService(call=call))
    result = await step.attempt(operation(STEP_DATA), departed)
    assert result == call.as_attempt(STEP_DATA)
    assert result.result == STEP_DATA
