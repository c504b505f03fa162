"""The device certificates that ApsaraMQ knows, and whether they are active.

In: the rows of a fleet file, and the changes that the service makes. Out: row numbers, and pages of
them in order of registration. Serial numbers are opaque text: they are never parsed, and leading
zeros and letter case are significant. Nothing here knows about requests.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

INACTIVE, ACTIVE = 0, 1

_UNNAMED = 150
"""Certificates of a CA or instance that a file names alone: more than one full page of a list."""


class Name(NamedTuple):
    """What identifies a device certificate. An empty instance stands for all instances."""

    instance: str
    ca_sn: str
    device_sn: str


class Registry:
    """Device certificates by row number.

    Args:
        open_world: a certificate that is not registered exists as well, and is active.
        case_sensitive: serial numbers that differ in letter case are different.
    """

    def __init__(self, *, open_world: bool, case_sensitive: bool) -> None:
        self._open_world = open_world
        self._case_sensitive = case_sensitive
        self._in_all_instances = False  # the fleet file names no instances
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self.status = bytearray()
        self._rows_of: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))

    def find(self, name: Name) -> int | None:
        """The row of a certificate, or None. In an open world, registers it if necessary."""
        row = self._rows.get(self._key(name))
        return self._add(name) if row is None and self._open_world else row

    def known(self, ca_sn: str, device_sn: str) -> list[int]:
        """The rows of a certificate in all instances."""
        instances = {name.split("\0", 1)[0] for name in self._rows_of}
        keys = [self._key(Name(instance, ca_sn, device_sn)) for instance in sorted(instances)]
        return [self._rows[key] for key in dict.fromkeys(keys) if key in self._rows]

    def name(self, row: int) -> Name:
        """What identifies the certificate of a row, as first written."""
        return Name(*self._names[row].split("\0"))

    def delete(self, row: int) -> None:
        """Remove a certificate from the registry."""
        name = self.name(row)
        del self._rows[self._key(name)]
        for group in self._groups(name):
            rows = self._rows_of[group]
            del rows[bisect_left(rows, row)]

    def page(
        self, instance: str, ca_sn: str | None, start: int, size: int
    ) -> tuple[int, list[int]]:
        """The number of certificates of an instance, or of a CA in it; and a page of their rows."""
        name = Name(self._instance(instance), ca_sn or "", "")
        group = self._groups(name)[0 if ca_sn is None else 1]
        rows = self._rows_of.get(group, array("q"))
        return len(rows), list(rows[start : start + size])

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add a row of a fleet file: CaSn, DeviceSn, and optionally MqttInstanceId and Status.

        A row without the field DeviceSn gives its CA, or its instance, some certificates.

        Raises:
            ValueError: a serial number is missing, or the instance is in some rows only.
        """
        name = Name(
            str(row.get("MqttInstanceId") or ""),
            str(row.get("CaSn") or ""),
            str(row.get("DeviceSn") or ""),
        )
        unnamed = "DeviceSn" not in row
        if not unnamed and not (name.ca_sn and name.device_sn):
            raise ValueError("CaSn or DeviceSn is missing")
        if self._names and self._in_all_instances == bool(name.instance):
            raise ValueError("MqttInstanceId is in some rows only")
        self._in_all_instances = not name.instance
        status = INACTIVE if str(row.get("Status")) == "0" else ACTIVE
        numbers = [f"{n:018}" for n in range(_UNNAMED)] if unnamed else [name.device_sn]
        for number in numbers:
            one = name._replace(ca_sn=name.ca_sn or "0", device_sn=number)
            if self._key(one) not in self._rows:
                self._add(one, status)

    def _add(self, name: Name, status: int = ACTIVE) -> int:
        name = name._replace(instance=self._instance(name.instance))
        row = len(self._names)
        self._rows[self._key(name)] = row
        self._names.append("\0".join(name))
        self.status.append(status)
        for group in self._groups(name):
            self._rows_of[group].append(row)
        return row

    def _instance(self, instance: str) -> str:
        return "" if self._in_all_instances else instance

    def _key(self, name: Name) -> str:
        key = "\0".join((self._instance(name.instance), name.ca_sn, name.device_sn))
        return key if self._case_sensitive else key.casefold()

    def _groups(self, name: Name) -> tuple[str, str]:
        """The two lists that contain a certificate: of its instance, and of its CA there."""
        ca_sn = name.ca_sn if self._case_sensitive else name.ca_sn.casefold()
        return f"{name.instance}\0", f"{name.instance}\0\0{ca_sn}"
