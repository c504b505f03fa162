"""What a shared store can do: publishing a plan, and commits of one host.

    python -m benchmarks.shared_store -n 1000000

starts a PostgreSQL server with the settings that it has when it is installed, or uses the one that
`--store` names, and carries out a run against a provider that answers at once: each commit records
what was claimed before, with its history, and claims as many operations again. The same is done
with a checkpoint. Then several hosts commit at the same time, every 30 ms each, at 500 operations/s
together. Nothing is recorded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg

from bulkcert.model import Change, HistoryEntry, HistoryEvent, Operation, State, Target
from bulkcert.store.base import Store
from bulkcert.store.postgresql import PostgresStore, publish
from bulkcert.store.sqlite import SqlitePlan, SqliteStore
from bulkcert.timings import Timings

TESTS = Path(__file__).parent.parent / "tests"
RATE = 500
COMMIT_EVERY_S = Timings().commit_every_s
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print one line for each figure."""
    arguments = _arguments()
    sys.path.insert(0, str(TESTS))
    from postgres import PostgresServer, new_database
    from stores import manifest

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkcert-bench-")))
        checkpoint = folder / "checkpoint.sqlite3"
        started_at = time.monotonic()
        plan = SqlitePlan(checkpoint)
        for number in range(arguments.n):
            fields = {"assetId": f"asset-{number:010}", "certSn": 10_000_000 + number}
            plan.add(Target(number + 2, fields, {"Site": f"Site {number % 100}"}), number)
        plan.finish(manifest())
        print(f"plan: {time.monotonic() - started_at:.1f} s, {_size(checkpoint)} MB")

        server = None
        if arguments.store is None:
            server = stack.enter_context(closing(PostgresServer({"fsync": "on"})))
            server.start()
        dsn = stack.enter_context(new_database(arguments.store or server.url))  # type: ignore[union-attr]
        db = stack.enter_context(closing(psycopg.connect(dsn, autocommit=True)))
        (version,) = db.execute("SHOW server_version").fetchone() or ("",)
        started_at = time.monotonic()
        publish(checkpoint, dsn, "bench")
        took_s = time.monotonic() - started_at
        print(f"publish to PostgreSQL {version}: {took_s:.1f} s, {_database_size(db)}")

        for batch in arguments.batches:
            with closing(SqliteStore(checkpoint)) as checkpoint_store:
                _measure("checkpoint", checkpoint_store, batch, arguments.seconds, None)
            with closing(PostgresStore(dsn, "bench")) as store:
                pid = server.pid if server else None
                _measure("shared store", store, batch, arguments.seconds, pid)
        for hosts in arguments.hosts:
            _measure_together(dsn, hosts, arguments.seconds, server.pid if server else None)
        print(f"at the end: {_database_size(db)}")
        checkpointed_at = time.monotonic()
        db.execute("VACUUM ANALYZE bulkcert.operation")
        print(f"vacuum: {time.monotonic() - checkpointed_at:.1f} s")


def _measure(name: str, store: Store, batch: int, seconds: float, server: int | None) -> None:
    """Commit for a while, and print how that went."""
    durations_s: list[float] = []
    settled = 0
    operations: Sequence[Operation] = ()
    cpu_s, server_before_s = time.process_time(), server_cpu_s(server)
    begun_at = time.monotonic()
    while time.monotonic() - begun_at < seconds:
        started_at = time.monotonic()
        with store.transaction():
            store.record([_done(operation) for operation in operations])
            store.add_history([_attempt(operation) for operation in operations])
            settled += len(operations)
            store.controls()
            operations = store.claim(batch)
        durations_s.append(time.monotonic() - started_at)
        if not operations:
            break
    took_s = time.monotonic() - begun_at
    with store.transaction():
        store.record([_done(operation) for operation in operations])
    own_us = (time.process_time() - cpu_s) / max(settled, 1) * 1e6
    server_us = (server_cpu_s(server) - server_before_s) / max(settled, 1) * 1e6
    print(
        f"{name}, {batch} per commit: {settled / took_s:,.0f} operations/s, "
        f"{len(durations_s) / took_s:,.0f} commits/s, "
        f"median {statistics.median(durations_s) * 1000:.1f} ms, "
        f"slowest {max(durations_s) * 1000:.0f} ms; "
        f"CPU per operation: {own_us:.0f} µs"
        + (f", of the server {server_us:.0f} µs" if server else "")
    )


