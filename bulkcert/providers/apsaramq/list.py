"""List the device certificates of a CA, or of a whole instance, page by page.

An operation is one page: that is one request, and one result of a hundred certificates, so that
memory does not grow with the fleet, and a run that is interrupted goes on with the page that it was
at. A full page asks for an operation on the next one.
"""

from __future__ import annotations

from dataclasses import replace

from bulkcert.model import Answer, AnswerKind, Operation
from bulkcert.providers.apsaramq.certificates import read_page
from bulkcert.providers.apsaramq.handler import MqttReadingHandler, misread
from bulkcert.providers.apsaramq.requests import list_request
from bulkcert.providers.call import Request

LAST_PAGE = 100_000
"""Ten million certificates. A provider that never shows a last page must not keep us for ever."""


class List(MqttReadingHandler):
    """Performs `list`; the result holds the certificates of the page."""

    def question(self, operation: Operation) -> Request:
        """Ask for the page."""
        return list_request(self._instance_id, self.fields(operation))

    def read(self, operation: Operation, answer: Answer) -> Answer:
        """Take the page, and see whether there is another."""
        number = int(self.fields(operation).get("PageNo", 1))
        page = read_page(answer.result, number)
        if page is None:
            return misread(answer, f"page {number} of certificates")
        certificates, is_last = page
        said = f"page {number}: {len(certificates)} certificates"
        if not is_last and number >= LAST_PAGE:
            return replace(
                answer, kind=AnswerKind.REFUSED, message=f"{said}, and no end", result=None
            )
        return replace(
            answer,
            message=f"{said}, the last" if is_last else said,
            result={"certificates": certificates},
            then=None if is_last else {**operation.fields, "PageNo": number + 1},
        )
