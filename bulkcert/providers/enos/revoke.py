"""Revoke one certificate of one device.

Repeatable: revoking a revoked certificate does no harm. What the provider answers to it is not
documented, so the state is read from `list` and never from a message.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkcert.model import Answer, AnswerKind, Fields, Operation
from bulkcert.providers.base import merged
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.inventory import Certificate, Status, find, read_certificates
from bulkcert.providers.enos.requests import list_request, revoke_request


class Revoke:
    """Performs `revoke`; see `bulkcert.providers.base.Performer`.

    Args:
        client: signed calls.
        org_id: the organization that the devices belong to.
        parameters: fields for every target.
    """

    def __init__(self, client: Client, org_id: str, parameters: Fields) -> None:
        self._client = client
        self._org_id = org_id
        self._parameters = parameters

    async def open(self) -> None:
        """Get a token."""
        await self._client.open()

    def repeatable(self, operation: Operation) -> bool:
        """Revoking a revoked certificate does no harm."""
        return True

    def looks_first(self, operation: Operation) -> bool:
        """Nothing is looked up unless something is in doubt."""
        return False

    async def attempt(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
        """Send one revocation."""
        fields = merged(self._parameters, operation.fields)
        return await self._client.call(revoke_request(self._org_id, fields), on_departure)

    async def look(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
        """Look whether the certificate is revoked."""
        fields = merged(self._parameters, operation.fields)
        answer = await self._client.call(list_request(self._org_id, fields), on_departure)
        certificates = read_certificates(answer)
        if isinstance(certificates, Answer):
            return certificates
        kind, message = _seen(find(certificates, int(fields["certSn"])))
        return Answer(kind, answer.code, message, answer.request_id)

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.close()


def _seen(certificate: Certificate | None) -> tuple[AnswerKind, str]:
    if certificate is None:
        return AnswerKind.UNCLEAR, "the device has no such certificate"
    match certificate.status:
        case Status.REVOKED:
            why = f" ({certificate.revoker_reason})" if certificate.revoker_reason else ""
            return AnswerKind.HOLDS, f"the certificate is revoked{why}"
        case Status.EXPIRED:
            return AnswerKind.ABSENT, "the certificate is not revoked but has expired"
        case Status.VALID:
            return AnswerKind.ABSENT, "the certificate is still valid"