def _measure_together(dsn: str, hosts: int, seconds: float, server: int | None) -> None:
    """Let hosts commit as often as a run does, and print how long their commits took."""
    durations_s: list[float] = []
    begun_at, cpu_s = time.monotonic(), server_cpu_s(server)

    def work() -> int:
        settled, operations = 0, list[Operation]()
        with closing(PostgresStore(dsn, "bench")) as store:
            while (now := time.monotonic()) < begun_at + seconds:
                due = int((now - begun_at) * RATE / hosts) - settled
                with store.transaction():
                    store.record([_done(operation) for operation in operations])
                    store.add_history([_attempt(operation) for operation in operations])
                    store.controls()
                    settled += len(operations)
                    operations = store.claim(max(0, due - len(operations)))
                durations_s.append(time.monotonic() - now)
                time.sleep(COMMIT_EVERY_S)
            with store.transaction():
                store.record([_done(operation) for operation in operations])
        return settled

    with ThreadPoolExecutor(hosts) as pool:
        settled = sum(each.result() for each in [pool.submit(work) for _ in range(hosts)])
    took_s = time.monotonic() - begun_at
    percentiles_ms = [1000 * each for each in statistics.quantiles(durations_s, n=100)]
    print(
        f"{hosts} hosts at {RATE}/s: {settled / took_s:,.0f} operations/s, "
        f"{len(durations_s) / took_s:,.0f} commits/s, median {percentiles_ms[49]:.1f} ms, "
        f"99 % within {percentiles_ms[98]:.0f} ms, slowest {max(durations_s) * 1000:.0f} ms"
        + (
            f"; the server uses {(server_cpu_s(server) - cpu_s) / took_s:.2f} cores"
            if server
            else ""
        )
    )


def _done(operation: Operation) -> Change:
    return Change(
        *(operation.id, State.IN_FLIGHT, State.SUCCEEDED, 1),
        code=0,
        message="OK",
        request_id="e3391ff8-19ba-4809-b944-c1b29f468af9",
        finished_at=time.time(),
    )


def _attempt(operation: Operation) -> HistoryEntry:
    now_s = time.time()
    return HistoryEntry(
        *(operation.id, HistoryEvent.ATTEMPT, 1, now_s - 0.1, now_s, "10.0.0.1", "done"),
        *(0, "OK", "e3391ff8-19ba-4809-b944-c1b29f468af9"),
    )


def server_cpu_s(server: int | None) -> float:
    """The processor time of a server and its processes so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat") if server else ():
        try:
            values = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(stat.parent.name) == server:
            ticks += sum(map(int, values[11:15]))  # with those of its children that have ended
        elif int(values[1]) == server:
            ticks += sum(map(int, values[11:13]))
    return ticks / _TICKS_PER_S


def _size(path: Path) -> int:
    return path.stat().st_size // 1_000_000


def _database_size(db: psycopg.Connection) -> str:
    sizes = db.execute(
        "SELECT pg_table_size('bulkcert.operation'), pg_indexes_size('bulkcert.operation'),"
        " pg_total_relation_size('bulkcert.history')"
    ).fetchone()
    operations, indexes, history = (size // 1_000_000 for size in sizes or (0, 0, 0))
    return f"operations {operations} MB, their indexes {indexes} MB, history {history} MB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_store", description=__doc__)
    parser.add_argument("-n", type=int, default=100_000, help="operations; default: 100,000")
    parser.add_argument("--seconds", type=float, default=10, help="for each size of a commit")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 25, 250])
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 3, 10], help="together")
    parser.add_argument("--store", help="URL of a running server; default: start one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
