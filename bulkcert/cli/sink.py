"""Writes messages to one stream, and keeps a status line below them.

In: text. Out: the same text, in order. While a run sends, each stream has a thread of its own that
writes: a terminal that somebody has stopped with Ctrl-S, a pipe that nobody reads or a file on a
server that hangs must not hold up the run, whose open requests would time out.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_KEPT = 10_000
"""Messages that wait for a stream that takes none; more are dropped and counted."""


class Sink:
    """One stream.

    Args:
        write: writes text; must not raise.
        columns: the width of the terminal in cells; only needed for a status line.
    """

    def __init__(self, write: Callable[[str], object], columns: Callable[[], int] = lambda: 80):
        self._write = write
        self._columns = columns
        self._kept: deque[str] = deque()
        self._dropped = 0
        self._status = ("", 0)  # the wanted one, and its width in cells
        self._shown = ("", 0)
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    def put(self, text: str) -> None:
        """Write text that ends with a line break."""
        if len(self._kept) < MOST_KEPT:
            self._kept.append(text)
        else:
            self._dropped += 1
        self._changed()

    def write_at_once(self, text: str) -> None:
        """Write what waits, and then this, whoever else is writing."""
        self._kept.append(text)
        self._flush()

    def set_status(self, line: str, cells: int) -> None:
        """Show a line below everything else, in place of the one before; an empty one removes it.

        Args:
            line: the line, perhaps with colours.
            cells: its width on the terminal.
        """
        self._status = (line, cells)
        self._changed()

    @contextmanager
    def in_background(self, patience_s: float) -> Iterator[None]:
        """Return a context in which a thread writes, so that nobody waits for the stream.

        Args:
            patience_s: how long the end of the context waits for what is still to be written.
        """
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="messages", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self._ending = True
            self._wake.set()
            self._thread.join(patience_s)
            if not self._thread.is_alive():  # else the stream is stuck, and stays with the thread
                self._thread = None

    def _changed(self) -> None:
        if self._thread is None:
            self._flush()
        else:
            self._wake.set()

    def _work(self) -> None:
        while not self._ending:
            self._wake.wait()
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        """Write what is new, and the status line below it."""
        status = self._status
        lines = []
        with contextlib.suppress(IndexError):
            while True:
                lines.append(self._kept.popleft())
        if self._dropped:
            lines.append(f"({self._dropped:,} messages could not be written)\n")
            self._dropped = 0
        if lines or status != self._shown:
            self._write("".join([self.erasing(), *lines, status[0]]))
            self._shown = status

    def erasing(self) -> str:
        """What removes the status line, which a terminal that became narrower shows on several
        lines."""
        line, cells = self._shown
        if not line:
            return ""
        rows = max(1, -(-cells // max(1, self._columns())))
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        return f"\r{up}\x1b[J"
