"""Renew one certificate of one device.

Not idempotent: a renewal that is sent twice may issue two certificates. So the certificates of the
device are listed before the first attempt, and recorded. A renewal in doubt is settled by another
`list`: a certificate that is new since then is the result; if there is none, the renewal is sent
again; if that can't be decided, nothing more is sent.

A key that was made for a renewal is kept for as long as a certificate may exist for it. If the
renewal was refused, and no attempt before may have been executed, its key is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bulkcert.key_files import file_name
from bulkcert.keykeeper import KeyKeeper
from bulkcert.keyspec import Subject, parse_subject, parse_template
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    LookupKind,
    LookupResult,
    Material,
    MaterialKind,
    Operation,
)
from bulkcert.providers.base import Setup
from bulkcert.providers.call import CallKind, CallResult, OnDeparture
from bulkcert.providers.enos.advice import NO_CA, OTHER_VALIDITY, SURPLUS
from bulkcert.providers.enos.certificate_folder import CertificateFolder, stem
from bulkcert.providers.enos.chain import Chains
from bulkcert.providers.enos.inventory import Certificate, Listing, Status
from bulkcert.providers.enos.issuance import (
    Findings,
    Issued,
    check,
    public_key_of,
    read_issued,
)
from bulkcert.providers.enos.requests import device, with_authority
from bulkcert.providers.enos.service import CertificateService
from bulkcert.providers.enos.successor import (
    Baseline,
    Expected,
    Finding,
    find_successor,
    newest,
    superseded,
    surplus_of,
)

REFUSALS = {
    "revoked": "original_revoked",
    "expired": "original_expired",
    "exceeds": "period_too_long",
    "bi-directional": "no_two_way_authentication",
    "bound": "bound_elsewhere",
}
"""Key words of the vendor's texts, which share one code, and our names for them.

