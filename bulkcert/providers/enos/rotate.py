"""Replace a certificate whose key is compromised: renew with a new key, check, only then revoke.

The order is never swapped: a device whose renewal fails keeps its old certificate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bulkcert.model import Answer, AnswerKind, Operation
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.inventory import Certificate, Status, find
from bulkcert.providers.enos.renew import Renew
from bulkcert.providers.enos.requests import revoke_request
from bulkcert.providers.enos.revoke import seen

_HELD = "held, the old certificate is not revoked: "


class Rotate(Renew):
    """Performs `rotate`: a renewal, and when it has brought a good certificate, a revocation."""

    def idempotent(self, operation: Operation) -> bool:
        """The revocation is, the renewal is not."""
        return self._renewed(operation) is not None

    def needs_lookup(self, operation: Operation) -> bool:
        """The provider may have revoked the old certificate when it issued the new one."""
        return super().needs_lookup(operation) or self._renewed(operation) is not None

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send the renewal, or after it the revocation of the old certificate."""
        renewed = self._renewed(operation)
        if renewed is None:
            return _renewal(await super().attempt(operation, on_departure))
        request = revoke_request(self._org_id, self.fields(operation))
        answer = await self.send(request, on_departure)
        return replace(answer, result=renewed)

    async def look(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """See how the renewal stands, or after it whether the old certificate is revoked."""
        renewed = self._renewed(operation)
        if renewed is None:
            return _renewal(await super().look(operation, on_departure))
        answer = await self.list_and_judge(operation, on_departure)
        return replace(answer, result=renewed)

    def judge(
        self, operation: Operation, certificates: list[Certificate], answer: Answer
    ) -> Answer:
        """Tell from the device's certificates how the current step stands."""
        renewed = self._renewed(operation)
        if renewed is None:
            return super().judge(operation, certificates, answer)
        new = find(certificates, int(renewed["certSN"]))
        if new is not None and new.status is not Status.VALID:
            said = f"{_HELD}the new one, {new.serial}, is {new.status.name.lower()} itself"
            return replace(answer, kind=AnswerKind.REFUSED, message=said)
        kind, message = seen(find(certificates, self._old_serial(operation)))
        return replace(answer, kind=kind, message=message)

    def _renewed(self, operation: Operation) -> dict[str, Any] | None:
        """What the renewal came to, once it is done."""
        renewed: dict[str, Any] | None = (operation.progress or {}).get("renewed")
        return renewed


def _renewal(answer: Answer) -> Answer:
    """Turn the end of a renewal into a step on the way, or into the reason to stop there."""
    match answer.kind:
        case AnswerKind.DONE | AnswerKind.HOLDS if answer.result.get("certificate_file"):
            return replace(answer, kind=AnswerKind.STEP, result={"renewed": answer.result})
        case AnswerKind.DONE | AnswerKind.HOLDS:
            said = f"{_HELD}{answer.message}, so that nobody can check it"
            return replace(answer, kind=AnswerKind.UNCLEAR, message=said)
        case AnswerKind.REFUSED | AnswerKind.FLAWED | AnswerKind.ABSENT | AnswerKind.UNCLEAR:
            return replace(answer, message=_HELD + answer.message)
    return answer
