"""The simulator's client of the authority process: orders, and what was issued.

In: which certificate to issue, for whom, and how long it is valid. Out: PEM texts, later.
`authority_process` does the work; it is started when first needed, and waiting for it never blocks
the event loop. Nothing here decides whether a certificate may be issued.
"""

from __future__ import annotations

import asyncio
import os
import sys
from base64 import b64encode
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import orjson

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import DAY_S
from bulkcert.simulator.enos.fleet import AUTHORITIES, REVOKED, Fleet

Name = tuple[tuple[str, str], ...]
"""A distinguished name: dotted object identifiers and values, in the order of the DER encoding."""

_LABELS = {
    "2.5.4.6": "C",
    "2.5.4.8": "ST",
    "2.5.4.7": "L",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.3": "CN",
    "1.2.840.113549.1.9.1": "EMAILADDRESS",
}
_OIDS = {label: oid for oid, label in _LABELS.items()}
_LINE_LIMIT = 1 << 28  # a revocation list is one line
_ROWS_AT_ONCE = 2_000


def make_name(**attributes: str) -> Name:
    """A distinguished name from attributes given by label, such as `CN`."""
    return tuple((_OIDS[label], value) for label, value in attributes.items())


def format_name(name: Name) -> str:
    """A distinguished name as text, as the vendor's `list` shows it: last attribute first."""
    return ", ".join(f"{_LABELS.get(oid, oid)}={value}" for oid, value in reversed(name))


_PLACE = {"C": "CN", "ST": "Shanghai", "L": "Shanghai", "O": "EnOS"}
_MAIL = "ca@example.com"
ISSUERS = (
    make_name(**_PLACE, OU="EnOS CA", CN="EnOS CA", EMAILADDRESS=_MAIL),
    make_name(**_PLACE, OU="EnOS Cloud", CN="EnOS ECC CA", EMAILADDRESS=_MAIL),
)
"""Names of the authorities, in the order of `AUTHORITIES`."""


def device_name(serial: int) -> Name:
    """The subject of a certificate that the fleet had from the start."""
    mail = "device@example.com"
    return make_name(**_PLACE, CN=f"device-{serial}", OU="EnOS", EMAILADDRESS=mail)


@dataclass(slots=True)
class Issued:
    """A certificate that was ordered from the process.

    Attributes:
        public_key: DER; or `RSA` or `ECC` for the factory key of that kind.
        pem: the certificate, once it is ready.
    """

    subject: Name
    public_key: bytes
    pem: asyncio.Future[str]


