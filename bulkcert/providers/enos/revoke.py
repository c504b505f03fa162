"""Revoke one certificate of one device.

Repeatable: revoking a revoked certificate does no harm. What the provider answers to it is not
documented, so the state is read from `list` and never from a message.
"""

from __future__ import annotations

from dataclasses import replace

from bulkcert.model import Answer, AnswerKind, Operation
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.handler import EnosHandler
from bulkcert.providers.enos.inventory import Certificate, Status, find
from bulkcert.providers.enos.requests import revoke_request


class Revoke(EnosHandler):
    """Performs `revoke`."""

    def idempotent(self, operation: Operation) -> bool:
        """Revoking twice does no harm, but without a certificate there is nothing to revoke."""
        return not self._is_to_be_selected(operation)

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send one revocation."""
        request = revoke_request(self._org_id, self.fields(operation))
        answer = await self.send(request, on_departure)
        # documented to be null
        return answer if answer.result is None else replace(answer, result=None)

    def judge(
        self, operation: Operation, certificates: list[Certificate], answer: Answer
    ) -> Answer:
        """See whether the certificate is revoked."""
        kind, message = seen(find(certificates, int(self.fields(operation)["certSn"])))
        return replace(answer, kind=kind, message=message)


def seen(certificate: Certificate | None) -> tuple[AnswerKind, str]:
    """What a listed certificate, or its lack, means for the wish to have it revoked."""
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
