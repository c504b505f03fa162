"""What a second source address or a second account gains.

ApsaraMQ blocks an address that sends more than 300 requests a second and permits an account 500, so
a single address cannot use the whole account. Measured: `bulkcert run` from 127.0.0.1, then from
127.0.0.1 and 127.0.0.2. EnOS permits an account 500. Measured: one run, then two at once, each with
its own devices, job and run directory, as for two accounts. The simulator records where each
request came from and rejects none.

    requests/s  rate of arrivals from the first to the last
    busiest     the most arrivals in any second, in total and from one address
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from benchmarks import workload
from benchmarks.pacing import busiest, simulator
from benchmarks.processes import measure
from benchmarks.results import Row, Settings

ACCOUNT = 500
ADDRESS = 300
LATENCY_S = 0.1


def run(settings: Settings) -> Iterator[Row]:
    """Measure one and two source addresses, then one and two accounts."""
    seconds = 15 if settings.full else 8
    n = ADDRESS * seconds
    for addresses in (["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            figures = _from_addresses(Path(name), n, addresses)
        count = len(addresses)
        yield Row(f"ApsaraMQ, {count} address{'es' if count > 1 else ''}", n, figures)
    n = ACCOUNT * seconds
    for accounts in (1, 2):
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            figures = _for_accounts(Path(name), n, accounts)
        yield Row(f"EnOS, {accounts} account{'s' if accounts > 1 else ''}", n * accounts, figures)


def _from_addresses(folder: Path, n: int, addresses: list[str]) -> dict[str, float]:
    ledger = folder / "ledger.jsonl"
    targets = workload.apsaramq_targets(folder / "targets.csv", n)
    flags = ["--limit=0", "--mq-source-limit=0", f"--latency={LATENCY_S}"]
    with simulator(folder, ledger, flags) as endpoint:
        job = workload.apsaramq_job(
            folder,
            targets,
            endpoint,
            requests_per_second=ACCOUNT,
            per_source_ip=ADDRESS,
            source_addresses=addresses,
        )
        _run(job, folder, n)
    return _figures(ledger)


def _for_accounts(folder: Path, n: int, accounts: int) -> dict[str, float]:
    ledger = folder / "ledger.jsonl"
    with simulator(folder, ledger, ["--limit=0", f"--latency={LATENCY_S}"]) as endpoint:
        jobs = []
        for number in range(accounts):
            own = folder / f"account-{number}"
            own.mkdir()
            targets = workload.enos_targets(own / "targets.csv", n, first=number * n)
            jobs.append(workload.enos_job(own, targets, endpoint, requests_per_second=ACCOUNT))
        with ThreadPoolExecutor(accounts) as pool:
            list(pool.map(lambda job: _run(job, job.parent, n), jobs))
    return _figures(ledger)


def _run(job: Path, folder: Path, n: int) -> None:
    measure(
        workload.run_command(job, folder / "run"),
        # the accounts have the simulator's only key, so they would share a ceiling
        env=workload.environment() | {"XDG_STATE_HOME": str(folder)},
        cwd=folder,
        limit_s=5 * n / ADDRESS + 60,
    )


def _figures(ledger: Path) -> dict[str, float]:
    arrivals: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    with ledger.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            if not entry["action"].startswith("token"):
                arrivals[entry["source"]].append(entry["at"])
    total = sorted(chain.from_iterable(arrivals.values()))
    return {
        "requests/s": (len(total) - 1) / (total[-1] - total[0]),
        "busiest second, total": busiest(total),
        "busiest second, one address": max(busiest(sorted(times)) for times in arrivals.values()),
    }
