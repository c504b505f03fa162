"""A job for ApsaraMQ in a folder, a simulator in this process, and what came of it.

In: rows of a target file, sections of a job file, fields of `Behaviour`. Out: the results of the
run beside the simulator's ledger. Everything goes through real files and sockets; only the waits
are shorter than in earnest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import history
from history import Circumstances
from processes import toml

import bulkcert
from bulkcert.report.summary import Summary
from bulkcert.simulator import Behaviour, Simulator
from bulkcert.timings import PacerTimings, SourceTimings, Timings

Row = dict[str, Any]

CREDENTIALS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "simulator-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "simulator-secret",
}
CA = "007269004887000001"
INSTANCE = "post-cn-7mz2d000001"
SENDS = {
    "inactivate": "InactivateDeviceCertificate",
    "activate": "ActiveDeviceCertificate",
    "delete": "DeleteDeviceCertificate",
    "get": "GetDeviceCertificate",
}
"""The vendor's name of each action."""

SHORT_WAITS = Timings(
    first_backoff_s=0.01,
    redirect_pause_s=0.02,
    commit_every_s=0.002,
    pacer=PacerTimings(first_pause_s=0.02),
    sources=SourceTimings(probe_every_s=0.03),
)
"""There is no load on anybody else that would have to be spared."""


def devices(count: int) -> list[Row]:
    """Rows of a target file; the serial numbers begin with zeros and have letters of both cases."""
    return [{"DeviceSn": f"00aF{n:04}", "CaSn": CA} for n in range(count)]


@dataclass
class MqttScene:
    """A folder with a job and its targets, beside a simulator.

    Attributes:
        job: the job as a document; `write` puts it into `job_file`.
        events: what the last run told.
    """

    folder: Path
    simulator: Simulator
    job: dict[str, Any]
    rows: list[Row]
    fleet: Path | None
    credentials: dict[str, str]
    run_dir: Path = field(init=False)
    events: list[bulkcert.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run_dir = self.folder / "run"
        self.write()

    @property
    def job_file(self) -> Path:
        return self.folder / "job.toml"

    def write(self, **sections: Any) -> None:
        """Write the job file, with these sections or values changed, and the target file."""
        for name, value in sections.items():
            old = self.job.get(name)
            self.job[name] = old | value if isinstance(old, dict) else value
        self.job_file.write_text(toml(self.job))
        write_rows(self.folder / self.job["targets"], self.rows)

    async def run(self, **how: Any) -> Summary:
        """Run the job, or go on with it, and return the summary."""
        self.events.clear()
        job = bulkcert.load_job(self.job_file)
        with bulkcert.Run(job, self.run_dir, **{"timings": SHORT_WAITS} | how) as run:
            return await run.execute(self.credentials, self.events.append)

    @property
    def results(self) -> list[Row]:
        """The content of `results.jsonl`."""
        lines = (self.run_dir / "results.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def outcomes(self) -> Counter[str]:
        """How many operations ended how."""
        return Counter(result["outcome"] for result in self.results)

    @property
    def notices(self) -> list[str]:
        """What the operator was told at once."""
        return [event.text for event in self.events if isinstance(event, bulkcert.Notice)]

    def entries(self, *actions: str) -> list[Row]:
        """What was sent, in order of arrival."""
        found = [e for e in self.simulator.ledger if not actions or e["action"] in actions]
        return sorted(found, key=lambda entry: int(entry["n"]))

    @property
    def executed(self) -> Counter[str]:
        """How often each certificate was changed, by its DeviceSn."""
        return Counter(entry["certSn"] for entry in self.entries() if entry["executed"])

    def states(self) -> list[str]:
        """What the provider has of each target."""
        states = []
        for row in self.rows:
            device = f"CaSn={row['CaSn']}&DeviceSn={row['DeviceSn']}"
            [*held] = self.simulator.certificates(device)
            states.append(held[0].status if held else "not registered")
        return states

    def violations(self, *, held_before: bool = False, **circumstances: Any) -> list[str]:
        """What should not have happened, by the history checker.

        Args:
            held_before: all was as wanted before the run.
            circumstances: see `Circumstances`.
        """
        ledger = self.folder / "ledger.jsonl"
        ledger.write_text("".join(json.dumps(entry) + "\n" for entry in self.simulator.ledger))
        found = history.read(self.job_file, self.run_dir, ledger)
        if held_before:
            found.held_before = {history.key_of(row) for row in self.rows}
        return history.check(found, Circumstances(**circumstances))


@asynccontextmanager
async def scene(
    folder: Path,
    action: str,
    rows: Iterable[Row],
    *,
    behaviour: dict[str, Any] | None = None,
    fleet: Iterable[Row] | None = None,
    credentials: dict[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[MqttScene]:
    """Set a scene.

    Args:
        folder: an empty folder.
        action: what the job does.
        rows: its targets.
        behaviour: fields of `Behaviour`; without limits unless they are given.
        fleet: what exists; the targets, unless given.
        credentials: those of the simulator, unless given.
        sections: of the job file, over the ones that every job needs.
    """
    rows = list(rows)
    existing = folder / "existing.jsonl"
    write_rows(existing, rows if fleet is None else fleet)
    kind = Behaviour(**{"limit": 0, "mq_source_limit": 0, "retry_after": 0} | (behaviour or {}))
    async with Simulator(kind, fleet=existing) as simulator:
        job: dict[str, Any] = {
            "name": "job",
            "provider": "apsaramq",
            "action": action,
            "targets": "targets.jsonl",
            "connection": {"endpoint": simulator.endpoint, "instance_id": INSTANCE},
            "limits": {
                "requests_per_second": 5000,
                "requests_per_second_per_source_ip": 5000,
            },
        }
        made = MqttScene(folder, simulator, job, rows, existing, credentials or CREDENTIALS)
        made.write(**sections)
        yield made


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
