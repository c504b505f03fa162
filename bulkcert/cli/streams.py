"""Makes the standard streams usable, whatever they are when the process starts.

Every command does this first, also one that only shows its help. So this imports next to nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

READER_IS_GONE = 128 + 13
"""Exit code when nobody reads standard output any more, as of other tools in `... | head`: that of
a process that SIGPIPE has ended."""


def prepare() -> None:
    """Replace streams that were closed, and let the others take any text.

    Otherwise the next file to be opened would get the descriptor of a closed one, and messages
    would be written into that file. Characters that a stream can't encode are written as escapes,
    and input that it can't decode is replaced.
    """
    for name, errors in (
        ("stdin", "replace"),
        ("stdout", "backslashreplace"),
        ("stderr", "backslashreplace"),
    ):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            # stays open until the process ends; `pathlib` takes longer to import than all of this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def text_width() -> int:
    """Return how wide a help text is: what `click` chooses, but without `shutil`.

    That brings all compressors along, which takes as long as everything else here.
    """
    try:
        columns = max(0, int(os.environ["COLUMNS"]))
    except (KeyError, ValueError):
        columns = 0
    if not columns:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # closed, or not a terminal
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
    return max(min(columns or 80, 80) - 2, 50)


def discard(name: str) -> None:
    """Discard what a stream still has, and all further output to it.

    Otherwise writing it would fail again when the process ends, and change its exit code.
    """
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, getattr(sys, name).fileno())
        os.close(devnull)
