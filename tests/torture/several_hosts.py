"""Tortures a run that several hosts share: any of them may die or stand still, so may the store.

In: a scenario with hosts, and an empty folder. Out: a `Report`, as for one host. The hosts work at
the same time, and whoever ends early is started again until the run is over. Meanwhile the store
crashes or is silent, answers of it get lost, and people steer the run from outside.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import campaign_history
import event_history
import history
import psycopg
from history import Circumstances
from hosts import judge
from hosts.database import Database, database
from hosts.host import Ended, Host
from hosts.judge import Over
from hosts.keys import fetch, operator
from hosts.lives import Lives
from hosts.network import Loopback
from hosts.store_proxy import Fate, Loop, StoreProxy, Trap
from job_folder import write_csv
from processes import SimulatorProcess, until
from report import CHECK_SCRIPT, CONNECTIONS, Report
from scenarios import Blow, Scenario
from steers import Steersman

RUN = "torture"
LIMIT_S = 300.0
CLOCK_SLACK_S = 1.0
"""Hosts follow the clock of the store, on a machine with too much to do."""

JITTER_SHARE = 0.15
FEWEST_JITTER = 12
ENDED_EARLY = {3, 4, -signal.SIGKILL}


@dataclass(frozen=True)
class SharedRun:
    """A run in a shared store, as whoever steers it knows it."""

    store: Database

    @property
    def word(self) -> object:
        return RUN

    def is_planned(self) -> bool:
        with contextlib.suppress(psycopg.Error):
            return bool(self.store.rows("SELECT 1 FROM bulkcert.run WHERE name = %s", RUN))
        return False

    def report(self) -> dict[str, Any]:
        """The figures of the host that noted them last, with the reasons of all."""
        with contextlib.suppress(psycopg.Error):
            rows = self.store.rows(
                "SELECT s.figures FROM bulkcert.session AS s JOIN bulkcert.lease AS l"
                " ON l.id = s.owner WHERE l.state = 'live'"
            )
            figures = [json.loads(row["figures"]) for row in rows]
            if figures:
                reasons = [reason for each in figures for reason in each["reasons"]]
                return max(figures, key=lambda each: each["updated_at"]) | {"reasons": reasons}
        return {}


def carry_out(scenario: Scenario, folder: Path) -> Report:
    """Carry out a scenario with several hosts, in an empty folder."""
    report, begun_at = Report(scenario), time.monotonic()
    try:
        with ExitStack() as stack:
            _SharedTorture(scenario, folder, report, stack).carry_out()
    except Exception as error:  # whatever it is, the report must name the seed
        report.violations.append(f"{type(error).__name__}: {error}")
    report.seconds = time.monotonic() - begun_at
    return report


class _SharedTorture:
    def __init__(self, scenario: Scenario, folder: Path, report: Report, stack: ExitStack) -> None:
        self._scenario, self._folder, self._report = scenario, folder, report
        self._rng = random.Random(f"shared {scenario.seed}")
        fleet, targets = scenario.fleet, scenario.targets
        self._fleet = write_csv(folder / "fleet.csv", fleet[1], fleet[0])
        self._targets = write_csv(folder / "targets.csv", targets[1], targets[0])
        self._store = stack.enter_context(database())
        self._simulator = stack.enter_context(
            SimulatorProcess(
                folder / "ledger.jsonl", files={"fleet": self._fleet}, **scenario.behaviour
            )
        )
        self._lives = Lives(self._store)
        stack.callback(self._lives.close)
        loop = stack.enter_context(Loop())
        self._hosts = [self._host(loop, number + 1) for number in range(scenario.hosts)]
        stack.callback(lambda: [host.close() for host in self._hosts])

    def _host(self, loop: Loop, number: int) -> Host:
        folder = self._folder / f"host{number}"
        store = StoreProxy(loop, "127.0.0.1", self._store.socket)
        url = f"postgresql://postgres@127.0.0.1:{store.port}/postgres"
        state = {"BULKCERT_STORE": url, "XDG_STATE_HOME": str(folder / "state")}
        place = Loopback().add(number)
        environment = self._simulator.credentials | state
        host = Host(f"host{number}", folder, place, store, url, environment, run=RUN)
        job = self._scenario.job
        connection = CONNECTIONS[job["provider"]] | {"endpoint": self._simulator.endpoint}
        document = {"name": RUN, "targets": "targets.csv", **job, "connection": connection}
        if "keys" in job:
            owner = operator(self._folder)
            document["keys"] = job["keys"] | {"operator": str(owner.public)}
        host.write(document, self._targets)
        write_csv(folder / "never.csv", self._scenario.never[1], self._scenario.never[0])
        script = folder / "check.sh"
        script.write_text(CHECK_SCRIPT)
        script.chmod(0o755)
        (folder / "answer").write_text("0 \n")
        return host

    def carry_out(self) -> None:
        first = self._hosts[0]
        steersman = Steersman(
            first.job,
            SharedRun(self._store),
            self._scenario.steers,
            lambda _: None,
            lambda: any(host.is_running for host in self._hosts),
            environment=first.environment | {"BULKCERT_STORE": self._store.url},
        )
        with steersman.at_work(), self._kept_at_work():
            for blow in self._scenario.blows:
                goal = self._simulator.requests + blow.after_requests
                until(lambda goal=goal: self._simulator.requests >= goal or self._is_over, LIMIT_S)
                if self._is_over:
                    break
                self._strike(blow)
        self._report.ends += steersman.done
        self._report.violations += steersman.failures
        until(lambda: not self._simulator.summary()["open"])
        self._lives.close()
        self._check(steersman)

    # ---- hosts come and go

    @property
    def _is_over(self) -> bool:
        return all(
            not host.is_running and host.ended and host.ended[-1].code in {0, 1}
            for host in self._hosts
        )

    @contextmanager
    def _kept_at_work(self) -> Iterator[None]:
        """Start all hosts, and each again that ends early, until the run is over."""
        for host in self._hosts:
            self._start(host)
        self._restart_due = {host.name: 0.0 for host in self._hosts}
        yield
        end = time.monotonic() + LIMIT_S
        while not self._is_over:
            assert time.monotonic() < end, "the run does not end"
            self._look_after()
            time.sleep(0.1)

    def _look_after(self) -> None:
        for host in self._hosts:
            if host.is_running:
                continue
            if not (ended := host.reap()).pid or ended.code in {0, 1}:
                continue
            known = self._report.codes
            if self._restart_due[host.name] == 0.0:
                known.append(ended.code)
                assert _may_end(ended), f"{host.name}: {ended}"
                self._restart_due[host.name] = time.monotonic() + self._rng.uniform(0, 2)
            elif time.monotonic() >= self._restart_due[host.name]:
                self._restart_due[host.name] = 0.0
                self._start(host)

    def _start(self, host: Host) -> None:
        options = ["--skip-protected"] if self._scenario.never[1] else []
        if pending := self._pending_abort():
            if any(other.is_running for other in self._hosts):
                self._restart_due[host.name] = time.monotonic() + 0.5
                return  # one overrides, when all have noticed the abort
            options += ["--override", pending, "--why", "torture"]
        host.run_job(*options)

    def _pending_abort(self) -> str:
        with contextlib.suppress(psycopg.Error):
            rows = self._store.rows("SELECT id FROM bulkcert.abort WHERE overridden_at IS NULL")
            return str(rows[0]["id"]) if rows else ""
        return ""

    def _strike(self, blow: Blow) -> None:
        self._look_after()
        host = self._hosts[blow.host % len(self._hosts)]
        self._report.ends.append(blow.how)
        match blow.how:
            case "kill -9":
                if host.is_running:
                    host.kill()
            case "SIGTERM":
                host.end()
            case "SIGSTOP":
                host.stop()
                self._wait(blow.for_s)
                host.go_on()
            case "store crash":
                self._store.crash()
                self._wait(blow.for_s)
                self._store.start()
            case "store silent":
                self._store.freeze()
                self._wait(blow.for_s)
                self._store.thaw()
            case "answer lost":
                host.store.set_trap(Trap(b"COMMIT", Fate.ANSWER_LOST))
            case "commit lost":
                host.store.set_trap(Trap(b"COMMIT", Fate.LOST))
            case _:
                raise ValueError(blow.how)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look_after()
            time.sleep(0.1)

    # ---- the verdict

    def _check(self, steersman: Steersman) -> None:
        ledger = self._simulator.entries()
        violations = self._report.violations
        folders = [host.run_dir for host in self._hosts]
        if "keys" in self._scenario.job:
            # whoever has settled a renewal need not be the host that made its key
            output, wrong = fetch(folders[0], self._folder, operator(self._folder))
            folders.append(output)
            violations += wrong
        found = history.read_shared(
            self._hosts[0].job,
            self._store.url,
            RUN,
            folders,
            ledger,
            fleet=self._fleet,
        )
        ceiling = self._scenario.job["limits"]["requests_per_second"]
        known = Circumstances(
            died=True,
            jitter=max(FEWEST_JITTER, int(ceiling * JITTER_SHARE)),
            clock_slack_s=CLOCK_SLACK_S,
        )
        violations += history.check(found, known)
        violations += campaign_history.check(found, known, steersman.steering)
        violations += event_history.check(found, known, steersman.steering)
        arrivals = [(entry["at"], entry["source"]) for entry in ledger]
        violations += judge.late(arrivals, self._overs())
        for host in self._hosts:
            violations += host.faults()
        self._report.codes += [host.ended[-1].code for host in self._hosts]
        summary = self._hosts[0].run_dir / "summary.json"
        self._report.summary = json.loads(summary.read_bytes())

    def _overs(self) -> list[Over]:
        return [over for host in self._hosts for over in self._lives.overs(host)]


def _may_end(ended: Ended) -> bool:
    """Whether a host may end like this before the run is over."""
    without_store = ended.code == 2 and "The shared store can't be used" in ended.output
    return ended.code in ENDED_EARLY or without_store
