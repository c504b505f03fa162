"""`make rehearse-hosts`: three hosts share a run, and what is done to them does no harm.

A demonstration, for whoever wants to see it before they rely on it. It starts the simulator and a
PostgreSQL of its own in a temporary folder, and three hosts on this machine. One host is killed,
one is stopped and continued, and the database crashes. It says what happens while it happens, and
at the end what the provider has recorded. Exit code 0 if every promise was kept.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest has it

from processes import until

from hosts.host import Host
from hosts.judge import Figures
from hosts.lives import Life
from hosts.network import INSIDE, enter
from hosts.world import FAULTS, World, devices, document, world

COUNT = 7_000
CEILING = 500
SAID_EVERY_S = 4.0

INTRODUCTION = f"""
Three hosts renew the certificates of {COUNT:,} devices together, with at most {CEILING} requests in
any second: the ceiling of the account, whatever happens to the hosts. The provider is a simulator.
About 2 % of its responses are errors or never arrive, though the certificate was renewed.

They share a PostgreSQL, which this rehearsal has started in a temporary folder. Everything stays on
this machine, and takes about a minute. Each host runs this command:

    bulkcert run renew.toml --store postgresql://...

""".lstrip()


def main() -> int:
    """Rehearse, and return the exit code."""
    enter()
    _print("Starting the simulator and a PostgreSQL ...\n")
    rows = devices(COUNT)
    with world(None, rows, **FAULTS) as made:
        _print(INTRODUCTION)
        made.campaign("renew", rows, **document("renew", ceiling=CEILING))
        first, second, third = (made.add() for _ in range(3))
        made.log = _print
        made.begin()
        made.say("All three are at work.")
        with _Narrator(made):
            made.at(5, f"{first.name} is killed, as by a power failure (kill -9).")
            made.kill(first)
            made.at(8, f"{second.name} is stopped, as a machine that hangs (SIGSTOP).")
            second.stop()
            until(lambda: any(life.state == "fenced" for life in made.lives.of(second.pid)))
            time.sleep(2)
            made.say(f"{second.name} is continued (SIGCONT). Does it live, and send?")
            second.go_on()
            time.sleep(1)
            _continued(made, second)
            # a host that has just been started ends early if there is no database
            until(lambda: any(life.beats > 2 for life in made.lives.of(second.pid)))
            time.sleep(3)
            made.say("The database crashes, and is started again after 3 s.")
            made.database.crash()
            time.sleep(3)
            made.database.start()
            made.finish()
        codes = {first.name: {-signal.SIGKILL}, second.name: {0, 1}, third.name: {0, 1}}
        figures = made.figures(ceiling=CEILING, codes=codes)
        _print(_conclusion(made, figures))
    return 1 if figures.complaints else 0


def _continued(made: World, host: Host) -> None:
    if host.is_running:
        made.say("It lives, but may not send any more: it begins anew, and joins the others.")
        return
    made.say("It does not: the kernel killed it when its lease ended, before others took over.")
    made.say(f"{host.name} is started again with the same command, and joins the others.")
    host.run_job()


class _Narrator:
    """Says how far the run is, and which host was fenced."""

    def __init__(self, made: World) -> None:
        self._made = made
        self._over = threading.Event()
        self._fenced: set[str] = set()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        due = time.monotonic() + SAID_EVERY_S
        before = self._made.simulator.requests
        while not self._over.wait(0.2):
            for life in self._made.lives.all:
                if life.state == "fenced" and life.id not in self._fenced:
                    self._fenced.add(life.id)
                    self._made.say(self._fence(life))
            if time.monotonic() >= due:
                due += SAID_EVERY_S
                requests = self._made.simulator.requests
                rate = (requests - before) / SAID_EVERY_S
                before = requests
                self._made.say(self._progress(rate))

    def _fence(self, life: Life) -> str:
        name = next((h.name for h in self._made.hosts if life.pid in h.pids), "A host")
        return f"{name} has said nothing for 8 s: the others take over what it had."

    def _progress(self, rate: float) -> str:
        try:
            settled = f"{self._made.settled():,} of {COUNT:,} are renewed"
        except Exception:  # the database is away, and that was said
            settled = "nobody knows how many are renewed: the database is away"
        return f"    {settled}; {rate:.0f} requests/s"


def _conclusion(made: World, figures: Figures) -> str:
    summary = made.simulator.summary()
    renewed = summary["executed"].get("renew", 0)
    measured = "by the clock of its network" if INSIDE in os.environ else "by its own clock"
    lines = [
        "",
        f"What the provider has recorded, {measured}:",
        f"    {summary['requests']:>6,} requests, {figures.steady:.0f} in a usual second",
        f"    {figures.busiest:>6,} in the busiest second, of {CEILING} allowed",
        f"    {renewed:>6,} certificates renewed, of {COUNT:,}",
        f"    {figures.twice:>6,} of them twice",
        f"    {figures.late:>6,} requests from a host that had lost its lease",
        "",
        *(f"WRONG: {complaint}" for complaint in figures.complaints),
        "A promise was broken."
        if figures.complaints
        else "Nothing was lost, and nothing done twice.",
        "docs/hosts.md says how to set this up for real.",
    ]
    return "\n".join(lines)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
