"""Both vendors without a network: what the server serves, and the fake transport asks directly.

In: how they behave, and the rows of what exists. Out: the vendor that a request is for. Limits,
tokens and certificates are kept here; connections, latency and faults are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkcert.simulator.apsaramq.gateway import PATH, ApsaraMq
from bulkcert.simulator.apsaramq.registry import Registry
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import DAY_S, SECOND_US
from bulkcert.simulator.enos.fleet import Fleet
from bulkcert.simulator.enos.gateway import Enos
from bulkcert.simulator.exchange import CertificateState, Vendor
from bulkcert.simulator.fleet_file import read_rows


class Vendors:
    """EnOS and ApsaraMQ, each with the devices that exist.

    Args:
        behaviour: how they behave.
        now_us: Unix time in microseconds.
        open_world: every device that is asked for exists; otherwise those of `add_row` do.

    Attributes:
        enos, apsaramq: the vendors.
    """

    def __init__(self, behaviour: Behaviour, now_us: int, *, open_world: bool) -> None:
        now_s = now_us // SECOND_US
        self._fleet = Fleet(
            open_world=open_world,
            signed_at_s=now_s - int(behaviour.certificate_age * DAY_S),
            life_days=behaviour.certificate_life,
            bare_devices=behaviour.bare_devices,
        )
        self._registry = Registry(open_world=open_world, case_sensitive=behaviour.mq_sn_case)
        self.enos = Enos(behaviour, self._fleet, now_s)
        self.apsaramq = ApsaraMq(behaviour, self._registry, now_us)

    def add_file(self, path: Path) -> None:
        """Add each row of a fleet file to the vendor that it belongs to.

        Raises:
            OSError: the file can't be read.
            ValueError: the file is invalid.
        """
        for line, row in read_rows(path):
            try:
                self.add_row(row)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{path}, row {line}: {error}") from None

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add a device or a certificate; see `Fleet.add_row` and `Registry.add_row`."""
        mqtt = "CaSn" in row or "MqttInstanceId" in row
        (self._registry.add_row if mqtt else self._fleet.add_row)(row)

    def serving(self, path: str) -> Vendor:
        """The vendor that a request with this path is for."""
        return self.apsaramq if path == PATH else self.enos

    def certificates(self, named: dict[str, str], now_us: int) -> list[CertificateState]:
        """The certificates of a device, as far as requests have mentioned it."""
        vendor: Vendor = self.apsaramq if "CaSn" in named else self.enos
        return vendor.certificates(named, now_us)

    async def close(self) -> None:
        """Stop the process of the certificate authorities, if it was needed."""
        await self.enos.authority.close()
