"""Starts programs and measures what they use. Whatever is started here is ended here, by its pid.

CPU time is user and system time of a process and of all its descendants that it waited for, as
the kernel counts it (`wait4`). Memory is the largest resident set of any one of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class ProgramError(Exception):
    """A program did not do what it was measured for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process used: seconds of CPU, seconds on the wall, MiB, and its exit code."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    exit_code: int
    output: str


def measure(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    limit_s: float,
    stop_after_s: float | None = None,
    expect: Sequence[int] = (0,),
) -> Usage:
    """Run a program to its end.

    Args:
        command: the program and its arguments.
        env: its whole environment.
        cwd: its working directory.
        limit_s: seconds after which it is killed, with everything that it started.
        stop_after_s: seconds after which it is asked to stop (SIGTERM).
        expect: exit codes that are right.

    Raises:
        ProgramError: another exit code, or the time limit.
    """
    with tempfile.TemporaryFile() as output:
        started_at = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        timers = [threading.Timer(limit_s, _kill_group, [process.pid])]
        if stop_after_s is not None:
            timers.append(threading.Timer(stop_after_s, _ask_to_stop, [process.pid]))
        for timer in timers:
            timer.start()
        try:
            # not process.wait(): that would throw the usage away
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            for timer in timers:
                timer.cancel()
        wall_s = time.monotonic() - started_at
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if process.returncode not in expect:
        raise ProgramError(f"{_words(command)} ended with {process.returncode}:\n{said[-2000:]}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Usage(cpu_s, wall_s, usage.ru_maxrss / 1024, process.returncode, said)


@contextmanager
def background(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path,
    output: int | None = subprocess.DEVNULL,
    patience_s: float = 20.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the block; at its end ask it to stop, and kill it if it does not."""
    process = subprocess.Popen(
        [str(part) for part in command],
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL if output == subprocess.DEVNULL else subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                _kill_group(process.pid)
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a living process, and the descendants that it waited for, have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _kill_group(pid: int) -> None:
    # each program is a session of its own, so its group is everything that it started
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _ask_to_stop(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _words(command: Sequence[str | Path]) -> str:
    return " ".join(str(part) for part in command)
