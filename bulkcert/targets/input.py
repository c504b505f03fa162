"""The content of a target file or of standard input, and its digest.

In: a path, or None for standard input. Out: a raw stream of the content, decompressed if necessary,
that computes the SHA-256 of all that passes through it: the same targets, compressed anew, have the
same digest. Must never mistake an input that has no data yet for one that has ended.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from bulkcert.errors import TargetsError

_CHUNK = 2**18
_GZIP_MAGIC = b"\x1f\x8b"


class HashingReader(io.RawIOBase):
    """Passes the content on, and computes its SHA-256 on the way.

    Args:
        stored: the bytes as stored.
        zipped: whether they are compressed; None if they must show it themselves.

    Attributes:
        stored: the bytes as stored.
    """

    def __init__(self, stored: BinaryIO, zipped: bool | None) -> None:
        self.stored = stored
        self._stored = io.BufferedReader(_Stored(stored), _CHUNK)
        self._zipped = zipped
        self._content: BinaryIO | None = None
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._content is None:
            self._content = self._opened()
        content = self._content.read(len(buffer))
        self._sha256.update(content)
        buffer[: len(content)] = content
        return len(content)

    def drain(self) -> None:
        """Read to the end, so that the digest covers everything."""
        buffer = bytearray(_CHUNK)
        while self.readinto(buffer):
            pass

    def hexdigest(self) -> str:
        """Return the digest of the content read so far."""
        return self._sha256.hexdigest()

    def _opened(self) -> BinaryIO:
        zipped = self._zipped
        if zipped is None:
            zipped = self._stored.peek()[:2] == _GZIP_MAGIC
        return cast(BinaryIO, gzip.GzipFile(fileobj=self._stored)) if zipped else self._stored


class _Stored(io.RawIOBase):
    """The bytes as stored."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._source.read(len(buffer))
        if content is None:
            # nothing to read at the moment; treating it as the end would lose targets
            raise BlockingIOError("standard input is in non-blocking mode")
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def opened(
    source: Path | None, stdin: BinaryIO | None, zipped: bool | None = None
) -> Iterator[HashingReader]:
    """Open a file, or standard input when `source` is None; only a file is closed at the end.

    Args:
        source: the file, or None for standard input.
        stdin: what to read when `source` is None; by default the standard input of the process.
        zipped: see `HashingReader`.

    Raises:
        TargetsError: it cannot be opened.
    """
    if source is None:
        # sys.stdin is None when the process was started with standard input closed
        stream = stdin or (sys.stdin and sys.stdin.buffer)
        if not stream or stream.closed:
            raise TargetsError(
                "standard input is closed", "Pipe the targets in, or specify a target file."
            )
        yield HashingReader(stream, zipped)
        return
    try:
        file = source.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(name_of(source), error) from error
    with file:
        yield HashingReader(file, zipped)


def name_of(source: Path | None) -> str:
    """Name a source in messages."""
    return "standard input" if source is None else str(source)


def unreadable(name: str, error: Exception) -> TargetsError:
    """Build the error for a source that the operating system cannot open or read."""
    reason = getattr(error, "strerror", None) or str(error)
    return TargetsError(
        f"{name}: cannot read the targets: {reason}",
        "Check `targets` in the job file, and that you have permission to read the file.",
    )
