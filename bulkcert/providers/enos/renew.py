"""Renew one certificate of one device.

Not idempotent: a renewal that is sent twice may issue two certificates. One in doubt is settled by
`list`: a certificate that is new since is the result, with none the renewal is sent again, and
where that can't be told apart nothing more is sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from bulkcert import durable
from bulkcert.errors import RunDirectoryError
from bulkcert.keys import KeyMaker, file_name, stored_key
from bulkcert.keyspec import parse_subject
from bulkcert.model import Answer, AnswerKind, Operation
from bulkcert.providers.base import Setup
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.handler import EnosHandler
from bulkcert.providers.enos.inventory import Certificate, Status, find
from bulkcert.providers.enos.issued import (
    Issued,
    check,
    issue_authority_for,
    public_key_of,
    read_issued,
    serial_of,
)
from bulkcert.providers.enos.requests import device, renew_request

CLOCKS_APART_MS = 300_000
"""How far apart the provider's own clocks may be, where only time can tell what is new."""

REFUSALS = {
    "revoked": "original_revoked",
    "expired": "original_expired",
    "exceeds": "period_too_long",
    "bi-directional": "no_two_way_authentication",
    "bound": "bound_elsewhere",
}
"""Key words of the vendor's texts, which share one code, and what we call them."""

BOUND_ELSEWHERE = 11833
"""The one refusal that has a code of its own."""


