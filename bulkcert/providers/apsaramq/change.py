"""Inactivate, activate or delete one device certificate.

All three are idempotent. Setting a status that is already set does no harm. And a certificate that
was deleted can be deleted again only if its device has registered it anew in the meantime, by
connecting; then the operator wants that one gone as well.

What the provider answers when the status is already set is not documented. It may be success, so a
success may mean that nothing changed; or a refusal, which is looked up.
"""

from __future__ import annotations

from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Fields,
    LookupKind,
    LookupResult,
    Operation,
)
from bulkcert.providers.apsaramq.advice import NOT_FOUND
from bulkcert.providers.apsaramq.certificates import (
    STATUSES,
    read_certificate,
    serial_number,
)
from bulkcert.providers.apsaramq.requests import change_request, get_request
from bulkcert.providers.apsaramq.responses import unexpected
from bulkcert.providers.apsaramq.service import CertificateService
from bulkcert.providers.apsaramq.verification import UNREGISTERED, WANTED
from bulkcert.providers.call import CallKind, CallResult, OnDeparture


class StatusChange:
    """The step of `inactivate`, `activate` and `delete`.

    Args:
        service: the certificate service.
        action: one of the three names.
    """

    def __init__(self, service: CertificateService, action: str) -> None:
        self._service = service
        self._action = action
        self._wanted = WANTED[action]

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send the change; a success must name the device that was asked for."""
        fields = self._service.fields(operation)
        request = change_request(self._action, self._service.instance_id, fields)
        call = await self._service.call(request, on_departure)
        echo = serial_number(call.data.get("DeviceSn")) if call.kind is CallKind.OK else ""
        if call.kind is CallKind.OK and echo != fields["DeviceSn"]:
            return unexpected(call, "this certificate").as_attempt()
        absent = call.kind is CallKind.REFUSED and call.code == NOT_FOUND
        if absent and self._wanted == UNREGISTERED:
            return call.as_attempt()._replace(kind=AttemptKind.DISPUTED)  # as wanted, perhaps
        return call.as_attempt()

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Read the certificate, and compare its status."""
        fields = self._service.fields(operation)
        request = get_request(self._service.instance_id, fields)
        call = await self._service.call(request, on_departure)
        if call.kind is CallKind.OK:
            return self._judge(fields, call)
        result = call.as_failed_lookup("the look-up")
        if call.kind is not CallKind.REFUSED or call.code != NOT_FOUND:
            return result
        if self._wanted == UNREGISTERED:
            message = "no such certificate is registered"
            return result._replace(kind=LookupKind.HOLDS, message=message)
        return result._replace(kind=LookupKind.REFUSED, message=call.message)  # nothing to act on

    def _judge(self, fields: Fields, call: CallResult) -> LookupResult:
        certificate = read_certificate(call.data.get("Data"))
        if certificate is None:
            return unexpected(call, "a certificate").as_failed_lookup("the look-up")
        status = certificate["Status"]
        message = f"the certificate is {status}"
        if any(certificate[name] != fields[name] for name in ("CaSn", "DeviceSn")):
            kind, message = LookupKind.UNCLEAR, "the response shows another certificate"
        elif status == self._wanted:
            kind = LookupKind.HOLDS
        elif status in STATUSES.values():
            kind = LookupKind.ABSENT
        else:
            kind, message = LookupKind.UNCLEAR, f"the certificate has the unknown status {status}"
        return LookupResult(kind, call.code, message, call.request_id)
