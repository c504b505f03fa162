"""Stands in for Beacon on loopback: knows its certificates, checks signatures, has faults.

It shares no code with the provider: a shared mistake would be invisible. Its ledger lists every
request with what was done, so that tests can compare it with what bulkcert reports.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import threading
from collections.abc import Iterable, Mapping
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

KEY, SECRET, ACCOUNT = "beacon-key", "beacon-secret", "a-1"


class Fault(Enum):
    """What may go wrong with a request."""

    THROTTLED = "turned away"
    ERROR_BEFORE = "an internal error; not executed"
    ERROR_AFTER = "an internal error, although it was executed"
    CUT_AFTER = "executed, but the connection ends without a response"


class Entry(NamedTuple):
    """One request in the ledger."""

    method: str
    serial: str
    executed: bool
    fault: Fault | None


class StandIn:
    """A Beacon with these certificates, in a thread of its own.

    Args:
        serials: the certificates that exist; all are active at first.
        faults: which requests about a certificate have a fault, by their number from 1.

    Attributes:
        status: the status of each certificate.
        ledger: every request so far, in the order in which they were handled.
    """

    def __init__(self, serials: Iterable[str], faults: Mapping[int, Fault] | None = None) -> None:
        self.status = dict.fromkeys(serials, "active")
        self.ledger: list[Entry] = []
        self._faults = faults or {}
        self._requests = 0
        self._most: float = math.inf
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def hold_after(self, count: int) -> None:
        """Handle this many requests in all, and hold those that follow until `release`."""
        with self._lock:
            self._most = count

    def await_requests(self, count: int) -> None:
        """Wait until this many requests were handled."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ledger) >= count, timeout=60)

    def release(self) -> None:
        """Handle the requests that were held, even if nobody waits for the response any more."""
        with self._changed:
            self._most = math.inf
            self._changed.notify_all()

    def suspensions(self) -> list[str]:
        """The serial of each suspension that was carried out."""
        return [entry.serial for entry in self.ledger if entry.executed]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def respond(
        self, method: str, target: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any]] | None:
        """Handle one request; None hangs up without a response."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.ledger) < self._most)
            head, _, rest = target.removeprefix("/v1/accounts/").partition("/certificates/")
            serial, _, action = rest.partition("/")
            self._requests += bool(serial)
            fault = self._faults.get(self._requests) if serial else None
            found: tuple[int, Any] = (200, {"account": head})
            executed = False
            if not _is_signed(method, target, headers, body):
                found = _error(401, "bad_signature")
            elif head != ACCOUNT:
                found = _error(404, "unknown_account")
            elif fault is Fault.THROTTLED:
                found = _error(429, "rate_limited")
            elif fault is Fault.ERROR_BEFORE:
                found = _error(500, "internal")
            elif serial:
                found, executed = self._certificate(serial, suspend=action == "suspend")
            self.ledger.append(Entry(method, serial, executed, fault))
            number = len(self.ledger)
            self._changed.notify_all()
        if fault is Fault.CUT_AFTER:
            return None
        if fault is Fault.ERROR_AFTER:
            found = _error(500, "internal")
        return found[0], {"request_id": f"r-{number}", **found[1]}

    def _certificate(self, serial: str, *, suspend: bool) -> tuple[tuple[int, Any], bool]:
        if serial not in self.status:
            return _error(404, "not_found"), False
        if suspend and self.status[serial] == "suspended":
            return _error(409, "conflict"), False
        if suspend:
            self.status[serial] = "suspended"
        body = {"serial": serial, "device": f"d-{serial}", "status": self.status[serial]}
        return (200, body), suspend

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # a response leaves in one piece

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                response = stand_in.respond(self.command, self.path, self.headers, body)
                if response is None:
                    self.close_connection = True
                    return
                status, content = response
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()

            do_POST = do_GET  # noqa: N815 - the name is http.server's

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Print nothing."""

        return Handler


def _is_signed(method: str, target: str, headers: Any, body: bytes) -> bool:
    text = f"{method}\n{target}\n{headers['Beacon-Time']}\n".encode() + body
    expected = hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
    return headers["Beacon-Key"] == KEY and headers["Beacon-Signature"] == expected


def _error(status: int, code: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": code, "message": f"stand-in: {code}"}}
