"""How long a control waits while hosts claim all the time, with the lock of a row and a fair one.

    python -m benchmarks.shared_lock

starts a PostgreSQL server and threads that stand for hosts: each of them shares the lock for as
long as a commit takes, again and again, at times that have nothing to do with those of the others.
Meanwhile somebody wants it alone, ten times or for half a minute. Prints a line for each number of
hosts. Nothing is recorded.
"""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import LiteralString

import psycopg

TESTS = Path(__file__).parent.parent / "tests"
CONTROLS = 10
LONGEST_S = 30.0
EVERY_S = 1.0

Lock = tuple[LiteralString, LiteralString]

LOCKS: dict[str, Lock] = {
    "row": ("SELECT FROM run FOR SHARE", "SELECT FROM run FOR NO KEY UPDATE"),
    "fair": ("SELECT pg_advisory_xact_lock_shared(1, 1)", "SELECT pg_advisory_xact_lock(1, 1)"),
}
"""How to share each lock, and how to have it alone."""


def main() -> None:
    """Measure, and print one line for each case."""
    sys.path.insert(0, str(TESTS))
    from postgres import PostgresServer

    with closing(PostgresServer()) as server:
        server.start()
        with closing(psycopg.connect(server.url, autocommit=True)) as db:
            db.execute("CREATE TABLE run (control integer)")
            db.execute("INSERT INTO run VALUES (0)")
        for hosts, commit_ms, rest_ms in ((3, 10, 30), (10, 10, 30), (10, 20, 30), (10, 50, 30)):
            figures = []
            for name, lock in LOCKS.items():
                waits_ms = _measure(server.url, lock, hosts, commit_ms / 1000, rest_ms / 1000)
                figures.append(f"{name} {statistics.median(waits_ms):,.0f} / {max(waits_ms):,.0f}")
            case = f"{hosts} hosts, commits of {commit_ms} ms every {commit_ms + rest_ms} ms"
            print(f"{case}: {', '.join(figures)} ms, median / longest", flush=True)


def _measure(url: str, lock: Lock, hosts: int, commit_s: float, rest_s: float) -> list[float]:
    """How long each control waits, in milliseconds."""
    share, alone = lock
    stop = threading.Event()

    def commit_again_and_again() -> None:
        with closing(psycopg.connect(url)) as db:
            while not stop.wait(random.uniform(0, 2 * rest_s)):
                db.execute(share)
                time.sleep(commit_s)
                db.commit()

    threads = [threading.Thread(target=commit_again_and_again) for _ in range(hosts)]
    for thread in threads:
        thread.start()
    waits_ms: list[float] = []
    with closing(psycopg.connect(url)) as db:
        begun_at = time.monotonic()
        while len(waits_ms) < CONTROLS and time.monotonic() - begun_at < LONGEST_S:
            time.sleep(EVERY_S)
            started_at = time.monotonic()
            db.execute(alone)
            waits_ms.append((time.monotonic() - started_at) * 1000)
            db.commit()
    stop.set()
    for thread in threads:
        thread.join()
    return waits_ms


if __name__ == "__main__":
    main()
