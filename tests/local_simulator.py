"""The simulator in the process of the tests, with what takes long to start shared by all of them.

Two things would take longer than most tests: a process for the simulator's certificate authority,
and the processes in which a run makes key pairs. The former is replaced by an authority in this
process, with keys made once; of the latter there is one set for all tests.
"""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.serialization import Encoding

from bulkcert.keys import KeyWorkers
from bulkcert.simulator import Behaviour, Simulator
from bulkcert.simulator.enos import authority_process

Row = dict[str, Any]


class LocalSimulator(Simulator):
    """A simulator in this process, with the names that a simulator process has."""

    def entries(self) -> list[Row]:
        """The ledger so far, without requests that have not ended."""
        return self.ledger

    @property
    def requests(self) -> int:
        """Number of requests so far."""
        return int(self.summary()["requests"])


@asynccontextmanager
async def local_simulator(behaviour: Mapping[str, Any], fleet: Path) -> AsyncIterator[Any]:
    """Run a simulator in this process.

    Args:
        behaviour: fields of `Behaviour`.
        fleet: the file of what exists.
    """
    with _authority_in_this_process():
        async with LocalSimulator(Behaviour(**behaviour), fleet=fleet) as simulator:
            yield simulator


def shared_key_processes() -> AbstractContextManager[object]:
    """Have runs make their keys in processes that outlive them."""
    return patch("bulkcert.keys.KeyWorkers", _shared_workers)


_made_once = cache(authority_process._generate)


def _authority_in_this_process() -> AbstractContextManager[object]:
    async def start(*command: str, **options: Any) -> Any:
        responses, ended = asyncio.StreamReader(limit=2**28), asyncio.Event()
        authorities: list[authority_process.CertificateAuthority] = []

        def respond(document: Row) -> None:
            responses.feed_data(json.dumps(document).encode() + b"\n")

        def write(line: bytes) -> None:
            order = json.loads(line)
            if authorities:
                pem = authorities[order["authority"]].fulfil(order)
                respond({"id": order["id"], "pem": pem})
                return
            with patch("bulkcert.simulator.enos.authority_process._generate", _made_once):
                authorities.extend(
                    authority_process.CertificateAuthority(
                        kind, name, order["from_s"], order["to_s"]
                    )
                    for kind, name in order["authorities"]
                )
            roots = [each.certificate.public_bytes(Encoding.PEM) for each in authorities]
            respond({"roots": [root.decode() for root in roots]})

        def write_all(lines: Iterable[bytes]) -> None:
            for line in lines:
                write(line)

        orders = SimpleNamespace(write=write, writelines=write_all, close=ended.set)
        return SimpleNamespace(stdin=orders, stdout=responses, wait=ended.wait)

    return patch("bulkcert.simulator.enos.authority.asyncio.create_subprocess_exec", start)


class _SharedWorkers:
    """Stands in for the class `KeyWorkers`, and for its only instance."""

    workers: KeyWorkers | None = None

    def __call__(self) -> _SharedWorkers:
        if self.workers is None:
            self.workers = KeyWorkers()
            atexit.register(self.workers.close)
        return self

    async def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self.workers
        return await self.workers.ask(order)

    def close(self) -> None:
        """Do nothing: the processes end with this one."""


_shared_workers = _SharedWorkers()
