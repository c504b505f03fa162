"""Process 1 has a child do the work, passes signals on, and ends as the child does.

Where no PID namespace can be made, processes believe that they are process 1.
"""

from __future__ import annotations

import functools
import os
import pty
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
from processes import LIMIT_S

from bulkcert.interpreter import python_environment

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PID namespaces"),
]

IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
BEGIN = """
    import os, signal, sys, time
    from bulkcert.hosts.init import go_on_in_child
    from bulkcert.hosts.switch import Switch
    def begin():
        go_on_in_child(lambda text: print(text, file=sys.stderr, flush=True))
    def say(text):  # also from a handler, which may come in the middle of it
        os.write(1, f"{text}\\n".encode())
"""


@functools.cache
def has_namespaces() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*IN_NAMESPACE, "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_namespaces = pytest.mark.skipif(
    not has_namespaces(), reason="this user may not make a PID namespace (unshare --user --pid)"
)


def command(program: str, *, real: bool = False) -> list[str]:
    """The command that runs a program as process 1, or as one that believes to be it."""
    believes = "" if real else "import os; os.getpid = lambda: 1\n"
    text = believes + textwrap.dedent(BEGIN) + textwrap.dedent(program)
    return [*(IN_NAMESPACE if real else []), sys.executable, "-c", text]


def started(program: str, *, real: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(program, real=real),
        env=python_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(program: str, *, real: bool = False) -> tuple[int, str, str]:
    """Exit code, output and messages of a program."""
    with started(program, real=real) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    return process.returncode, out, err


def test_another_process_goes_on_itself() -> None:
    code, out, _ = ended("os.getpid = lambda: 17; os.fork = None; begin(); say('here')")
    assert (code, out) == (0, "here\n")


@pytest.mark.parametrize("code", [0, 3])
def test_process_1_ends_as_its_child_does(code: int) -> None:
    assert ended(f"begin(); sys.exit({code})") == (code, "", "")


def test_a_child_that_was_killed_is_reported_as_a_shell_does() -> None:
    code, _, err = ended("begin(); signal.raise_signal(signal.SIGKILL)")
    assert code == 128 + signal.SIGKILL
    assert err.startswith("The process that did the work was killed by SIGKILL.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_process_1_passes_signals_on(number: signal.Signals) -> None:
    program = f"""
        signal.signal({number}, lambda number, frame: (say(number), os._exit(5)))
        begin()
        say("ready")
        while True:
            time.sleep(0.05)  # one long sleep might begin just after the signal, and sleep on
    """
    with started(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (5, f"{number.value}\n")


def test_ctrl_c_reaches_the_child_once() -> None:
    """The terminal gives it to all processes; the second one would quit at once."""
    program = """
        got = []
        signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
        begin()
        say("ready")
        while not got:
            time.sleep(0.01)
        time.sleep(0.3)
        say(f"got {len(got)}")
    """
    words = command(program)
    process, terminal = pty.fork()
    if process == 0:
        os.execve(words[0], words, python_environment())
    said = b""
    try:
        while b"ready" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"got" not in said:
            said += os.read(terminal, 1000)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    assert b"got 1" in said


@needs_namespaces
def test_in_a_namespace_only_the_child_has_a_switch() -> None:
    program = """
        say(os.getpid())
        say(Switch.prove(say))
        begin()
        say(os.getpid() > 1)
        switch = Switch.prove(say)
        switch.arm(time.clock_gettime(time.CLOCK_BOOTTIME) + 0.1)
        os.kill(os.getpid(), signal.SIGSTOP)
    """
    code, out, err = ended(program, real=True)
    assert out.splitlines() == [
        "1",
        "This host has no dead man's switch: signals of process 1 to itself are ignored.",
        "None",
        "True",
    ]
    assert code == 128 + signal.SIGKILL
    assert "was killed by SIGKILL" in err


@needs_namespaces
def test_without_it_the_switch_of_process_1_kills_nobody() -> None:
    program = """
        switch = Switch()
        switch.arm(time.clock_gettime(time.CLOCK_BOOTTIME) + 0.1)
        time.sleep(0.5)
        say("alive")
    """
    assert ended(program, real=True) == (0, "alive\n", "")


@needs_namespaces
def test_process_1_collects_what_has_lost_its_parent() -> None:
    program = """
        begin()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                time.sleep(0.2)
                os._exit(0)
            os._exit(0)
        os.waitpid(middle, 0)
        end = time.monotonic() + 60
        alive = lambda: [name for name in os.listdir("/proc") if name.isdigit()]
        while len(alive()) > 2 and time.monotonic() < end:
            time.sleep(0.05)
        say(len(alive()))
    """
    with subprocess.Popen(
        [*IN_NAMESPACE, "--mount-proc", *command(program, real=True)[len(IN_NAMESPACE) :]],
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        out, _ = process.communicate(timeout=LIMIT_S)
    assert out == "2\n"
