"""The EnOS devices and certificates that exist, with their state.

In: the rows of a fleet file, and what the services do to certificates. Out: device and row numbers,
to be used with the columns here. The state is kept in arrays and not in objects: a million devices
fit, and the garbage collector has nothing to walk through. Nothing here knows about requests.

Without a fleet file every device exists: it gets its one valid certificate when it is first asked
for. So does a device of the file whose rows name no certificate.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from bulkcert.simulator.clock import DAY_S

NOT_REVOKED = 255
VALID, REVOKED, EXPIRED = 0, 1, 2
AUTHORITIES = ("RSA", "ECC")

_LARGEST_DERIVED = 1_000_000_000  # what is issued here comes after these ...
_LARGEST_TAKEN = 2_000_000_000  # ... and after those of the file, but stays an int32, as there


class Identity(NamedTuple):
    """How a request or row names a device; what it does not give is empty."""

    asset_id: str = ""
    product_key: str = ""
    device_key: str = ""

    def lookup_keys(self) -> list[str]:
        """The keys under which the device is found, one for each way in which it is named."""
        if not (self.product_key and self.device_key):
            return [self.asset_id] if self.asset_id else []
        key = f"{self.product_key}\0{self.device_key}"
        return [self.asset_id, key] if self.asset_id else [key]


class Fleet:
    """Devices and their certificates, by number.

    Args:
        open_world: a device that is not known exists all the same.
        signed_at_s: Unix time at which the certificates were issued that say nothing else.
        life_days: their days of validity.
    """

    def __init__(self, *, open_world: bool, signed_at_s: int, life_days: int) -> None:
        self._open_world = open_world
        self._signed_at_s = signed_at_s
        self._life_days = life_days
        self._devices: dict[str, int] = {}
        self._first = array("i")  # device -> its first row, -1 if it has none yet
        self._products: set[str] = set()
        # columns of the certificates
        self.serial = array("Q")
        self.reason = bytearray()  # why it was revoked, or NOT_REVOKED
        self.authority = bytearray()  # index into AUTHORITIES
        self.signed_at_s = array("I")
        self.expires_at_s = array("I")
        self.revoked_at_s = array("I")
        self._next = array("i")  # the device's next row, -1 after the last
        self._next_serial = _LARGEST_DERIVED + 1

    def known(self, identity: Identity) -> list[int]:
        """The devices that an identity names: none, one, or two where it contradicts itself."""
        return sorted(
            {self._devices[key] for key in identity.lookup_keys() if key in self._devices}
        )

    def devices(self, identity: Identity) -> list[int]:
        """The same, but in an open world a device exists from now on if it did not yet."""
        known = self.known(identity)
        return known or ([self.add_device(identity)] if self._open_world else [])

    def add_device(self, identity: Identity) -> int:
        """Make a device exist, or link a further way of naming it to it; returns its number.

        Raises:
            ValueError: the identity is empty.
        """
        keys = identity.lookup_keys()
        if not keys:
            raise ValueError("neither assetId nor productKey and deviceKey")
        device = len(self._first)
        for key in keys:
            device = self._devices.setdefault(key, device)
        if device == len(self._first):
            self._first.append(-1)
        if identity.product_key:
            self._products.add(identity.product_key)
        return device

    def has_product(self, product_key: str) -> bool:
        """Whether a product exists."""
        return self._open_world or product_key in self._products

    def bound(self, device: int) -> list[int]:
        """The certificates of a device, the oldest first; none if it was never asked for."""
        rows = []
        row = self._first[device]
        while row >= 0:
            rows.append(row)
            row = self._next[row]
        return rows

    def rows(self, device: int, identity: Identity, serial: int | None = None) -> list[int]:
        """The same, but a device that was never asked for gets its one certificate now.

        Args:
            serial: the serial number of that certificate, if it is not to be derived.
        """
        if self._first[device] < 0:
            self.add(device, _derived_serial(identity) if serial is None else serial)
        return self.bound(device)

    def add(
        self,
        device: int,
        serial: int,
        *,
        authority: int = 0,
        signed_at_s: int | None = None,
        expires_at_s: int | None = None,
    ) -> int:
        """Bind a certificate to a device; returns its row."""
        row = len(self.serial)
        signed_at_s = self._signed_at_s if signed_at_s is None else signed_at_s
        if expires_at_s is None:
            expires_at_s = signed_at_s + self._life_days * DAY_S
        self.serial.append(serial)
        self.reason.append(NOT_REVOKED)
        self.authority.append(authority)
        self.signed_at_s.append(signed_at_s)
        self.expires_at_s.append(expires_at_s)
        self.revoked_at_s.append(0)
        self._next.append(-1)
        last = self._first[device]
        if last < 0:
            self._first[device] = row
            return row
        while self._next[last] >= 0:
            last = self._next[last]
        self._next[last] = row
        return row

    def status(self, row: int, now_s: int) -> int:
        """VALID, REVOKED or EXPIRED."""
        if self.reason[row] != NOT_REVOKED:
            return REVOKED
        return EXPIRED if now_s >= self.expires_at_s[row] else VALID

    def revoke(self, row: int, reason: int, now_s: int) -> None:
        """Revoke a certificate for a reason by number."""
        self.reason[row] = reason
        self.revoked_at_s[row] = now_s

    def new_serial(self) -> int:
        """The next serial number of the authority; they are sequential."""
        serial = self._next_serial
        self._next_serial += 1
        return serial

    def take(self, row: Mapping[str, Any]) -> None:
        """Take a row of a fleet file; the same one again changes nothing.

        Raises:
            ValueError: a value can't be used.
            OverflowError: a number is too large, or negative.
        """
        get = row.get  # a file may have a million rows, so what is not there must cost nothing
        identity = Identity(
            str(get("assetId") or ""), str(get("productKey") or ""), str(get("deviceKey") or "")
        )
        device = self.add_device(identity)
        value = get("certSn")
        if value is None or value == "":
            return
        serial = int(value)
        if self._first[device] >= 0 and serial in [self.serial[row] for row in self.bound(device)]:
            return
        authority, expires = get("issueAuthority"), get("expireDate")
        signed = get("effetiveDate") or get("effectiveDate")
        number = self.add(
            device,
            serial,
            authority=AUTHORITIES.index(authority.upper()) if authority else 0,
            signed_at_s=int(signed) // 1000 if signed else None,
            expires_at_s=int(expires) // 1000 if expires else None,
        )
        if (status := get("certStatus")) and int(status) == REVOKED:
            self.revoke(number, 0, self.signed_at_s[number])
        if self._next_serial <= serial < _LARGEST_TAKEN:
            self._next_serial = serial + 1


def _derived_serial(identity: Identity) -> int:
    """A serial number that a device always gets, whatever else happened before."""
    digest = blake2b(identity.lookup_keys()[0].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _LARGEST_DERIVED + 1
