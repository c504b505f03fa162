"""Device certificates as ApsaraMQ tells them: one by `Get`, a page of them by `List`. Pure.

The vendor sends every value as text. What is needed to decide must be of the documented type; the
rest is taken as it comes.
"""

from __future__ import annotations

from typing import Any

from bulkcert.providers.decoding import utc

INACTIVE, ACTIVE = "inactive", "active"
STATUSES = {"0": INACTIVE, "1": ACTIVE}
"""`Status` by what it means."""

RESULT_COLUMNS = (
    *("CaSn", "DeviceSn", "DeviceName", "Status", "ValidBegin", "ValidEnd", "DeviceContent"),
)


def read_certificate(item: object) -> dict[str, Any] | None:
    """A certificate as the reports show it, or None if this is none.

    All documented fields, the status by name (or as it came, if it has none), the times in UTC.
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
    """The certificates of a page, and whether it is the last; None if this is not that page.

    The last is one that is not full, or empty. `Total` is not looked at: the vendor's pages explain
    it in two ways, as pages and as certificates, and the printed sample fits neither.

    Args:
        body: the answer.
        asked_for: number of the page.
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
    """Unix milliseconds, sent as text, in UTC; anything else as it came."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 15:
        return utc(int(value))
    return value
