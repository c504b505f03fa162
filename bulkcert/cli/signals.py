"""The signals that stop a command, and what they do to one that sends nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from types import FrameType


def signals_to_stop() -> list[signal.Signals]:
    """The signals that stop a run: Ctrl-C, a request to end, and the end of the terminal session.

    Under `nohup` the last one is ignored from the start, and stays so.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


def interrupt_on_signals() -> None:
    """Let every signal that stops a run raise KeyboardInterrupt, as Ctrl-C does."""
    set_handler(signals_to_stop(), signal.default_int_handler)


def set_handler(
    signals: Iterable[signal.Signals],
    handler: Callable[[int, FrameType | None], object] | signal.Handlers,
) -> None:
    """Set what these signals do from now on."""
    for number in signals:
        signal.signal(number, handler)
