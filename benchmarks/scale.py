"""Scale: what grows with the length of the target file.

For each length: `bulkcert plan`; the beginning of a run at 500/s; a run that is killed half-way,
and the time from starting it again until the response to its first request to the certificate API,
by nginx's log. For the longest file the half-way state is not reached by a run but written into the
checkpoint of a new one: the first half settled, the next 64 in flight.

Memory is the largest resident set of the process, which includes planning.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from benchmarks import nginx, workload
from benchmarks.processes import ProgramError, background, measure
from benchmarks.results import Row, Settings

CEILING = 500
IN_FLIGHT = 64
MOST_TO_RUN = 100_000
"""Up to this length a real run reaches the half-way state."""

_SETTLED = "SELECT count(*) FROM operations WHERE finished_at IS NOT NULL"


def run(settings: Settings) -> Iterator[Row]:
    """Measure each length."""
    lengths = (10_000, 100_000, 1_000_000) if settings.full else (10_000, 100_000)
    first_s = 60.0 if settings.full else 15.0
    for n in lengths:
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            folder = Path(name)
            log = folder / "responses.log"
            with nginx.serving(folder, log) as endpoint:
                yield _measure(folder, endpoint, log, n, first_s)


def _measure(folder: Path, endpoint: str, log: Path, n: int, first_s: float) -> Row:
    targets = workload.enos_targets(folder / "targets.csv", n)
    job = workload.enos_job(folder, targets, endpoint, requests_per_second=CEILING)
    env = workload.environment()
    planning = measure([*workload.BULKCERT, "plan", job], env=env, cwd=folder, limit_s=300)
    run_dir = folder / "run"
    running = measure(
        workload.run_command(job, run_dir),
        env=env,
        cwd=folder,
        limit_s=600,
        stop_after_s=planning.elapsed_s + first_s,
        expect=(0, 3),
    )
    half_way = folder / "half-way"
    fast = workload.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT)
    reach_half_way = _run_half_way if n <= MOST_TO_RUN else _start_and_edit
    reach_half_way(workload.run_command(fast, half_way), folder, half_way / "checkpoint.sqlite3", n)
    size = sum(path.stat().st_size for path in half_way.glob("checkpoint.sqlite3*"))
    restart_s = _first_response(workload.run_command(fast, half_way), folder, log)
    return Row(
        f"{n:,} targets",
        n,
        {
            "plan, rows/s": n / planning.elapsed_s,
            "plan, rows per second of CPU": n / planning.cpu_s,
            "plan, s": planning.elapsed_s,
            "plan, peak MiB": planning.peak_mib,
            "run, peak MiB": running.peak_mib,
            "checkpoint half-way, MiB": size / 2**20,
            "checkpoint, bytes per target": size / n,
            "restart to first response, s": restart_s,
        },
    )


def _run_half_way(command: list[str | Path], folder: Path, checkpoint: Path, n: int) -> None:
    """Run without a ceiling until half of the operations are settled, then kill -9."""
    with background(command, env=workload.environment(), cwd=folder) as process:
        _wait_until(lambda: settled(checkpoint) >= n // 2, process, limit_s=300)
        process.kill()
        process.wait()
    if settled(checkpoint) >= n:
        raise ProgramError("the run finished before it could be killed")


def _start_and_edit(command: list[str | Path], folder: Path, checkpoint: Path, n: int) -> None:
    """Start a run, kill it, and edit its checkpoint into the half-way state."""
    with background(command, env=workload.environment(), cwd=folder) as process:
        _wait_until(lambda: settled(checkpoint) > 0, process, limit_s=300)
        process.kill()
        process.wait()
    edit_half_way(checkpoint, n)


def edit_half_way(checkpoint: Path, n: int) -> None:
    """Mark the first half of `n` planned operations succeeded and the next ones in flight."""
    with closing(sqlite3.connect(checkpoint, timeout=30)) as db:
        db.execute(
            "UPDATE operations SET state = 'succeeded', attempts = 1, sent_at = ?1,"
            " code = 0, message = 'OK', request_id = 'e3391ff8-6e0c-4b6f-9d3b-0d3c1c9f2a11',"
            " finished_at = ?1 WHERE id <= ?2",
            (time.time(), n // 2),
        )
        db.execute(
            "UPDATE operations SET state = 'in_flight', attempts = 1, sent_at = ?"
            " WHERE id > ? AND id <= ?",
            (time.time(), n // 2, n // 2 + IN_FLIGHT),
        )
        db.commit()


def _first_response(command: list[str | Path], folder: Path, log: Path) -> float:
    """Return the seconds from the start of the command to the first response that it gets."""
    before = log.stat().st_size
    started_at = time.time()
    with background(command, env=workload.environment(), cwd=folder) as process:
        _wait_until(lambda: b"\n" in _after(log, before), process, limit_s=120)
        os.kill(process.pid, signal.SIGKILL)  # else it would go on to the end
        process.wait()
    return float(_after(log, before).split()[0]) - started_at


def settled(checkpoint: Path) -> int:
    """Count the settled operations of a checkpoint; 0 if there is none yet."""
    if not checkpoint.exists():
        return 0
    with closing(sqlite3.connect(f"file:{checkpoint}?mode=ro", uri=True, timeout=30)) as db:
        (count,) = db.execute(_SETTLED).fetchone()
        return int(count)


def _after(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(1000)


def _wait_until(
    reached: Callable[[], bool], process: subprocess.Popen[bytes], *, limit_s: float
) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        if process.poll() is not None:
            raise ProgramError(f"the run exited early with {process.returncode}")
        if time.monotonic() > deadline:
            raise ProgramError(f"the run did not get that far within {limit_s:g} s")
        time.sleep(0.05)
