"""Commands beside a run: whatever they do, the run is not held up, and nothing of them is left."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bulkcert.job_commands import unusable
from bulkcert.outside_command import (
    LONGEST_LINE,
    MOST_KEPT,
    Ended,
    OutsideCommand,
    _Output,
)
from bulkcert.providers.base import MASK
from bulkcert.timings import CommandTimings

LONG_S = 60.0
"""A time-out that no test reaches."""

SHORT_S = 0.3
"""A time-out for commands that never end."""


class Command:
    """Shell scripts, run as outside commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, script: str, **environment: str) -> OutsideCommand:
        """The command that runs a script."""
        variables: Mapping[str, str] = {"PATH": os.environ["PATH"], **environment}
        return OutsideCommand(["sh", "-c", script], self.folder, variables, ("s3cret-key",))

    async def ends(self, script: str, timeout_s: float = LONG_S) -> Ended:
        """How a script ends."""
        return await self.of(script).run({"name": "campaign", "failed": 3}, timeout_s)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.mark.system
@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 0", Ended(0)),
        ("exit 10", Ended(10)),
        ("cat", Ended(0, '{"name":"campaign","failed":3}')),
        ("cat /dev/stdin", Ended(0, '{"name":"campaign","failed":3}')),
        ("exec <&-; echo closed", Ended(0, "closed")),
        ("echo first; echo second; exit 3", Ended(3, "first")),
        ("echo; echo '  the first that is not blank  '", Ended(0, "the first that is not blank")),
        ("echo 'curl: refused' >&2; exit 7", Ended(7, "curl: refused")),
        ("echo noise >&2; echo reason", Ended(0, "reason")),
        ("echo key s3cret-key; exit 1", Ended(1, f"key {MASK}")),
        (r"printf 'a\033[2Jb\tc\rd'", Ended(0, r"a\x1b[2Jb\tc")),
        (r"printf '\377\376 caf\351'", Ended(0, "\ufffd\ufffd caf\ufffd")),
        (r"printf '\357\273\277mark'", Ended(0, "mark")),
        ("kill -SEGV $$", Ended(None, problem="killed by SIGSEGV")),
        ("echo before; kill -9 $$", Ended(None, "before", "killed by SIGKILL")),
        (
            "head -c 3000000 /dev/zero | tr '\\0' x; exit 4",
            Ended(4, "x" * (LONGEST_LINE - 1) + "…"),
        ),
    ],
)
async def test_the_end_and_the_first_line_are_returned(
    command: Command, script: str, ended: Ended
) -> None:
    assert await command.ends(script) == ended


@pytest.mark.system
@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000",
        "trap '' TERM HUP INT; while :; do sleep 1000; done",
        "yes",
        "yes >&2",
        "exec >&- 2>&-; sleep 1000",
        "sleep 1000 & wait",
        "kill -STOP $$",
    ],
)
async def test_a_command_that_does_not_end_is_killed_with_its_children(
    command: Command, script: str, groups: list[int]
) -> None:
    ended = await command.ends(script, SHORT_S)
    assert (ended.exit_code, ended.problem) == (None, "no answer within 0.3 s")
    assert await _is_gone(*groups)


