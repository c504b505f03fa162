"""Pacing: how close a run comes to its ceiling, and whether it ever exceeds it.

`bulkcert run` at 500 requests/s against `bulkcert simulate`, at several latencies, without faults
and with error 99500 in 20 % of the responses, half of them before execution and half after it. The
simulator records every arrival and rejects none (`--limit 0`). So requests that a busy machine
delivers in a bunch show up in the figures and do not change the run.

    mean     rate of arrivals up to the last first attempt, that is, while there are operations left
             to start; as a share of the ceiling. In a long benchmark it begins when the run knows
             how evenly its requests arrive; a short one ends before that
    busiest  the most departures in any second, by bulkcert's clock, and the most arrivals, by the
             simulator's
    elapsed  time to send and record everything, from summary.json; ideal is all requests at
             the ceiling plus one latency for the last response
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import workload
from benchmarks.processes import ProgramError, background, measure
from benchmarks.results import Row, Settings

CEILING = 500
FAULT_SHARE = 0.2
SETTLED_AFTER_S = 20.0
"""By then a run has chosen its share of the ceiling, see `bulkcert.jitter`."""

REQUESTS_WITH_FAULTS = 1.38
"""Requests per operation at that share of faults, counting repeats and look-ups."""


def run(settings: Settings) -> Iterator[Row]:
    """Measure each latency without faults and with faults."""
    seconds = settings.seconds or (80 if settings.full else 10)
    for latency_s in (0.005, 0.3, 1.5, 2.0) if settings.full else (0.005, 0.3, 2.0):
        for fault_share in (0.0, FAULT_SHARE):
            n = int(CEILING * seconds / (REQUESTS_WITH_FAULTS if fault_share else 1))
            with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as folder:
                figures = _measure(Path(folder), n, latency_s, fault_share, settings.options)
            faults = f"{fault_share:.0%} faults" if fault_share else "no faults"
            yield Row(f"{latency_s * 1000:,.0f} ms, {faults}", n, figures)


def _measure(
    folder: Path, n: int, latency_s: float, fault_share: float, options: Sequence[str]
) -> dict[str, float]:
    ledger = folder / "ledger.jsonl"
    flags = {
        "limit": "0",
        "latency": str(latency_s),
        "error-before": str(fault_share / 2),
        "error-after": str(fault_share / 2),
    }
    flags |= {name: value for name, _, value in (option.partition("=") for option in options)}
    with simulator(folder, ledger, [f"--{name}={value}" for name, value in flags.items()]) as url:
        targets = workload.enos_targets(folder / "targets.csv", n)
        job = workload.enos_job(folder, targets, url, requests_per_second=CEILING, max_attempts=20)
        measure(
            workload.run_command(job, folder / "run"),
            env=workload.environment(),
            cwd=folder,
            limit_s=4 * n / CEILING + 120,
        )
    # The simulator has exited, so its ledger is complete.
    arrivals, first, last_first_attempt = _arrivals(ledger)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    if last_first_attempt - first > 2 * SETTLED_AFTER_S:
        first += SETTLED_AFTER_S
    mean = sum(first < at <= last_first_attempt for at in arrivals) / (last_first_attempt - first)
    ideal_s = summary["requests"] / CEILING + latency_s
    return {
        "mean, % of ceiling": round(100 * mean / CEILING, 2),
        "busiest second, departures": summary["busiest_second"],
        "busiest second, arrivals": busiest(arrivals),
        "elapsed ÷ ideal": round(summary["elapsed_seconds"] / ideal_s, 3),
        "requests": summary["requests"],
    }


@contextmanager
def simulator(folder: Path, ledger: Path, flags: Sequence[str]) -> Iterator[str]:
    """Run the simulator as a process for the length of the block, and yield its endpoint.

    Raises:
        ProgramError: it did not start.
    """
    command: list[str | Path]
    command = [*workload.BULKCERT, "simulate", "--port", "0", "--ledger", ledger, *flags]
    with background(
        command, env=workload.environment(), cwd=folder, output=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        patience = threading.Timer(30, process.kill)
        patience.start()
        endpoint = ""
        output = []
        for line in process.stdout:
            text = line.decode().strip()
            output.append(text)
            if text.startswith("ENDPOINT="):
                (endpoint,) = shlex.split(text.removeprefix("ENDPOINT="))
            if not text:
                break
        patience.cancel()
        if process.poll() is not None or not endpoint:
            raise ProgramError("the simulator did not start: " + "\n".join(output))
        yield endpoint


def _arrivals(ledger: Path) -> tuple[array[float], float, float]:
    """Return all arrival times in order, and those of the first and the last first attempt."""
    arrivals = array("d")
    attempted_at: dict[str, float] = {}
    with ledger.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            at = float(entry["at"])
            arrivals.append(at)
            if entry["action"] == "revoke":
                device = entry["device"]
                attempted_at[device] = min(at, attempted_at.get(device, at))
    firsts = attempted_at.values()
    return array("d", sorted(arrivals)), min(firsts), max(firsts)


def busiest(times: Sequence[float]) -> int:
    """Return the largest number of times within any second; `times` must be sorted."""
    most = start = 0
    for end, at in enumerate(times):
        while times[start] <= at - 1.0:
            start += 1
        most = max(most, end - start + 1)
    return most
