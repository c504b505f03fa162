"""The harness of all tests that run a job against a simulator.

A test names a vendor, an action and some rows, runs the job, and compares what the run recorded
with what the simulator received. This is a whole test:

    from enos_vendor import ENOS, devices
    from harness import in_this_process

    async def test_lost_responses_are_looked_up(tmp_path: Path) -> None:
        behaviour = {"cut_after": 0.5, "faults_on": "revoke", "seed": 1}
        async with in_this_process(
            tmp_path, ENOS, "revoke", devices(20), behaviour=behaviour
        ) as job:
            await job.run()
            assert job.outcomes() == ["succeeded"] * 20
            assert set(job.executed("revoke").values()) == {1}
            assert job.violations() == []

Sections of the job file are further arguments, such as `retry={"max_attempts": 3}`.

`in_this_process` is the rule: it is fast, and both sides can be inspected. Where signals, exit
codes or printed text matter, `as_a_process` runs the installed command against a simulator in a
process of its own: `with as_a_process(tmp_path, ENOS, "revoke", rows) as job: job.run()`.

The parts, each usable alone: `job_folder` (files), `local_simulator` and `processes` (simulators
and commands), `go_between` (what stands between both), `history` (the checker), `vendor` (what
describes a provider), and one module per vendor (`enos_vendor`, `apsaramq_vendor`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any, Protocol

import event_history
import history
from history import Circumstances, History, Key
from job_folder import JobFolder, Row, write_json_lines
from local_simulator import shared_key_processes
from processes import Command, Ended, SimulatorProcess, bulkcert, until
from vendor import Vendor

import bulkcert as library
from bulkcert.events import Event, Notice
from bulkcert.plan import Plan
from bulkcert.report.summary import Summary
from bulkcert.timings import PacerTimings, SourceTimings, Timings

SHORT_WAITS = Timings(
    first_look_s=0.01,
    first_backoff_s=0.01,
    redirect_pause_s=0.02,
    rest_s=0.0,
    commit_every_s=0.002,
    pacer=PacerTimings(first_pause_s=0.02),
    sources=SourceTimings(probe_every_s=0.03),
)
"""Waiting times of runs in this process: short, because nobody has to be spared."""

PATIENCE_S = 20.0
"""No request of a test stays open at the simulator for this long."""


class Between(Protocol):
    """Stands between a job and its simulator: `go_between.GoBetween`, `tcp_proxy.Network`."""

    def serving(self, endpoint: str) -> AbstractAsyncContextManager[str]:
        """Serve in front of an endpoint; yields the endpoint for the job."""


class JobUnderTest(JobFolder):
    """A job in a folder, beside the simulator that it calls.

    Args:
        folder: an existing folder.
        vendor: the provider.
        action: the action of the job.
        rows: its targets.
        simulator: what the job calls, a `vendor.SimulatorView`.
        endpoint: where it calls instead, if something stands between the two.
        fleet: the file of what existed before, for checks of what held before.
        credentials: the job's; those that the simulator accepts, unless given.

    Attributes:
        targets: the name of the target file.
        settling_s: `[retry] settling_seconds` of the job, unless a test sets it.
        earlier: number of the last request that came before this job.
        later: number of the last request of this job, if requests of others follow; or None.
    """

    targets = "targets.jsonl"
    settling_s = 2.0

    def __init__(
        self,
        folder: Path,
        vendor: Vendor,
        action: str,
        rows: Iterable[Row],
        simulator: Any,
        *,
        endpoint: str = "",
        fleet: Path | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.vendor = vendor
        self.simulator = simulator
        self.fleet = fleet
        self.credentials = dict(vendor.credentials if credentials is None else credentials)
        self.earlier = simulator.requests
        self.later: int | None = None
        connection = {"endpoint": endpoint or simulator.endpoint, **vendor.connection}
        document = {
            "provider": vendor.name,
            "action": action,
            "targets": self.targets,
            "connection": connection,
            "limits": dict(vendor.limits),
            "retry": {"settling_seconds": self.settling_s},
        }
        super().__init__(folder, document, rows)

    # ---- what the simulator received and did

    def entries(self, *actions: str, device: Row | None = None) -> list[Row]:
        """The requests of this job in order of arrival.

        Args:
            actions: only these, by the ledger's names.
            device: only those for the device that these fields identify.
        """
        name = history.key_of(device).device if device else None
        found = [
            entry
            for entry in self._ledger()
            if entry["n"] > self.earlier
            and (not actions or entry["action"] in actions)
            and name in (None, entry["device"])
        ]
        return sorted(found, key=lambda entry: int(entry["n"]))

    def _ledger(self) -> list[Row]:
        entries: list[Row] = self.simulator.entries()
        return entries if self.later is None else [e for e in entries if e["n"] <= self.later]

    def executed(self, *actions: str) -> Counter[Key]:
        """How often each certificate was acted on; compare with `history.key_of(row)`."""
        return Counter(
            Key(entry["device"], str(entry["certSn"]))
            for entry in self.entries(*actions)
            if entry["executed"]
        )

    def certificates(self, device: Row) -> dict[int | str, str]:
        """The status of each certificate of a device, by serial number."""
        found = self.simulator.certificates(history.key_of(device).device)
        return {certificate.cert_sn: certificate.status for certificate in found}

    def states(self) -> list[str]:
        """The status of the certificate that each row names, or "not registered"."""
        states = []
        for row in self.rows:
            known = {str(serial): state for serial, state in self.certificates(row).items()}
            states.append(known.get(history.key_of(row).serial, "not registered"))
        return states

    # ---- whether both sides agree

    def history(self, **files: Path) -> History:
        """The history of the run."""
        snapshot = write_json_lines(self.folder / "ledger.snapshot.jsonl", self._ledger())
        known = {"fleet": self.fleet} if self.fleet else {}
        return history.read(self.job_file, self.run_dir, snapshot, **known | files)

    def violations(self, **circumstances: Any) -> list[str]:
        """List everything that should not have happened; see `history.Circumstances`."""
        given = Circumstances(**{"earlier": self.earlier} | circumstances)
        known = self.history()
        found = [*history.check(known, given), *event_history.check(known, given)]
        if given.reported:
            for check in self.vendor.checks:
                found += check(self)
        return found


class InProcessJob(JobUnderTest):
    """A job that runs in the process of the tests.

    Attributes:
        timings: waiting times of the run.
        events: what the last run reported.
        running: the run that is going on, or the last one.
    """

    running: library.Run
    timings: Timings = SHORT_WAITS
    settling_s = 0.02

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.events: list[Event] = []

    def plan(self) -> Plan | None:
        """Make the run directory with its checkpoint; send nothing."""
        with library.Run(library.load_job(self.job_file), self.run_dir) as run:
            return run.plan

    async def run(self, **options: Any) -> Summary:
        """Run or continue the job, and wait until the ledger is complete.

        Args:
            options: of `bulkcert.Run`.
        """
        summary = await self.run_alone(**options)
        async with asyncio.timeout(PATIENCE_S):
            while self.simulator.summary()["open"]:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        return summary

    async def run_alone(self, **options: Any) -> Summary:
        """Run or continue the job; some requests may still be open at the simulator."""
        self.events.clear()
        job = library.load_job(self.job_file)
        with (
            shared_key_processes(),
            library.Run(job, self.run_dir, **{"timings": self.timings} | options) as self.running,
        ):
            return await self.running.execute(self.credentials, self.events.append)

    def notices(self) -> list[str]:
        """What the last run had to say at once."""
        return [event.text for event in self.events if isinstance(event, Notice)]


class ProcessJob(JobUnderTest):
    """A job that the installed command runs, as a user would.

    Attributes:
        ended: how the last `run` ended.
    """

    ended: Ended
    targets = "targets.csv"

    def start(self, *options: object, **more: Any) -> Command:
        """Start `bulkcert run` with the credentials and without a terminal."""
        environment = more.pop("environment", self.credentials)
        return Command(["run", self.job_file, *options], self.folder, environment, **more)

    def run(self, *options: object, **more: Any) -> Ended:
        """Start `bulkcert run --yes`; wait for its end, and until the ledger is complete.

        The run does not wait for a response that it has given up, but the simulator still does.
        """
        self.ended = self.start("--yes", *options, **more).wait()
        until(lambda: not self.simulator.summary()["open"])
        return self.ended

    def bulkcert(self, *words: object, **more: Any) -> Ended:
        """Run another command in the folder."""
        return bulkcert(*words, folder=self.folder, **more)

    def await_requests(self, count: int, command: Command) -> bool:
        """Wait for this many requests of the job; False if the command ends first."""
        while self.simulator.requests < self.earlier + count:
            if command.process.poll() is not None:
                return False
            time.sleep(0.01)
        return True

    def violations(self, **circumstances: Any) -> list[str]:
        """The same, once the ledger is complete, and with some jitter of the arrivals permitted: on
        a busy machine either side may pause for a while."""
        until(lambda: not self.simulator.summary()["open"])
        ceiling = self.document.get("limits", {}).get("requests_per_second", 500)
        return super().violations(**{"jitter": 5 + ceiling // 20} | circumstances)


JobWith = Callable[..., AbstractContextManager[ProcessJob]]
"""The fixture `job_with`: sets up a job and a simulator, `job_with(targets=60, **behaviour)`."""


@asynccontextmanager
async def in_this_process(
    folder: Path,
    vendor: Vendor,
    action: str,
    rows: Iterable[Row],
    *,
    behaviour: Mapping[str, Any] | None = None,
    fleet: Iterable[Row] | None = None,
    between: Between | None = None,
    timings: Timings = SHORT_WAITS,
    credentials: Mapping[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[InProcessJob]:
    """Set up a job and a simulator, both in this process.

    Args:
        folder: an empty folder.
        vendor: the provider.
        action: the action of the job.
        rows: its targets.
        behaviour: how the simulator behaves; without limits unless they are given.
        fleet: what exists; the targets, unless given.
        between: stands between the job and the simulator.
        timings: waiting times of the run.
        credentials: the job's credentials; those that the simulator accepts, unless given.
        sections: changes to the job file, see `JobFolder.write`.
    """
    rows = list(rows)
    existing = write_json_lines(folder / "existing.jsonl", rows if fleet is None else fleet)
    async with AsyncExitStack() as stack:
        behaviour = {**vendor.behaviour, **(behaviour or {})}
        simulator = await stack.enter_async_context(vendor.simulator(behaviour, existing))
        endpoint = simulator.endpoint
        if between:
            endpoint = await stack.enter_async_context(between.serving(endpoint))
        job = InProcessJob(
            folder,
            vendor,
            action,
            rows,
            simulator,
            endpoint=endpoint,
            fleet=existing,
            credentials=credentials,
        )
        job.timings = timings
        job.write(**sections)
        yield job


@contextmanager
def as_a_process(
    folder: Path,
    vendor: Vendor,
    action: str,
    rows: Iterable[Row],
    *,
    fleet: Iterable[Row] | None = None,
    **behaviour: Any,
) -> Iterator[ProcessJob]:
    """Set up a job for the installed command, and a simulator in a process of its own.

    Args:
        folder: an empty folder.
        vendor: the provider.
        action: the action of the job.
        rows: its targets.
        fleet: what exists; the targets, unless given.
        behaviour: how the simulator behaves; without limits unless they are given.
    """
    rows = list(rows)
    existing = write_json_lines(folder / "fleet.jsonl", rows if fleet is None else fleet)
    with SimulatorProcess(
        folder / "ledger.jsonl", files={"fleet": existing}, **behaviour
    ) as simulator:
        yield ProcessJob(folder, vendor, action, rows, simulator)
