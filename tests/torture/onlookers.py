"""Who looks at a run while it is tortured, and after it: they must learn the truth, and disturb
nobody.

In: which of them there are, from the scenario. Out: what they have seen that is wrong. A command of
`[notify]` that is fast, slow, fails or hangs; somebody who scrapes the metrics beside somebody who
connects and says nothing; a watch screen; at the end the report, and a signed pack of evidence that
must be found intact, and not any more when a single byte of a file in it has changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import signal
import socket
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Command, bulkcert

NOTIFY_SCRIPT = """#!/bin/sh
object=$(cat)
number=$(($(cat calls 2>/dev/null || echo 0) + 1))
echo "$number" > calls
case $1-$((number % 4)) in
    slow-*) sleep 0.1 ;;
    failing-1) exit 1 ;;
    failing-3) printf '%s\\n' "$object" >> notified.jsonl; echo "no route to the chat"; exit 7 ;;
    hanging-1) sleep 60 ;;
esac
printf '%s\\n' "$object" >> notified.jsonl
"""
"""Some calls fail before the event is taken, some after it, and some never end by themselves."""

NOTIFY_TIMEOUT = "1s"

OUTCOMES = 5

SCRAPED_EVERY_S = 0.2

STOPPED = 3
"""The exit code of a command that a signal has ended."""

SIGNER = "torture@example.com"


@dataclass
class Onlookers:
    """Everybody who looks at one run.

    Args:
        folder: the folder of the job.
        run_dir: its run directory.
        notify: how the command of `[notify]` behaves; empty if there is none.
        scraped: the metrics are scraped.
        watched: there is a watch screen.
        operations: how many there are, if that is known from the start.
        environment: of all commands.
    """

    folder: Path
    run_dir: Path
    notify: str
    scraped: bool
    watched: bool
    operations: int | None
    environment: dict[str, str]
    violations: list[str] = field(default_factory=list)
    scrapes: int = 0
    _watcher: Command | None = None

    def __post_init__(self) -> None:
        script = self.folder / "notify.sh"
        script.write_text(NOTIFY_SCRIPT)
        script.chmod(0o755)
        self._over = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = free.getsockname()[:2]

    @property
    def section(self) -> dict[str, Any]:
        """The section `[notify]` of the job file; empty without a command."""
        command = ["./notify.sh", self.notify]
        return {"notify": {"command": command, "timeout": NOTIFY_TIMEOUT}} if self.notify else {}

    @property
    def options(self) -> list[str]:
        """The options of `bulkcert run`."""
        return ["--metrics", f"127.0.0.1:{self._address[1]}"] if self.scraped else []

    @property
    def notified(self) -> list[bytes] | None:
        """What the command of `[notify]` has got; None without a command."""
        path = self.folder / "notified.jsonl"
        if not self.notify:
            return None
        return path.read_bytes().splitlines() if path.exists() else []

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Look for as long as the context lasts."""
        threads = [threading.Thread(target=work) for work in (self._scrape, self._hang)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
            self._end_watcher()

    # ---- metrics

    def _scrape(self) -> None:
        url = "http://{}:{}/metrics".format(*self._address)
        while self.scraped and not self._over.wait(SCRAPED_EVERY_S):
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    content = response.read().decode()
            except OSError:
                continue  # nobody works on the run, or is stopped
            self.scrapes += 1
            outcomes = [
                float(line.rpartition(" ")[2])
                for line in content.splitlines()
                if line.startswith("bulkcert_operations{")
            ]
            if len(outcomes) != OUTCOMES or self._is_wrong(sum(outcomes)):
                self.violations.append(f"metrics: the outcomes are {outcomes}")

    def _is_wrong(self, operations: float) -> bool:
        """All are 0 before the run is planned or continued."""
        return self.operations is not None and operations not in {0, self.operations}

    def _hang(self) -> None:
        """Connect, begin to ask, and say no more."""
        while self.scraped and not self._over.wait(SCRAPED_EVERY_S):
            with contextlib.suppress(OSError), socket.create_connection(self._address) as hanging:
                hanging.sendall(b"GET /met")
                self._over.wait(2)

    # ---- the watch screen

    def watch(self) -> None:
        """Start a watch screen, unless one is there or there is no run yet."""
        running = self._watcher is not None and self._watcher.process.poll() is None
        if not self.watched or running or not (self.run_dir / "checkpoint.sqlite3").exists():
            return
        self._end_watcher()
        self._watched.unlink(missing_ok=True)
        with self._watched.open("wb") as file:
            words = ("status", self.run_dir, "--watch", "--json")
            self._watcher = Command(
                words, self.folder, self.environment, measured=False, stdout=file
            )

    def _end_watcher(self) -> None:
        """End the watch screen as somebody does at a terminal."""
        if self._watcher is None:
            return
        self._watcher.send(signal.SIGINT)
        ended = self._watcher.wait()
        self._watcher = None
        content = self._watched.read_bytes()
        not_begun = ended.code == STOPPED and "Stopped." in ended.err
        looks = [] if not_begun else content.splitlines()
        # Python has no handler yet while it starts, and none any more when the watcher has ended by
        # itself, because the run is over
        is_over = bool(looks) and json.loads(looks[-1]).get("state") in ("over", "aborted")
        unhandled = ended.code == -signal.SIGINT and (not looks or is_over)
        if ended.code and not (not_begun or unhandled):
            self.violations.append(f"status --watch: exit code {ended.code}: {ended.err}")
        for line in looks:
            if "state" not in json.loads(line):
                self.violations.append(f"status --watch: {line!r}")

    @property
    def _watched(self) -> Path:
        return self.folder / "watched.jsonl"

    # ---- at the end

    def report(self, rng: random.Random) -> None:
        """Write the report and the evidence, and check it."""
        page = self.folder / "report.html"
        self._expect(0, "report", self.run_dir, "-o", page)
        if page.exists() and b"<script" in page.read_bytes().lower():
            self.violations.append("report: has a script")
        key, signers = self.folder / "key", self.folder / "signers"
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", SIGNER, "-f", str(key)]
        subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
        signers.write_text(f"{SIGNER} {key.with_suffix('.pub').read_text()}")
        pack = self.folder / "campaign.tar.gz"
        self._expect(0, "evidence", self.run_dir, "-o", pack, "--key", key)
        self._expect(0, "evidence", "--check", pack, "--signers", signers)
        if pack.exists():
            changed = self.folder / "changed.tar.gz"
            what = change_a_byte(pack, changed, rng)
            self._expect(1, "evidence", "--check", changed, "--signers", signers, about=what)

    def _expect(self, code: int, *words: object, about: str = "") -> None:
        ended = bulkcert(*words, folder=self.folder, environment=self.environment, measured=False)
        if ended.code != code:
            what = f"{words[0]} {about}".strip()
            self.violations.append(f"{what}: exit code {ended.code}: {ended.out} {ended.err}")


def change_a_byte(pack: Path, changed: Path, rng: random.Random) -> str:
    """Copy a pack with one byte of one of its files changed; return which."""
    with tarfile.open(pack) as before, tarfile.open(changed, "w:gz") as after:
        members = before.getmembers()
        chosen = rng.choice([member for member in members if member.size])
        place = rng.randrange(chosen.size)
        for member in members:
            file = before.extractfile(member)
            content = bytearray(file.read() if file else b"")
            if member is chosen:
                content[place] ^= 1 << rng.randrange(7)
            after.addfile(member, io.BytesIO(content))
    return f"with byte {place} of {chosen.name} changed"
