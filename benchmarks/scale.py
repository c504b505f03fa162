"""Scale: what changes with the length of the target file.

For each length: `bulkcert plan`; the first time of a run at 500/s; a run that is killed half-way,
and how long it takes from starting it again until its first request to the certificate API is
answered, by nginx's log. The half-way state of the longest file is not run but edited into a fresh
checkpoint: the first half settled, the next 64 in flight.

Memory is the largest resident set of the process, from its start: planning included.
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

from benchmarks import nginx, work
from benchmarks.processes import ProgramError, background, measure
from benchmarks.results import Row, Settings

CEILING = 500
IN_FLIGHT = 64
MOST_TO_RUN = 100_000
"""Operations up to which the half-way state is made by a real run."""

_SETTLED = "SELECT count(*) FROM operations WHERE finished_at IS NOT NULL"


def run(settings: Settings) -> Iterator[Row]:
    """Measure each length."""
    lengths = (10_000, 100_000, 1_000_000) if settings.full else (10_000, 100_000)
    first_s = 60.0 if settings.full else 15.0
    for n in lengths:
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            folder = Path(name)
            log = folder / "answered.log"
            with nginx.serving(folder, log) as endpoint:
                yield _measure(folder, endpoint, log, n, first_s)


def _measure(folder: Path, endpoint: str, log: Path, n: int, first_s: float) -> Row:
    targets = work.enos_targets(folder / "targets.csv", n)
    job = work.enos_job(folder, targets, endpoint, requests_per_second=CEILING)
    env = work.environment()
    planning = measure([*work.BULKCERT, "plan", job], env=env, cwd=folder, limit_s=300)
    run_dir = folder / "run"
    running = measure(
        _run(job, run_dir),
        env=env,
        cwd=folder,
        limit_s=600,
        stop_after_s=planning.wall_s + first_s,
        expect=(0, 3),
    )
    half_way = folder / "half-way"
    fast = work.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT)
    come_half_way = _kill_half_way if n <= MOST_TO_RUN else _edit_half_way
    come_half_way(_run(fast, half_way), folder, half_way / "checkpoint.sqlite3", n)
    size = sum(path.stat().st_size for path in half_way.glob("checkpoint.sqlite3*"))
    restart_s = _first_request(_run(fast, half_way), folder, log)
    return Row(
        f"{n}",
        f"{n:,} targets; run for {first_s:g} s at {CEILING}/s; half-way state "
        + ("by kill -9" if n <= MOST_TO_RUN else "edited into the checkpoint"),
        n,
        {
            "plan, rows/s": n / planning.wall_s,
            "plan, rows per second of CPU": n / planning.cpu_s,
            "plan, s": planning.wall_s,
            "plan, peak MiB": planning.peak_mib,
            "run, peak MiB": running.peak_mib,
            "checkpoint half-way, MiB": size / 2**20,
            "checkpoint, bytes per target": size / n,
            "start again to first request, s": restart_s,
        },
    )


def _run(job: Path, run_dir: Path) -> list[str | Path]:
    return [*work.BULKCERT, "run", job, "--run-dir", run_dir, "--yes", "--no-progress"]


def _kill_half_way(command: list[str | Path], folder: Path, checkpoint: Path, n: int) -> None:
    """Run with no ceiling until half of the operations are settled, then kill -9."""
    with background(command, env=work.environment(), cwd=folder) as process:
        _until(lambda: _settled(checkpoint) >= n // 2, process, limit_s=300)
        process.kill()
        process.wait()
    settled = _settled(checkpoint)
    if settled >= n:
        raise ProgramError("the run was over before it could be killed")


def _edit_half_way(command: list[str | Path], folder: Path, checkpoint: Path, n: int) -> None:
    """Begin a run, kill it, and make its checkpoint look as if it had come half-way."""
    with background(command, env=work.environment(), cwd=folder) as process:
        _until(lambda: _settled(checkpoint) > 0, process, limit_s=300)
        process.kill()
        process.wait()
    with closing(sqlite3.connect(checkpoint, timeout=30)) as db:
        db.execute(
            "UPDATE operations SET state = 'succeeded', attempts = 1, first_sent_at = ?1,"
            " code = 0, message = 'OK', request_id = 'e3391ff8-6e0c-4b6f-9d3b-0d3c1c9f2a11',"
            " finished_at = ?1 WHERE id <= ?2",
            (time.time(), n // 2),
        )
        db.execute(
            "UPDATE operations SET state = 'in_flight', attempts = 1, first_sent_at = ?"
            " WHERE id > ? AND id <= ?",
            (time.time(), n // 2, n // 2 + IN_FLIGHT),
        )
        db.commit()


def _first_request(command: list[str | Path], folder: Path, log: Path) -> float:
    """Seconds from the start of the command to the first answered request of it."""
    before = log.stat().st_size
    started_at = time.time()
    with background(command, env=work.environment(), cwd=folder) as process:
        _until(lambda: b"\n" in _after(log, before), process, limit_s=120)
        os.kill(process.pid, signal.SIGKILL)  # reports of half a million are not measured here
        process.wait()
    return float(_after(log, before).split()[0]) - started_at


def _settled(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with closing(sqlite3.connect(f"file:{checkpoint}?mode=ro", uri=True, timeout=30)) as db:
        (count,) = db.execute(_SETTLED).fetchone()
        return int(count)


def _after(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(1000)


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes], *, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        if process.poll() is not None:
            raise ProgramError(f"the run ended with {process.returncode} before it came that far")
        if time.monotonic() > deadline:
            raise ProgramError(f"the run did not come that far in {limit_s:g} s")
        time.sleep(0.05)
