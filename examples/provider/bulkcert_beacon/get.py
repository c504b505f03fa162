"""Read one certificate."""

from __future__ import annotations

from typing import Any

from bulkcert.model import AttemptResult, Operation
from bulkcert.providers.call import CallKind, CallResult, OnDeparture
from bulkcert_beacon.client import Client
from bulkcert_beacon.requests import get_request


class Get:
    """The step of `get`. It only reads, so it needs no look-up."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Read the certificate; the response must show the one that was asked for."""
        fields = self._client.fields(operation)
        call = await self._client.call(get_request(self._client.account, fields), on_departure)
        if call.kind is not CallKind.OK:
            return call.as_attempt()
        certificate = read_certificate(call, fields["serial"])
        if certificate is None:
            return call.unreadable("the response shows another certificate").as_attempt()
        return call.as_attempt({"certificates": [certificate]})


def read_certificate(call: CallResult, serial: object) -> dict[str, Any] | None:
    """Return the certificate in a response, or None if it is not the one with this serial."""
    certificate = {name: call.data.get(name) for name in ("serial", "device", "status")}
    good = certificate["serial"] == serial and isinstance(certificate["status"], str)
    return certificate if good else None
