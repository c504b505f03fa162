"""The simulator in the process of the tests, with what takes long to start shared by all of them.

Two things would take longer than most tests: a process for the simulator's certificate authority,
and the processes in which a run makes key pairs. The former is replaced by an authority in this
process, with keys made once; of the latter there is one set for all tests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.serialization import Encoding

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
    return patch("bulkcert.keys.ProcessPoolExecutor", _shared_pool)


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


class _SharedPool:
    """Stands in for the class `ProcessPoolExecutor`, and for its only instance."""

    pool: ProcessPoolExecutor | None = None

    def __call__(self, **options: Any) -> _SharedPool:
        self.pool = self.pool or ProcessPoolExecutor(**options)
        return self

    def submit(self, *call: Any) -> Future[Any]:
        assert self.pool
        return self.pool.submit(*call)

    def shutdown(self, **options: Any) -> None:
        """Do nothing: the interpreter ends the processes."""


_shared_pool = _SharedPool()
