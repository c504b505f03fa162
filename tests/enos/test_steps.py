"""The steps of `renew` and `rotate` with a scripted certificate service. Nothing is sent.

A step must cope with whatever `list` shows: also with the old or the new certificate absent.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_csr
from enos_vendor import signed_certificate, signing_request

from bulkcert.envelope import Binding, Identity
from bulkcert.keykeeper import KeyKeeper, SharedKeys
from bulkcert.keys import KeyMaker
from bulkcert.keyspec import Subject
from bulkcert.keyworker import respond
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Fields,
    LookupKind,
    LookupResult,
    MaterialKind,
    Operation,
)
from bulkcert.providers.base import SharedMaterial
from bulkcert.providers.call import CallKind, CallResult, OnDeparture
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.enos.certificate_folder import CertificateFolder
from bulkcert.providers.enos.inventory import Listing, Status, read_listing
from bulkcert.providers.enos.renewal import Renewal
from bulkcert.providers.enos.revocation import Revocation
from bulkcert.providers.enos.rotation import CheckedRenewal, OldRevocation
from bulkcert.providers.enos.service import CertificateService

OLD, NEW = 1000, 2000
VALID, REVOKED, EXPIRED = Status.VALID, Status.REVOKED, Status.EXPIRED
NOT_REVOKED = "this run has not revoked the old certificate: "
GOOD = {LookupKind.HOLDS, LookupKind.ABSENT}
"""What a look-up shows where its code, OK, is that of the operation as well."""
SENT_AT_S = 1_795_000_000.0
STEP_DATA = {"certSN": str(NEW), "certificate_file": "certificates/A0+1000.pem"}

Listed = Listing | LookupResult
FAILURE = LookupResult(LookupKind.FAILED, 99500, "lost", "R")


def item(serial: int, status: Status = VALID, **changes: Any) -> dict[str, Any]:
    """One certificate as `list` returns it."""
    names = {"certSN": str(serial), "certStatus": int(status), "subject": "CN=A0"}
    return names | {"signDate": int(SENT_AT_S * 1000)} | changes


def listing(*items: dict[str, Any]) -> Listing:
    """A response to `list`."""
    read = read_listing(CallResult(CallKind.OK, 0, "OK", "R", list(items)))
    assert isinstance(read, Listing)
    return read


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


def operation(step_data: Any = None, **known: Any) -> Operation:
    """An operation on the old certificate."""
    fields: dict[str, Any] = {"assetId": "A0", "certSn": OLD}
    return Operation(1, 1, fields, step_data=step_data, **known)


def in_doubt(*known: int, **more: Any) -> Operation:
    """A renewal that was sent a while ago, by an earlier process."""
    baseline = {"taken_at": SENT_AT_S, "known": [OLD, *known], "subject": "CN=A0"}
    return operation(baseline | more, in_doubt=True, sent_at=SENT_AT_S)


def departed(_source: str = "") -> None:
    """Nobody wants to know."""


DEFAULTS = {
    "keys": None,
    "selection": {},
    "clock": ProviderClock(),
    "pkcs12_password": "",
    "shared": None,
}


def no_keys(**more: Any) -> Any:
    return SimpleNamespace(**DEFAULTS | more)


NOT_LISTED = (
    "The certificate list bound to the device does not have the certificate, or the certificate is"
    " bound to other devices."
)


@pytest.mark.parametrize(
    ("kind", "code", "text", "refusal"),
    [
        (CallKind.DISPUTED, 99400, "original certificate has been revoked", "original_revoked"),
        (CallKind.DISPUTED, 99400, NOT_LISTED, "bound_elsewhere"),  # it was listed just before
        (CallKind.DISPUTED, 99404, "object does not exist", None),
        (CallKind.DISPUTED, 77, "who knows", None),
        (CallKind.REFUSED, 11404, "Device cannot be found", None),
        (CallKind.REFUSED, 11833, "no", "bound_elsewhere"),
    ],
)
async def test_a_disputed_refusal_of_a_renewal_is_looked_up(
    kind: CallKind, code: int, text: str, refusal: str | None, tmp_path: Path
) -> None:
    """As docs/states.md says of every change."""
    step = renewal(listing(item(OLD)), tmp_path, CallResult(kind, code, text, "R"))
    result = await step.attempt(in_doubt(), departed)
    expected = {"refusal": refusal} if refusal else None
    assert result == AttemptResult(AttemptKind[kind.name], code, text, "R", expected)


async def test_a_refusal_of_the_whole_account_says_nothing_of_this_certificate(
    tmp_path: Path,
) -> None:
    text = "original certificate has been revoked"
    call = CallResult(CallKind.REFUSED, 99403, text, "R", account_wide=True)
    result = await renewal(listing(item(OLD)), tmp_path, call).attempt(in_doubt(), departed)
    assert result == AttemptResult(AttemptKind.REFUSED, 99403, text, "R", account_wide=True)


# ---- before a renewal


async def test_what_there_is_before_a_renewal_is_recorded(tmp_path: Path) -> None:
    step = renewal(listing(item(3000), item(OLD), item(NEW)), tmp_path)
    result = await step.look_up(operation(), departed)
    assert (result.kind, result.message, result.code) == (LookupKind.ABSENT, "not renewed yet", 0)
    assert result.result.pop("taken_at") == pytest.approx(time.time(), abs=60)
    assert result.result == {"subject": "CN=A0", "known": [3000, OLD, NEW], "unreadable": 0} | {
        "has_key": False
    }


async def test_what_was_recorded_before_an_earlier_run_is_recorded_anew(tmp_path: Path) -> None:
    """Somebody else may have renewed the certificate in the meantime."""
    planned_again = in_doubt()._replace(in_doubt=False)
    result = await renewal(listing(item(OLD), item(NEW)), tmp_path).look_up(planned_again, departed)
    assert (result.kind, result.result["known"]) == (LookupKind.ABSENT, [OLD, NEW])


async def test_a_list_that_can_not_be_read_whole_proves_nothing(tmp_path: Path) -> None:
    odd = {"certStatus": 0, "certSN": "?"}
    without_old = await renewal(listing(item(NEW), odd), tmp_path).look_up(operation(), departed)
    assert without_old.kind is LookupKind.UNCLEAR
    assert without_old.message.startswith("certificate 1000 is not among the 2 of this device")
    nothing_new = await renewal(listing(item(OLD), odd), tmp_path).look_up(in_doubt(), departed)
    assert (nothing_new.kind, nothing_new.message) == (
        LookupKind.UNCLEAR,
        "a certificate is new, but its serial number can't be read",
    )
    as_before = in_doubt(unreadable=1)
    result = await renewal(listing(item(OLD), odd), tmp_path).look_up(as_before, departed)
    assert result.kind is LookupKind.ABSENT


async def test_a_renewal_that_was_refused_is_looked_up_by_what_was_there_before(
    tmp_path: Path,
) -> None:
    refused = AttemptResult(AttemptKind.DISPUTED, 99400, "no")
    disputed = in_doubt()._replace(in_doubt=False, last_error=refused)
    result = await renewal(listing(item(OLD)), tmp_path).look_up(disputed, departed)
    assert (result.kind, result.result) == (LookupKind.ABSENT, None)


@pytest.mark.parametrize("others", [[], [item(NEW)]])
async def test_without_the_old_certificate_there_is_nothing_to_renew(
    tmp_path: Path, others: Sequence[dict[str, Any]]
) -> None:
    result = await renewal(listing(*others), tmp_path).look_up(operation(), departed)
    assert (result.kind, result.result) == (LookupKind.REFUSED, {"refusal": "not_listed"})
    assert result.message == (
        f"certificate 1000 is not among the {len(others)} of this device: it does not exist, or"
        " belongs to another device"
    )


SUPERSEDED = item(OLD, REVOKED, revokerReason="SUPERSEDED")
NO_SUCCESSOR = {
    "revoked for another reason": [item(OLD, REVOKED), item(NEW)],
    "no other": [SUPERSEDED],
    "the other is revoked": [SUPERSEDED, item(NEW, REVOKED)],
    "the other is older": [SUPERSEDED, item(NEW, signDate=5)],
    "the other has another subject": [SUPERSEDED, item(NEW, subject="CN=B")],
}


async def test_what_another_row_has_renewed_is_already_done(tmp_path: Path) -> None:
    """One certificate may be named in two ways, by assetId and by productKey and deviceKey."""
    step = renewal(listing(SUPERSEDED, item(NEW)), tmp_path)
    result = await step.look_up(operation(), departed)
    assert (result.kind, result.message) == (
        LookupKind.NOTHING_LEFT,
        "the certificate was already replaced by 2000",
    )
    assert result.result == {"certSN": "2000", "replaces": "1000"}


async def test_of_several_successors_the_latest_is_named(tmp_path: Path) -> None:
    later = item(3000, signDate=int(SENT_AT_S * 1000) + 1)
    step = renewal(listing(SUPERSEDED, item(NEW), later, item(9)), tmp_path)
    result = await step.look_up(operation(), departed)
    assert result.message == "the certificate was already replaced by 3000"


@pytest.mark.parametrize("listed", NO_SUCCESSOR.values(), ids=NO_SUCCESSOR)
async def test_without_a_successor_the_renewal_is_sent(
    tmp_path: Path, listed: list[dict[str, Any]]
) -> None:
    result = await renewal(listing(*listed), tmp_path).look_up(operation(), departed)
    assert result.kind is LookupKind.ABSENT


def test_two_organizations_may_use_the_same_names(tmp_path: Path) -> None:
    step = renewal(listing(), tmp_path)
    orgs: list[dict[str, str]] = [{}, {"orgId": "o1"}, {"orgId": "o2"}]
    of_rows = [operation()._replace(fields=operation().fields | org) for org in orgs]
    assert len(set(map(step.file_name, of_rows))) == 3


async def test_a_successor_without_the_key_of_the_request_is_not_what_was_wanted(
    tmp_path: Path,
) -> None:
    with_request = operation()._replace(
        fields={"assetId": "A0", "certSn": OLD, "csr": signing_request("A0")}
    )
    step = renewal(listing(SUPERSEDED, item(NEW)), tmp_path)
    assert (await step.look_up(with_request, departed)).kind is LookupKind.ABSENT


# ---- after a repetition that succeeded


@pytest.mark.parametrize("serials", [[], [3000]])
async def test_the_certificate_of_an_earlier_attempt_is_surplus(
    tmp_path: Path, serials: list[int]
) -> None:
    done = AttemptResult(AttemptKind.DONE, 0, "OK", "R", {"certSN": str(NEW)})
    step = renewal(listing(item(OLD), item(NEW), *map(item, serials)), tmp_path)
    result = await step.look_up(in_doubt()._replace(done=done), departed)
    assert result.kind is LookupKind.HOLDS
    surplus = {"surplus": ["3000"], "remarks": ["surplus"]} if serials else {}
    assert result.result == {"certSN": "2000"} | surplus
    assert result.message == "OK" + bool(serials) * (
        "; new as well, perhaps by an earlier attempt, and surplus: 3000"
    )


# ---- a renewal


@pytest.mark.parametrize("data", [None, {}, {"certSN": "7"}, {"cert": "PEM"}, [], "7"])
async def test_a_success_without_a_certificate_is_in_doubt(data: Any, tmp_path: Path) -> None:
    service = ScriptedService(call=CallResult(CallKind.OK, 0, "OK", "R", data))
    step = Renewal(service, no_keys(), None, CertificateFolder(tmp_path))
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
    setup = no_keys(keys=SimpleNamespace(subject=""))
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    service = ScriptedService(listing(item(OLD), item(NEW, cert=pem)))
    keys = UnusableSubject("ecdsa-p256", tmp_path)
    step = Renewal(service, setup, KeyKeeper(keys), CertificateFolder(tmp_path))
    make_key(keys, step)
    result = await step.look_up(in_doubt(subject="not a name"), departed)
    assert result.kind is LookupKind.UNCLEAR
    assert "was found by list, but can't be checked: the subject " in result.message


# ---- the key of a renewal


class MadeHere(KeyMaker):
    """Makes keys without another process."""

    async def _request(self, name: str, subject: Subject, **sealing: object) -> tuple[str, bytes]:
        order = {"kind": self.kind, "path": str(self.path(name)), "subject": subject.rdns}
        made = respond(order | sealing)
        if "subject" in made:
            raise ValueError(made["subject"])
        return made["request"], base64.b64decode(made.get("sealed", ""))

    async def write_pkcs12(self, name: str, certificates: str, path: Path, **others: Any) -> None:
        await asyncio.to_thread(path.touch)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def make_key(keys: KeyMaker, step: Renewal) -> Path:
    path = keys.path(step.file_name(operation()))
    respond({"kind": "ecdsa-p256", "path": str(path), "subject": []})
    assert path.exists()
    return path


def with_keys(listed: Listed, folder: Path, call: CallResult | None = None) -> Renewal:
    """The step of `renew` for a job with [keys]."""
    setup = no_keys(keys=SimpleNamespace(subject="CN={assetId}"))
    keys = KeyKeeper(MadeHere("ecdsa-p256", folder))
    return Renewal(ScriptedService(listed, call), setup, keys, CertificateFolder(folder))


BASELINE = {"taken_at": SENT_AT_S, "known": [OLD], "subject": "CN=A0", "has_key": False}
REFUSED = CallResult(CallKind.REFUSED, 11404, "no", "R")
DISPUTED = CallResult(CallKind.DISPUTED, 99400, "no", "R")
PAGE = CallResult(CallKind.DISPUTED, 403, "<html>", "R", account_wide=True)
LOST = CallResult(CallKind.IN_DOUBT, None, "time-out", "R")
TURNED_AWAY = CallResult(CallKind.NOT_SENT, 401, "token", "R")
ONLY_OLD = listing(item(OLD))


@pytest.mark.parametrize(
    ("call", "listed", "known", "kept"),
    [
        (REFUSED, ONLY_OLD, {}, False),
        (TURNED_AWAY, ONLY_OLD, {}, False),
        (DISPUTED, ONLY_OLD, {}, False),
        (DISPUTED, listing(SUPERSEDED), {}, True),
        (DISPUTED, FAILURE, {}, True),
        (PAGE, ONLY_OLD, {}, True),
        (LOST, ONLY_OLD, {"in_doubt": True}, True),
        # an attempt before this one may have been executed
        (REFUSED, ONLY_OLD, {"in_doubt": True}, True),
        (DISPUTED, ONLY_OLD, {"in_doubt": True}, True),
        # so may one from before the operation failed and was retried
        (REFUSED, ONLY_OLD, {"step_data": BASELINE | {"has_key": True}}, True),
        (DISPUTED, ONLY_OLD, {"step_data": BASELINE | {"has_key": True}}, True),
    ],
)
async def test_a_key_is_removed_only_if_no_certificate_can_exist_for_it(
    call: CallResult, listed: Listed, known: dict[str, Any], kept: bool, tmp_path: Path
) -> None:
    step = with_keys(listed, tmp_path, call)
    attempted = operation(**{"step_data": BASELINE} | known)
    result = await step.attempt(attempted, departed)
    looked_up = attempted._replace(last_error=result)
    if result.kind is not AttemptKind.REFUSED or attempted.in_doubt:
        await step.look_up(looked_up, departed)
    assert names_in(tmp_path) == (["A0+1000.key.pem"] if kept else [])


async def test_a_request_that_never_leaves_leaves_no_key(tmp_path: Path) -> None:
    class Stopped(ScriptedService):
        async def renew(self, fields: Fields, on_departure: OnDeparture) -> CallResult:
            if leaves:
                on_departure("")
            raise asyncio.CancelledError

    setup = no_keys(keys=SimpleNamespace(subject="CN={assetId}"))
    keys = KeyKeeper(MadeHere("ecdsa-p256", tmp_path))
    step = Renewal(Stopped(), setup, keys, CertificateFolder(tmp_path))
    for leaves in (False, True):
        with pytest.raises(asyncio.CancelledError):
            await step.attempt(operation(BASELINE), departed)
        assert bool(names_in(tmp_path)) == leaves


async def test_an_earlier_key_is_noted_before_the_first_attempt(tmp_path: Path) -> None:
    """It stays, whatever the provider says now; see above."""
    step = with_keys(ONLY_OLD, tmp_path)
    make_key(MadeHere("ecdsa-p256", tmp_path), step)
    assert (await step.look_up(operation(), departed)).result["has_key"]


@pytest.mark.parametrize(
    ("listed", "kind"),
    [(ONLY_OLD, LookupKind.ABSENT), (listing(item(OLD), item(NEW)), LookupKind.UNCLEAR)],
)
async def test_without_its_key_no_new_certificate_is_taken_for_ours(
    listed: Listed, kind: LookupKind, tmp_path: Path
) -> None:
    """The process died before there was a key, or somebody has moved the keys elsewhere."""
    step = with_keys(listed, tmp_path)
    assert (await step.look_up(in_doubt(), departed)).kind is kind


# ---- a key in the shared store


OPERATOR = X25519PrivateKey.generate()
OPERATOR_PEM = OPERATOR.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
IDENTITY = Identity(OPERATOR.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
RUN = "1" * 32


def on_a_host(
    listed: Listed,
    folder: Path,
    call: CallResult | None = None,
    password: str = "",
) -> Renewal:
    """The step of `renew` on a host, for a job with [keys] and a shared store."""
    shared = SharedMaterial(run=RUN, operator=OPERATOR_PEM.decode())
    template = SimpleNamespace(subject="CN={assetId}")
    setup = no_keys(keys=template, shared=shared, pkcs12_password=password)
    keeper = SharedKeys(MadeHere("ecdsa-p256", folder), shared.run, shared.operator)
    return Renewal(ScriptedService(listed, call), setup, keeper, CertificateFolder(folder))


async def prepared(folder: Path) -> tuple[Operation, Any]:
    """An operation as it is when a host has prepared its key in this folder; and the key."""
    await asyncio.to_thread(folder.mkdir)
    result = await on_a_host(ONLY_OLD, folder).look_up(operation(), departed)
    assert result.kind is LookupKind.ABSENT
    key, csr = result.material
    assert (key.name, csr.name) == ("A0+1000", "A0+1000")
    assert [m[:3] for m in (key, csr)] == [(1, 1, MaterialKind.KEY), (1, 1, MaterialKind.CSR)]
    opened = IDENTITY.open(key.content, Binding(RUN, key.operation_id, key.attempt, key.kind))
    assert opened == (folder / "A0+1000.key.pem").read_bytes()
    prepared = operation(result.result, csr=csr.content.decode())
    return prepared, load_pem_private_key(opened, None)


def issued_for(key: Any) -> Listing:
    return listing(item(OLD), item(52725, cert=signed_certificate(key)))


async def test_a_key_is_made_for_the_store_before_the_first_attempt_and_once(
    tmp_path: Path,
) -> None:
    sent, key = await prepared(tmp_path / "a")
    csr = load_pem_x509_csr(sent.csr.encode() if sent.csr else b"")
    assert csr.public_key() == key.public_key()
    for _ in range(2):  # on this host or another one
        (tmp_path / "b").mkdir(exist_ok=True)
        other = on_a_host(ONLY_OLD, tmp_path / "b")
        for again in (sent, sent._replace(in_doubt=True, attempts=1)):
            result = await other.look_up(again, departed)
            assert (result.kind, result.material) == (LookupKind.ABSENT, ())
    assert names_in(tmp_path / "b") == []


@pytest.mark.parametrize("call", [REFUSED, TURNED_AWAY, DISPUTED, LOST])
async def test_a_shared_key_stays_and_its_request_is_sent_again(
    call: CallResult, tmp_path: Path
) -> None:
    sent, _ = await prepared(tmp_path / "a")
    requests = []

    class Service(ScriptedService):
        async def renew(self, fields: Fields, on_departure: OnDeparture) -> CallResult:
            requests.append(fields["csr"])
            return call

    for host in ("a", "b"):
        step = on_a_host(ONLY_OLD, tmp_path / host, call)
        step._service = Service(ONLY_OLD)
        await step.attempt(sent, departed)
    assert requests == [sent.csr, sent.csr]
    assert names_in(tmp_path / "a") == ["A0+1000.key.pem"]


async def test_a_subject_that_can_not_be_requested_fails_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    long_name = operation()._replace(fields={"assetId": "x" * 65, "certSn": OLD})
    result = await on_a_host(ONLY_OLD, tmp_path).look_up(long_name, departed)
    assert result.kind is LookupKind.REFUSED
    assert result.message.startswith("no signing request can be made: the subject has CN=xx")


@pytest.mark.parametrize("host", ["a", "b"])
async def test_another_host_finds_the_certificate_without_the_private_key(
    host: str, tmp_path: Path
) -> None:
    sent, key = await prepared(tmp_path / "a")
    (tmp_path / "b").mkdir(exist_ok=True)
    in_flight = sent._replace(in_doubt=True, sent_at=time.time(), attempts=1)
    step = on_a_host(issued_for(key), tmp_path / host, password="p")
    result = await step.look_up(in_flight, departed)
    assert result.kind is LookupKind.HOLDS
    assert result.result["key_file"] == f"{host}/A0+1000.52725.key.pem"
    [certificate] = result.material
    assert certificate[:4] == (1, 1, MaterialKind.CERTIFICATE, "A0+1000.52725")
    assert load_pem_x509_certificate(certificate.content).public_key() == key.public_key()
    made_here = {"A0+1000.52725.key.pem", "A0+1000.52725.p12"} & {*names_in(tmp_path / host)}
    assert (len(made_here), "p12_file" in result.result) == (
        (2, True) if host == "a" else (0, False)
    )
    other = on_a_host(issued_for(None), tmp_path / host)
    assert (await other.look_up(in_flight, departed)).kind is LookupKind.ABSENT


async def test_a_file_with_another_key_is_not_named_after_the_certificate(tmp_path: Path) -> None:
    sent, key = await prepared(tmp_path / "a")
    await prepared(tmp_path / "b")  # it was not the owner of the operation any more
    in_flight = sent._replace(in_doubt=True, sent_at=time.time(), attempts=1)
    await on_a_host(issued_for(key), tmp_path / "b").look_up(in_flight, departed)
    assert not [name for name in names_in(tmp_path / "b") if "52725.key" in name]


# ---- a renewal in doubt


def renewal(listed: Listed, folder: Path, call: CallResult | None = None) -> Renewal:
    """The step of `renew` for a target without a signing request."""
    return Renewal(ScriptedService(listed, call), no_keys(), None, CertificateFolder(folder))


NOTHING_NEW = "there is no new certificate, the old one is "
FOUND = f"the new certificate {NEW} was found by list, which does not show the certificate itself"
NEITHER = "neither the old certificate nor a new one is in the device's list"
DEVICE = {
    "only the old one": ([item(OLD)], LookupKind.ABSENT, f"{NOTHING_NEW}valid"),
    "the old one, expired": ([item(OLD, EXPIRED)], LookupKind.ABSENT, f"{NOTHING_NEW}expired"),
    "none": ([], LookupKind.UNCLEAR, NEITHER),
    "both": ([item(OLD), item(NEW)], LookupKind.HOLDS, FOUND),
    "the new one without a date": (
        [item(OLD), item(NEW, signDate=None)],
        LookupKind.UNCLEAR,
        f"certificate {NEW} is new, but the list does not show when it was issued",
    ),
    "only the new one": ([item(NEW)], LookupKind.HOLDS, FOUND),
    "only the new one, revoked": (
        [item(NEW, REVOKED)],
        LookupKind.UNCLEAR,
        f"the new certificate {NEW} is revoked",
    ),
    "only an earlier one": ([item(9)], LookupKind.UNCLEAR, NEITHER),
    "the new one and an earlier one": (
        [item(9), item(NEW)],
        LookupKind.UNCLEAR,
        "the new certificate may just as well replace certificate 9",
    ),
    "the new one and an earlier one, expired": (
        [item(9, EXPIRED), item(NEW)],
        LookupKind.HOLDS,
        FOUND,
    ),
}


@pytest.mark.parametrize(("listed", "kind", "message"), DEVICE.values(), ids=DEVICE)
async def test_a_renewal_in_doubt(
    tmp_path: Path, listed: list[dict[str, Any]], kind: LookupKind, message: str
) -> None:
    step = renewal(listing(*listed), tmp_path)
    result = await step.look_up(in_doubt(9), departed)
    assert (result.kind, result.message) == (kind, message)
    expected = {"certSN": str(NEW), "replaces": str(OLD)} if kind is LookupKind.HOLDS else None
    assert result.result == expected
    assert (result.code, result.request_id) == (0 if kind in GOOD else None, "R")


@pytest.mark.parametrize(
    ("in_row", "selection", "unique"),
    [(True, {}, True), (False, {}, False), (True, {"status": "valid"}, False)],
    ids=["its own request", "the request of all targets", "the request of all that is selected"],
)
async def test_only_a_request_of_its_own_identifies_a_new_certificate_among_rivals(
    tmp_path: Path, in_row: bool, selection: dict[str, str], unique: bool
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = {"csr": signing_request("A0", key)}

    class Service(ScriptedService):
        def fields(self, operation: Operation) -> dict[str, Any]:
            return request | operation.fields

    listed = listing(item(OLD), item(9), item(NEW, cert=signed_certificate(key)))
    setup = no_keys(selection=selection)
    step = Renewal(Service(listed), setup, None, CertificateFolder(tmp_path))
    doubtful = in_doubt(9)
    if in_row:
        doubtful = doubtful._replace(fields=doubtful.fields | request)
    result = await step.look_up(doubtful, departed)
    assert (result.kind is not LookupKind.UNCLEAR) == unique
    assert ("may just as well replace certificate 9" in result.message) != unique


@pytest.mark.parametrize(("listed", "kind", "message"), DEVICE.values(), ids=DEVICE)
async def test_a_rotation_does_not_go_on_with_what_it_could_not_check(
    tmp_path: Path, listed: list[dict[str, Any]], kind: LookupKind, message: str
) -> None:
    """Where `renew` would be done, `rotate` holds the old certificate."""
    step = CheckedRenewal(renewal(listing(*listed), tmp_path))
    result = await step.look_up(in_doubt(9), departed)
    if kind is LookupKind.HOLDS:
        kind, message = LookupKind.UNCLEAR, f"{message}, so it can't be checked"
    if kind is LookupKind.UNCLEAR:
        message = NOT_REVOKED + message
    assert (result.kind, result.message) == (kind, message)


async def test_a_certificate_issued_days_after_the_attempt_is_not_ours(tmp_path: Path) -> None:
    """A run that is continued days later must not take another's renewal for its own."""
    later = int((SENT_AT_S + 3 * 86400) * 1000)
    step = renewal(listing(item(OLD), item(NEW, signDate=later)), tmp_path)
    result = await step.look_up(in_doubt(), departed)
    assert result.kind is LookupKind.UNCLEAR
    assert "was not issued at the time of the renewal" in result.message


