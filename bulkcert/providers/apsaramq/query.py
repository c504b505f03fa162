"""Steps that only read: one device certificate, or all of a CA or an instance, page by page.

A list operation is one page: one request, one result of a hundred certificates. So memory does not
grow with the fleet, and an interrupted run continues with the page where it stopped. A full page
leads to an operation for the next one.
"""

from __future__ import annotations

from bulkcert.model import AttemptKind, AttemptResult, Operation
from bulkcert.providers.apsaramq.certificates import read_certificate, read_page
from bulkcert.providers.apsaramq.requests import get_request, list_request
from bulkcert.providers.apsaramq.responses import unexpected
from bulkcert.providers.apsaramq.service import CertificateService
from bulkcert.providers.call import CallKind, OnDeparture

LAST_PAGE = 100_000
"""Ten million certificates. A provider that never shows a last page must not keep us forever."""


class CertificateQuery:
    """The step of `get`; the result contains the certificate."""

    def __init__(self, service: CertificateService) -> None:
        self._service = service

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Read the certificate; the response must show the one that was asked for."""
        fields = self._service.fields(operation)
        request = get_request(self._service.instance_id, fields)
        call = await self._service.call(request, on_departure)
        if call.kind is not CallKind.OK:
            return call.as_attempt()
        certificate = read_certificate(call.data.get("Data"))
        if certificate is None or any(certificate[n] != fields[n] for n in ("CaSn", "DeviceSn")):
            return unexpected(call, "this certificate").as_attempt()
        return call.as_attempt({"certificates": [certificate]})


class PageQuery:
    """The step of `list`; the result contains the certificates of the page."""

    def __init__(self, service: CertificateService) -> None:
        self._service = service

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Read the page, and see whether there is another."""
        fields = self._service.fields(operation)
        request = list_request(self._service.instance_id, fields)
        call = await self._service.call(request, on_departure)
        if call.kind is not CallKind.OK:
            return call.as_attempt()
        number = int(fields.get("PageNo", 1))
        page = read_page(call.data, number)
        if page is None:
            return unexpected(call, f"page {number} of certificates").as_attempt()
        certificates, is_last = page
        message = f"page {number}: {len(certificates)} certificates"
        if is_last:
            message += ", the last"
        elif number >= LAST_PAGE:
            refused = call._replace(kind=CallKind.REFUSED, message=f"{message}, and no end")
            return refused.as_attempt()
        next_page = None if is_last else {**operation.fields, "PageNo": number + 1}
        result = {"certificates": certificates}
        return AttemptResult(
            AttemptKind.DONE, call.code, message, call.request_id, result, next_page
        )
