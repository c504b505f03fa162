"""Steps that only read: one device certificate, or all of a CA or an instance, page by page.

A list operation is one page: one request, one result of a hundred certificates. So memory does not
grow with the fleet, and an interrupted run continues with the page where it stopped. A page that
may not be the last leads to an operation for the next one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from bulkcert.model import AttemptKind, AttemptResult, Operation
from bulkcert.providers.apsaramq.certificates import read_certificate, read_page
from bulkcert.providers.apsaramq.requests import PAGE_SIZE, get_request, list_request
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


class _Former(NamedTuple):
    """What is remembered of the page before.

    Attributes:
        number: of that page.
        digest: of its certificates; None before the first page.
        seen: certificates up to and including that page; None if not known.
    """

    number: int
    digest: int | None
    seen: int | None


class PageQuery:
    """The step of `list`; the result contains the certificates of the page.

    It remembers the page before of each list, see `Page.is_last`. In a list that is continued after
    a restart that is not known; then it may take one more request to find the end.

    Args:
        service: the certificate service.
        most_remembered: lists of which the page before is remembered; memory is bounded.
    """

    def __init__(self, service: CertificateService, *, most_remembered: int = 10_000) -> None:
        self._service = service
        self._most_remembered = most_remembered
        self._former: OrderedDict[tuple[object, ...], _Former] = OrderedDict()

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Read the page, and see whether there is another."""
        fields = self._service.fields(operation)
        request = list_request(self._service.instance_id, fields)
        call = await self._service.call(request, on_departure)
        if call.kind is not CallKind.OK:
            return call.as_attempt()
        number = int(fields.get("PageNo", 1))
        page = read_page(call.data, number, PAGE_SIZE)
        if page is None:
            return unexpected(call, f"page {number} of certificates").as_attempt()
        which = (operation.line, *(value for name, value in fields.items() if name != "PageNo"))
        former = self._before(which, number)
        seen = None if former.seen is None else former.seen + len(page.certificates)
        is_last = page.is_last(number, seen)
        message = f"page {number}: {len(page.certificates)} certificates"
        problem = ""
        if page.certificates and page.digest == former.digest:
            problem = ", the same as on the page before"
        elif not is_last and number >= LAST_PAGE:
            problem = ", and no end"
        if problem:
            refused = call._replace(kind=CallKind.REFUSED, message=f"{message}{problem}")
            return refused.as_attempt()
        next_page = None
        if is_last:
            message += ", the last"
        else:
            self._remember(which, _Former(number, page.digest, seen))
            next_page = {**operation.fields, "PageNo": number + 1}
        result = {"certificates": page.certificates}
        return AttemptResult(
            AttemptKind.DONE, call.code, message, call.request_id, result, next_page
        )

    def _before(self, which: tuple[object, ...], number: int) -> _Former:
        """What is known of the page before this one."""
        former = self._former.pop(which, None)
        if former is not None and former.number == number - 1:
            return former
        return _Former(number - 1, None, 0 if number == 1 else None)

    def _remember(self, which: tuple[object, ...], former: _Former) -> None:
        self._former[which] = former
        if len(self._former) > self._most_remembered:
            self._former.popitem(last=False)
