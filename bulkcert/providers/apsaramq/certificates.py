"""Device certificates in responses of ApsaraMQ: one from `Get`, a page of them from `List`. Pure.

The vendor sends every value as text. Numbers are read as the text of their digits. What a decision
depends on must be readable; an item of a page that is not is shown as it came, and hides no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bulkcert import public_keys
from bulkcert.providers.decoding import (
    as_received,
    bounded_text,
    integer,
    one_line,
    storable,
    truth,
    utc,
)

INACTIVE, ACTIVE = "inactive", "active"
STATUSES = {"0": INACTIVE, "1": ACTIVE}
"""The meaning of each `Status`."""

RESULT_COLUMNS = (
    *(
        "CaSn",
        "DeviceSn",
        "DeviceName",
        "Status",
        "ValidBegin",
        "ValidEnd",
        "public_key_sha256",
        "DeviceContent",
    ),
)

_LONGEST_SN = 200  # characters; the vendor allows 128 bytes
_YEAR_10000_MS = 253_402_300_800_000  # the first moment that `datetime` can't represent


def serial_number(value: object) -> str:
    """A serial number in a response: text, or the digits of a number; empty if it is neither.

    A number has lost its leading zeros: then it does not equal the serial number that was asked
    for, and nothing is decided.
    """
    return bounded_text(value, _LONGEST_SN)


def read_certificate(item: object) -> dict[str, Any] | None:
    """Return a certificate as the reports show it, or None if the item is not a certificate.

    It has all documented fields. The status is given by name, or as it came if it is unknown; times
    are in UTC.
    """
    if not isinstance(item, dict):
        return None
    certificate = _shown(item)
    return certificate if all(certificate[n] for n in ("CaSn", "DeviceSn", "Status")) else None


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    status = one_line(item.get("Status"), 100)
    content = bounded_text(item.get("DeviceContent"))
    pem = content.replace(r"\r", "").replace(r"\n", "\n")
    return {
        "CaSn": serial_number(item.get("CaSn")),
        "DeviceSn": serial_number(item.get("DeviceSn")),
        "DeviceName": storable(item.get("DeviceName")),
        "Status": STATUSES.get(status, status),
        "ValidBegin": _time(item.get("ValidBegin")),
        "ValidEnd": _time(item.get("ValidEnd")),
        "public_key_sha256": public_keys.of_certificate(pem),
        "DeviceContent": pem,
    }


def _as_it_came(item: object) -> dict[str, Any]:
    known = _shown(item if isinstance(item, dict) else {})
    return known | {"as_received": as_received(item)}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        certificates: as the reports show them.
        is_full: it has as many certificates as a page can have.
        total: `Total`, if that is a number.
        has_more: what the provider says about further pages; None if it does not.
    """

    certificates: list[dict[str, Any]]
    is_full: bool
    total: int | None
    has_more: bool | None

    @property
    def digest(self) -> int:
        """Equal for pages of the same certificates, in this process."""
        return hash(tuple((item["CaSn"], item["DeviceSn"]) for item in self.certificates))

    def is_last(self, number: int, seen: int | None) -> bool:
        """Whether no page follows.

        An empty page is the last one. `Total` is not trusted, because the vendor calls it the
        number of pages in one place and of certificates in another, and the printed sample fits
        neither. So it ends a list only after a page that is not full, and where it can be read as
        the number of pages up to here, or is exactly the number of certificates up to here.

        Args:
            number: of this page.
            seen: certificates up to and including this page; None if not known.
        """
        if not self.certificates or self.has_more is not None:
            return not self.certificates or not self.has_more
        if self.is_full or not self.total:
            return False
        return self.total <= number or self.total == seen


def read_page(body: object, asked_for: int, page_size: int) -> Page | None:
    """Read the body of a response to a list.

    Args:
        body: the body of the response.
        asked_for: number of the page that was asked for.
        page_size: certificates on a full page, unless the response says otherwise.

    Returns:
        None if the body is not that page.
    """
    data = body.get("Data") if isinstance(body, dict) else None
    if not isinstance(data, dict) or integer(data.get("PageNo")) != asked_for:
        return None
    items = data.get("DeviceCertificateVOS")
    if items is None:
        items = []  # some services write no list for an empty one
    if not isinstance(items, list):
        return None
    certificates = [read_certificate(item) or _as_it_came(item) for item in items]
    if items and not any(map(read_certificate, items)):
        return None
    return Page(
        certificates,
        len(items) >= (integer(data.get("PageSize")) or page_size),
        integer(data.get("Total")),
        truth(data.get("HasMore")),
    )


def _time(value: object) -> Any:
    """Convert Unix milliseconds to UTC; return anything else as it came."""
    milliseconds = integer(value)
    if milliseconds is None or not 0 <= milliseconds < _YEAR_10000_MS:
        return storable(value)
    return utc(milliseconds)
