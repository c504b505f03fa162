"""Pacing: how near to the ceiling a run comes, and whether it ever goes beyond.

`bulkcert run` at 500 requests/s against `bulkcert simulate`, for each latency without faults and
with 20 % of the answers 99500, half of them before and half after execution. The simulator notes
each arrival and turns nothing away (`--limit 0`), so that requests which the machine crowds
together are seen in the figure and do not change the run.

    mean        arrivals at the certificate API, from the first one to the last first attempt: while
                there is still fresh work, a share of the ceiling
    busiest     most arrivals of anything in any second by the simulator's clock; most departures
                by bulkcert's own
    elapsed     from begin to end of sending and recording, by summary.json; ideal is all requests
                at the ceiling, and one latency for the last answer
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

from benchmarks import work
from benchmarks.processes import ProgramError, background, measure
from benchmarks.results import Row, Settings

CEILING = 500
FAULT_SHARE = 0.2
REQUESTS_WITH_FAULTS = 1.38
"""Requests for each operation with that share of faults: repeats and look-ups come on top."""


def run(settings: Settings) -> Iterator[Row]:
    """Measure each latency without and with faults."""
    seconds = settings.seconds or (60 if settings.full else 10)
    for latency_s in (0.005, 0.3, 1.5, 2.0) if settings.full else (0.005, 0.3, 2.0):
        for fault_share in (0.0, FAULT_SHARE):
            n = int(CEILING * seconds / (REQUESTS_WITH_FAULTS if fault_share else 1))
            with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as folder:
                figures = _measure(Path(folder), n, latency_s, fault_share, settings.options)
            faults = f"{fault_share:.0%} 99500" if fault_share else "no faults"
            yield Row(
                f"{latency_s:g} s, {faults}",
                f"{CEILING}/s at {latency_s * 1000:,.0f} ms latency, {faults}",
                n,
                figures,
            )


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
        targets = work.enos_targets(folder / "targets.csv", n)
        job = work.enos_job(folder, targets, url, requests_per_second=CEILING, max_attempts=20)
        measure(
            [*work.BULKCERT, "run", job, "--run-dir", folder / "run", "--yes", "--no-progress"],
            env=work.environment(),
            cwd=folder,
            limit_s=4 * n / CEILING + 120,
        )
    # the simulator has ended, so the ledger is whole
    arrivals, first, last_first_attempt = _arrivals(ledger)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    while_work_is_left = sum(first < at <= last_first_attempt for at in arrivals)
    mean = while_work_is_left / (last_first_attempt - first)
    ideal_s = summary["requests"] / CEILING + latency_s
    return {
        "mean, % of the ceiling": round(100 * mean / CEILING, 2),
        "busiest second, arrivals": busiest(arrivals),
        "busiest second, departures": summary["busiest_second"],
        "elapsed ÷ ideal": round(summary["elapsed_seconds"] / ideal_s, 3),
        "requests": summary["requests"],
    }


@contextmanager
def simulator(folder: Path, ledger: Path, flags: Sequence[str]) -> Iterator[str]:
    """Serve the simulator as a process until the block ends; yields its endpoint."""
    command: list[str | Path]
    command = [*work.BULKCERT, "simulate", "--port", "0", "--ledger", ledger, *flags]
    with background(command, env=work.environment(), cwd=folder, output=subprocess.PIPE) as process:
        assert process.stdout is not None
        patience = threading.Timer(30, process.kill)
        patience.start()
        endpoint = ""
        said = []
        for line in process.stdout:
            text = line.decode().strip()
            said.append(text)
            if text.startswith("ENDPOINT="):
                (endpoint,) = shlex.split(text.removeprefix("ENDPOINT="))
            if not text:
                break
        patience.cancel()
        if process.poll() is not None or not endpoint:
            raise ProgramError("the simulator did not start: " + "\n".join(said))
        yield endpoint


def _arrivals(ledger: Path) -> tuple[array[float], float, float]:
    """All times of arrival in order; the first and the last of first attempts."""
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
    """Most of the sorted times within any second."""
    most = begin = 0
    for end, at in enumerate(times):
        while times[begin] <= at - 1.0:
            begin += 1
        most = max(most, end - begin + 1)
    return most