One text says: the device's list does not have the certificate, or it is bound to other devices. It
can only mean the latter, because the list is looked at before the renewal is sent.
"""

NOT_LISTED = "not_listed"
"""What that look-up shows if it is the former."""

BOUND_ELSEWHERE = 11833
"""The one refusal that has a code of its own."""


class Renewal:
    """The step that renews.

    Args:
        service: the certificate service.
        setup: how keys are made, if they are.
        keys: keeps them; None if the job makes none.
        folder: where new certificates are kept.
        chains: fetches the CA of a new certificate that comes without it, if there is a way.
    """

    def __init__(
        self,
        service: CertificateService,
        setup: Setup,
        keys: KeyKeeper | None,
        folder: CertificateFolder,
        chains: Chains | None = None,
    ) -> None:
        self._service = service
        self._chains = chains
        template = setup.keys.subject if setup.keys else ""
        self._template = parse_template(template) if template else None
        self._selects = bool(setup.selection)
        self._keys = keys
        self._is_shared = setup.shared is not None
        self._password = setup.pkcs12_password
        self._folder = folder
        self._clock = setup.clock

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one renewal, and check what it returns."""
        try:
            csr = await self._signing_request(operation)
        except ValueError as reason:
            return AttemptResult(AttemptKind.REFUSED, message=_no_request(reason))
        call = await self._send(operation, csr, on_departure)
        if call.kind in (CallKind.DISPUTED, CallKind.REFUSED) and not call.account_wide:
            return _refusal(call)
        if call.kind is not CallKind.OK:
            return call.as_attempt()
        issued = read_issued(call.data)
        if issued is None:
            problem = "the response says OK, but contains no certificate"
            return call.unreadable(problem).as_attempt()
        no_ca = ""
        if self._chains is not None:
            issued, no_ca = await self._chains.complete(issued)
        good, message, result = await self._accept(operation, issued, call.message, csr, no_ca)
        # if it is flawed, the code says OK, which is not what happened to the operation
        return AttemptResult(
            AttemptKind.DONE if good else AttemptKind.FLAWED,
            call.code if good else None,
            message,
            call.request_id,
            result,
            material=self._material(operation, issued, good=good),
        )

    async def _send(
        self, operation: Operation, csr: str | None, on_departure: OnDeparture
    ) -> CallResult:
        """Send one renewal. If it is turned away, or does not leave, its key is removed."""
        fields = self._service.fields(operation)
        if csr:
            fields = with_authority({**fields, "csr": csr})
        departed = False

        def departing(source: str) -> None:
            nonlocal departed
            departed = True
            on_departure(source)

        try:
            call = await self._service.renew(fields, departing)
        except asyncio.CancelledError:
            if not departed:
                self._discard_key(operation)
            raise
        turned_away = call.kind is CallKind.NOT_SENT and call.code is not None
        if turned_away or call.kind is CallKind.REFUSED:
            await asyncio.to_thread(self._discard_key, operation)
        return call

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """List the device's certificates: before the first attempt to record them, afterwards to
        find a new one and check it.

        If an attempt may follow, prepare what must be durable before that.
        """
        result = await self._look_up(operation, on_departure)
        if result.kind is not LookupKind.ABSENT or self._keys is None:
            return result
        if result.result is not None:
            operation = operation._replace(step_data=result.result)
        name = self.file_name(operation)
        try:
            material = await self._keys.prepare(operation, name, lambda: self._subject(operation))
        except ValueError as reason:
            kind = LookupKind.UNCLEAR if operation.in_doubt else LookupKind.REFUSED
            return LookupResult(kind, message=_no_request(reason), request_id=result.request_id)
        return result._replace(material=material)

    async def _look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        listing = await self._service.listing(operation, on_departure)
        if isinstance(listing, LookupResult):
            return listing
        if operation.done is not None:
            return self._after_a_repetition(operation, operation.done, listing)
        touched = operation.in_doubt or operation.last_error is not None
        if not touched or operation.step_data is None:
            return self._before(operation, listing)
        expected = self._expected(operation)
        if self._keys is not None and expected.key is None and expected.new_in(listing):
            # Nothing is sent without a key. So it is another's, or the key is lost.
            message = "a certificate is new, but there is no key of this renewal to compare it with"
            return listing.shows(LookupKind.UNCLEAR, message)
        finding = find_successor(listing, expected)
        if finding.found is None:
            if finding.kind is LookupKind.ABSENT and _is_refused(operation.last_error):
                await asyncio.to_thread(self._discard_key, operation)
            return listing.shows(finding.kind, finding.message)
        return await self._found(operation, listing, finding, finding.found)

    def file_name(self, operation: Operation) -> str:
        """What the names of all files of an operation begin with: its device and old serial."""
        fields = self._service.fields(operation)
        names = [value for _, value in device(fields)]
        if "orgId" in operation.fields:  # two organizations may use the same names
            names.append(str(fields["orgId"]))
        return file_name(*names, fields["certSn"])

    def _before(self, operation: Operation, listing: Listing) -> LookupResult:
        """Record what there is before the first attempt, unless there is nothing to renew."""
        old = listing.find(self._old_serial(operation))
        if old is None:
            count = len(listing.certificates) + len(listing.others)
            message = (
                f"certificate {self._old_serial(operation)} is not among the {count} of this"
                " device: it does not exist, or belongs to another device"
            )
            if listing.unreadable:
                return listing.shows(LookupKind.UNCLEAR, message)
            return listing.shows(LookupKind.REFUSED, message, {"refusal": NOT_LISTED})
        successor = self._successor_of(operation, old, listing)
        if successor is not None:
            message = f"the certificate was already replaced by {successor.serial}"
            result = self._serials(operation, successor.serial)
            return listing.shows(LookupKind.NOTHING_LEFT, message, result)
        baseline = Baseline(
            taken_at=self._clock.now(),
            known=[certificate.serial for certificate in listing.certificates],
            subject=old.subject,
            unreadable=listing.unreadable,
            has_key=self._keys is not None
            and self._keys.can_be_discarded(self.file_name(operation)),
        )
        return listing.shows(LookupKind.ABSENT, "not renewed yet", baseline.as_step_data())

    def _successor_of(
        self, operation: Operation, old: Certificate, listing: Listing
    ) -> Certificate | None:
        """The certificate that has replaced the old one before this operation could.

        The same certificate may be named in two ways in the target file.
        """
        if not superseded(old):
            return None
        csr = self._service.fields(operation).get("csr")
        later = [
            certificate
            for certificate in newest(listing.certificates)
            if certificate.status is Status.VALID
            and certificate.subject == old.subject
            and (certificate.issued_ms or 0) >= (old.issued_ms or 0)
            and (csr is None or public_key_of(certificate.pem) == public_key_of(str(csr)))
        ]
        return later[0] if later else None

    async def _found(
        self, operation: Operation, listing: Listing, finding: Finding, found: Certificate
    ) -> LookupResult:
        """Check the certificate that a renewal in doubt has issued."""
        message, surplus = finding.message, finding.surplus
        name = self.file_name(operation)
        pem = found.pem or await asyncio.to_thread(self._folder.kept, name, found.serial)
        if not pem:
            message = f"{message}, which does not show the certificate itself"
            result = await asyncio.to_thread(self._result, operation, found.serial)
            return listing.shows(LookupKind.HOLDS, *_with_surplus(message, result, surplus))
        try:
            csr = await self._signing_request(operation)
        except ValueError as reason:
            message = f"{message}, but can't be checked: the subject {reason}"
            return listing.shows(LookupKind.UNCLEAR, message)
        issued, no_ca = Issued(found.serial, pem), ""
        if self._chains is not None:
            issued, no_ca = await self._chains.complete(issued, "the list")
        good, message, result = await self._accept(operation, issued, message, csr, no_ca)
        kind = LookupKind.HOLDS if good else LookupKind.FLAWED
        shown = listing.shows(kind, *_with_surplus(message, result, surplus))
        return shown._replace(material=self._material(operation, issued, good=good))

    def _after_a_repetition(
        self, operation: Operation, done: AttemptResult, listing: Listing
    ) -> LookupResult:
        """Look whether the attempt before the one that succeeded has issued a certificate too."""
        issued = int(done.result["certSN"])
        surplus = surplus_of(listing, self._expected(operation), issued)
        found = _with_surplus(done.message, done.result, surplus)
        return listing.shows(LookupKind.HOLDS, *found)

    def _expected(self, operation: Operation) -> Expected:
        sent_at = operation.sent_at
        return Expected(
            old_serial=self._old_serial(operation),
            before=Baseline(**operation.step_data),
            sent_until=self._clock.now() if sent_at is None else sent_at,
            key=self._known_key(operation),
            key_is_unique=self._key_is_unique(operation),
        )

    async def _accept(
        self, operation: Operation, issued: Issued, message: str, csr: str | None, no_ca: str = ""
    ) -> tuple[bool, str, dict[str, Any]]:
        """Check a new certificate and keep it in any case; return verdict, message and result.

        Args:
            operation, issued, csr: the renewal, what it led to, and its signing request.
            message: how the new certificate was found.
            no_ca: why the certificate of the CA is missing, if that is worth mentioning.
        """
        days = self._service.fields(operation).get("validDay")
        findings = await asyncio.to_thread(check, issued, csr or None, int(days) if days else None)
        result = await asyncio.to_thread(self._keep, operation, issued, findings)
        if self._password and not findings.problems:
            result |= await self._keep_pkcs12(operation, issued)
        if issued.chain_url:
            result["certChainURL"] = issued.chain_url
        if findings.problems:
            problems = "; ".join(findings.problems)
            return False, f"certificate {issued.serial} is not as requested: {problems}", result
        remarks = []
        if findings.validity:
            result["asked_days"] = findings.expected_days
            message = f"{message}; {findings.validity}"
            if not findings.ends_with_ca:
                remarks.append(OTHER_VALIDITY)
        if no_ca:
            message = f"{message}; not checked against its CA: {no_ca}"
            remarks.append(NO_CA)
        if remarks:
            result["remarks"] = remarks
        return True, message, result

    def _keep(self, operation: Operation, issued: Issued, findings: Findings) -> dict[str, Any]:
        """Make a new certificate and the name of its key durable; return what there is to say.

        Raises:
            ResultNotKeptError: they can't be written.
        """
        flawed = bool(findings.problems)
        files = self._folder.keep(self.file_name(operation), issued, flawed=flawed)
        return {
            **self._result(operation, issued.serial),
            **files,
            **findings.identity,
            "valid_from": findings.valid_from,
            "expires_at": findings.expires_at,
            "valid_days": findings.valid_days,
        }

    async def _keep_pkcs12(self, operation: Operation, issued: Issued) -> dict[str, str]:
        """Write a new certificate with its key and its CA as PKCS#12, if the key is here.

        Returns:
            Its path, as a part of the result.

        Raises:
            ResultNotKeptError: it can't be written.
        """
        assert self._keys is not None
        name = self.file_name(operation)
        if not await asyncio.to_thread(self._keys.is_here, operation, name):
            return {}
        path = self._folder.pkcs12_path(name, issued.serial)
        label = str(device(self._service.fields(operation))[0][1])
        await self._keys.maker.write_pkcs12(
            name, issued.fullchain, path, label=label, password=self._password
        )
        await asyncio.to_thread(self._folder.sync)
        return {"p12_file": f"{path.parent.name}/{path.name}"}

    def _material(
        self, operation: Operation, issued: Issued, *, good: bool
    ) -> tuple[Material, ...]:
        """What a shared store keeps of a new certificate; nothing without one."""
        if not self._is_shared:
            return ()
        name = stem(self.file_name(operation), issued.serial, flawed=not good)
        parts = {MaterialKind.CERTIFICATE: issued.leaf, MaterialKind.CHAIN: issued.chain}
        return tuple(
            Material(operation.id, operation.attempts, kind, name, pem.encode())
            for kind, pem in parts.items()
            if pem
        )

    def _result(self, operation: Operation, serial: int) -> dict[str, Any]:
        """The serial numbers of a new certificate and the old one; name the key after the new one.

        Raises:
            ResultNotKeptError: the key can't be named.
        """
        result = self._serials(operation, serial)
        if self._keys is not None:
            name = self.file_name(operation)
            result["key_file"] = self._keys.add_serial(operation, name, serial)
        return result

    def _serials(self, operation: Operation, serial: int) -> dict[str, Any]:
        return {"certSN": str(serial), "replaces": str(self._old_serial(operation))}

    def _discard_key(self, operation: Operation) -> None:
        """Remove the key that was made for the renewal, unless a certificate may exist for it: an
        attempt may have been executed, or the key is from before the operation failed last time."""
        has_key = (operation.step_data or {}).get("has_key", True)
        if self._keys is not None and not operation.in_doubt and not has_key:
            self._keys.discard(self.file_name(operation))

    async def _signing_request(self, operation: Operation) -> str | None:
        if self._keys is None:
            csr = self._service.fields(operation).get("csr")
            return None if csr is None else str(csr)
        return await self._keys.signing_request(
            operation, self.file_name(operation), lambda: self._subject(operation)
        )

    def _subject(self, operation: Operation) -> Subject:
        if self._template is None:
            return parse_subject(operation.step_data["subject"])
        return self._template.filled(self._service.fields(operation))

    def _known_key(self, operation: Operation) -> bytes | None:
        """The public key that the new certificate must have, if one has been made or given."""
        if self._keys is None:
            csr = self._service.fields(operation).get("csr")
            return public_key_of(str(csr)) if csr else None
        return self._keys.public_key(operation, self.file_name(operation))

    def _key_is_unique(self, operation: Operation) -> bool:
        """Whether no other operation can lead to a certificate for the same key."""
        # With [select], the signing request of a row serves all certificates found for it.
        return self._keys is not None or ("csr" in operation.fields and not self._selects)

    def _old_serial(self, operation: Operation) -> int:
        return int(self._service.fields(operation)["certSn"])


def _no_request(reason: ValueError) -> str:
    return f"no signing request can be made: the subject {reason}"


def _refusal(call: CallResult) -> AttemptResult:
    """Tell the refusals apart. Those that are disputed are looked up, as for every change."""
    text = call.message.lower()
    reason = next((name for word, name in REFUSALS.items() if word in text), None)
    if call.code == BOUND_ELSEWHERE:
        reason = REFUSALS["bound"]
    result = {"refusal": reason} if reason else None
    return call.as_attempt(result)


def _is_refused(error: AttemptResult | None) -> bool:
    """Whether an attempt was refused by the provider itself, not by something in front of it."""
    return error is not None and error.kind is AttemptKind.DISPUTED and not error.account_wide


def _with_surplus(
    message: str, result: dict[str, Any], surplus: Sequence[int]
) -> tuple[str, dict[str, Any]]:
    """Name surplus certificates, if there are any, in a message and in a result."""
    if not surplus:
        return message, result
    serials = [str(serial) for serial in surplus]
    message += f"; new as well, perhaps by an earlier attempt, and surplus: {', '.join(serials)}"
    remarks = [*result.get("remarks", ()), SURPLUS]
    return message, result | {"surplus": serials, "remarks": remarks}
