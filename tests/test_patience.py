"""When a first call has no hope, and when it is worth another try."""

from __future__ import annotations

import pytest

from bulkcert.providers.call import CallKind, CallResult
from bulkcert.providers.patience import Patience

PAGE = CallResult(CallKind.DISPUTED, 400, "an HTML page", account_wide=True)
REFUSED = CallResult(CallKind.REFUSED, 99403, "no permission", account_wide=True)
UNUSABLE = CallResult(CallKind.UNUSABLE, None, "TLS can't verify the certificate")
LOST = CallResult(CallKind.IN_DOUBT, 502, "an HTML page")
OWN = CallResult(CallKind.REFUSED, 11404, "device cannot be found")


@pytest.mark.parametrize(
    ("results", "hopeless"),
    [
        ([REFUSED], True),
        ([UNUSABLE], True),
        ([OWN], False),
        ([LOST, LOST], False),
        ([PAGE], False),
        ([PAGE, PAGE], True),
        ([PAGE, LOST, PAGE], False),
        ([PAGE, REFUSED], True),
        ([LOST, PAGE, PAGE], True),
    ],
)
def test_a_page_from_something_in_front_has_a_second_try(
    results: list[CallResult], hopeless: bool
) -> None:
    patience = Patience(10.0, longest_backoff_s=2.0)
    *before, last = map(patience.hopeless, results)
    assert not any(before)
    assert last is hopeless
