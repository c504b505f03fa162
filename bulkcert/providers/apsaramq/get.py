"""Read one device certificate."""

from __future__ import annotations

from dataclasses import replace

from bulkcert.model import Answer, Operation
from bulkcert.providers.apsaramq.certificates import read_certificate
from bulkcert.providers.apsaramq.handler import MqttReadingHandler, misread
from bulkcert.providers.apsaramq.requests import get_request
from bulkcert.providers.call import Request


class Get(MqttReadingHandler):
    """Performs `get`; the result holds the certificate."""

    def question(self, operation: Operation) -> Request:
        """Ask for the certificate."""
        return get_request(self._instance_id, self.fields(operation))

    def read(self, operation: Operation, answer: Answer) -> Answer:
        """Take the certificate, if it is the one that was asked for."""
        certificate = read_certificate(answer.result.get("Data"))
        fields = self.fields(operation)
        if certificate is None or any(certificate[n] != fields[n] for n in ("CaSn", "DeviceSn")):
            return misread(answer, "this certificate")
        return replace(answer, result={"certificates": [certificate]})
