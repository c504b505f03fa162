"""What a look-up for a revocation concludes from a list with odd items. Nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from bulkcert.model import Fields, LookupKind, LookupResult, Operation
from bulkcert.providers.call import CallKind, CallResult, OnDeparture
from bulkcert.providers.enos.inventory import Listing, read_listing
from bulkcert.providers.enos.revocation import Revocation, revoked

FOREIGN = {"certSN": str(2**158 + 12345), "certStatus": 0, "isEnosCert": False}


def look_up(*items: Any) -> LookupResult:
    """Look up certificate 1001 in this list."""
    listing = read_listing(CallResult(CallKind.OK, 0, "OK", "R", list(items)))
    assert isinstance(listing, Listing)
    return revoked(listing, 1001)


def item(serial: object = 1001, status: object = 1) -> dict[str, Any]:
    return {"certSN": serial, "certStatus": status}


@pytest.mark.parametrize(
    "odd", [FOREIGN, item(77, 3), item("4A:3F"), item(77, None), None, {}, [], "52725"]
)
@pytest.mark.parametrize(
    ("status", "kind"),
    [(0, LookupKind.ABSENT), ("1", LookupKind.HOLDS), (2, LookupKind.ABSENT)],
)
def test_an_odd_item_does_not_hide_the_certificate_in_question(
    odd: Any, status: Any, kind: LookupKind
) -> None:
    assert look_up(odd, item(status=status)).kind is kind
    assert look_up(item("1001", status), odd).kind is kind


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([item(status=3)], "the certificate has the unknown status 3"),
        ([item(status=None)], "the certificate has the unknown status null"),
        ([item(), item(status=0)], "the certificate is listed twice, with different statuses"),
        ([item(7)], "the device's list does not have the certificate"),
        ([item(7), FOREIGN], "the device's list does not have the certificate"),
        (
            [item(7), item("4A:3F")],
            "the device's list contains a certificate without a readable serial number",
        ),
    ],
)
def test_what_the_list_does_not_settle_stays_open(items: list[Any], message: str) -> None:
    result = look_up(*items)
    assert (result.kind, result.message) == (LookupKind.UNCLEAR, message)


class _Service:
    """Stands in for the service: it lists these certificates."""

    def __init__(self, *items: Any) -> None:
        self._items = list(items)

    async def listing(self, operation: Operation, on_departure: OnDeparture) -> Listing:
        listing = read_listing(CallResult(CallKind.OK, 0, "OK", "R", self._items))
        assert isinstance(listing, Listing)
        return listing

    def fields(self, operation: Operation) -> Fields:
        return operation.fields


@pytest.mark.parametrize(
    ("others", "valid"),
    [
        ([item(7, 0), item(8, 2), FOREIGN], ["7", FOREIGN["certSN"]]),
        ([item(7, 1), item("4A:3F", 0)], []),  # what has no number can't be named
    ],
)
async def test_other_valid_certificates_are_named(others: list[Any], valid: list[str]) -> None:
    service: Any = _Service(item(), *others)
    result = await Revocation(service).look_up(Operation(1, 2, {"certSn": 1001}), lambda _: None)
    assert result.kind is LookupKind.HOLDS
    assert (result.result or {}).get("other_valid", []) == valid
    assert ("another valid certificate" in result.message) == bool(valid)
