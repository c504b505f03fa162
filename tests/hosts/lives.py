"""Who is alive, as the store says: looked at again and again, beside the hosts.

In: the table of leases, read directly and not as a host does. Out: each life with the times at
which it was first seen, and first seen to be over, by this machine's clock. A life was fenced at
the latest when it was seen to be, so whatever arrives from it later is late.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass

import psycopg

from hosts.database import Database
from hosts.host import Host
from hosts.judge import Over

EVERY_S = 0.1


@dataclass
class Life:
    """One life of a host.

    Attributes:
        id: of its lease.
        pid: of its process.
        seen_at: when it was first seen, as Unix time by this machine.
        state: live, left or fenced.
        over_at: when it was first seen to be over; None if it was not.
        beats: the most that were seen.
    """

    id: str
    pid: int
    seen_at: float
    state: str = "live"
    over_at: float | None = None
    beats: int = 0


class Lives:
    """Looks at the leases until it is closed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lives: dict[str, Life] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="lives", daemon=True)
        self._thread.start()

    @property
    def all(self) -> list[Life]:
        """All lives so far, in order."""
        return list(self._lives.values())

    def of(self, pid: int) -> list[Life]:
        """The lives of a process."""
        return [life for life in self.all if life.pid == pid]

    def overs(self, host: Host) -> list[Over]:
        """The spans in which a host had no lease any more, because it was fenced."""
        lives = sorted(
            (life for life in self.all if life.pid in host.pids), key=lambda life: life.seen_at
        )
        # a life is seen a little after it has begun
        ends = [after.seen_at - 1.0 for after in lives[1:]]
        return [
            Over(host.place.address, life.over_at, end)
            for life, end in zip(lives, [*ends, math.inf], strict=False)
            if life.over_at is not None and life.state == "fenced"
        ]

    def _look(self) -> None:
        while not self._over.is_set():
            with suppress(psycopg.Error), closing(self._database.connection()) as db:
                while not self._over.wait(EVERY_S):
                    self._note(db)
            self._over.wait(EVERY_S)

    def _note(self, db: psycopg.Connection[tuple[object, ...]]) -> None:
        rows = db.execute(
            "SELECT id::text, pid, state, beats FROM bulkcert.lease ORDER BY number"
        ).fetchall()
        now = time.time()
        for id_, pid, state, beats in rows:
            life = self._lives.setdefault(str(id_), Life(str(id_), int(str(pid)), now))
            life.beats = max(life.beats, int(str(beats)))
            if state != "live" and life.over_at is None:
                life.state, life.over_at = str(state), now

    def close(self) -> None:
        """Look a last time, and stop."""
        self._over.set()
        self._thread.join()
        with suppress(psycopg.Error), closing(self._database.connection()) as db:
            self._note(db)
