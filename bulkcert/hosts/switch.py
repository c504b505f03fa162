"""The dead man's switch: the kernel kills this process at the end of its lease. On Linux.

In: a moment. Out: SIGKILL at that moment, unless the switch was armed anew or disarmed before. A
check before each request is not enough: a process may be stopped between the check and the write,
and be continued when another host has its operations. The kernel's timer also kills a process that
is stopped, and it counts the time in which the machine is suspended.

A switch is made only where it was seen to work: system calls may be forbidden, and signals that
process 1 of a PID namespace sends itself are ignored, see `bulkcert.hosts.init`. Timers are not
inherited, so each process makes its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from bulkcert.interpreter import python_command, python_environment

_PROOF_AFTER_S = 0.02
"""The child of the proof is killed after this time."""

_PROOF_PATIENCE_S = 20.0
"""For its start and its end together, on a loaded machine."""

_SIGEV_SIGNAL = 0
_TIMER_ABSTIME = 1


class KillSwitch(Protocol):
    """What a lease needs of a switch."""

    def arm(self, at_s: float) -> None:
        """Have this process killed at a moment of `CLOCK_BOOTTIME`, and not at an earlier one."""

    def disarm(self) -> None:
        """Don't have this process killed."""


class _Event(ctypes.Structure):
    """`struct sigevent`, which is 64 bytes long on every architecture."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    )


class _Time(ctypes.Structure):
    """`struct timespec`."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (("interval", _Time), ("value", _Time))


class Switch:
    """A timer of the kernel that kills this process. See `prove`.

    Raises:
        OSError: the kernel has no such timer, or this process must not use it.
    """

    def __init__(self) -> None:
        self._has_timer = False
        self._timer = ctypes.c_void_p()  # its number, which may be 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._setting = _Setting()
        event = _Event(signal=signal.SIGKILL, notify=_SIGEV_SIGNAL)
        try:
            clock = time.CLOCK_BOOTTIME
            made = self._libc.timer_create(clock, ctypes.byref(event), ctypes.byref(self._timer))
        except AttributeError as error:  # of the clock or of the function
            raise OSError(f"there is no {error.name}") from None
        self._check(made)
        self._has_timer = True

    @classmethod
    def prove(cls, notify: Callable[[str], object] = lambda text: None) -> Switch | None:
        """Make a switch if it was seen to kill a child of this process that was stopped.

        Blocks for the time in which Python starts.

        Args:
            notify: called with the reason if there is none, as a sentence.
        """
        problem = _problem()
        if not problem:
            try:
                return cls()
            except OSError as error:
                problem = _refused(error)
        notify(f"This host has no dead man's switch: {problem}.")
        return None

    def arm(self, at_s: float) -> None:
        """Have this process killed at a moment of `CLOCK_BOOTTIME`, and not at an earlier one.

        A moment that has passed is now.
        """
        # all zeros would disarm it
        nanoseconds = max(1, int(at_s * 1e9))
        self._set(*divmod(nanoseconds, 10**9))

    def disarm(self) -> None:
        """Don't have this process killed."""
        self._set(0, 0)

    def __del__(self) -> None:
        """Give the timer back: nobody can be waiting for it."""
        if self._has_timer:
            self._libc.timer_delete(self._timer)

    def _set(self, seconds: int, nanoseconds: int) -> None:
        value = self._setting.value
        value.seconds, value.nanoseconds = seconds, nanoseconds
        setting = ctypes.byref(self._setting)
        self._check(self._libc.timer_settime(self._timer, _TIMER_ABSTIME, setting, None))

    def _check(self, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _problem() -> str:
    """Why there can be no switch; empty if it works. Tried on a child, which is stopped."""
    if sys.platform != "linux":
        return "only Linux has one"
    if os.getpid() == 1:
        return "signals of process 1 to itself are ignored"
    try:
        with subprocess.Popen(  # noqa: S603 - this interpreter, with our own arguments
            python_command(__name__),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child:
            try:
                said, _ = child.communicate(timeout=_PROOF_PATIENCE_S)
            except subprocess.TimeoutExpired:
                return "the kernel's timer does not kill a process that is stopped"
            finally:
                child.kill()
    except OSError as error:
        return f"it can't be tried: {error.strerror or error}"
    if child.returncode == -signal.SIGKILL:
        return ""
    return said.decode().strip() or "the process that tried it has ended for another reason"


def _refused(error: OSError) -> str:
    return f"the kernel refuses a timer: {error.strerror or error}"


def _try() -> None:
    """Stop this process, and have the switch kill it nevertheless."""
    try:
        switch = Switch()
        switch.arm(time.clock_gettime(time.CLOCK_BOOTTIME) + _PROOF_AFTER_S)
    except OSError as error:
        print(_refused(error))  # noqa: T201 - the answer
    else:
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    _try()
