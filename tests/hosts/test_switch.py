"""The kernel kills a process at the end of its lease, also one that is stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from processes import LIMIT_S

from bulkcert.hosts import switch as module
from bulkcert.hosts.switch import Switch
from bulkcert.interpreter import python_environment

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a timer"),
]


prove = Switch.prove
"""The real one: otherwise the processes of tests have no switch, which would kill the tests."""


def ended(program: str) -> subprocess.CompletedProcess[str]:
    """How a process with a switch has ended."""
    begin = """
        import os, resource, signal, time
        from bulkcert.hosts.switch import Switch
        now = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(program)],
        env=python_environment(),
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
        text=True,
        check=False,
    )


def seconds_left(switch: Switch) -> float:
    """Until a switch kills, as the kernel says it; 0 if it is not armed."""
    setting = module._Setting()
    assert switch._libc.timer_gettime(switch._timer, ctypes.byref(setting)) == 0
    return setting.value.seconds + setting.value.nanoseconds / 1e9


def test_a_switch_that_works_here_is_proven() -> None:
    problems: list[str] = []
    assert isinstance(prove(problems.append), Switch)
    assert problems == []


def test_a_process_is_killed_at_its_deadline() -> None:
    process = ended("switch = Switch(); switch.arm(now() + 0.05); time.sleep(60)")
    assert process.returncode == -signal.SIGKILL


def test_a_process_that_is_stopped_is_killed_at_its_deadline() -> None:
    process = ended(
        "switch = Switch(); switch.arm(now() + 0.05); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    assert process.returncode == -signal.SIGKILL


def test_a_deadline_that_has_passed_is_now() -> None:
    process = ended("switch = Switch(); switch.arm(-5); time.sleep(60)")
    assert process.returncode == -signal.SIGKILL


def test_a_switch_is_one_timer_which_is_moved() -> None:
    switch, now = Switch(), time.clock_gettime(time.CLOCK_BOOTTIME)
    assert seconds_left(switch) == 0
    switch.arm(now + 1800)
    assert 1700 < seconds_left(switch) <= 1800
    switch.arm(now + 3600)
    assert 3500 < seconds_left(switch) <= 3600
    switch.disarm()
    assert seconds_left(switch) == 0


def test_a_switch_that_nobody_has_any_more_kills_nobody() -> None:
    process = ended(
        """
        Switch().arm(now() + 0.1)
        time.sleep(0.3)
        """
    )
    assert process.returncode == 0


def test_a_child_does_not_inherit_the_switch() -> None:
    process = ended(
        """
        switch = Switch()
        switch.arm(now() + 3600)
        if os.fork() == 0:
            try:
                switch.arm(now() + 3600)
            except OSError:
                os._exit(7)
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        """
    )
    assert process.returncode == 7


def test_where_timers_are_refused_there_is_no_switch() -> None:
    process = ended(
        """
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
        print(Switch.prove(print))
        """
    )
    text = "This host has no dead man's switch: the kernel refuses a timer: "
    assert process.stdout == f"{text}{os.strerror(11)}.\nNone\n"


def test_process_1_and_other_systems_have_no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert prove(problems.append) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert prove(problems.append) is None
    assert problems == [
        "This host has no dead man's switch: signals of process 1 to itself are ignored.",
        "This host has no dead man's switch: only Linux has one.",
    ]


@pytest.mark.parametrize(
    ("program", "patience_s", "reason"),
    [
        ("import time; time.sleep(60)", 0.1, "does not kill a process that is stopped"),
        ("", LIMIT_S, "the process that tried it has ended for another reason"),
    ],
)
def test_a_switch_that_does_not_kill_is_none(
    program: str, patience_s: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "python_command", lambda name: [sys.executable, "-c", program])
    monkeypatch.setattr(module, "_PROOF_PATIENCE_S", patience_s)
    problems: list[str] = []
    assert prove(problems.append) is None
    assert reason in problems[0]
