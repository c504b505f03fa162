"""Process 1 of a container: has a child do the work, and stays out of its way. A small init.

In: this process, before it has threads or connections. Out: the program goes on, in a child if this
is process 1 of its PID namespace. The kernel protects process 1 from signals of its own namespace,
SIGKILL included, so there the dead man's switch would kill nobody. Process 1 itself passes signals
on, collects processes that have lost their parents, and ends as the child does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection

_FAULTS = (
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
)
"""What a process has done itself, so that nobody else can deal with it."""

_BY_THE_KERNEL = 0x80
"""`si_code` of a signal from the terminal: all processes get it, so the child has it already."""


def go_on_in_child(notify: Callable[[str], object]) -> None:
    """Return in a child if this is process 1, and in this process otherwise.

    Args:
        notify: called with a sentence if the child was killed.
    """
    if os.getpid() != 1:
        return
    signals = signal.valid_signals() - set(_FAULTS)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # none gets lost meanwhile
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    code = _look_after(child, signals)
    if code < 0:
        notify(
            f"The process that did the work was killed by {signal.Signals(-code).name}. SIGKILL is"
            " what ends a host that was stopped or busy until its lease had ended, and when there"
            " is no memory left. The same command continues."
        )
        code = 128 - code
    os._exit(code)


def _look_after(child: int, signals: Collection[int]) -> int:
    """Pass signals on until the child has ended; return its exit code, negative if it was killed.

    Args:
        child: its process id.
        signals: the signals that are blocked.
    """
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGCHLD:
            # one such signal may stand for several processes
            for ended, status in iter(_next_ended, (0, 0)):
                if ended == child:
                    return os.waitstatus_to_exitcode(status)
        elif received.si_code != _BY_THE_KERNEL:
            os.kill(child, received.si_signo)


def _next_ended() -> tuple[int, int]:
    """A process that has ended, with its status; zeros if there is none."""
    return os.waitpid(-1, os.WNOHANG)
