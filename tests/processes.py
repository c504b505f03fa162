"""Runs `bulkcert` and its simulator as processes, as a user does, and ends what it started.

The output of every process is searched for tracebacks and secrets.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple, Self

from history import CREDENTIALS, secrets_in

BULKCERT = Path(sys.executable).with_name("bulkcert")
LIMIT_S = 60.0
"""No process of a test needs this long, even on a slow machine."""

CREDENTIAL_NAMES = (
    "ENOS_APP_KEY",
    "ENOS_APP_SECRET",
    "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "ALIBABA_CLOUD_SECURITY_TOKEN",
)


class Ended(NamedTuple):
    """How a process ended. Its exit code is negative if a signal ended it."""

    code: int
    out: str
    err: str


class Command:
    """A running `bulkcert`.

    Args:
        words: its arguments.
        folder: its working directory.
        environment: variables in addition to those of this process, whose credentials are removed.
        stdin: its standard input; None for none, "pipe" to write to it later.
        measured: measure its coverage if that of the tests is measured; impossible where it can't
            write files.
    """

    def __init__(
        self,
        words: Iterable[object],
        folder: Path,
        environment: dict[str, str] | None = None,
        stdin: bytes | str | None = None,
        measured: bool = True,
        **options: Any,
    ) -> None:
        self.words = list(map(str, words))
        self.process = subprocess.Popen(
            [BULKCERT, *self.words],
            cwd=folder,
            env=without_credentials(measured=measured) | (environment or {}),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )
        self._input = stdin if isinstance(stdin, bytes) else None

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        self.process.send_signal(number)

    def wait(self, limit_s: float = LIMIT_S) -> Ended:
        """Wait for its end, and check what it printed."""
        try:
            out, err = self.process.communicate(self._input, timeout=limit_s)
        except BaseException:
            self.kill()
            raise
        # a test may ask for another character set
        texts = [(stream or b"").decode(errors="backslashreplace") for stream in (out, err)]
        ended = Ended(self.process.returncode, *texts)
        assert "Traceback" not in ended.err, ended.err
        if self.words[0] != "simulate":  # which prints the credentials that it accepts
            assert not secrets_in((out or b"") + (err or b""), CREDENTIALS), ended
        return ended

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.process:  # closes the pipes
            self.process.kill()


def bulkcert(
    *words: object,
    folder: Path,
    environment: dict[str, str] | None = None,
    stdin: bytes | None = None,
    **options: Any,
) -> Ended:
    """Run `bulkcert` until it ends."""
    return Command(words, folder, environment, stdin, **options).wait()


def without_credentials(*, measured: bool = True) -> dict[str, str]:
    """This process's environment without credentials; for `measured` see `Command`."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in CREDENTIAL_NAMES and (measured or not name.startswith("COVERAGE_"))
    }


class SimulatorProcess:
    """A simulator. It ends with its context, or with this process, however that ends.

    Args:
        ledger: the file for its ledger.
        files: options that name files, such as `fleet`.
        behaviour: fields of `Behaviour`; there is no limit unless one is given.

    Attributes:
        endpoint: its base URL.
        credentials: the credentials that it accepts, by environment variable.
    """

    def __init__(
        self, ledger: Path, *, files: dict[str, Path] | None = None, **behaviour: object
    ) -> None:
        self.ledger = ledger
        options: dict[str, object] = {"port": 0, "limit": 0, "ledger": ledger}
        options |= {**(files or {}), **behaviour}
        words: list[object] = ["simulate", "--stop-with-stdin"]
        for name, value in options.items():
            flag = name.replace("_", "-")
            words += (
                [f"--{'' if value else 'no-'}{flag}"]
                if isinstance(value, bool)
                else [
                    f"--{flag}",
                    value,
                ]
            )
        self.command = Command(words, ledger.parent, stdin="pipe", stderr=subprocess.DEVNULL)
        settings: dict[str, str] = {}
        assert self.command.process.stdout
        for line in self.command.process.stdout:
            name, _, value = line.decode().strip().partition("=")
            if not name:
                break
            settings[name] = value
        self.endpoint = settings.pop("ENDPOINT")
        self.credentials = settings

    def summary(self) -> dict[str, Any]:
        """Its own figures of what it received."""
        with urllib.request.urlopen(f"{self.endpoint}/_simulator/summary") as response:
            return dict(json.load(response))

    def entries(self) -> list[dict[str, Any]]:
        """The ledger so far, without requests that have not ended."""
        with urllib.request.urlopen(f"{self.endpoint}/_simulator/ledger") as response:
            return [json.loads(line) for line in response.read().splitlines()]

    def certificates(self, device: str) -> list[SimpleNamespace]:
        """The certificates of a device, oldest first; `device` as the ledger names it."""
        names = urllib.parse.urlencode([name.partition("=")[::2] for name in device.split("&")])
        with urllib.request.urlopen(f"{self.endpoint}/_simulator/device?{names}") as response:
            return [SimpleNamespace(**certificate) for certificate in json.load(response)]

    @property
    def requests(self) -> int:
        """Number of requests so far."""
        return int(self.summary()["requests"])

    def stop(self) -> None:
        """Stop it; its ledger is complete then."""
        self.command.process.communicate(timeout=LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.command:
            if self.command.process.poll() is None:
                self.stop()


def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.01)


@contextmanager
def stopped(command: Command) -> Iterator[None]:
    """Pause a process for a while (SIGSTOP, SIGCONT)."""
    command.send(signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            command.send(signal.SIGCONT)