async def test_what_this_process_has_sent_may_be_issued_until_now(tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    step = renewal(listing(item(OLD), item(NEW, signDate=now_ms)), tmp_path)
    sent_here = in_doubt(taken_at=time.time())._replace(attempts=1, sent_at=None)
    assert (await step.look_up(sent_here, departed)).kind is LookupKind.HOLDS
    sent_again = in_doubt(taken_at=time.time() - 9000)._replace(attempts=2, sent_at=None)
    assert (await step.look_up(sent_again, departed)).kind is LookupKind.HOLDS


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
async def test_an_attempt_with_a_bad_certificate_says_that_the_old_one_was_left_alone(
    kind: AttemptKind,
) -> None:
    step = checked(kind, LookupKind.FAILED, STEP_DATA)
    result = await step.attempt(operation(), departed)
    message = f"{NOT_REVOKED}said" if kind is AttemptKind.FLAWED else "said"
    assert result == AttemptResult(kind, 7, message, "R", STEP_DATA)


@pytest.mark.parametrize("kind", LookupKind)
async def test_a_look_up_without_a_good_certificate_says_that_the_old_one_was_left_alone(
    kind: LookupKind,
) -> None:
    step = checked(AttemptKind.DONE, kind, STEP_DATA)
    result = await step.look_up(in_doubt(), departed)
    left_alone = kind in (LookupKind.FLAWED, LookupKind.UNCLEAR)
    message = f"{NOT_REVOKED}said" if left_alone else "said"
    assert result == LookupResult(kind, 7, message, "R", STEP_DATA)
    # before anything was sent, that goes without saying
    result = await step.look_up(operation(), departed)
    assert result.message == "said"


@pytest.mark.parametrize("file", [{}, {"certificate_file": ""}])
async def test_a_certificate_without_a_file_was_not_checked(file: dict[str, str]) -> None:
    step = checked(AttemptKind.DONE, LookupKind.HOLDS, {"certSN": "2000"} | file)
    result = await step.look_up(in_doubt(), departed)
    assert result.kind is LookupKind.UNCLEAR
    assert result.message == f"{NOT_REVOKED}said, so it can't be checked"


# ---- the revocation of the old certificate

NOW_MS = 1_795_000_000_000
OLD_ONE = {
    "both valid": ([item(OLD), item(NEW)], LookupKind.ABSENT, "the old certificate is still valid"),
    "the old one revoked": (
        [item(OLD, REVOKED), item(NEW)],
        LookupKind.HOLDS,
        "renewed, and the old certificate is revoked",
    ),
    "the old one superseded": (
        [item(OLD, REVOKED, revokerReason="SUPERSEDED"), item(NEW)],
        LookupKind.HOLDS,
        "renewed, and the old certificate is revoked (SUPERSEDED)",
    ),
    "the old one revoked in other words": (
        [item(OLD, REVOKED, revokerReason="replaced by renewal"), item(NEW)],
        LookupKind.HOLDS,
        "renewed, and the old certificate is revoked (replaced by renewal)",
    ),
    "the old one expired": (
        [item(OLD, EXPIRED), item(NEW)],
        LookupKind.ABSENT,
        "the old certificate is not revoked but has expired",
    ),
    "the old one absent": (
        [item(NEW)],
        LookupKind.ABSENT,
        "the device's list does not have the old certificate",
    ),
    "the new one revoked": (
        [item(OLD), item(NEW, REVOKED)],
        LookupKind.REFUSED,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is revoked",
    ),
    "the new one expired": (
        [item(OLD), item(NEW, EXPIRED)],
        LookupKind.REFUSED,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is expired",
    ),
    "the new one expired by its dates": (
        [item(OLD), item(NEW, expireDate=NOW_MS)],
        LookupKind.REFUSED,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, has expired",
    ),
    "the new one not valid yet": (
        [item(OLD), item(NEW, effetiveDate=NOW_MS + 5001)],
        LookupKind.NOT_YET,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is not valid yet",
    ),
    "the new one valid from now on": (
        [item(OLD), item(NEW, effetiveDate=NOW_MS + 5000, expireDate=NOW_MS + 1)],
        LookupKind.ABSENT,
        "the old certificate is still valid",
    ),
    "the new one revoked, the old one too": (
        [item(OLD, REVOKED), item(NEW, REVOKED)],
        LookupKind.FLAWED,
        f"the old certificate is revoked, but the new one, {NEW}, is revoked",
    ),
    "the new one revoked, the old one absent": (
        [item(NEW, REVOKED)],
        LookupKind.REFUSED,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is revoked",
    ),
    "the new one absent": (
        [item(OLD)],
        LookupKind.NOT_YET,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is not in the device's list",
    ),
    "the new one absent, the old one revoked": (
        [item(OLD, REVOKED)],
        LookupKind.NOT_YET,
        f"the old certificate is revoked, but the new one, {NEW}, is not in the device's list",
    ),
    "the new one listed twice, with different statuses": (
        [item(OLD), item(NEW), item(NEW, REVOKED)],
        LookupKind.NOT_YET,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is listed twice, with different statuses",
    ),
    "both absent": (
        [],
        LookupKind.NOT_YET,
        f"renewed, but {NOT_REVOKED}the new one, {NEW}, is not in the device's list",
    ),
}


class StandingClock(ProviderClock):
    """Shows one time."""

    def now(self) -> float:
        return NOW_MS / 1000


def old_revocation(service: CertificateService) -> OldRevocation:
    return OldRevocation(service, StandingClock())


@pytest.mark.parametrize(("listed", "kind", "message"), OLD_ONE.values(), ids=OLD_ONE)
async def test_the_old_certificate_is_looked_up_beside_the_new_one(
    listed: list[dict[str, Any]], kind: LookupKind, message: str
) -> None:
    step = old_revocation(ScriptedService(listing(*listed)))
    result = await step.look_up(operation(STEP_DATA), departed)
    code = 0 if kind in GOOD and "does not have" not in message else None
    assert result == LookupResult(kind, code, message, "R", STEP_DATA)


async def test_a_failed_look_up_of_the_old_certificate_keeps_the_new_one() -> None:
    step = old_revocation(ScriptedService(FAILURE))
    result = await step.look_up(operation(STEP_DATA), departed)
    message = f"renewed, but {NOT_REVOKED}{FAILURE.message}"
    assert result == FAILURE._replace(message=message, result=STEP_DATA)
    failed = operation(STEP_DATA, last_error=AttemptResult(AttemptKind.IN_DOUBT, 7, "lost"))
    result = await step.look_up(failed, departed)  # the attempt has said that it is renewed
    assert result == FAILURE._replace(result=STEP_DATA)


@pytest.mark.parametrize("kind", [CallKind.OK, CallKind.IN_DOUBT, CallKind.DISPUTED])
async def test_an_attempt_to_revoke_keeps_the_new_certificate(kind: CallKind) -> None:
    call = CallResult(kind, 0, "said", "R")
    step = old_revocation(ScriptedService(call=call))
    result = await step.attempt(operation(STEP_DATA), departed)
    said = "said" if kind is CallKind.OK else "renewed; revoking the old certificate: said"
    assert result == call.as_attempt(STEP_DATA)._replace(message=said)
    assert result.result == STEP_DATA


REFUSAL = LookupResult(LookupKind.UNCLEAR, 99403, "list was refused", "R")


async def test_the_old_certificate_is_not_revoked_while_the_list_is_refused() -> None:
    result = await old_revocation(ScriptedService(REFUSAL)).look_up(operation(STEP_DATA), departed)
    assert (result.kind, result.message) == (
        LookupKind.NOT_YET,
        f"renewed, but {NOT_REVOKED}list was refused",
    )


async def test_a_revocation_in_doubt_stays_unclear_while_the_list_is_refused() -> None:
    in_doubt = operation(STEP_DATA, in_doubt=True)
    result = await old_revocation(ScriptedService(REFUSAL)).look_up(in_doubt, departed)
    assert (result.kind, result.message) == (
        LookupKind.UNCLEAR,
        "renewed, but it is not known whether the old certificate is revoked: list was refused",
    )


# ---- a revocation


@pytest.mark.parametrize(
    "others", [[], [item(NEW)], [item(NEW), item(3000)], [item(2**158)], [item(NEW), item(2**158)]]
)
async def test_other_valid_certificates_of_a_device_are_named(others: list[dict[str, Any]]) -> None:
    """With one of them it still connects, whatever was revoked."""
    listed = listing(item(OLD, REVOKED), item(9, REVOKED), *others)
    result = await Revocation(ScriptedService(listed)).look_up(operation(), departed)
    assert result.kind is LookupKind.HOLDS
    serials = [one["certSN"] for one in others]
    details = {"other_valid": serials, "remarks": ["other_valid"]}
    assert result.result == (details if serials else None)
    assert ("another valid certificate" in result.message) is bool(serials)


async def test_other_certificates_say_nothing_while_this_one_is_valid() -> None:
    listed = listing(item(OLD), item(NEW))
    result = await Revocation(ScriptedService(listed)).look_up(operation(), departed)
    assert (result.kind, result.result) == (LookupKind.ABSENT, None)
