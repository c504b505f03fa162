"""A terminal that shows one screen, again and again, and is left as it was.

In: lines. Out: what standard output shows, on the terminal's alternate screen; and what the person
in front of it does: resize it, press a key, stop this process with Ctrl-Z, bring it back. Nothing
is written while this process is in the background.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.control import Control
from rich.screen import Screen
from rich.text import Text

from bulkcert.cli import console
from bulkcert.cli.signals import signals_to_stop

_LEAVING = b"qQ\x04"
"""Keys with which people leave a screen; the last is Ctrl-D."""


class Woken(Enum):
    """Why a wait has ended."""

    TIME = "the time is over"
    REDRAW = "the screen must be drawn again"
    SUSPEND = "somebody wants the terminal back for a while"
    LEAVE = "somebody wants to leave"


def can_show_screens() -> bool:
    """Whether standard output is a terminal that can show a screen of this process."""
    able = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return able and _is_in_foreground(sys.stdout.fileno())


class Terminal:
    """The terminal that standard output is, for one screen at a time.

    In its context, the terminal shows the screen, and keys are not echoed.
    """

    def __init__(self) -> None:
        # those two would fix the size
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self._console = Console(
            file=sys.stdout, force_terminal=True, highlight=False, _environ=environment
        )
        self._output = sys.stdout.fileno()
        self._keys: int | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it may be closed
            self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._modes: list[Any] | None = None
        self._is_open = False
        self._caught: set[int] = set()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        with _undisturbed():
            self._wake, self._waker = os.pipe()
            os.set_blocking(self._wake, False)
            os.set_blocking(self._waker, False)
            self._waker_before = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
            for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
                self._handlers[number] = signal.signal(number, self._catch)
            self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _undisturbed():
            self._close()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._waker_before)
            os.close(self._wake)  # the other end stays open, for a thread that still calls `wake`

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and rows."""
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(self._output)
            if columns and rows:
                return columns, rows
        return 80, 24

    @property
    def has_colours(self) -> bool:
        """Whether it shows colours; see no-color.org."""
        return self._console.color_system is not None and not self._console.no_color

    def show(self, lines: Sequence[Text]) -> None:
        """Show lines in place of those before.

        Raises:
            OutputError: they can't be written.
        """
        if not _is_in_foreground(self._output):
            return
        self._console.size = self.size
        with console.reporting_output_errors(), self._console:  # one write
            self._console.control(Control.home())
            self._console.print(Screen(Group(*lines)), end="")

    def wait(self, seconds: float | None) -> Woken:
        """Wait, until something happens that concerns the screen, or `wake` is called.

        Args:
            seconds: for how long at most; None for ever.
        """
        watched = [self._wake]
        if self._keys is not None and self._modes is not None:
            watched.append(self._keys)
        ready = select.select(watched, [], [], None if seconds is None else max(0.0, seconds))[0]
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        caught, self._caught = self._caught, set()
        if self._keys in ready and self._is_left():
            return Woken.LEAVE
        if signal.SIGTSTP in caught:
            return Woken.SUSPEND
        if signal.SIGCONT in caught:
            self._open()
        return Woken.REDRAW if ready else Woken.TIME

    def wake(self) -> None:
        """End a wait; for other threads."""
        with contextlib.suppress(OSError):
            os.write(self._waker, b"\0")

    def suspend(self) -> None:
        """Stop this process, and give the terminal back until somebody brings it back."""
        self._close()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        # here it goes on
        signal.signal(signal.SIGTSTP, self._catch)
        self._caught.discard(signal.SIGCONT)
        self._open()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught.add(number)

    def _is_left(self) -> bool:
        """Whether somebody has pressed a key to leave."""
        assert self._keys is not None
        try:
            pressed = os.read(self._keys, 1024)
        except OSError:
            pressed = b""
        if not pressed:
            self._keys = None  # nobody can press any more
        return any(key in _LEAVING for key in pressed)

    def _open(self) -> None:
        """Begin to show a screen. Harmless if it is shown already."""
        if not _is_in_foreground(self._output):
            return
        if self._keys is not None:
            with contextlib.suppress(termios.error):
                modes = termios.tcgetattr(self._keys)
                self._modes = self._modes or modes
                quiet = list(modes)
                quiet[3] &= ~(termios.ECHO | termios.ICANON)
                termios.tcsetattr(self._keys, termios.TCSANOW, quiet)
        self._is_open = True
        with contextlib.suppress(OSError):
            self._console.set_alt_screen(True)
            self._console.show_cursor(False)

    def _close(self) -> None:
        """Leave the terminal as it was."""
        if not self._is_open or not _is_in_foreground(self._output):
            return
        self._is_open = False
        with contextlib.suppress(OSError):
            # else tmux may fold wide lines into its history, if it was resized
            self._console.clear()
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        if self._modes is not None and self._keys is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSANOW, self._modes)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Return a context in which no signal interrupts what must not be left half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals_to_stop())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_in_foreground(output: int) -> bool:
    try:
        return os.tcgetpgrp(output) == os.getpgrp()
    except OSError:  # not the terminal that controls this process
        return True
