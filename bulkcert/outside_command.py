"""Runs a command of the operator's beside a run. Must never block the event loop.

In: the command, where it runs, and one JSON object for its standard input. Out: how it ended, and
the first line that it printed. It must never wait longer than it may, whatever the command does,
keep more than a bounded part of its output, or leave processes of the command behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from bulkcert.json_lines import as_json
from bulkcert.providers.masking import masked
from bulkcert.quantities import duration
from bulkcert.timings import CommandTimings
from bulkcert.values import printable

LONGEST_LINE = 200
"""Of the first line, this many characters are kept."""

MOST_KEPT = 64 * 1024
"""Bytes of the output that are looked at: far more than a line. A secret that is cut off at their
end can't be recognized, but the line is cut long before that."""

_STDOUT, _STDERR = 1, 2


_running: set[int] = set()
"""The process groups of commands that are running."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: None if it did not end by itself.
        line: the first line that it printed, or else the first line of its standard error.
        problem: why it did not end by itself.
    """

    exit_code: int | None
    line: str = ""
    problem: str = ""


@dataclass(slots=True)
class OutsideCommand:
    """A command that may be run again and again, one run at a time.

    Attributes:
        words: the program and its arguments; a relative path is relative to `folder`.
        folder: where it runs.
        environment: its environment variables, without credentials.
        secrets: what must not be shown, should it print them.
        timings: how long to wait for what.
    """

    words: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    timings: CommandTimings = CommandTimings()
    _output: _Output | None = field(default=None, init=False, repr=False)
    _closed: bool = field(default=False, init=False)

    async def run(self, given: Mapping[str, object], timeout_s: float) -> Ended:
        """Run the command to its end, or kill it.

        Whatever it has started in its process group is killed when it ends, also by itself.

        Args:
            given: the JSON object for its standard input.
            timeout_s: it is killed after this time.
        """
        loop = asyncio.get_running_loop()
        try:
            with _containing(as_json(given) + b"\n") as stdin:
                transport, output = await loop.subprocess_exec(
                    lambda: _Output(self.timings.read_every_s),
                    *self.words,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=self.folder,
                    env=self.environment,
                    start_new_session=True,  # Ctrl-C is for the run; and it is killed as a whole
                )
        except OSError as error:
            return Ended(None, problem=f"can't be started: {error.strerror or error}")
        self._output = output
        _running.add(transport.get_pid())
        try:
            if not self._closed:
                await output.over(timeout_s)
            exit_code = transport.get_returncode()
        finally:
            _kill(transport.get_pid())
            _running.discard(transport.get_pid())
            await output.closed(self.timings.last_output_s)
            transport.close()
            self._output = None
        line = self._first_line(output)
        if exit_code is None:
            late = "killed" if self._closed else f"no answer within {duration(timeout_s)}"
            return Ended(None, line, late)
        if exit_code < 0:
            return Ended(None, line, f"killed by {_name(-exit_code)}")
        return Ended(exit_code, line)

    def close(self) -> None:
        """Kill the command if it is running, and whenever it is started again."""
        self._closed = True
        if self._output is not None:
            self._output.leave()

    def _first_line(self, output: _Output) -> str:
        for descriptor in (_STDOUT, _STDERR):
            text = bytes(output.kept[descriptor]).decode("utf-8-sig", errors="replace").strip()
            if text:
                line = printable(str(masked(text.splitlines()[0], self.secrets))).strip()
                return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"
        return ""


class _Output(asyncio.SubprocessProtocol):
    """Keeps the beginning of what a command prints, and notices its end.

    Args:
        read_every_s: once there is enough, the rest is read this often, and thrown away: a command
            that prints without end must not take the time of the event loop.
    """

    def __init__(self, read_every_s: float) -> None:
        self.kept = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self._read_every_s = read_every_s
        self._open = set(self.kept)
        self._over = asyncio.Event()
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None

    async def over(self, timeout_s: float) -> None:
        """Wait until the command has ended, or is to be left, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._over.wait()

    async def closed(self, timeout_s: float) -> None:
        """Wait until it has ended and its output is read, or until the time is over.

        A process that has left its process group may keep the output open for ever.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._closed.wait()

    def leave(self) -> None:
        """Wait for the command no longer."""
        self._over.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self.kept[fd]
        kept += data[: MOST_KEPT - len(kept)]
        if len(kept) == MOST_KEPT and self._transport is not None:
            pipe = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(fd))
            pipe.pause_reading()
            asyncio.get_running_loop().call_later(self._read_every_s, pipe.resume_reading)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        self._close_if_ended()

    def process_exited(self) -> None:
        self._over.set()
        self._close_if_ended()

    def _close_if_ended(self) -> None:
        transport = self._transport
        if not self._open and transport is not None and transport.get_returncode() is not None:
            self._closed.set()


def kill_all() -> None:
    """Kill all commands that are running, because this process ends at once."""
    for group in tuple(_running):
        _kill(group)


def _containing(content: bytes) -> IO[bytes]:
    """A file for standard input: it may be read late, twice, or not at all.

    Where the system can do that, it is not on a disk: a command must also run when that is full.
    """
    file: IO[bytes]
    if sys.platform == "linux":
        file = os.fdopen(os.memfd_create("stdin"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(content)
    file.seek(0)
    return file


def _kill(group: int) -> None:
    """Kill a process group.

    Its leader may have ended and been waited for by now. Its number is not given to others within
    the moment since.
    """
    with contextlib.suppress(OSError):  # there is nobody left, or somebody whom we may not kill
        os.killpg(group, signal.SIGKILL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