class Authority:
    """Both root authorities, RSA and ECC, and every certificate that they issued.

    Attributes:
        expires_at_s: Unix time at which the root certificates expire.
        portal: base URL of the public files; must be set before the first order.
    """

    def __init__(self, behaviour: Behaviour, fleet: Fleet, now_s: int) -> None:
        self._fleet = fleet
        self._crl_every_s = int(behaviour.crl_every)
        self._made_at_s = now_s
        self.expires_at_s = now_s + behaviour.ca_life * DAY_S
        self._numbers = count(1)
        self._pending: dict[int, asyncio.Future[str]] = {}
        self._issued: dict[int, Issued] = {}  # by row of the fleet
        self._lists: dict[int, tuple[int, asyncio.Future[str]]] = {}
        self._roots: asyncio.Future[list[str]] | None = None
        self._orders: asyncio.StreamWriter | None = None
        self._waiting: list[bytes] = []  # orders placed before the process was ready
        self._serving: asyncio.Task[None] | None = None
        self.portal = ""

    def subject(self, row: int) -> Name:
        """The subject of a certificate."""
        issued = self._issued.get(row)
        return issued.subject if issued else device_name(self._fleet.serial[row])

    def public_key(self, row: int) -> bytes:
        """The public key of a certificate, in the form that `Issued` describes."""
        issued = self._issued.get(row)
        return issued.public_key if issued else AUTHORITIES[self._fleet.authority[row]].encode()

    def has_issued(self, row: int) -> bool:
        """Whether the certificate was ordered from the process."""
        return row in self._issued

    def made_pem(self, row: int) -> str | None:
        """The text of a certificate that was ordered, if it is ready."""
        issued = self._issued.get(row)
        done = issued and issued.pem.done() and not issued.pem.cancelled()
        return issued.pem.result() if issued and done else None

    def order(self, row: int, subject: Name, public_key: bytes) -> None:
        """Order the certificate of a row. It exists at once; only its text comes later."""
        fleet = self._fleet
        pem = self._send(
            {
                "authority": fleet.authority[row],
                "serial": fleet.serial[row],
                "subject": subject,
                "public_key": b64encode(public_key).decode(),
                "from_s": fleet.signed_at_s[row],
                "to_s": fleet.expires_at_s[row],
                "crl_url": f"{self.portal}/enos/CA/crl/{AUTHORITIES[fleet.authority[row]]}",
            }
        )
        self._issued[row] = Issued(subject, public_key, pem)

    async def pem(self, row: int) -> str:
        """The text of a certificate. One of the fleet's own is ordered now."""
        if row not in self._issued:
            self.order(row, self.subject(row), self.public_key(row))
        return await asyncio.shield(self._issued[row].pem)

    async def root(self, authority: int) -> str:
        """The certificate of an authority."""
        return (await asyncio.shield(self._started()))[authority]

    async def revocation_list(self, authority: int, now_s: int) -> str:
        """The revocation list of an authority, at most as old as `crl_every` allows."""
        period = now_s // self._crl_every_s if self._crl_every_s else -1
        made_in, made = self._lists.get(authority, (-1, None))
        if made is None or period < 0 or made_in != period:
            order = {
                "authority": authority,
                "now_s": now_s,
                "revoked": await self._revoked(authority),
            }
            made = self._send(order)
            self._lists[authority] = (period, made)
        return await asyncio.shield(made)

    async def close(self) -> None:
        """Stop the process. Whoever still waits for a text gets a `CancelledError`."""
        if self._serving:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            # the next order starts it again, with other keys
            self._serving = self._roots = self._orders = None
            self._waiting.clear()

    async def _revoked(self, authority: int) -> list[tuple[int, int, int]]:
        fleet = self._fleet
        revoked = []
        for start in range(0, len(fleet.serial), _ROWS_AT_ONCE):
            for row in range(start, min(start + _ROWS_AT_ONCE, len(fleet.serial))):
                if fleet.authority[row] == authority and fleet.status(row, 0) == REVOKED:
                    entry = (fleet.serial[row], fleet.revoked_at_s[row], fleet.reason[row])
                    revoked.append(entry)
            await asyncio.sleep(0)  # a million rows would block the event loop
        return revoked

    def _send(self, order: dict[str, Any]) -> asyncio.Future[str]:
        """Send an order to the process; returns its future result."""
        self._started()
        number = next(self._numbers)
        self._pending[number] = asyncio.get_running_loop().create_future()
        line = orjson.dumps({"id": number, **order}, option=orjson.OPT_APPEND_NEWLINE)
        if self._orders:
            self._orders.write(line)
        else:
            self._waiting.append(line)
        return self._pending[number]

    def _started(self) -> asyncio.Future[list[str]]:
        """Start the process if needed; returns the root certificates, available once it runs."""
        if self._roots is None:
            self._roots = asyncio.get_running_loop().create_future()
            self._serving = asyncio.create_task(self._serve(self._roots))
        return self._roots

    async def _serve(self, roots: asyncio.Future[list[str]]) -> None:
        """Run the process and pass on its results."""
        process = await asyncio.create_subprocess_exec(
            # -P: a module in the current folder is not imported
            *(sys.executable, "-P", "-m", "bulkcert.simulator.enos.authority_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            limit=_LINE_LIMIT,
        )
        orders = cast(asyncio.StreamWriter, process.stdin)
        results = cast(asyncio.StreamReader, process.stdout)
        try:
            setup = {
                "authorities": list(zip(AUTHORITIES, ISSUERS, strict=True)),
                "from_s": self._made_at_s,
                "to_s": self.expires_at_s,
            }
            orders.write(orjson.dumps(setup, option=orjson.OPT_APPEND_NEWLINE))
            orders.writelines(self._waiting)
            self._orders = orders
            roots.set_result(orjson.loads(await results.readline())["roots"])
            while line := await results.readline():
                result = orjson.loads(line)
                self._pending.pop(result["id"]).set_result(result["pem"])
            raise RuntimeError("the certificate authority process ended unexpectedly")
        finally:
            roots.cancel()
            for pending in self._pending.values():
                pending.cancel()
            orders.close()
            await process.wait()
