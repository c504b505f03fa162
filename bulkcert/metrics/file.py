"""Keeps `metrics.prom` in the run directory up to date, for the textfile collector.

In: the text of the latest figures. Out: the file, always complete, replaced again and again. It is
written by a thread of its own. Whatever goes wrong with it, such as a full disk, is never an error
of the run: the time in the file says how old it is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from bulkcert import durable
from bulkcert.timings import MetricsTimings


class MetricsFile:
    """Writes the file from `start` to `close`.

    Args:
        path: the file.
        text: returns what is to be written; called in the thread.
        timings: how often it is written, and how long the end waits for it.
    """

    def __init__(
        self, path: Path, text: Callable[[], bytes], timings: MetricsTimings = MetricsTimings()
    ) -> None:
        self._path, self._text, self._timings = path, text, timings
        self._ended = threading.Event()
        # a daemon, so that a disk that does not respond can't keep the process alive
        self._thread = threading.Thread(target=self._keep_written, name="metrics", daemon=True)

    def start(self) -> None:
        """Write the file from now on."""
        self._thread.start()

    def close(self) -> None:
        """Write it for the last time."""
        self._ended.set()
        self._thread.join(self._timings.last_write_s)

    def _keep_written(self) -> None:
        last = False
        while not last:
            last = self._ended.is_set()
            with contextlib.suppress(OSError):
                replace(self._path, self._text())
            if not last:
                self._ended.wait(self._timings.write_every_s)


def replace(path: Path, content: bytes) -> None:
    """Replace a file, all or nothing; not durable, since it is replaced again in a moment.

    Raises:
        OSError: it can't be written.
    """
    partial = durable.new_partial(path.parent)
    try:
        with open(durable.create(partial, 0o666), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