class Renew(EnosHandler):
    """Performs `renew`."""

    def __init__(self, client: Client, setup: Setup) -> None:
        super().__init__(client, setup)
        self._keys: KeyMaker | None = None
        self._certificates = setup.directory / "certificates"
        if setup.keys is not None:
            self._keys = KeyMaker(setup.keys.generate, setup.directory / "keys")

    async def open(self) -> None:
        """Get a token, and a place for the certificates."""
        await super().open()
        try:
            durable.make_directory(self._certificates)
        except OSError as error:
            raise self._unwritable(error) from error

    async def close(self) -> None:
        """Let go of all connections and processes."""
        await super().close()
        if self._keys is not None:
            await asyncio.to_thread(self._keys.close)

    def idempotent(self, operation: Operation) -> bool:
        """A second renewal may issue a second certificate."""
        return False

    def needs_lookup(self, operation: Operation) -> bool:
        """The old certificate is looked up where the new one is to have its subject."""
        return super().needs_lookup(operation) or self._needs_subject(operation)

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send one renewal, and check what comes."""
        try:
            csr = await self._signing_request(operation)
        except ValueError as reason:
            said = f"no signing request can be made: the subject {reason}"
            return Answer(AnswerKind.REFUSED, message=said)
        fields = dict(self.fields(operation))
        if csr:
            fields["csr"] = csr
            fields.setdefault("issueAuthority", issue_authority_for(csr))
        answer = await self.send(renew_request(self._org_id, fields), on_departure)
        if answer.kind in (AnswerKind.DISPUTED, AnswerKind.REFUSED):
            return _refusal(answer)
        if answer.kind is not AnswerKind.DONE:
            return replace(answer, result=None)
        issued = read_issued(answer.result)
        if issued is None:
            return replace(
                answer,
                kind=AnswerKind.IN_DOUBT,
                message="the answer says OK, but holds no certificate",
                result=None,
            )
        return await self._accept(operation, issued, answer, csr)

    async def look(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Look for a new certificate, and check what is found."""
        answer = await self.list_and_judge(operation, on_departure)
        if answer.kind is not AnswerKind.HOLDS:
            return answer
        found: Certificate = answer.result
        pem = found.pem or await asyncio.to_thread(self._kept, operation, found.serial)
        if not pem:
            return self._unseen(operation, found, answer)
        csr = await self._signing_request(operation)
        return await self._accept(operation, Issued(found.serial, pem), answer, csr)

    def judge(
        self, operation: Operation, certificates: list[Certificate], answer: Answer
    ) -> Answer:
        """Take the subject of the old certificate, or see whether there is a new one."""
        old = find(certificates, self._old_serial(operation))
        if self._needs_subject(operation):
            if old is None:
                said = "the device has no such certificate"
                return replace(answer, kind=AnswerKind.REFUSED, message=said)
            progress = {"subject": old.subject, "known": [c.serial for c in certificates]}
            return replace(answer, kind=AnswerKind.STEP, result=progress)
        new, doubt = self._new_ones(operation, old, certificates)
        if not new:
            now = old.status.name.lower() if old else "not there"
            said = f"there is no new certificate, the old one is {now}"
            return replace(answer, kind=AnswerKind.ABSENT, message=said)
        if len(new) > 1:
            doubt = f"{len(new)} certificates are new: which is the one can't be told"
        elif new[0].status is not Status.VALID:
            doubt = f"the new certificate {new[0].serial} is {new[0].status.name.lower()}"
        if doubt:
            return replace(answer, kind=AnswerKind.UNCLEAR, message=doubt)
        said = f"the new certificate {new[0].serial} was found by list"
        return replace(answer, kind=AnswerKind.HOLDS, message=said, result=new[0])

    def _new_ones(
        self, operation: Operation, old: Certificate | None, certificates: list[Certificate]
    ) -> tuple[list[Certificate], str]:
        """Certificates that an attempt of this operation may have brought, and why it may not.

        The key of its request tells for sure. Where it does not, because there was no request or
        `list` shows no certificates, a certificate that is new since must not be taken for this
        operation's if it may replace another one of the device.
        """
        before: list[int] | None = (operation.progress or {}).get("known")
        known = {self._old_serial(operation)} if before is None else set(before)
        unknown = [c for c in certificates if c.serial not in known]
        key = self._known_key(operation)
        if key is not None:
            keys = {c.serial: public_key_of(c.pem) if c.pem else None for c in unknown}
            ours = [c for c in unknown if keys[c.serial] == key]
            if ours and self._has_own_key(operation):
                return ours, ""
            unknown = [c for c in unknown if c in ours or keys[c.serial] is None]
        new = unknown
        if before is None:
            since_ms = ((operation.first_sent_at or 0) * 1000) - CLOCKS_APART_MS
            new = [c for c in unknown if c.issued_ms is None or c.issued_ms >= since_ms]
        others = [c for c in certificates if c is not old and c not in new]
        if key is None and old is not None:
            # a renewal without a signing request keeps the subject
            foreign = {c.subject for c in others} - {old.subject}
            new = [c for c in new if c.subject not in foreign]
            others = [c for c in others if c.subject == old.subject]
        return new, _rivalry(old, others) if new else ""

    async def _accept(
        self, operation: Operation, issued: Issued, answer: Answer, csr: str | None
    ) -> Answer:
        """Check a new certificate and keep it, whatever the check says."""
        fields = self.fields(operation)
        days = fields.get("validDay")
        findings = await asyncio.to_thread(
            check, issued, public_key_of(csr) if csr else None, int(days) if days else None
        )
        path = self._certificate_path(operation, failed=bool(findings.problems))
        try:
            await asyncio.to_thread(durable.write, path, issued.chain.encode())
        except OSError as error:
            operation.in_doubt = True  # it is renewed: who goes on must look before sending again
            raise self._unwritable(error) from error
        result = self._result(operation, issued.serial) | {
            "certificate_file": f"certificates/{path.name}",
            "expires_at": findings.expires_at,
            "valid_days": findings.valid_days,
        }
        if findings.problems:
            said = f"certificate {issued.serial} is not as asked: {'; '.join(findings.problems)}"
            return replace(answer, kind=AnswerKind.FLAWED, message=said, result=result)
        if findings.clamped:
            clamp = f"valid for {findings.valid_days} days instead of the {days} asked for"
            result["asked_days"] = days
            return replace(answer, message=f"{answer.message}; {clamp}", result=result)
        return replace(answer, result=result)

    def _unwritable(self, error: OSError) -> RunDirectoryError:
        return RunDirectoryError(
            f"Certificates can't be written to {self._certificates}: {error.strerror or error}",
            "Make room or mend the folder, then run again: what was renewed is fetched by list.",
        )

    def _kept(self, operation: Operation, serial: int) -> str:
        """The certificate of this number, if it came before a crash and could not be recorded."""
        try:
            pem = self._certificate_path(operation).read_text()
        except (OSError, ValueError):
            return ""
        return pem if serial_of(pem) == serial else ""

    def _certificate_path(self, operation: Operation, *, failed: bool = False) -> Path:
        return self._certificates / f"{self._name(operation)}{'.failed' if failed else ''}.pem"

    def _unseen(self, operation: Operation, found: Certificate, answer: Answer) -> Answer:
        """A new certificate that `list` names but does not show."""
        said = f"{answer.message}, which does not show the certificate itself"
        return replace(answer, message=said, result=self._result(operation, found.serial))

    def _result(self, operation: Operation, serial: int) -> dict[str, Any]:
        result = {"certSN": str(serial), "replaces": str(self._old_serial(operation))}
        if self._keys is not None:
            result["key_file"] = f"keys/{self._keys.path(self._name(operation)).name}"
        return result

    async def _signing_request(self, operation: Operation) -> str | None:
        if self._keys is None:
            csr = self.fields(operation).get("csr")
            return None if csr is None else str(csr)
        return await self._keys.signing_request(self._name(operation), self._subject(operation))

    def _subject(self, operation: Operation) -> dict[str, str]:
        template = self._setup.keys.subject if self._setup.keys else ""
        if not template:
            return parse_subject(operation.progress["subject"])
        fields = self.fields(operation)
        parts = parse_subject(template).items()
        try:
            return {name: value.format_map(fields) for name, value in parts}
        except KeyError as missing:
            raise ValueError(f"needs {missing.args[0]}, which the target does not have") from None

    def _known_key(self, operation: Operation) -> bytes | None:
        """The public key that the new certificate has, if it is known without making one."""
        if self._keys is None:
            csr = self.fields(operation).get("csr")
            return public_key_of(str(csr)) if csr else None
        return stored_public_key(self._keys.path(self._name(operation)))

    def _has_own_key(self, operation: Operation) -> bool:
        """Whether no other operation can bring a certificate for the same key."""
        # one signing request of a row serves all certificates that are selected for it
        return self._keys is not None or ("csr" in operation.fields and not self._setup.selection)

    def _needs_subject(self, operation: Operation) -> bool:
        keys = self._setup.keys
        return keys is not None and not keys.subject and operation.progress is None

    def _old_serial(self, operation: Operation) -> int:
        return int(self.fields(operation)["certSn"])

    def _name(self, operation: Operation) -> str:
        fields = self.fields(operation)
        return file_name(*(value for _, value in device(fields)), fields["certSn"])


def _refusal(answer: Answer) -> Answer:
    """Tell the refusals apart. They say that nothing was issued."""
    text = answer.message.lower()
    reason = next((name for word, name in REFUSALS.items() if word in text), None)
    if answer.code == BOUND_ELSEWHERE:
        reason = REFUSALS["bound"]
    result = {"refusal": reason} if reason else None
    return replace(answer, kind=AnswerKind.REFUSED, result=result)


def _rivalry(old: Certificate | None, others: list[Certificate]) -> str:
    """Why a new certificate may just as well replace one of the others; empty if it can't."""
    if old is not None and _superseded(old):
        return ""
    for other in others:
        # a revoked one may have been rotated just now; an expired one is not renewed
        if other.status is not Status.EXPIRED:
            return f"what is new may just as well replace certificate {other.serial}"
    return ""


def _superseded(certificate: Certificate) -> bool:
    """Whether a certificate was revoked because another one replaces it."""
    reason = certificate.revoker_reason.upper()
    return certificate.status is Status.REVOKED and "SUPERSEDED" in reason


def stored_public_key(path: Path) -> bytes | None:
    """The public key that belongs to a private key on disk; None if there is none."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = stored_key(path)
    except OSError:
        return None
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
