"""Carries out scenarios: starts a simulator, runs one process after another, checks the history.

In: a scenario and an empty folder. Out: a `Report`. If it has no violations, the run kept all its
promises, whatever was done to it. All waiting is bounded, and only processes started here are
ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import resource
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import campaign_history
import event_history
import history
import several_hosts
from campaign_history import Steering
from event_history import Ends
from history import Circumstances
from job_folder import toml, write_csv
from onlookers import Onlookers
from processes import Command, SimulatorProcess, bulkcert, stopped, until
from report import CHECK_SCRIPT, CONNECTIONS, Report
from scenarios import CLOCK_SHIFTS_S, RULES, End, Scenario
from steers import LocalRun, Steer, Steersman

MOST_PROCESSES = 15
MOST_PROCESSES_FOR_THE_REST = 3
MOST_PROCESSES_OF_A_CAMPAIGN = 60
"""A campaign also ends early because it does not wait, is stopped, or stops itself."""

OVER = {0, 1}
EARLY = {3, 4}
"""Exit codes: finished, and to be continued."""

LIMIT_S = 240.0
"""No process needs this long for a few hundred requests and their back-offs."""

JITTER_SHARE = 0.1
FEWEST_JITTER = 8
"""Arrivals above the ceiling that are blamed on a busy machine, where either side may pause for a
while: this share of the ceiling, and at least the number below. Departures may never exceed it."""


def carry_out(scenario: Scenario, folder: Path, clock: Path | None) -> Report:
    """Carry out a scenario.

    Args:
        scenario: the scenario.
        folder: an empty folder.
        clock: the library `shifted_clock`, see `preload`; without it no clock is changed.
    """
    if scenario.hosts:
        return several_hosts.carry_out(scenario, folder)
    report, begun_at = Report(scenario), time.monotonic()
    try:
        _Torture(scenario, folder, report, clock).carry_out()
    except Exception as error:  # whatever it is, the report must name the seed
        report.violations.append(f"{type(error).__name__}: {error}")
    report.seconds = time.monotonic() - begun_at
    return report


class _Torture:
    def __init__(
        self, scenario: Scenario, folder: Path, report: Report, clock: Path | None
    ) -> None:
        self._scenario = scenario
        self._folder = folder
        self._report = report
        self._rng = random.Random(scenario.seed)
        self._job = folder / "job.toml"
        self._run_dir = folder / "run"
        self._fleet = folder / "fleet.csv"
        self._died = False
        self._running: Command | None = None
        self._steersman: Steersman | None = None
        self._until: int | None = None  # the last request of the run itself
        self._clock_shift = folder / "clock_shift"
        self._clock_slack_s = Circumstances.clock_slack_s
        self._closes_at = math.inf
        self._environment = (
            {}
            if clock is None
            else {"LD_PRELOAD": str(clock), "CLOCK_SHIFT": str(self._clock_shift)}
        )

    def carry_out(self) -> None:
        write_csv(self._fleet, self._scenario.fleet[1], self._scenario.fleet[0])
        write_csv(
            self._folder / "targets.csv", self._scenario.targets[1], self._scenario.targets[0]
        )
        write_csv(self._folder / "never.csv", self._scenario.never[1], self._scenario.never[0])
        script = self._folder / "check.sh"
        script.write_text(CHECK_SCRIPT)
        script.chmod(0o755)
        behaviour = self._scenario.behaviour
        ledger = self._folder / "ledger.jsonl"
        with SimulatorProcess(ledger, files={"fleet": self._fleet}, **behaviour) as simulator:
            self._simulator = simulator
            self._onlookers = self._who_looks()
            self._write_job(simulator.endpoint)
            steersman = self._steersman = Steersman(
                self._job,
                LocalRun(self._run_dir),
                self._steers(),
                self._shift_clock,
                self._is_running,
                self._closes_at,
            )
            with steersman.at_work(), self._onlookers.at_work():
                for end in self._scenario.ends:
                    if not self._end(simulator, end):
                        break
                self._finish(simulator)
            self._report.ends += steersman.done
            self._report.violations += steersman.failures
            until(lambda: not simulator.summary()["open"])
            self._notify_of_the_rest(simulator)
            self._check(over=True, all_notified=True)
            if self._scenario.verified:
                self._verify(simulator)
                self._check(over=True)
            if self._scenario.documented:
                self._onlookers.report(self._rng)
            self._report.violations += self._onlookers.violations

    def _who_looks(self) -> Onlookers:
        scenario = self._scenario
        operations = len(scenario.targets[1]) - len(scenario.never[1])
        return Onlookers(
            self._folder,
            self._run_dir,
            notify=scenario.notify,
            scraped=scenario.scraped,
            watched=scenario.watched,
            operations=None if "select" in scenario.job else operations,
            environment=self._environment,
        )

    def _steers(self) -> list[Steer]:
        """Without a way to set the clock, a window stays open."""
        steers = self._scenario.steers
        needs_clock = {"window", "closing"}
        return steers if self._environment else [s for s in steers if s.what not in needs_clock]

    def _is_running(self) -> bool:
        return self._running is not None and self._running.process.poll() is None

    def _shift_clock(self, by_s: int) -> None:
        """Set the clock of the run forward."""
        known = self._clock_shift.read_text() if self._clock_shift.exists() else "0"
        self._set_clock(int(known) + by_s)

    def _set_clock(self, shift_s: int) -> None:
        """Let the clock of the run be wrong by so much."""
        new = self._clock_shift.with_suffix(".new")
        new.write_text(f"{shift_s}\n")
        new.replace(self._clock_shift)
        self._clock_slack_s += abs(shift_s)

    def _write_job(self, endpoint: str) -> None:
        connection = CONNECTIONS[self._scenario.job["provider"]] | {"endpoint": endpoint}
        document = {"targets": "targets.csv", **self._scenario.job, "connection": connection}
        document |= self._onlookers.section
        if self._scenario.has_window:
            hour = int(time.time()) // 3600
            hours = [f"{(hour + hours) % 24:02}:00" for hours in (-3, 4)]
            document["window"] = {"open": [f"Mon-Sun {'-'.join(hours)}"], "zone": "UTC"}
            if self._scenario.closes_after_s is not None and self._environment:
                closes_at = (hour + 4) * 3600
                shift_s = int(closes_at - time.time() - self._scenario.closes_after_s)
                self._set_clock(shift_s)
                self._closes_at = float(closes_at - shift_s)
        self._job.write_text(toml(document))

    def _start(self, simulator: SimulatorProcess) -> Command:
        words = ["run", self._job, "--run-dir", self._run_dir, "--yes", "--no-progress"]
        if self._scenario.never[1]:
            words.append("--skip-protected")
        if self._rng.random() < self._scenario.impatient:
            words.append("--no-wait")
        if pending := self._pending_abort():
            words += ["--override", pending, "--why", "torture"]
        words += self._onlookers.options
        self._onlookers.watch()
        state = {"XDG_STATE_HOME": str(self._folder / "state")}
        environment = simulator.credentials | self._environment | state
        self._running = Command(words, self._folder, environment, measured=False)
        return self._running

    def _pending_abort(self) -> str:
        """The id of the abort that has stopped the run; empty if none has."""
        path = self._run_dir / "checkpoint.sqlite3"
        if not path.exists():
            return ""
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            pending = db.execute("SELECT id FROM aborts WHERE overridden_at IS NULL").fetchone()
        return pending[0] if pending else ""

    def _end(self, simulator: SimulatorProcess, end: End) -> bool:
        """Start a process and disturb it; False if the run was finished before that."""
        goal = simulator.requests + end.after_requests
        with self._start(simulator) as command:
            until(lambda: simulator.requests >= goal or command.process.poll() is not None)
            if command.process.poll() is None:
                self._do(end.how, command)
            ended = command.wait(LIMIT_S)
            code = ended.code
        self._report.codes.append(code)
        # without room not even the checkpoint can be opened, so nothing is sent
        allowed = (
            OVER
            | EARLY
            | {-signal.SIGKILL}
            | ({2} if "no room" in self._report.ends[-1:] else set())
        )
        assert code in allowed, f"exit code {code}: {ended.err}"
        until(lambda: not simulator.summary()["open"])
        self._check(over=code in OVER, reported=code in OVER)
        return code not in OVER

    def _do(self, how: str, command: Command) -> None:
        if how == "clock set" and not self._environment:
            return
        self._report.ends.append(how)
        match how:
            case "kill -9":
                command.kill()
                self._died = True
            case "SIGTERM":
                command.send(signal.SIGTERM)
            case "SIGINT twice":
                command.send(signal.SIGINT)
                time.sleep(self._rng.uniform(0, 0.1))
                command.send(signal.SIGINT)
                self._died = True
            case "SIGSTOP":
                with stopped(command):
                    time.sleep(self._rng.uniform(0.1, 1.0))
            case "clock set":
                self._set_clock(self._rng.choice(CLOCK_SHIFTS_S[self._scenario.job["provider"]]))
            case "no room":
                largest = max(path.stat().st_size for path in self._run_dir.glob("check*"))
                limit = largest + self._rng.randrange(20_000)
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(command.pid, resource.RLIMIT_FSIZE, (limit, limit))
                self._died = True

    def _finish(self, simulator: SimulatorProcess) -> None:
        """Run until the job is finished."""
        most = MOST_PROCESSES_OF_A_CAMPAIGN if self._is_campaign else MOST_PROCESSES
        for _ in range(most):
            ended = self._start(simulator).wait(LIMIT_S)
            code = ended.code
            self._report.codes.append(code)
            if code not in EARLY:
                break
            if self._is_campaign:
                time.sleep(0.2)  # for whoever says go
        assert code in OVER, (
            f"exit code {code} after {len(self._report.codes)} processes: {ended.err}"
        )
        until(lambda: not simulator.summary()["open"])
        self._report.summary = json.loads((self._run_dir / "summary.json").read_bytes())
        assert self._report.summary["exit_code"] == code

    def _notify_of_the_rest(self, simulator: SimulatorProcess) -> None:
        """A process does not wait for a slow command for ever; the next one goes on there."""
        for _ in range(MOST_PROCESSES_FOR_THE_REST):
            events = len((self._run_dir / "events.jsonl").read_bytes().splitlines())
            notified = self._onlookers.notified
            if notified is None or f'"seq":{events},'.encode() in b"".join(notified):
                return
            code = self._start(simulator).wait(LIMIT_S).code
            assert code == self._report.codes[-1], f"exit code {code} of a run that is over"

    @property
    def _is_campaign(self) -> bool:
        return bool(self._scenario.steers) or any(name in self._scenario.job for name in RULES)

    def _check(self, *, all_notified: bool = False, **circumstances: Any) -> None:
        snapshot = self._folder / "snapshot.jsonl"
        lines = (json.dumps(entry) + "\n" for entry in self._entries())
        snapshot.write_text("".join(lines))
        found = history.read(self._job, self._run_dir, snapshot, fleet=self._fleet)
        ceiling = self._scenario.job["limits"]["requests_per_second"]
        jitter = max(FEWEST_JITTER, int(ceiling * JITTER_SHARE))
        known = Circumstances(
            died=self._died, jitter=jitter, clock_slack_s=self._clock_slack_s, **circumstances
        )
        self._report.violations += history.check(found, known)
        steering = self._steersman.steering if self._steersman else Steering()
        self._report.violations += campaign_history.check(found, known, steering)
        ends = Ends(
            codes=self._report.codes,
            notified=self._onlookers.notified,
            all_notified=all_notified,
        )
        self._report.violations += event_history.check(found, known, steering, ends)

    def _entries(self) -> list[dict[str, Any]]:
        """The entries that belong to the run, not to its verification."""
        entries = self._simulator.entries()
        return [entry for entry in entries if self._until is None or entry["n"] <= self._until]

    def _verify(self, simulator: SimulatorProcess) -> None:
        """Everything that was reported as done must be confirmed."""
        self._until = simulator.requests
        ended = bulkcert(
            "verify", self._run_dir, folder=self._folder, environment=simulator.credentials
        )
        for line in ended.out.splitlines():
            difference = json.loads(line)
            allowed = (
                difference["outcome"] == "unknown" or "not be read" in difference["difference"]
            )
            if not allowed:
                self._report.violations.append(f"verify: {line}")