@pytest.mark.system
@pytest.mark.parametrize(
    "child", ["sleep 1000 &", "setsid sh -c 'echo $$ > left; exec sleep 60' &"]
)
async def test_a_child_that_keeps_the_output_open_holds_up_nothing(
    command: Command, child: str, groups: list[int]
) -> None:
    ended = await command.ends(f"{child} sleep 0.1; echo well; exit 5")
    assert ended == Ended(5, "well")
    assert await _is_gone(*groups)
    if (left := command.folder / "left").exists():  # it has left the group, and may stay
        os.kill(int(left.read_text()), signal.SIGKILL)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process groups that are killed."""
    killed: list[int] = []
    kill = os.killpg

    def killpg(group: int, number: int) -> None:
        killed.append(group)
        kill(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    return killed


async def _is_gone(group: int) -> bool:
    """Whether nobody is left of a process group, soon; who only waits for init does not count."""
    for _ in range(500):
        listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True)  # noqa: ASYNC221
        processes = (line.split() for line in listed.stdout.splitlines())
        if not any(pgid == str(group) and stat[0] != "Z" for pgid, stat in processes):
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.system
async def test_of_a_command_that_prints_without_end_little_is_read_at_a_time(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    receive = _Output.pipe_data_received

    def pipe_data_received(self: _Output, fd: int, data: bytes) -> None:
        sizes.append(len(data))
        receive(self, fd, data)

    monkeypatch.setattr(_Output, "pipe_data_received", pipe_data_received)
    once = dataclasses.replace(command.of("yes"), timings=CommandTimings(read_every_s=2 * LONG_S))
    await once.run({}, SHORT_S)
    assert sum(sizes) < 10 * MOST_KEPT


@pytest.mark.system
async def test_it_runs_in_its_folder_with_its_environment_alone(command: Command) -> None:
    script = 'echo "$(pwd) ${HOME-none} $ONE"'
    ended = await command.of(script, ONE="1").run({}, LONG_S)
    assert ended == Ended(0, f"{command.folder} none 1")


@pytest.mark.system
async def test_a_signal_to_the_process_group_of_the_run_does_not_reach_it(
    command: Command,
) -> None:
    ended = await command.ends("ps -o pgid= -p $$ | tr -d ' '")
    assert int(ended.line) != os.getpgrp()


@pytest.mark.system
async def test_a_command_that_can_not_be_started_says_why(command: Command) -> None:
    missing = OutsideCommand(["./missing.sh"], command.folder, {})
    ended = await missing.run({}, LONG_S)
    assert ended == Ended(None, problem="can't be started: No such file or directory")


@pytest.mark.system
@pytest.mark.parametrize("begun", [True, False])
async def test_a_closed_command_is_killed(command: Command, begun: bool) -> None:
    closed = command.of("echo $$ > pid; sleep 1000")
    if not begun:
        closed.close()
    running = asyncio.create_task(closed.run({}, LONG_S))
    while begun and not (command.folder / "pid").exists():  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    closed.close()
    assert (await running).problem == "killed"


@pytest.mark.parametrize(
    ("word", "content", "mode", "reason"),
    [
        ("sh", None, 0, ""),
        ("./ok.sh", b"#!/bin/sh\n", 0o755, ""),
        ("./ok.sh", b"#! /usr/bin/env sh\n", 0o755, ""),
        ("./program", b"\x7fELF\0", 0o755, ""),
        ("no-such-program", None, 0, "no-such-program is not on PATH"),
        ("ok.sh", b"#!/bin/sh\n", 0o755, 'ok.sh is not on PATH; write "./ok.sh" for the one in '),
        ("./missing.sh", None, 0, "missing.sh does not exist"),
        ("../", None, 0, "is a folder"),
        ("./ok.sh", b"#!/bin/sh\n", 0o644, "ok.sh is not executable"),
        ("./ok.sh", b"echo\n", 0o755, "does not begin with a line such as #!/bin/sh"),
        ("./ok.sh", b"#!/bin/sh\r\nexit 0\r\n", 0o755, "end as on Windows"),
        ("./ok.sh", b"#!/no/such/shell\n", 0o755, "run by /no/such/shell, which does not exist"),
        ("./ok.sh", b"#!", 0o755, "run by nothing"),
    ],
)
def test_a_command_that_can_not_be_executed_is_noticed_beforehand(
    tmp_path: Path, word: str, content: bytes | None, mode: int, reason: str
) -> None:
    if content is not None:
        file = tmp_path / word
        file.write_bytes(content)
        file.chmod(mode)
    said = unusable([word, "argument"], tmp_path)
    assert reason in said
    assert bool(said) == bool(reason)
