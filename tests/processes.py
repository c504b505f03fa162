"""Runs `bulkcert` and its simulator as processes, as a user does, and ends what it started.

A `Scene` is a folder with a job, its targets and a run directory, and a simulator to go with it.
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
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import history
from history import CREDENTIALS, Circumstances, History, secrets_in

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
        ended = Ended(self.process.returncode, (out or b"").decode(), (err or b"").decode())
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


class Scene:
    """A folder with a job and its targets, beside a simulator.

    Args:
        folder: the folder that the job is written to.
        simulator: the simulator that the job calls.
        targets: number of devices, see `device`.
        prefix: the start of their names.

    Attributes:
        job: the job as a document; `write` writes it to `job_file`.
        ended: how the last `run` ended.
        later: number of the last request that belongs to this scene, if others follow it.
    """

    ended: Ended
    later: int | None = None

    def __init__(
        self, folder: Path, simulator: SimulatorProcess, *, targets: int = 60, prefix: str = "A"
    ) -> None:
        self.folder = folder
        self.simulator = simulator
        self.prefix = prefix
        self.job_file = folder / "job.toml"
        self.run_dir = folder / "runs" / "job"
        self.target_file = folder / "targets.csv"
        self.earlier = simulator.requests
        self.job: dict[str, Any] = {
            "provider": "enos",
            "action": "revoke",
            "targets": self.target_file.name,
            "connection": {"endpoint": simulator.endpoint, "org_id": "o1"},
            "limits": {"requests_per_second": 3000},
        }
        self.write_rows(devices(targets, prefix))
        self.write()

    def device(self, number: int) -> str:
        """The name of a device, whose only certificate has the serial number 1000 + `number`."""
        return device(number, self.prefix)

    def write(self, **sections: dict[str, Any] | str) -> None:
        """Write the job file with these sections or values changed."""
        for name, value in sections.items():
            old = self.job.get(name)
            merged = isinstance(old, dict) and isinstance(value, dict)
            self.job[name] = old | value if merged else value
        self.job_file.write_text(toml(self.job))

    def write_rows(self, rows: Iterable[Sequence[object]], header: str = "assetId,certSn") -> None:
        """Write the target file."""
        write_csv(self.target_file, rows, header)

    def start(self, *options: object, **more: Any) -> Command:
        """Start `bulkcert run` with the simulator's credentials and without a terminal."""
        environment = more.pop("environment", self.simulator.credentials)
        return Command(["run", self.job_file, *options], self.folder, environment, **more)

    def run(self, *options: object, **more: Any) -> Ended:
        """Start `bulkcert run --yes` and wait for its end."""
        self.ended = self.start("--yes", *options, **more).wait()
        return self.ended

    def bulkcert(self, *words: object, **more: Any) -> Ended:
        """Run another command in the folder."""
        return bulkcert(*words, folder=self.folder, **more)

    def results(self) -> list[dict[str, Any]]:
        """The content of `results.jsonl`."""
        lines = (self.run_dir / "results.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return dict(json.loads((self.run_dir / "summary.json").read_text()))

    def entries(self) -> list[dict[str, Any]]:
        """The requests since the scene began."""
        return [e for e in self._ledger() if e["n"] > self.earlier]

    def _ledger(self) -> list[dict[str, Any]]:
        entries = self.simulator.entries()
        return entries if self.later is None else [e for e in entries if e["n"] <= self.later]

    def await_requests(self, count: int, command: Command) -> bool:
        """Wait for this many requests since the scene began; False if the command ends first."""
        while self.simulator.requests < self.earlier + count:
            if command.process.poll() is not None:
                return False
            time.sleep(0.01)
        return True

    def history(self, **files: Path) -> History:
        """The history of the run."""
        snapshot = self.folder / "ledger.snapshot.jsonl"
        content = (json.dumps(entry) + "\n" for entry in self._ledger())
        snapshot.write_text("".join(content))
        return history.read(self.job_file, self.run_dir, snapshot, **files)

    def violations(self, *, fleet: Path | None = None, **circumstances: Any) -> list[str]:
        """Check the history; see `history.check`.

        Some jitter of the arrivals is permitted: on a busy machine either side may pause for a
        while.
        """
        ceiling = self.job.get("limits", {}).get("requests_per_second", 500)
        known = {"earlier": self.earlier, "jitter": 5 + ceiling // 20} | circumstances
        found = self.history(**{"fleet": fleet} if fleet else {})
        return history.check(found, Circumstances(**known))


def device(number: int, prefix: str = "A") -> str:
    """The name of a device."""
    return f"{prefix}{number:04}"


def devices(count: int, prefix: str = "A") -> Iterator[tuple[str, int]]:
    """This many devices, each with its certificate."""
    return ((device(number, prefix), 1000 + number) for number in range(count))


def write_csv(path: Path, rows: Iterable[Sequence[object]], header: str = "assetId,certSn") -> Path:
    """Write a target file or a fleet."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def staged(folder: Path, *, targets: int = 60, **behaviour: Any) -> Iterator[Scene]:
    """A scene in an empty folder, with a simulator of its own that knows its devices."""
    fleet = write_csv(folder / "fleet.csv", devices(targets))
    with SimulatorProcess(
        folder / "ledger.jsonl", files={"fleet": fleet}, **behaviour
    ) as simulator:
        yield Scene(folder, simulator, targets=targets)


def toml(document: dict[str, Any]) -> str:
    """Format a job as TOML: values first, then a section for each table."""
    plain = {name: value for name, value in document.items() if not isinstance(value, dict)}
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in plain.items()]
    for section, table in document.items():
        if isinstance(table, dict):
            lines += [f"[{section}]"]
            lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in table.items()]
    return "\n".join(lines) + "\n"


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
