"""The ledger: what was requested, when it arrived, and what was done. The oracle of the tests.

In: an entry when a request arrives, and the same entry, filled in, when the request ends. Out: one
JSON object per line, in the order in which requests ended, in memory or in a file; and a summary.
The entry of a request that has ended is never lost, changed or written twice. Nothing here may
block the event loop: a thread writes the file in batches.

The fields of a line:

    n            1, 2, 3 ... in order of arrival
    at           Unix time of arrival in seconds, read before anything else happens
    source       IP address of the client
    provider     enos | apsaramq
    action       token.get, token.refresh, list, revoke, renew, apply, products.get, cacert, crl,
                 InactivateDeviceCertificate ..., redirected (a redirect was followed), unknown
    scope        the organization (orgId) or instance (MqttInstanceId) as sent; empty if none was
    device       the device as sent: assetId=A1, productKey=p&deviceKey=d, CaSn=c&DeviceSn=s
    certSn       serial number as sent (ApsaraMQ: DeviceSn), or null
    executed     true exactly when this request changed a certificate. Reading, or revoking a
                 revoked certificate, changes nothing, whatever the code
    effect       what it changed: revoked, renewed, applied, inactivated, activated, deleted, none
    code         the vendor's code in the response (success: EnOS 0, ApsaraMQ "OK"), or the HTTP
                 status if the response has no code. If a fault replaced the response after the
                 request was handled: the code that the response would have had. Null if the
                 connection was cut before that
    status       HTTP status of the response; null if no whole response was written
    fault        name of the fault that the request met, or null; `cached` if a cache responded
    answered_at  Unix time at which the last byte of the response was written; null if none was
    issued       serial number of the certificate that the request created, or null
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.window import BusiestSecond

_FLUSH_EVERY_S = 0.05
_LINES_PER_MARK = 1024
_BLOCK_BYTES = 1 << 18


class LedgerError(Exception):
    """The ledger can't be written, so the simulator must stop."""


