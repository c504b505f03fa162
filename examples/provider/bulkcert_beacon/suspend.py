"""Suspend one certificate.

Idempotent: Beacon refuses to suspend a suspended certificate, with `conflict`, and changes nothing.
So after a time-out the request may simply be sent again.
"""

from __future__ import annotations

from bulkcert.model import AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers.call import CallKind, OnDeparture
from bulkcert_beacon.client import Client
from bulkcert_beacon.get import read_certificate
from bulkcert_beacon.requests import get_request, suspend_request
from bulkcert_beacon.responses import NOT_FOUND


class Suspend:
    """The step of `suspend`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one suspension; a success must show the right certificate, and suspended."""
        fields = self._client.fields(operation)
        request = suspend_request(self._client.account, fields)
        call = await self._client.call(request, on_departure)
        if call.kind is CallKind.OK:
            certificate = read_certificate(call, fields["serial"])
            if certificate is None or certificate["status"] != "suspended":
                return call.unreadable("the response does not confirm it").as_attempt()
        return call.as_attempt()

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Look whether the certificate is suspended."""
        fields = self._client.fields(operation)
        call = await self._client.call(get_request(self._client.account, fields), on_departure)
        if call.kind is not CallKind.OK:
            if call.code == NOT_FOUND:  # there is nothing to act on
                return LookupResult(LookupKind.REFUSED, call.code, call.message, call.request_id)
            return call.as_failed_lookup("the look-up")
        certificate = read_certificate(call, fields["serial"])
        status = certificate["status"] if certificate else "not shown"
        kinds = {"suspended": LookupKind.HOLDS, "active": LookupKind.ABSENT}
        kind = kinds.get(status, LookupKind.UNCLEAR)
        return LookupResult(kind, call.code, f"the certificate is {status}", call.request_id)
