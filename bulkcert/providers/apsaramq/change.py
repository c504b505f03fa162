"""Inactivate, activate or delete one device certificate.

All three are idempotent. Setting a status that is set does no harm; and a certificate that was
deleted can be deleted again only if its device has registered it anew in the meantime, by
connecting, which is then what the operator wants gone as well.

What the provider says to setting a status that holds is not documented: it may be success, so that
a success may mean that nothing changed; or a refusal, which is looked up.
"""

from __future__ import annotations

from dataclasses import replace

from bulkcert.model import Answer, AnswerKind, Fields, Operation
from bulkcert.providers.apsaramq.certificates import STATUSES, read_certificate
from bulkcert.providers.apsaramq.handler import MqttHandler, misread
from bulkcert.providers.apsaramq.requests import change_request, get_request
from bulkcert.providers.apsaramq.responses import NOT_FOUND
from bulkcert.providers.apsaramq.verification import UNREGISTERED, WANTED
from bulkcert.providers.call import OnDeparture


class Change(MqttHandler):
    """Performs `inactivate`, `activate` and `delete`."""

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send the change; a success must name the device that was asked for."""
        fields = self.fields(operation)
        request = change_request(self._action.name, self._instance_id, fields)
        answer = await self.send(request, on_departure)
        if answer.kind is AnswerKind.DONE and answer.result.get("DeviceSn") != fields["DeviceSn"]:
            return misread(answer, "this certificate")
        if answer.code == NOT_FOUND and self._wanted == UNREGISTERED:
            return replace(answer, kind=AnswerKind.DISPUTED)  # that is what was wanted
        return replace(answer, result=None)

    async def look(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Look at the certificate."""
        fields = self.fields(operation)
        answer = await self.send(get_request(self._instance_id, fields), on_departure)
        match answer.kind:
            case AnswerKind.REFUSED if answer.code == NOT_FOUND:
                if self._wanted == UNREGISTERED:
                    said = "no such certificate is registered"
                    return replace(answer, kind=AnswerKind.HOLDS, message=said)
                return answer  # there is nothing to act on
            case AnswerKind.REFUSED | AnswerKind.DISPUTED:
                said = f"the look-up was refused: {answer.code} {answer.message}"
                return replace(answer, kind=AnswerKind.UNCLEAR, message=said)
            case AnswerKind.DONE:
                return self._judge(fields, answer)
        return answer

    @property
    def _wanted(self) -> str:
        return WANTED[self._action.name]

    def _judge(self, fields: Fields, answer: Answer) -> Answer:
        certificate = read_certificate(answer.result.get("Data"))
        if certificate is None:
            return misread(answer, "a certificate")
        status = certificate["Status"]
        if any(certificate[name] != fields[name] for name in ("CaSn", "DeviceSn")):
            kind, said = AnswerKind.UNCLEAR, "another certificate was shown"
        elif status == self._wanted:
            kind, said = AnswerKind.HOLDS, f"the certificate is {status}"
        elif status in STATUSES.values():
            kind, said = AnswerKind.ABSENT, f"the certificate is {status}"
        else:
            kind, said = AnswerKind.UNCLEAR, f"the certificate has the unknown status {status}"
        return replace(answer, kind=kind, message=said, result=None)
