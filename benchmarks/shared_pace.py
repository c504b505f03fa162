"""How hosts share a ceiling: the steady rate, the busiest second, and what that costs the database.

    python -m benchmarks.shared_pace --hosts 1 3 10 --seconds 20

starts a PostgreSQL server with the settings that it has when it is installed, or uses the one that
`--store` names, and as many processes as hosts, which let requests leave for nobody as fast as they
may. Prints a line for each number of hosts. With `--per-address 300`, each host has an address of
its own, with a limit. Nothing is recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.shared_store import server_cpu_s

TESTS = Path(__file__).parent.parent / "tests"
CEILING = 500
BEGINNING_S = 3.0
"""Hosts that have just joined wait; what is measured begins after this time."""


def main() -> None:
    """Measure, and print one line for each number of hosts."""
    arguments = _arguments()
    with _server(arguments.store) as (url, postmaster):
        for hosts in arguments.hosts:
            print(_measure(url, postmaster, hosts, arguments), flush=True)


def _measure(url: str, postmaster: int | None, hosts: int, arguments: argparse.Namespace) -> str:
    from hosts.shared_pace import busiest

    with closing(psycopg.connect(url, autocommit=True)) as db:
        db.execute("DELETE FROM bulkcert.pace_host; DELETE FROM bulkcert.pace")
        context = multiprocessing.get_context("spawn")
        queue: Queue[list[float]] = context.Queue()
        ready = context.Barrier(hosts + 1)
        seconds = BEGINNING_S + arguments.seconds
        processes = [
            context.Process(
                target=_host, args=(url, str(number), arguments.per_address, seconds, ready, queue)
            )
            for number in range(hosts)
        ]
        for process in processes:
            process.start()
        ready.wait()
        begin = time.monotonic() + BEGINNING_S
        end = begin + arguments.seconds
        time.sleep(BEGINNING_S)
        transactions, ticks = _transactions(db), server_cpu_s(postmaster) if postmaster else 0.0
        time.sleep(max(0.0, end - time.monotonic()))
        transactions = (_transactions(db) - transactions) / arguments.seconds
        cores = (server_cpu_s(postmaster) - ticks) / arguments.seconds if postmaster else None
        times = sorted(time for _ in processes for time in queue.get(timeout=60))
        for process in processes:
            process.join()
    steady = sum(begin <= time < end for time in times) / arguments.seconds
    database = f"{transactions:.0f} transactions/s"
    if cores is not None:
        database += f", {cores:.2f} cores"
    return f"{hosts} hosts: {steady:.1f}/s, busiest second {busiest(times)}; database: {database}"


def _host(
    url: str,
    name: str,
    per_address: float | None,
    seconds: float,
    ready: Barrier,
    queue: Queue[list[float]],
) -> None:
    """Work as one host, in a process of its own."""
    sys.path.insert(0, str(TESTS))
    from hosts.shared_pace import Sender

    async def send() -> list[float]:
        sender = Sender(url, ceiling=CEILING, per_address=per_address, egress=name)
        sender.start()
        await asyncio.sleep(seconds)
        await sender.stop()
        return sender.times

    ready.wait()
    queue.put(asyncio.run(send()))


def _transactions(db: psycopg.Connection) -> float:
    row = db.execute(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return float(row[0])


@contextmanager
def _server(named: str | None) -> Iterator[tuple[str, int | None]]:
    """The URL of an empty store, and the process id of its server if that is known."""
    sys.path.insert(0, str(TESTS))
    from postgres import PostgresServer, new_database

    def prepared(url: str) -> str:
        with closing(psycopg.connect(url, autocommit=True)) as db:
            db.execute("INSERT INTO bulkcert.run (name, manifest) VALUES ('pace', '{}')")
        return url

    if named is not None:
        with new_database(named) as url:
            yield prepared(url), None
        return
    with closing(PostgresServer({"fsync": "on"})) as server:
        server.start()
        with new_database(server.url) as url:
            yield prepared(url), server.pid


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--per-address", type=float)
    parser.add_argument("--store", help="URL of a server that is running")
    return parser.parse_args()


if __name__ == "__main__":
    main()
