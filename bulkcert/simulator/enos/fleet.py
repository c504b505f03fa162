"""The EnOS devices and certificates that exist, with their state.

In: the rows of a fleet file, and the changes that the services make. Out: device numbers, and row
numbers for the columns here. The state is kept in arrays, not in objects: a million devices fit
into memory, and the garbage collector has nothing to traverse. Nothing here knows about requests.

Without a fleet file every device exists, and gets one valid certificate when a request first asks
for it. So does a device of the file whose rows name no certificate, unless such devices are bare.
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

# Serial numbers of new certificates follow the derived ones and those of the fleet file. The upper
# bound keeps them within an int32, like the vendor's.
_LARGEST_DERIVED = 1_000_000_000
_LARGEST_FOLLOWED = 2_000_000_000


class Identity(NamedTuple):
    """How a request or row identifies a device; names that are not given are empty."""

    asset_id: str = ""
    product_key: str = ""
    device_key: str = ""
    org_id: str = ""

    def lookup_keys(self) -> list[str]:
        """The keys under which the device is stored, one per name given."""
        scope = f"{self.org_id}\0\0" if self.org_id else ""
        keys = [f"{scope}{self.asset_id}"] if self.asset_id else []
        if self.product_key and self.device_key:
            keys.append(f"{scope}{self.product_key}\0{self.device_key}")
        return keys


class Fleet:
    """Devices and their certificates, by number.

    Args:
        open_world: a device that is not in the fleet file exists as well.
        bare_devices: a device of the file whose rows name no certificate has none.
        signed_at_s: Unix time at which certificates were issued, unless their row says otherwise.
        life_days: days of validity of certificates, unless their row says otherwise.

    Attributes:
        serial: serial number of each certificate.
        reason: why it was revoked, or `NOT_REVOKED`.
        authority: index into `AUTHORITIES`.
        signed_at_s, expires_at_s, revoked_at_s: Unix times; 0 if it was not revoked.
    """

    def __init__(
        self, *, open_world: bool, signed_at_s: int, life_days: int, bare_devices: bool = False
    ) -> None:
        self._open_world = open_world
        self._bare_devices = bare_devices and not open_world
        self._signed_at_s = signed_at_s
        self._life_days = life_days
        self._devices: dict[str, int] = {}
        self._first = array("i")  # device -> its first row; -1 if it has none yet
        self._products: set[str] = set()
        self._org_ids: set[str] = set()  # empty if devices belong to all organizations
        # columns of the certificates
        self.serial = array("Q")
        self.reason = bytearray()
        self.authority = bytearray()
        self.signed_at_s = array("I")
        self.expires_at_s = array("I")
        self.revoked_at_s = array("I")
        self._next = array("i")  # the same device's next row; -1 after the last
        self._next_serial = _LARGEST_DERIVED + 1

    def known(self, identity: Identity) -> list[int]:
        """The devices that an identity names: none, one, or two if the names disagree.

        An identity without an organization names devices of all organizations.
        """
        org_ids = {identity.org_id} if identity.org_id and self._org_ids else self._org_ids or {""}
        keys = [key for org_id in org_ids for key in identity._replace(org_id=org_id).lookup_keys()]
        return sorted({self._devices[key] for key in keys if key in self._devices})

    def devices(self, identity: Identity) -> list[int]:
        """Like `known`, but in an open world an unknown device is added."""
        known = self.known(identity)
        return known or ([self.add_device(self._scoped(identity))] if self._open_world else [])

    def add_device(self, identity: Identity) -> int:
        """Add a device, or link another name to an existing one; returns its number.

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
        """The certificates of a device, oldest first; none if no request asked for them yet."""
        rows = []
        row = self._first[device]
        while row >= 0:
            rows.append(row)
            row = self._next[row]
        return rows

    def rows(self, device: int, identity: Identity, serial: int | None = None) -> list[int]:
        """Like `bound`, but a device without certificates gets one now, unless it is bare.

        Args:
            serial: serial number of that certificate; None derives it from the identity.
        """
        if self._first[device] < 0 and not self._bare_devices:
            derived = _derived_serial(self._scoped(identity))
            self.add(device, derived if serial is None else serial)
        return self.bound(device)

    def _scoped(self, identity: Identity) -> Identity:
        """The identity without its organization, if devices belong to all organizations."""
        return identity if self._org_ids else identity._replace(org_id="")

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
        """`VALID`, `REVOKED` or `EXPIRED`."""
        if self.reason[row] != NOT_REVOKED:
            return REVOKED
        return EXPIRED if now_s >= self.expires_at_s[row] else VALID

    def revoke(self, row: int, reason: int, now_s: int) -> None:
        """Revoke a certificate; `reason` is the number of the vendor's reason."""
        self.reason[row] = reason
        self.revoked_at_s[row] = now_s

    def new_serial(self) -> int:
        """The next serial number. Serial numbers are sequential, as the vendor's are."""
        serial = self._next_serial
        self._next_serial += 1
        return serial

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add a row of a fleet file. Adding the same row again changes nothing.

        Raises:
            ValueError: a value is invalid, or the organization is in some rows only.
            OverflowError: a number is too large, or negative.
        """
        get = row.get  # bound once: a file may have a million rows
        identity = Identity(
            str(get("assetId") or ""),
            str(get("productKey") or ""),
            str(get("deviceKey") or ""),
            str(get("orgId") or ""),
        )
        if self._devices and bool(self._org_ids) != bool(identity.org_id):
            raise ValueError("orgId is in some rows only")
        if identity.org_id:
            self._org_ids.add(identity.org_id)
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
        if self._next_serial <= serial < _LARGEST_FOLLOWED:
            self._next_serial = serial + 1


def _derived_serial(identity: Identity) -> int:
    """A serial number that depends on the identity only, not on what happened before."""
    digest = blake2b(identity.lookup_keys()[0].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _LARGEST_DERIVED + 1
