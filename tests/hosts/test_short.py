"""Two short scenarios; `make hosts` has all of them, at full speed and on links of their own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from hosts.store_proxy import Fate, Trap
from hosts.world import World, devices, document, world

pytestmark = pytest.mark.system

CEILING = 50
JITTER = 15
"""Arrivals above the ceiling that are blamed on a machine with too much to do."""


def begun(made: World, action: str, count: int) -> None:
    limits = {"requests_per_second": CEILING, "in_flight": 50, "request_timeout_seconds": 3}
    made.campaign("campaign", devices(count), **document(action, limits=limits))
    made.add()
    made.add()
    made.begin()


def test_a_host_is_killed_and_the_database_crashes(tmp_path: Path) -> None:
    with world(tmp_path, devices(240), latency=0.05, cut_after=0.02, seed=3) as made:
        begun(made, "renew", 240)
        made.progress(0.2)
        made.kill(made.hosts[0])
        time.sleep(1)
        made.database.crash()
        made.database.start()
        made.finish()
        figures = made.figures(ceiling=CEILING + JITTER, codes={"host1": {-signal.SIGKILL}})
    assert figures.complaints == []
    assert len(figures.takeover_s) == 1


def test_answers_of_the_store_are_lost(tmp_path: Path) -> None:
    with world(tmp_path, devices(300), latency=0.05, seed=4) as made:
        begun(made, "revoke", 300)
        for fate in (Fate.ANSWER_LOST, Fate.LOST, Fate.SILENCE):
            for host in made.hosts:
                host.store.set_trap(Trap(b"COMMIT", fate))
            time.sleep(0.5)
        made.finish()
        figures = made.figures(ceiling=CEILING + JITTER)
    assert figures.complaints == []
