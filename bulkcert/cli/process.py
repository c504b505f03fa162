"""Prepares the process of a command for a long run, and stops it on signals."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from bulkcert.cli import console, fault
from bulkcert.cli.messages import Level
from bulkcert.cli.signals import set_handler, signals_to_stop
from bulkcert.outside_command import kill_all
from bulkcert.quantities import count
from bulkcert.report.summary import RESUMABLE

SPARE_FILES = 200
"""Room for files that are open besides the connections of open requests: a hundred more connections
may be idle."""


LAST_COMMIT_S = 0.3
"""The second signal leaves the writer this long to record what was responded just before."""


def prepare_process(in_flight: int) -> None:
    """Keep the process from pausing while it sends.

    Measured with 750 open requests: whenever the table of open files grows, the kernel stops all
    threads for 15 to 40 ms. The garbage collector with its default thresholds stops them for 10 to
    80 ms, although a request leaves no reference cycles for it to find.

    Args:
        in_flight: most requests that will be open at once.
    """
    wanted = in_flight + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        console.write(
            f"This process may open only {soft:,} files, too few for {in_flight:,}"
            " requests in flight. Raise `ulimit -n`, or lower limits.in_flight.",
            Level.WARNING,
        )
    else:
        # a descriptor with a high number makes the table as large as it will ever need to be
        os.close(fcntl.fcntl(sys.stderr.fileno(), fcntl.F_DUPFD, wanted - 1))
    gc.freeze()
    gc.set_threshold(50_000, 1_000, 1_000)


def go_on_in_child() -> None:
    """Let the switch of a host work in a container, too; see `bulkcert.hosts.init`.

    To be called before there are threads or connections.
    """
    from bulkcert.hosts import init

    init.go_on_in_child(lambda text: console.write_at_once(text, Level.ERROR))


class Stoppable(Protocol):
    """What signals stop."""

    @property
    def open_requests(self) -> int:
        """Requests that have left and have not ended."""

    @property
    def in_doubt(self) -> int:
        """Operations that may have been executed, and of which that is not known yet."""

    def stop(self) -> None:
        """Send nothing new, and end when the open requests have ended."""


@contextmanager
def stopping_on_signals(work: Stoppable) -> Iterator[None]:
    """Stop in an orderly way on the first signal, and quit at once on the second.

    Quitting at once is as safe as a crash: everything recorded so far is durable. When the context
    ends, everything is saved, so that any later signal quits at once, too. To be entered on the
    event loop.

    The handlers are not those of asyncio: a burst of signals would overflow the pipe that wakes its
    loop, and while a handler of asyncio is replaced, a signal kills the process.

    Args:
        work: what to stop; used on the event loop, and for the second signal in its handler.
    """
    loop = asyncio.get_running_loop()
    signals = signals_to_stop()

    def begin_stop() -> None:
        work.stop()
        requests = work.open_requests
        waiting = f": waiting for {count(requests, 'request')} in flight" if requests else ""
        console.write(f"Stopping{waiting}. Ctrl-C again quits now.")

    def quit_now() -> None:
        time.sleep(LAST_COMMIT_S)
        in_doubt = work.in_doubt
        text = "Quit; nothing recorded is lost."
        if in_doubt:
            text = (
                f"Quit. {count(in_doubt, 'operation')} may have been executed:"
                " the same command looks that up first."
            )
        console.write_at_once(text, Level.RESULT, event="quit", in_doubt=in_doubt)
        kill_all()
        os._exit(RESUMABLE)

    stopping = quitting = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        # Replacing the handler here instead would run it once more for each signal of a burst,
        # before it is replaced.
        nonlocal stopping, quitting
        if not stopping:
            stopping = True
            loop.call_soon_threadsafe(begin_stop)
        elif number != signal.SIGHUP and not quitting:
            # a second SIGHUP is not impatience: the kernel and the shell each send one
            quitting = True
            quit_now()

    set_handler(signals, on_signal)
    # a signal while the interpreter shuts down must not change the exit code
    atexit.register(set_handler, signals, signal.SIG_IGN)
    try:
        yield
    finally:
        set_handler(signals, _quit)


def report_faults() -> None:
    """Report an exception in a callback or in a task that nobody awaits, without a traceback.

    It disturbs neither the requests nor the store. Only the first is reported: the same fault may
    meet every operation. Errors of connections are not faults, and reach their requests by another
    way. To be called on the event loop.
    """
    reported = False

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal reported
        error = context.get("exception")
        if not reported and isinstance(error, Exception) and not isinstance(error, OSError):
            reported = True
            fault.report(error)

    asyncio.get_running_loop().set_exception_handler(report)


def _quit(number: int, frame: FrameType | None) -> None:
    if sys.stderr.isatty():
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), b"\n")  # the shell's prompt begins on a new line
    os._exit(RESUMABLE)
