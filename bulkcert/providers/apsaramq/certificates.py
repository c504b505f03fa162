"""Device certificates in responses of ApsaraMQ: one from `Get`, a page of them from `List`. Pure.

The vendor sends every value as text. Values that a decision depends on must have the documented
type; all others are passed on unchanged.
"""

from __future__ import annotations

from typing import Any

from bulkcert.providers.decoding import utc

INACTIVE, ACTIVE = "inactive", "active"
STATUSES = {"0": INACTIVE, "1": ACTIVE}
"""The meaning of each `Status`."""

RESULT_COLUMNS = (
    *("CaSn", "DeviceSn", "DeviceName", "Status", "ValidBegin", "ValidEnd", "DeviceContent"),
)


def read_certificate(item: object) -> dict[str, Any] | None:
    """Return a certificate as the reports show it, or None if the item is not a certificate.

    It has all documented fields. The status is given by name, or unchanged if it is unknown; times
    are in UTC.
    """
    if not isinstance(item, dict):
        return None
    names = [item.get(name) for name in ("CaSn", "DeviceSn", "Status")]
    if not all(isinstance(name, str) and name for name in names):
        return None
    certificate = {name: item.get(name) for name in RESULT_COLUMNS}
    certificate["Status"] = STATUSES.get(item["Status"], item["Status"])
    for name in ("ValidBegin", "ValidEnd"):
        certificate[name] = _time(item.get(name))
    return certificate


def read_page(body: object, asked_for: int) -> tuple[list[dict[str, Any]], bool] | None:
    """Return the certificates of a page, and whether it is the last page.

    The last page is empty, or not full. `Total` is ignored: the vendor's pages call it the number
    of pages in one place and of certificates in another, and their sample fits neither.

    Args:
        body: the body of the response.
        asked_for: number of the page that was asked for.

    Returns:
        None if the body is not that page.
    """
    data = body.get("Data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or data.get("PageNo") != asked_for:
        return None
    items, size = data.get("DeviceCertificateVOS"), data.get("PageSize")
    if not isinstance(items, list) or not isinstance(size, int):
        return None
    certificates = [certificate for item in items if (certificate := read_certificate(item))]
    if len(certificates) < len(items):
        return None
    return certificates, not items or len(items) < size


def _time(value: object) -> Any:
    """Convert Unix milliseconds, sent as text, to UTC; return anything else unchanged."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 15:
        return utc(int(value))
    return value
