"""Start programs and measure what they use.

In: a command. Out: its `Usage`, or a running process for the length of a block. CPU time is the
user and system time of the process and of all its descendants, as the kernel counts it (`wait4`).
Every program started here is stopped here, by its process id or its process group.
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


class MissingError(Exception):
    """A program or package that a benchmark needs is not installed."""


class ProgramError(Exception):
    """A program did not do what it was started for, so its measurement is worthless."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one program used.

    Attributes:
        cpu_s: CPU time in seconds.
        elapsed_s: elapsed time in seconds.
        peak_mib: largest resident set of the process or any of its descendants, in MiB.
        output: what it wrote to standard output and standard error.
    """

    cpu_s: float
    elapsed_s: float
    peak_mib: float
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
    """Run a program until it exits.

    Args:
        command: the program and its arguments.
        env: its whole environment.
        cwd: its working directory.
        limit_s: seconds after which it is killed together with its descendants.
        stop_after_s: seconds after which it is sent a SIGTERM.
        expect: the exit codes that mean success.

    Raises:
        ProgramError: it exited with another code or reached the time limit.
    """
    with tempfile.TemporaryFile() as output_file:
        started_at = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        timers = [threading.Timer(limit_s, _kill_group, [process.pid])]
        if stop_after_s is not None:
            timers.append(threading.Timer(stop_after_s, _terminate, [process.pid]))
        for timer in timers:
            timer.start()
        try:
            # Not process.wait(), which would discard the usage.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            for timer in timers:
                timer.cancel()
        elapsed_s = time.monotonic() - started_at
        process.returncode = os.waitstatus_to_exitcode(status)
        output_file.seek(0)
        output = output_file.read().decode(errors="replace")
    if process.returncode not in expect:
        words = " ".join(map(str, command))
        raise ProgramError(f"{words} exited with {process.returncode}:\n{output[-2000:]}")
    return Usage(usage.ru_utime + usage.ru_stime, elapsed_s, usage.ru_maxrss / 1024, output)


@contextmanager
def background(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path,
    output: int | None = subprocess.DEVNULL,
    patience_s: float = 20.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a block.

    At the end of the block it is sent a SIGTERM, and is killed if it has not exited after
    `patience_s` seconds.
    """
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


def _kill_group(pid: int) -> None:
    # Each program leads a session of its own, so its process group includes its descendants.
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _terminate(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