@dataclass(slots=True)
class Entry:
    """One request; this module's docstring explains the fields."""

    n: int
    at_us: int
    source: str
    provider: str = ""
    action: str = "unknown"
    scope: str = ""
    device: str = ""
    cert_sn: int | str | None = None
    executed: bool = False
    effect: str = "none"
    code: int | str | None = None
    status: int | None = None
    fault: str | None = None
    answered_us: int | None = None
    issued: int | None = None

    def line(self) -> bytes:
        """The entry as a line of the ledger."""
        answered_us = self.answered_us
        return orjson.dumps(
            {
                "n": self.n,
                "at": self.at_us / SECOND_US,
                "source": self.source,
                "provider": self.provider,
                "action": self.action,
                "scope": self.scope,
                "device": self.device,
                "certSn": self.cert_sn,
                "executed": self.executed,
                "effect": self.effect,
                "code": self.code,
                "status": self.status,
                "fault": self.fault,
                "answered_at": None if answered_us is None else answered_us / SECOND_US,
                "issued": self.issued,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


class Ledger:
    """All requests so far. With a file, memory use does not grow with their number.

    Args:
        path: file to write to, replaced if it exists; None keeps the lines in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._numbers = count(1)
        self._lines: list[bytes] = []  # all lines, or those not yet in the file
        self._ended = 0
        self._bytes = 0
        self._bytes_in_file = 0
        self._marks = array("Q")  # file offset of every 1024th line
        self._file: BinaryIO | None = None
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._statistics = Statistics()

    def arrive(self, at_us: int, source: str) -> Entry:
        """Begin the entry of a request that arrived at `at_us`."""
        self._statistics.arrive(at_us, source)
        return Entry(next(self._numbers), at_us, source)

    def end(self, entry: Entry) -> None:
        """Record an entry; it must not be changed afterwards."""
        line = entry.line()
        if self._ended % _LINES_PER_MARK == 0:
            self._marks.append(self._bytes)
        self._ended += 1
        self._bytes += len(line)
        self._lines.append(line)
        self._statistics.end(entry)

    def summary(self) -> dict[str, Any]:
        """Counts and rates so far."""
        return self._statistics.summary()

    def open(self) -> None:
        """Open the file.

        Raises:
            OSError: the file can't be written.
        """
        if self._path:
            # a link that somebody put there is not followed
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self._path, flags, 0o666), "wb", buffering=0)

    async def keep_written(self) -> None:
        """Write to the file at short intervals until cancelled.

        Raises:
            LedgerError: the file can't be written.
        """
        while True:
            await asyncio.sleep(_FLUSH_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write all entries so far to the file, if there is one.

        Raises:
            LedgerError: the file can't be written.
        """
        if self._file:
            # a write cancelled half-way would be repeated, and its lines written twice
            await asyncio.shield(self._write(self._file.fileno()))

    async def _write(self, descriptor: int) -> None:
        async with self._writing:
            content = b"".join(self._lines)
            lines = len(self._lines)
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._thread, _write_all, descriptor, content)
            except OSError as error:
                raise LedgerError(f"the ledger can't be written: {error}") from error
            del self._lines[:lines]
            self._bytes_in_file += len(content)

    async def close(self) -> None:
        """Write the rest and close the file. Lines kept in memory stay readable."""
        try:
            await self.flush()
        finally:
            self._thread.shutdown()
            if self._file:
                self._file.close()

    async def blocks(self, after: int = 0) -> AsyncIterator[bytes]:
        """All lines so far except the first `after`, in blocks that may end inside a line."""
        if not self._path:
            lines = self._lines[after:]
            for at in range(0, len(lines), _LINES_PER_MARK):
                yield b"".join(lines[at : at + _LINES_PER_MARK])
            return
        await self.flush()
        if after >= self._ended:
            return
        mark, skipped = divmod(after, _LINES_PER_MARK)
        offset, end = self._marks[mark], self._bytes_in_file
        file = await asyncio.to_thread(self._path.open, "rb")
        with file:
            file.seek(offset)
            for _ in range(skipped):
                offset += len(file.readline())
            while offset < end:
                block = await asyncio.to_thread(file.read, min(_BLOCK_BYTES, end - offset))
                offset += len(block)
                yield block

    def entries(self) -> list[dict[str, Any]]:
        """Every entry so far, as in the ledger. Reads the whole file, if there is one."""
        lines = self._lines
        if self._path:
            written = self._path.read_bytes()[: self._bytes_in_file]
            lines = [*written.splitlines(), *lines]
        return [orjson.loads(line) for line in lines]


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Statistics:
    """The numbers behind a ledger's summary, updated with every request."""

    def __init__(self) -> None:
        self._arrived = 0
        self._ended = 0
        self._first_us = self._last_us = 0
        self._busiest = BusiestSecond()
        self._busiest_of: defaultdict[str, BusiestSecond] = defaultdict(BusiestSecond)
        self._codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._executed: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def arrive(self, at_us: int, source: str) -> None:
        self._arrived += 1
        self._first_us = self._first_us or at_us
        self._last_us = at_us
        self._busiest.add(at_us)
        self._busiest_of[source].add(at_us)

    def end(self, entry: Entry) -> None:
        self._ended += 1
        self._codes[entry.action][str(entry.code)] += 1
        if entry.executed:
            self._executed[entry.action] += 1
        if entry.fault:
            self._faults[entry.fault] += 1

    def summary(self) -> dict[str, Any]:
        """Counts and rates. The mean rate covers the time from the first to the last arrival."""
        elapsed_s = (self._last_us - self._first_us) / SECOND_US
        return {
            "requests": self._arrived,
            "open": self._arrived - self._ended,
            "codes": {action: dict(codes) for action, codes in self._codes.items()},
            "executed": dict(self._executed),
            "faults": dict(self._faults),
            "first_at": self._first_us / SECOND_US or None,
            "last_at": self._last_us / SECOND_US or None,
            "elapsed_seconds": elapsed_s,
            "requests_per_second": (self._arrived - 1) / elapsed_s if elapsed_s else 0.0,
            "busiest_second": self._busiest.count,
            "busiest_second_of": {
                source: busiest.count for source, busiest in self._busiest_of.items()
            },
        }
