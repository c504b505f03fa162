"""Everything that a scenario needs, together: the provider, the store, the network and the hosts.

In: how many hosts, which job, how the provider behaves. Out: a world in which things can be done to
hosts and store at certain moments, and a verdict at the end. All waiting is bounded, and only
processes that were started here are ended.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import history
import preload
from history import Circumstances, Entry, key_of
from job_folder import write_csv, write_json_lines
from processes import SimulatorProcess, until

from hosts import judge
from hosts.database import Database, database
from hosts.host import Host, wait_for_all
from hosts.judge import Figures
from hosts.lives import Lives
from hosts.network import Loopback, Namespaces, network
from hosts.store_proxy import Loop, StoreProxy
from hosts.wire import Wire

FIRST_SERIAL = 100_000
TTL_S = 6.0
GRACE_S = 2.0
LIMIT_S = 600.0
"""No scenario takes so long once the last thing was done to it, even on a busy machine."""

CLOCK_SLACK_S = 0.5
"""Hosts follow the clock of the store by questions that take time on a busy machine."""

FAULTS: dict[str, Any] = {"cut_after": 0.01, "error_after": 0.01, "seed": 7}
LATENCY_S = 0.2


@dataclass
class Campaign:
    """A job, and the targets that belong to it alone.

    Attributes:
        name: of the run.
        document: the job file as a document.
        targets: the target file.
        rows: its rows.
    """

    name: str
    document: dict[str, Any]
    targets: Path
    rows: list[dict[str, Any]]


@dataclass
class World:
    """One world. Use `world` to make it.

    Attributes:
        hosts: in the order in which they were added.
        began_at: when the first request arrived, by the monotonic clock.
        log: what was done, for people.
    """

    folder: Path
    network: Namespaces | Loopback
    loop: Loop
    database: Database
    simulator: SimulatorProcess
    lives: Lives
    wire: Wire | None
    fleet: Path
    clock: Path | None
    campaigns: list[Campaign] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)
    began_at: float = 0.0
    died_at: dict[int, float] = field(default_factory=dict)
    log: Callable[[str], None] = lambda _: None

    # ---- before it begins

    def campaign(self, name: str, rows: Sequence[Mapping[str, Any]], **job: Any) -> Campaign:
        """Write a job; see `document`."""
        header = ",".join(rows[0])
        targets = write_csv(
            self.folder / f"{name}.csv", [list(row.values()) for row in rows], header
        )
        connection = {"endpoint": self.simulator.endpoint, **job.pop("connection", {})}
        document = {"name": name, "targets": "targets.csv", **job, "connection": connection}
        campaign = Campaign(name, document, targets, [dict(row) for row in rows])
        self.campaigns.append(campaign)
        return campaign

    def add(self, campaign: Campaign | None = None, **job: Any) -> Host:
        """Set up one more host; its process is started with `Host.run` or `Host.work`."""
        campaign = campaign or self.campaigns[0]
        number = len(self.hosts) + 1
        place = self.network.add(number)
        store = StoreProxy(self.loop, self.network.provider, self.database.socket)
        url = f"postgresql://postgres@{self.network.provider}:{store.port}/postgres"
        folder = self.folder / f"host{number}"
        environment = {
            **self.simulator.credentials,
            "BULKCERT_STORE": url,
            "XDG_STATE_HOME": str(folder / "state"),
        }
        if self.clock is not None:
            environment |= {"LD_PRELOAD": str(self.clock), "CLOCK_SHIFT": str(folder / "shift")}
        host = Host(f"host{number}", folder, place, store, url, environment, run=campaign.name)
        host.write(campaign.document | job, campaign.targets)
        self.hosts.append(host)
        return host

    # ---- while it lasts

    def begin(self, *hosts: Host) -> None:
        """Start these hosts, or all, and wait until the first request has arrived."""
        before = self.simulator.requests
        for host in hosts or self.hosts:
            host.run_job()
        until(lambda: self.simulator.requests > before or not self._any_is_running(), 60)
        assert self._any_is_running(), self._outputs()
        self.began_at = time.monotonic()

    def at(self, seconds: float, what: str = "") -> None:
        """Wait for a moment, counted from the first request."""
        while (rest_s := self.began_at + seconds - time.monotonic()) > 0:
            time.sleep(min(rest_s, 0.5))
            assert self._any_is_running(), f"all hosts have ended: {self._outputs()}"
        self.say(what)

    def say(self, what: str) -> None:
        """Tell whoever looks on what happens."""
        if what:
            self.log(f"{time.monotonic() - self.began_at:5.1f} s  {what}")

    def kill(self, host: Host) -> None:
        """Kill the process of a host."""
        self.died_at[host.pid] = time.time()
        host.kill()

    def progress(self, share: float, limit_s: float = LIMIT_S) -> None:
        """Wait until this share of the operations is settled."""
        goal = share * sum(len(campaign.rows) for campaign in self.campaigns)
        until(lambda: self.settled() >= goal or not self._any_is_running(), limit_s)
        assert self.settled() >= goal, self._outputs()

    def settled(self) -> int:
        """Operations that are settled, in the store."""
        (row,) = self.database.rows(
            "SELECT count(*) AS n FROM bulkcert.operation"
            " WHERE state NOT IN ('planned', 'in_flight')"
        )
        return int(row["n"])

    def finish(self, limit_s: float = LIMIT_S) -> None:
        """Wait until no host works any more, and nothing is open at the provider."""
        wait_for_all(self.hosts, limit_s)
        until(lambda: not self.simulator.summary()["open"])
        self.say("all hosts have ended")

    def _any_is_running(self) -> bool:
        return any(host.is_running for host in self.hosts)

    def _outputs(self) -> str:
        for host in self.hosts:
            if not host.is_running:
                host.reap()
        return "\n".join(
            f"{host.name}: exit code {ended.code}\n{ended.output[-1500:]}"
            for host in self.hosts
            for ended in host.ended
        )

    # ---- afterwards

    def figures(
        self,
        *,
        ceiling: float = 500,
        clock_slack_s: float = CLOCK_SLACK_S,
        codes: Mapping[str, set[int]] | None = None,
        over: bool = True,
        forgotten: bool = False,
        gone: Sequence[Host] = (),
        fetched: Sequence[Path] = (),
    ) -> Figures:
        """Judge what has happened.

        Args:
            ceiling: of the account.
            clock_slack_s: how wrong recorded times may be.
            codes: permitted exit codes of the last process of a host; 0 and 1, unless given.
            over: the runs are finished.
            forgotten: the store has forgotten commits, so its records have gaps.
            gone: hosts whose files are gone.
            fetched: folders with keys and certificates besides those of the other hosts.
        """
        self.lives.close()
        ledger = self.simulator.entries()
        arrivals = (
            [(at, source) for at, source in self.wire.close()]
            if self.wire
            else [(entry["at"], entry["source"]) for entry in ledger]
        )
        (self.folder / "arrivals").write_text("".join(f"{at:.6f} {s}\n" for at, s in arrivals))
        times = [at for at, _ in arrivals]
        figures = Figures(judge.steady(times), judge.busiest(times))
        figures.complaints += judge.above(times, ceiling, "arrived")
        if len(arrivals) < len(ledger):
            figures.complaints.append(
                f"{len(arrivals)} requests were seen on the wire, the ledger has {len(ledger)}"
            )
        for source in sorted({source for _, source in arrivals}):
            figures.busiest_of[source] = judge.busiest(at for at, s in arrivals if s == source)
        overs = [over for host in self.hosts for over in self.lives.overs(host)]
        tardy = judge.late(arrivals, overs)
        figures.late = len(tardy)
        figures.complaints += tardy[:5]
        for campaign in self.campaigns:
            self._judge(
                *(campaign, ledger, figures, clock_slack_s),
                over=over,
                forgotten=forgotten,
                gone=gone,
                fetched=fetched,
            )
        for host in self.hosts:
            figures.complaints += host.faults()
            code = host.ended[-1].code if host.ended else 0
            allowed = (codes or {}).get(host.name, {0, 1})
            if code not in allowed:
                figures.complaints.append(
                    f"{host.name} ended with exit code {code}: {host.ended[-1].output[-800:]}"
                )
        figures.takeover_s = [
            life.over_at - died_at
            for pid, died_at in self.died_at.items()
            for life in self.lives.of(pid)
            if life.state == "fenced" and life.over_at is not None and life.over_at > died_at
        ]
        return figures

    def _judge(
        self,
        campaign: Campaign,
        ledger: Sequence[Entry],
        figures: Figures,
        clock_slack_s: float,
        *,
        over: bool,
        forgotten: bool,
        gone: Sequence[Host],
        fetched: Sequence[Path],
    ) -> None:
        job = campaign.document
        devices = {key_of(row).device for row in campaign.rows}
        own = [entry for entry in ledger if not entry["device"] or entry["device"] in devices]
        hosts = [h for h in self.hosts if h.run == campaign.name and h not in gone]
        ended = [h for h in hosts if h.ended and h.ended[-1].code in {0, 1}]
        found = history.read_shared(
            hosts[0].job,
            self.database.url,
            campaign.name,
            [*(host.run_dir for host in [*ended, *hosts]), *fetched],
            own,
            fleet=self.fleet,
        )
        twice = judge.sent_twice(own, job["provider"], job["action"])
        missing = judge.lost(
            *(campaign.rows, found.operations, own, job["provider"], job["action"]),
            forgotten=forgotten,
        )
        figures.twice += len(twice)
        figures.lost += len(missing) if over else 0
        figures.unknown += sum(o["state"] == "unknown" for o in found.operations)
        figures.complaints += twice[:5] + (missing[:5] if over else [])
        if forgotten:
            return
        figures.complaints += history.check(
            found,
            Circumstances(
                died=True,
                over=over,
                reported=bool(ended) and over,
                jitter=10_000,  # the ceiling is judged above
                clock_slack_s=clock_slack_s,
            ),
        )[:10]


def document(action: str, *, ceiling: int = 500, **sections: Any) -> dict[str, Any]:
    """A job of EnOS: what all scenarios share, and what one changes."""
    parameters = {"revoke": {"reason": 1}, "renew": {"validDay": 100}}.get(action, {})
    job = {
        "provider": "enos",
        "action": action,
        "connection": {"org_id": "o1"},
        "parameters": parameters,
        "limits": {
            "requests_per_second": ceiling,
            "in_flight": 1000,
            "request_timeout_seconds": 8,  # what the dead left is looked up that much later
        },
        "retry": {"settling_seconds": 2.0},
    }
    for name, value in sections.items():
        old = job.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        job[name] = {**old, **value} if both else value  # type: ignore[dict-item]
    return job


def devices(count: int, prefix: str = "A", first: int = FIRST_SERIAL) -> list[dict[str, Any]]:
    """Rows of a target file."""
    return [{"assetId": f"{prefix}{n:06}", "certSn": first + n} for n in range(count)]


@contextmanager
def world(
    folder: Path | None,
    rows: Sequence[Mapping[str, Any]],
    log: Callable[[str], None] = lambda _: None,
    **behaviour: Any,
) -> Iterator[World]:
    """A world with a provider, a store and no hosts.

    Args:
        folder: an empty one, which is kept; None for a temporary one.
        rows: what exists at the provider.
        log: is told what happens.
        behaviour: of the simulator.
    """
    _end_in_good_order()
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
        fleet = write_json_lines(folder / "fleet.jsonl", map(dict, rows))
        place = stack.enter_context(closing(network()))
        shared = stack.enter_context(database())
        simulator = stack.enter_context(
            SimulatorProcess(
                folder / "ledger.jsonl",
                files={"fleet": fleet},
                **{"host": place.provider, "latency": LATENCY_S} | behaviour,
            )
        )
        port = urllib.parse.urlsplit(simulator.endpoint).port
        assert port is not None
        wire = Wire("provider", port) if place.can_be_cut else None
        if wire is not None:
            stack.callback(wire.close)
        lives = Lives(shared)
        stack.callback(lives.close)
        made = World(
            folder=folder,
            network=place,
            loop=stack.enter_context(Loop()),
            database=shared,
            simulator=simulator,
            lives=lives,
            wire=wire,
            fleet=fleet,
            clock=preload.built("shifted_clock", folder),
            log=log,
        )
        stack.callback(lambda: [host.close() for host in made.hosts])
        yield made


def _end_in_good_order() -> None:
    """Whoever asks this process to end means what it has started, too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
