"""One host: a machine with a folder of its own, on which one process of `bulkcert` works at a time.

In: the job, the way to the store, a place in the network. Out: a real process, that can be killed,
stopped and continued, and what it printed. Its clock can be wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from history import CREDENTIALS, secrets_in
from job_folder import toml
from processes import BULKCERT, without_credentials

from hosts.network import Place
from hosts.store_proxy import StoreProxy


@dataclass
class Ended:
    """A process that has ended. Its exit code is negative if a signal ended it."""

    pid: int
    code: int
    output: str


@dataclass
class Host:
    """One host.

    Attributes:
        name: of the machine.
        folder: has its copy of the job, its run directories and its state.
        place: where it is.
        store: its way to the store.
        url: of the store, as this host reaches it.
        environment: of its processes, in addition to this one's.
        run: the name of the run on which it works.
        program: what is started.
        ended: its processes so far.
    """

    name: str
    folder: Path
    place: Place
    store: StoreProxy
    url: str
    environment: dict[str, str]
    run: str
    program: Sequence[str] = (str(BULKCERT),)
    ended: list[Ended] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _outputs: int = 0

    @property
    def job(self) -> Path:
        """Its job file."""
        return self.folder / "job.toml"

    @property
    def run_dir(self) -> Path:
        """Where it keeps what belongs to it."""
        return self.folder / "runs" / self.run

    @property
    def pid(self) -> int:
        """Of its process, running or not."""
        assert self._process is not None
        return self._process.pid

    @property
    def pids(self) -> set[int]:
        """Of all its processes so far."""
        now = set() if self._process is None else {self._process.pid}
        return now | {ended.pid for ended in self.ended}

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.poll() is None

    def write(self, document: Mapping[str, Any], targets: Path) -> None:
        """Write its copy of the job."""
        self.folder.mkdir(exist_ok=True)
        if self.place.needs_source:
            connection = document["connection"] | {"source_addresses": [self.place.address]}
            document = {**document, "connection": connection}
        self.job.write_text(toml(document))
        (self.folder / "targets.csv").unlink(missing_ok=True)
        (self.folder / "targets.csv").hardlink_to(targets)

    def set_clock(self, shift_s: int) -> None:
        """Let its time of day be wrong by so much."""
        path = Path(self.environment["CLOCK_SHIFT"])
        new = path.with_suffix(".new")
        new.write_text(f"{shift_s}\n")
        new.replace(path)

    def run_job(self, *options: str) -> None:
        """Begin to work on the job."""
        self.start("run", "job.toml", "--yes", "--no-progress", *options)

    def work(self, *options: str) -> None:
        """Begin to work on the run without job and target file."""
        self.start("work", self.run, *options)

    def start(self, *words: str) -> None:
        """Start a process; the one before must have ended."""
        assert not self.is_running
        self.reap()
        self._outputs += 1
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*self.place.prefix, *self.program, *words],
                cwd=self.folder,
                env=without_credentials(measured=False) | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def _output(self) -> Path:
        return self.folder / f"output-{self._outputs}"

    # ---- what is done to it

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._signal(signal.SIGKILL)
        self._wait(10)

    def end(self) -> None:
        """Ask it to stop early (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop it (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_running:
            os.kill(self.pid, number)

    # ---- its end

    def wait(self, limit_s: float) -> Ended:
        """Wait for the end of its process."""
        self._wait(limit_s)
        return self.reap()

    def _wait(self, limit_s: float) -> None:
        assert self._process is not None
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended in {limit_s:.0f} s") from None

    def reap(self) -> Ended:
        """Take note of how its process ended."""
        if self._process is not None:
            content = self._output.read_bytes()
            ended = Ended(self.pid, self._process.returncode, content.decode(errors="replace"))
            if ended.pid not in [each.pid for each in self.ended]:
                self.ended.append(ended)
        return self.ended[-1] if self.ended else Ended(0, 0, "")

    def close(self) -> None:
        """End its process, whatever it does."""
        if self.is_running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGKILL)
            self._wait(10)
        self.reap()
        self.store.close()

    def faults(self) -> list[str]:
        """What is wrong with what it printed."""
        found = []
        for ended in self.ended:
            if "Traceback" in ended.output or "bulkcert itself has failed" in ended.output:
                found.append(f"{self.name} has failed: {ended.output[-2000:]}")
            if secrets_in(ended.output.encode(), CREDENTIALS):
                found.append(f"{self.name} has printed a secret")
        return found


def wait_for_all(hosts: Sequence[Host], limit_s: float) -> None:
    """Wait until no host works any more."""
    end = time.monotonic() + limit_s
    for host in hosts:
        if host._process is not None:
            host.wait(max(0.1, end - time.monotonic()))
