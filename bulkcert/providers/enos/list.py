"""List all certificates of one device. Changes nothing, so nothing is ever in doubt."""

from __future__ import annotations

from dataclasses import replace

from bulkcert.model import Answer, AnswerKind, Operation
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.handler import EnosHandler
from bulkcert.providers.enos.inventory import Certificate, read_certificates
from bulkcert.providers.enos.requests import list_request


class List(EnosHandler):
    """Performs `list`; the result holds every certificate of the device."""

    def idempotent(self, operation: Operation) -> bool:
        """Reading twice does no harm."""
        return True

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send one `list` call."""
        request = list_request(self._org_id, self.fields(operation))
        answer = await self.send(request, on_departure)
        certificates = read_certificates(answer)
        if isinstance(certificates, Answer):
            if certificates.kind is AnswerKind.UNCLEAR:  # there is nothing else to look at
                return replace(answer, kind=AnswerKind.REFUSED, result=None)
            return replace(certificates, result=None)
        result = {"certificates": [certificate.as_result() for certificate in certificates]}
        return replace(answer, result=result)

    def judge(
        self, operation: Operation, certificates: list[Certificate], answer: Answer
    ) -> Answer:
        """Never asked: nothing is in doubt."""
        raise NotImplementedError
